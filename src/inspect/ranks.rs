//! A plain script in several processes: `strategy`, and the number of them.  How copies of a model exchange their
//! gradients, those of a script too that makes them by itself.  And a script that starts several processes by itself:
//! what each of them holds of the model.

use std::path::Path;

use super::MachineFacts;
use super::sites::{main_root, no_root, refused, site};
use crate::model::inspection::{Inspection, KnobSite, Launcher};
use crate::model::plan::{Device, Way};
use crate::model::{Knob, Value};

const DDP: &str = "DistributedDataParallel";

/// Processes on the processor, where nobody asks for another number.
const ON_PROCESSOR: u32 = 2;
/// The fewest processes that are two groups of several (`ranks/hybrid.py`).
const TWO_GROUPS: u32 = 4;
/// What the copies of `strategy=ddp` have (`ranks/reducer.py`), and DistributedDataParallel by itself.
const USUAL_BUCKETS: (bool, f64) = (false, 25.0);

pub(super) fn strategy(found: &Inspection, machine: &MachineFacts) -> KnobSite {
    let knob = Knob::Strategy;
    if found.starts_processes() {
        return wrapped(found);
    }
    if let Some(why) = why_not(found, machine) {
        return refused(knob, why);
    }
    let processes = usual(found, machine);
    let class = main_root(found).map_or("the model", |r| r.class.as_str());
    let backend = if found.device == Device::Cuda { "nccl" } else { "gloo" };
    let compiled = found.detected.as_ref().is_some_and(|d| d.compile);
    let words: &[&str] = if compiled { &["ddp"] } else { &["ddp", "fsdp", "fsdp_offload", "hybrid"] };
    KnobSite {
        launcher: Some(Launcher {
            words: launcher(found),
            processes,
            threads: if machine.threads_set { 0 } else { machine.cores },
        }),
        values: std::iter::once("single").chain(words.iter().copied()).map(Value::from).collect(),
        current: Some("single".to_owned()),
        ..site(
            knob,
            Way::Agent,
            format!(
                "{processes} processes ({backend}) by torchrun, each with its part of every batch of {class}"
            ),
        )
    }
}

pub(super) fn processes(found: &Inspection, machine: &MachineFacts) -> KnobSite {
    let knob = Knob::Processes;
    match why_not(found, machine) {
        Some(why) => refused(knob, why),
        None => KnobSite {
            current: Some(usual(found, machine).to_string()),
            ..site(knob, Way::Agent, "those that `strategy` starts")
        },
    }
}

/// The DistributedDataParallel of the script, or of the framework that it uses, and what can stand in its place.
fn wrapped(found: &Inspection) -> KnobSite {
    let knob = Knob::Strategy;
    let detected = found.detected.as_ref();
    match detected.and_then(|d| d.distributed.as_deref()) {
        Some(DDP) => {}
        Some(other) => return refused(knob, format!("the script uses {other} by itself")),
        None => {
            let n = found.launched.world_size;
            return refused(knob, format!("the command starts {n} processes, none of which uses {DDP}"));
        }
    }
    if detected.is_some_and(|d| d.compile) {
        return refused(knob, "what is compiled is not sharded");
    }
    if detected.is_some_and(|d| d.double_backward) {
        return refused(knob, "the script differentiates through its gradients");
    }
    if detected.is_some_and(|d| d.roots > 1) {
        return refused(knob, "more than one model is called, or parts of it one by one");
    }
    let in_groups = (found.launched.world_size >= TWO_GROUPS).then_some("hybrid");
    KnobSite {
        values: ["ddp", "fsdp", "fsdp_offload"].into_iter().chain(in_groups).map(Value::from).collect(),
        current: Some("ddp".to_owned()),
        ..site(knob, Way::Agent, format!("what {DDP} wraps is sharded over the command's processes"))
    }
}

/// Of the script's DistributedDataParallel, else of what `strategy=ddp` has.
pub(super) fn buckets(knob: Knob, found: &Inspection, machine: &MachineFacts) -> KnobSite {
    let detected = found.detected.as_ref();
    let own = detected.and_then(|d| d.exchange.as_ref());
    let (views, mib) = own.map_or(USUAL_BUCKETS, |e| (e.gradient_as_bucket_view, e.bucket_cap_mb));
    let (current, values) = match knob {
        Knob::GradientAsBucketView => (views.to_string(), vec![true.into(), false.into()]),
        _ => (mib.to_string(), Vec::new()),
    };
    let site = match own {
        Some(e) if e.passed.iter().any(|name| name == knob.name()) => {
            refused(knob, format!("the script passes {knob}={current} to DistributedDataParallel by itself"))
        }
        Some(_) => KnobSite { values, ..site(knob, Way::Agent, "an argument of DistributedDataParallel") },
        None => match detected.and_then(|d| d.distributed.as_ref()) {
            Some(wrapper) => return refused(knob, format!("the model is wrapped in {wrapper}")),
            None if why_not(found, machine).is_some() => {
                return refused(knob, "there are no copies of the model that exchange gradients");
            }
            None => KnobSite { values, ..site(knob, Way::Agent, "the buckets of strategy=ddp") },
        },
    };
    KnobSite { current: Some(current), ..site }
}

/// One on each GPU; two on the processor.
fn usual(found: &Inspection, machine: &MachineFacts) -> u32 {
    if found.device == Device::Cuda { machine.cuda_devices } else { ON_PROCESSOR }
}

/// The words before the command.  The Python that the command names, else the one that was seen to train.
fn launcher(found: &Inspection) -> Vec<String> {
    let named = found.launched.command.first().filter(|word| {
        Path::new(word).file_name().is_some_and(|f| f.to_string_lossy().starts_with("python"))
    });
    let python = named.unwrap_or(&found.launched.python);
    let rest = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node={processes}", "--no-python"];
    std::iter::once(python.as_str()).chain(rest).map(str::to_owned).collect()
}

fn why_not(found: &Inspection, machine: &MachineFacts) -> Option<String> {
    let detected = found.detected.as_ref();
    if found.starts_processes() {
        return Some(format!("the command starts {} processes by itself", found.launched.world_size));
    }
    if found.device == Device::Cuda && machine.cuda_devices < 2 {
        return Some("there is one GPU".to_owned());
    }
    if !found.switches.is_empty() {
        return Some("a framework drives training, whose own launcher starts several processes".to_owned());
    }
    let Some(root) = main_root(found) else { return Some(no_root(found)) };
    if root.batch_norm {
        return Some(
            "BatchNorm takes its statistics from the whole batch, of which each process has a part".into(),
        );
    }
    if root.batch == Some(1) {
        return Some("the batch has one sample".to_owned());
    }
    if root.batch_dim == Some(1) {
        return Some(
            "the sequence is dimension 0 of what the model is given, and only that is shared out".into(),
        );
    }
    if found.roots.iter().filter(|r| r.trainable > 0).count() > 1 || detected.is_some_and(|d| d.roots > 1) {
        return Some("more than one model is called, or parts of it one by one".to_owned());
    }
    if detected.is_some_and(|d| d.double_backward) {
        return Some("the script differentiates through its gradients".to_owned());
    }
    if detected.is_some_and(|d| d.optimizers.iter().any(|o| o.contains("LBFGS"))) {
        return Some("LBFGS calls the model several times in a step".to_owned());
    }
    None
}
