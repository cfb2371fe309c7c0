//! The Python side's own tests, `tests/agent/*.py`: small scripts under the agent, with real PyTorch.
//!
//! `AUTOFIT_TEST_PYTHON` names an interpreter with PyTorch; without it the private environment is used.  Files that
//! need frameworks run in an environment beside it, with the packages of `tests/support/frameworks.txt`.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

/// Each file launches up to some twenty scripts, and each of them imports torch.
const LIMIT: Duration = Duration::from_secs(30 * 60);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/agent")
}

fn python() -> PathBuf {
    match std::env::var_os("AUTOFIT_TEST_PYTHON") {
        Some(path) => path.into(),
        None => support::python().path.clone(),
    }
}

fn passes(module: &str, python: &Path) {
    let done = support::plain(python, &folder())
        .line("-m unittest")
        .arg(module)
        .env("AUTOFIT_TEST_PYTHON", python)
        // Files run side by side, and none of them measures a time.
        .env("OMP_NUM_THREADS", "1")
        .limit(LIMIT)
        .finish();
    assert!(done.status.success(), "{module}\n{}\n{}", done.stdout, done.stderr);
    assert!(done.stderr.trim_end().ends_with("OK"), "{module} skipped something\n{}", done.stderr);
}

macro_rules! modules {
    (
        plain { $($name:ident)* }
        long { $($slow:ident)* }
        frameworks { $($framework:ident)* }
        long_frameworks { $($slow_framework:ident)* }
    ) => {
        $(#[test] fn $name() { passes(stringify!($name), &python()); })*
        $(#[test] #[ignore = "takes minutes; CI runs it"] fn $slow() {
            passes(stringify!($slow), &python());
        })*
        $(#[test] fn $framework() { passes(stringify!($framework), &support::frameworks(&python())); })*
        $(#[test] #[ignore = "takes minutes; CI runs it"] fn $slow_framework() {
            passes(stringify!($slow_framework), &support::frameworks(&python()));
        })*

        /// A file that nobody runs would be a test that cannot fail.
        #[test]
        fn every_file_is_run() {
            let mut files: Vec<String> = std::fs::read_dir(folder())
                .unwrap()
                .filter_map(|e| e.unwrap().file_name().to_str()?.strip_suffix(".py").map(str::to_owned))
                .filter(|name| name.starts_with("test_"))
                .collect();
            let mut run = vec![
                $(stringify!($name).to_owned(),)*
                $(stringify!($slow).to_owned(),)*
                $(stringify!($slow_framework).to_owned(),)*
                $(stringify!($framework).to_owned(),)*
            ];
            files.sort();
            run.sort();
            assert_eq!(files, run);
        }
    };
}

modules! {
    plain {
        test_filled
        test_fingerprints
        test_gpu_knobs
        test_knobs_accumulation
        test_knobs_buckets
        test_knobs_fp16
        test_knobs_idle_models
        test_knobs_inplace
        test_knobs_kernels
        test_knobs_launch
        test_knobs_loader
        test_knobs_memory
        test_knobs_model
        test_knobs_offload
        test_knobs_optimizer
        test_knobs_selective
        test_memory_snapshot
        test_phases
        test_processes
        test_profile
        test_profile_parts
        test_script_options
        test_scripts
        test_units
        test_watching
    }
    long {
        test_examples_equal
        test_inference
        test_knobs_compile
        test_knobs_memory_budget
        test_production
        test_ranks
        test_ranks_end
        test_ranks_wrapped
        test_windows
    }
    frameworks {
        test_frameworks_accumulation
        test_frameworks_environment
        test_frameworks_launch
        test_frameworks_trainer
        test_options_packages
    }
    long_frameworks {
        test_frameworks_ranks
        test_kinds
    }
}

/// What the search believes of a knob is what the agent does.
#[test]
fn launcher_and_agent_agree_on_what_can_be_turned_between_two_steps() {
    use autofit::model::knob::{Accepts, Knob, Value};
    let values = |knob: Knob| match knob.accepts() {
        Accepts::Bool => vec![Value::Bool(true), Value::Bool(false)],
        Accepts::IntFrom(low) => vec![Value::Int(low), Value::Int(low + 1)],
        Accepts::Words(words) => words.iter().map(|w| Value::from(*w)).collect(),
        Accepts::Text => vec![Value::from("expandable_segments:True")],
        Accepts::Share => vec![Value::from("0.5")],
    };
    let pairs: Vec<(Knob, Value)> =
        Knob::ALL.iter().flat_map(|k| values(*k).into_iter().map(move |v| (*k, v))).collect();
    let ask = "import json, sys; from autofit_agent.knobs import KINDS; \
               print([k in KINDS and KINDS[k].turns_between_steps(v) for k, v in json.load(open(sys.argv[1]))])";
    let folder = tempfile::tempdir().unwrap();
    let (script, given) = (folder.path().join("ask.py"), folder.path().join("pairs.json"));
    std::fs::write(&script, ask).unwrap();
    std::fs::write(&given, serde_json::to_vec(&pairs).unwrap()).unwrap();
    let agent = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/agent/python");
    let done = support::plain(python(), &agent)
        .arg(&script)
        .arg(&given)
        .env("PYTHONPATH", &agent)
        .limit(Duration::from_secs(60))
        .finish();
    let said: Vec<bool> = serde_json::from_str(&done.stdout.to_lowercase()).unwrap();
    let mine: Vec<bool> = pairs.iter().map(|(knob, value)| knob.turns_between_steps(value)).collect();
    let differ: Vec<_> = pairs.iter().zip(said.iter().zip(&mine)).filter(|(_, (a, b))| a != b).collect();
    assert!(differ.is_empty() && said.len() == mine.len(), "{differ:?}\n{}", done.stderr);
}
