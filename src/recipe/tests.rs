//! What a recipe says, and what is said about one that is wrong.

use std::path::Path;

use super::*;

fn read(text: &str) -> Recipe {
    load(text, Path::new("tuning/my.yaml")).unwrap()
}

/// The error as printed.
fn wrong(text: &str) -> String {
    load(text, Path::new("my.yaml")).unwrap_err().to_string()
}

#[test]
fn a_whole_recipe() {
    let recipe = read(
        r#"
version: 1
about: "  For my script. "
command: [python, train.py, --lr, 0.1, --epochs, 3]
directory: ..
device: cpu
memory_cap: 700MiB
knobs:
  batch_size: {args: ["--batch-size", "{batch_size}"], values: [8, 16]}
  amp: {off: true}
  omp_threads: {env: {OMP_NUM_THREADS: "{value}"}}
ladder:
  - accumulation: [2, 4]
  - checkpoint: all
  - {malloc: trim, checkpoint: all}
  - accumulation
policy: {numerics: exact, batch: lower}
limits: {budget: 3m, max_trials: 9, trial_timeout: 40, margin: 5%, prove_peak: true, advice: false}
"#,
    );
    assert_eq!(recipe.name, "my");
    assert_eq!(recipe.about, "For my script.");
    assert_eq!(recipe.command.unwrap(), ["python", "train.py", "--lr", "0.1", "--epochs", "3"]);
    assert_eq!(recipe.directory, Path::new("tuning/.."));
    assert_eq!(recipe.device, Some(Device::Cpu));
    assert_eq!(recipe.memory_cap, Some(700 << 20));
    assert_eq!(recipe.knobs[&Knob::BatchSize].args, ["--batch-size", "{batch_size}"]);
    assert_eq!(recipe.knobs[&Knob::BatchSize].values, [Value::Int(8), Value::Int(16)]);
    assert!(recipe.knobs[&Knob::Amp].off);
    assert_eq!(recipe.knobs[&Knob::OmpThreads].env["OMP_NUM_THREADS"], "{value}");
    assert_eq!(
        recipe.ladder,
        [
            Rung::Knob { knob: Knob::Accumulation, values: vec![Value::Int(2), Value::Int(4)] },
            Rung::Knob { knob: Knob::Checkpoint, values: vec!["all".into()] },
            Rung::Together(
                Configuration::baseline().with(Knob::Malloc, "trim").with(Knob::Checkpoint, "all")
            ),
            Rung::Knob { knob: Knob::Accumulation, values: vec![] },
        ]
    );
    assert_eq!(recipe.policy.numerics, NumericsClass::Exact);
    assert_eq!(recipe.policy.batch, BatchPolicy::Lower);
    assert_eq!(recipe.limits.budget, Some(180.0));
    assert_eq!(recipe.limits.max_trials, Some(9));
    assert_eq!(recipe.limits.trial_timeout, Some(40.0));
    assert!((recipe.limits.margin - 0.05).abs() < 1e-12);
    assert!(recipe.limits.prove_peak);
    assert_eq!(recipe.limits.advice, Some(false));
}

#[test]
fn a_command_may_be_one_line() {
    assert_eq!(read("command: python 'my train.py' --x").command.unwrap(), ["python", "my train.py", "--x"]);
}

#[test]
fn what_is_left_out_has_its_default() {
    let recipe = read("{}");
    assert_eq!(recipe.policy, Policy::default());
    assert_eq!(recipe.limits, Limits::default());
    assert_eq!(recipe.command, None);
    assert!(!recipe.ladder.is_empty());
    assert_eq!(read("policy: {max_batch: 512}").policy.batch, BatchPolicy::Max);
}

