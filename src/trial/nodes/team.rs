//! What a launcher knows of the others that run the same trial.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::Seat;
use super::post::Post;
use super::word::{Meeting, Word};
use crate::model::Event;
use crate::model::observation::ProcessEnd;
use crate::model::torchrun::Torchrun;
use crate::trial::part::{Part, Parts};
use crate::trial::rendezvous::free_port;

/// Between two looks at what the others have said.
const LOOK: Duration = Duration::from_millis(100);

/// SLURM starts what belongs together at one time; this is for slow file systems and cold caches.
const MEETING: Duration = Duration::from_secs(120);

/// Who has nothing to say says so this often ...
const BEAT: Duration = Duration::from_secs(2);
/// ... and is lost when it was not heard for this long: a file server may stand still for a while.
const SILENCE: Duration = Duration::from_secs(60);

/// Where the trial has failed on one machine the others get this long to say what they saw of it.
const AFTER_FAILURE: Duration = Duration::from_secs(3);
/// Where it has ended well on one machine it ends at once on the others, but for what scripts do at their end.
const AFTER_GOOD_END: Duration = Duration::from_secs(60);

/// See the head of this file.
#[derive(Debug)]
pub struct Team {
    seat: Seat,
    post: Post,
    meeting: Meeting,
    /// The names of all machines.
    hosts: Vec<String>,
    /// Where each rank is, as far as it was heard.
    ranks: BTreeMap<u32, String>,
    heard: Vec<Instant>,
    spoke: Instant,
    /// How the trial ended on each machine where it is over.
    over: BTreeMap<u32, Part>,
    /// The first bad end that was told of, and when.
    failed: Option<Instant>,
    /// The leader wants the trial to end.
    ordered: Option<ProcessEnd>,
    trial_dir: PathBuf,
    /// Marks that this machine has passed on, or was given.
    marks: BTreeSet<String>,
}

impl Team {
    /// Waits until all are there; `stopped` tells that nobody wants to wait any more.
    ///
    /// # Errors
    /// Somebody did not come, or the shared folder is not what it should be.
    pub async fn meet(
        seat: &Seat,
        trial_dir: &Path,
        nonce: String,
        stopped: impl Fn() -> bool,
    ) -> anyhow::Result<Self> {
        let dir = seat.dir.display();
        let mut post = Post::open(&seat.dir, seat.me, seat.of)
            .with_context(|| format!("{dir} is not the folder that the trial's other machines see"))?;
        let host = hostname();
        post.send(&[Word::Here { host: host.clone() }])
            .with_context(|| format!("cannot write into {dir}"))?;
        let mut hosts: BTreeMap<u32, String> = BTreeMap::from([(seat.me, host.clone())]);
        let mut meeting = None;
        let until = Instant::now() + MEETING;
        while hosts.len() < seat.of as usize || meeting.is_none() {
            anyhow::ensure!(!stopped(), "stopped before the trial's machines had met");
            if Instant::now() > until {
                let missing: Vec<String> =
                    (0..seat.of).filter(|n| !hosts.contains_key(n)).map(|n| n.to_string()).collect();
                let missing = missing.join(", ");
                anyhow::bail!("of {} machines number {missing} did not come; they count from 0", seat.of);
            }
            for (node, word) in post.read() {
                match word {
                    Word::Here { host } => drop(hosts.insert(node, host)),
                    Word::Meet(told) => meeting = Some(told),
                    _ => {}
                }
            }
            if seat.leads() && meeting.is_none() && hosts.len() == seat.of as usize {
                let port = free_port().context("no port is free")?;
                let told = Meeting { endpoint: format!("{host}:{port}"), nonce: nonce.clone() };
                post.send(&[Word::Meet(told.clone())])?;
                meeting = Some(told);
            }
            tokio::time::sleep(LOOK).await;
        }
        let now = Instant::now();
        Ok(Self {
            seat: seat.clone(),
            post,
            meeting: meeting.context("the trial's machines have not met")?,
            hosts: hosts.into_values().collect(),
            ranks: BTreeMap::new(),
            heard: vec![now; seat.of as usize],
            spoke: now,
            over: BTreeMap::new(),
            failed: None,
            ordered: None,
            trial_dir: trial_dir.to_owned(),
            marks: BTreeSet::new(),
        })
    }

