//! Measures a grid: rounds over all combinations, so that a machine that becomes slower favours none.

use std::ffi::OsString;
use std::path::Path;

use autofit::cli;
use autofit::commands::bench::Bench;
use autofit::commands::workplace::Workplace;
use autofit::commands::{Job, Request};
use autofit::model::{Configuration, Knob, Progress, Purpose, TrialSpec, Verdict};
use autofit::trial::Executor as _;

use crate::grid::{Grid, combinations, slim};

pub fn record(recipe: &Path, file: &Path, rounds: usize, command: &[String]) {
    let text = std::fs::read_to_string(recipe).unwrap();
    let job = job(recipe, command);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let place = Workplace::here(&job).unwrap();
        let mut bench = Bench::open(&place, &job, &[]).unwrap();
        let all = combinations(&place.recipe);
        let begun = file.exists().then(|| Grid::read(file));
        // One that was begun goes on where it was.
        let mut done = begun.as_ref().map_or(0, |g| g.observations.len());
        let mut grid = begun.unwrap_or_else(|| Grid {
            command: place.command.clone(),
            recipe: text,
            device: place.device,
            cores: place.machine.usable_cores(),
            ram_bytes: place.machine.usable_ram(),
            cpu_bf16: place.machine.cpu_bf16,
            load: (load(), 0.0),
            versions: Default::default(),
            observations: Vec::new(),
        });
        for round in 0..rounds {
            let mut specs: Vec<TrialSpec> = (0..all.len())
                .map(|i| all[(i + round * 7) % all.len()].clone())
                .map(|c| TrialSpec::new(c, if round == 0 { Purpose::Climb } else { Purpose::Repeat }))
                .collect();
            if round == 0 {
                specs.retain(|s| !s.settings.is_baseline());
                specs.insert(0, TrialSpec::new(Configuration::baseline(), Purpose::Baseline));
            }
            specs.extend(bases(&all).map(|base| sweep(base, &all)));
            for spec in specs {
                if done > 0 {
                    done -= 1;
                    continue;
                }
                let number = u32::try_from(grid.observations.len()).unwrap() + 1;
                let mut o = bench.executor.run(number, &spec).await.unwrap();
                bench.tell(&Progress::TrialEnded(Box::new(o.clone())));
                // A disturbed launch is made once more; the second one counts whatever it is.
                if o.verdict == Verdict::Disturbed {
                    o = bench.executor.run(number, &spec).await.unwrap();
                    bench.tell(&Progress::TrialEnded(Box::new(o.clone())));
                }
                if o.verdict == Verdict::Interrupted {
                    return bench.finish_reporting();
                }
                if let Some(found) = &o.inspection {
                    grid.versions = found.frameworks.clone();
                }
                grid.observations.push(slim(o));
                grid.load.1 = load();
                // What was measured is kept, whatever comes.
                grid.write(file);
            }
        }
        bench.finish_reporting();
    });
}

/// What a search may have at hand when it asks for a sweep: the script as it is, or a rung that fits in its place.
fn bases(all: &[Configuration]) -> impl Iterator<Item = &Configuration> {
    let rung = |c: &Configuration| {
        c.0.len() == 1 && (c.get(Knob::Accumulation).is_some() || c.get(Knob::Checkpoint).is_some())
    };
    all.iter().filter(move |c| c.is_baseline() || rung(c))
}

/// What can be measured in turns with `base`: one knob more, less, or of another value.
fn sweep(base: &Configuration, all: &[Configuration]) -> TrialSpec {
    let one_knob = |c: &&Configuration| {
        let differs = |a: &Configuration, b: &Configuration, k: &Knob| a.get(*k) != b.get(*k);
        Knob::ALL.iter().filter(|k| differs(base, c, k)).count() == 1
    };
    let windows = all.iter().filter(one_knob).filter(|c| base.turns_into(c)).cloned().collect();
    TrialSpec { windows, ..TrialSpec::new(base.clone(), Purpose::Sweep) }
}

fn job(recipe: &Path, command: &[String]) -> Job {
    let mut words: Vec<OsString> = vec!["autofit".into(), "--recipe".into(), recipe.into(), "--".into()];
    words.extend(command.iter().map(OsString::from));
    match cli::parse(words) {
        Ok(Request::Tune(job)) => job,
        Ok(_) => unreachable!("a command without a subcommand is tuned"),
        Err(error) => panic!("{error}"),
    }
}

fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|w| w.parse().ok()).unwrap_or(0.0)
}
