//! [`Progress`] events -> lines on standard error.
//!
//! On a terminal one live line shows what the running trial does, so that nothing is silent for longer than a
//! spinner's tick, and each finished trial leaves one line.  Elsewhere (CI logs) the number of lines is bounded: two a
//! trial, and one more each time that a trial has lasted twice as long.

use std::io::Write;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::style::{Stream, Style, one_line};
use super::{assemble, words};
use crate::commands::Verbosity;
use crate::model::observation::Cap;
use crate::model::size::Bytes;
use crate::model::{Configuration, Observation, Progress, Purpose, Verdict};

/// The spinner turns this often.
const SPIN: Duration = Duration::from_millis(120);

/// Columns of the live line before its text (spinner, time) and between its parts.
const BESIDE: usize = 13;

/// Without a terminal a trial says that it lives after this many seconds, then each time twice as late.
const FIRST_SIGN_OF_LIFE: f64 = 30.0;

/// Lines of a failing script's output that are shown at once (`-v` shows all that was kept).
const TAIL_LINES: usize = 5;

/// How progress is shown.
#[derive(Debug, Clone, Copy)]
pub struct Mode {
    /// How much is said.
    pub verbosity: Verbosity,
    /// Whether a live line can be drawn.
    pub live: bool,
    /// Width and colour.
    pub style: Style,
}

impl Mode {
    /// As standard error is.
    pub fn detect(verbosity: Verbosity) -> Self {
        use std::io::IsTerminal;
        let dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
        Self { verbosity, live: std::io::stderr().is_terminal() && !dumb, style: Style::of(Stream::Stderr) }
    }
}

/// Shows a search while it runs.
pub struct Reporter {
    mode: Mode,
    out: Box<dyn Write + Send>,
    live: Option<ProgressBar>,
    /// Running trials, in the order of their start.
    current: Vec<Current>,
    cap: Cap,
    /// Trials so far: what relative figures are relative to is decided over all of them.
    seen: Vec<Observation>,
}

/// The running trial.
struct Current {
    trial: u32,
    of: Option<u32>,
    settings: Configuration,
    purpose: Purpose,
    next_sign: f64,
    /// What it did last.
    text: String,
}

impl Reporter {
    /// Writes to standard error.
    pub fn new(mode: Mode) -> Self {
        Self::with_output(mode, Box::new(std::io::stderr()))
    }

    /// Writes finished lines to `out`; the live line, if the mode has one, stays on standard error.
    pub fn with_output(mode: Mode, out: Box<dyn Write + Send>) -> Self {
        Self { mode, out, live: None, current: Vec::new(), cap: Cap::default(), seen: Vec::new() }
    }

    /// Trials of an earlier part of the search, so that relative figures go on from them.
    pub fn recall(&mut self, observations: &[Observation]) {
        self.seen.extend_from_slice(observations);
    }

    /// Shows one event.
    pub fn handle(&mut self, event: &Progress) {
        let quiet = self.mode.verbosity == Verbosity::Quiet;
        match event {
            Progress::Started { id, command, cap, budget, resumed, .. } => {
                self.cap = cap.clone();
                if !quiet {
                    self.started(id, command, *budget, *resumed);
                }
            }
            Progress::TrialStarted { trial, of, settings, purpose, budget_left } => {
                // Of a trial that never came to an end.
                self.current.retain(|c| c.trial != *trial);
                let current = Current {
                    trial: *trial,
                    of: *of,
                    settings: settings.clone(),
                    purpose: *purpose,
                    next_sign: FIRST_SIGN_OF_LIFE,
                    text: format!("setting up{}", left(*budget_left)),
                };
                self.current.push(current);
                if !quiet {
                    self.trial_started(*budget_left);
                }
            }
            Progress::Tick { trial, elapsed, .. } => {
                if !quiet {
                    self.tick(*trial, *elapsed, living(event));
                }
            }
            Progress::Job { trial, elapsed, text } => {
                if !quiet {
                    self.tick(*trial, *elapsed, text.clone());
                }
            }
            Progress::TrialEnded(o) => {
                self.seen.push((**o).clone());
                if !quiet {
                    self.trial_ended(o);
                }
                self.current.retain(|c| c.trial != o.trial);
                if !quiet && self.mode.live && !self.current.is_empty() {
                    self.draw();
                }
            }
            Progress::Note(text) => self.line(&format!("note: {}", one_line(text))),
        }
    }

