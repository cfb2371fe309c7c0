//! A search that has ended, and how it is shown where a test fails.

use super::MIB;
use crate::model::observation::Window;
use crate::model::{Configuration, Observation, Purpose};
use crate::search::Outcome;

/// A finished search.
pub struct Run {
    pub history: Vec<Observation>,
    pub outcome: Outcome,
}

impl Run {
    pub fn winner(&self) -> Configuration {
        let number = self.outcome.winner.unwrap_or_else(|| panic!("no winner: {self}"));
        let o = self.history.iter().find(|o| o.trial == number).unwrap();
        assert_eq!(o.purpose, Purpose::Confirm, "{self}");
        assert_eq!(Some(&o.settings), self.outcome.settings.as_ref(), "{self}");
        o.settings.clone()
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "\n{}\n{:#?}", table(&self.history), self.outcome)
    }
}

fn window(w: &Window) -> String {
    let said = w.ratio.map_or_else(|| w.why_not.clone().unwrap_or_default(), |r| format!("{:.3}", r.ratio));
    format!("\n             {:60} {said}", w.settings.to_string())
}

pub fn table(history: &[Observation]) -> String {
    let line = |o: &Observation| {
        let rate = o.timing.as_ref().map_or(String::new(), |t| format!("{:.1}", t.samples_per_second));
        format!(
            "{:2} {:9} {:60} {:12} {:>6} {:?} MiB",
            o.trial,
            format!("{:?}", o.purpose),
            o.settings.to_string(),
            o.verdict.name(),
            rate,
            o.peak().map(|p| p / MIB)
        ) + &o.windows.iter().map(window).collect::<String>()
    };
    history.iter().map(line).collect::<Vec<_>>().join("\n")
}
