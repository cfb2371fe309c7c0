//! The search on a recorded grid, through the executor that trials go through.

use super::machine::{Machine, Run, settings};
use crate::model::{Configuration, Observation, Purpose, TrialSpec};
use crate::search::{Next, SearchPlan, next};
use crate::trial::Executor;
use crate::trial::recorded::RecordedExecutor;

async fn drive(executor: &mut RecordedExecutor, plan: &SearchPlan) -> anyhow::Result<Run> {
    let mut history = Vec::new();
    loop {
        let trial = u32::try_from(history.len()).unwrap() + 1;
        match next(plan, &history) {
            Next::Trial(spec) => history.push(executor.run(trial, &spec).await?),
            Next::Stop(outcome) => return Ok(Run { history, outcome }),
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

#[test]
fn a_recorded_search_is_replayed_to_the_same_end() {
    let machine = Machine::cpu(700);
    let live = machine.search(&machine.plan());
    let text = serde_json::to_string(&live.history).unwrap();
    let mut executor = RecordedExecutor::from_json(&text).unwrap();
    let replayed = runtime().block_on(drive(&mut executor, &machine.plan())).unwrap();
    assert_eq!(replayed.outcome, live.outcome);
    assert_eq!(replayed.history, live.history);
}

#[test]
fn what_was_not_recorded_is_not_made_up() {
    let machine = Machine::cpu(700);
    let spec = TrialSpec::new(Configuration::baseline(), Purpose::Baseline);
    let one: Vec<Observation> = vec![machine.launch(&spec, &[])];
    let mut executor = RecordedExecutor::from_json(&serde_json::to_string(&one).unwrap()).unwrap();
    runtime().block_on(async {
        assert!(executor.run(1, &spec).await.is_ok());
        let again = executor.run(2, &spec).await.unwrap_err();
        assert_eq!(again.to_string(), "the grid has no launch 2 of as the script is");
        let other = TrialSpec::new(settings("accumulation=2"), Purpose::Climb);
        assert!(executor.run(2, &other).await.is_err());
    });
    assert!(RecordedExecutor::from_json("{}").is_err());
}
