//! Exit statuses and signals, as launchers, schedulers and shells state them.

use std::sync::LazyLock;

use regex::Regex;

use crate::model::observation::ProcessEnd;
use crate::verdict::judge::signal_name;

use super::size::compile;

/// What is known about the end of the program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct End {
    /// As stated: negative for a signal, or 128 + signal.
    pub code: Option<i32>,
    /// The signal's name.
    pub signal: Option<String>,
    /// A launcher names it as the first failure.
    pub root: bool,
    /// Where the text says so, in bytes; absent when it comes from the process itself.
    pub at: Option<usize>,
}

/// Statements with a number, the more exact first.
static CODES: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    [
        r"exitcode\s*[:=]\s*(-?\d+)",
        r"return code\s*[:=]?\s*(-?\d+)",
        r"returned? non-?zero exit status (-?\d+)",
        r"\bexit(?:ed)?(?: with)?(?: an?)?(?: non-zero)? ?(?:code|status)(?: of)?\s*[:=]?\s*\(?(-?\d+)",
        r"exit codes of the workers are \{SIG[A-Z]+\((-\d+)\)",
        r"\bexit_?code\W{0,3}[:=]\s*(-?\d+)",
        r"finished with exit code (-?\d+)",
        r"(?m)^\[\d+\]\S?\s+Exit (\d+)\b",
        r"terminated with (?:exit )?(?:code|status)\s*[:=]?\s*(-?\d+)",
    ]
    .into_iter()
    .map(compile)
    .collect()
});

/// Statements with a signal's name or number.
static SIGNALS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    [
        r"Signal \d+ \((SIG[A-Z0-9]+)\) received by PID",
        r"died with <Signals\.(SIG[A-Z0-9]+)",
        r"(?:terminated|killed|interrupted|stopped) (?:with|by) signal:?\s*(?:\d+\s*[:,(]\s*)?(SIG[A-Z0-9]+)",
        r"\{(SIG[A-Z0-9]+)\(-\d+\)",
        r"(?:terminated|killed|exited|interrupted|died) (?:with|by|on|from) signal:?\s*(\d+)",
        r"\(signal (\d+)\)",
        r"^\W*Signal: [a-z ]+\((\d+)\)",
        r"is killed by signal:\s*(Killed|Bus error|Segmentation fault|Aborted|Terminated|Illegal instruction|Floating point exception|Interrupt|Hangup)",
        r"^Killed: (9)$",
    ]
    .into_iter()
    .map(|p| compile(&format!("(?m){p}")))
    .collect()
});

static ROOT_CAUSE: LazyLock<Regex> = LazyLock::new(|| compile(r"Root Cause \(first observed failure\)"));

/// A usage error of `argparse`, which ends a program with status 2.
static USAGE: LazyLock<Regex> = LazyLock::new(|| {
    compile(
        r"(?m)^\s*\S+\.(?:py|exe): error: [a-z]|^\S+: error: (?:unrecognized arguments|the following arguments are required|argument )",
    )
});

/// `KeyboardInterrupt` as the last word of a traceback.
static INTERRUPT: LazyLock<Regex> = LazyLock::new(|| compile(r"(?m)^KeyboardInterrupt\b"));
static EXCEPTION: LazyLock<Regex> =
    LazyLock::new(|| compile(r"(?m)^(?:[\w.]+\.)?\w+(?-i:Error|Exception|Interrupt|Exit)\b"));

/// What the text says about the end, completed by what is known about the process.
pub fn read(text: &str, end: Option<&ProcessEnd>) -> End {
    let mut found = stated(text);
    if found.code.is_none() {
        found = match end {
            Some(ProcessEnd::Exited { code }) => End { code: Some(*code), ..found },
            Some(ProcessEnd::Signaled { signal }) => {
                End { code: Some(-signal), signal: Some(signal_name(*signal)), ..found }
            }
            _ => found,
        };
    }
    if found.code.is_none() && found.signal.is_none() {
        found = implied(text);
    }
    if found.signal.is_none() {
        found.signal = found.code.and_then(signal_of);
    }
    found
}

fn stated(text: &str) -> End {
    // Of several ranks the one that failed first counts.
    let from = ROOT_CAUSE.find_iter(text).last().map_or(0, |m| m.start());
    let at_root = End { root: true, ..in_part(text, from) };
    if from > 0 && (at_root.code.is_some() || at_root.signal.is_some()) {
        return at_root;
    }
    in_part(text, 0)
}

