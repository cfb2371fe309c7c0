//! What a failure means and what to try, for people.

use super::rungs::{
    ACCUMULATE, ACCUMULATE_HERE, AMP, CHECKPOINT, CHECKPOINT_HERE, FEWER_AHEAD, FEWER_WORKERS, GIVE_BACK,
    NO_GRAPHS, NOT_PINNED, OFFLOAD, SEGMENTS, TRIM, UPDATE, WORKERS_END, WORKSPACE,
};
use crate::model::size::Bytes;
use crate::model::{Failure, FailureFields, FailureKind};

const SMALLER: &str =
    "a smaller effective batch (--batch lower): another training run, so only when asked for";
const TUNE: &str = "`autofit -- COMMAND` tries these in order, each with a real launch";

/// Fills `cause` and `next`.
pub fn write(failure: &mut Failure, clean_end: bool) {
    let f = &failure.fields;
    let (cause, next) = match failure.kind {
        FailureKind::GpuOom => (gpu_cause(f, failure.fragmentation), gpu_next(f, failure.fragmentation)),
        FailureKind::GpuOomLibrary => (
            "A library on the accelerator could not get the memory it needs (context, workspace or handle), although \
             it says so in its own words"
                .to_owned(),
            list(&[
                "leave memory for libraries: --memory-cap some 10 % below the device's size makes the allocator stop earlier",
                "end other processes on the device",
                WORKSPACE,
                ACCUMULATE,
                AMP,
                CHECKPOINT,
                TUNE,
            ]),
        ),
        FailureKind::HostOom => (host_cause(f), host_next(f)),
        FailureKind::ShmOom => (
            "Shared memory (/dev/shm) ran out; DataLoader workers hand their batches over through it".to_owned(),
            list(&[
                FEWER_AHEAD,
                FEWER_WORKERS,
                "a larger /dev/shm: `docker run --shm-size=8g` or --ipc=host; in Kubernetes an emptyDir with medium: Memory",
                "torch.multiprocessing.set_sharing_strategy('file_system') where it cannot be made larger",
            ]),
        ),
        FailureKind::WorkerKilled => (
            "A DataLoader worker died and the text does not say of what; the usual cause is host memory".to_owned(),
            list(&[
                "look for `oom-kill` in `dmesg` or in the scheduler's report",
                FEWER_WORKERS,
                FEWER_AHEAD,
                WORKERS_END,
            ]),
        ),
        FailureKind::FdLimit => (
            "Too many files are open; tensors that workers hand over each hold one".to_owned(),
            list(&[
                "a higher limit: `ulimit -n 65536` before the start (systemd: LimitNOFILE)",
                FEWER_AHEAD,
                FEWER_WORKERS,
                "torch.multiprocessing.set_sharing_strategy('file_system')",
            ]),
        ),
        FailureKind::NotMemory => other(failure, clean_end),
    };
    failure.cause = cause;
    failure.next = next;
}

fn list(items: &[&str]) -> Vec<String> {
    items.iter().map(|s| (*s).to_owned()).collect()
}

fn size(bytes: Option<u64>) -> Option<String> {
    bytes.map(|b| Bytes(b).to_string())
}

fn gpu_cause(f: &FailureFields, fragmentation: Option<bool>) -> String {
    let device = f.device_index.map_or_else(|| "The accelerator".to_owned(), |i| format!("Accelerator {i}"));
    let mut text = match size(f.requested_bytes) {
        Some(n) => format!("{device} could not give another {n}"),
        None => format!("{device} ran out of memory"),
    };
    match (f.requested_bytes, f.total_bytes) {
        (Some(r), Some(t)) if r > t => {
            return format!("{text}: one allocation is larger than the whole device ({})", Bytes(t));
        }
        _ => {}
    }
    if let Some(total) = size(f.total_bytes) {
        let of = if f.free_bytes.is_some() { "" } else { " in all" };
        text += &format!("; it has {total}{of}");
        if let Some(free) = size(f.free_bytes) {
            text += &format!(", {free} free");
        }
    }
    if let (Some(limit), true) = (size(f.allowed_bytes), limited(f)) {
        text += &format!("; this process may use only {limit}");
    }
    if let Some(other) = f.other_process_bytes.filter(|o| *o > 0) {
        text += &format!("; other processes hold {}", Bytes(other));
    } else if foreign(f) {
        text += "; most of it is held by something else than this process's PyTorch";
    }
    if fragmentation == Some(true) {
        let idle = f
            .reserved_unallocated_bytes
            .or_else(|| Some(f.reserved_total_bytes?.saturating_sub(f.allocated_bytes?)));
        text += &format!("; PyTorch itself holds {} unused, in pieces", size(idle).unwrap_or_default());
    }
    text
}

