//! What was measured in turns within one launch.

use maud::{Markup, html};

use super::model::Page;
use super::parts::{capital, scroll};
use crate::model::observation::Window;
use crate::report::result::Trial;
use crate::report::sweep;

impl Page<'_> {
    pub(super) fn sweeps(&self) -> Vec<&Trial> {
        self.result.trials.iter().filter(|t| !t.windows.is_empty()).collect()
    }

    pub(super) fn sweeps_html(&self) -> Markup {
        html! {
            @for t in self.sweeps() {
                p class="note" { (capital(&sweep::head(t))) ":" }
                (scroll("Windows of one launch", &html! { table {
                    thead { tr { @for h in sweep::HEADS { th scope="col" { (h) } } } }
                    tbody { @for w in &t.windows {
                        @let [what, cells @ ..] = sweep::row(w, &t.settings);
                        tr {
                            th scope="row" {
                                (what)
                                @if let Some(why) = sweep::why_not(w) { span class="why" { (why) } }
                            }
                            @for cell in cells { td { (cell) } }
                        }
                    } }
                } }))
                @if let Some(legend) = sweep::legend(t) { p class="note" { (capital(legend)) "." } }
            }
        }
    }

    pub(super) fn sweeps_markdown(&self) -> String {
        let mut out = String::new();
        for t in self.sweeps() {
            let row = |w: &Window| {
                let mut cells = sweep::row(w, &t.settings).to_vec();
                if let Some(why) = sweep::why_not(w) {
                    cells[0] += &format!(" ({why})");
                }
                cells.iter().map(|c| super::markdown::text(c)).collect()
            };
            let rows: Vec<Vec<String>> = t.windows.iter().map(row).collect();
            let heads = sweep::HEADS.map(str::to_owned);
            let legend = sweep::legend(t).map(|l| format!("\n{}.\n", capital(l))).unwrap_or_default();
            let grid = super::markdown::grid(&heads, &rows, ".rrrr");
            out += &format!("\n{}:\n\n{grid}{legend}", capital(&super::markdown::text(&sweep::head(t))));
        }
        out
    }
}
