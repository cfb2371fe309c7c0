//! `autofit report`, and its page in a real browser.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

mod browser;
mod command;
mod page;
mod searches;