fn in_part(text: &str, from: usize) -> End {
    let part = &text[from..];
    let mut end = End::default();
    for regex in CODES.iter() {
        // A code of 0 is said about helpers, too; another one counts for more.
        let codes = || {
            regex.captures_iter(part).filter_map(|c| {
                let m = c.get(1)?;
                Some((m.as_str().parse::<i32>().ok()?, m.start()))
            })
        };
        if let Some((code, at)) = codes().find(|(c, _)| *c != 0).or_else(|| codes().next()) {
            end.code = Some(code);
            end.at = Some(from + at);
            break;
        }
    }
    for regex in SIGNALS.iter() {
        if let Some(m) = regex.captures(part).and_then(|c| c.get(1)) {
            end.signal = signal_word(m.as_str());
            end.at = end.at.or(Some(from + m.start()));
            break;
        }
    }
    end
}

fn implied(text: &str) -> End {
    let last = EXCEPTION.find_iter(text).last();
    if let Some(m) = INTERRUPT.find_iter(text).last()
        && last.is_some_and(|l| l.start() == m.start())
    {
        return End { code: Some(130), signal: Some("SIGINT".to_owned()), at: Some(m.start()), root: false };
    }
    match USAGE.find(text) {
        Some(m) => End { code: Some(2), at: Some(m.start()), ..End::default() },
        None => End::default(),
    }
}

fn signal_word(word: &str) -> Option<String> {
    let name = match word.to_ascii_lowercase().as_str() {
        "killed" => "SIGKILL",
        "bus error" => "SIGBUS",
        "segmentation fault" => "SIGSEGV",
        "aborted" => "SIGABRT",
        "terminated" => "SIGTERM",
        "illegal instruction" => "SIGILL",
        "floating point exception" => "SIGFPE",
        "interrupt" => "SIGINT",
        "hangup" => "SIGHUP",
        other => {
            return match other.parse() {
                Ok(n) => Some(signal_name(n)),
                Err(_) => Some(word.to_ascii_uppercase()),
            };
        }
    };
    Some(name.to_owned())
}

/// The signal behind an exit status: -9 and 137 are SIGKILL.
fn signal_of(code: i32) -> Option<String> {
    let number = match code {
        -64..=-1 => -code,
        129..=159 => code - 128,
        _ => return None,
    };
    let name = signal_name(number);
    name.starts_with("SIG").then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(text: &str) -> (Option<i32>, Option<String>) {
        let e = read(text, None);
        (e.code, e.signal)
    }

    #[test]
    fn ends_as_people_meet_them() {
        let kill = Some("SIGKILL".to_owned());
        let cases = [
            ("exits with return code = -9", Some(-9), kill.clone()),
            ("  exitcode  : 1 (pid: 3)", Some(1), None),
            ("Exited with exit code 137.", Some(137), kill.clone()),
            (
                "Process finished with exit code 137 (interrupted by signal 9: SIGKILL)",
                Some(137),
                kill.clone(),
            ),
            (
                "subprocess.CalledProcessError: Command '['x']' died with <Signals.SIGKILL: 9>.",
                None,
                kill.clone(),
            ),
            ("returned non-zero exit status 1.", Some(1), None),
            ("process 2 terminated with signal SIGKILL", None, kill.clone()),
            ("Last State: Terminated\n Reason: OOMKilled\n Exit Code: 137", Some(137), kill.clone()),
            ("train.py: error: unrecognized arguments: --x", Some(2), None),
            ("Traceback (most recent call last):\nKeyboardInterrupt\n", Some(130), Some("SIGINT".to_owned())),
            ("Sending process 12 closing signal SIGTERM", None, None),
            ("Terminating process 1321005 via signal SIGTERM", None, None),
            ("loss 137 exit", None, None),
        ];
        for (text, code, signal) in cases {
            assert_eq!(end(text), (code, signal), "{text}");
        }
    }

    #[test]
    fn the_rank_that_failed_first_counts() {
        let text = "Failures:\n exitcode : -15 (pid: 1)\nRoot Cause (first observed failure):\n exitcode : -11 (pid: 2)";
        assert_eq!(end(text), (Some(-11), Some("SIGSEGV".to_owned())));
    }

    #[test]
    fn the_process_itself_completes_the_text() {
        let end = read("nothing", Some(&ProcessEnd::Signaled { signal: 9 }));
        assert_eq!((end.code, end.signal.as_deref()), (Some(-9), Some("SIGKILL")));
        assert_eq!(read("exit code 3", Some(&ProcessEnd::Exited { code: 1 })).code, Some(3));
    }
}
