//! Reads what a failed program left on its terminal.
//!
//! # Theory of operation
//! 1. [`text`] removes colours, prefixes, bars and echoed source lines, and cuts long logs down.
//! 2. [`signs`] finds every phrase that speaks of memory (or of what is mistaken for it), [`ends`] the exit status and
//!    signal that launchers and schedulers state.
//! 3. [`context`] tells an exception from a log line, from advice, and from a failure that the program handled, and
//!    sees whether the program went on afterwards.
//! 4. Of the phrases that the program did not survive the **first** is the cause: what comes later follows from it.
//!    Named causes go before a dead worker, and that before a bare signal.  Allocations that fail after the
//!    accelerator's context was broken (a failed assertion, an illegal access) are consequences.
//! 5. [`numbers`] reads the figures of the message that decided, [`advice`] says what to do.
//!
//! What is not understood is `not_memory`: only positive evidence makes a memory failure.

mod advice;
mod context;
mod ends;
mod numbers;
mod signs;
mod size;
mod text;

use std::sync::LazyLock;

use regex::Regex;

use crate::model::observation::ProcessEnd;
use crate::model::{Failure, FailureFields, FailureKind};

use context::{Form, form, survived};
use ends::End;
use signs::{Hit, Sign};
use size::compile;
pub use text::decode;

/// Reads a program's output.  `end` is how the process ended, where that is known; what the text itself states about
/// exit status and signal (of a rank, a worker) is more exact and goes first.
pub fn read_failure(text: &str, end: Option<&ProcessEnd>) -> Failure {
    let log = text::clean(&text::digest(text));
    let known = ends::read(&log, end);
    let clean_end = matches!(end, Some(ProcessEnd::Exited { code: 0 }));
    let hits = signs::find(&log);
    let deadly = deadly(&log, &hits, clean_end);
    let decision = decide(&log, &deadly, &known, end);
    let kind = decision.kind;

    let mut fields = match decision.hit {
        Some(hit) => figures(&log, kind, &deadly, &hit),
        None => mentioned(&log, &hits),
    };
    fields.torch_version = numbers::torch_version(&log);
    fields.exit_code = known.code;
    fields.signal = known.signal;
    let fragmentation = if kind == FailureKind::GpuOom { numbers::fragmentation(&fields) } else { None };
    let at = decision.hit.map(|h| h.start).or(decision.at);
    let evidence = at.map(|at| line_at(&log, at)).or_else(|| last_error(&log));
    let mut failure =
        Failure { kind, fragmentation, fields, cause: String::new(), evidence, next: Vec::new() };
    advice::write(&mut failure, clean_end);
    failure
}

/// The first line that says memory ran out, also where the program handled it; `None` when only a library's own
/// search for a faster algorithm speaks of it.
pub fn oom_line(text: &str) -> Option<String> {
    let log = text::clean(&text::digest(text));
    signs::find(&log)
        .into_iter()
        .filter(|h| matches!(h.sign, Sign::Gpu | Sign::Library | Sign::Host | Sign::Shm))
        .filter(|h| form(&log, h) != Form::Advice)
        .map(|h| line_at(&log, h.start))
        .find(|line| !PROBE.is_match(line))
}

/// Libraries that try an algorithm and go on with another one.
static PROBE: LazyLock<Regex> = LazyLock::new(|| {
    compile(r"autotun|benchmark(?:ing)? (?:choice|failed)|choice|OutOfResources|select_algorithm")
});

struct Decision {
    kind: FailureKind,
    hit: Option<Hit>,
    at: Option<usize>,
}

/// The phrases that the program did not survive.
fn deadly(log: &str, hits: &[Hit], clean_end: bool) -> Vec<Hit> {
    let broken = hits.iter().find(|h| h.sign == Sign::Broken).map(|h| h.start);
    hits.iter()
        .filter(|h| h.sign != Sign::Broken)
        // A message that only names what the runtime's boilerplate refers to is no phrase of its own.
        .filter(|h| !line_at(log, h.start).contains("Search for `"))
        .filter(|h| !(matches!(h.sign, Sign::Gpu | Sign::Library) && broken.is_some_and(|b| b < h.start)))
        .filter(|h| {
            let form = form(log, h);
            !survived(log, h, form, log.len(), clean_end)
        })
        .copied()
        .collect()
}

/// Other reasons to be killed.
static OTHER_REASON: LazyLock<Regex> = LazyLock::new(|| {
    compile(
        r"DUE TO (?:TIME LIMIT|PREEMPTION|NODE FAILURE)|TERM_(?:RUNLIMIT|OWNER|ADMIN|CPULIMIT|PREEMPT)|walltime [^\n]{0,40}exceed|exceeded (?:the )?(?:time|wall)|\bTIMEOUT\b [^\n]{0,30}CANCELLED|DeadlineExceeded|by user",
    )
});

