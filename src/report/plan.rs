//! The text of `autofit plan`: what would be launched, for how long, and what is isolated and what is not.

use super::result::{Isolation, Skipped};
use super::style::{Style, hang, one_line};
use super::words;
use crate::model::observation::Cap;
use crate::model::size::Bytes;
use crate::model::{NumericsClass, Purpose, TrialSpec};

/// What a search would do.
#[derive(Debug, Clone)]
pub struct PlanText {
    /// The script's command, as typed.
    pub command: Vec<String>,
    /// The whole command line that would start it, program first; empty when it is not known.
    pub invocation: Vec<String>,
    /// What may be used; `None`: what the first job finds on its node.
    pub cap: Option<Cap>,
    /// How far the numerics may move.
    pub numerics: NumericsClass,
    /// The ladder: what would be tried in order, as far as it is known without a launch.
    pub ladder: Vec<TrialSpec>,
    /// Moves that would not be tried.
    pub skipped: Vec<Skipped>,
    /// Launches, at most.
    pub launches: Option<u32>,
    /// Seconds that one launch may take, as far as its schedule says (set-up of the script comes on top).
    pub trial_seconds: f64,
    /// Seconds for the whole search, if bounded.
    pub budget: Option<f64>,
    /// Seconds after which one launch is ended.
    pub trial_timeout: Option<f64>,
    /// What is kept from changing; `None`: the same.
    pub isolation: Option<Isolation>,
    /// Bytes that the search may take on disk (upper layers and journal), and those that are free; where.
    pub disk: Option<Disk>,
    /// Files that would be written, as the user would name them.
    pub writes: Vec<String>,
    /// Where trials are jobs of SLURM.
    pub jobs: Option<Jobs>,
}

/// Jobs that would be submitted.
#[derive(Debug, Clone)]
pub struct Jobs {
    /// What is asked for with each trial's.
    pub options: Vec<String>,
    /// Nodes of each.
    pub nodes: u32,
    /// At a time.
    pub places: usize,
    /// They are steps of the allocation that autofit runs in.
    pub inside: bool,
    /// When SLURM would start one, in its words.
    pub expected: Option<String>,
}

/// Disk that a search needs.
#[derive(Debug, Clone)]
pub struct Disk {
    /// Where trials write.
    pub place: String,
    /// Free there, bytes.
    pub free: u64,
    /// Expected at most, bytes; `None` when it depends on what the script writes.
    pub needed: Option<u64>,
}

/// What nobody knows before.
const ON_ITS_NODE: &str = "what the first, short job finds on its node";

/// The text.
pub fn render(p: &PlanText, style: Style) -> String {
    let mut out = String::new();
    let mut say = |head: &str, text: &str| out.push_str(&hang(head, &one_line(text), style.width));
    say("", "nothing was launched; this is what would be:");
    say("command: ", &shell_words::join(super::redact::command(&p.command)));
    say("cap: ", &p.cap.as_ref().map_or_else(|| ON_ITS_NODE.to_owned(), words::cap));
    say("numerics: ", &format!("{} at most", p.numerics));
    for (n, spec) in p.ladder.iter().enumerate() {
        let what = match spec.purpose {
            // Which one that will be is not known before.
            Purpose::Confirm => "confirm: the fastest of what fits, in a fresh process".to_owned(),
            Purpose::Prove => "proved: the same once more, under its own peak as the limit".to_owned(),
            purpose => words::what(&spec.settings, purpose),
        };
        say(&format!("{:>3}  ", n + 1), &what);
    }
    say("order: ", "rungs are climbed until one fits; then what is faster is looked for beside it");
    for s in &p.skipped {
        say("not tried: ", &format!("{}: {}", s.what, s.why));
    }
    say("launches: ", &launches(p));
    say("time: ", &time(p));
    if let Some(j) = &p.jobs {
        say("jobs: ", &jobs(j));
        if let Some(expected) = j.expected.as_ref().filter(|text| !text.is_empty()) {
            say("SLURM says: ", expected);
        }
    }
    if let Some(d) = &p.disk {
        let needed = match d.needed {
            Some(n) => format!("{} at most", Bytes(n)),
            None => "as much as the script writes in one launch".to_owned(),
        };
        say("disk: ", &format!("{needed} in {}, where {} are free", d.place, Bytes(d.free)));
    }
    match &p.isolation {
        None => say("isolated by: ", ON_ITS_NODE),
        Some(i) => {
            let covers = if i.covers.is_empty() { String::new() } else { format!(": {}", i.covers) };
            let mechanism = if i.mechanism.is_empty() { "nothing" } else { &i.mechanism };
            say("isolated by: ", &format!("{mechanism}{covers}"));
            for n in &i.not_covered {
                say("not isolated: ", n);
            }
        }
    }
    if !p.writes.is_empty() {
        say("writes: ", &p.writes.join(", "));
    }
    if !p.invocation.is_empty() {
        let command = shell_words::join(super::redact::command(&p.invocation));
        out += &format!("\nnext:\n  {}\n", style.strong(&command));
    }
    out
}

