//! The thread that watches one trial.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::cgroup::{self, CgroupReading};
use super::host::{HostReader, thread_seconds};
use super::load::{LoadMark, LoadReader};
use super::nvml::{self, Baseline, GpuReading, Gpus};
use super::series::{Point, Series};
use super::shm;
use super::summary::{DeviceSource, DeviceSummary, HostSummary, WatchCost, WatchSummary};

/// Host memory moves with steps, which take tens of milliseconds and more.
const HOST_INTERVAL: Duration = Duration::from_millis(100);
/// Device memory between two points of a step lasts milliseconds; NVML itself needs up to one.
const DEVICE_INTERVAL: Duration = Duration::from_millis(25);
/// Share of one core that watching may take; above it the intervals grow.
const CPU_SHARE: f64 = 0.02;
/// However slow reading is, a trial is looked at this often.
const LONGEST_INTERVAL: Duration = Duration::from_secs(2);
/// Marks of load are merged when there are more; they are 100 ms apart at first.
const LOAD_MARKS: usize = 1024;

/// Says which processes belong to the trial now, as PIDs of the launcher's namespace.
pub type Pids = Arc<dyn Fn() -> Vec<u32> + Send + Sync>;

/// What to watch.
#[derive(Clone, Default)]
pub struct SamplerOptions {
    /// The loaded NVML; `None` watches no device.
    pub gpus: Option<Arc<Gpus>>,
    /// Devices and their readings before the trial.
    pub baseline: Baseline,
    /// The trial's own memory cgroup, where it has one.
    pub cgroup: Option<PathBuf>,
    /// The trial's `/dev/shm`; `None` for the launcher's.
    pub shm: Option<PathBuf>,
}

/// Figures of this moment, for a live display; bytes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Latest {
    /// Host memory of the trial.
    pub host: Option<u64>,
    /// Its highest so far.
    pub host_peak: Option<u64>,
    /// Device memory of the trial, on the device with the most.
    pub device: Option<u64>,
    /// Each device that is watched.
    pub devices: Vec<DeviceNow>,
    /// Processes of the trial.
    pub processes: u32,
    /// Processors at the latest mark of load.
    pub load: Option<LoadMark>,
    /// The trial's own memory cgroup, where it has one.
    pub cgroup: Option<CgroupReading>,
}

/// One device at this moment; bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceNow {
    /// Index into [`Gpus::devices`].
    pub at: usize,
    /// In use by the trial, where that can be told.
    pub ours: Option<u64>,
    /// Its highest so far.
    pub peak: Option<u64>,
    /// In use by anybody.
    pub used: Option<u64>,
    /// Kernels running, percent.
    pub utilization: Option<u32>,
}

/// A running watch; dropping it ends the thread.
#[derive(Debug)]
pub struct Sampler {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<WatchSummary>>,
    latest: Arc<Mutex<Latest>>,
    started: Instant,
}

impl Sampler {
    /// Starts the thread.  `pids` is called for each host reading and should be quick (a read of `cgroup.procs`, or
    /// [`super::host::descendants`]).
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(pids: Pids, options: SamplerOptions) -> std::io::Result<Self> {
        let latest = Arc::new(Mutex::new(Latest::default()));
        let (stop, stopped) = channel::<()>();
        let shared = Arc::clone(&latest);
        let started = Instant::now();
        let thread = std::thread::Builder::new().name("watch".into()).spawn(move || {
            let mut watch = Watch::new(pids, options, shared, started);
            watch.host();
            watch.devices();
            loop {
                match stopped.recv_timeout(watch.pause()) {
                    Err(RecvTimeoutError::Timeout) => watch.due(),
                    // Also when the sampler was dropped.
                    _ => return watch.finish(),
                }
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread), latest, started })
    }

    /// What was read last.
    pub fn latest(&self) -> Latest {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The moment that [`WatchSummary`] counts seconds from.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Reads once more, ends the thread and says what was seen.  Call it before the trial's cgroup is removed.
    pub fn stop(mut self) -> WatchSummary {
        drop(self.stop.take());
        let joined = self.thread.take().map(JoinHandle::join);
        match joined {
            Some(Ok(summary)) => summary,
            // A panic in the thread is a fault of ours: the trial's result must survive it.
            _ => {
                let mut watch = Watch::new(
                    Arc::new(Vec::new),
                    SamplerOptions::default(),
                    self.latest.clone(),
                    self.started,
                );
                watch.notes.push("watching failed; no figures from outside the process".into());
                watch.finish()
            }
        }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Its panic was already printed by the runtime; nothing is left to do with it.
            let _ = thread.join();
        }
    }
}

