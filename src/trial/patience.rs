//! When a trial has hung.  Pure: times in, judgement out.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::event::Record;
use crate::model::observation::ProcessEnd;
use crate::model::{Configuration, Knob};

/// A step may take this many times the typical one before the trial counts as hung; evaluation and saving between
/// two steps are the longest honest pauses, and they announce themselves.
const STALL_FACTOR: f64 = 30.0;

/// A step may always take this long.
const STALL_FLOOR: Duration = Duration::from_secs(60);

/// The same where all of several ranks do nothing: one is stalled, and the others wait for it.
const STALL_FLOOR_OF_IDLE_RANKS: Duration = Duration::from_secs(20);

/// A rank that uses less of a core than this does nothing.
const IDLE: f64 = 0.05;

/// One rank's agent may be this long silent while another's beats.
const RANK_SILENCE: Duration = Duration::from_secs(20);

/// The agent beats every two seconds from a thread of its own; a process this long silent is stopped or gone.
const SILENCE: Duration = Duration::from_secs(90);

/// After memory ran out in one rank, the others get this long to end by themselves.
const AFTER_OOM: Duration = Duration::from_secs(8);

/// What compiling may add to a trial and to any of its steps: seconds for a small model, minutes for a large one; the
/// search for the fastest kernels takes several times as long.
const COMPILING: Duration = Duration::from_secs(5 * 60);
const COMPILING_MOST: Duration = Duration::from_secs(20 * 60);

/// What a profiler has traced is read before the next step ends: seconds, on a busy machine or of a step with very many
/// operators minutes, in which the agent may be silent, too.
const LOOKING: Duration = Duration::from_secs(5 * 60);

/// The time that compiling may take under these settings.
fn compiling(settings: &Configuration) -> Duration {
    match settings.text(Knob::Compile) {
        None | Some("off") => Duration::ZERO,
        Some("max-autotune") => COMPILING_MOST,
        Some(_) => COMPILING,
    }
}

/// One rank's signs of life, in seconds since the launch.
#[derive(Debug, Clone, Copy)]
struct Rank {
    /// The last of them.
    heard: f64,
    /// The last that showed it at work.
    busy: f64,
    /// CPU seconds at the last heartbeat.
    cpu: Option<f64>,
}

impl Rank {
    fn new(now: f64) -> Self {
        Self { heard: now, busy: now, cpu: None }
    }

    fn beat(&mut self, cpu: Option<f64>, now: f64) {
        let used = self.cpu.zip(cpu).map(|(before, cpu)| cpu - before);
        // Who does not say is not held to be idle.
        if used.is_none_or(|used| used > IDLE * (now - self.heard)) {
            self.busy = now;
        }
        (self.heard, self.cpu) = (now, cpu);
    }
}

/// The clock of one trial, in seconds since its launch.
#[derive(Debug, Clone, Default)]
pub struct Patience {
    /// Limit for the whole trial.
    pub timeout: Option<Duration>,
    /// Several ranks: one that stalls or is out of memory hangs the others.
    pub several_ranks: bool,
    /// Each rank that trains; one that has said its last word is taken out.
    ranks: BTreeMap<u32, Rank>,
    /// What a step may take longer because something is compiled in it, or it is looked at.
    longer: Duration,
    /// The same for an agent's silence.
    quieter: Duration,
    last_record: f64,
    last_step: Option<f64>,
    typical_step: Option<f64>,
    in_phase: bool,
    oom_at: Option<f64>,
}

impl Patience {
    /// A clock with a limit for the whole trial, to which the time for compiling is added where settings ask for that.
    pub fn with_timeout(timeout: Duration, settings: &Configuration) -> Self {
        let compiling = compiling(settings);
        Self { timeout: Some(timeout + compiling), longer: compiling, ..Self::default() }
    }

    /// The clock of a trial in which steps are profiled.
    pub fn while_looking(self) -> Self {
        Self {
            timeout: self.timeout.map(|t| t + LOOKING),
            longer: self.longer + LOOKING,
            quieter: LOOKING,
            ..self
        }
    }

