//! Events and results -> what people and programs read.
//!
//! * [`progress::Reporter`] shows [`crate::model::Progress`] while a search runs (standard error).
//! * [`result::TuneResult`] is `result.json`; [`table::summary`] renders the same document for people, so that the
//!   two can never disagree.
//! * [`page::Page`] is `report.html` and `report.md`: the same document with what the journal has beside it.
//! * [`inspection::render`] and [`plan::render`] are the texts of `autofit inspect` and `autofit plan`.
//!
//! **Architecture invariant:** words, units and the order of figures come from [`words`] and nowhere else: a
//! progress line, a table row and `result.json` call the same thing by the same name.

pub mod assemble;
pub mod blocks;
pub mod doctor;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod inspection;
pub mod machine;
pub mod next;
pub mod page;
pub mod plan;
pub mod profile;
pub mod progress;
pub mod redact;
pub mod result;
pub mod shortfall;
pub mod style;
mod sweep;
pub mod table;
pub mod watch;
pub mod watch_view;
pub mod words;

#[cfg(test)]
mod printed_tests;

pub use progress::{Mode, Reporter};
pub use result::TuneResult;