/// Each mistake: the text, and all that is printed.
#[test]
fn every_mistake_has_its_place_and_a_way_out() {
    let cases = [
        (
            "about: x\nknob:\n  amp: {off: true}\n",
            "my.yaml:2:1: there is no key `knob` here; the keys are version, about, command, directory, device, \
             memory_cap, knobs, ladder, policy, limits, executor, slurm; did you mean `knobs`?",
        ),
        (
            "policy:\n  numeric: exact\n",
            "my.yaml:2:3: policy: there is no key `numeric` here; the keys are numerics, batch, max_batch; did you \
             mean `numerics`?",
        ),
        (
            "policy:\n  numerics: exakt\n",
            "my.yaml:2:13: policy.numerics: `exakt` is not one of exact, distribution, precision, dynamics; did you \
             mean `exact`?",
        ),
        ("knobs:\n  amp_: {off: true}\n", "my.yaml:2:3: knobs: there is no knob `amp_`; did you mean `amp`?"),
        (
            "knobs:\n  amp:\n    values: [bf16, fp8]\n",
            "my.yaml:3:20: knobs.amp.values[1]: `amp` takes one of off, bf16, fp16, not `fp8`",
        ),
        (
            "knobs:\n  amp:\n    arg: [x]\n",
            "my.yaml:3:5: knobs.amp: there is no key `arg` here; the keys are args, env, values, off; did you mean \
             `args`?",
        ),
        (
            "knobs:\n  batch_size:\n    args: [--batch, '{batch}']\n",
            "my.yaml:3:5: knobs.batch_size: nothing here changes with the value of `batch_size`; write {value} where it \
             belongs",
        ),
        (
            "knobs:\n  batch_size:\n    args: [--bs, '{batch_sise}', --x, '{value}']\n",
            "my.yaml:3:5: knobs.batch_size: `{batch_sise}` is not a placeholder here, {value} and {batch_size} are; did \
             you mean `{batch_size}`?",
        ),
        (
            "knobs:\n  amp: bf16\n",
            "my.yaml:2:8: knobs.amp: expected what to do with `amp`: args, env, values or off, found string \"bf16\"",
        ),
        (
            "ladder:\n  - accumulation: [2, 0]\n",
            "my.yaml:2:23: ladder[0].accumulation[1]: `accumulation` takes a whole number from 1 up, not `0`",
        ),
        (
            "ladder:\n  - chekpoint\n",
            "my.yaml:2:5: ladder[0]: there is no knob `chekpoint`; did you mean `checkpoint`?",
        ),
        (
            "ladder:\n  - {amp: [bf16, fp16], checkpoint: all}\n",
            "my.yaml:2:5: ladder[0]: knobs that are turned together take one value each, but `amp` has 2",
        ),
        (
            "ladder: [{strategy: deepspeed}]\n",
            "my.yaml:1:21: ladder[0].strategy: `strategy` takes one of single, ddp, fsdp, fsdp_offload, hybrid, not `deepspeed`",
        ),
        (
            "knobs: {offload: {values: [parameters]}}\n",
            "my.yaml:1:28: knobs.offload.values[0]: `offload` does not move `parameters` of a model that is not \
             sharded; `strategy: fsdp_offload` does",
        ),
        (
            "memory_cap: lots\n",
            "my.yaml:1:13: memory_cap: `lots` is not a memory size; write it like 24GiB, 700MiB or 1.5G",
        ),
        (
            "limits: {budget: soon}\n",
            "my.yaml:1:18: limits.budget: `soon` is not a time; write it like 90s, 10m or 1h",
        ),
        (
            "limits: {margin: 95%}\n",
            "my.yaml:1:18: limits.margin: `95%` is not a share; write it like 5% or 0.05, at most 90%",
        ),
        ("limits: {max_trials: 0}\n", "my.yaml:1:22: limits.max_trials: `0` is not a whole number from 1 up"),
        ("device: gpu\n", "my.yaml:1:9: device: `gpu` is not one of auto, cuda, cpu; did you mean `cuda`?"),
        ("version: 2\n", "my.yaml:1:10: version: this version of autofit reads recipes of version 1, not 2"),
        (
            "knobs:\n  malloc: {env: {X: 'a$b {value}'}}\n",
            "my.yaml:2:21: knobs.malloc.env.X: `a$b {value}` would not survive every reader of .env files; use letters, \
             digits and _./:,=+-",
        ),
    ];
    let (found, expected): (Vec<_>, Vec<_>) =
        cases.iter().map(|(text, e)| (wrong(text), (*e).to_owned())).unzip();
    assert_eq!(found, expected);
}

#[test]
fn what_is_not_yaml_has_its_place() {
    let error = load("ladder: [allocator\n", Path::new("my.yaml")).unwrap_err();
    assert_eq!(error.kind, RecipeErrorKind::Syntax, "{error}");
    assert!(error.line.is_some(), "{error}");
    let error = load("about: b: c\n", Path::new("my.yaml")).unwrap_err();
    assert_eq!((error.kind, error.line), (RecipeErrorKind::Syntax, Some(1)), "{error}");
}

