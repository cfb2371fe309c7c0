//! Knobs that are environment variables: the CUDA caching allocator, CPU threads, the C library's allocator.

use std::collections::BTreeMap;

use super::MachineFacts;
use super::sites::{refused, site};
use crate::model::inspection::{Inspection, KnobSite};
use crate::model::knob::env_safe;
use crate::model::plan::{Device, Way};
use crate::model::{Knob, Value};

/// The variable that every version of PyTorch with a caching allocator reads (newer ones also under another name).
const ALLOC_CONF: &str = "PYTORCH_CUDA_ALLOC_CONF";

/// Settings of the caching allocator, in the order in which they are worth trying: segments that grow leave no pieces;
/// then those that make fewer of them or give them back; last another allocator, which knows none of these.
const ALLOCATOR_VALUES: &[&str] = &[
    "expandable_segments:True",
    "garbage_collection_threshold:0.8",
    "max_split_size_mb:256",
    "garbage_collection_threshold:0.8,max_split_size_mb:256",
    "roundup_power2_divisions:8",
    ASYNC,
];

/// The driver's own pool.
const ASYNC: &str = "backend:cudaMallocAsync";

/// No allocation is handed to mmap, so that freed memory stays in the heap.  (glibc before 2.35 ignores a
/// `MALLOC_MMAP_THRESHOLD_` above 32 MiB; `MALLOC_MMAP_MAX_=0` works with all.)
const NO_MMAP: (&str, &str) = ("MALLOC_MMAP_MAX_", "0");
/// The heap's top is given back only above this: 16 GiB, in effect never.
const NO_TRIM: (&str, &str) = ("MALLOC_TRIM_THRESHOLD_", "17179869184");
/// PyTorch asks the kernel for huge pages in allocations of 2 MiB and more.
const HUGE_PAGES: (&str, &str) = ("THP_MEM_ALLOC_ENABLE", "1");
/// glibc's initial thresholds, fixed there instead of growing: memory is given back as soon as it is freed.
const TRIM: [(&str, &str); 2] = [("MALLOC_MMAP_THRESHOLD_", "131072"), ("MALLOC_TRIM_THRESHOLD_", "131072")];

/// `wanted`: the values that the recipe lists, if it does.
pub(super) fn allocator(found: &Inspection, machine: &MachineFacts, wanted: &[Value]) -> KnobSite {
    let knob = Knob::Allocator;
    if found.device != Device::Cuda {
        return refused(knob, "the caching allocator is only used on a GPU");
    }
    let own =
        found.detected.as_ref().and_then(|d| d.alloc_conf.clone()).or_else(|| machine.alloc_conf.clone());
    let own = own.unwrap_or_default().trim().trim_matches(',').to_owned();
    if !env_safe(&own) {
        return refused(
            knob,
            format!("your {ALLOC_CONF}={own} has characters that not every reader of .env files takes"),
        );
    }
    if own.contains(ASYNC) {
        return refused(knob, "your settings choose cudaMallocAsync, which ignores the others");
    }
    let taken: Vec<&str> = own.split(',').filter_map(|s| s.split(':').next()).map(str::trim).collect();
    let ours: Vec<Value> = ALLOCATOR_VALUES.iter().map(|v| Value::from(*v)).collect();
    let tried = if wanted.is_empty() { ours.as_slice() } else { wanted };
    let free = |value: &&Value| {
        let text = value.to_string();
        if text.contains(ASYNC) && !own.is_empty() {
            return false; // it ignores what the user has set
        }
        !text.split(',').any(|s| taken.contains(&s.split(':').next().unwrap_or_default().trim()))
    };
    let values: Vec<Value> = tried.iter().filter(free).cloned().collect();
    if values.is_empty() {
        return refused(knob, format!("your {ALLOC_CONF}={own} sets all that would be tried"));
    }
    let template = if own.is_empty() { "{value}".to_owned() } else { format!("{own},{{value}}") };
    let how =
        if own.is_empty() { ALLOC_CONF.to_owned() } else { format!("{ALLOC_CONF}, joined to your {own}") };
    KnobSite {
        env: BTreeMap::from([(ALLOC_CONF.to_owned(), template)]),
        current: (!own.is_empty()).then_some(own),
        values,
        ..site(knob, Way::Environment, how)
    }
}

pub(super) fn omp_threads(found: &Inspection, machine: &MachineFacts) -> KnobSite {
    let knob = Knob::OmpThreads;
    if found.device != Device::Cpu {
        return refused(knob, "the work is done by the GPU");
    }
    if machine.cores < 2 {
        return refused(knob, "there is one core");
    }
    let names = ["OMP_NUM_THREADS", "MKL_NUM_THREADS"];
    KnobSite {
        env: names.iter().map(|n| ((*n).to_owned(), "{value}".to_owned())).collect(),
        current: found.detected.as_ref().map(|d| d.threads).filter(|t| *t > 0).map(|t| t.to_string()),
        ..site(knob, Way::Environment, names.join(", "))
    }
}

pub(super) fn malloc(found: &Inspection) -> KnobSite {
    let knob = Knob::Malloc;
    if found.device != Device::Cpu {
        return refused(knob, "the tensors are on the GPU");
    }
    let set = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    KnobSite {
        env_by_value: BTreeMap::from([
            ("default".to_owned(), BTreeMap::new()),
            ("retain".to_owned(), set(&[NO_MMAP, NO_TRIM])),
            ("huge".to_owned(), set(&[NO_MMAP, NO_TRIM, HUGE_PAGES])),
            ("pages".to_owned(), set(&[HUGE_PAGES])),
            ("trim".to_owned(), set(&TRIM)),
        ]),
        current: Some("default".to_owned()),
        ..site(knob, Way::Environment, "MALLOC_*, THP_MEM_ALLOC_ENABLE")
    }
}
