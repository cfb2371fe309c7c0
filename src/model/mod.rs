//! What the other rooms talk about: plain, versioned data and nothing else.
//!
//! **Architecture invariant:** this room does no I/O and knows no other room.  Everything in it can be written to
//! disk and read back by a later version ([`VERSION`]).
//!
//! Units, everywhere: memory in bytes (`u64`), time in seconds (`f64`), throughput in samples per second.

pub mod arguments;
pub mod blocks;
pub mod configuration;
pub mod event;
pub mod failure;
pub mod inspection;
pub mod knob;
pub mod number;
pub mod observation;
pub mod parity;
pub mod plan;
pub mod policy;
pub mod profile;
pub mod progress;
pub mod size;
pub mod torchrun;
pub mod trace;

pub use configuration::Configuration;
pub use event::Event;
pub use failure::{Failure, FailureFields, FailureKind};
pub use inspection::Inspection;
pub use knob::{Knob, NumericsClass, Value};
pub use observation::{Observation, Purpose, TrialSpec, Verdict};
pub use plan::{AgentMode, AgentPlan, Device, Schedule};
pub use policy::BatchPolicy;
pub use progress::Progress;

/// Version of every document this program writes: journal lines, `result.json`, agent plan, agent records.
pub const VERSION: u32 = 1;
