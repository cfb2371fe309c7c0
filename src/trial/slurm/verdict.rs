//! How a job ended, and what its node wrote -> what becomes of the trial.  Pure.
//!
//! | job | the node wrote | what becomes of it |
//! | --- | --- | --- |
//! | ended for its memory | anything or nothing | `oom`, of host memory |
//! | by itself | an observation | that observation |
//! | by itself | nothing | an error: no other job would fare better |
//! | otherwise | an observation of a script that ended well before | that observation |
//! | at its time limit | anything else, or nothing | `timeout` |
//! | cancelled | anything else, or nothing | `interrupted` |
//! | preempted, node lost, forgotten | anything else, or nothing | launched again: it says nothing about the configuration |
//!
//! SLURM's signals reach every process of a job: a script that died of one looks to its node like one that failed, or
//! like one that the kernel killed for its memory.

use super::state::{End, memory_line};
use crate::model::observation::{Cap, ProcessEnd};
use crate::model::{Failure, FailureFields, FailureKind, Observation, TrialSpec, VERSION, Verdict};

/// What becomes of a trial whose job has ended.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "there is one of these at a time")]
pub enum Settled {
    /// It has its observation.
    Over(Observation),
    /// It is to be launched again; why.
    Again(&'static str),
    /// No job can be run like this; why.
    Broken(String),
}

/// A trial of which the launcher knows only that it was launched.
#[derive(Debug, Clone)]
pub struct Unwritten<'a> {
    /// Its number.
    pub number: u32,
    /// What was to be measured.
    pub spec: &'a TrialSpec,
    /// The limit it ran under.
    pub cap: &'a Cap,
    /// Since its job was submitted.
    pub seconds: f64,
}

/// Decides.
pub fn settle(end: End, written: Option<Observation>, unwritten: &Unwritten<'_>, output: &str) -> Settled {
    // A node that was told to stop has measured nothing.
    let told_to_stop = written.as_ref().is_some_and(|o| o.verdict == Verdict::Interrupted);
    let written = written.filter(|_| !told_to_stop);
    if end == End::OutOfMemory {
        return Settled::Over(out_of_memory(written, unwritten, output));
    }
    let by_itself = matches!(end, End::Completed | End::Failed | End::Forgotten);
    let ended_well = |o: &Observation| o.end == ProcessEnd::Exited { code: 0 };
    if let Some(observation) = written.filter(|o| by_itself || ended_well(o)) {
        return Settled::Over(observation);
    }
    match end {
        End::TimedOut => Settled::Over(unwritten.observation(
            Verdict::Timeout,
            ProcessEnd::TimedOut,
            "SLURM ended the job at its time limit".to_owned(),
        )),
        End::Cancelled => Settled::Over(unwritten.interrupted()),
        End::Completed | End::Failed if told_to_stop => Settled::Over(unwritten.interrupted()),
        End::Preempted => Settled::Again("was preempted"),
        End::NodeLost => Settled::Again("lost its node"),
        End::Forgotten => Settled::Again("is not known to SLURM any more, and wrote nothing"),
        End::Completed => Settled::Broken(
            "ended with status 0, but what it wrote is not there: is this folder the same one on the node?"
                .to_owned(),
        ),
        End::Failed | End::OutOfMemory => {
            Settled::Broken(format!("failed before it could run the trial{}", last_words(output)))
        }
    }
}

fn out_of_memory(written: Option<Observation>, unwritten: &Unwritten<'_>, output: &str) -> Observation {
    let evidence = memory_line(output).map(str::to_owned);
    let cause = "SLURM ended the job for its memory".to_owned();
    match written {
        // Seen from closer by.
        Some(o) if o.verdict == Verdict::Oom => o,
        other => {
            let end = ProcessEnd::Signaled { signal: libc::SIGKILL };
            let blank = || unwritten.observation(Verdict::Oom, end, String::new());
            let mut o = other.unwrap_or_else(blank);
            o.verdict = Verdict::Oom;
            o.why = evidence.as_ref().map_or_else(|| cause.clone(), |line| format!("{cause}: {line}"));
            o.failure = Some(Failure {
                kind: FailureKind::HostOom,
                fragmentation: None,
                fields: FailureFields::default(),
                cause,
                evidence,
                next: vec![
                    "ask for more memory with each job (--mem), or let the script need less".to_owned(),
                ],
            });
            o
        }
    }
}

/// The end of a job's output, in one line.
fn last_words(output: &str) -> String {
    let lines: Vec<&str> = output.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(3)..].join("; ");
    if last.is_empty() { String::new() } else { format!(": {last}") }
}

