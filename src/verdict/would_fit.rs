//! The largest micro-batch that should fit on cards of other sizes, from what one sweep measured.  A prediction: nothing
//! of it was launched.

use serde::{Deserialize, Serialize};

use super::curve::{self, Line};
use crate::model::plan::Device;
use crate::model::{Configuration, Knob, Observation};

const GIB: u64 = 1 << 30;
/// Sizes of cards that people have, GiB.
const CARDS: [u64; 8] = [8, 12, 16, 24, 40, 48, 80, 141];
/// Limits of host memory, GiB, where the processor trains.
const LIMITS: [u64; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Part of a size that can be used: the driver and whoever draws the screen have the rest, and batches differ.
const USABLE: f64 = 0.94;
/// A setting that needs less than this part of the memory that grows with the batch lowers memory.
const LESS: f64 = 0.97;
/// No prediction goes beyond this many times the largest batch that was measured.
const FARTHEST: f64 = 64.0;

/// The table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WouldFit {
    /// The launch that it was fitted to.
    pub trial: u32,
    /// The script's own batch, which was measured with smaller ones.
    pub own_batch: u64,
    /// Sizes, bytes.
    pub sizes: Vec<u64>,
    /// Part of a size that is counted on.
    pub usable: f64,
    /// One for the settings of the launch, one for each that lowers memory.
    pub rows: Vec<Row>,
}

/// One rung.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The settings.
    pub settings: Configuration,
    /// What does not grow with the batch, bytes; that of the launch's own settings.
    pub fixed_bytes: u64,
    /// What each sample adds, bytes.
    pub bytes_per_sample: f64,
    /// Largest micro-batch for each size, samples; absent where not even one fits.
    pub batch: Vec<Option<u64>>,
    /// It lies further from what was measured than is predicted: `batch` is then the bound, not the answer.
    pub at_least: Vec<bool>,
}

/// From the latest sweep whose sizes lie on a line; `own` is the script's own batch.
pub fn would_fit(all: &[Observation], own: Option<u64>, device: Device) -> Option<WouldFit> {
    let own = own.filter(|b| *b > 0)?;
    all.iter().rev().find_map(|o| of_sweep(o, own, device))
}

fn of_sweep(sweep: &Observation, own: u64, device: Device) -> Option<WouldFit> {
    // A part of a batch has another micro-batch than the script's.
    if sweep.settings.get(Knob::Accumulation).is_some() {
        return None;
    }
    let points = curve::points(sweep, own);
    let line = curve::memory(&points)?;
    let sizes: Vec<u64> = match device {
        Device::Cuda => CARDS.iter().map(|n| n * GIB).collect(),
        Device::Cpu => LIMITS.iter().map(|n| n * GIB).collect(),
    };
    let base = sweep.settings.clone();
    let grown = line.per_sample * own as f64;
    let rungs = sweep.windows.iter().filter(|w| {
        w.settings.get(Knob::BatchSize) == base.get(Knob::BatchSize)
            && w.settings.get(Knob::Accumulation).is_none()
    });
    let mut rows = vec![row(&base, line, own, &sizes)];
    for window in rungs.filter(|w| w.settings != base) {
        let Some(peak) = window.peak.map(|p| p as f64) else { continue };
        let per_sample = (peak - line.fixed) / own as f64;
        if per_sample > 0.0 && per_sample * (own as f64) < LESS * grown {
            rows.push(row(&window.settings, Line { per_sample, ..line }, own, &sizes));
        }
    }
    Some(WouldFit { trial: sweep.trial, own_batch: own, sizes, usable: USABLE, rows })
}

fn row(settings: &Configuration, line: Line, own: u64, sizes: &[u64]) -> Row {
    let most = own as f64 * FARTHEST;
    let fits = |size: &u64| (*size as f64 * USABLE - line.fixed) / line.per_sample;
    Row {
        settings: settings.clone(),
        fixed_bytes: line.fixed as u64,
        bytes_per_sample: line.per_sample,
        batch: sizes.iter().map(|s| Some(fits(s).min(most) as u64).filter(|_| fits(s) >= 1.0)).collect(),
        at_least: sizes.iter().map(|s| fits(s) > most).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Purpose;
    use crate::model::observation::Window;
    use crate::report::fixtures;

    fn window(settings: &str, peak_mib: u64) -> Window {
        Window {
            settings: fixtures::settings(settings),
            step_seconds: 0.1,
            peak: Some(peak_mib << 20),
            ..Window::default()
        }
    }

    /// 1 GiB + 100 MiB a sample; checkpointing leaves 40 MiB a sample.
    fn sweep() -> Observation {
        let windows = vec![
            window("", 1024 + 3200),
            window("checkpoint=all", 1024 + 1280),
            window("accumulation=2", 1024 + 1600),
            window("omp_threads=1", 1024 + 3200),
            window("batch_size=16", 1024 + 1600),
            window("batch_size=8", 1024 + 800),
        ];
        Observation { windows, ..fixtures::fit(2, Purpose::Sweep, "", 1024 + 3200, 100.0, 1.0) }
    }

    #[test]
    fn each_rung_that_lowers_memory_has_a_row() {
        let table = would_fit(&[sweep()], Some(32), Device::Cuda).unwrap();
        let names: Vec<String> = table.rows.iter().map(|r| r.settings.to_string()).collect();
        assert_eq!(names, ["as the script is", "checkpoint=all"]);
        // (24 x 1024 x 0.94 - 1024) / 100, and / 40.
        assert_eq!(table.rows[0].batch[3], Some(220));
        assert_eq!(table.rows[1].batch[3], Some(551));
        assert!(table.rows.iter().all(|r| r.batch.len() == CARDS.len()));
        assert!(!table.rows[0].at_least[7] && table.rows[1].at_least[7], "too far to tell");
        assert_eq!(table.rows[1].batch[7], Some(32 * 64));
    }

    #[test]
    fn what_cannot_fit_has_no_number() {
        let table = would_fit(&[sweep()], Some(32), Device::Cpu).unwrap();
        assert_eq!((table.sizes[0], table.rows[0].batch[0]), (GIB, None));
    }

    #[test]
    fn without_a_fit_there_is_no_table() {
        let mut one = sweep();
        one.windows[4].peak = Some(9000 << 20);
        assert_eq!(would_fit(&[one], Some(32), Device::Cuda), None);
        assert_eq!(would_fit(&[sweep()], None, Device::Cuda), None, "the batch is not known");
        assert_eq!(would_fit(&[], Some(32), Device::Cuda), None);
    }
}
