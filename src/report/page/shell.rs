//! The frame of a page: style, scripts, figures, and the policy that forbids everything else.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest as _, Sha256};

/// Chart library, vendored as published (see `assets/uplot/README.md`).
const UPLOT: &str = include_str!("assets/uplot/uPlot.iife.min.js");
const UPLOT_STYLE: &str = include_str!("assets/uplot/uPlot.min.css");
const UPLOT_LICENCE: &str = include_str!("assets/uplot/LICENSE");
const SCRIPT: &str = include_str!("assets/report.js");
const STYLE: &str = include_str!("assets/report.css");

/// A rising line, drawn inside the page: a browser then asks for no icon.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath d='M2 13 7 8l3 \
                    2 4-7' fill='none' stroke='%230b7a75' stroke-width='2'/%3E%3C/svg%3E";

/// A whole document.  `figures` is what the charts are drawn from.
pub(super) fn document(title: &str, figures: &serde_json::Value, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy());
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="generator" content=(concat!("autofit ", env!("CARGO_PKG_VERSION")));
                title { (title) }
                link rel="icon" href=(ICON);
                style { (PreEscaped(UPLOT_STYLE)) (PreEscaped(STYLE)) }
            }
            body {
                (body)
                p #spoken role="status" class="unseen" {}
                script type="application/json" #figures { (PreEscaped(json(figures))) }
                (PreEscaped(format!("<!-- Charts: uPlot, {} -->", UPLOT_LICENCE.trim())))
                script { (PreEscaped(UPLOT)) }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    page.into_string()
}

/// Our two scripts by their hashes, styles and pictures of the page's own, and nothing else: no request to anywhere, and
/// no script that came in with a text.
fn policy() -> String {
    let hash = |script: &str| format!("'sha256-{}'", STANDARD.encode(Sha256::digest(script)));
    format!(
        "default-src 'none'; script-src {} {}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'",
        hash(UPLOT),
        hash(SCRIPT)
    )
}

/// JSON that can stand in a `script` element: nothing in it ends the element, or begins a comment.
fn json(value: &serde_json::Value) -> String {
    value.to_string().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_cannot_leave_the_figures() {
        let nasty = serde_json::json!({"what": "</script><script>alert(1)</script><!-- & é"});
        let text = json(&nasty);
        assert!(!text.contains(['<', '>', '&']), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), nasty);
    }

    #[test]
    fn what_stands_inside_ends_neither_its_element_nor_its_comment() {
        for script in [UPLOT, SCRIPT] {
            assert!(!script.to_ascii_lowercase().contains("</script") && !script.contains("<!--"));
        }
        assert!(!STYLE.contains("</") && !STYLE.contains("url(") && !STYLE.contains("@import"));
        assert!(!UPLOT_LICENCE.contains("--"));
        assert!(policy().matches("sha256-").count() == 2 && !policy().contains("http"));
    }
}
