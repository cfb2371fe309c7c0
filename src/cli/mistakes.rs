//! What is typed wrongly, and what to type instead.

use std::ffi::OsString;

use clap::CommandFactory;
use clap::error::ErrorKind;

use super::args::Cli;
use crate::exit::{self, Exit};

/// One sentence on what to type instead.
pub(super) fn explain(error: &clap::Error, args: &[OsString]) -> Exit {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::new(exit::TUNED, error.to_string()),
        ErrorKind::InvalidSubcommand | ErrorKind::UnknownArgument => misplaced_word(args)
            .map_or_else(|| Exit::new(exit::USAGE, plain(error)), |m| Exit::new(exit::USAGE, m)),
        ErrorKind::InvalidUtf8 => Exit::new(exit::USAGE, not_utf8(args)),
        _ => Exit::new(exit::USAGE, plain(error)),
    }
}

/// Names the word of autofit's own that cannot be read.
pub(super) fn not_utf8(args: &[OsString]) -> String {
    let word = args.iter().take_while(|a| *a != "--").find(|a| a.to_str().is_none());
    format!("the word {} is not UTF-8", word.map_or_else(String::new, |w| w.display().to_string()))
}

/// A first word that is no subcommand: a typo of one, or a command without its `--`.
pub(super) fn misplaced_word(args: &[OsString]) -> Option<String> {
    let at = args.iter().skip(1).position(|a| !a.to_string_lossy().starts_with('-'))? + 1;
    let word = args[at].to_string_lossy();
    let subcommands = Cli::command();
    let names: Vec<_> = subcommands.get_subcommands().map(clap::Command::get_name).collect();
    if names.iter().any(|n| *n == word) {
        return None;
    }
    if let Some(near) =
        names.iter().find(|n| !word.contains(['.', '/']) && strsim::damerau_levenshtein(n, &word) <= 2)
    {
        return Some(format!("there is no subcommand `{word}`; did you mean `{near}`?"));
    }
    if args.iter().any(|a| a == "--") {
        return None;
    }
    let rest: Vec<_> =
        args[at..].iter().map(|a| shell_words::quote(&a.to_string_lossy()).into_owned()).collect();
    Some(format!("put `--` before the command to tune: autofit -- {}", rest.join(" ")))
}

/// clap's own message without its `error: ` head, which `main` prints.
pub(super) fn plain(error: &clap::Error) -> String {
    let text = error.to_string();
    text.strip_prefix("error: ").unwrap_or(&text).trim_end().to_owned()
}
