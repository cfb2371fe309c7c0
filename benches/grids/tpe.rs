//! Optuna's TPE, by Optuna itself: a Python process that asks and is told.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use autofit::model::{Configuration, Knob, Value};
use serde_json::json;

use crate::oracle::Oracle;

/// What a knob is called when it is left as the script has it.
const OWN: &str = "own";

/// A Python with Optuna at work.
pub struct Optuna {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Optuna {
    /// With the interpreter that the variable `OPTUNA` names; `None` without it.
    pub fn start() -> Option<Self> {
        let python = std::env::var_os("OPTUNA")?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/grids/tpe.py");
        let mut process = Command::new(python)
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("OPTUNA names a Python");
        let (to, from) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        Some(Self { process, to, from: BufReader::new(from) })
    }

    /// The best of `trials` launches.
    pub fn pick(&mut self, oracle: &mut Oracle<'_>, trials: usize, seed: u64) -> Option<Configuration> {
        let knobs = knobs(&oracle.all());
        let names: BTreeMap<&str, Vec<String>> =
            knobs.iter().map(|(k, values)| (k.name(), values.keys().cloned().collect())).collect();
        writeln!(self.to, "{}", json!({"knobs": names, "trials": trials, "seed": seed})).unwrap();
        let mut best: Option<(f64, Configuration)> = None;
        for _ in 0..trials {
            let mut line = String::new();
            self.from.read_line(&mut line).unwrap();
            let asked: BTreeMap<String, String> = serde_json::from_str(&line).unwrap();
            let set = knobs.iter().filter_map(|(k, values)| Some((*k, values[&asked[k.name()]].clone()?)));
            let settings = Configuration(set.collect());
            let rate = oracle.rate(&settings);
            writeln!(self.to, "{}", rate.unwrap_or(0.0)).unwrap();
            if let Some(rate) = rate.filter(|r| best.as_ref().is_none_or(|b| *r > b.0)) {
                best = Some((rate, settings));
            }
        }
        best.map(|(_, c)| c)
    }
}

impl Drop for Optuna {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What each knob can be set to, by the words that Optuna is given; `None` is the script's own.
fn knobs(all: &[Configuration]) -> BTreeMap<Knob, BTreeMap<String, Option<Value>>> {
    let mut knobs: BTreeMap<Knob, BTreeMap<String, Option<Value>>> = BTreeMap::new();
    for (knob, value) in all.iter().flat_map(|c| &c.0) {
        let values = knobs.entry(*knob).or_insert_with(|| BTreeMap::from([(OWN.to_owned(), None)]));
        values.insert(value.to_string(), Some(value.clone()));
    }
    knobs
}
