//! The machine, before anything runs: what there is, what is wrong with it, and what to type.
//!
//! [`gather`] reads everything once into [`Facts`]; [`examine`] is a pure function of the facts.  A fact that cannot be
//! read is absent, and a rule that lacks its facts says nothing: no driver, no PyTorch and no Python are findings,
//! never failures.

pub mod facts;
pub mod gather;
mod rules;

use serde::Serialize;

pub use facts::Facts;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Training runs, and is slower or nearer to a limit than it need be.
    Warn,
    /// Training cannot run, or not on the GPU that is there.
    Bad,
}

/// What a finding is about, in the order of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Area {
    /// Driver and devices.
    Gpu,
    /// Python and PyTorch.
    Python,
    /// Memory, processors and limits of the host.
    Host,
    /// Programs that are needed beside Python.
    Tools,
    /// What autofit can do here.
    Autofit,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// A command.
    Type(String),
    /// A setting in a file.
    Write(String),
    /// A page to read.
    See(String),
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about.
    pub area: Area,
    /// Stays the same from version to version, for programs: `gpu.ecc`.
    pub name: &'static str,
    /// How bad it is.
    pub verdict: Level,
    /// What was found.
    pub what: String,
    /// Why that matters; empty where nothing is wrong.
    pub why: String,
    /// What to do, in the order to try; empty where there is nothing to do.
    pub next: Vec<Step>,
}

impl Finding {
    fn ok(area: Area, name: &'static str, what: impl Into<String>) -> Self {
        Self { area, name, verdict: Level::Ok, what: what.into(), why: String::new(), next: Vec::new() }
    }

    fn warn(area: Area, name: &'static str, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { verdict: Level::Warn, why: why.into(), ..Self::ok(area, name, what) }
    }

    fn bad(area: Area, name: &'static str, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { verdict: Level::Bad, why: why.into(), ..Self::ok(area, name, what) }
    }

    #[must_use]
    fn run(mut self, command: impl Into<String>) -> Self {
        self.next.push(Step::Type(command.into()));
        self
    }

    #[must_use]
    fn write(mut self, setting: impl Into<String>) -> Self {
        self.next.push(Step::Write(setting.into()));
        self
    }

    #[must_use]
    fn see(mut self, page: impl Into<String>) -> Self {
        self.next.push(Step::See(page.into()));
        self
    }
}

/// Every finding, in the order of [`Area`].
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = rules::all(facts);
    if facts.system.root {
        for step in findings.iter_mut().flat_map(|f| &mut f.next) {
            if let Step::Type(command) = step {
                *command = command.replace("sudo ", "");
            }
        }
    }
    findings.sort_by_key(|f| f.area);
    findings
}

/// The worst of the verdicts.
pub fn worst(findings: &[Finding]) -> Level {
    findings.iter().map(|f| f.verdict).max().unwrap_or(Level::Ok)
}