impl Unwritten<'_> {
    /// The user, or somebody else, stopped it.
    pub fn interrupted(&self) -> Observation {
        self.observation(Verdict::Interrupted, ProcessEnd::Interrupted, "the job was cancelled".to_owned())
    }

    /// An observation of a trial that measured nothing.
    pub fn observation(&self, verdict: Verdict, end: ProcessEnd, why: String) -> Observation {
        Observation {
            version: VERSION,
            trial: self.number,
            purpose: self.spec.purpose,
            settings: self.spec.settings.clone(),
            verdict,
            why,
            end,
            failure: None,
            oom_phase: None,
            knobs: Vec::new(),
            timing: None,
            peaks: Default::default(),
            memory: None,
            cap: self.cap.lowered(self.spec.limit),
            losses: Vec::new(),
            grad_norms: Vec::new(),
            taken_norms: Vec::new(),
            after: None,
            parity: None,
            torch: false,
            coverage: None,
            disturbance: Default::default(),
            steps: 0,
            seconds: self.seconds,
            tail: Vec::new(),
            inspection: None,
            ranks: Vec::new(),
            nodes: Vec::new(),
            windows: Vec::new(),
            filled: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Configuration, Purpose};

    const KILLED: &str = "slurmstepd: error: StepId=5.batch exceeded memory limit (6 > 5), being killed\n";

    fn settled(end: End, wrote: Option<Verdict>, output: &str) -> Settled {
        let spec = TrialSpec::new(Configuration::baseline(), Purpose::Baseline);
        let cap = Cap::default();
        let unwritten = Unwritten { number: 3, spec: &spec, cap: &cap, seconds: 9.0 };
        let end_of = |v| match v {
            Verdict::Failed | Verdict::Oom => ProcessEnd::Signaled { signal: libc::SIGKILL },
            _ => ProcessEnd::Exited { code: 0 },
        };
        let written = wrote.map(|v| unwritten.observation(v, end_of(v), "measured".into()));
        settle(end, written, &unwritten, output)
    }

    fn verdict(end: End, wrote: Option<Verdict>, output: &str) -> Verdict {
        match settled(end, wrote, output) {
            Settled::Over(o) => o.verdict,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_the_node_wrote_counts_unless_memory_ended_the_job() {
        assert_eq!(verdict(End::Completed, Some(Verdict::Fit), ""), Verdict::Fit);
        assert_eq!(verdict(End::TimedOut, Some(Verdict::Fit), ""), Verdict::Fit);
        assert_eq!(verdict(End::OutOfMemory, Some(Verdict::Fit), KILLED), Verdict::Oom);
        assert_eq!(verdict(End::OutOfMemory, None, KILLED), Verdict::Oom);
        let Settled::Over(o) = settled(End::OutOfMemory, None, KILLED) else { panic!() };
        assert_eq!(o.failure.as_ref().map(|f| f.kind), Some(FailureKind::HostOom));
        assert!(o.why.contains("exceeded memory limit (6 > 5)"), "{}", o.why);
    }

    #[test]
    fn what_died_of_slurms_signals_has_not_failed() {
        for wrote in [Verdict::Failed, Verdict::Oom] {
            assert_eq!(verdict(End::Completed, Some(wrote), ""), wrote);
            assert_eq!(verdict(End::Cancelled, Some(wrote), ""), Verdict::Interrupted);
            assert_eq!(verdict(End::TimedOut, Some(wrote), ""), Verdict::Timeout);
            assert!(matches!(settled(End::Preempted, Some(wrote), ""), Settled::Again(_)));
        }
        assert_eq!(verdict(End::Preempted, Some(Verdict::Fit), ""), Verdict::Fit);
    }

    #[test]
    fn what_was_never_measured_is_named_or_launched_again() {
        assert_eq!(verdict(End::TimedOut, None, ""), Verdict::Timeout);
        assert_eq!(verdict(End::Cancelled, None, ""), Verdict::Interrupted);
        assert_eq!(verdict(End::Failed, Some(Verdict::Interrupted), ""), Verdict::Interrupted);
        assert_eq!(verdict(End::TimedOut, Some(Verdict::Interrupted), ""), Verdict::Timeout);
        for end in [End::Preempted, End::NodeLost, End::Forgotten] {
            assert!(matches!(settled(end, None, ""), Settled::Again(_)), "{end:?}");
            assert!(matches!(settled(end, Some(Verdict::Interrupted), ""), Settled::Again(_)), "{end:?}");
        }
        let Settled::Broken(why) = settled(End::Failed, None, "sh: 1: autofit: not found\n") else {
            panic!()
        };
        assert!(why.ends_with("autofit: not found"), "{why}");
        assert!(matches!(settled(End::Completed, None, ""), Settled::Broken(_)));
    }
}
