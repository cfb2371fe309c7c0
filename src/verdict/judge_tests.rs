//! The precedence rules, one line of truth a case.

use super::*;
use crate::model::parity::Quantity;
use crate::model::{FailureFields, FailureKind, Knob, Value};
use crate::verdict::parity::{Divergence, Kind};

/// A baseline that ran well; each case changes what it is about.
fn good() -> TrialFacts {
    TrialFacts {
        end: ProcessEnd::Exited { code: 0 },
        hello: true,
        knobs: vec![],
        settings: Configuration::baseline(),
        timing: Some(Timing { steps: 8, ..Timing::default() }),
        oom_events: vec![],
        oom_kills: Some(0),
        failure: None,
        oom_text: None,
        faults: vec![],
        end_reason: Some(EndReason::Measured),
        steps: 10,
        min_steps: 5,
        thrash: None,
        parity: None,
        disturbance: Disturbance::default(),
        places: vec![],
    }
}

fn with(change: impl FnOnce(&mut TrialFacts)) -> TrialFacts {
    let mut facts = good();
    change(&mut facts);
    facts
}

fn read(kind: FailureKind) -> Option<Failure> {
    Some(Failure {
        kind,
        fragmentation: None,
        fields: FailureFields::default(),
        cause: "the cause".into(),
        evidence: Some("Error: the line".into()),
        next: vec![],
    })
}

fn oom(fatal: bool, step_lost: bool) -> OomFact {
    let message = "CUDA out of memory. Tried to allocate 2.00 GiB.\nmore".into();
    OomFact { device: "cuda:0".into(), phase: Phase::Train, message, fatal, step_lost }
}

fn amp(effective: Option<&str>, reason: Option<&str>) -> KnobReport {
    KnobReport {
        knob: Knob::Amp,
        requested: Value::Text("bf16".into()),
        effective: effective.map(Value::from),
        how: "autocast".into(),
        objects: 1,
        reason: reason.map(str::to_owned),
    }
}

fn wanting_amp(change: impl FnOnce(&mut TrialFacts)) -> TrialFacts {
    with(|f| {
        f.settings = f.settings.with(Knob::Amp, "bf16");
        f.knobs = vec![amp(Some("bf16"), None)];
        change(f);
    })
}

fn diverged() -> Option<Parity> {
    let (what, kind) = (Quantity::Loss, Kind::Step);
    Some(Parity::Diverged(Divergence { step: 1, what, baseline: 1.0, trial: 4.0, band: 1e-4, kind }))
}

fn thrash() -> Option<Thrash> {
    Some(Thrash { steps: 4, of: 6, retries: 9, slowdown: None })
}

