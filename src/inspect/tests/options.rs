//! Which of the script's own options is set for which knob.

use super::*;

#[test]
fn a_batch_size_is_found_under_its_many_names() {
    for flags in [
        "--batch-size",
        "-b/--batch-size",
        "--batch_size",
        "--batchSize",
        "--bs",
        "--batch",
        "--train-batch-size",
        "--per_device_train_batch_size",
        // A doubtful name counts where its value is the loader's.
        "--train_size",
    ] {
        let site = script().with(|s| s.options = vec![option(flags, "int", "32")]).site(Knob::BatchSize);
        let flag = flags.rsplit('/').next().unwrap();
        assert_eq!((site.way, written(&site, 8)), (Some(Way::Option), format!("{flag}=8")), "{flags}");
        assert_eq!((site.class, site.current.as_deref()), (NumericsClass::Dynamics, Some("32")));
    }
}

#[test]
fn an_option_of_a_subcommand_is_set_behind_it_and_one_of_the_program_before_it() {
    let words: Vec<String> = ["--seed", "1", "train", "--lr", "1"].map(str::to_owned).to_vec();
    let place = |first, after| {
        let option = ScriptOption { first, after, ..option("--batch-size", "int", "32") };
        let site =
            script().with(|s| (s.options, s.words) = (vec![option], words.clone())).site(Knob::BatchSize);
        (site.way, site.turns[0].place.anchor.clone(), site.turns[0].place.until.clone())
    };
    assert_eq!(place(3, 5), (Some(Way::Option), Some("train".into()), None));
    assert_eq!(place(0, 2), (Some(Way::Option), Some("train.py".into()), Some("train".into())));
}

#[test]
fn a_command_that_does_not_reach_the_parser_is_left_alone() {
    // `bash train.sh`, which gives the script words of its own.
    let info = OptionsInfo {
        words: vec!["--x".into()],
        command: vec!["bash".into(), "train.sh".into()],
        ..Default::default()
    };
    assert_eq!(info.head(), None);
}

#[test]
fn other_options_are_not_taken_for_a_batch_size() {
    for (flags, kind, value) in [
        ("--train-size", "int", "50000"),
        ("--test-batch-size", "int", "32"),
        ("--log-interval", "int", "32"),
        ("--image-size", "int", "32"),
        ("--hidden-size", "int", "32"),
        ("--save-model", "bool", "False"),
        ("--batch-norm", "bool", "True"),
        ("--batch-size", "float", "32"),
        // The name is right, but it is not what is in force.
        ("--batch-size", "int", "256"),
    ] {
        let site = script().with(|s| s.options = vec![option(flags, kind, value)]).site(Knob::BatchSize);
        assert_eq!(site.way, Some(Way::Agent), "{flags}={value}: {}", site.how);
    }
    let none = script().with(|s| (s.loaders, s.options) = (vec![], vec![option("--lr", "float", "1")]));
    assert_eq!(none.why_not(Knob::BatchSize), "the script has no option for it and no DataLoader");
}

#[test]
fn the_effective_batch_is_left_alone_where_the_script_accumulates() {
    let own = script().with(|s| {
        s.options = vec![option("--batch-size", "int", "32")];
        s.detected.as_mut().unwrap().accumulation = 4;
    });
    assert!(own.why_not(Knob::BatchSize).contains("accumulates gradients by itself"));
}

#[test]
fn names_met_in_the_wild() {
    let loader = |workers: u32| move |s: &mut Script| s.loaders[0].num_workers = workers;
    let cases: &[(&str, &str, &str, Knob, Value, &str)] = &[
        ("-b/--batch-size", "int", "32", Knob::BatchSize, 8.into(), "--batch-size=8"),
        ("--bs", "int", "32", Knob::BatchSize, 8.into(), "--bs=8"),
        ("-b", "int", "32", Knob::BatchSize, 8.into(), "-b=8"),
        ("--train_size", "int", "32", Knob::BatchSize, 8.into(), "--train_size=8"),
        (
            "--per_device_train_batch_size",
            "int",
            "32",
            Knob::BatchSize,
            8.into(),
            "--per_device_train_batch_size=8",
        ),
        ("--data.batch_size", "int", "32", Knob::BatchSize, 8.into(), "--data.batch_size=8"),
        (
            "--data.init_args.batch_size",
            "int",
            "32",
            Knob::BatchSize,
            8.into(),
            "--data.init_args.batch_size=8",
        ),
        ("train.batch_size", "int", "32", Knob::BatchSize, 8.into(), "train.batch_size=8"),
        ("-j/--workers", "int", "4", Knob::NumWorkers, 2.into(), "--workers=2"),
        ("-j", "int", "4", Knob::NumWorkers, 2.into(), "-j=2"),
        ("--num_workers", "int", "4", Knob::NumWorkers, 2.into(), "--num_workers=2"),
        ("--dataloader_num_workers", "int", "4", Knob::NumWorkers, 2.into(), "--dataloader_num_workers=2"),
        ("--bf16", "bool", "False", Knob::Amp, "bf16".into(), "--bf16"),
        (
            "--gradient_checkpointing",
            "bool",
            "False",
            Knob::Checkpoint,
            "all".into(),
            "--gradient_checkpointing",
        ),
        ("--grad-checkpointing", "bool", "False", Knob::Checkpoint, "all".into(), "--grad-checkpointing"),
        ("--pin-mem", "bool", "False", Knob::PinMemory, true.into(), "--pin-mem"),
    ];
    for (flags, kind, value, knob, set, words) in cases {
        let found = script().with(loader(4)).with(|s| {
            s.options = vec![option(flags, kind, value)];
            if *knob == Knob::PinMemory {
                s.device = Device::Cuda;
            }
        });
        let site = found.site(*knob);
        assert_eq!(
            (site.way, written(&site, set.clone())),
            (Some(Way::Option), (*words).to_owned()),
            "{flags}"
        );
    }
}

