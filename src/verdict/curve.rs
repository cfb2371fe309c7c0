//! How memory and time of a step grow with the batch, from several sizes measured in one launch.

use serde::{Deserialize, Serialize};

use crate::model::{Knob, Observation};

/// A measured size.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Samples of a batch, in the unit of the script's own option or loader.
    pub batch: u64,
    /// Median seconds of a step.
    pub step_seconds: f64,
    /// Highest memory, bytes, in the memory that the cap is about.
    pub peak_bytes: u64,
}

/// `fixed + per_sample x batch`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line {
    /// What does not grow with the batch.
    pub fixed: f64,
    /// What each sample adds.
    pub per_sample: f64,
    /// The largest distance of a point, relative to what the largest batch adds.
    pub off: f64,
}

/// A fit is believed if no point lies further off than this.
const CLOSE: f64 = 0.10;

/// The sizes that a sweep measured, `own` (the batch that it runs with) among them, ascending.
pub fn points(sweep: &Observation, own: u64) -> Vec<Point> {
    let smaller = sweep.windows.iter().filter(|w| {
        w.step_seconds > 0.0 && w.settings.without(Knob::BatchSize) == sweep.settings.without(Knob::BatchSize)
    });
    let mut all: Vec<Point> = smaller
        .filter_map(|w| {
            // The launch's own settings in a window of their own, or a smaller batch.
            let batch = match w.settings == sweep.settings {
                true => own,
                false => w.settings.int(Knob::BatchSize)?.unsigned_abs(),
            };
            Some(Point { batch, step_seconds: w.step_seconds, peak_bytes: w.peak? })
        })
        .collect();
    all.sort_by_key(|p| p.batch);
    all.dedup_by_key(|p| p.batch);
    all
}

/// The line through `(batch, value)` by least squares; `None` where there are fewer than three sizes (two fit any line)
/// or where they do not lie on one.
pub fn line(points: &[(u64, f64)]) -> Option<Line> {
    if points.len() < 3 || points.iter().any(|p| !p.1.is_finite()) {
        return None;
    }
    let n = points.len() as f64;
    let (mx, my) = points.iter().fold((0.0, 0.0), |m, p| (m.0 + p.0 as f64 / n, m.1 + p.1 / n));
    let (sxx, sxy) = points.iter().fold((0.0, 0.0), |s, p| {
        let dx = p.0 as f64 - mx;
        (s.0 + dx * dx, s.1 + dx * (p.1 - my))
    });
    if sxx <= 0.0 {
        return None;
    }
    let per_sample = sxy / sxx;
    let fixed = my - per_sample * mx;
    let largest = points.iter().map(|p| p.0).max()? as f64;
    let grown = per_sample * largest;
    let off =
        points.iter().map(|p| (fixed + per_sample * p.0 as f64 - p.1).abs()).fold(0.0, f64::max) / grown;
    (per_sample > 0.0 && fixed >= 0.0 && off <= CLOSE).then_some(Line { fixed, per_sample, off })
}

/// Memory of the sizes of a sweep, bytes.
pub fn memory(points: &[Point]) -> Option<Line> {
    line(&points.iter().map(|p| (p.batch, p.peak_bytes as f64)).collect::<Vec<_>>())
}

/// Time of their steps, seconds.
pub fn time(points: &[Point]) -> Option<Line> {
    line(&points.iter().map(|p| (p.batch, p.step_seconds)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_through_points_that_lie_near_one() {
        let l = line(&[(8, 180.0), (16, 260.0), (32, 421.0)]).unwrap();
        assert!((l.fixed - 100.0).abs() < 2.0 && (l.per_sample - 10.0).abs() < 0.1 && l.off < 0.01, "{l:?}");
    }

    #[test]
    fn what_lies_on_no_line_is_given_none() {
        assert_eq!(line(&[(8, 180.0), (32, 420.0)]), None, "two points fit any line");
        assert_eq!(line(&[(8, 180.0), (16, 500.0), (32, 420.0)]), None, "memory that jumps");
        assert_eq!(line(&[(8, 420.0), (16, 300.0), (32, 180.0)]), None, "memory that shrinks");
        assert_eq!(line(&[(8, 420.0), (16, f64::NAN), (32, 180.0)]), None);
        assert_eq!(line(&[(8, 1.0), (8, 2.0), (8, 3.0)]), None);
    }
}
