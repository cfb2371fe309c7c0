//! Load on the machine that is not the trial's: what spoils a measurement of time.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::model::observation::Disturbance;

/// The machine's CPU counters at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LoadMark {
    /// Seconds since the first mark of a series.
    pub at: f64,
    /// PSI `some` total, seconds; absent where the kernel does not tell.
    pub waited: Option<f64>,
    /// CPU seconds spent by anybody on the CPUs that we may use.
    pub busy: f64,
    /// Seconds stolen by the hypervisor, summed over those CPUs.
    pub stolen: f64,
    /// How many CPUs that is.
    pub cpus: u32,
    /// CPU seconds of our own: the trial's processes and the launcher.
    pub ours: f64,
}

impl LoadMark {
    /// The machine between this mark and a later one.
    pub fn until(&self, later: &Self) -> Disturbance {
        let seconds = (later.at - self.at).max(1e-3);
        let delta = |a: f64, b: f64| (b - a).max(0.0);
        let pressure = self.waited.zip(later.waited).map(|(a, b)| (delta(a, b) / seconds).min(1.0));
        let other = delta(self.busy, later.busy) - delta(self.ours, later.ours);
        Disturbance {
            cpu_pressure: pressure,
            steal: (delta(self.stolen, later.stolen) / (seconds * f64::from(self.cpus.max(1)))).min(1.0),
            other_cpu: (other / seconds).max(0.0),
        }
    }
}

/// Takes marks; keeps what the kernel does not: CPU time of processes that have ended.
#[derive(Debug)]
pub struct LoadReader {
    start: Instant,
    cpus: Vec<usize>,
    tree: TreeCpu,
}

impl Default for LoadReader {
    fn default() -> Self {
        Self { start: Instant::now(), cpus: usable_cpus(), tree: TreeCpu::default() }
    }
}

impl LoadReader {
    /// Marks now; `pids` are the trial's processes.
    pub fn mark(&mut self, pids: &[u32]) -> LoadMark {
        let (busy, stolen) = cpu_seconds(&read("/proc/stat"), &self.cpus);
        LoadMark {
            at: self.start.elapsed().as_secs_f64(),
            waited: pressure_seconds(&read("/proc/pressure/cpu")),
            busy,
            stolen,
            cpus: self.cpus.len() as u32,
            ours: self.tree.seconds(Path::new("/proc"), pids) + own_seconds(),
        }
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The CPUs that this process may run on.
pub fn usable_cpus() -> Vec<usize> {
    let Ok(set) = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)) else {
        return (0..std::thread::available_parallelism().map_or(1, usize::from)).collect();
    };
    (0..nix::sched::CpuSet::count()).filter(|&i| set.is_set(i).unwrap_or(false)).collect()
}

fn ticks() -> f64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().map_or(100.0, |n| n as f64)
}

/// Busy and stolen seconds of these CPUs, from the text of `/proc/stat`.
fn cpu_seconds(stat: &str, cpus: &[usize]) -> (f64, f64) {
    let (mut busy, mut stolen) = (0.0, 0.0);
    for line in stat.lines() {
        let Some((name, values)) = line.split_once(' ') else { continue };
        let Some(cpu) = name.strip_prefix("cpu").and_then(|n| n.parse::<usize>().ok()) else { continue };
        if !cpus.contains(&cpu) {
            continue;
        }
        // user nice system idle iowait irq softirq steal guest guest_nice; guest time is in user already.
        let v: Vec<f64> = values.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let get = |i: usize| v.get(i).copied().unwrap_or(0.0);
        busy += get(0) + get(1) + get(2) + get(5) + get(6);
        stolen += get(7);
    }
    (busy / ticks(), stolen / ticks())
}

/// `total=` of the `some` line, in seconds.
fn pressure_seconds(text: &str) -> Option<f64> {
    let line = text.lines().find(|l| l.starts_with("some"))?;
    let total = line.rsplit_once("total=")?.1;
    total.trim().parse::<f64>().ok().map(|us| us / 1e6)
}

/// CPU seconds of this process, all threads.
fn own_seconds() -> f64 {
    nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).map_or(0.0, |u| {
        let s = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
        s(u.user_time()) + s(u.system_time())
    })
}

