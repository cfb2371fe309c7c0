//! The optimizer's knobs, those of the kernels and of the compiler.

use super::sites::{main_root, never_trains, no_root, refused, site};
use crate::model::inspection::{Inspection, KnobSite};
use crate::model::plan::{Device, Way};
use crate::model::{Knob, Value};

/// How it is turned for this script, or why not.
pub(super) fn find(knob: Knob, found: &Inspection) -> KnobSite {
    let switch =
        |how: &str| KnobSite { values: vec![true.into(), false.into()], ..site(knob, Way::Agent, how) };
    let gpu_only = |what: &str| refused(knob, format!("{what} concerns GPUs only"));
    match knob {
        Knob::Optimizer => optimizer(found),
        Knob::SetToNone => set_to_none(found),
        Knob::Tf32 | Knob::CudnnBenchmark | Knob::EmptyCache if found.device != Device::Cuda => {
            gpu_only(knob.name())
        }
        Knob::Tf32 => switch("torch.backends, at the first call of the model"),
        Knob::CudnnBenchmark => {
            cudnn_benchmark(found).unwrap_or_else(|| switch("torch.backends.cudnn.benchmark"))
        }
        Knob::EmptyCache => switch("torch.cuda.empty_cache() between training, evaluation and saving"),
        Knob::ChannelsLast => channels_last(found),
        Knob::Inplace => inplace(found),
        Knob::ActivationMemoryBudget => memory_budget(found),
        Knob::InferenceMode => inference_mode(found),
        _ => compile(found),
    }
}

/// The script's own value.
pub(super) fn current(knob: Knob, found: &Inspection) -> Option<String> {
    let detected = found.detected.as_ref()?;
    match knob {
        Knob::Optimizer => detected.update.as_ref().map(|u| u.now.clone()),
        Knob::SetToNone => Some((!detected.keeps_zeros).to_string()),
        Knob::Tf32 => Some(detected.tf32.to_string()),
        Knob::CudnnBenchmark => Some(detected.cudnn_benchmark.to_string()),
        Knob::ChannelsLast => Some(found.roots.iter().any(|r| r.channels_last).to_string()),
        Knob::Compile => Some(if detected.compile { "the script's own" } else { "off" }.to_owned()),
        Knob::EmptyCache | Knob::Inplace => Some("false".to_owned()),
        Knob::InferenceMode => Some(found.roots.iter().any(|r| r.inference_mode).to_string()),
        Knob::ActivationMemoryBudget => Some("1".to_owned()),
        Knob::IdleModels => Some("device".to_owned()),
        _ => None,
    }
}

fn optimizer(found: &Inspection) -> KnobSite {
    let knob = Knob::Optimizer;
    let how = "the parameter groups of the optimizer";
    // A script that ran out of memory in its first call has built its optimizer, or builds it later.
    let Some(update) = found.detected.as_ref().and_then(|d| d.update.as_ref()) else {
        return match found.detected.as_ref().is_some_and(|d| d.samples_per_step > 0) {
            true => refused(knob, "the script has no optimizer of torch.optim"),
            false => site(knob, Way::Agent, how),
        };
    };
    if update.values.is_empty() {
        return refused(
            knob,
            update.why_not.clone().unwrap_or_else(|| "it cannot be told how to update".into()),
        );
    }
    KnobSite {
        values: update.values.iter().map(|v| Value::Text(v.clone())).collect(),
        ..site(knob, Way::Agent, how)
    }
}

fn set_to_none(found: &Inspection) -> KnobSite {
    let knob = Knob::SetToNone;
    if !found.detected.as_ref().is_some_and(|d| d.keeps_zeros) {
        return refused(knob, "the script was not seen to pass set_to_none=False");
    }
    KnobSite { values: vec![true.into()], ..site(knob, Way::Agent, "zero_grad of optimizers and modules") }
}

fn cudnn_benchmark(found: &Inspection) -> Option<KnobSite> {
    let knob = Knob::CudnnBenchmark;
    if found.detected.as_ref().is_some_and(|d| d.deterministic) {
        return Some(refused(knob, "the script asks for deterministic algorithms"));
    }
    let without = !found.roots.is_empty() && found.roots.iter().all(|r| r.convolutions == 0);
    without.then(|| refused(knob, "the model has no convolution over two or three dimensions"))
}

