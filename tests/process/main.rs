//! What `process` and `sandbox` promise, on real processes.

#![allow(clippy::unwrap_used)]

mod anywhere;
mod ends;
mod memory;
mod support;
mod traces;
mod weaker;
