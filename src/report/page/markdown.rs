//! [`Page`] -> `report.md`, for pull requests and issues.

use std::fmt::Write as _;

use super::commands::Command;
use super::model::{Losses, Page};
use crate::report::style::one_line;
use crate::report::{table, words};

/// Skipped moves that are listed; `result.json` has all of them.
const SKIPPED_SHOWN: usize = 8;

impl Page<'_> {
    /// The document.
    pub fn markdown(&self) -> String {
        let r = self.result;
        let mut out = format!("# autofit: {}\n\n", text(&self.headline));
        let _ = writeln!(out, "{}\n\n{}\n", code(&shell_words::join(&r.command)), sentence(&r.reason));
        out += &grid(
            &self.figures.iter().map(|f| f.name.to_owned()).collect::<Vec<_>>(),
            &[self.figures.iter().map(figure).collect()],
            "",
        );
        out.push('\n');
        for (name, fact) in &self.facts {
            let head = if name.is_empty() { "  - ".to_owned() } else { format!("- **{name}**: ") };
            let _ = writeln!(out, "{head}{}", text(fact));
        }
        if !self.ladder.is_empty() {
            out += &self.ladder();
        }
        out += &self.sweeps_markdown();
        out += &self.would_fit_markdown();
        if let Some(losses) = &self.losses {
            out += &loss_table(losses);
        }
        out += &commands(&self.commands);
        out += &self.time();
        out += &self.rest();
        out
    }

    fn ladder(&self) -> String {
        let heads = ["#", "what changed", "verdict", "peak", "headroom", self.unit, "relative"];
        let row = |rung: &super::model::Rung| {
            let r = &rung.row;
            let number = if r.mark.is_empty() { r.number.clone() } else { format!("**{}**", r.number) };
            let what = if r.mark.is_empty() { text(&r.what) } else { format!("**{}**", text(&r.what)) };
            [
                number,
                what,
                text(&r.verdict),
                text(&r.peak),
                text(&r.headroom),
                text(&r.rate),
                text(&r.relative),
            ]
            .to_vec()
        };
        let rows: Vec<Vec<String>> = self.ladder.iter().map(row).collect();
        let heads: Vec<String> = heads.map(text).to_vec();
        let winner = match (&self.result.winner, &self.result.confirmed) {
            (Some(_), Some(_)) => "bold: the winner",
            (Some(_), None) => "bold: the best so far, not confirmed",
            (None, _) => "",
        };
        let legend: Vec<&str> = [winner, &self.legend].into_iter().filter(|s| !s.is_empty()).collect();
        let legend =
            if legend.is_empty() { String::new() } else { format!("\n{}\n", text(&legend.join("; "))) };
        format!("\n## The ladder as it was climbed\n\n{}{legend}", grid(&heads, &rows, "r..rrrr"))
    }

    fn time(&self) -> String {
        let (launches, beside) = self.seconds();
        let sum = |of: fn(&super::model::TimeUse) -> f64| self.times.iter().map(of).sum::<f64>();
        let (start, measured, rest) = (sum(|t| t.start.unwrap_or(0.0)), sum(|t| t.measured), sum(|t| t.rest));
        let beside =
            if beside < 0.05 { String::new() } else { format!(", {} beside them", words::duration(beside)) };
        format!(
            "\nTime: {} in launches ({} until the first step, {} of measured steps, {} of warm-up, other phases and \
             ends){beside}.\n",
            words::duration(launches),
            words::duration(start),
            words::duration(measured),
            words::duration(rest)
        )
    }

    fn rest(&self) -> String {
        let mut out = "\n<details><summary>Environment, and what was not tried</summary>\n\n".to_owned();
        for (name, value) in &self.environment {
            let _ = writeln!(out, "- {name}: {}", text(value));
        }
        let skipped = &self.result.skipped;
        for s in skipped.iter().take(SKIPPED_SHOWN) {
            let _ = writeln!(out, "- not tried: {}: {}", text(&s.what), text(&s.why));
        }
        if skipped.len() > SKIPPED_SHOWN {
            let _ =
                writeln!(out, "- not tried: {} more; all are in result.json", skipped.len() - SKIPPED_SHOWN);
        }
        out + "\n</details>\n"
    }
}

