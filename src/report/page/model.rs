//! [`TuneResult`] and observations -> what the report says.  Pure.

use super::commands::{self, Command};
use crate::model::observation::Cap;
use crate::model::size::Bytes;
use crate::model::trace::MemoryTrace;
use crate::model::{Knob, Observation, Purpose, Verdict};
use crate::report::result::{Candidate, Status, Trial, TuneResult};
use crate::report::table::{self, Row};
use crate::report::{shortfall, words};

/// Everything that a report shows.
pub struct Page<'a> {
    /// Where it is from.
    pub result: &'a TuneResult,
    /// What came out, in a line.
    pub headline: String,
    /// The figures that matter most.
    pub figures: Vec<Figure>,
    /// What must be known beside them.
    pub facts: Vec<(&'static str, String)>,
    /// What to type.
    pub commands: Vec<Command>,
    /// Unit of the rates.
    pub unit: &'a str,
    /// What relative figures are relative to, and the like.
    pub legend: String,
    /// The ladder as it was climbed.
    pub ladder: Vec<Rung>,
    /// Throughput against memory; empty where nothing was measured.
    pub dots: Vec<Dot>,
    /// Memory over time.
    pub traces: Vec<Trace>,
    /// Loss of the winner beside the script as it is.
    pub losses: Option<Losses>,
    /// How the winner trains, in a sentence.
    pub parity: Option<String>,
    /// Where the time went.
    pub times: Vec<TimeUse>,
    /// The surroundings.
    pub environment: Vec<(&'static str, String)>,
}

/// One figure of the head.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// What it is.
    pub name: &'static str,
    /// The figure.
    pub value: String,
    /// Its unit, where it is not part of the figure.
    pub unit: String,
    /// What it is to be seen beside.
    pub note: String,
    /// Share of what is allowed, 0 to 1.
    pub share: Option<f64>,
}

/// One launch in the ladder.
#[derive(Debug, Clone)]
pub struct Rung {
    /// In words.
    pub(in crate::report) row: Row,
    /// Number of the trial.
    pub trial: u32,
    /// The judgement.
    pub verdict: Verdict,
    /// One sentence on it.
    pub why: String,
    /// Throughput as a share of the highest.
    pub share: f64,
}

/// One launch between memory and throughput.
#[derive(Debug, Clone, PartialEq)]
pub struct Dot {
    /// Number of the trial.
    pub trial: u32,
    /// What changed.
    pub what: String,
    /// The judgement.
    pub verdict: Verdict,
    /// Peak in the memory that the cap is about, bytes.
    pub bytes: u64,
    /// Rate and its interval; absent for what was not measured.
    pub rate: Option<(f64, f64, f64)>,
    /// In words: rate, peak.
    pub text: String,
    /// It only advises: it is beyond the bound.
    pub advice: bool,
    /// No other launch within the bound is as fast with as little memory.
    pub front: bool,
    /// The winner's launch.
    pub winner: bool,
}

/// Memory over the time of one launch.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// Number of the trial.
    pub trial: u32,
    /// What changed.
    pub what: String,
    /// The verdict in words.
    pub verdict: String,
    /// The winner's launch.
    pub winner: bool,
    /// When the first step was done, seconds after the launch.
    pub first_step: Option<f64>,
    /// The figures.
    pub memory: MemoryTrace,
}

/// Losses of the same steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Losses {
    /// Trials of the reference and of the winner's settings.
    pub trials: (u32, u32),
    /// Of the script as it is.
    pub reference: Vec<f64>,
    /// With the winner's settings.
    pub winner: Vec<f64>,
}

/// Where the time of one launch went, seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct TimeUse {
    /// Number of the trial.
    pub trial: u32,
    /// What changed.
    pub what: String,
    /// From the launch to the end of the first step; absent where there was none.
    pub start: Option<f64>,
    /// Steps that were timed.
    pub measured: f64,
    /// Warm-up, evaluation, saving, the end.
    pub rest: f64,
}

impl TimeUse {
    /// From the launch to the end of the last process.
    pub fn total(&self) -> f64 {
        self.start.unwrap_or(0.0) + self.measured + self.rest
    }
}

impl<'a> Page<'a> {
    /// What is said of a search.
    pub fn of(result: &'a TuneResult, observations: &[Observation]) -> Self {
        let winner = result.winner.as_ref().map(|w| w.trial);
        let unit = table::unit(result);
        Self {
            result,
            headline: headline(result),
            figures: figures(result),
            facts: facts(result),
            commands: commands::of(result),
            unit,
            legend: legend(result),
            ladder: ladder(result, winner),
            dots: dots(result, winner, unit),
            traces: traces(result, observations, winner),
            losses: result.winner.as_ref().and_then(|w| losses(w, result, observations)),
            parity: result.winner.as_ref().and_then(|w| table::trains_alike(w, result)),
            times: times(result, observations),
            environment: environment(result),
        }
    }

