//! What cannot be tuned at all.

use crate::exit::{self, Exit};
use crate::model::observation::ProcessEnd;
use crate::model::{Observation, Verdict};

/// How the agent's word begins where it refuses a PyTorch that is too old (`bootstrap.py`).
const TOO_OLD: &str = "autofit: PyTorch ";

/// The baseline could not even be looked at: says why, with the status for it.
///
/// # Errors
/// [`Exit`] 5 when the agent did not start, 6 when there is no torch.
pub fn refuse_unusable(baseline: &Observation) -> Result<(), Exit> {
    let tail = || baseline.tail.iter().rev().take(8).rev().cloned().collect::<Vec<_>>().join("\n  ");
    let no_torch = baseline.tail.iter().any(|l| l.contains("No module named 'torch'"));
    if no_torch {
        let message = format!(
            "the script's Python has no torch; install it there, or name another Python before the script:\n  {}",
            tail()
        );
        return Err(Exit::new(exit::PLACE, message));
    }
    if let Some(old) = baseline.tail.iter().find_map(|l| l.strip_prefix(TOO_OLD)) {
        let message =
            format!("PyTorch {old}; install a newer one for the script, or name another Python before it");
        return Err(Exit::new(exit::PLACE, message));
    }
    if baseline.verdict == Verdict::AgentMissing {
        let message = format!(
            "{}; python -I, -E and -S switch the agent off, as does a cleared environment: leave that out for tuning",
            baseline.why
        );
        return Err(Exit::new(exit::AGENT_MISSING, message));
    }
    if !baseline.torch && baseline.steps == 0 && baseline.end == (ProcessEnd::Exited { code: 0 }) {
        let message =
            "the script came to its end without importing torch: there is nothing to tune".to_owned();
        return Err(Exit::new(exit::PLACE, message));
    }
    Ok(())
}
