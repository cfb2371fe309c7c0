//! From a configuration to the command that is launched.

use super::*;
use crate::inspect::{MachineFacts, build_inspection};
use crate::model::event::Record;
use crate::model::inspection::{LoaderInfo, OptionsInfo, RootInfo, ScriptOption};
use crate::model::{Event, Value};
use crate::recipe::load;

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

/// `python train.py --lr 1` with `--batch-size` (32) and `--accum` (1).
fn prepared(command: &str, recipe: &str, settings: Configuration) -> Prepared {
    let command = words(command);
    let given = command[2..].to_vec();
    let option = |flag: &str, value: &str| ScriptOption {
        flags: vec![flag.to_owned()],
        dest: flag.trim_start_matches('-').to_owned(),
        kind: "int".to_owned(),
        value: Some(value.to_owned()),
        write: vec![format!("{flag}={{value}}")],
        after: given.len(),
        ..ScriptOption::default()
    };
    let records = [
        Record::Options(OptionsInfo {
            parser: "argparse".into(),
            options: vec![option("--batch-size", "32"), option("--accum", "1")],
            words: given.clone(),
            ..OptionsInfo::default()
        }),
        Record::Loader(LoaderInfo { training: true, batch_size: Some(32), ..LoaderInfo::default() }),
        Record::Root(RootInfo { trainable: 1, parameters: 1, batch: Some(32), ..RootInfo::default() }),
    ];
    let events: Vec<Event> =
        records.into_iter().map(|record| Event { v: VERSION, at: 0.0, pid: 1, record }).collect();
    let recipe = load(recipe, std::path::Path::new("r.yaml")).unwrap();
    let found = build_inspection(&events, &command, &recipe, Device::Cpu, &MachineFacts::default());
    let spec = TrialSpec::new(settings, Purpose::Climb);
    prepare(&spec, &command, Some(&found), Device::Cpu, &Cap::default(), String::new())
}

fn set(knob: Knob, value: impl Into<Value>) -> Configuration {
    Configuration::baseline().with(knob, value)
}

#[test]
fn a_trial_may_have_a_lower_limit_than_the_search_and_never_a_higher_one() {
    let cap = |bytes| Cap { bytes, ..Cap::default() };
    let of = |limit, cap: &Cap| {
        let spec = TrialSpec { limit, ..TrialSpec::new(Configuration::baseline(), Purpose::Prove) };
        prepare(&spec, &["x".to_owned()], None, Device::Cpu, cap, String::new()).plan.cap_bytes
    };
    assert_eq!(of(Some(600), &cap(Some(1000))), Some(600));
    assert_eq!(of(Some(1200), &cap(Some(1000))), Some(1000));
    assert_eq!(of(Some(600), &cap(None)), Some(600));
    assert_eq!(of(None, &cap(Some(1000))), Some(1000));
}

#[test]
fn the_scripts_options_are_set_and_read_back() {
    let p = prepared("python train.py --batch-size 32 x", "{}", set(Knob::BatchSize, 8));
    assert_eq!(p.argv.join(" "), "python train.py --batch-size=8 x");
    assert_eq!(p.plan.argv, p.argv);
    let asked = &p.plan.options[&Knob::BatchSize];
    assert_eq!(asked, &[OptionAsked { dest: "batch-size".into(), value: "8".into() }]);
}

#[test]
fn accumulation_keeps_the_effective_batch_of_the_same_configuration() {
    let p = prepared("python train.py", "{}", set(Knob::Accumulation, 4));
    assert_eq!(p.argv.join(" "), "python train.py --accum=4 --batch-size=8");
    let p = prepared("python train.py", "{}", set(Knob::Accumulation, 4).with(Knob::BatchSize, 64));
    assert_eq!(p.argv.join(" "), "python train.py --accum=4 --batch-size=16");
    assert_eq!(p.plan.options[&Knob::BatchSize][0].value, "16", "as it stands in the command");
}

#[test]
fn a_number_of_parts_that_does_not_divide_the_batch_sets_nothing() {
    let p = prepared("python train.py", "{}", set(Knob::Accumulation, 5));
    assert_eq!((p.argv.join(" ").as_str(), p.plan.options.len()), ("python train.py", 0));
    let p = prepared("python train.py", "{}", set(Knob::Accumulation, 5).with(Knob::BatchSize, 40));
    assert_eq!(p.argv.join(" "), "python train.py --accum=5 --batch-size=8");
}

#[test]
fn the_recipes_words_win_over_the_scripts_option() {
    let recipe = "knobs: {batch_size: {args: ['-n', '{batch_size}']}}";
    let p = prepared("python train.py -n 3 -- y", recipe, set(Knob::BatchSize, 8));
    assert_eq!(p.argv.join(" "), "python train.py -n 8 -- y");
    assert!(p.plan.options.is_empty());
    assert_eq!(p.plan.ways[&Knob::BatchSize], Way::Recipe);
}

#[test]
fn a_strategy_starts_the_command_several_times() {
    let settings = set(Knob::Strategy, "fsdp").with(Knob::BatchSize, 8);
    let p = prepared("python train.py --lr 1", "{}", settings.clone());
    let before = "python -m torch.distributed.run --standalone --nproc-per-node=2 --no-python";
    assert_eq!(p.argv.join(" "), format!("{before} python train.py --lr 1 --batch-size=8"));
    assert!(p.env.contains_key("PYTHONHASHSEED"));
    assert!(p.plan.required.contains(&Knob::Strategy));
    // Production puts the same words before what is typed there.
    let typed: Vec<OsString> = words("python train.py --lr 2").into_iter().map(OsString::from).collect();
    let argv = crate::model::arguments::apply(&typed, &p.edits);
    assert_eq!(
        argv.join(std::ffi::OsStr::new(" ")).into_string().unwrap(),
        format!("{before} python train.py --lr 2 --batch-size=8")
    );
    let four = prepared("python train.py", "{}", settings.with(Knob::Processes, 4));
    assert!(four.argv.contains(&"--nproc-per-node=4".to_owned()), "{:?}", four.argv);
    let alone = prepared("python train.py", "{}", set(Knob::Strategy, "single"));
    assert_eq!(alone.argv.join(" "), "python train.py");
}
