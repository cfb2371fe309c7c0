//! End to end: the real program, real scripts, real PyTorch.  One binary, so that tests that train can take turns.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod bad_inputs;
mod interrupt;
mod killed;
mod limits;
mod nothing_fits;
mod options;
mod orphans;
mod places;
mod pyenv;
mod ranks;
mod several;
mod siege;
mod sweep;
mod tune;
mod wrapped;
mod wrappers;