    /// A record of one rank's agent.
    pub fn hear(&mut self, rank: u32, record: &Record, now: f64) {
        self.record(now);
        match record {
            Record::End { .. } => {
                self.ranks.remove(&rank);
            }
            // Who does not train has no heartbeat.
            Record::Heartbeat { cpu, .. } => self.ranks.entry(rank).or_insert(Rank::new(now)).beat(*cpu, now),
            _ => {
                self.ranks.entry(rank).and_modify(|r| r.heard = now);
            }
        }
        match record {
            Record::Hello(hello) if hello.world_size > 1 => self.several_ranks = true,
            Record::Step(_) => self.step(now),
            Record::Phase { .. } | Record::Look { .. } => self.phase(),
            Record::Oom { .. } => self.oom(now),
            _ => {}
        }
    }

    /// A record of any kind came.
    pub fn record(&mut self, now: f64) {
        self.last_record = now;
    }

    /// A step ended.
    pub fn step(&mut self, now: f64) {
        if let Some(last) = self.last_step {
            let took = now - last;
            // A running minimum-leaning mean: stalls must not teach patience.
            self.typical_step = Some(self.typical_step.map_or(took, |t| 0.8 * t + 0.2 * took.min(3.0 * t)));
        }
        self.last_step = Some(now);
        self.in_phase = false;
    }

    /// Evaluation or saving began or went on.
    pub fn phase(&mut self) {
        self.in_phase = true;
    }

    /// Memory ran out somewhere.
    pub fn oom(&mut self, now: f64) {
        self.oom_at.get_or_insert(now);
    }

