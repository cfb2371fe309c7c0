//! Jobs as a whole: launched, asked for, read.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::client::{Client, Launched, Refused};
use super::order::{self, Order};
use super::state::JobState;
use crate::exit::{self, Exit};

/// A controller that is restarted is back within this time.
pub(super) const SILENCE: Duration = Duration::from_secs(600);

/// How often SLURM is asked for a job that is about to end, or that is short.
pub(super) const ASK_AT_THE_END: Duration = Duration::from_secs(1);

/// Runs an order that is no trial, to its end; `stopped` tells that the user does not want to wait any more.
///
/// # Errors
/// The job failed, or the user has stopped it.
pub async fn ask_node<T: DeserializeOwned>(
    client: &Client,
    order: Order,
    dir: &Path,
    stopped: impl Fn() -> Option<i32>,
    tell: impl Fn(&str),
) -> anyhow::Result<T> {
    let launched = launch(client.clone(), order, dir.to_owned()).await?;
    let began = Instant::now();
    let mut told = String::new();
    loop {
        if let Some(status) = stopped() {
            let (client, jobs) = (client.clone(), [launched]);
            let _ = tokio::task::spawn_blocking(move || client.cancel_all(&jobs)).await;
            return Err(Exit::new(status, "stopped before anything was launched").into());
        }
        if let Some(answer) = order::answered(dir) {
            return Ok(answer);
        }
        let state = match states(client.clone(), vec![launched.clone()]).await? {
            Ok(mut states) => states.remove(0),
            Err(e) if began.elapsed() > SILENCE => return Err(Exit::new(exit::PLACE, e.to_string()).into()),
            Err(e) => JobState::Waiting(e.to_string()),
        };
        if let JobState::Ended(end) = state {
            tokio::time::sleep(ASK_AT_THE_END).await;
            if let Some(answer) = order::answered(dir) {
                return Ok(answer);
            }
            let said = output(dir) + &launched.said();
            let message =
                format!("{} did not tell what its node is ({end:?}): {}", launched.name(), said.trim());
            return Err(Exit::new(exit::PLACE, message).into());
        }
        if let Some(text) = words(&launched, &state).filter(|text| *text != told) {
            tell(&text);
            told = text;
        }
        tokio::time::sleep(ASK_AT_THE_END).await;
    }
}

/// Writes the order and launches its job.
pub(super) async fn launch(client: Client, order: Order, dir: PathBuf) -> anyhow::Result<Launched> {
    tokio::task::spawn_blocking(move || {
        order.write(&dir)?;
        client.launch(&dir, order.nodes())
    })
    .await?
}

/// Where each of them stands, if SLURM answers.
pub(super) async fn states(
    client: Client,
    jobs: Vec<Launched>,
) -> anyhow::Result<Result<Vec<JobState>, Refused>> {
    Ok(tokio::task::spawn_blocking(move || client.states(&jobs)).await?)
}

/// What a job has printed.
pub(super) fn output(dir: &Path) -> String {
    std::fs::read(dir.join(order::OUTPUT))
        .map_or_else(|_| String::new(), |b| String::from_utf8_lossy(&b).into_owned())
}

/// `job 12 waits (Resources)`; of one that is over, its trial tells.
pub(super) fn words(launched: &Launched, state: &JobState) -> Option<String> {
    let name = launched.name();
    match state {
        JobState::Waiting(reason) => Some(format!("{name} waits ({reason})")),
        JobState::Running(nodes) if nodes.is_empty() => Some(format!("{name} runs")),
        JobState::Running(nodes) => Some(format!("{name} runs on {nodes}")),
        JobState::Ended(_) => None,
    }
}
