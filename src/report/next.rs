//! What to type next: commands that work as they stand in the directory where the search was started.

use super::result::{Status, TuneResult};

/// The commands, the one that matters most first.
pub fn commands(r: &TuneResult) -> Vec<String> {
    let mut next = Vec::new();
    if let (Some(env), Some(_)) = (&r.files.env, &r.winner) {
        // On one machine it would be another training than what was measured.
        let several = r.trials.iter().any(|t| !t.nodes.is_empty());
        next.push(if several {
            with_env(r.invocation.first(), &["emit", "--form", "sbatch"], env, &r.command) + " >train.sbatch"
        } else {
            run(r.invocation.first(), env, &r.command)
        });
    }
    match r.status {
        Status::Tuned | Status::NothingFits => {
            next.extend(
                r.advice
                    .iter()
                    .filter_map(|a| a.option.as_deref())
                    .filter_map(|o| with_option(&r.invocation, o)),
            );
        }
        Status::Interrupted | Status::Terminated => {
            if !r.invocation.is_empty() {
                next.push(shell_words::join(&r.invocation));
            }
        }
        Status::ScriptFails | Status::AgentMissing => next.push(shell_words::join(&r.command)),
    }
    let mut seen = std::collections::BTreeSet::new();
    next.retain(|c| seen.insert(c.clone()));
    next
}

/// `autofit run -- COMMAND`, with the program as it was typed.
fn run(program: Option<&String>, env: &str, command: &[String]) -> String {
    with_env(program, &["run"], env, command)
}

/// A subcommand that reads the file which tuning wrote.
fn with_env(program: Option<&String>, subcommand: &[&str], env: &str, command: &[String]) -> String {
    let mut words = vec![program.map_or("autofit", String::as_str).to_owned()];
    words.extend(subcommand.iter().map(|word| (*word).to_owned()));
    if env != "autofit.env" {
        words.extend(["--env".to_owned(), env.to_owned()]);
    }
    words.push("--".to_owned());
    words.extend(command.iter().cloned());
    shell_words::join(&words)
}

/// The command line with an option (`--batch max`, also several) set; `None` when the command line is not known.
pub fn with_option(invocation: &[String], option: &str) -> Option<String> {
    let option: Vec<String> = shell_words::split(option).ok()?;
    let end = invocation.iter().position(|w| w == "--").unwrap_or(invocation.len());
    let (ours, command) = invocation.split_at(end);
    if ours.is_empty() || option.is_empty() {
        return None;
    }
    // Flag -> whether a value follows it.
    let takes_value = |flag: &str| {
        let at = option.iter().position(|w| w == flag)?;
        Some(option.get(at + 1).is_some_and(|v| !v.starts_with("--")))
    };
    let mut words: Vec<String> = Vec::new();
    let mut drop_next = false;
    for word in ours {
        if std::mem::take(&mut drop_next) {
            continue;
        }
        let flag = word.split_once('=').map_or(word.as_str(), |(f, _)| f);
        match takes_value(flag) {
            Some(value) if flag.starts_with("--") => drop_next = value && flag == word,
            _ => words.push(word.clone()),
        }
    }
    words.extend(option);
    words.extend(command.iter().cloned());
    Some(shell_words::join(&words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        shell_words::split(line).unwrap()
    }

    #[test]
    fn an_option_goes_before_the_command_and_replaces_its_older_self() {
        let typed = words("autofit --batch keep --memory-cap 1G -- python t.py --batch 4 'a b'");
        assert_eq!(
            with_option(&typed, "--batch max").unwrap(),
            "autofit --memory-cap 1G --batch max -- python t.py --batch 4 'a b'"
        );
        assert_eq!(
            with_option(&words("autofit --numerics=exact -- x"), "--numerics precision").unwrap(),
            "autofit --numerics precision -- x"
        );
        assert_eq!(with_option(&[], "--batch max"), None);
    }

    #[test]
    fn the_run_command_names_a_file_that_is_not_where_the_user_stands() {
        assert_eq!(run(None, "autofit.env", &words("python t.py")), "autofit run -- python t.py");
        assert_eq!(
            run(None, "out dir/autofit.env", &words("python t.py")),
            "autofit run --env 'out dir/autofit.env' -- python t.py"
        );
    }
}
