//! The driver as a whole.

use crate::doctor::facts::{Facts, Nvml};
use crate::doctor::{Area, Finding};

const NAME: &str = "gpu.driver";

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![driver(facts)];
    found.extend(facts.nvidia.lost.iter().map(|index| lost(*index)));
    found.extend(hidden(facts));
    found
}

fn driver(facts: &Facts) -> Finding {
    let nvidia = &facts.nvidia;
    let bad = |what: &str, why: &str| Finding::bad(Area::Gpu, NAME, what, why);
    match nvidia.nvml {
        Nvml::Loaded if nvidia.gpus.is_empty() => no_device(facts),
        Nvml::Loaded => {
            let version = nvidia.driver.as_deref().unwrap_or("of an unknown version");
            let cuda = nvidia.cuda.map_or_else(String::new, |c| format!(", for CUDA up to {c}"));
            Finding::ok(Area::Gpu, NAME, format!("NVIDIA driver {version}{cuda}"))
        }
        Nvml::NoLibrary | Nvml::NoDriver => absent(facts),
        Nvml::NoPermission => bad(
            "the NVIDIA driver may not be used",
            "this user may not open /dev/nvidia*, so neither CUDA nor NVML works",
        )
        .run("ls -l /dev/nvidia*")
        .run("sudo usermod -aG video,render $USER   # then log in again"),
        Nvml::VersionMismatch => bad(
            "the NVIDIA libraries and the kernel module have different versions",
            "the driver was updated while the old module stayed loaded; CUDA does not start until both match",
        )
        .run("sudo reboot   # or unload the module: sudo rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia"),
        Nvml::TooOld => {
            let why = format!("{}; GPU memory is only seen from inside PyTorch", said(facts));
            update(facts, Finding::warn(Area::Gpu, NAME, "the NVIDIA driver is too old to be watched", why))
        }
        Nvml::Failed => bad("the NVIDIA driver does not answer", said(facts))
            .run("nvidia-smi")
            .run("sudo dmesg | grep -i nvrm"),
    }
}

fn said(facts: &Facts) -> &str {
    facts.nvidia.said.as_deref().unwrap_or("NVML failed")
}

fn update(facts: &Facts, found: Finding) -> Finding {
    if facts.system.apt {
        found.run("sudo apt-get update && sudo apt-get install nvidia-driver")
    } else {
        found.see("https://www.nvidia.com/drivers")
    }
}

/// No library or no module: whether that is a fault depends on whether there is a GPU at all.
fn absent(facts: &Facts) -> Finding {
    let nvidia = &facts.nvidia;
    if let (Some(container), true) = (&facts.system.container, nvidia.module || nvidia.on_bus > 0) {
        let why = "the host has a GPU, and this container was started without it";
        let found =
            Finding::bad(Area::Gpu, NAME, format!("no NVIDIA libraries in this {container} container"), why);
        return match container.as_str() {
            "kubernetes" => {
                found.write("resources: { limits: { nvidia.com/gpu: 1 } }   # in the container's spec")
            }
            "podman" => found.run("podman run --device nvidia.com/gpu=all ..."),
            _ => found.run("docker run --gpus all ...   # needs nvidia-container-toolkit on the host"),
        };
    }
    if nvidia.module {
        let what = "the NVIDIA kernel module is loaded, its libraries are missing";
        let why = "CUDA programs find no driver (libcuda.so.1, libnvidia-ml.so.1)";
        return update(facts, Finding::bad(Area::Gpu, NAME, what, why));
    }
    if nvidia.on_bus > 0 {
        let (there, it) =
            if nvidia.on_bus == 1 { ("an NVIDIA GPU is", "it") } else { ("NVIDIA GPUs are", "them") };
        let what = format!("{there} in the machine, and no driver for {it} is loaded");
        let why = "PyTorch computes on the processor until there is one";
        return update(facts, Finding::bad(Area::Gpu, NAME, what, why))
        .run("sudo modprobe nvidia   # where it is installed already; `mokutil --sb-state` tells of Secure Boot");
    }
    if facts.system.wsl {
        return Finding::ok(Area::Gpu, NAME, "no NVIDIA driver (under WSL it is installed in Windows)");
    }
    Finding::ok(Area::Gpu, NAME, "no NVIDIA GPU and no driver: autofit tunes for the processor")
}

fn no_device(facts: &Facts) -> Finding {
    let what = "the NVIDIA driver runs and lists no GPU";
    if facts.system.container.is_some() {
        return Finding::bad(Area::Gpu, NAME, what, "none was given to this container")
            .run("docker run --gpus all ...");
    }
    Finding::bad(Area::Gpu, NAME, what, "every GPU has fallen off the bus, or is bound to another driver")
        .run("sudo dmesg | grep -iE 'nvrm|xid'")
        .run("lspci -nnk -d 10de:")
}

fn lost(index: u32) -> Finding {
    let what = format!("GPU {index} does not answer");
    let why = "it has fallen off the bus, or lacks power; programs that touch it hang or fail (Xid 79)";
    Finding::bad(Area::Gpu, "gpu.lost", what, why).run("sudo dmesg | grep -iE 'nvrm|xid'").run("sudo reboot")
}

/// `CUDA_VISIBLE_DEVICES` that hides what is there.
fn hidden(facts: &Facts) -> Option<Finding> {
    let value = facts.nvidia.visible.as_deref()?;
    let all_hidden = value.trim().is_empty() || value.trim() == "-1";
    if facts.nvidia.gpus.is_empty() || !all_hidden {
        return None;
    }
    Some(
        Finding::warn(
            Area::Gpu,
            "gpu.visible",
            format!("CUDA_VISIBLE_DEVICES is `{value}`: every GPU is hidden"),
            "programs started from here compute on the processor",
        )
        .run("unset CUDA_VISIBLE_DEVICES"),
    )
}