#[test]
fn the_rules_in_their_order() {
    use FailureKind::{GpuOom, HostOom, NotMemory};
    use ProcessEnd::{Exited, Hung, Interrupted, NotStarted, RankLost, Signaled, Thrashed, TimedOut};
    let cases: Vec<(&str, TrialFacts, Verdict, &str)> = vec![
        ("a good run", good(), Verdict::Fit, "8 steady steps"),
        // 1: stopped, not started.
        ("Ctrl-C", with(|f| f.end = Interrupted), Verdict::Interrupted, "by the user"),
        (
            "Ctrl-C wins over a kill that followed",
            with(|f| (f.end, f.oom_kills) = (Interrupted, Some(1))),
            Verdict::Interrupted,
            "by the user",
        ),
        (
            "no such program",
            with(|f| (f.end, f.hello) = (NotStarted { error: "No such file".into() }, false)),
            Verdict::Failed,
            "could not be started: No such file",
        ),
        // 2: no hello.
        ("python -I", with(|f| f.hello = false), Verdict::AgentMissing, "ended with status 0"),
        (
            "no hello, with settings, failed",
            wanting_amp(|f| (f.hello, f.end) = (false, Exited { code: 1 })),
            Verdict::AgentMissing,
            "status 1",
        ),
        (
            "a baseline that failed before it could report is a failure of the script",
            with(|f| (f.hello, f.end, f.failure) = (false, Exited { code: 1 }, read(NotMemory))),
            Verdict::Failed,
            "ended with status 1; Error: the line",
        ),
        (
            "a baseline killed for memory before it could report",
            with(|f| (f.hello, f.end, f.oom_kills) = (false, Signaled { signal: 9 }, Some(1))),
            Verdict::Oom,
            "the kernel killed a process at the memory limit",
        ),
        // 3: memory.
        (
            "a worker killed by the kernel while the script went on",
            with(|f| f.oom_kills = Some(2)),
            Verdict::Oom,
            "2 processes",
        ),
        (
            "an exception to the top",
            with(|f| (f.end, f.oom_events) = (Exited { code: 1 }, vec![oom(true, true)])),
            Verdict::Oom,
            "cuda:0 ran out of memory while training: CUDA out of memory. Tried to allocate 2.00 GiB.",
        ),
        (
            "caught by the script, which ended well",
            with(|f| f.oom_events = vec![oom(false, true)]),
            Verdict::Oom,
            "the script caught it",
        ),
        ("a library probed by itself", with(|f| f.oom_events = vec![oom(false, false)]), Verdict::Fit, ""),
        (
            "a library probed by itself and said so",
            with(|f| (f.oom_events, f.oom_text) = (vec![oom(false, false)], Some("out of memory".into()))),
            Verdict::Fit,
            "",
        ),
        (
            "one probe and one real",
            with(|f| f.oom_events = vec![oom(false, false), oom(false, true)]),
            Verdict::Oom,
            "caught",
        ),
        (
            "while evaluating, caught",
            with(|f| f.oom_events = vec![OomFact { phase: Phase::Eval, ..oom(false, false) }]),
            Verdict::Oom,
            "while evaluating",
        ),
        (
            "only the text says so",
            with(|f| (f.end, f.failure) = (Exited { code: 1 }, read(GpuOom))),
            Verdict::Oom,
            "the cause",
        ),
        (
            "the text says so and the status is 0: a soft out-of-memory",
            with(|f| f.oom_text = Some("WARNING: ran out of memory, skipping batch".into())),
            Verdict::Oom,
            "ended with status 0, but its output says: WARNING: ran out",
        ),
        (
            "a rank out of memory makes the others hang",
            with(|f| (f.end, f.oom_events) = (Hung, vec![oom(false, true)])),
            Verdict::Oom,
            "caught it",
        ),
        (
            "the same, ended as a lost rank",
            with(|f| (f.end, f.oom_events) = (RankLost, vec![oom(true, true)])),
            Verdict::Oom,
            "cuda:0",
        ),
        (
            "killed, nobody counted, and the text points at memory",
            with(|f| (f.end, f.oom_kills, f.failure) = (Signaled { signal: 9 }, None, read(HostOom))),
            Verdict::Oom,
            "the cause",
        ),
        (
            "memory before a wrong setting",
            wanting_amp(|f| (f.oom_kills, f.knobs) = (Some(1), vec![])),
            Verdict::Oom,
            "",
        ),
        // 4: ended by us.
        ("too long", with(|f| (f.end, f.steps) = (TimedOut, 0)), Verdict::Timeout, "before its first step"),
        ("stood still", with(|f| f.end = Hung), Verdict::Timeout, "stood still and was ended after 10 steps"),
        ("no room for files", with(|f| f.end = Thrashed), Verdict::Thrash, "read from disk again"),
        ("a rank stalled", with(|f| f.end = RankLost), Verdict::Timeout, "lost a rank"),
        (
            "ranks that stand still say where",
            with(|f| (f.end, f.places) = (Hung, vec![(0, "t.py:9".into()), (1, "t.py:7".into())])),
            Verdict::Timeout,
            "last seen: rank 0 at t.py:9, rank 1 at t.py:7",
        ),
        (
            "too long with a failure in the text that is not memory",
            with(|f| (f.end, f.failure) = (TimedOut, read(NotMemory))),
            Verdict::Timeout,
            "",
        ),
        // 5: bad ends.
        ("a crash", with(|f| f.end = Signaled { signal: 11 }), Verdict::Failed, "killed by signal SIGSEGV"),
        (
            "killed although the cgroup counted no kill, and the text is silent",
            with(|f| f.end = Signaled { signal: 9 }),
            Verdict::Failed,
            "SIGKILL",
        ),
        (
            "a rank killed, and the cgroup counted no kill for memory",
            with(|f| {
                f.end = Exited { code: 1 };
                let fields = FailureFields { signal: Some("SIGKILL".into()), ..FailureFields::default() };
                f.failure = read(HostOom).map(|r| Failure { fields, ..r });
            }),
            Verdict::Failed,
            "killed by SIGKILL, and not for its memory",
        ),
        (
            "an ordinary exception",
            with(|f| (f.end, f.failure) = (Exited { code: 1 }, read(NotMemory))),
            Verdict::Failed,
            "ended with status 1; Error: the line",
        ),
        (
            "a bad status after everything was measured",
            with(|f| f.end = Exited { code: 3 }),
            Verdict::Failed,
            "status 3",
        ),
        (
            "an exception behind status 0",
            with(|f| f.end_reason = Some(EndReason::Exception)),
            Verdict::Failed,
            "although its status is 0",
        ),
        (
            "an unknown end is never a success",
            with(|f| f.end_reason = None),
            Verdict::Failed,
            "without the agent's last record",
        ),
        (
            "the agent refused",
            wanting_amp(|f| {
                f.end = Exited { code: 125 };
                (f.end_reason, f.knobs) = (Some(EndReason::Refused), vec![amp(None, Some("no root module"))]);
            }),
            Verdict::NotApplied,
            "no root module",
        ),
        // 6: faults of the agent.
        (
            "a hook failed",
            with(|f| f.faults = vec!["steps: KeyError('x')".into()]),
            Verdict::Failed,
            "does not count",
        ),
        (
            "the hook of a requested knob failed",
            wanting_amp(|f| f.faults = vec!["knobs.amp: TypeError".into()]),
            Verdict::NotApplied,
            "the hook that turns amp failed",
        ),
        // 7: read-back.
        ("applied", wanting_amp(|_| ()), Verdict::Fit, ""),
        ("not read back", wanting_amp(|f| f.knobs = vec![]), Verdict::NotApplied, "did not read it back"),
        (
            "another value is in force",
            wanting_amp(|f| f.knobs = vec![amp(Some("fp16"), None)]),
            Verdict::NotApplied,
            "amp=bf16 was not applied: fp16 is in force",
        ),
        (
            "not in force, with the reason",
            wanting_amp(|f| f.knobs = vec![amp(None, Some("model.forward is called"))]),
            Verdict::NotApplied,
            "model.forward is called",
        ),
        (
            "the last read-back counts",
            wanting_amp(|f| f.knobs = vec![amp(None, None), amp(Some("bf16"), None)]),
            Verdict::Fit,
            "",
        ),
        (
            "taken back later",
            wanting_amp(|f| f.knobs = vec![amp(Some("bf16"), None), amp(None, None)]),
            Verdict::NotApplied,
            "it is not in force",
        ),
        // 8 to 11.
        (
            "diverged before thrash",
            with(|f| (f.parity, f.thrash) = (diverged(), thrash())),
            Verdict::Diverged,
            "at step 1 the loss is 4",
        ),
        ("thrash", with(|f| f.thrash = thrash()), Verdict::Thrash, "flushed its cache 9 times"),
        ("nothing timed", with(|f| f.timing = None), Verdict::Failed, "none of them could be timed"),
        (
            "too few steps, and nobody said that they were enough",
            with(|f| (f.min_steps, f.end_reason) = (9, None)),
            Verdict::Failed,
            "",
        ),
        (
            "the agent measured enough, uneven steps at the front were dropped",
            with(|f| f.min_steps = 9),
            Verdict::Fit,
            "8 steps",
        ),
        (
            "a script that is over has no more steps",
            with(|f| (f.min_steps, f.end_reason) = (9, Some(EndReason::ScriptEnd))),
            Verdict::Fit,
            "all that there was",
        ),
        ("steal", with(|f| f.disturbance.steal = 0.2), Verdict::Disturbed, "hypervisor took 20 %"),
        ("other load", with(|f| f.disturbance.other_cpu = 1.6), Verdict::Disturbed, "used 1.6 cores"),
        (
            "other load that nobody had to wait for",
            with(|f| (f.disturbance.other_cpu, f.disturbance.cpu_pressure) = (1.6, Some(0.02))),
            Verdict::Fit,
            "",
        ),
    ];
    for (name, facts, verdict, words) in cases {
        let (got, why) = judge(&facts);
        assert_eq!(got, verdict, "{name}: {why}");
        assert!(why.contains(words), "{name}: {why}");
        assert!(!why.contains('\n'), "{name}: {why}");
    }
}

#[test]
fn nothing_but_a_clean_end_with_a_hello_is_ever_a_fit() {
    let ends = [
        ProcessEnd::NotStarted { error: String::new() },
        ProcessEnd::Exited { code: 1 },
        ProcessEnd::Exited { code: 137 },
        ProcessEnd::Signaled { signal: 15 },
        ProcessEnd::TimedOut,
        ProcessEnd::Thrashed,
        ProcessEnd::Hung,
        ProcessEnd::RankLost,
        ProcessEnd::Interrupted,
    ];
    for end in ends {
        for hello in [true, false] {
            for reason in
                [None, Some(EndReason::Measured), Some(EndReason::Covered), Some(EndReason::ScriptEnd)]
            {
                let facts = with(|f| (f.end, f.hello, f.end_reason) = (end.clone(), hello, reason));
                assert_ne!(judge(&facts).0, Verdict::Fit, "{end:?}");
            }
        }
    }
}
