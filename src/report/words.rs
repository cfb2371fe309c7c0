//! Figures and names as people read them.

use crate::model::event::Phase;
use crate::model::observation::{Cap, Coverage, RankFigures, Timing};
use crate::model::size::Bytes;
use crate::model::{Configuration, Observation, Purpose, Verdict};

/// Significant digits of a figure without a spread; more would claim a precision that no timing has.
const DIGITS: i32 = 3;

/// Significant digits of a figure with a spread, at most.
const DIGITS_WITH_SPREAD: i32 = 4;

/// Stands where there is no figure.
pub const NONE: &str = "-";

/// `412`, `12.3`, `0.0123`: three significant digits, and all digits before the point.
pub fn number(x: f64) -> String {
    if !x.is_finite() {
        return NONE.to_owned();
    }
    let decimals = (DIGITS - 1 - magnitude(x)).max(0);
    format!("{x:.*}", usize::try_from(decimals).unwrap_or(0))
}

/// `412 ± 3`, `12.34 ± 0.05`, `4700 ± 250`: the spread to one digit (two from 10 up), rounded up, and the figure to the
/// same place.
pub fn with_spread(x: f64, spread: f64) -> String {
    if !x.is_finite() || !spread.is_finite() || spread <= 0.0 {
        return number(x);
    }
    let finest = (DIGITS_WITH_SPREAD - 1 - magnitude(x)).max(0);
    let digits = i32::from(spread >= 10.0);
    let decimals = (digits - magnitude(spread)).min(finest);
    let places = usize::try_from(decimals).unwrap_or(0);
    let unit = 10f64.powi(-decimals);
    let spread = (spread / unit - 1e-9).ceil() * unit;
    let x = if decimals < 0 { (x / unit).round() * unit } else { x };
    format!("{x:.places$} ± {spread:.places$}")
}

/// The power of ten of the first digit.
fn magnitude(x: f64) -> i32 {
    if x == 0.0 { 0 } else { x.abs().log10().floor() as i32 }
}

/// The larger of the two distances from the figure to the ends of its interval.
pub fn spread(x: f64, interval: (f64, f64)) -> f64 {
    (interval.1 - x).max(x - interval.0).max(0.0)
}

/// `412 ± 3 samples/s`.
pub fn throughput(timing: &Timing) -> String {
    let x = timing.samples_per_second;
    format!("{} {}", with_spread(x, spread(x, timing.interval)), unit(timing))
}

/// `samples/s`, or `steps/s` where samples cannot be told.
pub fn unit(timing: &Timing) -> &str {
    if timing.unit.is_empty() { "samples/s" } else { &timing.unit }
}

/// `1.32x`.
pub fn relative(ratio: f64) -> String {
    if ratio >= 9.995 { format!("{}x", number(ratio)) } else { format!("{ratio:.2}x") }
}

/// `0.4 s`, `12 s`, `4 min 10 s`, `1 h 05 min`.
pub fn duration(seconds: f64) -> String {
    let s = seconds.max(0.0);
    if s < 9.95 {
        format!("{s:.1} s")
    } else if s < 59.5 {
        format!("{s:.0} s")
    } else if s < 3599.5 {
        let whole = s.round() as u64;
        format!("{} min {:02} s", whole / 60, whole % 60)
    } else {
        let minutes = (s / 60.0).round() as u64;
        format!("{} h {:02} min", minutes / 60, minutes % 60)
    }
}

/// `1.21 GiB`, or `-`.
pub fn bytes(n: Option<u64>) -> String {
    n.map_or_else(|| NONE.to_owned(), |n| Bytes(n).to_string())
}

/// `1 launch`, `9 launches`.
pub fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// `rank 1: 412 samples/s, 0.21 s of work a step, peak 1.21 GiB; it holds the others up`, with its machine where there
/// are several.
pub fn rank(figures: &RankFigures) -> String {
    let slow = if figures.straggler { "; it holds the others up" } else { "" };
    let on = figures.host.as_ref().map(|host| format!(" on {host}")).unwrap_or_default();
    format!(
        "rank {}{on}: {} samples/s, {} s of work a step, peak {}{slow}",
        figures.rank,
        number(figures.samples_per_second),
        number(figures.busy_seconds),
        Bytes(figures.peak)
    )
}

/// What a trial tries: its settings, and why it was launched where that is not plain from them.
pub fn what(settings: &Configuration, purpose: Purpose) -> String {
    let settings = if settings.is_baseline() { "baseline".to_owned() } else { settings.to_string() };
    match purpose {
        Purpose::Baseline | Purpose::Climb | Purpose::Prune => settings,
        Purpose::Repeat => format!("again: {settings}"),
        Purpose::Advice => format!("for advice: {settings}"),
        Purpose::Parity => format!("losses compared: {settings}"),
        Purpose::Confirm => format!("confirm: {settings}"),
        Purpose::Prove => format!("under its own peak: {settings}"),
        Purpose::Sweep => format!("several in turns beside {settings}"),
    }
}

