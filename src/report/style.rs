//! Width, colour and wrapping.

use std::io::IsTerminal;

/// Width of texts that are not for a terminal.
pub const PLAIN_WIDTH: usize = 100;

/// Narrower terminals are written to as if they were this wide.
const NARROWEST: usize = 80;

/// Wider lines are hard to follow.
const WIDEST: usize = 120;

/// How a text is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Columns.
    pub width: usize,
    /// Whether colours may be used.
    pub color: bool,
}

/// One of the two streams that people read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Style {
    /// No colour, [`PLAIN_WIDTH`].
    pub const PLAIN: Self = Self { width: PLAIN_WIDTH, color: false };

    /// As the stream is: colour only on a terminal, and not where `NO_COLOR` is set or the terminal is dumb.
    pub fn of(stream: Stream) -> Self {
        let terminal = match stream {
            Stream::Stdout => std::io::stdout().is_terminal(),
            Stream::Stderr => std::io::stderr().is_terminal(),
        };
        if !terminal {
            return Self::PLAIN;
        }
        let term = match stream {
            Stream::Stdout => console::Term::stdout(),
            Stream::Stderr => console::Term::stderr(),
        };
        Self { width: usize::from(term.size().1).clamp(NARROWEST, WIDEST), color: color_wanted() }
    }

    /// Bold.
    pub fn strong(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// Green.
    pub fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// Red.
    pub fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// `NO_COLOR` counts when it is set and not empty.
fn color_wanted() -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
    !no_color && !dumb
}

/// Breaks at spaces; words that are too long are broken after one of `=:,/`, or where the line ends.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(8);
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut word: Vec<char> = word.chars().collect();
        while !word.is_empty() {
            let last = lines.last_mut().map_or(0, |l| l.chars().count());
            let gap = usize::from(last > 0);
            if last + gap + word.len() <= width {
                if let Some(line) = lines.last_mut() {
                    if gap == 1 {
                        line.push(' ');
                    }
                    line.extend(word.drain(..));
                }
            } else if last > 0 {
                lines.push(String::new());
            } else if let Some(line) = lines.last_mut() {
                let soft = word[..width].iter().rposition(|c| "=:,/".contains(*c)).map(|i| i + 1);
                line.extend(word.drain(..soft.unwrap_or(width)));
            }
        }
    }
    lines
}

/// `head` before the first line, blanks of the same width before the others.
pub fn hang(head: &str, text: &str, width: usize) -> String {
    let indent = head.chars().count();
    let blanks = " ".repeat(indent);
    let mut out = String::new();
    for (i, line) in wrap(text, width.saturating_sub(indent)).iter().enumerate() {
        out.push_str(if i == 0 { head } else { &blanks });
        out.push_str(line);
        out.push('\n');
    }
    out
}

/// Makes a string that came from outside harmless: one line, no control characters.
pub fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_by_wrapping() {
        assert_eq!(wrap("one two three", 8), ["one two", "three"]);
        assert_eq!(wrap("abcdefghijkl", 8), ["abcdefgh", "ijkl"]);
        assert_eq!(wrap("checkpoint=alternate", 18), ["checkpoint=", "alternate"]);
        assert_eq!(wrap("", 8), [""]);
        assert_eq!(hang("cap: ", "one two three", 13), "cap: one two\n     three\n");
    }

    #[test]
    fn escape_sequences_of_a_script_do_not_reach_the_terminal() {
        assert_eq!(one_line("a\x1b[2Jb\nc"), "a [2Jb c");
    }
}