#[test]
fn names_that_only_look_like_it_turn_nothing() {
    for (flags, kind, value) in [
        ("--log-interval", "int", "32"),
        ("--save-model", "bool", "False"),
        ("--eval-batch-size", "int", "32"),
        ("--per_device_eval_batch_size", "int", "32"),
        ("--test-batch-size", "int", "32"),
        ("-vb/--validation-batch-size", "int", "32"),
        ("val.batch_size", "int", "32"),
        ("--eval_loader.num_workers", "int", "4"),
        ("--preprocessing_num_workers", "int", "8"),
        ("--checkpoint", "str", "all"),
        ("--checkpointing_steps", "int", "4"),
        ("--save-checkpoint", "bool", "False"),
        ("--amp", "bool", "False"),
        ("--amp-loss-scale", "bool", "False"),
        ("--precision", "str", "double"),
        ("--grad-accum-steps", "int", "1"),
        ("--nbs", "int", "64"),
    ] {
        let found = script()
            .with(|s| (s.options, s.loaders[0].num_workers) = (vec![option(flags, kind, value)], 4))
            .found();
        for site in &found.knobs {
            assert_ne!(site.way, Some(Way::Option), "{flags} turns {}: {}", site.knob, site.how);
        }
    }
}

#[test]
fn the_type_of_autocast_is_spelled_as_the_script_does() {
    let precision = |flag: &str, value: &str, choices: &[&str]| ScriptOption {
        choices: choices.iter().map(|c| (*c).to_owned()).collect(),
        ..option(flag, "str", value)
    };
    let lightning = ["16-true", "16-mixed", "bf16-true", "bf16-mixed", "32-true", "64"];
    let cases = [
        (vec![precision("--trainer.precision", "32-true", &lightning)], "--trainer.precision=bf16-mixed"),
        (
            vec![precision("--mixed_precision", "no", &["no", "fp16", "bf16", "fp8"])],
            "--mixed_precision=bf16",
        ),
        (vec![precision("--dtype", "float32", &[])], "--dtype=bfloat16"),
        (vec![option("--fp16", "bool", "False"), option("--bf16", "bool", "False")], "--bf16"),
        (
            vec![precision("--amp-dtype", "float16", &[]), option("--amp", "bool", "False")],
            "--amp-dtype=bfloat16 --amp",
        ),
    ];
    for (options, words) in cases {
        let site = script().with(|s| s.options = options).site(Knob::Amp);
        assert_eq!((site.way, written(&site, "bf16").as_str()), (Some(Way::Option), words));
        assert!(!site.values.contains(&"fp16".into()), "the processor does not train in fp16");
    }
}

#[test]
fn accumulation_and_batch_are_set_together() {
    let with = |options: Vec<ScriptOption>, own: u32| {
        script().with(|s| {
            s.options = options;
            s.detected.as_mut().unwrap().accumulation = own;
        })
    };
    let accum = |n: &str| option("--grad-accum-steps", "int", n);
    let site = with(vec![option("--batch-size", "int", "32"), accum("2")], 2).site(Knob::Accumulation);
    assert_eq!(
        (site.way, written(&site, 4).as_str()),
        (Some(Way::Option), "--batch-size=8 --grad-accum-steps=8")
    );
    assert_eq!(site.values.last(), Some(&Value::Int(32)), "a part has a sample at least");
    // In another batch, its parts.
    let settings = crate::model::Configuration::baseline().with(Knob::BatchSize, 64);
    assert_eq!(site.turns[0].text(&Value::Int(4), &settings).as_deref(), Some("16"));
    // What the script makes of the whole by itself.
    let micro = vec![option("--global-batch-size", "int", "64"), option("--micro-batch-size", "int", "32")];
    let site = with(micro, 2).site(Knob::Accumulation);
    assert_eq!((site.way, written(&site, 4).as_str()), (Some(Way::Option), "--micro-batch-size=8"));
    // A batch that is not in force, a count that is not, a prime batch: the agent splits.
    let others = [
        with(vec![option("--batch-size", "int", "64"), accum("1")], 1),
        with(vec![option("--batch-size", "int", "32"), accum("8")], 1),
        with(vec![option("--batch-size", "int", "67"), accum("1")], 1).with(|s| {
            (s.loaders[0].batch_size, s.roots[0].batch) = (Some(67), Some(67));
        }),
    ];
    for other in others {
        assert_eq!(other.site(Knob::Accumulation).way, Some(Way::Agent));
    }
}

#[test]
fn two_options_that_could_both_be_meant_are_not_guessed_at() {
    let options = vec![option("a.batch_size", "int", "32"), option("b.batch_size", "int", "32")];
    let found = script().with(|s| (s.options, s.loaders) = (options, vec![]));
    assert_eq!(
        found.why_not(Knob::BatchSize),
        "it is not known which of a.batch_size and b.batch_size is meant"
    );
    let options = vec![option("data.batch_size", "int", "32"), option("train.batch_size", "int", "32")];
    let site = script().with(|s| s.options = options).site(Knob::BatchSize);
    assert_eq!(site.how, "train.batch_size");
}

#[test]
fn an_abbreviated_option_is_replaced_too() {
    let words = vec!["--batch".to_owned(), "32".to_owned()];
    let found = script().with(|s| (s.options, s.words) = (vec![option("--batch-size", "int", "32")], words));
    assert_eq!(found.site(Knob::BatchSize).turns[0].edit("8").flags, ["--batch-size", "--batch"]);
}