/// CPU time of a process tree whose members come and go.
///
/// A living process's figure holds the time of the children that it has waited for.  A process that has ended is
/// therefore dropped while its parent lives (the parent's figure takes it over) and kept otherwise.
#[derive(Debug, Default)]
struct TreeCpu {
    last: HashMap<u32, (u32, f64)>,
    ended: f64,
    highest: f64,
}

impl TreeCpu {
    fn seconds(&mut self, proc: &Path, pids: &[u32]) -> f64 {
        let now: HashMap<u32, (u32, f64)> =
            pids.iter().filter_map(|p| Some((*p, process_seconds(proc, *p)?))).collect();
        for (pid, (parent, seconds)) in &self.last {
            if !now.contains_key(pid) && !now.contains_key(parent) {
                self.ended += seconds;
            }
        }
        let sum = self.ended + now.values().map(|(_, s)| s).sum::<f64>();
        self.last = now;
        // A child that ended but was not waited for yet would make the sum fall for a moment.
        self.highest = self.highest.max(sum);
        self.highest
    }
}

/// Parent, and CPU seconds of a process and the children that it has waited for.
fn process_seconds(proc: &Path, pid: u32) -> Option<(u32, f64)> {
    let stat = std::fs::read_to_string(proc.join(pid.to_string()).join("stat")).ok()?;
    // After the name: state ppid ... utime stime cutime cstime are fields 14 to 17 of the line.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let time = |i: usize| fields.get(i).and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0);
    Some((fields.get(1)?.parse().ok()?, (11..15).map(time).sum::<f64>() / ticks()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_for_the_cpus_that_we_may_use() {
        let stat =
            "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 100 0 50 900 7 1 2 30 0 0\ncpu1 5000 0 0 0 0 0 0 0 0 0\nintr 1\n";
        let t = ticks();
        assert_eq!(cpu_seconds(stat, &[0]), (153.0 / t, 30.0 / t));
        assert_eq!(pressure_seconds("some avg10=0.00 total=2500000\nfull avg10=0.00 total=1\n"), Some(2.5));
        assert_eq!(pressure_seconds(""), None);
    }

    #[test]
    fn others_are_what_is_left_of_the_busy_time() {
        let mark = |at, waited, busy, stolen, ours| LoadMark {
            at,
            waited: Some(waited),
            busy,
            stolen,
            cpus: 2,
            ours,
        };
        let d = mark(0.0, 1.0, 10.0, 0.0, 3.0).until(&mark(10.0, 3.0, 25.0, 4.0, 8.0));
        assert_eq!(d, Disturbance { cpu_pressure: Some(0.2), steal: 0.2, other_cpu: 1.0 });
    }

    #[test]
    fn a_child_that_ended_is_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        let put = |pid: u32, parent: u32, own: u32, children: u32| {
            let p = dir.path().join(pid.to_string());
            std::fs::create_dir_all(&p).unwrap();
            let line = format!("{pid} (a) b) S {parent} 0 0 0 0 0 0 0 0 0 {own} 0 {children} 0 20 0 1\n");
            std::fs::write(p.join("stat"), line).unwrap();
        };
        let hundred = |n: f64| n * 100.0 / ticks();
        let mut tree = TreeCpu::default();
        put(1, 0, 100, 0);
        put(2, 1, 300, 0);
        assert_eq!(tree.seconds(dir.path(), &[1, 2]), hundred(4.0));
        // 2 has ended and 1 has waited for it.
        put(1, 0, 100, 300);
        assert_eq!(tree.seconds(dir.path(), &[1]), hundred(4.0));
        // 1 has ended; its parent is not in the tree.
        assert_eq!(tree.seconds(dir.path(), &[]), hundred(4.0));
    }

    #[test]
    fn a_busy_stranger_is_seen_and_our_own_work_is_not() {
        let mut reader = LoadReader::default();
        let mut stranger =
            std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let before = reader.mark(&[]);
        let ours_before = reader.mark(&[stranger.id()]);
        std::thread::sleep(std::time::Duration::from_millis(600));
        let as_ours = ours_before.until(&reader.mark(&[stranger.id()]));
        let as_other = before.until(&LoadMark { ours: before.ours, ..reader.mark(&[stranger.id()]) });
        stranger.kill().unwrap();
        stranger.wait().unwrap();
        // It gets at least a fifth of a core on a busy machine; counted as ours it must vanish from the others.
        assert!(as_other.other_cpu > as_ours.other_cpu + 0.1, "{as_other:?} {as_ours:?}");
    }
}
