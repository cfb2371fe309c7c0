//! Room for what a trial writes: where that place of ours is full, a failure says nothing about the script.

use std::path::Path;

use crate::exit::{self, Exit};
use crate::journal::GOES_ON;
use crate::model::observation::ProcessEnd;
use crate::model::{Observation, Verdict};
use crate::sandbox::scratch;

/// A place with less is full, bytes: what a script writes at once (a block of a checkpoint) is larger.
const FULL: u64 = 1 << 20;

/// Refuses an observation that only tells of a full place; `least_free` is the least that was seen free meanwhile.
///
/// # Errors
/// [`Exit`] with status 6 and what to do.
pub(super) fn refuse_full(place: &Path, o: &Observation, least_free: Option<u64>) -> Result<(), Exit> {
    let bad = matches!(o.verdict, Verdict::Failed | Verdict::AgentMissing | Verdict::NotApplied);
    // What could not be started was not watched either.
    let not_started = matches!(o.end, ProcessEnd::NotStarted { .. });
    let least = least_free.or_else(|| scratch::free(place).filter(|_| not_started));
    if !bad || least.is_none_or(|free| free >= FULL) {
        return Ok(());
    }
    let (place, variable) = (place.display(), scratch::VARIABLE);
    let message = format!(
        "trial {} ({}) failed because no space was left in {place} for what it writes; free some, or name another place \
         with {variable}=DIR; {GOES_ON}",
        o.trial, o.settings
    );
    Err(Exit::new(exit::PLACE, message))
}
