//! The `python` of a recipe's own command.
//!
//! Who types a command names a Python that has what the script needs.  A recipe cannot know where that is: its
//! `python` is the user's if that has torch, else the environment that autofit makes for itself (as `autofit demo`).

use super::{environment, terminal};
use crate::exit::Exit;
use crate::process::tool::{self, Tool};

/// Ends with status 0 where torch could be imported; it is not imported, which would take seconds.
const HAS_TORCH: &str = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)";

/// The command with a Python that has torch in the place of a bare `python`.
///
/// # Errors
/// [`Exit`] with status 6 where the environment is needed and cannot be made.
pub fn with_torch(mut command: Vec<String>, yes: bool) -> Result<Vec<String>, Exit> {
    if command.first().map(String::as_str) != Some("python") || has_torch("python") {
        return Ok(command);
    }
    let python = environment::ensure(yes)?.path.display().to_string();
    terminal::say(&format!("the `python` of the recipe is {python}: yours has no torch\n"));
    command[0] = python;
    Ok(command)
}

fn has_torch(python: &str) -> bool {
    tool::run(Tool::new(python).args(["-c", HAS_TORCH]), |_| ()).is_ok_and(|end| end.status.success())
}
