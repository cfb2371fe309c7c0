//! Which of the phrases that the program did not survive is the cause.

use std::sync::LazyLock;

use regex::Regex;

use crate::model::FailureKind;
use crate::model::observation::ProcessEnd;

use super::context::{form, survived};
use super::ends::End;
use super::signs::{Hit, Sign};
use super::size::compile;
use super::{line_at, line_start, text};

/// What was decided, and on which phrase or place.
pub struct Decision {
    /// What happened.
    pub kind: FailureKind,
    /// The phrase, if one decided.
    pub hit: Option<Hit>,
    /// The place in the text, if there is one.
    pub at: Option<usize>,
}

/// Of a text with more phrases than this only the first and the last ones are looked at.
const MANY: usize = 256;

/// The phrases that the program did not survive.
pub fn deadly(log: &str, hits: &[Hit], clean_end: bool) -> Vec<Hit> {
    let broken = hits.iter().find(|h| h.sign == Sign::Broken).map(|h| h.start);
    let others = other_exceptions(log);
    let failed_later = |h: &Hit| others.last().is_some_and(|at| *at > h.end);
    let count = hits.len();
    hits.iter()
        .enumerate()
        .filter(|(i, _)| *i < MANY || *i + MANY >= count)
        .map(|(_, h)| h)
        .filter(|h| h.sign != Sign::Broken)
        // The runtime's boilerplate names the error that stands above it.
        .filter(|h| !log[line_start(log, h.start)..h.start].contains("Search for "))
        .filter(|h| !(matches!(h.sign, Sign::Gpu | Sign::Library) && broken.is_some_and(|b| b < h.start)))
        .filter(|h| !survived(log, h, form(log, h), failed_later(h), clean_end))
        .copied()
        .collect()
}

/// Other reasons to be killed.
static OTHER_REASON: LazyLock<Regex> = LazyLock::new(|| {
    compile(
        r"DUE TO (?:TIME LIMIT|PREEMPTION|NODE FAILURE)|TERM_(?:RUNLIMIT|OWNER|ADMIN|CPULIMIT|PREEMPT)|walltime [^\n]{0,40}exceed|exceeded (?:the )?(?:time|wall)|\bTIMEOUT\b [^\n]{0,30}CANCELLED|DeadlineExceeded|(?:killed|cancell?ed|stopped) by (?:the )?user",
    )
});

/// An exception that is not about a child's or a peer's death.
static EXCEPTION: LazyLock<Regex> =
    LazyLock::new(|| compile(r"(?m)^(?-i:(?:[\w.]+\.)?(\w*(?:Error|Exception|Interrupt)))\b(?:: ([^\n]*))?"));
static FOLLOWS_A_DEATH: LazyLock<Regex> = LazyLock::new(|| {
    compile(
        r"ChildFailed|CalledProcess|ProcessExited|ProcessRaised|BrokenPipe|ConnectionReset|ConnectionRefused|EOFError|DistBackend|DistNetwork|TimeoutExpired|RayActor|WorkerCrashed|TerminatedWorker|BrokenProcessPool|SignalException|DataLoader worker|Connection (?:closed|reset)|broken pipe|SystemExit|\bEmpty\b",
    )
});

/// The same failure in other words; wrapped by exceptions of frameworks.
static ABOUT_MEMORY: LazyLock<Regex> = LazyLock::new(|| {
    compile(r"OutOfMemory|MemoryError|out of memory|allocate memory|ALLOC_FAILED|Caught \w+ in")
});

static BARE_KILL: LazyLock<Regex> = LazyLock::new(|| {
    compile(
        r"(?m)^\s*Killed\s*$|(?:line|行|Zeile|ligne|línea|linea|linha|строка) \d+\s*:\s*\d+ (?:Killed|已杀死|Getötet|Processus arrêté|Matado|Terminado \(killed\))|^(?:zsh|bash|sh|fish): (?:line \d+: )?(?:\d+ )?killed\b|^\[\d+\]\s*[-+]?\s*(?:\d+ )?killed\b|^\s*Killed: 9|\bsrun: error: [^\n]*: Killed\b|^\s*(?:已杀死|已终止 \(核心|Getötet|Tué|Matado|Ucciso|Убито|Morto|強制終了|Processus arrêté)\s*$",
    )
});
static TCMALLOC: LazyLock<Regex> =
    LazyLock::new(|| compile(r"tcmalloc: large alloc[^\n]*\n(?:[^\n]*\n)?\s*\^C"));
