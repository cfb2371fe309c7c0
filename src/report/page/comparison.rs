//! Two searches beside each other.  Pure.

use super::markdown::{grid, rate, ratio, text};
use super::model::Page;
use crate::model::Configuration;
use crate::model::size::Bytes;
use crate::report::result::{Candidate, Rate, Trial, TuneResult};
use crate::report::{table, words};

/// What two searches say together.
pub struct Comparison<'a> {
    /// The first.
    pub a: Page<'a>,
    /// The second.
    pub b: Page<'a>,
    /// In a sentence.
    pub headline: String,
    /// A figure of both, row by row: name, first, second.
    pub rows: Vec<[String; 3]>,
    /// What is not the same, so that a difference of figures may be its effect.
    pub differences: Vec<[String; 3]>,
    /// Configurations that both launched: name, first, second, ratio, whether the intervals are apart.
    pub common: Vec<Common>,
}

/// One configuration, measured in both searches.
#[derive(Debug, Clone, PartialEq)]
pub struct Common {
    /// What is set.
    pub settings: String,
    /// In the first.
    pub a: String,
    /// In the second.
    pub b: String,
    /// Second over first.
    pub ratio: String,
    /// `apart`, or `overlap`: then nothing is said by the ratio.
    pub intervals: &'static str,
}

impl<'a> Comparison<'a> {
    /// Of two searches.
    pub fn of(a: Page<'a>, b: Page<'a>) -> Self {
        let (headline, rows) = (headline(a.result, b.result), rows(a.result, b.result));
        let (differences, common) = (differences(&a, &b), common(a.result, b.result));
        Self { a, b, headline, rows, differences, common }
    }

    /// The document.
    pub fn markdown(&self) -> String {
        let heads = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let cells = |rows: &[[String; 3]]| {
            rows.iter().map(|r| r.iter().map(|c| text(c)).collect()).collect::<Vec<Vec<String>>>()
        };
        let mut out = format!("# autofit: {}\n\n", text(&self.headline));
        out += &grid(&heads(&["", "A", "B"]), &cells(&self.rows), "");
        if !self.common.is_empty() {
            let row = |c: &Common| {
                [&c.settings, &c.a, &c.b, &c.ratio]
                    .iter()
                    .map(|s| text(s))
                    .chain([c.intervals.to_owned()])
                    .collect()
            };
            let rows: Vec<Vec<String>> = self.common.iter().map(row).collect();
            out += "\n## Measured in both\n\n";
            out += &grid(&heads(&["settings", "A", "B", "B over A", "intervals"]), &rows, ".rrr.");
        }
        out += "\n## What else is different\n\n";
        match self.differences.is_empty() {
            true => out += "Nothing that is known.\n",
            false => out += &grid(&heads(&["", "A", "B"]), &cells(&self.differences), ""),
        }
        out
    }
}

fn winner_rate(r: &TuneResult) -> Option<&Rate> {
    r.winner.as_ref()?.samples_per_second.as_ref()
}

fn headline(a: &TuneResult, b: &TuneResult) -> String {
    match (winner_rate(a), winner_rate(b)) {
        (Some(x), Some(y)) => match ratio(x, y) {
            Some(ratio) if apart(x, y) => format!("B runs at {} of A", words::relative(ratio)),
            Some(ratio) => format!("A and B are alike within their spread ({})", words::relative(ratio)),
            None => "A and B count in different units".to_owned(),
        },
        (Some(_), None) => "A found what fits, B did not".to_owned(),
        (None, Some(_)) => "B found what fits, A did not".to_owned(),
        (None, None) => "neither search found what fits".to_owned(),
    }
}

fn apart(x: &Rate, y: &Rate) -> bool {
    x.interval.1 < y.interval.0 || y.interval.1 < x.interval.0
}