/// The limit of the process was met, not the device's.
fn limited(f: &FailureFields) -> bool {
    match (f.allowed_bytes, f.total_bytes) {
        (Some(a), Some(t)) => a < t,
        (Some(_), None) => true,
        _ => false,
    }
}

/// PyTorch holds little of a device that is full.
fn foreign(f: &FailureFields) -> bool {
    match (f.allocated_bytes, f.total_bytes, f.free_bytes) {
        (Some(a), Some(t), Some(free)) => {
            let idle = f.reserved_unallocated_bytes.unwrap_or(0);
            let ours = f.reserved_total_bytes.unwrap_or(a + idle).max(f.process_in_use_bytes.unwrap_or(0));
            !limited(f) && ours < t / 2 && free < t / 4
        }
        _ => false,
    }
}

fn gpu_next(f: &FailureFields, fragmentation: Option<bool>) -> Vec<String> {
    let mut next = Vec::new();
    if f.other_process_bytes.is_some_and(|b| b > 0) || foreign(f) {
        next.push(
            "end the other processes on the device, or choose another one (nvidia-smi shows them)".to_owned(),
        );
    }
    if let (true, Some(limit)) = (limited(f), f.allowed_bytes) {
        next.push(format!(
            "the process limits itself to {}: raise that limit if the device has more",
            Bytes(limit)
        ));
    }
    let giant = matches!((f.requested_bytes, f.total_bytes), (Some(r), Some(t)) if r > t);
    if fragmentation != Some(false) && !giant {
        next.push(SEGMENTS.to_owned());
    }
    if fragmentation == Some(true) {
        next.push(GIVE_BACK.to_owned());
    }
    if f.private_pool_bytes.is_some_and(|b| b > 0) {
        next.push(NO_GRAPHS.to_owned());
    }
    next.extend(list(&[ACCUMULATE, AMP]));
    if giant {
        // Computing again or keeping elsewhere makes no single tensor smaller.
        next.extend(list(&[SMALLER, TUNE]));
        return next;
    }
    next.extend(list(&[CHECKPOINT, UPDATE]));
    if fragmentation == Some(false) {
        next.push(SEGMENTS.to_owned());
    }
    next.extend(list(&[OFFLOAD, SMALLER, TUNE]));
    next
}

fn host_cause(f: &FailureFields) -> String {
    match (size(f.requested_bytes), size(f.total_bytes), f.signal.as_deref()) {
        (Some(n), _, _) => format!("The host could not give another {n} of memory"),
        (None, Some(limit), _) => format!("The job was ended at its memory limit of {limit} on the host"),
        (None, None, Some("SIGKILL")) => {
            "The process was killed from outside, most likely because the host's or the job's memory ran out"
                .to_owned()
        }
        _ => "Memory of the host ran out".to_owned(),
    }
}

fn host_next(f: &FailureFields) -> Vec<String> {
    let mut next = Vec::new();
    if f.requested_bytes.is_none() && f.total_bytes.is_none() {
        next.push(
            "make sure: `dmesg | grep -i oom`, or the scheduler's report (sacct, bjobs, kubectl describe)"
                .to_owned(),
        );
    }
    next.extend(list(&[
        FEWER_WORKERS,
        FEWER_AHEAD,
        WORKERS_END,
        NOT_PINNED,
        TRIM,
        ACCUMULATE_HERE,
        CHECKPOINT_HERE,
        "a higher limit of the job or the container",
        TUNE,
    ]));
    next
}

fn other(failure: &Failure, clean_end: bool) -> (String, Vec<String>) {
    if clean_end || failure.fields.exit_code == Some(0) {
        return ("The program ended well; memory is mentioned at most".to_owned(), Vec::new());
    }
    let cause = match (&failure.evidence, failure.fields.signal.as_deref()) {
        (_, Some("SIGINT")) => "Somebody interrupted the program".to_owned(),
        (_, Some(signal @ ("SIGSEGV" | "SIGILL" | "SIGFPE" | "SIGABRT"))) => {
            format!("The program crashed ({signal}); that is not a lack of memory")
        }
        (Some(line), _) => format!("Not a lack of memory: {line}"),
        (None, Some(signal)) => {
            format!("The program was ended by {signal}; nothing says that memory ran out")
        }
        (None, None) => "Nothing in the text says that memory ran out".to_owned(),
    };
    (cause, Vec::new())
}