/// An exception that is not about a child's or a peer's death.
static EXCEPTION: LazyLock<Regex> =
    LazyLock::new(|| compile(r"(?m)^(?:[\w.]+\.)?(\w*(?:Error|Exception|Interrupt))\b(?:: ([^\n]*))?"));
static FOLLOWS_A_DEATH: LazyLock<Regex> = LazyLock::new(|| {
    compile(
        r"ChildFailed|CalledProcess|ProcessExited|ProcessRaised|BrokenPipe|ConnectionReset|ConnectionRefused|EOFError|DistBackend|DistNetwork|TimeoutExpired|RayActor|WorkerCrashed|TerminatedWorker|BrokenProcessPool|SignalException|DataLoader worker|Connection (?:closed|reset)|broken pipe|SystemExit|\bEmpty\b",
    )
});

static BARE_KILL: LazyLock<Regex> = LazyLock::new(|| {
    compile(
        r"(?m)^\s*Killed\s*$|line \d+:\s+\d+ (?:Killed|已杀死|Getötet|Processus arrêté|Matado|Terminado \(killed\))|^(?:zsh|bash|sh|fish): (?:line \d+: )?(?:\d+ )?killed\b|^\[\d+\]\s*[-+]?\s*(?:\d+ )?killed\b|^\s*Killed: 9|\bsrun: error: [^\n]*: Killed\b|^\s*(?:已杀死|已终止 \(核心|Getötet|Tué|Matado|Ucciso|Убито|Morto|強制終了|Processus arrêté)\s*$",
    )
});
static TCMALLOC: LazyLock<Regex> =
    LazyLock::new(|| compile(r"tcmalloc: large alloc[^\n]*\n(?:[^\n]*\n)?\s*\^C"));
static BUS_ERROR: LazyLock<Regex> = LazyLock::new(|| compile(r"\bBus error\b|\bSIGBUS\b"));
static PINNING: LazyLock<Regex> =
    LazyLock::new(|| compile(r"in pin memory thread|, in pin_memory\b|\bpinned_?memory\b|_pin_memory_loop"));
static NO_SPACE: LazyLock<Regex> = LazyLock::new(|| compile(r"No space left on device|\[Errno 28\]|\(28\)"));
static IN_SHM: LazyLock<Regex> = LazyLock::new(|| {
    compile(
        r"/dev/shm|</?torch_|\bSemLock\b|multiprocessing[/\\](?:heap|synchronize|shared_memory|context)\.py|shared memory|shmem|\bshm_",
    )
});
static NCCL_SYSTEM: LazyLock<Regex> = LazyLock::new(|| compile(r"\bncclSystemError\b"));
static LAST_ERROR: LazyLock<Regex> = LazyLock::new(|| compile(r"Last error:\s*(\S[^\n]*)"));

fn decide(log: &str, deadly: &[Hit], known: &End, end: Option<&ProcessEnd>) -> Decision {
    let of = |kind, hit: &Hit| Decision { kind, hit: Some(*hit), at: Some(hit.start) };
    let named =
        deadly.iter().filter(|h| h.sign != Sign::Worker).find_map(|h| Some((named_cause(log, h)?, h)));
    if let Some((kind, hit)) = named {
        return of(kind, hit);
    }
    if let Some(at) = shared_memory(log) {
        return Decision { kind: FailureKind::ShmOom, hit: None, at: Some(at) };
    }
    let other = other_exception(log);
    if let Some(worker) = deadly.iter().find(|h| h.sign == Sign::Worker) {
        return match other {
            Some(at) => Decision { kind: FailureKind::NotMemory, hit: None, at: Some(at) },
            None => of(FailureKind::WorkerKilled, worker),
        };
    }
    let nothing = Decision { kind: FailureKind::NotMemory, hit: None, at: other };
    if OTHER_REASON.is_match(log) {
        return nothing;
    }
    let from_process = known.at.is_none() && known.signal.is_some();
    match known.signal.as_deref() {
        // A launcher's statement about its rank, or the kernel's about the process, stands above other ranks' words.
        Some("SIGKILL") if other.is_none() || from_process || known.at.is_some() => {
            return Decision { kind: FailureKind::HostOom, hit: None, at: known.at };
        }
        Some("SIGBUS") => return Decision { kind: FailureKind::ShmOom, hit: None, at: known.at },
        _ => {}
    }
    let ended_well = matches!(end, Some(ProcessEnd::Exited { code: 0 }));
    if other.is_none() && !ended_well {
        if let Some(m) = BARE_KILL.find(log).or_else(|| TCMALLOC.find(log)) {
            return Decision { kind: FailureKind::HostOom, hit: None, at: Some(m.start()) };
        }
        if let Some(m) = BUS_ERROR.find(log) {
            return Decision { kind: FailureKind::ShmOom, hit: None, at: Some(m.start()) };
        }
    }
    nothing
}