/// When something is read next, and how often that may be.
struct Pace {
    base: Duration,
    next: Instant,
}

impl Pace {
    fn new(base: Duration) -> Self {
        Self { base, next: Instant::now() + base }
    }

    /// Plans the next reading after one that cost `cpu` seconds of this thread.
    fn spent(&mut self, cpu: f64) {
        let fair = Duration::from_secs_f64((cpu / CPU_SHARE).min(LONGEST_INTERVAL.as_secs_f64()));
        self.next = Instant::now() + self.base.max(fair);
    }
}

/// State of the thread.
struct Watch {
    pids: Pids,
    options: SamplerOptions,
    latest: Arc<Mutex<Latest>>,
    started: Instant,
    cpu_at_start: f64,
    host_pace: Pace,
    device_pace: Pace,
    reader: HostReader,
    load: LoadReader,
    marks: Vec<LoadMark>,
    mark_every: u32,
    tree: BTreeSet<u32>,
    host: HostSummary,
    cgroup_before: CgroupReading,
    devices: Vec<DeviceWatch>,
    shm_before: Option<shm::ShmReading>,
    shm_peak: Option<u64>,
    now: Point,
    series: Series,
    cost: WatchCost,
    notes: Vec<String>,
}

impl Watch {
    fn new(pids: Pids, options: SamplerOptions, latest: Arc<Mutex<Latest>>, started: Instant) -> Self {
        let watched = if options.gpus.is_some() { options.baseline.devices.as_slice() } else { &[] };
        let devices = watched.iter().map(|(at, before)| DeviceWatch::new(*at, before)).collect();
        let mut watch = Self {
            cpu_at_start: thread_seconds(),
            host_pace: Pace::new(HOST_INTERVAL),
            device_pace: Pace::new(DEVICE_INTERVAL),
            reader: HostReader::default(),
            load: LoadReader::default(),
            marks: Vec::new(),
            mark_every: 1,
            tree: BTreeSet::new(),
            host: HostSummary::default(),
            cgroup_before: options.cgroup.as_deref().and_then(cgroup::read).unwrap_or_default(),
            devices,
            shm_before: None,
            shm_peak: None,
            now: Point::default(),
            series: Series::default(),
            cost: WatchCost::default(),
            notes: Vec::new(),
            pids,
            options,
            latest,
            started,
        };
        watch.shm_before = shm::read(watch.shm_path());
        watch
    }

    fn shm_path(&self) -> &Path {
        self.options.shm.as_deref().unwrap_or(Path::new("/dev/shm"))
    }

    /// How long there is nothing to do.
    fn pause(&self) -> Duration {
        let next = if self.devices.is_empty() {
            self.host_pace.next
        } else {
            self.host_pace.next.min(self.device_pace.next)
        };
        next.saturating_duration_since(Instant::now())
    }

    fn due(&mut self) {
        let now = Instant::now();
        if now >= self.host_pace.next {
            self.host();
        }
        if !self.devices.is_empty() && now >= self.device_pace.next {
            self.devices();
        }
    }

