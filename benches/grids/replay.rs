//! Our search and others on the same grids, under several caps and many splits of the launches.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use autofit::model::{Configuration, Observation};
use autofit::search::{Next, Outcome, next};
use serde_json::{Value, json};

use crate::grid::Grid;
use crate::oracle::Oracle;
use crate::rules::RULES;
use crate::tpe::Optuna;
use crate::windows;

/// Splits of a grid.
const SPLITS: u64 = 40;
/// Caps, as shares of what the script as it is needs.
const CAPS: [f64; 3] = [2.0, 0.9, 0.75];

/// Its first ten are random.
const TPE_TRIALS: [usize; 2] = [10, 20];

pub fn replay(files: &[PathBuf]) {
    let mut rows: Vec<Value> = Vec::new();
    let mut swept: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut optuna = Optuna::start();
    if optuna.is_none() {
        println!("without Optuna: OPTUNA=PYTHON names an interpreter that has it");
    }
    for file in files {
        let grid = Grid::read(file);
        let beside = windows::rows(&grid);
        windows::print(&name(file), &beside);
        swept.insert(name(file), beside);
        let baseline = &grid.observations[0];
        let needs = baseline.peak().unwrap() as f64;
        let exhaustive: f64 = grid.observations.iter().map(|o| o.seconds).sum::<f64>()
            / (grid.observations.len() as f64 / grid.launches().len() as f64);
        for share in CAPS {
            let cap = (needs * share) as u64;
            let name = format!("{} at {share} of its peak", name(file));
            let mut all = vec![row(&grid, cap, "autofit", &mut ours)];
            for (rule, pick) in RULES {
                all.push(row(&grid, cap, rule, &mut |_, oracle| pick(oracle)));
            }
            for trials in TPE_TRIALS {
                let Some(optuna) = &mut optuna else { continue };
                let mut seed = 0;
                let mut tpe = |_: (&Grid, u64), oracle: &mut Oracle<'_>| {
                    seed += 1;
                    optuna.pick(oracle, trials, seed)
                };
                all.push(row(&grid, cap, &format!("Optuna's TPE, {trials} launches"), &mut tpe));
            }
            println!(
                "\n{name}: {} configurations, noise of a score {:.1} %",
                grid.launches().len(),
                100.0 * Oracle::new(&grid, cap, 1).error()
            );
            println!(
                "  {:38} {:>9} {:>9} {:>8} {:>5} {:>6} {:>8}",
                "", "regret", "worst", "launches", "most", "of all", "no fit"
            );
            for r in &mut all {
                let f = |key: &str| r[key].as_f64().unwrap_or(f64::NAN);
                println!(
                    "  {:38} {:>8.1}% {:>8.1}% {:>8.1} {:>5.0} {:>5.0}% {:>8.0}",
                    r["method"].as_str().unwrap(),
                    100.0 * f("regret_median"),
                    100.0 * f("regret_worst"),
                    f("launches_median"),
                    f("launches_most"),
                    100.0 * f("seconds_median") / exhaustive,
                    f("without_fit")
                );
                r["grid"] = json!(name);
                r["exhaustive_seconds"] = json!(exhaustive);
            }
            rows.append(&mut all);
        }
    }
    let out = PathBuf::from(std::env::var_os("OUT").unwrap_or_else(|| "benches/results".into()));
    let document = json!({"splits": SPLITS, "rows": rows, "windows": swept});
    std::fs::write(out.join("grids.json"), serde_json::to_string_pretty(&document).unwrap() + "\n").unwrap();
}

fn name(file: &Path) -> String {
    file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

type Method<'m> = &'m mut dyn FnMut((&Grid, u64), &mut Oracle<'_>) -> Option<Configuration>;

fn row(grid: &Grid, cap: u64, method: &str, pick: Method<'_>) -> Value {
    let (mut regrets, mut launches, mut seconds) = (Vec::new(), Vec::new(), Vec::new());
    let mut without_fit = 0;
    for seed in 1..=SPLITS {
        let mut oracle = Oracle::new(grid, cap, seed);
        let picked = pick((grid, cap), &mut oracle);
        match picked.and_then(|c| oracle.regret(&c)) {
            Some(regret) => regrets.push(regret),
            None => without_fit += 1,
        }
        launches.push(oracle.launches as f64);
        seconds.push(oracle.seconds);
    }
    json!({
        "method": method, "cap_bytes": cap, "standard_error": Oracle::new(grid, cap, 1).error(),
        "regret_median": median(&mut regrets), "regret_worst": regrets.iter().copied().fold(f64::NAN, f64::max),
        "launches_median": median(&mut launches), "launches_most": launches.iter().copied().fold(0.0, f64::max),
        "seconds_median": median(&mut seconds), "without_fit": without_fit,
    })
}

fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn ours((grid, cap): (&Grid, u64), oracle: &mut Oracle<'_>) -> Option<Configuration> {
    let plan = grid.plan(cap);
    let mut history = Vec::new();
    loop {
        match next(&plan, &history) {
            Next::Trial(spec) => {
                let trial = u32::try_from(history.len()).unwrap() + 1;
                history.push(oracle.launch(&spec, trial));
            }
            Next::Stop(outcome) => {
                if std::env::var_os("TRACE").is_some() {
                    told(&outcome, &history);
                }
                return outcome.settings.filter(|_| outcome.winner.is_some());
            }
        }
    }
}

/// One search, launch by launch.
fn told(outcome: &Outcome, history: &[Observation]) {
    println!("    {}", outcome.reason);
    for o in history {
        let rate = o.throughput().map_or("-".to_owned(), |r| format!("{r:.0}"));
        let peak = o.peak().map_or("-".to_owned(), |p| (p >> 20).to_string());
        let verdict = o.verdict.name();
        println!(
            "      {:9} {verdict:5} {rate:>6} samples/s {peak:>5} MiB  {}",
            format!("{:?}", o.purpose),
            o.settings
        );
    }
}