    /// Takes the live line away; call it before anything else is printed, and at the end.
    pub fn finish(&mut self) {
        if let Some(bar) = self.live.take() {
            bar.finish_and_clear();
        }
    }

    fn started(&mut self, id: &str, command: &[String], budget: Option<f64>, resumed: u32) {
        let command = super::redact::command(command);
        self.line(&format!("tuning {}", one_line(&shell_words::join(&command))));
        let budget = budget.map(|b| format!(", budget {}", words::duration(b))).unwrap_or_default();
        self.line(&format!("cap {}{budget}", words::cap(&self.cap)));
        if resumed > 0 {
            let trials = words::count(u64::from(resumed), "trial", "trials");
            self.line(&format!("goes on with search {id}: {trials} read back"));
        } else if self.mode.verbosity == Verbosity::Verbose {
            self.line(&format!("search {id}"));
        }
    }

    fn trial_started(&mut self, budget_left: Option<f64>) {
        let Some(c) = self.current.last() else { return };
        if self.mode.live {
            self.draw();
        } else {
            self.line(&format!("{} started{}", head(c), left(budget_left)));
        }
    }

    /// Draws the live line anew.
    fn draw(&mut self) {
        self.finish();
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        // The time goes on by itself, also while nothing is heard of the trial.
        let time = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let _ = write!(out, "{}", words::duration(state.elapsed().as_secs_f64()));
        };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {time:>5} {wide_msg}") {
            bar.set_style(style.with_key("time", time));
        }
        bar.set_message(self.message());
        bar.enable_steady_tick(SPIN);
        self.live = Some(bar);
    }

    /// What runs: several trials share the line.
    fn message(&self) -> String {
        match self.current.as_slice() {
            [one] => self.fitted(one, &one.text),
            several => {
                let each: Vec<String> =
                    several.iter().map(|c| format!("{} {}", numbered(c.trial, c.of), c.text)).collect();
                each.join("; ")
            }
        }
    }

    /// The live line's text: where the line is short, the settings are cut, not the figures.
    fn fitted(&self, c: &Current, text: &str) -> String {
        let room = self.mode.style.width.saturating_sub(BESIDE + text.chars().count());
        let head = head(c);
        if head.chars().count() <= room {
            return format!("{head} {text}");
        }
        let kept: String = head.chars().take(room.saturating_sub(2)).collect();
        format!("{kept}…: {text}")
    }

    fn tick(&mut self, trial: u32, elapsed: f64, text: String) {
        let Some(c) = self.current.iter_mut().find(|c| c.trial == trial) else { return };
        c.text = text;
        if let Some(bar) = &self.live {
            bar.set_message(self.message());
        } else if elapsed >= c.next_sign {
            c.next_sign = elapsed * 2.0;
            let line = format!("{} {}, {}", head(c), words::duration(elapsed), c.text);
            self.line(&line);
        }
    }

    fn trial_ended(&mut self, o: &Observation) {
        self.finish();
        let of = self.current.iter().find(|c| c.trial == o.trial).and_then(|c| c.of);
        let text = format!("{} {}", numbered(o.trial, of), ended(o, assemble::reference(&self.seen)));
        let text = match o.verdict {
            Verdict::Fit => self.mode.style.good(&text),
            Verdict::Oom | Verdict::Thrash | Verdict::Interrupted => text,
            _ => self.mode.style.bad(&text),
        };
        self.line(&text);
        let verbose = self.mode.verbosity == Verbosity::Verbose;
        if o.verdict != Verdict::Fit || verbose {
            self.line(&format!("    {}", one_line(&o.why)));
        }
        if verbose {
            self.details(o);
        }
        let shown = if verbose { o.tail.len() } else { TAIL_LINES };
        if matches!(o.verdict, Verdict::Failed | Verdict::AgentMissing | Verdict::Timeout) {
            for line in o.tail.iter().skip(o.tail.len().saturating_sub(shown)) {
                self.line(&format!("    | {}", one_line(line)));
            }
        }
    }

    fn details(&mut self, o: &Observation) {
        for k in &o.knobs {
            let effective =
                k.effective.as_ref().map_or_else(|| "not in force".to_owned(), ToString::to_string);
            let reason = k.reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default();
            self.line(&format!(
                "    {}: asked {}, in force {effective}, {}{reason}",
                k.knob, k.requested, k.how
            ));
        }
        for figures in &o.ranks {
            self.line(&format!("    {}", words::rank(figures)));
        }
        for node in &o.nodes {
            self.line(&format!("    {}: host memory {} at most", node.host, words::bytes(node.peak_host)));
        }
        if let Some(t) = &o.timing {
            let steps = words::count(u64::from(t.steps), "steady step", "steady steps");
            self.line(&format!(
                "    {steps}, first step after {}, waited for the loader {:.0} % of the time",
                words::duration(t.first_step_after),
                t.loader_wait_share * 100.0
            ));
        }
        self.line(&format!("    took {}", words::duration(o.seconds)));
    }

    /// One line above the live line.  A closed standard error is nobody's concern here.
    fn line(&mut self, text: &str) {
        match &self.live {
            Some(bar) => bar.suspend(|| {
                let _ = writeln!(self.out, "{text}");
            }),
            None => {
                let _ = writeln!(self.out, "{text}");
            }
        }
        let _ = self.out.flush();
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.finish();
    }
}

