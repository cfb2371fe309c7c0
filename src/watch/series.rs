//! A time series of bounded length: when it is full, neighbours are merged by their maximum, so that peaks stay.

use serde::{Deserialize, Serialize};

/// Points kept; enough for a chart, small enough for a report (about 30 kB as JSON).
pub const CAPACITY: usize = 512;

/// One moment; bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Seconds since the sampler started.
    pub at: f64,
    /// Host memory of the trial.
    pub host: u64,
    /// Device memory of the trial, the device with the most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<u64>,
    /// Device memory in use by anybody, same device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_used: Option<u64>,
    /// `/dev/shm` in use over its use at the start.
    pub shm: u64,
    /// Kernels running, percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utilization: Option<u32>,
}

impl Point {
    fn merge(self, later: Self) -> Self {
        Self {
            at: later.at,
            host: self.host.max(later.host),
            device: self.device.max(later.device),
            device_used: self.device_used.max(later.device_used),
            shm: self.shm.max(later.shm),
            utilization: self.utilization.max(later.utilization),
        }
    }
}

/// Points in order of time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// The points; each stands for `stride` samples (the last for what is left) and has their highest values.
    pub points: Vec<Point>,
    stride: u32,
    pending: u32,
}

impl Default for Series {
    fn default() -> Self {
        Self { points: Vec::new(), stride: 1, pending: 0 }
    }
}

impl Series {
    /// Adds a sample.
    pub fn push(&mut self, point: Point) {
        if self.pending > 0 && self.pending < self.stride {
            if let Some(last) = self.points.last_mut() {
                *last = last.merge(point);
            }
            self.pending += 1;
            return;
        }
        if self.points.len() >= CAPACITY {
            self.points = self
                .points
                .chunks(2)
                .map(|c| c.iter().copied().reduce(Point::merge).unwrap_or(c[0]))
                .collect();
            self.stride *= 2;
        }
        self.points.push(point);
        self.pending = 1;
    }

    /// At most `most` points over the whole time; peaks stay.
    pub fn thinned(&self, most: usize) -> Vec<Point> {
        let group = self.points.len().div_ceil(most.max(1)).max(1);
        self.points.chunks(group).filter_map(|c| c.iter().copied().reduce(Point::merge)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_is_bounded_and_peaks_stay() {
        let mut s = Series::default();
        for i in 0..100_000_u64 {
            let host = if i == 61_234 { 1 << 40 } else { i };
            s.push(Point { at: i as f64, host, ..Point::default() });
        }
        assert!(s.points.len() <= CAPACITY && s.points.len() > CAPACITY / 2 - 2, "{}", s.points.len());
        assert_eq!(s.points.iter().map(|p| p.host).max(), Some(1 << 40));
        assert_eq!(s.points.last().unwrap().at, 99_999.0);
        assert!(s.points.windows(2).all(|w| w[0].at < w[1].at));

        let few = s.thinned(100);
        assert!(few.len() <= 100 && few.len() > 50, "{}", few.len());
        assert_eq!(few.iter().map(|p| p.host).max(), Some(1 << 40));
        assert_eq!(few.last().unwrap().at, 99_999.0);
        assert!(Series::default().thinned(100).is_empty());
    }
}
