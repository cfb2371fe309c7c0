//! Facts of a trial in, judgement out.
//!
//! - [`failure`] reads a program's output and says what went wrong;
//! - [`timing`] turns step samples into a throughput, [`compare`] tells two of them apart;
//! - [`thrash`] sees an allocator that flushes its cache again and again;
//! - [`parity`] compares losses, gradients, buffers and outputs with the baseline's, within [`bands`];
//! - [`judge`] puts all of it together into one [`crate::model::Verdict`] and one sentence.
//!
//! **Architecture invariant:** this room is pure: the same facts give the same judgement, on any machine.  An end that
//! nobody understands is never a success.

pub mod bands;
pub mod compare;
pub mod curve;
pub mod failure;
pub mod judge;
pub mod parity;
pub mod stats;
pub mod thrash;
pub mod timing;
pub mod would_fit;

pub use compare::{Comparison, Speed, compare};
pub use failure::{oom_line, read_failure};
pub use judge::{OomFact, TrialFacts, judge};
