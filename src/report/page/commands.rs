//! Commands that use what was found, or measure it again.

use crate::report::result::TuneResult;

/// A command that works as it stands where the search was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// What it does.
    pub what: &'static str,
    /// To be typed.
    pub line: String,
}

/// The one that matters most first.
pub fn of(r: &TuneResult) -> Vec<Command> {
    let mut all = Vec::new();
    let mut next = r.next.iter();
    if let (Some(_), Some(_)) = (&r.files.env, &r.winner) {
        all.extend(next.next().map(|c| Command { what: "train with it", line: c.clone() }));
    }
    all.extend(next.map(|c| Command { what: "go on", line: c.clone() }));
    if let Some(line) = again(r) {
        all.push(Command { what: "measure it again, beside the script as it is", line });
    }
    if let Some(line) = search(&r.invocation) {
        all.push(Command { what: "search again", line });
    }
    if let Some(directory) = &r.files.directory {
        let program = r.invocation.first().map_or("autofit", String::as_str);
        let line = shell_words::join([program, "report", directory]);
        all.push(Command { what: "write this report again", line });
    }
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|c| seen.insert(c.line.clone()));
    all
}

/// `autofit try --set amp=bf16 --repeat 5 ... -- COMMAND`, under the same options as the search.
fn again(r: &TuneResult) -> Option<String> {
    let settings = r.winner.as_ref().map(|w| &w.settings).filter(|s| !s.is_baseline())?;
    let (program, options, command) = parts(&r.invocation)?;
    let set: Vec<String> = settings.0.iter().map(|(knob, value)| format!("{knob}={value}")).collect();
    let (set, repeat) = (set.join(","), "5".to_owned());
    let head = [program, "try".into(), "--set".into(), set, "--repeat".into(), repeat];
    Some(shell_words::join(head.into_iter().chain(options).chain(command)))
}

/// The search, from the beginning.
fn search(invocation: &[String]) -> Option<String> {
    let (program, options, command) = parts(invocation)?;
    Some(shell_words::join([program, "--fresh".into()].into_iter().chain(options).chain(command)))
}

/// Program, autofit's own options without those that only one run needs, and the command with its `--`.
fn parts(invocation: &[String]) -> Option<(String, Vec<String>, Vec<String>)> {
    let end = invocation.iter().position(|w| w == "--").unwrap_or(invocation.len());
    let (ours, command) = invocation.split_at(end);
    let (program, options) = ours.split_first()?;
    let once = |w: &&String| !matches!(w.as_str(), "tune" | "--fresh" | "--json");
    Some((program.clone(), options.iter().filter(once).cloned().collect(), command.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixtures;

    #[test]
    fn what_is_measured_again_is_the_winner_under_the_same_limit() {
        let lines: Vec<String> =
            of(&fixtures::assembled(&fixtures::baseline_ooms())).into_iter().map(|c| c.line).collect();
        assert_eq!(
            lines,
            [
                "autofit run -- python train.py --lr 1e-3",
                "autofit --memory-cap 1.5GiB --batch lower -- python train.py --lr 1e-3",
                "autofit try --set 'accumulation=2,amp=bf16' --repeat 5 --memory-cap 1.5GiB -- python train.py --lr 1e-3",
                "autofit --fresh --memory-cap 1.5GiB -- python train.py --lr 1e-3",
                "autofit report .autofit/3f9a2c",
            ]
        );
    }

    #[test]
    fn where_nothing_was_found_nothing_is_measured_again() {
        let typed = ["autofit", "tune", "--json", "--fresh", "--", "python", "t.py"].map(str::to_owned);
        assert_eq!(search(&typed).unwrap(), "autofit --fresh -- python t.py");
        assert_eq!(search(&[]), None);
        let lines = of(&fixtures::assembled(&fixtures::nothing_fits()));
        assert!(lines.iter().all(|c| !c.line.contains(" try ")), "{lines:?}");
    }
}
