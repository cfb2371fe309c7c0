//! The lines and the summary of `autofit watch`.

use super::style::{Style, hang, one_line};
use super::words;
use crate::model::event::Phase;
use crate::model::size::Bytes;
use crate::watch::live::{Device, End, Reading};
use crate::watch::training::{Allocator, Training};

/// From here on workers are worth a try.
const WAIT_WORTH_IT: f64 = 0.1;
/// From here on what is reserved and unused is worth a setting of the allocator.
const UNUSED_WORTH_IT: f64 = 0.25;
/// Nearer to its cap than this, a larger batch or a longer text ends in an error.
const NEAR: f64 = 0.05;
/// A device that is idle for more of the time than this waits for something else.
const IDLE_BELOW: f64 = 70.0;

/// One reading in one line, in the order of the table: time, memory, load, training.
pub fn line(r: &Reading) -> String {
    let mut parts =
        vec![words::duration(r.at), format!("host {}", memory(r.host.bytes, r.host.peak, r.host.cap))];
    for device in &r.devices {
        parts.push(format!("{} {}", device.title(), memory(device.bytes, device.peak, device.cap)));
        parts.extend(load(device));
    }
    parts.extend(r.cores.filter(|_| r.devices.is_empty()).map(cores));
    if let Some(t) = &r.training {
        parts.extend(training(t));
        parts.extend(t.allocators.iter().map(allocator));
    }
    parts.join(", ")
}

/// `1.21 GiB (peak 1.30 GiB of 23.5 GiB)`.
fn memory(now: Option<u64>, peak: Option<u64>, cap: u64) -> String {
    match peak.or(now) {
        Some(peak) => format!("{} (peak {})", words::bytes(now), of_cap(peak, cap)),
        None => words::NONE.to_owned(),
    }
}

/// `1.30 GiB of 23.5 GiB`; a cap of 0 is not known.
pub(super) fn of_cap(bytes: u64, cap: u64) -> String {
    if cap == 0 { Bytes(bytes).to_string() } else { format!("{} of {}", Bytes(bytes), Bytes(cap)) }
}

pub(super) fn load(device: &Device) -> Option<String> {
    device.utilization.map(|u| format!("{u} % busy"))
}

pub(super) fn cores(n: f64) -> String {
    format!("{n:.1} cores busy")
}

/// `evaluating`, `step 143`, `3.41 steps/s`, `109 samples/s`, `loader wait 3 %`.
pub(super) fn training(t: &Training) -> Vec<String> {
    let mut parts = Vec::new();
    parts.extend(t.phase.filter(|p| *p != Phase::Train).map(|p| format!("in {}", words::phase_name(p))));
    parts.push(format!("step {}", t.steps));
    parts.extend(t.steps_per_second.map(|s| format!("{} steps/s", words::number(s))));
    parts.extend(t.samples_per_second.map(|s| format!("{} samples/s", words::number(s))));
    parts.extend(t.loader_wait.map(|w| format!("loader wait {}", percent(w))));
    if t.ranks > 1 {
        parts.push(format!("{} ranks", t.ranks));
    }
    parts
}

