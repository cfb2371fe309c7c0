//! `report.html` and `report.md`: a search, for people, in one file each.
//!
//! # Theory of operation
//! [`Page::of`] makes everything that is shown out of a [`TuneResult`](super::TuneResult) and the journal's
//! observations: words, figures, and the points of the charts.  With `head` and `charts` it is the only place that decides
//! what is said; `html` and `markdown` only lay it out.  [`Comparison`] does the same for two searches.
//!
//! The HTML is whole in itself: the tables are in it as text, the chart library and our own script stand inside, the
//! figures are a JSON document that the script draws from, and a content security policy forbids everything else, so that
//! the page asks nobody for anything.  Without scripts the tables are still there.
//!
//! Text of users and scripts only comes in through the result, where secrets are replaced already; from observations
//! nothing but numbers is taken.

mod charts;
mod commands;
mod comparison;
mod head;
mod html;
mod markdown;
mod model;
mod parts;
mod shell;
mod sizes;
mod turns;

pub use comparison::Comparison;
pub use model::Page;

#[cfg(test)]
mod tests;
