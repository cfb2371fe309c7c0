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

/// The same for several ranks, which wait for each other: what is stalled there holds all of them.
const STALL_FLOOR_OF_RANKS: Duration = Duration::from_secs(20);

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

/// The time that compiling may take under these settings.
fn compiling(settings: &Configuration) -> Duration {
    match settings.text(Knob::Compile) {
        None | Some("off") => Duration::ZERO,
        Some("max-autotune") => COMPILING_MOST,
        Some(_) => COMPILING,
    }
}

/// The clock of one trial, in seconds since its launch.
#[derive(Debug, Clone, Default)]
pub struct Patience {
    /// Limit for the whole trial.
    pub timeout: Option<Duration>,
    /// Several ranks: one that stalls or is out of memory hangs the others.
    pub several_ranks: bool,
    /// When each rank that trains was last heard; one that has said its last word is taken out.
    ranks: BTreeMap<u32, f64>,
    /// What a step may take longer because something is compiled in it.
    compiling: Duration,
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
        Self { timeout: Some(timeout + compiling), compiling, ..Self::default() }
    }

    /// A record of one rank's agent.
    pub fn hear(&mut self, rank: u32, record: &Record, now: f64) {
        self.record(now);
        match record {
            Record::End { .. } => {
                self.ranks.remove(&rank);
            }
            // Who does not train has no heartbeat.
            Record::Heartbeat { .. } => {
                self.ranks.insert(rank, now);
            }
            _ => {
                self.ranks.entry(rank).and_modify(|at| *at = now);
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
        if self.several_ranks && self.ranks.values().any(|at| now - at > RANK_SILENCE.as_secs_f64()) {
            return Some(ProcessEnd::RankLost);
        }
        if now - self.last_record > SILENCE.as_secs_f64() {
            return Some(ProcessEnd::Hung);
        }
        let floor = if self.several_ranks { STALL_FLOOR_OF_RANKS } else { STALL_FLOOR };
        let allowed = (self.typical_step.unwrap_or(0.0) * STALL_FACTOR).max(floor.as_secs_f64());
        let allowed = allowed + self.compiling.as_secs_f64();
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
    fn a_rank_out_of_memory_ends_the_others() {
        let mut p = Patience { several_ranks: true, ..Patience::default() };
        p.step(1.0);
        p.oom(2.0);
        assert_eq!(p.verdict(5.0), None);
        assert_eq!(p.verdict(11.0), Some(ProcessEnd::RankLost));
    }

    #[test]
    fn a_rank_that_is_silent_while_another_beats_is_lost() {
        let beat = Record::Heartbeat { step: 1, place: None };
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
    fn several_ranks_that_stand_still_are_given_less_time() {
        let mut p = Patience { several_ranks: true, ..Patience::default() };
        p.step(1.0);
        p.step(1.1);
        p.record(22.0);
        assert_eq!(p.verdict(21.0), None);
        assert_eq!(p.verdict(22.0), Some(ProcessEnd::Hung));
    }
}
