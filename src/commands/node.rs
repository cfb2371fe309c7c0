//! `autofit __node ORDER`, hidden: what a job of SLURM consists of.  It runs one trial as it would be run without SLURM,
//! or on each of several nodes its part of one.

use std::path::Path;

use anyhow::Context as _;

use super::bench::Bench;
use super::workplace::Workplace;
use super::{Job, Request, cluster};
use crate::cli;
use crate::exit;
use crate::trial::nodes::Seat;
use crate::trial::slurm::order::{Order, Task, TrialOrder, answer, files};
use crate::trial::{Executor, Launches};

/// Does what the order says, and writes the answer beside it; the program's exit status.
///
/// # Errors
/// As the same command without SLURM.
pub async fn run(path: &Path) -> anyhow::Result<i32> {
    let order = Order::read(path)?;
    let dir = path.parent().context("the order has no folder")?;
    let job = job(&order)?;
    match order.task {
        Task::Look => cluster::look(&job, dir)?,
        Task::Trial(trial) => measure(&job, *trial, dir).await?,
    }
    Ok(exit::TUNED)
}

async fn measure(job: &Job, order: TrialOrder, dir: &Path) -> anyhow::Result<()> {
    let TrialOrder { number, spec, device, cap, profile, nodes, history } = order;
    let seat = if nodes > 1 { Some(seat(nodes, dir)?) } else { None };
    let leads = seat.as_ref().is_none_or(Seat::leads);
    let place = Workplace { device, cap, seat, ..Workplace::here(job)? };
    let mut bench = Bench::open(&place, job, &history)?;
    if !leads {
        bench.executor.follow(number, &spec).await?;
        bench.finish_reporting();
        return Ok(());
    }
    if profile {
        bench.executor.profile();
    }
    let observation = bench.executor.run(number, &spec).await?;
    if profile {
        keep(&bench.executor.trial_dir(number), &files(dir))?;
    }
    bench.finish_reporting();
    answer(dir, &observation)
}

/// This node's place in its job.
fn seat(of: u32, dir: &Path) -> anyhow::Result<Seat> {
    let me = std::env::var("SLURM_NODEID").ok().and_then(|id| id.parse().ok());
    let me = me.context("SLURM does not say which of the job's nodes this is")?;
    Ok(Seat { me, of, dir: dir.to_owned() })
}

/// What the launcher was asked for.
fn job(order: &Order) -> anyhow::Result<Job> {
    match cli::parse(order.arguments.iter().map(Into::into))? {
        Request::Tune(job) | Request::Inspect(job) => Ok(job),
        Request::Try(request) => Ok(request.job),
        Request::Profile(request) => Ok(request.job),
        _ => anyhow::bail!("the order is about another command"),
    }
}

/// The trial's records and what its agent wrote beside them; what the script wrote is not among them.
fn keep(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