    /// The trial's name on all machines.
    pub fn nonce(&self) -> &str {
        &self.meeting.nonce
    }

    /// The command as it is started on this machine.
    ///
    /// # Errors
    /// Nothing but torchrun starts a command on several machines.
    pub fn command(&self, command: &[String]) -> anyhow::Result<Vec<String>> {
        let torchrun = Torchrun::find(command).context("the command is none of torchrun's")?;
        Ok(torchrun.meeting([
            format!("--nnodes={}", self.seat.of),
            "--rdzv-backend=c10d".to_owned(),
            format!("--rdzv-endpoint={}", self.meeting.endpoint),
            format!("--rdzv-id={}", self.meeting.nonce),
            // A machine does not recognise every name that the others know it by.
            format!("--rdzv-conf=is_host={}", self.seat.leads()),
        ]))
    }

    /// Tells the others what is new here, and takes what is new there: records of their agents, where this one leads.
    pub fn exchange(&mut self, own: &[(u32, Event)]) -> Vec<(u32, Event)> {
        let mut words = Vec::new();
        for (rank, event) in own {
            self.ranks.entry(*rank).or_insert_with(|| self.hosts[self.seat.me as usize].clone());
            if !self.seat.leads() {
                words.push(Word::Event { rank: *rank, event: Box::new(event.clone()) });
            }
        }
        words.extend(self.new_marks());
        if words.is_empty() && self.spoke.elapsed() > BEAT {
            words.push(Word::Beat);
        }
        self.say(&words);
        let mut events = Vec::new();
        for (node, word) in self.post.read() {
            self.heard[node as usize] = Instant::now();
            match word {
                Word::Event { rank, event } if self.seat.leads() => {
                    self.ranks.entry(rank).or_insert_with(|| self.hosts[node as usize].clone());
                    events.push((rank, *event));
                }
                Word::Mark { name, text } if is_mark(&name) => self.mark(name, &text),
                Word::End { why } => self.ordered = Some(why),
                Word::Over(part) => {
                    if part.end != (ProcessEnd::Exited { code: 0 }) {
                        self.failed.get_or_insert_with(Instant::now);
                    }
                    self.over.insert(node, *part);
                }
                _ => {}
            }
        }
        events
    }

    /// Whether the trial is to end here because of the others.
    pub fn wants_end(&self) -> Option<ProcessEnd> {
        let failed = self.failed.is_some_and(|at| at.elapsed() > AFTER_FAILURE);
        self.ordered
            .clone()
            .or_else(|| (failed || self.lost().next().is_some()).then_some(ProcessEnd::RankLost))
    }

    /// Those who are silent, though the trial is not over there.
    fn lost(&self) -> impl Iterator<Item = u32> {
        let silent = |node: &u32| self.heard[*node as usize].elapsed() > SILENCE;
        let heard_here = |node: &u32| self.seat.leads() || *node == 0;
        let others = (0..self.seat.of).filter(|node| *node != self.seat.me);
        others.filter(move |n| heard_here(n) && !self.over.contains_key(n) && silent(n))
    }

    /// A follower's last word.
    pub fn report(&mut self, part: Part) {
        self.say(&[Word::Over(Box::new(self.named(part)))]);
    }