fn figure(f: &super::model::Figure) -> String {
    let unit = if f.unit.is_empty() { String::new() } else { format!(" {}", f.unit) };
    let note = if f.note.is_empty() { String::new() } else { format!(" ({})", f.note) };
    text(&format!("{}{unit}{note}", f.value))
}

fn loss_table(l: &Losses) -> String {
    let row = |(i, (a, b)): (usize, (&f64, &f64))| vec![i.to_string(), loss(*a), loss(*b)];
    let rows: Vec<Vec<String>> = l.reference.iter().zip(&l.winner).enumerate().map(row).collect();
    let heads = ["step", "as the script is", "winner's settings"].map(str::to_owned);
    format!(
        "\n<details><summary>Losses of the same steps</summary>\n\n{}\n</details>\n",
        grid(&heads, &rows, "rrr")
    )
}

/// Six significant digits: differences of rounding show, noise of the format does not.
pub(super) fn loss(x: f64) -> String {
    if !x.is_finite() {
        return words::NONE.to_owned();
    }
    let digits = if x == 0.0 { 0 } else { x.abs().log10().floor() as i32 };
    format!("{x:.*}", usize::try_from((5 - digits).clamp(0, 12)).unwrap_or(0))
}

pub(super) fn commands(commands: &[Command]) -> String {
    if commands.is_empty() {
        return String::new();
    }
    let lines: String = commands.iter().map(|c| format!("# {}\n{}\n", c.what, one_line(&c.line))).collect();
    let fence = fence(&lines);
    format!("\n## What to type\n\n{fence}sh\n{lines}{fence}\n")
}

/// A table; `align` has an `r` for each column whose figures stand to the right.
pub(super) fn grid(heads: &[String], rows: &[Vec<String>], align: &str) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let rule = |i: usize| if align.as_bytes().get(i) == Some(&b'r') { "---:" } else { "---" };
    let rules: Vec<&str> = (0..heads.len()).map(rule).collect();
    let mut out = format!("{}| {} |\n", line(heads), rules.join(" | "));
    out.extend(rows.iter().map(|r| line(r)));
    out
}

fn sentence(s: &str) -> String {
    text(s.trim_end_matches('.')) + "."
}

/// Harmless in a line and in a cell of a table: one line, and no character that means something to Markdown or HTML.
pub(super) fn text(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    for c in one_line(s).chars() {
        match c {
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '&' => out += "&amp;",
            '|' | '\\' | '`' | '*' | '[' | ']' => {
                out.push('\\');
                out.push(c);
            }
            // Within words `_` means nothing, nor does `#` behind other text.
            c => out.push(c),
        }
    }
    out
}

/// A span of code, fenced by more backticks than it has.
fn code(s: &str) -> String {
    let s = one_line(s);
    let ticks = "`".repeat(longest_run(&s) + 1);
    let pad = if s.starts_with('`') || s.ends_with('`') { " " } else { "" };
    format!("{ticks}{pad}{s}{pad}{ticks}")
}

fn fence(s: &str) -> String {
    "`".repeat((longest_run(s) + 1).max(3))
}

fn longest_run(s: &str) -> usize {
    s.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}

/// How one rate stands to another, over the same unit.
pub(super) fn ratio(a: &crate::report::result::Rate, b: &crate::report::result::Rate) -> Option<f64> {
    (a.unit == b.unit && a.value > 0.0).then(|| b.value / a.value).filter(|x| x.is_finite())
}

/// A rate with its unit.
pub(super) fn rate(x: &crate::report::result::Rate) -> String {
    format!("{} {}", table::rate_text(x, &x.unit), x.unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_users_text_is_read_as_markdown_or_html() {
        assert_eq!(text("a|b <script>&\n*x*"), "a\\|b &lt;script&gt;&amp; \\*x\\*");
        assert_eq!(code("a `b` ``c"), "```a `b` ``c```");
        assert_eq!(code("`"), "`` ` ``");
        assert_eq!(fence("echo ```` x"), "`````");
        assert_eq!(text("num_workers=2"), "num_workers=2");
    }

    #[test]
    fn losses_have_the_digits_in_which_rounding_shows() {
        assert_eq!(loss(2.3012345), "2.30123");
        assert_eq!(loss(0.0), "0.00000");
        assert_eq!(loss(123_456.7), "123457");
        assert_eq!(loss(f64::NAN), "-");
    }
}
