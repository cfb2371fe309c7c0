//! Recipes that are part of the binary.

use std::path::Path;

use include_dir::{Dir, include_dir};

use super::{Recipe, RecipeError, RecipeErrorKind, Rung, load};
use crate::model::Knob;
use crate::model::plan::Device;

static RECIPES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/recipes");

/// Shipped recipes by name, in alphabetical order.
pub fn names() -> Vec<String> {
    let mut names: Vec<String> = RECIPES
        .files()
        .filter(|f| f.path().extension().is_some_and(|e| e == "yaml"))
        .filter_map(|f| Some(f.path().file_stem()?.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    names
}

/// A shipped recipe.  It has no command: one that stands in it is about the files beside it.
///
/// # Errors
/// There is none of this name; the message says which there are.
pub fn shipped(name: &str) -> Result<Recipe, RecipeError> {
    if let Some(text) = text(name) {
        let recipe = load(text, Path::new(&format!("{name}.yaml")))?;
        return Ok(Recipe { command: None, ..recipe });
    }
    let known = names();
    let message = format!(
        "there is no file and no shipped recipe `{name}`; the shipped recipes are {}",
        known.join(", ")
    );
    let meant = super::error::nearest(name, known.iter().map(String::as_str)).map(str::to_owned);
    Err(RecipeError {
        file: name.into(),
        line: None,
        column: None,
        key: None,
        kind: RecipeErrorKind::UnknownRecipe,
        message,
        meant,
    })
}

/// What a shipped recipe says, comments included.
pub fn text(name: &str) -> Option<&'static str> {
    RECIPES.get_file(format!("{name}.yaml")).and_then(|f| f.contents_utf8())
}

/// What a shipped recipe is for.
pub fn about(name: &str) -> String {
    let read = text(name).and_then(|t| serde_yaml::from_str::<serde_yaml::Value>(t).ok());
    let about = read.as_ref().and_then(|r| r.get("about")).and_then(serde_yaml::Value::as_str);
    about.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The recipe that is used when none is asked for.
///
/// # Errors
/// Only if a shipped recipe were broken, which a test rules out.
pub fn default_for(device: Device) -> Result<Recipe, RecipeError> {
    shipped(match device {
        Device::Cpu => "cpu",
        Device::Cuda => "default",
    })
}

/// The ladder of a recipe that has none of its own.
pub(super) fn ladder(device: Option<Device>) -> Vec<Rung> {
    default_for(device.unwrap_or(Device::Cuda)).map_or_else(
        |_| vec![Rung::Knob { knob: Knob::Accumulation, values: Vec::new() }],
        |recipe| recipe.ladder,
    )
}
