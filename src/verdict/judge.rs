//! One verdict from all that is known about a trial.
//!
//! # Precedence
//! The first rule that holds decides.  How a process ended (could not start, exit status, signal, ended by us) is kept
//! apart in [`ProcessEnd`]; nothing here merges two of them.
//!
//! 1. The user stopped it: `interrupted`.  It could not be started: `failed`.
//! 2. Without a `hello` of the launched process nothing else can be trusted: with settings to apply, or after a clean
//!    end, it is `agent_missing`; a baseline that failed is judged by its end (rules 3 and 5).
//! 3. **Memory ran out**: `oom`.  Evidence, strongest first: the kernel killed a process of the trial's cgroup; the
//!    agent saw an exception that ended the script; it saw one that the script caught (the batch was lost, whatever
//!    the exit status); the output says so and the end is bad; the output says so although the end is good (a soft
//!    out-of-memory).  A library that probes by itself is excepted: the exception did not end the script and the next
//!    step shows that no batch was lost.  This stands before the time-outs: a rank out of memory makes the others hang.
//! 4. Ended by us for time, or a rank was lost: `timeout`; because the kernel could only drop and read again what the
//!    script needs: `thrash`.
//! 5. A signal, a bad exit status, an exception, or no last record of the agent: `failed`.  An agent that refused to
//!    go on: `not_applied`.
//! 6. A hook of the agent failed: the trial does not count (`failed`; `not_applied` when the hook turns a requested
//!    knob).
//! 7. A requested setting was not read back as asked: `not_applied`.
//! 8. Loss or gradients are not the baseline's: `diverged`.
//! 9. The allocator thrashes: `thrash`.
//! 10. Nothing was timed, or fewer steps than asked although the script went on: `failed`.
//! 11. Other load spoiled the measurement: `disturbed`.
//! 12. Otherwise, and only then: `fit`.

use crate::model::event::{EndReason, KnobReport, Phase};
use crate::model::observation::{Disturbance, ProcessEnd, Timing};
use crate::model::{Configuration, Failure, Verdict};

use super::parity::Parity;
use super::thrash::Thrash;

/// Share of time stolen by the hypervisor from which a measurement is spoiled.
const STEAL: f64 = 0.05;
/// Cores that other processes may use, and share of time in which somebody waited for a core.  Pressure alone is not
/// enough: a trial with more threads than cores makes its own.
const OTHER_CORES: f64 = 0.5;
const CPU_PRESSURE: f64 = 0.25;

/// The agent saw memory run out.
#[derive(Debug, Clone, PartialEq)]
pub struct OomFact {
    /// `cuda:0`, `cpu`.
    pub device: String,
    /// Where in the script's life.
    pub phase: Phase,
    /// The exception's text.
    pub message: String,
    /// It reached the end of the script.
    pub fatal: bool,
    /// The batch was lost ([`super::timing::step_lost`]); true where nobody knows.
    pub step_lost: bool,
}

impl OomFact {
    /// A library caught its own exception and went another way; the script lost nothing.
    fn probe(&self) -> bool {
        !self.fatal && !self.step_lost && self.phase == Phase::Train
    }
}

/// What is known about a trial when its last process is gone.
#[derive(Debug, Clone)]
pub struct TrialFacts {
    /// How the launched process ended.
    pub end: ProcessEnd,
    /// A hello with the right nonce came from the launched process or a descendant.
    pub hello: bool,
    /// Read-backs in the order in which they were written (all ranks); of each knob the last one counts.
    pub knobs: Vec<KnobReport>,
    /// What was asked for.
    pub settings: Configuration,
    /// Throughput, if steady steps were seen.
    pub timing: Option<Timing>,
    /// Every out-of-memory record of every rank.
    pub oom_events: Vec<OomFact>,
    /// Processes that the kernel killed for memory in the trial's cgroup; `None` when nobody counted.
    pub oom_kills: Option<u64>,
    /// What the output says went wrong, if the end is bad.
    pub failure: Option<Failure>,
    /// The first line of the output that speaks of memory having run out ([`super::failure::oom_line`]).
    pub oom_text: Option<String>,
    /// Hooks of the agent that failed: `hook: error`.
    pub faults: Vec<String>,
    /// The agent's last record (the worst of all ranks).
    pub end_reason: Option<EndReason>,
    /// Steps finished.
    pub steps: u64,
    /// Steps that the schedule asks for.
    pub min_steps: u32,
    /// The allocator thrashes.
    pub thrash: Option<Thrash>,
    /// Comparison with the baseline; `None` for the baseline itself.
    pub parity: Option<Parity>,
    /// Load that was not ours.
    pub disturbance: Disturbance,
    /// Of several ranks: the line of the script at which each was last seen.
    pub places: Vec<(u32, String)>,
}

