//! How long each kind of trial measures.

use crate::model::plan::{CoveragePlan, Device, Schedule};
use crate::model::{Configuration, Knob, Purpose};

/// Loss and gradient norm are compared over this many first steps: enough for an optimizer's state to matter, few
/// enough to cost nothing.
pub const PARITY_STEPS: u32 = 4;

/// Every trial starts from this seed, so that scripts which do not seed themselves can be compared.
pub const SEED: u64 = 20_240;

/// Steady measuring in one launch.  Six seconds hold at least five steps of most scripts; a launch itself costs
/// about as much, so that a longer look would rarely pay more than a second launch.
const MEASURE_SECONDS: f64 = 6.0;

/// A confirm trial measures longer: its figure is the one that is promised.
const CONFIRM_SECONDS: f64 = 10.0;

/// A sweep's windows share this time out among them (`autofit_agent/windows/sweep.py`); the first round is allowed more.
const SWEEP_SECONDS: f64 = 20.0;

/// Steps of `settings` before a sweep's first window: enough to know how long one lasts.
const BEFORE_WINDOWS: u32 = 3;

/// The schedule of a trial.
pub fn schedule(purpose: Purpose, device: Device, settings: &Configuration) -> Schedule {
    if purpose == Purpose::Parity {
        // Only the first steps matter; one more shows that training goes on.
        return Schedule {
            warmup_steps: PARITY_STEPS,
            min_steps: 1,
            max_steps: 1,
            max_seconds: 0.0,
            relative_error: 1.0,
        };
    }
    let seconds = if purpose.covers() { CONFIRM_SECONDS } else { MEASURE_SECONDS };
    // Worker processes and compiled kernels take some steps before the pipeline is full.
    let warmup = if settings.get(Knob::NumWorkers).is_some() { 4 } else { 2 };
    let (max_steps, relative_error) = match device {
        Device::Cpu => (200, 0.01),
        Device::Cuda => (400, 0.005),
    };
    if purpose == Purpose::Sweep {
        // The steps that are compared come first, all of them with `settings`; the error is that of a window's ratio.
        return Schedule {
            warmup_steps: warmup.max(PARITY_STEPS),
            min_steps: BEFORE_WINDOWS,
            max_steps: BEFORE_WINDOWS,
            max_seconds: SWEEP_SECONDS,
            relative_error,
        };
    }
    Schedule { warmup_steps: warmup, min_steps: 5, max_steps, max_seconds: seconds, relative_error }
}

/// What a confirm trial goes through beyond its first steps; `None` for the others.
pub fn coverage(purpose: Purpose) -> Option<CoveragePlan> {
    purpose.covers().then_some(CoveragePlan {
        // Enough batches for the confirmed throughput (it is measured in the same pass).
        end_loader_after: 30,
        look_batches: 500,
        look_seconds: 5.0,
        phase_seconds: 20.0,
    })
}