    fn host(&mut self) {
        let before = thread_seconds();
        let pids = (self.pids)();
        self.tree = pids.iter().copied().collect();
        let reading = self.reader.read(&pids);
        let h = &mut self.host;
        h.rss_peak = h.rss_peak.max(reading.rss);
        h.swap_peak = h.swap_peak.max(reading.swap);
        h.processes = h.processes.max(reading.processes);
        h.process_high_water = h.process_high_water.max(reading.high_water);
        h.peak = h.peak.max(reading.demand);
        let mut demand = reading.estimate;
        let cgroup = self.options.cgroup.as_deref().and_then(cgroup::read);
        // Nothing was ever above a limit that was enforced.
        let crest = reading.crest.min(cgroup.and_then(|c| c.limit).unwrap_or(u64::MAX));
        h.peak = h.peak.max(Some(crest).filter(|_| reading.processes > 0));
        if let Some(c) = cgroup {
            h.cgroup_limit = c.limit;
            h.cgroup_charge_peak = h.cgroup_charge_peak.max(c.peak);
            h.cgroup_peak = h.cgroup_peak.max(c.demand());
            let since =
                |now: Option<u64>, before: Option<u64>| now.map(|n| n.saturating_sub(before.unwrap_or(0)));
            h.cgroup_oom = h.cgroup_oom.max(since(c.oom, self.cgroup_before.oom));
            h.cgroup_oom_kill = h.cgroup_oom_kill.max(since(c.oom_kill, self.cgroup_before.oom_kill));
            demand = c.demand().unwrap_or(demand);
        }
        if let Some((before, now)) = self.shm_before.zip(shm::read(self.shm_path())) {
            self.now.shm = now.used.saturating_sub(before.used);
            self.shm_peak = self.shm_peak.max(Some(self.now.shm));
        }
        self.mark(&pids);
        let load = self.marks.last().copied();
        let peak = self.host.cgroup_peak.max(self.host.peak);
        self.now.host = demand;
        self.now.at = self.started.elapsed().as_secs_f64();
        self.series.push(self.now);
        self.publish(|l| {
            l.host = (reading.processes > 0).then_some(demand);
            l.host_peak = peak.max(l.host_peak).max(l.host);
            l.processes = reading.processes;
            l.load = load;
            l.cgroup = cgroup;
        });
        self.cost.host_samples += 1;
        self.host_pace.spent(thread_seconds() - before);
    }

    fn mark(&mut self, pids: &[u32]) {
        if !self.cost.host_samples.is_multiple_of(self.mark_every) {
            return;
        }
        if self.marks.len() >= LOAD_MARKS {
            let mut keep = false;
            self.marks.retain(|_| {
                keep = !keep;
                keep
            });
            self.mark_every *= 2;
        }
        self.marks.push(self.load.mark(pids));
    }

    fn devices(&mut self) {
        let Some(gpus) = self.options.gpus.clone() else { return };
        let before = thread_seconds();
        for device in &mut self.devices {
            device.see(&gpus.read(device.at), &self.tree);
        }
        let most = self.devices.iter().max_by_key(|d| d.now);
        (self.now.device, self.now.device_used) = most.map_or((None, None), |d| (d.now, d.now_used));
        self.now.utilization = self.devices.iter().filter_map(|d| d.now_utilization).max();
        self.now.at = self.started.elapsed().as_secs_f64();
        self.series.push(self.now);
        let device = self.now.device;
        let devices = self.devices.iter().map(DeviceWatch::now).collect();
        self.publish(|l| (l.device, l.devices) = (device, devices));
        self.cost.device_samples += 1;
        self.device_pace.spent(thread_seconds() - before);
    }