/// `trial 3/12`.
fn numbered(trial: u32, of: Option<u32>) -> String {
    of.map_or_else(|| format!("trial {trial}"), |of| format!("trial {trial}/{of}"))
}

fn head(c: &Current) -> String {
    format!("{} {}:", numbered(c.trial, c.of), words::what(&c.settings, c.purpose))
}

fn left(budget_left: Option<f64>) -> String {
    budget_left.map(|b| format!(", budget left {}", words::duration(b))).unwrap_or_default()
}

/// What a living trial does: `31 steps, 5.20 steps/s, memory 1.02 GiB of 1.50 GiB, budget left 4 min 10 s`.
fn living(event: &Progress) -> String {
    let Progress::Tick { steps, steps_per_second, memory, limit, budget_left, .. } = event else {
        return String::new();
    };
    let mut parts =
        vec![if *steps == 0 { "setting up".to_owned() } else { words::count(*steps, "step", "steps") }];
    if let Some(rate) = steps_per_second {
        parts.push(format!("{} steps/s", words::number(*rate)));
    }
    if let Some(now) = memory {
        let of = limit.map(|limit| format!(" of {}", Bytes(limit))).unwrap_or_default();
        parts.push(format!("memory {}{of}", Bytes(*now)));
    }
    parts.join(", ") + &left(*budget_left)
}

/// The line that a finished trial leaves: what changed, verdict, peak, headroom, throughput, relative.
fn ended(o: &Observation, reference: Option<&Observation>) -> String {
    let mut parts = vec![words::verdict(o.verdict, o.oom_phase)];
    parts.extend(words::memory(o));
    if let (Some(t), Some(_)) = (&o.timing, o.throughput()) {
        parts.push(words::throughput(t));
    }
    if let (Some(ratio), Some(r)) = (assemble::relative(o, reference), reference)
        && r.trial != o.trial
    {
        let of =
            if r.purpose == Purpose::Baseline { "baseline".to_owned() } else { format!("trial {}", r.trial) };
        parts.push(format!("{} {of}", words::relative(ratio)));
    }
    format!("{}: {}", words::what(&o.settings, o.purpose), parts.join(", "))
}

#[cfg(test)]
#[path = "progress_tests.rs"]
mod tests;