static BUS_ERROR: LazyLock<Regex> = LazyLock::new(|| compile(r"\bBus error\b|\bSIGBUS\b"));
static PINNING: LazyLock<Regex> =
    LazyLock::new(|| compile(r"in pin memory thread|, in _?pin_memory\b|\(_pin_memory_loop\)"));
static NO_SPACE: LazyLock<Regex> = LazyLock::new(|| compile(r"No space left on device|\[Errno 28\]|\(28\)"));
static IN_SHM: LazyLock<Regex> = LazyLock::new(|| {
    compile(
        r"/dev/shm|</?torch_|\bSemLock\b|multiprocessing[/\\](?:heap|synchronize|shared_memory|context)\.py|shared memory|shmem|\bshm_",
    )
});
static NCCL_SYSTEM: LazyLock<Regex> = LazyLock::new(|| compile(r"\bncclSystemError\b"));
static LAST_ERROR: LazyLock<Regex> = LazyLock::new(|| compile(r"Last error:\s*(\S[^\n]*)"));

/// Which of the phrases, or of the program's end, is the cause.
pub fn decide(log: &str, deadly: &[Hit], known: &End, end: Option<&ProcessEnd>) -> Decision {
    let of = |kind, hit: &Hit| Decision { kind, hit: Some(*hit), at: Some(hit.start) };
    let named = deadly.iter().find_map(|h| Some((named_cause(log, h)?, h)));
    let unnamed = || deadly.iter().find(|h| h.sign == Sign::Unnamed).map(|h| (unnamed_cause(log, h), h));
    if let Some((kind, hit)) = named.or_else(unnamed) {
        return of(kind, hit);
    }
    if let Some(at) = shared_memory(log) {
        return Decision { kind: FailureKind::ShmOom, hit: None, at: Some(at) };
    }
    let other = other_exceptions(log).first().copied();
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
        // A launcher's word on the first rank to fail, or the kernel's on the process, stands above exceptions of
        // other ranks.
        Some("SIGKILL") if other.is_none() || from_process || known.root => {
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
        Sign::Unnamed | Sign::Worker | Sign::Broken => None,
    }
}

/// Memory of which side?  The line says it, or else the whole text.
fn unnamed_cause(log: &str, hit: &Hit) -> FailureKind {
    static DEVICE: LazyLock<Regex> =
        LazyLock::new(|| compile(r"\b(?:cuda|gpu|hip|rocm|xpu|npu|mps|vram|nccl|cudnn)|device memory"));
    static HOST: LazyLock<Regex> = LazyLock::new(|| compile(r"\b(?:cpu|ram|host|swap|malloc|runtime:)\b"));
    let line = line_at(log, hit.start);
    if !HOST.is_match(&line) && (DEVICE.is_match(&line) || DEVICE.is_match(log)) {
        FailureKind::GpuOom
    } else {
        FailureKind::HostOom
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
    let nccl = NCCL_SYSTEM.find(log).filter(|_| !log.contains("remote peer"))?;
    match LAST_ERROR.captures(log) {
        Some(reason) if !IN_SHM.is_match(&reason[1]) => None,
        _ => Some(nccl.start()),
    }
}

/// The exceptions of the program's own: not about memory, and not a consequence of another process's death.
fn other_exceptions(log: &str) -> Vec<usize> {
    EXCEPTION
        .captures_iter(log)
        .filter(|c| {
            let message = c.get(2).map_or("", |m| m.as_str());
            // A notebook writes the class above the traceback, too; its message stands below.
            let heading =
                c.get(0).is_some_and(|m| line_at(log, m.start()).ends_with("(most recent call last)"));
            !heading
                && !FOLLOWS_A_DEATH.is_match(&c[1])
                && !FOLLOWS_A_DEATH.is_match(message)
                && !ABOUT_MEMORY.is_match(&c[0])
        })
        .filter_map(|c| Some(c.get(0)?.start()))
        .collect()
}
