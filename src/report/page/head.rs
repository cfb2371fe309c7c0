//! What a report says in words: its head, what came out, the surroundings.  Pure.

use super::model::Figure;
use crate::model::event::Phase;
use crate::model::observation::Cap;
use crate::model::size::Bytes;
use crate::model::{Purpose, Verdict};
use crate::report::result::{Status, TuneResult};
use crate::report::{blocks, shortfall, table, words};

/// What came out, in a line.
pub(super) fn headline(r: &TuneResult) -> String {
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

/// It ran, and its figures count.
pub(super) fn measured(v: Verdict) -> bool {
    matches!(v, Verdict::Fit | Verdict::Disturbed)
}

pub(super) fn figures(r: &TuneResult) -> Vec<Figure> {
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

fn phase(r: &TuneResult, trial: u32) -> Option<Phase> {
    r.trials.iter().find(|t| t.trial == trial).and_then(|t| t.oom.as_ref()).and_then(|o| o.phase)
}

pub(super) fn facts(r: &TuneResult) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    if let Some(w) = &r.winner {
        let name = if r.confirmed.is_some() { "winner" } else { "best so far" };
        all.push((name, w.settings.to_string()));
        match &r.confirmed {
            Some(c) => {
                all.push(("", table::confirmed(c, w, r)));
                all.push(("", words::coverage(&c.coverage, c.train_seen)));
                all.extend(c.proved.as_ref().map(|p| ("", table::proved(p))));
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
    all.extend(blocks::what_filled_it(r).into_iter().map(|s| ("filled", s)));
    for a in &r.advice {
        let option = a.option.as_ref().map(|o| format!(" (option: {o})")).unwrap_or_default();
        all.push(("advice", format!("{}{option}", a.text)));
    }
    all.extend(r.notes.iter().map(|n| ("note", n.clone())));
    all
}

pub(super) fn legend(r: &TuneResult) -> String {
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

pub(super) fn environment(r: &TuneResult) -> Vec<(&'static str, String)> {
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
