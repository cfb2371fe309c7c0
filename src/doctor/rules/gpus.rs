//! Each GPU.

use std::collections::BTreeSet;

use crate::doctor::facts::{Facts, Gpu, Holder, Nvml};
use crate::doctor::{Area, Finding, Level};
use crate::model::size::Bytes;
use crate::watch::health::Mode;

/// Others may hold this much (a desktop, a monitor's context) before it is worth a word.
const NOTABLE: u64 = 512 << 20;
/// Holders that are named.
const NAMED: usize = 3;

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for gpu in &facts.nvidia.gpus {
        found.push(memory(gpu));
        // What follows is about a whole GPU: of a divided one it is said once.
        if seen.insert(gpu.facts.index) {
            found.extend(state(facts, gpu));
        }
    }
    found
}

fn title(gpu: &Gpu) -> String {
    match gpu.facts.mig {
        Some(mig) => format!("GPU {}, MIG {mig}, {}", gpu.facts.index, gpu.facts.name),
        None => format!("GPU {}, {}", gpu.facts.index, gpu.facts.name),
    }
}

fn warn(name: &'static str, what: String, why: &str) -> Finding {
    Finding::warn(Area::Gpu, name, what, why)
}

fn bad(name: &'static str, what: String, why: &str) -> Finding {
    Finding::bad(Area::Gpu, name, what, why)
}

/// Free memory, and who has the rest.
fn memory(gpu: &Gpu) -> Finding {
    let name = "gpu.memory";
    let total = Bytes(gpu.facts.total_bytes);
    let Some(free) = gpu.free else {
        let why = gpu.unread.as_deref().unwrap_or("the driver does not tell");
        let what = format!("{}: its memory cannot be read", title(gpu));
        return warn(name, what, &format!("{why}; only the allocator's own figures are left to measure by"));
    };
    let what = format!("{}: {} of {total} free", title(gpu), Bytes(free));
    let used = gpu.used.unwrap_or(0);
    if used <= NOTABLE {
        return Finding::ok(Area::Gpu, name, what);
    }
    let list = gpu.processes.as_deref();
    let untold = list.is_none_or(|l| l.is_empty() || l.iter().all(|h| h.used.is_none()));
    let who = match list {
        Some(list) if !list.is_empty() => list.iter().take(NAMED).map(holder).collect::<Vec<_>>().join("; "),
        _ => "the driver does not say by whom (another container, a desktop, or a process that just ended)"
            .to_owned(),
    };
    let note = if untold {
        "; per-process figures are absent, so a trial's use is the device's use over its start"
    } else {
        ""
    };
    let mut found =
        warn(name, what, &format!("{} in use: {who}. A trial has only what is left{note}", Bytes(used)));
    let known: Vec<String> =
        list.into_iter().flatten().filter(|h| h.program.is_some()).map(|h| h.pid.to_string()).collect();
    found = found.run("nvidia-smi");
    if !known.is_empty() {
        found = found.run(format!("kill {}   # if they are yours and are not needed", known.join(" ")));
    }
    found
}

fn holder(h: &Holder) -> String {
    let program = h.program.as_deref().unwrap_or("a process that cannot be seen from here");
    let user = h.user.as_deref().map_or_else(String::new, |u| format!(" of {u}"));
    let used = h.used.map_or_else(String::new, |n| format!(" holds {}", Bytes(n)));
    format!("{program} (pid {}{user}){used}", h.pid)
}