fn channels_last(found: &Inspection) -> KnobSite {
    let knob = Knob::ChannelsLast;
    let with: Vec<_> =
        found.roots.iter().filter(|r| r.convolutions > 0 && (r.trainable > 0 || r.serves)).collect();
    if main_root(found).is_none() {
        return refused(knob, no_root(found));
    }
    if with.is_empty() {
        return refused(knob, "the model has no convolution over two or three dimensions");
    }
    if with.iter().any(|r| r.channels_last) {
        return refused(knob, "the script uses channels_last by itself");
    }
    let Some(root) = with.iter().find(|r| r.images) else {
        return refused(knob, "the model is not called with a batch of images");
    };
    let how = format!("strides of {} convolutions of {} and of its inputs", root.convolutions, root.class);
    KnobSite { values: vec![true.into()], ..site(knob, Way::Agent, how) }
}

fn inplace(found: &Inspection) -> KnobSite {
    let knob = Knob::Inplace;
    if let Some(refusal) = never_trains(knob, found) {
        return refusal;
    }
    if main_root(found).is_none() {
        return refused(knob, no_root(found));
    }
    if found.detected.as_ref().is_some_and(|d| d.compile) {
        return refused(knob, "in compiled code the compiler chooses what is overwritten");
    }
    let count: u32 = found.roots.iter().map(|r| r.in_place).sum();
    if count == 0 {
        return refused(
            knob,
            "the model has no ReLU behind a layer in a Sequential that is not in place already",
        );
    }
    KnobSite {
        values: vec![true.into()],
        ..site(knob, Way::Agent, format!("{count} activations behind layers in Sequentials"))
    }
}

/// It acts on what is compiled: by the knob `compile`, or by the script itself.
fn memory_budget(found: &Inspection) -> KnobSite {
    let knob = Knob::ActivationMemoryBudget;
    if let Some(refusal) = never_trains(knob, found) {
        return refusal;
    }
    let detected = found.detected.as_ref();
    if !detected.is_some_and(|d| d.compile)
        && let Some(why) = compile(found).why_not
    {
        return refused(
            knob,
            format!("it is a setting of torch.compile, and nothing can be compiled: {why}"),
        );
    }
    if detected.is_some_and(|d| d.checkpointing) {
        return refused(knob, "the script checkpoints by itself");
    }
    if found.roots.iter().any(|r| r.dropout) {
        return refused(
            knob,
            "the model has dropout, and where compiled code computes again it would draw other masks",
        );
    }
    site(knob, Way::Agent, "torch._functorch.config, while the model is compiled")
}

fn inference_mode(found: &Inspection) -> KnobSite {
    let knob = Knob::InferenceMode;
    let Some(root) = main_root(found) else {
        return refused(knob, no_root(found));
    };
    if !root.serves {
        return refused(knob, "the script trains, and autograd needs what a call records");
    }
    if root.inference_mode {
        return refused(knob, "the script calls its model in inference mode by itself");
    }
    if found.detected.as_ref().is_some_and(|d| d.compile) {
        return refused(knob, "compiled code has nothing to gain from it");
    }
    let how = format!("torch.inference_mode() in the calls of {}", root.class);
    KnobSite { values: vec![true.into(), false.into()], ..site(knob, Way::Agent, how) }
}

fn compile(found: &Inspection) -> KnobSite {
    let knob = Knob::Compile;
    let Some(root) = main_root(found) else {
        return refused(knob, no_root(found));
    };
    if let Some(d) = &found.detected {
        if d.compile {
            return refused(knob, "the script uses torch.compile by itself");
        }
        if d.double_backward {
            return refused(
                knob,
                "the script differentiates through its gradients, which compiled code does not bear",
            );
        }
        if let Some(wrapper) = &d.distributed {
            return refused(knob, format!("the model is wrapped in {wrapper}"));
        }
        if let Some(lacks) = &d.compile_lacks {
            return refused(knob, lacks.clone());
        }
    }
    KnobSite {
        values: match found.device {
            // CUDA graphs need a GPU.
            Device::Cpu => vec!["off".into(), "default".into(), "max-autotune".into()],
            Device::Cuda => Vec::new(),
        },
        ..site(
            knob,
            Way::Agent,
            format!("{}.compile(){}", root.class, if root.serves { "" } else { ", in training calls" }),
        )
    }
}
