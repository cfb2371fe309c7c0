//! Driver and GPUs.

use std::path::Path;

use super::super::facts::{Gpu, Holder, Nvidia, Nvml, Version};
use super::text;
use crate::watch::nvml::{self, GpuProcess};
use crate::watch::{Gpus, NvmlUnavailable};

/// NVIDIA's number as a maker of PCI devices.
const VENDOR: &str = "0x10de";
/// Display and 3D controllers, as the class of a PCI device begins.
const CLASSES: [&str; 2] = ["0x0300", "0x0302"];

/// Asks NVML and the kernel.
pub fn read() -> Nvidia {
    let mut facts = Nvidia {
        on_bus: on_bus(),
        module: Path::new("/proc/driver/nvidia/version").exists(),
        visible: nvml::visibility().0,
        ..Nvidia::default()
    };
    let gpus = match Gpus::open() {
        Ok(gpus) => gpus,
        Err(e) => {
            facts.nvml = kind(&e);
            facts.said = Some(e.to_string());
            return facts;
        }
    };
    facts.nvml = Nvml::Loaded;
    facts.driver = gpus.driver();
    facts.cuda = gpus.cuda().as_deref().and_then(Version::parse);
    facts.lost = gpus.lost().to_vec();
    facts.gpus = (0..gpus.devices().len()).map(|at| gpu(&gpus, at)).collect();
    facts
}

fn kind(error: &NvmlUnavailable) -> Nvml {
    match error {
        NvmlUnavailable::NoLibrary(_) => Nvml::NoLibrary,
        NvmlUnavailable::NoDriver => Nvml::NoDriver,
        NvmlUnavailable::NoPermission => Nvml::NoPermission,
        NvmlUnavailable::VersionMismatch => Nvml::VersionMismatch,
        NvmlUnavailable::MissingSymbol(_) => Nvml::TooOld,
        NvmlUnavailable::Other(_) => Nvml::Failed,
    }
}

fn gpu(gpus: &Gpus, at: usize) -> Gpu {
    let reading = gpus.read(at);
    let health = gpus.health(at);
    let node = health.bus.as_deref().and_then(node_of);
    let mut processes: Option<Vec<Holder>> =
        reading.processes.map(|list| list.into_iter().map(holder).collect());
    if let Some(list) = &mut processes {
        list.sort_by_key(|h| std::cmp::Reverse(h.used));
    }
    Gpu {
        facts: gpus.devices()[at].clone(),
        used: reading.used,
        free: reading.free,
        processes,
        unread: reading.failure,
        health,
        node,
    }
}

fn holder(process: GpuProcess) -> Holder {
    let name = text(&format!("/proc/{}/comm", process.pid));
    let program = Some(name.trim().to_owned()).filter(|n| !n.is_empty());
    let user = program.as_ref().and_then(|_| owner(process.pid));
    Holder { pid: process.pid, used: process.used, program, user }
}

fn owner(pid: u32) -> Option<String> {
    use std::os::unix::fs::MetadataExt as _;
    let uid = std::fs::metadata(format!("/proc/{pid}")).ok()?.uid();
    let user = nix::unistd::User::from_uid(uid.into()).ok().flatten();
    Some(user.map_or_else(|| uid.to_string(), |u| u.name))
}

/// GPUs that the bus shows, whether or not there is a driver for them.
fn on_bus() -> u32 {
    let devices = std::fs::read_dir("/sys/bus/pci/devices").into_iter().flatten().flatten();
    let read = |dir: &Path, name: &str| std::fs::read_to_string(dir.join(name)).unwrap_or_default();
    let is_ours = |dir: &Path| {
        read(dir, "vendor").trim() == VENDOR && CLASSES.iter().any(|c| read(dir, "class").starts_with(c))
    };
    devices.filter(|d| is_ours(&d.path())).count() as u32
}

/// -1 where the machine has but one node.
fn node_of(bus: &str) -> Option<u32> {
    text(&format!("/sys/bus/pci/devices/{bus}/numa_node")).trim().parse().ok()
}