/// What is true of the whole GPU.
fn state(facts: &Facts, gpu: &Gpu) -> Vec<Finding> {
    let (health, index) = (&gpu.health, gpu.facts.index);
    let title = format!("GPU {index}");
    let mut found = Vec::new();
    if health.mig_mode == Some(true) && gpu.facts.mig.is_none() {
        let why = "CUDA can use the parts of a divided GPU only, and there are none";
        let what = format!("{title}: MIG is on and no MIG device was made");
        found.push(
            bad("gpu.mig", what, why)
                .run(format!("sudo nvidia-smi mig -i {index} -cgi 0 -C   # makes one of the whole GPU"))
                .run(format!("sudo nvidia-smi -i {index} -mig 0   # or switches MIG off")),
        );
    } else if gpu.facts.mig.is_some() {
        let parts = facts.nvidia.gpus.iter().filter(|g| g.facts.index == index).count();
        let what = format!("{title} is divided (MIG); one process uses one of its {parts} parts");
        found.push(Finding::ok(Area::Gpu, "gpu.mig", what));
    }
    found.extend(ecc(&title, gpu));
    match health.mode {
        Some(Mode::Prohibited) => found.push(
            bad("gpu.mode", format!("{title}: compute mode is Prohibited"), "no CUDA program may use it")
                .run(format!("sudo nvidia-smi -i {index} -c DEFAULT")),
        ),
        Some(Mode::Exclusive) => {
            let why = "a second process, such as a trial beside another program, is refused the GPU";
            let what = format!("{title}: one process at a time may use it");
            found.push(warn("gpu.mode", what, why).run(format!("sudo nvidia-smi -i {index} -c DEFAULT")));
        }
        Some(Mode::Shared) | None => {}
    }
    if health.persistence == Some(false) && !facts.system.wsl {
        let why = "the driver is loaded anew for each process that comes first, which takes a second or more";
        let what = format!("{title}: persistence mode is off");
        found.push(warn("gpu.persistence", what, why).run("sudo nvidia-smi -pm 1"));
    }
    if !health.slowed.is_empty() {
        let what = format!("{title}: its clocks are held down ({})", health.slowed.join(", "));
        let why = "steps take longer than they would, and times measured now do not hold later";
        found.push(warn("gpu.clocks", what, why).run("nvidia-smi -q -d PERFORMANCE,TEMPERATURE"));
    }
    found.extend(links(&title, gpu));
    found.extend(node(facts, &title, gpu));
    if found.iter().all(|f| f.verdict == Level::Ok) && facts.nvidia.nvml == Nvml::Loaded {
        found.push(Finding::ok(Area::Gpu, "gpu.state", format!("{title}: {}", in_words(gpu))));
    }
    found
}

fn ecc(title: &str, gpu: &Gpu) -> Option<Finding> {
    let index = gpu.facts.index;
    let errors = gpu.health.uncorrected_errors.unwrap_or(0);
    let reset = format!("sudo nvidia-smi --gpu-reset -i {index}   # while nobody uses it");
    if errors > 0 {
        let what = format!("{title}: {errors} memory errors that could not be corrected");
        let why = "results may be wrong, and programs that touch those pages are ended (Xid 48, 63, 94)";
        return Some(bad("gpu.ecc", what, why).run(format!("nvidia-smi -q -d ECC -i {index}")).run(reset));
    }
    if gpu.health.pages_pending == Some(true) {
        let what = format!("{title}: pages of its memory wait to be taken out of use");
        let why = "they had errors; they are used until the GPU is reset";
        return Some(warn("gpu.ecc", what, why).run(reset));
    }
    None
}

fn links(title: &str, gpu: &Gpu) -> Vec<Finding> {
    let mut found = Vec::new();
    // A generation falls while nothing is transferred; the width does not.
    if let Some(pcie) = gpu.health.pcie.filter(|p| p.width > 0 && p.width < p.max_width) {
        let what = format!("{title}: {} of {} PCI Express lanes are in use", pcie.width, pcie.max_width);
        let why = "batches and offloaded tensors travel that much slower; the card may sit in a narrow slot";
        found.push(warn("gpu.pcie", what, why).run("sudo lspci -vv -d 10de: | grep -E 'LnkCap|LnkSta'"));
    }
    if let Some((up, all)) = gpu.health.nvlinks.filter(|(up, all)| *up > 0 && up < all) {
        let what = format!("{title}: {up} of {all} NVLinks are up");
        let why = "exchange of gradients between GPUs is that much slower";
        found.push(warn("gpu.nvlink", what, why).run("nvidia-smi nvlink --status"));
    }
    found
}

fn node(facts: &Facts, title: &str, gpu: &Gpu) -> Option<Finding> {
    let (node, ours) = (gpu.node?, &facts.host.our_nodes);
    if facts.host.nodes < 2 || ours.is_empty() || ours.contains(&node) {
        return None;
    }
    let what = format!("{title} is attached to NUMA node {node}, and this process may not run there");
    let why = "every batch crosses the link between the sockets";
    Some(
        warn("gpu.numa", what, why)
            .run(format!("numactl --cpunodebind={node} --membind={node} python train.py")),
    )
}

fn in_words(gpu: &Gpu) -> String {
    let h = &gpu.health;
    let mut parts = Vec::new();
    parts.extend(h.capability.map(|(a, b)| format!("compute capability {a}.{b}")));
    parts.extend(h.ecc.map(|on| format!("ECC {}", if on { "on and no errors" } else { "off" })));
    parts.extend(h.pcie.map(|p| format!("PCI Express {}.0 x{}", p.max_generation, p.width)));
    parts.extend(h.nvlinks.filter(|(up, _)| *up > 0).map(|(up, _)| format!("{up} NVLinks")));
    parts.extend(gpu.node.map(|n| format!("NUMA node {n}")));
    if parts.is_empty() { "nothing more is told".to_owned() } else { parts.join(", ") }
}