/// A short job that looks at a node, and one for each trial.
fn jobs(j: &Jobs) -> String {
    let (program, what) = if j.inside { ("srun", "step") } else { ("sbatch", "job") };
    // A `=` in the middle of a word means nothing to a shell.
    let plain = |word: &str| word.chars().all(|c| c.is_ascii_alphanumeric() || "-_=:,./+@%".contains(c));
    let word = |word: &String| if plain(word) { word.clone() } else { shell_words::quote(word).into_owned() };
    let command =
        std::iter::once(program.to_owned()).chain(j.options.iter().map(word)).collect::<Vec<_>>().join(" ");
    let nodes = words::count(u64::from(j.nodes), "node", "nodes");
    let places = match j.places {
        1 => "one at a time".to_owned(),
        n => format!("{n} at a time"),
    };
    format!(
        "a short {what} that looks at a node, then a {what} on {nodes} for each launch, {places}: {command}"
    )
}

fn launches(p: &PlanText) -> String {
    match p.launches {
        Some(n) => format!("{n} at most; each ends itself after enough optimizer steps"),
        None => "as many as the search needs; each ends itself after enough optimizer steps".to_owned(),
    }
}

fn time(p: &PlanText) -> String {
    let mut parts = vec![format!(
        "about {} of measuring a launch, and the script's own start",
        words::duration(p.trial_seconds)
    )];
    if let Some(t) = p.trial_timeout {
        parts.push(format!("a launch is ended after {}", words::duration(t)));
    }
    parts.push(match p.budget {
        Some(b) => format!("{} in all at most", words::duration(b)),
        None => "no budget was set (--budget 10m sets one)".to_owned(),
    });
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Configuration, Knob};

    fn plan() -> PlanText {
        PlanText {
            command: vec!["python".into(), "train.py".into()],
            invocation: ["autofit", "--budget", "5m", "--", "python", "train.py"].map(Into::into).to_vec(),
            cap: Some(Cap {
                bytes: Some(3 << 29),
                margin_bytes: 0,
                mechanism: "cgroup v1".into(),
                scope: "process tree".into(),
                metric: "anonymous + shared memory".into(),
            }),
            numerics: NumericsClass::Precision,
            ladder: vec![
                TrialSpec::new(Configuration::baseline(), Purpose::Baseline),
                TrialSpec::new(Configuration::baseline().with(Knob::Accumulation, 2), Purpose::Climb),
                TrialSpec::new(Configuration::baseline(), Purpose::Confirm),
            ],
            skipped: vec![Skipped {
                what: "batch_size".into(),
                why: "numerics are bound to precision".into(),
            }],
            launches: Some(12),
            trial_seconds: 6.0,
            budget: Some(300.0),
            trial_timeout: None,
            isolation: Some(Isolation {
                mechanism: "overlay".into(),
                covers: "the working directory and HOME".into(),
                not_covered: vec!["the network".into()],
            }),
            disk: Some(Disk { place: "/var/tmp".into(), free: 40 << 30, needed: None }),
            writes: vec!["autofit.env".into(), ".autofit/".into()],
            jobs: None,
        }
    }

    #[test]
    fn a_plan_says_what_is_not_isolated() {
        insta::assert_snapshot!(render(&plan(), Style { width: 80, color: false }), @r#"
        nothing was launched; this is what would be:
        command: python train.py
        cap: 1.50 GiB by cgroup v1 (process tree, anonymous + shared memory)
        numerics: precision at most
          1  baseline
          2  accumulation=2
          3  confirm: the fastest of what fits, in a fresh process
        order: rungs are climbed until one fits; then what is faster is looked for
               beside it
        not tried: batch_size: numerics are bound to precision
        launches: 12 at most; each ends itself after enough optimizer steps
        time: about 6.0 s of measuring a launch, and the script's own start; 5 min 00 s
              in all at most
        disk: as much as the script writes in one launch in /var/tmp, where 40.0 GiB are
              free
        isolated by: overlay: the working directory and HOME
        not isolated: the network
        writes: autofit.env, .autofit/

        next:
          autofit --budget 5m -- python train.py
        "#);
    }

    #[test]
    fn where_trials_are_jobs_it_says_what_is_submitted_and_what_is_not_known_yet() {
        let jobs = Jobs {
            options: ["--mem=8G", "--nodes=2", "--ntasks=2"].map(Into::into).to_vec(),
            nodes: 2,
            places: 3,
            inside: false,
            expected: Some("Job 7 to start at 2026-01-01T00:00:00 on nodes n[1-2]".into()),
        };
        let p = PlanText { cap: None, isolation: None, disk: None, jobs: Some(jobs), ..plan() };
        let text = render(&p, Style { width: 200, color: false });
        let lines: Vec<&str> = text
            .lines()
            .filter(|l| ["cap", "jobs", "SLUR", "isol"].iter().any(|w| l.starts_with(w)))
            .collect();
        insta::assert_snapshot!(lines.join("\n"), @r#"
        cap: what the first, short job finds on its node
        jobs: a short job that looks at a node, then a job on 2 nodes for each launch, 3 at a time: sbatch --mem=8G --nodes=2 --ntasks=2
        SLURM says: Job 7 to start at 2026-01-01T00:00:00 on nodes n[1-2]
        isolated by: what the first, short job finds on its node
        "#);
    }
}
