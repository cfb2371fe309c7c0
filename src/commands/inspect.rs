//! `autofit inspect -- COMMAND`: one launch, and the table of knobs.

use super::bench::Bench;
use super::workplace::Workplace;
use super::{Job, finish, terminal};
use crate::exit;
use crate::model::{Configuration, Progress, Purpose, TrialSpec, Verdict};
use crate::report::inspection;
use crate::report::style::{Stream, Style};
use crate::trial::Executor;

/// Launches once and prints; the program's exit status.
///
/// # Errors
/// [`exit::Exit`] for what the user can mend.
pub async fn run(job: Job) -> anyhow::Result<i32> {
    let place = Workplace::open(&job).await?;
    let mut bench = Bench::open(&place, &job, &[])?;
    let spec = TrialSpec::new(Configuration::baseline(), Purpose::Baseline);
    let observation = bench.executor.run(1, &spec).await?;
    bench.tell(&Progress::TrialEnded(Box::new(observation.clone())));
    bench.finish_reporting();
    if observation.verdict == Verdict::Interrupted {
        return Ok(bench.signals.status().exit_status());
    }
    finish::refuse_unusable(&observation)?;
    let Some(found) = &observation.inspection else { return Ok(exit::AGENT_MISSING) };
    if job.json {
        terminal::print(&(serde_json::to_string_pretty(found)? + "\n"));
    } else {
        terminal::print(&inspection::render(found, Style::of(Stream::Stdout)));
    }
    // A script that does not fit as it is has been inspected all the same.
    let inspected =
        matches!(observation.verdict, Verdict::Fit | Verdict::Oom | Verdict::Thrash | Verdict::Disturbed);
    Ok(if inspected { exit::TUNED } else { exit::SCRIPT_FAILS })
}