/// `oom in train`, `fit`: the verdict, and where memory ran out if it did.
pub fn verdict(verdict: Verdict, phase: Option<Phase>) -> String {
    match (verdict, phase) {
        (Verdict::Oom, Some(p)) => format!("oom in {}", phase_name(p)),
        (v, _) => v.name().to_owned(),
    }
}

/// `train`, `eval`, ...
pub fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Setup => "setup",
        Phase::Train => "train",
        Phase::Eval => "eval",
        Phase::Save => "save",
    }
}

/// `train seen, eval seen, save not seen, largest batch: of 120 looked at`.  What was not seen is never claimed.
pub fn coverage(c: &Coverage, trained: bool) -> String {
    let seen = |name: &str, yes: bool| format!("{name} {}", if yes { "seen" } else { "not seen" });
    let largest = match (c.looked_at, c.of_batches, c.largest_trained) {
        (0, _, _) => "largest batch: not looked for".to_owned(),
        (n, of, trained) => {
            let epoch = match of {
                Some(all) if all > n => format!(" (an epoch has {all})"),
                _ => String::new(),
            };
            let not = if trained { "" } else { ", not trained on" };
            format!("largest batch: of {n} looked at{epoch}{not}")
        }
    };
    format!(
        "{}, {}, {}, {largest}",
        seen("train", trained),
        seen("eval", c.eval_seen),
        seen("save", c.save_seen)
    )
}

/// `1.50 GiB by cgroup v1 (process tree, anonymous + shared memory)`, and where a margin is kept
/// `1.43 GiB (1.50 GiB less a margin of 76.8 MiB) by ...`.
pub fn cap(cap: &Cap) -> String {
    let about: Vec<&str> =
        [cap.scope.as_str(), cap.metric.as_str()].into_iter().filter(|s| !s.is_empty()).collect();
    let about = if about.is_empty() { String::new() } else { format!(" ({})", about.join(", ")) };
    let by = if cap.mechanism.is_empty() { String::new() } else { format!(" by {}", cap.mechanism) };
    match cap.bytes {
        Some(n) if cap.margin_bytes > 0 => {
            let (allowed, margin) = (Bytes(n + cap.margin_bytes), Bytes(cap.margin_bytes));
            format!("{} ({allowed} less a margin of {margin}){by}{about}", Bytes(n))
        }
        Some(n) => format!("{}{by}{about}", Bytes(n)),
        None => format!("none{about}"),
    }
}

/// `peak 1.21 GiB, headroom 296 MiB`; only what is known.
pub fn memory(o: &Observation) -> Vec<String> {
    let mut parts = Vec::new();
    if let Some(peak) = o.peak() {
        parts.push(format!("peak {}", Bytes(peak)));
    }
    // After an out-of-memory end the distance from the highest sample to the cap says nothing.
    if let (Some(left), true) = (o.headroom(), o.verdict != Verdict::Oom) {
        parts.push(format!("headroom {}", Bytes(left)));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_the_precision_that_their_spread_allows() {
        assert_eq!(with_spread(412.37, 3.2), "412 ± 4");
        assert_eq!(with_spread(12.3456, 0.04), "12.35 ± 0.04");
        assert_eq!(with_spread(0.012345, 0.0002), "0.0123 ± 0.0002");
        assert_eq!(with_spread(1234.5, 0.001), "1234 ± 1");
        assert_eq!(with_spread(98765.0, 1200.0), "98800 ± 1200");
        assert_eq!(with_spread(4703.9, 241.7), "4700 ± 250");
        assert_eq!(with_spread(5.0, 0.0), "5.00");
        assert_eq!(number(0.0), "0.00");
        assert_eq!(number(123_456.0), "123456");
        assert_eq!(number(f64::NAN), "-");
    }

    #[test]
    fn a_cap_says_what_its_margin_keeps_free() {
        let whole = Cap { bytes: Some(1000 << 20), mechanism: "cgroup v2".to_owned(), ..Cap::default() };
        assert_eq!(cap(&whole), "1000 MiB by cgroup v2");
        let less = Cap { bytes: Some(950 << 20), margin_bytes: 50 << 20, ..whole };
        assert_eq!(cap(&less), "950 MiB (1000 MiB less a margin of 50.0 MiB) by cgroup v2");
    }

    #[test]
    fn times_change_their_unit() {
        assert_eq!(duration(0.42), "0.4 s");
        assert_eq!(duration(59.4), "59 s");
        assert_eq!(duration(59.7), "1 min 00 s");
        assert_eq!(duration(250.0), "4 min 10 s");
        assert_eq!(duration(3900.0), "1 h 05 min");
    }

    #[test]
    fn a_phase_that_was_not_seen_is_never_claimed() {
        let none = Coverage::default();
        assert_eq!(
            coverage(&none, true),
            "train seen, eval not seen, save not seen, largest batch: not looked for"
        );
        let all = Coverage {
            eval_seen: true,
            save_seen: true,
            looked_at: 500,
            of_batches: Some(1200),
            largest_trained: true,
        };
        assert_eq!(
            coverage(&all, true),
            "train seen, eval seen, save seen, largest batch: of 500 looked at (an epoch has 1200)"
        );
        assert!(coverage(&Coverage { largest_trained: false, ..all }, true).ends_with("not trained on"));
    }
}
