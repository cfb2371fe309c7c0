//! # autofit: the fastest configuration of an unmodified PyTorch script that fits in memory
//!
//! A person types `autofit -- python train.py`.  The launcher (this crate) spawns the script again and again under
//! different configurations, an agent (Python, embedded in the binary) is injected into each of these processes,
//! measures it and turns what the script offers no switch for, and the search moves to the fastest configuration that
//! fits.  The winner is launched once more by the path that production will use; then `autofit.env` is written.
//!
//! ## Bird's-eye view
//! ```text
//! cli -> commands -> recipe, journal            what is wanted, what is known already
//!                 -> search  (pure)             plan + history -> next trial | stop
//!                 -> trial                      configuration -> observation
//!                      -> agent, sandbox, process, watch      the world
//!                      -> slurm                               the same in a job, on another machine
//!                      -> nodes                               one trial on several machines together
//!                      -> inspect, verdict (pure)             records -> meaning
//!                 -> report, emit               observations -> people, files
//! doctor                                        the machine, before anything runs (facts -> findings, pure)
//! ```
//! [`model`] is the vocabulary that all of them share.  A **trial** is one launch of one **configuration** (values for
//! **knobs**); what was measured is an **observation** with a **verdict**; the **cap** is the memory that may be used.
//!
//! ## Contract between launcher and agent
//! In: `plan.json` in the trial directory ([`model::plan`]).  Out: `events.<rank>.jsonl` beside it ([`model::event`]),
//! one versioned record a line; the same while a command is only watched.  In production the same document travels in
//! the variable `AUTOFIT_CONFIG`.  Where a script runs in several processes, the agent of each shares out its batches
//! (`autofit_agent/ranks/`), and the launcher puts the ranks' records together ([`trial::collect`]).
//! A launch may also measure several configurations in turns (`autofit_agent/windows/`, [`trial::windows`]).
//!
//! ## Invariants
//! - **I1** A trial leaves no trace: no file of the user is created, changed or deleted, no process outlives it.
//! - **I2** What was measured is what runs: confirm trials and production are prepared by the same function
//!   ([`trial::prepare`]).
//! - **I3** No claim without a launch: only a confirm trial in a fresh process makes a configuration a result.
//! - **I4** Training is not changed behind the user's back: every knob has a numerics class
//!   ([`model::NumericsClass`]) and the policy bounds it.
//! - **I5** Nothing measured is lost: an observation is in the [`journal`] before the next launch.
//! - **I6** The script never breaks because of the agent: a fault in a hook switches that hook off and is reported.
//!
//! **Architecture invariants** (tests/architecture.rs checks them):
//! - `model`, `recipe`, `inspect`, `verdict` and `search` are pure: no clap, tokio, NVML, file system or indicatif.
//! - Only `process` spawns.  Only `report`, `commands` and `main.rs` print.  Only `cli` knows clap.
//! - An unknown end never becomes a success.
//! - The agent imports nothing but the standard library and what the script itself imported.
//!
//! The modules stand in the order in which data flows.

pub mod agent;
pub mod cli;
pub mod commands;
pub mod doctor;
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
pub mod search;
pub mod trial;
pub mod verdict;
pub mod watch;
