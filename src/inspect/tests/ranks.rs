//! Scripts in several processes.

use super::*;

#[test]
fn what_distributed_data_parallel_wraps_is_sharded_or_the_reason_is_told() {
    let knob = Knob::Strategy;
    let ranks = |change: fn(&mut Detected)| {
        script().with(|s| s.processes = 2).with(|s| change(s.detected.as_mut().unwrap()))
    };
    let ddp = || ranks(|d| d.distributed = Some("DistributedDataParallel".into()));
    let site = ddp().site(knob);
    assert_eq!(site.values, ["ddp", "fsdp", "fsdp_offload"].map(Value::from).to_vec());
    assert_eq!(
        (site.current.as_deref(), site.launcher, site.class),
        (Some("ddp"), None, NumericsClass::Exact)
    );
    assert!(ddp().with(|s| s.processes = 4).site(knob).values.contains(&"hybrid".into()));
    assert!(ddp().why_not(Knob::Processes).contains("starts 2 processes by itself"));
    // Memory ran out in the wrapper already: no model was called.
    let early = ddp().with(|s| s.roots.clear());
    assert_eq!(early.site(knob).values, site.values);
    let refused = [
        (ranks(|d| d.distributed = None), "none of which uses DistributedDataParallel"),
        (ranks(|d| d.distributed = Some("FSDPModule".into())), "uses FSDPModule by itself"),
        (ddp().with(|s| s.detected.as_mut().unwrap().compile = true), "compiled"),
        (ddp().with(|s| s.detected.as_mut().unwrap().double_backward = true), "differentiates"),
        (ddp().with(|s| s.detected.as_mut().unwrap().roots = 2), "more than one model"),
    ];
    for (script, why) in refused {
        let said = script.why_not(knob);
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn what_a_framework_wraps_for_several_ranks_is_sharded_unless_the_framework_stands_against_it() {
    let knob = Knob::Strategy;
    let told = |why: &str, agent: bool| {
        script().with(|s| {
            s.processes = 2;
            s.switches = vec![switch(Knob::Amp, None, false), switch(knob, Some(why), agent)];
            s.detected.as_mut().unwrap().distributed = Some("DistributedDataParallel".into());
        })
    };
    let site = told("one rank could not save by itself", true).site(knob);
    assert_eq!((site.way, site.values.len()), (Some(Way::Agent), 3));
    assert!(site.how.contains("one rank could not save by itself"), "{}", site.how);
    assert_eq!(told("a strategy of its own", false).why_not(knob), "a strategy of its own");
    let alone = script().with(|s| s.switches = vec![switch(Knob::Amp, None, false)]);
    assert!(alone.why_not(knob).contains("a framework drives training"));
}

#[test]
fn the_buckets_are_the_scripts_own_or_those_of_a_strategy() {
    let (views, size) = (Knob::GradientAsBucketView, Knob::BucketCapMb);
    let own = |passed: &[&str]| {
        let passed = passed.iter().map(ToString::to_string).collect();
        script().with(|s| {
            let exchange = ExchangeInfo { gradient_as_bucket_view: false, bucket_cap_mb: 0.5, passed };
            s.detected.as_mut().unwrap().exchange = Some(exchange);
        })
    };
    assert_eq!(own(&[]).site(views).how, "an argument of DistributedDataParallel");
    assert_eq!(own(&[]).site(views).current.as_deref(), Some("false"));
    assert_eq!(own(&[]).site(size).current.as_deref(), Some("0.5"));
    assert_eq!(
        own(&["bucket_cap_mb"]).why_not(size),
        "the script passes bucket_cap_mb=0.5 to DistributedDataParallel by itself"
    );
    assert!(own(&["bucket_cap_mb"]).site(views).way.is_some());
    assert_eq!(script().site(views).how, "the buckets of strategy=ddp");
    assert!(
        script().with(|s| s.roots[0].batch_norm = true).why_not(views).contains("no copies of the model")
    );
    let sharded = script()
        .with(|s| s.detected.as_mut().unwrap().distributed = Some("FullyShardedDataParallel".to_owned()));
    assert!(sharded.why_not(size).contains("wrapped in FullyShardedDataParallel"));
}

#[test]
fn a_plain_script_is_run_in_several_processes_or_the_reason_is_told() {
    let site = script().site(Knob::Strategy);
    assert!(site.how.contains("2 processes (gloo) by torchrun"), "{}", site.how);
    let launcher = site.launcher.unwrap();
    assert_eq!((launcher.words[0].as_str(), launcher.processes, launcher.threads), ("python", 2, 2));
    assert_eq!(site.class, NumericsClass::Exact);
    let dropout = script().with(|s| s.roots[0].dropout = true);
    assert_eq!(dropout.site(Knob::Strategy).class, NumericsClass::Distribution);
    let compiled = script().with(|s| s.detected.as_mut().unwrap().compile = true);
    assert!(!compiled.site(Knob::Strategy).values.contains(&"fsdp".into()));
    let gpus = |n| script().with(|s| (s.device, s.machine.cuda_devices) = (Device::Cuda, n));
    assert_eq!(gpus(4).site(Knob::Strategy).launcher.unwrap().processes, 4);
    let refused = [
        (gpus(1), "one GPU"),
        (script().with(|s| s.roots[0].batch_norm = true), "BatchNorm"),
        (script().with(|s| s.detected.as_mut().unwrap().roots = 3), "parts of it one by one"),
        (script().with(|s| s.detected.as_mut().unwrap().double_backward = true), "differentiates"),
    ];
    for (script, why) in refused {
        for knob in [Knob::Strategy, Knob::Processes] {
            let said = script.why_not(knob);
            assert!(said.contains(why), "{said}");
        }
    }
}
