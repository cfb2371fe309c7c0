//! The numbers that a message states, into [`FailureFields`].

use std::sync::LazyLock;

use regex::Regex;

use crate::model::FailureFields;

use super::size::{SizePattern, compile};
use super::text::cut;

/// A message of an allocator is not longer than this, broken lines and prefixes included.
const MESSAGE: usize = 2500;

/// Where an allocator's message begins; the one before ends there.
static HEAD: LazyLock<Regex> = LazyLock::new(|| {
    compile(
        r"\b[A-Z]\w{1,10}(?: backend)? out of memory\s*[.(]|\bAllocation on device\b|\bCUDA error: out of memory",
    )
});

struct Patterns {
    requested: Vec<SizePattern>,
    total: Vec<SizePattern>,
    free: Vec<SizePattern>,
    allocated: Vec<SizePattern>,
    unallocated: Vec<SizePattern>,
    reserved: Vec<SizePattern>,
    private: Vec<SizePattern>,
    allowed: Vec<SizePattern>,
    own: SizePattern,
    others: SizePattern,
    short_reserved: SizePattern,
    device: Regex,
}

static DEVICE: LazyLock<Patterns> = LazyLock::new(|| {
    let all = |patterns: &[&'static str]| patterns.iter().map(|p| SizePattern::new(p)).collect::<Vec<_>>();
    Patterns {
        requested: all(&[
            r"(?:tried|trying|try|attempt\w*|failed|unable) to allocate:? {}",
            r"\bRequested\s*: {}",
            r"Out of memory allocating {}",
            r"Could not allocate tensor with {}",
            r"Cannot allocate {}",
            r"Invalid buffer size: {}",
            r"allocating {} on device \d+: cudaMalloc failed",
            r"(?:failed to cudaMalloc|cudaMalloc\w* failed for) {}",
            r"Allocation failed for size\s*:+\s*([0-9]+)()",
            r"while trying to allocate {}",
        ]),
        // The last patterns of each list are for messages that people shortened.
        total: all(&[
            r"{} total capacity",
            r"total capaci?ty of {}",
            r"\bDevice limit\s*: {}",
            r"{} total\b",
            r"capacity(?: of|\s*:) {}",
        ]),
        free: all(&[
            r"Free \(according to CUDA\)\s*: {}",
            r"of which {} is free",
            r"{} free\s*(?:[;,.)]|$)",
            r"{} (?:is |are )?free\b",
            r"\bFree\s*: {}",
        ]),
        allocated: all(&[
            r"{} already allocated",
            r"{} is allocated by PyTorch",
            r"(?:MPS allocated|Currently allocated)\s*: {}",
            r"\bAllocated\s*: {}",
            r"{} allocated\s*(?:[;,.)]|$)",
        ]),
        unallocated: all(&[
            r"{} is reserved by PyTorch but unallocated",
            r"{} reserved but unallocated",
            r"{} cached",
        ]),
        reserved: all(&[r"{} reserved in total", r"{} reserved(?: by PyTorch)?\s*(?:[;,.)]|$)"]),
        private: all(&[r"with {} allocated in private pools"]),
        allowed: all(&[
            r"{} allowed\b",
            r"max allowed\s*: {}",
            r"PyTorch limit \(set by user-supplied memory fraction\)\s*: {}",
        ]),
        own: SizePattern::new(r"(?:this process|\bprocess) has {} memory in use"),
        others: SizePattern::new(r"Process \d+ has {} memory in use"),
        short_reserved: SizePattern::new(r"\bReserved\s*: {}"),
        device: compile(
            r"\((?:GPU|NPU|XPU|MLU|MUSA|DCU|device|cuda:?)\s*(\d{1,3})\s*;|\b(?:GPU|NPU|XPU|MLU|MUSA|DCU) (\d{1,3}) has a total|\bon device:? (\d{1,3})\b|\bon GPU (\d{1,3})\b",
        ),
    }
});

fn first(patterns: &[SizePattern], text: &str) -> Option<u64> {
    patterns.iter().find_map(|p| p.find(text))
}

/// The message whose deciding phrase begins at `phrase`, on the line that begins at `line`, up to the next message.
pub fn message(text: &str, line: usize, phrase: usize) -> &str {
    // What stands in front of the phrase on its line belongs to it, but not a whole log on one line.
    let from = line.max(phrase.saturating_sub(400));
    let part = cut(text, from, MESSAGE);
    let at = (phrase - from).min(part.len());
    let at = (0..=at).rev().find(|i| part.is_char_boundary(*i)).unwrap_or(0);
    let own = HEAD.find_at(part, at).map_or(at, |m| if m.start() < at + 200 { m.end() } else { at });
    match HEAD.find_at(part, own) {
        Some(next) => &part[..next.start()],
        None => part,
    }
}

/// The numbers of an accelerator's message.
pub fn of_device(message: &str) -> FailureFields {
    let p = &*DEVICE;
    let device = p.device.captures(message).and_then(|c| c.iter().skip(1).flatten().next());
    let mut fields = FailureFields {
        device_index: device.and_then(|m| m.as_str().parse().ok()),
        requested_bytes: first(&p.requested, message),
        total_bytes: first(&p.total, message),
        free_bytes: first(&p.free, message),
        allocated_bytes: first(&p.allocated, message),
        reserved_unallocated_bytes: first(&p.unallocated, message),
        reserved_total_bytes: first(&p.reserved, message),
        private_pool_bytes: first(&p.private, message),
        allowed_bytes: first(&p.allowed, message),
        process_in_use_bytes: p.own.find(message),
        other_process_bytes: None,
        ..FailureFields::default()
    };
    // "this process" is not one of the numbered ones.
    fields.other_process_bytes = p.others.sum(message);
    // Shortened by hand: a "reserved" that is smaller than what is allocated can only be the difference.
    if fields.reserved_total_bytes.is_none()
        && fields.reserved_unallocated_bytes.is_none()
        && let (Some(reserved), Some(allocated)) = (p.short_reserved.find(message), fields.allocated_bytes)
    {
        if reserved < allocated {
            fields.reserved_unallocated_bytes = Some(reserved);
        } else {
            fields.reserved_total_bytes = Some(reserved);
        }
    }
    fields
}

/// Whether reserved-but-unallocated memory is at least half of the failed request; `None` without both numbers.
pub fn fragmentation(fields: &FailureFields) -> Option<bool> {
    let requested = fields.requested_bytes?;
    let idle = match (fields.reserved_unallocated_bytes, fields.reserved_total_bytes, fields.allocated_bytes)
    {
        (Some(idle), _, _) => idle,
        (None, Some(total), Some(allocated)) => total.saturating_sub(allocated),
        _ => return None,
    };
    Some(idle >= requested.div_ceil(2))
}

static HOST_REQUEST: LazyLock<Vec<SizePattern>> = LazyLock::new(|| {
    [
        r"you tried to (?:allocate|mmap) {}",
        r"Unable to allocate {} for an array",
        r"unable to mmap {}",
        r"Insufficient memory\) Failed to allocate {}",
        r"malloc of size ([0-9]+)() failed",
        r"memory allocation of {} failed",
        r"(?:failed|unable) to allocate {}",
        r"Trying to allocate {}",
        r"\(size ([0-9]+)()\)",
    ]
    .into_iter()
    .map(SizePattern::new)
    .collect()
});

static HOST_LIMIT: LazyLock<Vec<SizePattern>> = LazyLock::new(|| {
    [
        r"exceeded (?:job |step |virtual )?memory limit \(\d+ > ([0-9]+)()",
        r"exceeded limit ([0-9]+)\s*(kb|mb|gb)",
        r"memory: usage [0-9]+ ?kB, limit ([0-9]+) ?(kB)",
        r"of {} (?:physical|virtual) memory used",
        r"was running was [0-9.]+ ?[KMGT]i?B / {}",
        r"Memory limit of {}",
        r"Total Requested Memory\s*: {}",
        r"Memory Limit\s*: {}",
        r"Memory Efficiency\s*: [0-9.]+% of {}",
    ]
    .into_iter()
    .map(SizePattern::new)
    .collect()
});

/// The numbers of a refusal of the host, or of a scheduler's limit.  `near` is the text around the phrase that
/// decided, `all` the whole.
pub fn of_host(near: &str, all: &str) -> FailureFields {
    let slurm = HOST_LIMIT[0].find(all).map(|kib| kib << 10);
    FailureFields {
        // "0GB" is the old message's way to say less than one.
        requested_bytes: first(&HOST_REQUEST, near).filter(|b| *b > 0),
        total_bytes: slurm.or_else(|| first(&HOST_LIMIT[1..], all)),
        ..FailureFields::default()
    }
}

static VERSION: LazyLock<Regex> = LazyLock::new(|| {
    compile(r"\b(?:py)?torch(?: ?version)?\s*(?:==|[-:=]|\s)\s*v?(\d\.\d+(?:\.\d+)?)(?:[^\d.]|$)")
});

/// The version of PyTorch, where the text names it.
pub fn torch_version(text: &str) -> Option<String> {
    VERSION.captures(text).map(|c| c[1].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: f64 = (1_u64 << 30) as f64;

    fn gib(x: f64) -> Option<u64> {
        Some((x * GIB).round() as u64)
    }

    #[test]
    fn every_form_of_the_native_allocator() {
        let old = "CUDA out of memory. Tried to allocate 2.00 GiB (GPU 1; 11.00 GiB total capacity; 8.00 GiB already \
                   allocated; 1.00 GiB free; 1.50 GiB cached)";
        let f = of_device(old);
        assert_eq!(
            (f.device_index, f.total_bytes, f.reserved_unallocated_bytes),
            (Some(1), gib(11.0), gib(1.5))
        );
        assert_eq!(fragmentation(&f), Some(true));

        let middle = "CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 11.00 GiB total capacity; 8.00 GiB \
                      already allocated; 1.00 GiB free; 9.00 GiB allowed; 8.50 GiB reserved in total by PyTorch)";
        let f = of_device(middle);
        assert_eq!((f.allowed_bytes, f.reserved_total_bytes, f.free_bytes), (gib(9.0), gib(8.5), gib(1.0)));
        assert_eq!(fragmentation(&f), Some(false));

        let new = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 3 has a total capacity of 11.00 GiB of which \
                   1.00 GiB is free. Process 12 has 2.00 GiB memory in use. Process 13 has 1.00 GiB memory in use. \
                   Including non-PyTorch memory, this process has 7.00 GiB memory in use. Of the allocated memory \
                   6.00 GiB is allocated by PyTorch, with 0.50 GiB allocated in private pools (e.g., CUDA Graphs), \
                   and 0.25 GiB is reserved by PyTorch but unallocated.";
        let f = of_device(new);
        assert_eq!((f.device_index, f.other_process_bytes), (Some(3), gib(3.0)));
        assert_eq!((f.process_in_use_bytes, f.allocated_bytes), (gib(7.0), gib(6.0)));
        assert_eq!((f.private_pool_bytes, f.reserved_unallocated_bytes), (gib(0.5), gib(0.25)));
    }

    #[test]
    fn a_message_ends_where_the_next_begins() {
        let two = "CUDA out of memory. Tried to allocate 1.00 GiB\nCUDA out of memory. Tried to allocate 2.00 GiB \
                   (GPU 0; 4.00 GiB total capacity)";
        assert_eq!(of_device(message(two, 0, 0)).total_bytes, None);
        assert_eq!(of_device(message(two, 46, 46)).requested_bytes, gib(2.0));
    }

    #[test]
    fn versions_are_of_torch_itself() {
        assert_eq!(torch_version("torch==2.1.0+cu121").as_deref(), Some("2.1.0"));
        assert_eq!(torch_version("PyTorch version: 1.13.1").as_deref(), Some("1.13.1"));
        assert_eq!(torch_version("conda-bld/pytorch-0.1.9_1487346124464/work").as_deref(), Some("0.1.9"));
        assert_eq!(torch_version("pytorch-lightning==2.0.1"), None);
        assert_eq!(torch_version("pytorch_1524584710464"), None);
    }
}
