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
    let said = if path.exists() {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Exit::new(exit::USAGE, format!("{file} cannot be read: {e}")))?;
        recipe::check(&text, path).map_err(wrong)?
    } else {
        // A name that is none, or that waits for a later version, is refused here.
        recipe::shipped(file).map_err(wrong)?;
        recipe::check(recipe::text(file).unwrap_or_default(), path).map_err(wrong)?
    };
    terminal::print(&(said + "\n"));
    Ok(exit::TUNED)
}

/// Lists the shipped recipes with what they are for.
pub fn list() -> i32 {
    for name in recipe::names() {
        terminal::print(&format!("{name}: {}\n", recipe::about(&name)));
    }
    exit::TUNED
}