/// The judgement, and one sentence why.
pub fn judge(facts: &TrialFacts) -> (Verdict, String) {
    stopped(facts)
        .or_else(|| no_hello(facts))
        .or_else(|| out_of_memory(facts))
        .or_else(|| ended_by_us(facts))
        .or_else(|| bad_end(facts))
        .or_else(|| agent_fault(facts))
        .or_else(|| not_applied(facts))
        .or_else(|| diverged(facts))
        .or_else(|| facts.thrash.as_ref().map(|t| (Verdict::Thrash, t.to_string())))
        .or_else(|| too_short(facts))
        .or_else(|| disturbed(facts))
        .unwrap_or_else(|| fit(facts))
}

type Rule = Option<(Verdict, String)>;

fn stopped(facts: &TrialFacts) -> Rule {
    match &facts.end {
        ProcessEnd::Interrupted => Some((Verdict::Interrupted, "stopped by the user".to_owned())),
        ProcessEnd::NotStarted { error } => {
            Some((Verdict::Failed, format!("the command could not be started: {error}")))
        }
        _ => None,
    }
}

fn no_hello(facts: &TrialFacts) -> Rule {
    let clean = facts.end == ProcessEnd::Exited { code: 0 };
    if facts.hello || (facts.settings.is_baseline() && !clean) {
        return None;
    }
    let what = format!("the agent did not report from the launched process, which {}", ending(&facts.end));
    Some((Verdict::AgentMissing, what))
}

fn out_of_memory(facts: &TrialFacts) -> Rule {
    let oom = |why: String| Some((Verdict::Oom, why));
    let clean = facts.end == ProcessEnd::Exited { code: 0 };
    if let Some(n) = facts.oom_kills.filter(|n| *n > 0) {
        let processes = if n == 1 { "a process".to_owned() } else { format!("{n} processes") };
        return oom(format!("the kernel killed {processes} at the memory limit"));
    }
    let real: Vec<&OomFact> = facts.oom_events.iter().filter(|e| !e.probe()).collect();
    if let Some(e) = real.iter().find(|e| e.fatal).or(real.first()) {
        let caught = if e.fatal { "" } else { "; the script caught it and lost a batch" };
        let message = first_line(&e.message);
        return oom(format!("{} ran out of memory {}: {message}{caught}", e.device, phase_words(e.phase)));
    }
    match &facts.failure {
        Some(f) if !clean && f.kind.is_memory() && !killed_otherwise(facts, f) => {
            return oom(f.cause.clone());
        }
        _ => {}
    }
    match &facts.oom_text {
        // All that the output speaks of are the probes which the agent saw.
        Some(line) if clean && facts.oom_events.is_empty() => {
            oom(format!("ended with status 0, but its output says: {}", first_line(line)))
        }
        _ => None,
    }
}

/// All that speaks of memory is a SIGKILL (of a rank, which its launcher tells of), and the kernel has counted none.
fn killed_otherwise(facts: &TrialFacts, failure: &Failure) -> bool {
    facts.oom_kills == Some(0)
        && facts.oom_text.is_none()
        && failure.fields.signal.as_deref() == Some("SIGKILL")
        && failure.fields.requested_bytes.is_none()
}

fn ended_by_us(facts: &TrialFacts) -> Rule {
    let verdict = match facts.end {
        ProcessEnd::TimedOut | ProcessEnd::Hung | ProcessEnd::RankLost => Verdict::Timeout,
        ProcessEnd::Thrashed => Verdict::Thrash,
        _ => return None,
    };
    let steps = match facts.steps {
        0 => "before its first step".to_owned(),
        n => format!("after {n} steps"),
    };
    Some((verdict, format!("{} {steps}{}", ending(&facts.end), last_seen(facts))))
}

/// `; rank 0 was last seen at train.py:30, rank 1 at train.py:27`: the one that is elsewhere holds the others up.
fn last_seen(facts: &TrialFacts) -> String {
    let each: Vec<String> =
        facts.places.iter().map(|(rank, place)| format!("rank {rank} at {place}")).collect();
    if each.is_empty() { String::new() } else { format!("; last seen: {}", each.join(", ")) }
}

fn bad_end(facts: &TrialFacts) -> Rule {
    let failed = |why: String| Some((Verdict::Failed, why));
    let because = match &facts.failure {
        Some(f) if killed_otherwise(facts, f) => {
            "; one of its processes was killed by SIGKILL, and not for its memory".to_owned()
        }
        Some(f) => format!("; {}", f.evidence.as_deref().map_or(f.cause.as_str(), first_line)),
        None => String::new(),
    };
    if facts.end_reason == Some(EndReason::Refused) {
        let reason = facts.knobs.iter().rev().find_map(|k| k.reason.clone());
        let why = reason.unwrap_or_else(|| "the agent refused to go on".to_owned());
        return Some((Verdict::NotApplied, why));
    }
    match (&facts.end, facts.end_reason) {
        (ProcessEnd::Exited { code: 0 }, Some(EndReason::Exception)) => {
            failed(format!("an exception ended the script, although its status is 0{because}"))
        }
        (ProcessEnd::Exited { code: 0 }, None) => {
            failed(format!("ended with status 0 without the agent's last record{because}"))
        }
        (ProcessEnd::Exited { code: 0 }, Some(_)) => None,
        (end, _) => failed(format!("{}{because}", ending(end))),
    }
}