    /// Whether to end the trial now, and as what.  No step is demanded before the first one: set-up (downloads,
    /// tokenising, compiling) may take as long as the trial's own limit.
    pub fn verdict(&self, now: f64) -> Option<ProcessEnd> {
        if self.timeout.is_some_and(|t| now > t.as_secs_f64()) {
            return Some(ProcessEnd::TimedOut);
        }
        if self.several_ranks && self.oom_at.is_some_and(|at| now - at > AFTER_OOM.as_secs_f64()) {
            return Some(ProcessEnd::RankLost);
        }
        let last_step = self.last_step?;
        let silence = |limit: Duration| (limit + self.quieter).as_secs_f64();
        if self.several_ranks && self.ranks.values().any(|r| now - r.heard > silence(RANK_SILENCE)) {
            return Some(ProcessEnd::RankLost);
        }
        if now - self.last_record > silence(SILENCE) {
            return Some(ProcessEnd::Hung);
        }
        let idle_floor = STALL_FLOOR_OF_IDLE_RANKS.as_secs_f64();
        let idle = self.several_ranks && self.ranks.values().all(|r| now - r.busy > idle_floor);
        let floor = if idle { STALL_FLOOR_OF_IDLE_RANKS } else { STALL_FLOOR };
        let allowed = (self.typical_step.unwrap_or(0.0) * STALL_FACTOR).max(floor.as_secs_f64());
        let allowed = allowed + self.longer.as_secs_f64();
        (!self.in_phase && now - last_step > allowed).then_some(ProcessEnd::Hung)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_hung_before_its_first_step_but_the_limit_holds() {
        let mut p = Patience { timeout: Some(Duration::from_secs(1000)), ..Patience::default() };
        p.record(1.0);
        assert_eq!(p.verdict(900.0), None);
        assert_eq!(p.verdict(1001.0), Some(ProcessEnd::TimedOut));
    }

    #[test]
    fn a_step_that_does_not_come_is_a_hang_unless_the_script_evaluates() {
        let mut p = Patience::default();
        p.step(1.0);
        p.step(2.0);
        p.record(60.0);
        assert_eq!(p.verdict(60.0), None);
        assert_eq!(p.verdict(63.0), Some(ProcessEnd::Hung));
        p.phase();
        assert_eq!(p.verdict(63.0), None);
        p.step(64.0);
        assert_eq!(p.verdict(65.0), None);
    }

    #[test]
    fn long_steps_are_given_more() {
        let mut p = Patience::default();
        p.step(0.0);
        p.step(10.0);
        p.record(200.0);
        assert_eq!(p.verdict(200.0), None);
        p.record(320.0);
        assert_eq!(p.verdict(320.0), Some(ProcessEnd::Hung));
    }

    #[test]
    fn compiling_is_given_time() {
        let settings = |word: &str| Configuration::baseline().with(Knob::Compile, word);
        let minute = Duration::from_secs(60);
        let allowed = |settings: &Configuration| {
            let mut p = Patience::with_timeout(minute, settings);
            p.step(1.0);
            (1..7000).map(f64::from).find(|now| {
                p.record(*now);
                p.verdict(*now).is_some()
            })
        };
        let [plain, off, compiled, tuned] =
            [Configuration::baseline(), settings("off"), settings("default"), settings("max-autotune")]
                .map(|s| allowed(&s));
        assert_eq!((plain, off), (Some(61.0), Some(61.0)));
        assert_eq!((compiled, tuned), (Some(361.0), Some(1261.0)));
    }

    #[test]
    fn a_step_that_is_looked_at_is_given_time() {
        let ends = |p: Patience, speaks: bool| {
            let mut p = Patience { timeout: Some(Duration::from_secs(3600)), ..p };
            p.step(1.0);
            (1..1000).map(f64::from).find(|now| {
                if speaks {
                    p.record(*now);
                }
                p.verdict(*now).is_some()
            })
        };
        let looking = || Patience::default().while_looking();
        assert_eq!([ends(Patience::default(), true), ends(looking(), true)], [Some(62.0), Some(362.0)]);
        assert_eq!([ends(Patience::default(), false), ends(looking(), false)], [Some(62.0), Some(362.0)]);
        let mut two = Patience { several_ranks: true, ..looking() };
        two.step(1.0);
        two.ranks.insert(0, Rank::new(1.0));
        assert_eq!((two.verdict(300.0), two.verdict(322.0)), (None, Some(ProcessEnd::RankLost)));
    }

    #[test]
    fn a_rank_out_of_memory_ends_the_others() {
        let mut p = Patience { several_ranks: true, ..Patience::default() };
        p.step(1.0);
        p.oom(2.0);
        assert_eq!(p.verdict(5.0), None);
        assert_eq!(p.verdict(11.0), Some(ProcessEnd::RankLost));
    }

    #[test]
    fn a_rank_that_is_silent_while_another_beats_is_lost() {
        let beat = Record::Heartbeat { step: 1, place: None, cpu: None };
        let end = Record::End { reason: crate::model::event::EndReason::ScriptEnd, error: None };
        let mut p = Patience { several_ranks: true, ..Patience::default() };
        p.step(1.0);
        p.phase();
        p.hear(0, &beat, 1.0);
        p.hear(1, &beat, 1.0);
        p.hear(0, &beat, 22.0);
        assert_eq!(p.verdict(22.0), Some(ProcessEnd::RankLost));
        // ... but not one that has said its last word.
        p.hear(1, &end, 22.0);
        assert_eq!(p.verdict(22.0), None);
    }

    #[test]
    fn several_ranks_that_all_do_nothing_are_given_less_time() {
        let verdict = |second_rank_works: f64| {
            let mut p = Patience { several_ranks: true, ..Patience::default() };
            p.step(1.0);
            p.step(1.1);
            for beat in 1..20 {
                let now = 2.0 * f64::from(beat);
                for (rank, share) in [(0, 0.01), (1, second_rank_works)] {
                    let cpu = Some(share * now);
                    p.hear(rank, &Record::Heartbeat { step: 2, place: None, cpu }, now);
                }
            }
            p.verdict(38.0)
        };
        assert_eq!(verdict(0.01), Some(ProcessEnd::Hung));
        assert_eq!(verdict(0.8), None, "one computes, and the other waits for it");
    }
}