    /// The cap in words, where there is one.
    pub fn cap(&self) -> Option<String> {
        self.result.cap.bytes.map(|b| Bytes(b).to_string())
    }

    /// What the cap is about: device memory, or host memory.
    pub fn memory_name(&self) -> &'static str {
        let device = |t: &Trial| t.measured.peak_device_bytes.is_some();
        if self.result.trials.iter().any(device) { "device memory" } else { "host memory" }
    }

    /// Seconds of launches; of the search beside them.
    pub fn seconds(&self) -> (f64, f64) {
        let launches: f64 = self.times.iter().map(TimeUse::total).sum();
        (launches, (self.result.cost.seconds - launches).max(0.0))
    }
}

fn headline(r: &TuneResult) -> String {
    let under = r.cap.bytes.map_or_else(String::new, |b| format!(" in {}", Bytes(b)));
    let (Some(w), true) = (&r.winner, matches!(r.status, Status::Tuned)) else {
        return match r.status {
            Status::Tuned | Status::NothingFits => format!("Nothing fits{under}"),
            Status::ScriptFails => "The script fails, and not for want of memory".to_owned(),
            Status::AgentMissing => "Nothing could be measured".to_owned(),
            Status::Interrupted | Status::Terminated => "Stopped before its end".to_owned(),
        };
    };
    if w.settings.is_baseline() {
        return "Nothing beat the script as it is".to_owned();
    }
    match (&r.baseline, w.relative) {
        (Some(b), Some(x)) if measured(b.verdict) && x >= 1.0 => {
            format!("{} the throughput of the script as it is", words::relative(x))
        }
        (Some(b), _) if !measured(b.verdict) => format!("Made to fit{under}"),
        _ => format!("The fastest that fits{under}"),
    }
}

fn measured(v: Verdict) -> bool {
    matches!(v, Verdict::Fit | Verdict::Disturbed)
}

fn figures(r: &TuneResult) -> Vec<Figure> {
    let mut all = Vec::new();
    let text = str::to_owned;
    if let Some(w) = &r.winner {
        if let Some(x) = &w.samples_per_second {
            let note = match &r.baseline {
                Some(b) if w.settings.is_baseline() || b.trial == w.trial => text("the script as it is"),
                Some(b) => match b.samples_per_second.as_ref().filter(|_| measured(b.verdict)) {
                    Some(y) => format!("the script as it is: {}", table::rate_text(y, &x.unit)),
                    None => format!("the script as it is: {}", words::verdict(b.verdict, phase(r, b.trial))),
                },
                None => String::new(),
            };
            let value = table::rate_text(x, &x.unit);
            all.push(Figure { name: "throughput", value, unit: x.unit.clone(), note, share: None });
        }
        let peak = w.peak_device_bytes.or(w.peak_host_bytes);
        if let Some(peak) = peak {
            let note = r.cap.bytes.map_or_else(String::new, |cap| format!("of {} allowed", Bytes(cap)));
            let share = r.cap.bytes.map(|cap| (peak as f64 / cap.max(1) as f64).min(1.0));
            let value = Bytes(peak).to_string();
            all.push(Figure { name: "peak memory", value, unit: String::new(), note, share });
        }
        if let Some(left) = w.headroom_bytes {
            let note = match r.confirmed {
                Some(_) => text("in a fresh process"),
                None => text("not confirmed in a fresh process"),
            };
            let value = Bytes(left).to_string();
            all.push(Figure { name: "headroom", value, unit: String::new(), note, share: None });
        }
    }
    let launches = words::count(u64::from(r.cost.launches), "launch", "launches");
    let value = words::duration(r.cost.seconds);
    all.push(Figure { name: "cost", value, unit: String::new(), note: launches, share: None });
    all
}

fn phase(r: &TuneResult, trial: u32) -> Option<crate::model::event::Phase> {
    r.trials.iter().find(|t| t.trial == trial).and_then(|t| t.oom.as_ref()).and_then(|o| o.phase)
}