#[test]
fn kinds_are_told_apart() {
    let kind = |text: &str| load(text, Path::new("x.yaml")).unwrap_err().kind;
    assert_eq!(kind("nope: 1"), RecipeErrorKind::UnknownKey);
    assert_eq!(kind("ladder: [nope]"), RecipeErrorKind::UnknownKnob);
    assert_eq!(kind("ladder: [{amp: 1}]"), RecipeErrorKind::BadValue);
}

#[test]
fn every_shipped_recipe_is_sound() {
    let all = [
        "accelerate",
        "cpu",
        "ddp",
        "default",
        "fragmentation",
        "fsdp",
        "gan",
        "hf-trainer",
        "inference",
        "lightning",
        "offload",
        "single-gpu",
        "slurm",
    ];
    assert_eq!(names(), all);
    let guide = include_str!("../../recipes/README.md");
    for name in names() {
        assert!(!about(&name).is_empty(), "{name}");
        assert!(guide.contains(&format!("| `{name}` |")), "recipes/README.md has no row for {name}");
        let recipe = shipped(&name).unwrap();
        assert!(!recipe.about.is_empty() && !recipe.ladder.is_empty(), "{name}");
        assert!(recipe.command.is_none(), "{name}");
        assert!(recipe.limits.budget.is_some() && recipe.limits.max_trials.is_some(), "{name}");
        // A ladder that climbs only over what is off would be empty.
        for rung in &recipe.ladder {
            let off = match rung {
                Rung::Knob { knob, .. } => recipe.is_off(*knob),
                Rung::Together(settings) => settings.0.keys().any(|k| recipe.is_off(*k)),
            };
            assert!(!off, "{name}: {rung:?}");
        }
    }
    let fragmentation = shipped("fragmentation").unwrap();
    assert!(fragmentation.is_off(Knob::Amp));
    assert_eq!(fragmentation.policy.numerics, NumericsClass::Exact);
    assert_eq!(default_for(Device::Cpu).unwrap().name, "cpu");
}

#[test]
fn recipes_with_a_command_are_about_files_beside_them() {
    for name in ["ddp", "fsdp", "offload", "slurm"] {
        // By name there is nothing beside it.
        assert!(shipped(name).unwrap().command.is_none());
        let file = load(text(name).unwrap(), Path::new(&format!("recipes/{name}.yaml"))).unwrap();
        let command = file.command.unwrap();
        assert_eq!((command[0].as_str(), command[1].as_str()), ("python", "examples/gpt.py"));
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(&command[1]).exists());
        assert_eq!(file.directory, Path::new("recipes/.."));
    }
    let error = shipped("fragmentatoin").unwrap_err();
    assert_eq!(error.meant.as_deref(), Some("fragmentation"));
}

#[test]
fn check_says_what_a_recipe_would_do() {
    let text = "command: python train.py\nknobs: {amp: {off: true}, batch_size: {args: ['--bs={value}']}}\n\
                ladder: [{accumulation: [2, 4]}, {checkpoint: all, malloc: trim}]\n";
    insta::assert_snapshot!(check(text, Path::new("r/my.yaml")).unwrap(), @r"
    r/my.yaml: the recipe is sound.
    command: python train.py (in r)
    ladder: accumulation=2|4 -> (checkpoint=all, malloc=trim)
    policy: numerics precision, batch keep
    knob batch_size: --bs={value}
    knob amp: never turned
    ");
}

#[test]
fn the_documentation_names_every_key() {
    let text = include_str!("../../recipes/README.md");
    let keys = [
        "version",
        "about",
        "command",
        "directory",
        "device",
        "memory_cap",
        "knobs",
        "ladder",
        "policy",
        "limits",
        "args",
        "env",
        "values",
        "off",
        "numerics",
        "batch",
        "max_batch",
        "budget",
        "max_trials",
        "trial_timeout",
        "margin",
        "prove_peak",
        "advice",
        "executor",
        "slurm",
        "partition",
        "account",
        "gres",
        "time",
        "nodes",
        "jobs",
    ];
    for key in keys.into_iter().chain(Knob::ALL.iter().map(|k| k.name())) {
        assert!(text.contains(&format!("`{key}`")), "recipes/README.md does not document `{key}`");
    }
}