    /// The leader's end: ends the trial on the other machines, and puts together how it ended on each.  `hear` is given
    /// the records that still come; `stopped` tells that nobody wants to wait any more.
    pub async fn gather(
        &mut self,
        own: Part,
        mut hear: impl FnMut(u32, Event),
        stopped: impl Fn() -> bool,
    ) -> Parts {
        let own = self.named(own);
        let ended = Instant::now();
        let ended_well = own.end == (ProcessEnd::Exited { code: 0 });
        // What was ended from here is ended there; what has failed here may have failed there for a better reason.
        let mut patience = match own.end {
            _ if own.ordered => Duration::ZERO,
            ProcessEnd::Exited { .. } if ended_well => AFTER_GOOD_END,
            ProcessEnd::Exited { .. } | ProcessEnd::Signaled { .. } => AFTER_FAILURE,
            _ => Duration::ZERO,
        };
        while self.over.len() + 1 < self.seat.of as usize && self.lost().next().is_none() {
            for (rank, event) in self.exchange(&[]) {
                hear(rank, event);
            }
            if self.failed.is_some() {
                patience = patience.min(AFTER_FAILURE);
            }
            if (stopped() || ended.elapsed() > patience) && self.ordered.is_none() {
                let by_itself = matches!(own.end, ProcessEnd::Exited { .. } | ProcessEnd::Signaled { .. });
                let why = match own.end {
                    _ if stopped() => ProcessEnd::Interrupted,
                    _ if by_itself => ProcessEnd::RankLost,
                    _ => own.end.clone(),
                };
                self.say(&[Word::End { why: why.clone() }]);
                self.ordered = Some(why);
            }
            tokio::time::sleep(LOOK).await;
        }
        let lost = self.lost().map(|node| self.hosts[node as usize].clone()).collect();
        let others = std::mem::take(&mut self.over).into_values();
        Parts::new(std::iter::once(own).chain(others).collect(), lost, std::mem::take(&mut self.ranks))
    }

    fn named(&self, part: Part) -> Part {
        let host = self.hosts[self.seat.me as usize].clone();
        // Of several reasons the first one is kept: what it asked for itself is no order.
        let ordered = self.wants_end().is_some_and(|why| why == part.end);
        Part { host: Some(host), ordered, ..part }
    }

    fn say(&mut self, words: &[Word]) {
        // Who cannot write seems silent to the others, and is lost to them.
        if !words.is_empty() && self.post.send(words).is_ok() {
            self.spoke = Instant::now();
        }
    }

    /// Marks that ranks on this machine have made since.
    fn new_marks(&mut self) -> Vec<Word> {
        let entries = std::fs::read_dir(&self.trial_dir).into_iter().flatten().flatten();
        let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
        let new: Vec<String> = names.filter(|n| is_mark(n) && !self.marks.contains(n)).collect();
        let mut words = Vec::new();
        for name in new {
            if let Ok(text) = std::fs::read_to_string(self.trial_dir.join(&name)) {
                self.marks.insert(name.clone());
                words.push(Word::Mark { name, text });
            }
        }
        words
    }

    /// Makes a mark of another machine's ranks here, as a whole.
    fn mark(&mut self, name: String, text: &str) {
        let (path, unfinished) = (self.trial_dir.join(&name), self.trial_dir.join(format!(".{name}")));
        // Without it ranks here train on, and are ended with the others.
        if std::fs::write(&unfinished, text).and_then(|()| std::fs::rename(&unfinished, path)).is_ok() {
            self.marks.insert(name);
        }
    }
}

/// Files of `autofit_agent/ending.py`.
fn is_mark(name: &str) -> bool {
    let rank = ["heard.", "stopped."].iter().find_map(|prefix| name.strip_prefix(prefix));
    matches!(name, "stop_wanted" | "stop_at_step")
        || rank.is_some_and(|r| r.chars().all(|c| c.is_ascii_digit()))
}