fn facts(r: &TuneResult) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    if let Some(w) = &r.winner {
        let name = if r.confirmed.is_some() { "winner" } else { "best so far" };
        all.push((name, w.settings.to_string()));
        match &r.confirmed {
            Some(c) => {
                all.push(("", table::confirmed(c, w, r)));
                all.push(("", words::coverage(&c.coverage, c.train_seen)));
            }
            None => all.push(("", "not confirmed in a fresh process: a candidate, not a claim".to_owned())),
        }
        all.extend(table::trains_alike(w, r).map(|alike| ("", alike)));
    }
    all.extend(r.compared.iter().map(|c| ("compared", table::compared(c))));
    if let Some(f) = &r.failure {
        all.push(("cause", f.cause.clone()));
        all.extend(f.next.iter().map(|n| ("try", n.clone())));
    }
    if r.status == Status::NothingFits {
        all.extend(shortfall::sentences(r).into_iter().map(|s| ("short", s)));
    }
    for a in &r.advice {
        let option = a.option.as_ref().map(|o| format!(" (option: {o})")).unwrap_or_default();
        all.push(("advice", format!("{}{option}", a.text)));
    }
    all.extend(r.notes.iter().map(|n| ("note", n.clone())));
    all
}

fn legend(r: &TuneResult) -> String {
    let mut parts = Vec::new();
    match r.trials.iter().find(|t| Some(t.trial) == r.reference_trial) {
        Some(t) if t.purpose == Purpose::Baseline => {
            parts.push("relative: to the script as it is".to_owned());
        }
        Some(t) => parts.push(format!("relative: to trial {}, the first that fits", t.trial)),
        None => {}
    }
    if !parts.is_empty() {
        parts.push("±: 95 % interval within a launch".to_owned());
    }
    parts.join("; ")
}

fn ladder(r: &TuneResult, winner: Option<u32>) -> Vec<Rung> {
    let rate = |t: &Trial| {
        let rate = t.measured.samples_per_second.as_ref().filter(|_| measured(t.verdict));
        rate.map_or(0.0, |x| x.value)
    };
    let highest = r.trials.iter().map(rate).fold(0.0, f64::max);
    let rung = |t: &Trial| Rung {
        row: table::row(t, r, winner),
        trial: t.trial,
        verdict: t.verdict,
        why: t.why.clone(),
        share: if highest > 0.0 { rate(t) / highest } else { 0.0 },
    };
    r.trials.iter().map(rung).collect()
}

fn dots(r: &TuneResult, winner: Option<u32>, unit: &str) -> Vec<Dot> {
    // Losses are compared without random draws and with smaller batches: their rates are of another script.
    let shown = |t: &&Trial| t.purpose != Purpose::Parity;
    let mut dots: Vec<Dot> =
        r.trials.iter().filter(shown).filter_map(|t| dot(t, unit, winner == Some(t.trial))).collect();
    if dots.iter().all(|d| d.rate.is_none()) {
        return Vec::new();
    }
    let choices: Vec<(u32, u64, f64)> =
        dots.iter().filter(|d| !d.advice).filter_map(|d| Some((d.trial, d.bytes, d.rate?.0))).collect();
    let front = front(&choices);
    for d in &mut dots {
        d.front = front.contains(&d.trial);
    }
    dots
}

fn dot(t: &Trial, unit: &str, winner: bool) -> Option<Dot> {
    let m = &t.measured;
    let peak = m.peak_device_bytes.or(m.peak_host_bytes);
    let rate = m.samples_per_second.as_ref().filter(|x| measured(t.verdict) && x.unit == unit);
    let bytes = match (t.verdict, &t.oom) {
        // The highest sample of what ran out says less than what was asked for.
        (Verdict::Oom, Some(oom)) => oom.at_least_bytes.max(peak)?,
        (Verdict::Oom | Verdict::Thrash | Verdict::Fit | Verdict::Disturbed, _) => peak?,
        _ => return None,
    };
    let at_least = if t.verdict == Verdict::Oom { "at least " } else { "" };
    let text = match rate {
        Some(x) => format!("{} {}, peak {}", table::rate_text(x, unit), x.unit, Bytes(bytes)),
        None => format!("{}, {at_least}{}", words::verdict(t.verdict, None), Bytes(bytes)),
    };
    Some(Dot {
        trial: t.trial,
        what: words::what(&t.settings, t.purpose),
        verdict: t.verdict,
        bytes,
        rate: rate.map(|x| (x.value, x.interval.0, x.interval.1)),
        text,
        advice: t.purpose == Purpose::Advice,
        front: false,
        winner,
    })
}

/// Those (number, bytes, rate) that no other one beats in memory and rate at once, by growing memory.
pub(super) fn front(all: &[(u32, u64, f64)]) -> Vec<u32> {
    let mut sorted: Vec<_> = all.iter().filter(|(_, _, rate)| rate.is_finite()).collect();
    sorted.sort_by(|a, b| a.1.cmp(&b.1).then(b.2.total_cmp(&a.2)));
    let mut fastest = f64::NEG_INFINITY;
    let mut front = Vec::new();
    for (number, _, rate) in sorted {
        if *rate > fastest {
            fastest = *rate;
            front.push(*number);
        }
    }
    front
}