fn agent_fault(facts: &TrialFacts) -> Rule {
    let fault = facts.faults.first()?;
    let hook = fault.split(':').next().unwrap_or_default();
    let knob = facts.settings.0.keys().find(|k| hook.contains(k.name()));
    Some(match knob {
        Some(knob) => (Verdict::NotApplied, format!("the hook that turns {knob} failed: {fault}")),
        None => {
            (Verdict::Failed, format!("a hook of the agent failed, so the trial does not count: {fault}"))
        }
    })
}

fn not_applied(facts: &TrialFacts) -> Rule {
    for (knob, wanted) in &facts.settings.0 {
        let report = facts.knobs.iter().rev().find(|r| r.knob == *knob);
        let why = match report {
            None => "the agent did not read it back".to_owned(),
            Some(r) => match (&r.effective, &r.reason) {
                (Some(v), _) if v == wanted => continue,
                (Some(v), None) => format!("{v} is in force"),
                (Some(v), Some(reason)) => format!("{v} is in force: {reason}"),
                (None, Some(reason)) => reason.clone(),
                (None, None) => "it is not in force".to_owned(),
            },
        };
        return Some((Verdict::NotApplied, format!("{knob}={wanted} was not applied: {why}")));
    }
    None
}

fn diverged(facts: &TrialFacts) -> Rule {
    match &facts.parity {
        Some(Parity::Diverged(d)) => Some((Verdict::Diverged, d.to_string())),
        _ => None,
    }
}

fn too_short(facts: &TrialFacts) -> Rule {
    // Cut off by something else than the agent's own decision, or by the script's end, it may have been about to fail.
    let ended_well = |r| matches!(r, EndReason::ScriptEnd | EndReason::Covered | EndReason::Measured);
    let whole = facts.end_reason.is_some_and(ended_well);
    let why = match &facts.timing {
        None if facts.steps == 0 => {
            "it came to its end without an optimizer step; nothing was trained that could be measured"
                .to_owned()
        }
        None => format!("ended after {} steps; none of them could be timed", facts.steps),
        // A script that is over has no more steps to measure; of those that the agent measured, uneven ones at the
        // front were dropped as warm-up.
        Some(t) if t.steps < facts.min_steps && !whole => {
            format!("measured {} steps, {} were asked for", t.steps, facts.min_steps)
        }
        Some(_) => return None,
    };
    Some((Verdict::Failed, why))
}

fn disturbed(facts: &TrialFacts) -> Rule {
    let Disturbance { cpu_pressure, steal, other_cpu } = facts.disturbance;
    if steal > STEAL {
        return Some((
            Verdict::Disturbed,
            format!("the hypervisor took {:.0} % of the time away", 100.0 * steal),
        ));
    }
    let waited = cpu_pressure.is_none_or(|p| p > CPU_PRESSURE);
    (other_cpu > OTHER_CORES && waited)
        .then(|| (Verdict::Disturbed, format!("other processes used {other_cpu:.1} cores meanwhile")))
}

fn fit(facts: &TrialFacts) -> (Verdict, String) {
    let why = match &facts.timing {
        Some(t) if t.steps < facts.min_steps => {
            format!("ran within memory; {} steps is all that there was to time", t.steps)
        }
        Some(t) => format!("ran within memory, {} steady steps timed", t.steps),
        None => "ran within memory".to_owned(),
    };
    (Verdict::Fit, why)
}

fn ending(end: &ProcessEnd) -> String {
    match end {
        ProcessEnd::NotStarted { error } => format!("could not be started: {error}"),
        ProcessEnd::Exited { code } => format!("ended with status {code}"),
        ProcessEnd::Signaled { signal } => format!("was killed by signal {}", signal_name(*signal)),
        ProcessEnd::TimedOut => "took too long and was ended".to_owned(),
        ProcessEnd::Hung => "stood still and was ended".to_owned(),
        ProcessEnd::Thrashed => {
            "had no memory left for the files it works with, which were read from disk again and again, and was ended"
                .to_owned()
        }
        ProcessEnd::RankLost => "lost a rank, and the others were ended".to_owned(),
        ProcessEnd::Interrupted => "was stopped by the user".to_owned(),
    }
}

fn phase_words(phase: Phase) -> &'static str {
    match phase {
        Phase::Setup => "while it was set up",
        Phase::Train => "while training",
        Phase::Eval => "while evaluating",
        Phase::Save => "while saving",
    }
}

fn first_line(text: &str) -> &str {
    text.lines().map(str::trim).find(|l| !l.is_empty()).unwrap_or(text)
}

/// `SIGKILL`, or the number of a signal that has no name here.
pub fn signal_name(signal: i32) -> String {
    match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        10 => "SIGUSR1",
        11 => "SIGSEGV",
        12 => "SIGUSR2",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        n => return format!("signal {n}"),
    }
    .to_owned()
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
