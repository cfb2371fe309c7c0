//! `autofit recipe check FILE`, `autofit recipe list`.

use std::path::Path;

use super::terminal;
use crate::exit::{self, Exit};
use crate::recipe;

/// Checks a file, or a shipped recipe by name; the program's exit status.
///
/// # Errors
/// [`Exit`] with status 2 and the place of the mistake.
pub fn check(file: &str) -> Result<i32, Exit> {
    let wrong = |e: recipe::RecipeError| Exit::new(exit::USAGE, e.to_string());
    let path = Path::new(file);
    let recipe = if path.exists() {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Exit::new(exit::USAGE, format!("{file} cannot be read: {e}")))?;
        recipe::load(&text, path).map_err(wrong)?
    } else {
        recipe::shipped(file).map_err(wrong)?
    };
    terminal::print(&format!(
        "{}: good; {} rungs, numerics up to {}, batch {}\n",
        recipe.name,
        recipe.ladder.len(),
        recipe.policy.numerics,
        recipe.policy.batch.name()
    ));
    Ok(exit::TUNED)
}

/// Lists the shipped recipes with what they are for.
///
/// # Errors
/// Only if a shipped recipe were broken, which a test rules out.
pub fn list() -> Result<i32, Exit> {
    for name in recipe::names() {
        let recipe = recipe::shipped(&name).map_err(|e| Exit::new(exit::USAGE, e.to_string()))?;
        let about = recipe.about.split_whitespace().collect::<Vec<_>>().join(" ");
        terminal::print(&format!("{name}: {about}\n"));
    }
    Ok(exit::TUNED)
}
