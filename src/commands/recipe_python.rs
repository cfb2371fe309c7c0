//! The `python` of a recipe's own command.
//!
//! Who types a command names a Python that has what the script needs.  A recipe cannot know where that is: its
//! `python` is the user's if that has torch, else the environment that autofit makes for itself (as `autofit demo`).

use std::path::PathBuf;

use super::{environment, terminal};
use crate::emit::installed;
use crate::exit::Exit;

/// The command with a Python that has torch in the place of a bare `python`.
///
/// # Errors
/// [`Exit`] with status 6 where the environment is needed and cannot be made.
pub fn with_torch(mut command: Vec<String>, path: &str, yes: bool) -> Result<Vec<String>, Exit> {
    if command.first().map(String::as_str) != Some("python") || has_torch(path) {
        return Ok(command);
    }
    let python = environment::ensure(yes)?.path.display().to_string();
    terminal::say(&format!("the `python` of the recipe is {python}: yours has no torch\n"));
    command[0] = python;
    Ok(command)
}

/// Whether the first `python` on PATH has a torch beside it.
fn has_torch(path: &str) -> bool {
    let mut found =
        std::env::split_paths(path).map(|dir| dir.join("python")).filter(|p: &PathBuf| p.is_file());
    let torch = ["torch".to_owned()];
    found.next().is_some_and(|python| !installed::versions(&python, torch.iter()).is_empty())
}