fn hostname() -> String {
    nix::unistd::gethostname().map_or_else(|_| "localhost".to_owned(), |n| n.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::super::post::lay_out;
    use super::*;
    use crate::model::event::Record;

    struct Two {
        _shared: tempfile::TempDir,
        own: [tempfile::TempDir; 2],
        leader: Team,
        follower: Team,
    }

    async fn meet() -> Two {
        let dir = || tempfile::tempdir().unwrap();
        let (shared, own) = (dir(), [dir(), dir()]);
        lay_out(shared.path(), 2).unwrap();
        let seat = |me| Seat { me, of: 2, dir: shared.path().to_owned() };
        let (first, second) = (seat(0), seat(1));
        let (leader, follower) = tokio::join!(
            Team::meet(&first, own[0].path(), "one".to_owned(), || false),
            Team::meet(&second, own[1].path(), "two".to_owned(), || false),
        );
        Two { _shared: shared, own, leader: leader.unwrap(), follower: follower.unwrap() }
    }

    fn part(end: ProcessEnd) -> Part {
        Part::new(end, None, None)
    }

    fn beat(rank: u32) -> (u32, Event) {
        (rank, Event { v: 1, at: 1.0, pid: 7, record: Record::Heartbeat { step: 3, place: None, cpu: None } })
    }

    #[tokio::test]
    async fn all_start_one_trial_and_the_leader_hears_every_rank() {
        let Two { mut leader, mut follower, own, _shared } = meet().await;
        assert_eq!((leader.nonce(), follower.nonce()), ("one", "one"));
        let command = ["torchrun", "--nproc-per-node", "2", "train.py"].map(str::to_owned);
        let [first, second] = [&leader, &follower].map(|team| team.command(&command).unwrap());
        assert!(first.contains(&"--rdzv-conf=is_host=true".to_owned()), "{first:?}");
        assert!(second.contains(&"--rdzv-conf=is_host=false".to_owned()), "{second:?}");
        assert_eq!(
            first.iter().find(|w| w.contains("endpoint")),
            second.iter().find(|w| w.contains("endpoint"))
        );

        assert!(follower.exchange(&[beat(2)]).is_empty());
        assert_eq!(leader.exchange(&[beat(0)]), [beat(2)]);
        assert!(follower.exchange(&[]).is_empty(), "it has no use for the leader's");

        // Rank 0 need not be the leader's.
        std::fs::write(own[1].path().join("stop_at_step"), "41 measured").unwrap();
        follower.exchange(&[]);
        leader.exchange(&[]);
        assert_eq!(std::fs::read_to_string(own[0].path().join("stop_at_step")).unwrap(), "41 measured");

        follower.report(part(ProcessEnd::Exited { code: 0 }));
        let parts = leader.gather(part(ProcessEnd::Exited { code: 0 }), |_, _| (), || false).await;
        assert_eq!(parts.end(), &ProcessEnd::Exited { code: 0 });
        assert_eq!(parts.figures().len(), 2);
        assert_eq!(parts.hosts().keys().copied().collect::<Vec<_>>(), [0, 2]);
    }

    #[tokio::test]
    async fn what_the_leader_ends_is_ended_everywhere() {
        let Two { mut leader, mut follower, _shared, own: _own } = meet().await;
        let follows = async {
            let why = loop {
                follower.exchange(&[]);
                match follower.wants_end() {
                    Some(why) => break why,
                    None => tokio::time::sleep(LOOK).await,
                }
            };
            follower.report(part(why));
        };
        let (parts, ()) = tokio::join!(leader.gather(part(ProcessEnd::Hung), |_, _| (), || false), follows);
        assert_eq!(parts.end(), &ProcessEnd::Hung);
        assert!(parts.lost().is_empty());
    }

    #[tokio::test]
    async fn another_folder_and_an_end_before_the_meeting_are_named() {
        let shared = tempfile::tempdir().unwrap();
        lay_out(shared.path(), 2).unwrap();
        let seat = Seat { me: 0, of: 2, dir: shared.path().to_owned() };
        let stopped = Team::meet(&seat, shared.path(), "one".to_owned(), || true).await;
        assert!(stopped.unwrap_err().to_string().contains("stopped before"));
        let elsewhere = tempfile::tempdir().unwrap();
        let seat = Seat { dir: elsewhere.path().to_owned(), ..seat };
        let other = Team::meet(&seat, shared.path(), "one".to_owned(), || false).await;
        assert!(other.unwrap_err().to_string().contains("is not the folder"));
    }
}