fn rows(a: &TuneResult, b: &TuneResult) -> Vec<[String; 3]> {
    let both = |name: &str, of: &dyn Fn(&TuneResult) -> String| [name.to_owned(), of(a), of(b)];
    let none = || words::NONE.to_owned();
    let of_winner = |r: &TuneResult, of: &dyn Fn(&Candidate) -> Option<String>| {
        r.winner.as_ref().and_then(of).unwrap_or_else(none)
    };
    vec![
        both("search", &|r| r.id.clone()),
        both("result", &|r| r.reason.clone()),
        both("winner", &|r| of_winner(r, &|w| Some(w.settings.to_string()))),
        both("confirmed", &|r| if r.confirmed.is_some() { "yes" } else { "no" }.to_owned()),
        both("throughput", &|r| of_winner(r, &|w| w.samples_per_second.as_ref().map(rate))),
        both("script as it is", &|r| as_it_is(r).unwrap_or_else(none)),
        both("relative", &|r| of_winner(r, &|w| w.relative.map(words::relative))),
        both("peak memory", &|r| {
            of_winner(r, &|w| Some(words::bytes(w.peak_device_bytes.or(w.peak_host_bytes))))
        }),
        both("headroom", &|r| of_winner(r, &|w| Some(words::bytes(w.headroom_bytes)))),
        both("cap", &|r| r.cap.bytes.map_or_else(none, |b| Bytes(b).to_string())),
        both("trains alike", &|r| of_winner(r, &|w| table::trains_alike(w, r))),
        both("launches", &|r| r.cost.launches.to_string()),
        both("time", &|r| words::duration(r.cost.seconds)),
    ]
}

fn as_it_is(r: &TuneResult) -> Option<String> {
    let b = r.baseline.as_ref()?;
    Some(match b.samples_per_second.as_ref() {
        Some(x) => rate(x),
        None => words::verdict(b.verdict, None),
    })
}

/// Command, limits and surroundings that are not the same.
fn differences(a: &Page<'_>, b: &Page<'_>) -> Vec<[String; 3]> {
    let joined = |r: &TuneResult| shell_words::join(&r.command);
    let mut all = vec![["command".to_owned(), joined(a.result), joined(b.result)]];
    // The same name may stand there several times: several devices.
    let names: Vec<&str> = a.environment.iter().chain(&b.environment).map(|(name, _)| *name).collect();
    let of = |p: &Page<'_>, name: &str| {
        let values: Vec<&str> =
            p.environment.iter().filter(|(n, _)| *n == name).map(|(_, v)| v.as_str()).collect();
        if values.is_empty() { words::NONE.to_owned() } else { values.join("; ") }
    };
    let mut seen = std::collections::BTreeSet::from(["search", "packages"]);
    for name in names {
        if seen.insert(name) {
            all.push([name.to_owned(), of(a, name), of(b, name)]);
        }
    }
    let (pa, pb) = (&a.result.machine.packages, &b.result.machine.packages);
    let packages: std::collections::BTreeSet<&String> = pa.keys().chain(pb.keys()).collect();
    let version = |of: &std::collections::BTreeMap<String, String>, name: &String| {
        of.get(name).cloned().unwrap_or_else(|| words::NONE.to_owned())
    };
    all.extend(packages.into_iter().map(|p| [p.clone(), version(pa, p), version(pb, p)]));
    all.retain(|[_, x, y]| x != y);
    all
}

/// The last undisturbed launch of each configuration that both have.
fn common(a: &TuneResult, b: &TuneResult) -> Vec<Common> {
    let (of_a, of_b) = (measured(a), measured(b));
    let pair = |(settings, x): &(&Configuration, &Rate)| {
        let (_, y) = of_b.iter().find(|(s, _)| s == settings)?;
        Some(Common {
            settings: settings.to_string(),
            a: rate(x),
            b: rate(y),
            ratio: ratio(x, y).map_or_else(|| words::NONE.to_owned(), words::relative),
            intervals: if apart(x, y) { "apart" } else { "overlap" },
        })
    };
    of_a.iter().filter_map(pair).collect()
}

fn measured(r: &TuneResult) -> Vec<(&Configuration, &Rate)> {
    use crate::model::Verdict::{Disturbed, Fit};
    use crate::model::observation::Kind;
    let mut all: Vec<(&Configuration, &Rate, bool)> = Vec::new();
    let timed = |t: &&Trial| t.purpose.kind() == Kind::Measured && matches!(t.verdict, Fit | Disturbed);
    for t in r.trials.iter().filter(timed) {
        let Some(rate) = &t.measured.samples_per_second else { continue };
        let fit = t.verdict == Fit;
        match all.iter_mut().find(|(s, ..)| **s == t.settings) {
            Some(known) if fit || !known.2 => *known = (&t.settings, rate, fit),
            Some(_) => {}
            None => all.push((&t.settings, rate, fit)),
        }
    }
    all.into_iter().map(|(s, rate, _)| (s, rate)).collect()
}
