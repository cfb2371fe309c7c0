//! SIGKILL at every stage of a search's life: nothing runs on, nothing of the user's is harmed, and what was measured
//! is neither lost nor measured again.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::siege::{LONG, Siege, moments, observed};
use crate::support::alone;

const KILLS: usize = 50;
/// Of the random delays; change it to look elsewhere.
const SEED: u64 = 0x5eed_0f2a;

#[test]
fn after_each_record_and_each_file() {
    let _turn = alone();
    let began = Instant::now();
    let mut siege = Siege::new();
    let mut killed_at = moments(siege.project.path());
    let mut killed = true;
    while killed {
        let running = siege.start(false);
        let place = siege.project.path().to_owned();
        // A half-written file may be whole before the kill comes, and have its last name.
        let mut reached = BTreeSet::new();
        killed = siege.kill(running, LONG, || {
            reached = moments(&place);
            !reached.is_subset(&killed_at)
        });
        reached.extend(moments(siege.project.path()));
        let new: Vec<_> = reached.difference(&killed_at).collect();
        println!("{:4.0} s: killed: {killed}, at {new:?}", began.elapsed().as_secs_f64());
        assert!(!killed || !new.is_empty(), "took longer than {LONG:?}");
        killed_at.extend(reached);
    }
    for moment in
        ["search 0", "started 0", "observation 0", "started 1", "observation 1", "autofit.env", "result.json"]
    {
        assert!(killed_at.iter().any(|m| m == moment), "{moment}: {killed_at:?}");
    }
    siege.let_it_end();
}

/// Random numbers that are the same each time (xorshift64*, Vigna 2016).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end
    }

    fn chance(&mut self) -> Chance {
        let (kind, soon, late) = (self.below(4), self.below(400), self.below(4000));
        match kind {
            0 => Chance { after_observation: true, delay: Duration::from_millis(soon) },
            1 => Chance { after_observation: false, delay: Duration::from_millis(soon) },
            _ => Chance { after_observation: false, delay: Duration::from_millis(late) },
        }
    }
}

/// When a start is killed.  Half of them anywhere from its beginning to the middle of its first or second trial; some
/// soon, for a start that has only the results to write is over soon; and some soon after a trial, so that the search
/// comes to all of its stages however slow the machine is.
#[derive(Debug, Clone, Copy)]
struct Chance {
    after_observation: bool,
    delay: Duration,
}

#[test]
#[ignore = "takes minutes; CI runs it"]
fn at_random_times() {
    let _turn = alone();
    let began = Instant::now();
    let mut siege = Siege::new();
    let mut dice = Dice(SEED);
    let (mut kills, mut starts, mut fresh) = (0, 0, false);
    while kills < KILLS {
        starts += 1;
        assert!(
            starts < 3 * KILLS,
            "seed {SEED:#x}: only {kills} of {starts} starts lived until they were killed"
        );
        let chance @ Chance { after_observation, delay } = dice.chance();
        println!(
            "{:4.0} s: seed {SEED:#x}, start {starts}, fresh {fresh}, {chance:?}",
            began.elapsed().as_secs_f64()
        );
        let place = siege.project.path().to_owned();
        // `--fresh` sets it back to none.
        let mut seen = observed(&place);
        let mut since = (!after_observation).then(Instant::now);
        let running = siege.start(fresh);
        let killed = siege.kill(running, LONG, || {
            if since.is_none() {
                let now = observed(&place);
                since = (now > seen).then(Instant::now);
                seen = now;
            }
            since.is_some_and(|s| s.elapsed() >= delay)
        });
        println!("  killed: {killed}, {} observed", observed(&place));
        kills += usize::from(killed);
        fresh = !killed;
    }
    assert!(siege.hits > 0, "no kill hit a running script");
    siege.let_it_end();
    assert!(siege.evidence.journals.len() > 1, "some of the searches came to their ends");
}
