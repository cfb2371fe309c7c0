//! # autofit: the fastest configuration of an unmodified PyTorch script that fits in memory
//!
//! The modules below stand in the order in which data flows.

pub mod cli;
pub mod commands;
pub mod emit;
pub mod exit;
pub mod inspect;
pub mod journal;
pub mod model;
pub mod process;
pub mod pyenv;
pub mod recipe;
pub mod report;
pub mod sandbox;
pub mod verdict;
pub mod watch;