    fn publish(&self, change: impl FnOnce(&mut Latest)) {
        change(&mut self.latest.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn finish(mut self) -> WatchSummary {
        self.host();
        self.devices();
        let pids = (self.pids)();
        self.marks.push(self.load.mark(&pids));
        self.notes.extend(self.reader.note.take());
        self.host.exact = self.reader.exact();
        self.host.metric = "anonymous + shared memory of the process tree".into();
        if let Some(cgroup) = self.host.cgroup_peak {
            self.host.peak = self.host.peak.max(Some(cgroup));
            self.host.metric = "anonymous + shared memory of the cgroup".into();
        }
        let devices: Vec<DeviceSummary> = self
            .devices
            .into_iter()
            .map(|d| d.finish(self.options.gpus.as_deref(), &mut self.notes))
            .collect();
        let disturbance = match (self.marks.first(), self.marks.last()) {
            (Some(a), Some(b)) => a.until(b),
            _ => Default::default(),
        };
        self.cost.cpu_seconds = thread_seconds() - self.cpu_at_start;
        WatchSummary {
            seconds: self.started.elapsed().as_secs_f64(),
            host: self.host,
            devices,
            shm_peak: self.shm_peak,
            shm_total: self.shm_before.map(|s| s.total),
            disturbance,
            load: self.marks,
            series: self.series,
            cost: self.cost,
            notes: self.notes,
        }
    }
}

/// One device.
struct DeviceWatch {
    at: usize,
    before: GpuReading,
    now: Option<u64>,
    now_used: Option<u64>,
    now_utilization: Option<u32>,
    ours: Option<u64>,
    over: Option<u64>,
    used: Option<u64>,
    foreign: Option<u64>,
    nameless: bool,
    utilization: (f64, u32),
    failure: Option<String>,
    samples: u32,
}

impl DeviceWatch {
    fn new(at: usize, before: &GpuReading) -> Self {
        Self {
            at,
            before: before.clone(),
            now: None,
            now_used: None,
            now_utilization: None,
            ours: None,
            over: None,
            used: None,
            foreign: None,
            nameless: false,
            utilization: (0.0, 0),
            failure: None,
            samples: 0,
        }
    }

    fn see(&mut self, r: &GpuReading, tree: &BTreeSet<u32>) {
        let proc = Path::new("/proc");
        let there_before = |pid| self.before.processes.iter().flatten().any(|p| p.pid == pid);
        let ours = |pid| nvml::is_ours(pid, tree, proc);
        let foreign = |pid| there_before(pid) || (nvml::is_known(pid, tree, proc) && !ours(pid));
        let mine = r.used_by(&ours).filter(|n| *n > 0);
        let over = nvml::over_baseline(&self.before, r, &foreign);
        let others = r.processes.iter().flatten().filter(|p| foreign(p.pid)).filter_map(|p| p.used);
        self.foreign = self.foreign.max(others.reduce(|a, b| a + b));
        self.nameless |=
            r.processes.iter().flatten().any(|p| !foreign(p.pid) && (p.used.is_none() || !ours(p.pid)));
        self.ours = self.ours.max(mine);
        self.over = self.over.max(over);
        self.used = self.used.max(r.used);
        self.now = mine.or(over);
        self.now_used = r.used;
        self.now_utilization = r.utilization;
        if let Some(u) = r.utilization {
            self.utilization = (self.utilization.0 + f64::from(u), self.utilization.1 + 1);
        }
        if let Some(f) = &r.failure {
            self.failure.get_or_insert_with(|| f.clone());
        }
        self.samples += 1;
    }

    fn now(&self) -> DeviceNow {
        let peak = self.ours.or(self.over);
        let utilization = self.now_utilization;
        DeviceNow { at: self.at, ours: self.now, peak, used: self.now_used, utilization }
    }

    fn finish(self, gpus: Option<&Gpus>, notes: &mut Vec<String>) -> DeviceSummary {
        let facts = gpus.and_then(|g| g.devices().get(self.at));
        let name = facts.map_or("GPU", |f| f.name.as_str());
        let (peak, source) = match (self.ours, self.over) {
            (Some(n), _) => (Some(n), DeviceSource::Processes),
            (None, Some(n)) => (Some(n), DeviceSource::UsedOverBaseline),
            (None, None) => (None, DeviceSource::None),
        };
        if source == DeviceSource::UsedOverBaseline && (self.nameless || self.before.processes.is_none()) {
            notes.push(format!(
                "{name}: the driver does not tell the processes' own memory apart; their use is the device's use over the baseline"
            ));
        }
        if let Some(f) = &self.failure {
            notes.push(format!("{name}: not everything could be read ({f})"));
        }
        let foreign_before: u64 = self.before.processes.iter().flatten().filter_map(|p| p.used).sum();
        if self.foreign.is_some_and(|n| n > foreign_before + (64 << 20)) {
            notes.push(format!("{name}: another process took device memory meanwhile"));
        }
        DeviceSummary {
            uuid: facts.map_or_else(String::new, |f| f.uuid.clone()),
            name: name.to_owned(),
            total: facts.map_or(0, |f| f.total_bytes),
            baseline: self.before.used,
            peak,
            source,
            processes_peak: self.ours,
            over_baseline_peak: self.over,
            used_peak: self.used,
            foreign_peak: self.foreign,
            utilization: (self.utilization.1 > 0).then(|| self.utilization.0 / f64::from(self.utilization.1)),
            samples: self.samples,
        }
    }
}
