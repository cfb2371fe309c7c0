//! The text of `autofit doctor`.

use super::style::{Style, hang, one_line};
use super::words;
use crate::doctor::{Area, Finding, Level, Step};

/// Width of the column of verdicts.
const INDENT: &str = "        ";

/// The text: what is wrong says why and what to type.
pub fn render(findings: &[Finding], style: Style) -> String {
    let mut out = String::new();
    let mut area = None;
    for finding in findings {
        if area != Some(finding.area) {
            if area.is_some() {
                out.push('\n');
            }
            area = Some(finding.area);
            out.push_str(&style.strong(title(finding.area)));
            out.push('\n');
        }
        let text = hang(INDENT, &one_line(&finding.what), style.width);
        out.push_str(&format!("  {}{}", verdict(finding.verdict, style), &text[INDENT.len()..]));
        if !finding.why.is_empty() {
            out.push_str(&hang(INDENT, &one_line(&finding.why), style.width));
        }
        for step in &finding.next {
            // Not wrapped: it is to be copied.
            let (head, text) = match step {
                Step::Type(command) => ("$", style.strong(&one_line(command))),
                Step::Write(setting) => ("write:", style.strong(&one_line(setting))),
                Step::See(page) => ("see", one_line(page)),
            };
            out.push_str(&format!("{INDENT}{head} {text}\n"));
        }
    }
    out.push('\n');
    out.push_str(&summary(findings));
    out.push('\n');
    out
}

fn verdict(level: Level, style: Style) -> String {
    match level {
        Level::Ok => style.good("ok    "),
        Level::Warn => style.strong("warn  "),
        Level::Bad => style.bad("bad   "),
    }
}

fn title(area: Area) -> &'static str {
    match area {
        Area::Gpu => "GPU",
        Area::Python => "Python and PyTorch",
        Area::Host => "Host",
        Area::Tools => "Programs",
        Area::Autofit => "Launches by autofit",
    }
}

fn summary(findings: &[Finding]) -> String {
    let count = |level| findings.iter().filter(|f| f.verdict == level).count() as u64;
    let warnings = words::count(count(Level::Warn), "warning", "warnings");
    match count(Level::Bad) {
        0 if count(Level::Warn) == 0 => "nothing is wrong".to_owned(),
        0 => format!("nothing is broken; {warnings}"),
        n => format!("{}; {warnings}", words::count(n, "thing is broken", "things are broken")),
    }
}