fn traces(r: &TuneResult, observations: &[Observation], winner: Option<u32>) -> Vec<Trace> {
    let of = |t: &Trial| {
        let o = observations.iter().find(|o| o.trial == t.trial)?;
        let memory = o.memory.clone().filter(|m| m.at.len() > 1)?;
        Some(Trace {
            trial: t.trial,
            what: words::what(&t.settings, t.purpose),
            verdict: words::verdict(t.verdict, t.oom.as_ref().and_then(|o| o.phase)),
            winner: winner == Some(t.trial),
            first_step: t.measured.first_step_seconds,
            memory,
        })
    };
    r.trials.iter().filter_map(of).collect()
}

/// The winner's settings and the script as it is, over the same steps and data; as the comparison of `result.json`
/// chose them.
fn losses(w: &Candidate, r: &TuneResult, observations: &[Observation]) -> Option<Losses> {
    let with = w.parity.as_ref()?.with_trial?;
    let reference = observations.iter().find(|o| o.trial == with)?;
    let same = |o: &&Observation| {
        let bare = |o: &Observation| o.settings.without(Knob::BatchSize);
        match reference.purpose {
            Purpose::Parity => o.purpose == Purpose::Parity && bare(o) == w.settings.without(Knob::BatchSize),
            _ => !matches!(o.purpose, Purpose::Confirm | Purpose::Parity) && o.settings == w.settings,
        }
    };
    let mut candidates: Vec<&Observation> = observations.iter().filter(same).collect();
    if reference.purpose == Purpose::Parity {
        // The last one is what was judged.
        candidates.reverse();
    }
    let mine = candidates.into_iter().find(|o| !o.losses.is_empty() && o.trial != with)?;
    let steps = mine.losses.len().min(reference.losses.len());
    let known = r.trials.iter().any(|t| t.trial == mine.trial);
    (steps > 1 && known).then(|| Losses {
        trials: (with, mine.trial),
        reference: reference.losses[..steps].to_vec(),
        winner: mine.losses[..steps].to_vec(),
    })
}

fn times(r: &TuneResult, observations: &[Observation]) -> Vec<TimeUse> {
    let of = |t: &Trial| {
        let timing = observations.iter().find(|o| o.trial == t.trial).and_then(|o| o.timing.as_ref());
        let finite = |x: f64| if x.is_finite() { x.max(0.0) } else { 0.0 };
        let total = finite(t.seconds);
        let start = t.measured.first_step_seconds.map(|s| finite(s).min(total));
        let steps: f64 = timing.map_or(0.0, |t| t.step_seconds.iter().copied().map(finite).sum());
        let measured = steps.min(total - start.unwrap_or(0.0));
        TimeUse {
            trial: t.trial,
            what: words::what(&t.settings, t.purpose),
            start,
            measured,
            rest: total - start.unwrap_or(0.0) - measured,
        }
    };
    r.trials.iter().map(of).collect()
}

fn environment(r: &TuneResult) -> Vec<(&'static str, String)> {
    let m = &r.machine;
    let mut all = vec![("autofit", r.autofit.clone()), ("search", r.id.clone())];
    for d in &m.devices {
        let driver = d.driver.as_ref().map_or_else(String::new, |v| format!(", driver {v}"));
        all.push(("device", format!("{}, {}{driver}", d.name, Bytes(d.memory_bytes))));
    }
    if m.devices.is_empty() {
        all.push(("device", format!("{:?}", r.device).to_ascii_lowercase()));
    }
    let cores = words::count(u64::from(m.cores), "core", "cores");
    match (m.cpu.is_empty(), m.cores) {
        (true, 0) => {}
        (true, _) => all.push(("processor", cores)),
        (false, _) => all.push(("processor", format!("{}, {cores}", m.cpu))),
    }
    if m.memory_bytes > 0 {
        all.push(("memory", Bytes(m.memory_bytes).to_string()));
    }
    all.push(("cap", words::cap(&Cap::from(&r.cap))));
    all.push(("isolation", table::isolation(r)));
    if !m.system.is_empty() {
        all.push(("system", m.system.clone()));
    }
    all.extend(m.python.iter().map(|p| ("python", p.clone())));
    if !m.packages.is_empty() {
        let packages: Vec<String> = m.packages.iter().map(|(name, v)| format!("{name} {v}")).collect();
        all.push(("packages", packages.join(", ")));
    }
    all.push(("directory", r.directory.clone()));
    all
}