/// What a phrase means where it stands; `None` when it means nothing after all.
fn named_cause(log: &str, hit: &Hit) -> Option<FailureKind> {
    let phrase = &log[hit.start..hit.end];
    let line = line_at(log, hit.start);
    match hit.sign {
        Sign::Gpu
            if ["cv2", "OpenCV", "java.lang", "ray.exceptions", "Container killed"]
                .iter()
                .any(|w| line.contains(w)) =>
        {
            Some(FailureKind::HostOom)
        }
        // Pinned host memory is refused by the accelerator's runtime, with the words for device memory.
        Sign::Gpu if PINNING.is_match(log) && !log.contains("ried to allocate") => Some(FailureKind::HostOom),
        Sign::Gpu => Some(FailureKind::GpuOom),
        Sign::Library => Some(FailureKind::GpuOomLibrary),
        Sign::Host => Some(FailureKind::HostOom),
        Sign::Files => Some(FailureKind::FdLimit),
        Sign::Shm if phrase.contains("unable to") => shm_errno(text::cut(log, hit.start, 400)),
        Sign::Shm => Some(FailureKind::ShmOom),
        Sign::Worker | Sign::Broken => None,
    }
}

/// PyTorch appends the reason to its messages about shared-memory files.
fn shm_errno(message: &str) -> Option<FailureKind> {
    static ERRNO: LazyLock<Regex> = LazyLock::new(|| compile(r">[^\n]{0,40}: ([A-Za-z ]+) \((\d+)\)"));
    match ERRNO.captures(message).and_then(|c| c[2].parse::<u32>().ok()) {
        None | Some(28 | 11 | 122) => Some(FailureKind::ShmOom),
        Some(12) => Some(FailureKind::HostOom),
        Some(23 | 24) => Some(FailureKind::FdLimit),
        Some(_) => None,
    }
}

/// Words that mean shared memory only where they stand: "no space left" beside `/dev/shm` or in a semaphore, and
/// NCCL's system error without a reason of its own (mostly a small `/dev/shm`).
fn shared_memory(log: &str) -> Option<usize> {
    for m in NO_SPACE.find_iter(log) {
        let from = m.start().saturating_sub(600);
        let near = text::cut(log, from, m.start() - from + 300);
        if IN_SHM.is_match(near) {
            return Some(m.start());
        }
    }
    let nccl = NCCL_SYSTEM.find(log)?;
    match LAST_ERROR.captures(log) {
        Some(reason) if !IN_SHM.is_match(&reason[1]) => None,
        _ => Some(nccl.start()),
    }
}

/// The first exception of the program's own.
fn other_exception(log: &str) -> Option<usize> {
    EXCEPTION
        .captures_iter(log)
        .find(|c| !FOLLOWS_A_DEATH.is_match(&c[0]) && &c[1] != "RuntimeError" || own_runtime_error(c))
        .and_then(|c| c.get(0))
        .map(|m| m.start())
}

fn own_runtime_error(c: &regex::Captures) -> bool {
    let message = c.get(2).map_or("", |m| m.as_str());
    &c[1] == "RuntimeError" && !message.starts_with("DataLoader worker") && !FOLLOWS_A_DEATH.is_match(message)
}

/// The figures of the message that decided.  A bare first line is completed from the same failure's longer words.
fn figures(log: &str, kind: FailureKind, deadly: &[Hit], hit: &Hit) -> FailureFields {
    match kind {
        FailureKind::GpuOom => {
            let read = |h: &Hit| numbers::of_device(numbers::message(log, line_start(log, h.start)));
            let first = read(hit);
            if first.requested_bytes.is_some() {
                return first;
            }
            let gpu = deadly.iter().filter(|h| h.sign == Sign::Gpu);
            gpu.map(read).find(|f| f.requested_bytes.is_some()).unwrap_or(first)
        }
        FailureKind::GpuOomLibrary => FailureFields::default(),
        _ => {
            let from = line_start(log, hit.start);
            numbers::of_host(text::cut(log, from, 600), log)
        }
    }
}

/// Figures of a message that the program survived.
fn mentioned(log: &str, hits: &[Hit]) -> FailureFields {
    let gpu = hits.iter().filter(|h| h.sign == Sign::Gpu);
    gpu.map(|h| numbers::of_device(numbers::message(log, line_start(log, h.start))))
        .find(|f| f.requested_bytes.is_some())
        .unwrap_or_default()
}

fn line_start(log: &str, at: usize) -> usize {
    log[..at].rfind('\n').map_or(0, |i| i + 1)
}

fn line_at(log: &str, at: usize) -> String {
    let line = log[line_start(log, at)..].lines().next().unwrap_or_default().trim();
    text::cut(line, 0, 400).to_owned()
}

fn last_error(log: &str) -> Option<String> {
    EXCEPTION.find_iter(log).last().map(|m| line_at(log, m.start()))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