/// `14.1 GiB reserved, of it 12.0 GiB allocated (15 % unused, 0.2 GiB in split blocks), 0 retries`.
pub(super) fn allocator(a: &Allocator) -> String {
    let r = a.now;
    let unused = a.unused().map_or_else(String::new, |u| format!(" ({} unused)", percent(u)));
    let mut text = format!("reserved {}, of it allocated {}{unused}", Bytes(r.reserved), Bytes(r.allocated));
    if r.split > 0 {
        text.push_str(&format!(", {} in split blocks", Bytes(r.split)));
    }
    text.push_str(&format!(", {}", words::count(r.retries, "retry", "retries")));
    text
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// What is printed at the end.
pub fn summary(what: &str, end: &End, style: Style) -> String {
    let r = &end.whole;
    let ended = match end.status {
        Some(0) => ", which ended well".to_owned(),
        Some(n) => format!(", which ended with status {n}"),
        None => String::new(),
    };
    let mut out =
        hang("", &format!("watched {} for {}{ended}", one_line(what), words::duration(r.at)), style.width);
    let mut say = |head: &str, text: &str| out.push_str(&hang(&format!("  {head:<13} "), text, style.width));
    say("host memory", &peak(r.host.peak, r.host.cap, "it was over before it was looked at"));
    for (device, busy) in r.devices.iter().zip(&end.mean_utilization) {
        let busy = busy.map_or_else(String::new, |b| format!(", {b:.0} % busy on average"));
        say(&device.title(), &format!("{}{busy}", peak(device.peak, device.cap, "not told by the driver")));
    }
    if let Some(t) = &r.training {
        let mut parts = vec![words::count(t.steps, "step", "steps")];
        parts.extend(training(t).into_iter().filter(|p| p.ends_with("/s") || p.ends_with("ranks")));
        say("training", &parts.join(", "));
        if let Some(wait) = t.loader_wait {
            say("loader wait", &format!("{} of the time", percent(wait)));
        }
        for a in &t.allocators {
            let n = a.now;
            let text = format!(
                "{} allocated and {} reserved at most; {}, {}",
                Bytes(n.allocated_peak),
                Bytes(n.reserved_peak),
                words::count(n.retries, "retry", "retries"),
                words::count(n.ooms, "out-of-memory error", "out-of-memory errors")
            );
            say("allocator", &text);
        }
    }
    for note in &end.notes {
        say("note", note);
    }
    for hint in hints(end) {
        say("try", &hint);
    }
    out
}

fn peak(bytes: Option<u64>, cap: u64, otherwise: &str) -> String {
    match bytes {
        Some(n) if cap > 0 => format!("peak {} ({})", of_cap(n, cap), percent(n as f64 / cap as f64)),
        Some(n) => format!("peak {}", Bytes(n)),
        None => otherwise.to_owned(),
    }
}

/// What the figures suggest, in the order to try.
fn hints(end: &End) -> Vec<String> {
    let r = &end.whole;
    let mut hints = Vec::new();
    let training = r.training.as_ref();
    let wait = training.and_then(|t| t.loader_wait).filter(|w| *w >= WAIT_WORTH_IT);
    if let Some(wait) = wait {
        hints.push(format!(
            "num_workers, one or two more: training waited for its loader {} of the time, and workers load while it computes",
            percent(wait)
        ));
    }
    let allocators = training.map(|t| t.allocators.as_slice()).unwrap_or_default();
    let retried = allocators.iter().any(|a| a.now.retries > 0);
    if retried || allocators.iter().any(|a| a.unused().is_some_and(|u| u >= UNUSED_WORTH_IT)) {
        let why = if retried {
            "the allocator had to give back its cache"
        } else {
            "much of what is reserved is unused"
        };
        hints.push(format!("allocator=expandable_segments:True: {why}; it costs nothing"));
    }
    let near =
        |peak: Option<u64>, cap: u64| cap > 0 && peak.is_some_and(|p| p as f64 >= cap as f64 * (1.0 - NEAR));
    let devices_near = r.devices.iter().any(|d| near(d.peak, d.cap));
    if devices_near || near(r.host.peak, r.host.cap) || training.is_some_and(|t| t.ooms > 0) {
        hints.push(
            "accumulation=2, then checkpoint=selective: the peak is at its limit, and these lower it at the same training"
                .to_owned(),
        );
    }
    let idle = end.mean_utilization.iter().flatten().any(|u| *u < IDLE_BELOW);
    if idle && wait.is_none() && training.is_some_and(|t| t.steps > 0) {
        hints.push(
            "compile=default, or a larger micro-batch: the GPU waits for the script between kernels"
                .to_owned(),
        );
    }
    if !hints.is_empty() {
        hints.push("`autofit -- COMMAND` measures which of these fit and what they gain".to_owned());
    }
    hints
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::event::AllocatorReading;
    use crate::watch::live::HostNow;

    const GIB: u64 = 1 << 30;

    pub(in crate::report) fn on_a_gpu() -> Reading {
        let now = AllocatorReading {
            index: 0,
            allocated: 12 * GIB,
            allocated_peak: 14 * GIB,
            reserved: 18 * GIB,
            reserved_peak: 20 * GIB,
            split: GIB / 2,
            retries: 2,
            ooms: 1,
        };
        Reading {
            at: 62.0,
            processes: 5,
            cores: Some(1.9),
            host: HostNow { bytes: Some(3 * GIB), peak: Some(4 * GIB), cap: 64 * GIB },
            devices: vec![Device {
                index: 0,
                mig: None,
                name: "NVIDIA L4".into(),
                bytes: Some(19 * GIB),
                peak: Some(22 * GIB),
                cap: 23 * GIB,
                used: Some(20 * GIB),
                utilization: Some(87),
            }],
            training: Some(Training {
                ranks: 1,
                phase: Some(Phase::Train),
                steps: 143,
                steps_per_second: Some(3.412),
                samples_per_second: Some(109.2),
                loader_wait: Some(0.124),
                allocators: vec![Allocator { rank: 0, now }],
                ooms: 1,
            }),
        }
    }

    pub(in crate::report) fn on_the_processor() -> Reading {
        Reading {
            at: 8.0,
            processes: 1,
            cores: Some(1.96),
            host: HostNow { bytes: Some(700 << 20), peak: Some(710 << 20), cap: 8 * GIB },
            devices: vec![],
            training: Some(Training {
                ranks: 1,
                phase: Some(Phase::Eval),
                steps: 20,
                steps_per_second: Some(8.0),
                loader_wait: Some(0.01),
                ..Training::default()
            }),
        }
    }

    #[test]
    fn lines() {
        let before = Reading { training: None, devices: vec![], ..on_the_processor() };
        let lines = [line(&on_a_gpu()), line(&on_the_processor()), line(&before)].join("\n");
        insta::assert_snapshot!(lines, @r#"
        1 min 02 s, host 3.00 GiB (peak 4.00 GiB of 64.0 GiB), GPU 0 19.0 GiB (peak 22.0 GiB of 23.0 GiB), 87 % busy, step 143, 3.41 steps/s, 109 samples/s, loader wait 12 %, reserved 18.0 GiB, of it allocated 12.0 GiB (33 % unused), 512 MiB in split blocks, 2 retries
        8.0 s, host 700 MiB (peak 710 MiB of 8.00 GiB), 2.0 cores busy, in eval, step 20, 8.00 steps/s, loader wait 1 %
        8.0 s, host 700 MiB (peak 710 MiB of 8.00 GiB), 2.0 cores busy
        "#);
    }

    #[test]
    fn summaries() {
        let gpu = End {
            status: Some(1),
            whole: on_a_gpu(),
            mean_utilization: vec![Some(61.0)],
            notes: vec!["no permission to read shares of memory".into()],
        };
        let cpu = End { status: Some(0), whole: on_the_processor(), ..End::default() };
        let style = Style { width: 80, color: false };
        let text = summary("python train.py", &gpu, style) + "\n" + &summary("python t.py", &cpu, style);
        insta::assert_snapshot!(text, @r#"
        watched python train.py for 1 min 02 s, which ended with status 1
          host memory   peak 4.00 GiB of 64.0 GiB (6 %)
          GPU 0         peak 22.0 GiB of 23.0 GiB (96 %), 61 % busy on average
          training      143 steps, 3.41 steps/s, 109 samples/s
          loader wait   12 % of the time
          allocator     14.0 GiB allocated and 20.0 GiB reserved at most; 2 retries, 1
                        out-of-memory error
          note          no permission to read shares of memory
          try           num_workers, one or two more: training waited for its loader 12
                        % of the time, and workers load while it computes
          try           allocator=expandable_segments:True: the allocator had to give
                        back its cache; it costs nothing
          try           accumulation=2, then checkpoint=selective: the peak is at its
                        limit, and these lower it at the same training
          try           `autofit -- COMMAND` measures which of these fit and what they
                        gain

        watched python t.py for 8.0 s, which ended well
          host memory   peak 710 MiB of 8.00 GiB (9 %)
          training      20 steps, 8.00 steps/s
          loader wait   1 % of the time
        "#);
    }
}
