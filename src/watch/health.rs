//! What NVML tells about a device beside its memory: what `autofit doctor` judges.

use nvml_wrapper::Device;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{ComputeMode, EccCounter, MemoryError};
use serde::{Deserialize, Serialize};

use super::nvml::Gpus;

/// No GPU has more NVLinks than this (Hopper and Blackwell: 18).
const MOST_LINKS: u32 = 18;

/// The state of one GPU; what the driver does not tell is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GpuHealth {
    /// Compute capability, `(9, 0)`.
    pub capability: Option<(u32, u32)>,
    /// The driver stays loaded while nobody uses it.
    pub persistence: Option<bool>,
    /// Errors in memory are corrected.
    pub ecc: Option<bool>,
    /// Errors since the driver was loaded that could not be corrected.
    pub uncorrected_errors: Option<u64>,
    /// Pages wait to be taken out of use at the next start of the driver.
    pub pages_pending: Option<bool>,
    /// Who may use it.
    pub mode: Option<Mode>,
    /// MIG is switched on.
    pub mig_mode: Option<bool>,
    /// Lanes and generation of its PCI Express link: now, and at most.
    pub pcie: Option<Pcie>,
    /// NVLinks that are up, of those that it has.
    pub nvlinks: Option<(u32, u32)>,
    /// `0000:65:00.0`, as sysfs spells it.
    pub bus: Option<String>,
    /// Clocks are held down: by `heat`, by `power brake`.
    pub slowed: Vec<String>,
    /// Processes that draw (a desktop) hold memory, too.
    pub drawing: Vec<u32>,
}

/// Who may use a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Anybody.
    Shared,
    /// One process at a time.
    Exclusive,
    /// Nobody.
    Prohibited,
}

/// A PCI Express link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pcie {
    /// Lanes in use.
    pub width: u32,
    /// Lanes that GPU and slot could use.
    pub max_width: u32,
    /// Generation that GPU and slot could use; the present one falls while nothing is transferred.
    pub max_generation: u32,
}

impl Gpus {
    /// Asks about device `at` (an index into [`Gpus::devices`]); of a part of a divided GPU the GPU is described.
    pub fn health(&self, at: usize) -> GpuHealth {
        let Some(device) = self.whole(at) else { return GpuHealth::default() };
        GpuHealth {
            capability: device
                .cuda_compute_capability()
                .ok()
                .and_then(|c| Some((u32::try_from(c.major).ok()?, u32::try_from(c.minor).ok()?))),
            persistence: device.is_in_persistent_mode().ok(),
            ecc: device.is_ecc_enabled().ok().map(|e| e.currently_enabled),
            uncorrected_errors: device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile).ok(),
            pages_pending: device.are_pages_pending_retired().ok(),
            mode: device.compute_mode().ok().map(|m| match m {
                ComputeMode::Default => Mode::Shared,
                ComputeMode::ExclusiveThread | ComputeMode::ExclusiveProcess => Mode::Exclusive,
                ComputeMode::Prohibited => Mode::Prohibited,
            }),
            mig_mode: device.mig_mode().ok().map(|m| m.current == 1),
            pcie: pcie(&device),
            nvlinks: nvlinks(&device),
            bus: device.pci_info().ok().map(|p| sysfs_name(&p.bus_id)),
            slowed: device.current_throttle_reasons().map(slowed).unwrap_or_default(),
            drawing: device
                .running_graphics_processes()
                .map(|list| list.iter().map(|p| p.pid).collect())
                .unwrap_or_default(),
        }
    }
}

fn pcie(device: &Device<'_>) -> Option<Pcie> {
    Some(Pcie {
        width: device.current_pcie_link_width().ok()?,
        max_width: device.max_pcie_link_width().ok()?,
        max_generation: device.max_pcie_link_gen().ok()?,
    })
}

fn nvlinks(device: &Device<'_>) -> Option<(u32, u32)> {
    let states: Vec<bool> =
        (0..MOST_LINKS).map_while(|link| device.link_wrapper_for(link).is_active().ok()).collect();
    let active = states.iter().filter(|up| **up).count();
    (!states.is_empty()).then_some((active as u32, states.len() as u32))
}

/// NVML writes the domain with eight digits and in capitals.
fn sysfs_name(bus: &str) -> String {
    let bus = bus.to_ascii_lowercase();
    match bus.split_once(':') {
        Some((domain, rest)) if domain.len() > 4 => format!("{}:{rest}", &domain[domain.len() - 4..]),
        _ => bus,
    }
}

/// Reasons that are a fault of cooling or power; an idle GPU and a limit that was set on purpose are none.
fn slowed(reasons: ThrottleReasons) -> Vec<String> {
    let heat = ThrottleReasons::SW_THERMAL_SLOWDOWN | ThrottleReasons::HW_THERMAL_SLOWDOWN;
    let named = [(heat, "heat"), (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, "power brake")];
    named.iter().filter(|(bits, _)| reasons.intersects(*bits)).map(|(_, name)| (*name).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bus_is_named_as_sysfs_names_it() {
        assert_eq!(sysfs_name("00000000:65:00.0"), "0000:65:00.0");
        assert_eq!(sysfs_name("0001:AF:00.0"), "0001:af:00.0");
    }

    #[test]
    fn only_faults_of_cooling_and_power_are_named() {
        let idle = ThrottleReasons::GPU_IDLE | ThrottleReasons::SW_POWER_CAP;
        assert!(slowed(idle).is_empty());
        assert_eq!(slowed(idle | ThrottleReasons::HW_THERMAL_SLOWDOWN), ["heat"]);
    }
}
