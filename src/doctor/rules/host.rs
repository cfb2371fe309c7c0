//! Memory, processors and limits of the host.

use crate::doctor::facts::{Facts, Host, Limit};
use crate::doctor::{Area, Finding};
use crate::model::size::Bytes;

/// Below this, a few workers with a few batches of images each fill it.
const SHM_WANTED: u64 = 1 << 30;
/// Each tensor that a worker hands over may hold a file open; the usual 1024 is reached by large nested batches.
const OPEN_FILES_WANTED: u64 = 4096;
/// Pinned buffers of network adapters; NCCL's alone are tens of MiB for each connection.
const LOCKED_WANTED: u64 = 1 << 30;
/// Of the memory that there is, this much should be free to be had.
const FREE_SHARE: u64 = 10;

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let host = &facts.host;
    let mut found = vec![memory(facts), swap(host), shm(facts), processors(host), open_files(facts)];
    found.extend(locked(host));
    found.extend(address_space(host));
    if host.strict_overcommit {
        let what = "the kernel promises no more memory than there is (vm.overcommit_memory=2)";
        let why = "CUDA and forked DataLoader workers ask for far more address space than they use, and are refused";
        found.push(
            Finding::warn(Area::Host, "host.overcommit", what, why).run("sudo sysctl vm.overcommit_memory=0"),
        );
    }
    found.extend(host.variables.iter().filter_map(variable));
    found
}

fn ok(name: &'static str, what: String) -> Finding {
    Finding::ok(Area::Host, name, what)
}

fn warn(name: &'static str, what: String, why: &str) -> Finding {
    Finding::warn(Area::Host, name, what, why)
}

fn memory(facts: &Facts) -> Finding {
    let host = &facts.host;
    let name = "host.memory";
    let may = host.limit.unwrap_or(host.ram);
    let of = match host.limit {
        Some(limit) => format!("{} (the cgroup's limit; the machine has {})", Bytes(limit), Bytes(host.ram)),
        None => Bytes(host.ram).to_string(),
    };
    let what = format!("memory: {} available of {of}", Bytes(host.available.min(may)));
    if host.ram > 0 && host.available < host.ram / FREE_SHARE {
        let why = "a trial that takes the rest makes the kernel end a process, not always the right one";
        return warn(name, what, why).run("ps aux --sort=-rss | head");
    }
    ok(name, what)
}

fn swap(host: &Host) -> Finding {
    let name = "host.swap";
    if host.swap == 0 {
        return ok(name, "no swap: a process that needs more memory than there is is ended at once".into());
    }
    let what = format!("swap: {} of {} in use", Bytes(host.swap_used), Bytes(host.swap));
    if host.swap_used > host.swap / 4 && host.available < host.ram / FREE_SHARE {
        let why = "the machine is moving memory to disk: nothing that is measured now is worth anything";
        return warn(name, what, why).run("ps aux --sort=-rss | head");
    }
    ok(name, what)
}

fn shm(facts: &Facts) -> Finding {
    let name = "host.shm";
    let larger = |found: Finding| match facts.system.container.as_deref() {
        Some("kubernetes") => {
            found.write("volumes: [{ name: shm, emptyDir: { medium: Memory } }]   # mounted at /dev/shm")
        }
        Some(_) => found.run("docker run --shm-size=8g ...   # or --ipc=host"),
        None => found.run("sudo mount -o remount,size=8G /dev/shm"),
    };
    let Some(size) = facts.host.shm.filter(|n| *n > 0) else {
        let why = "DataLoader workers hand their batches over through it; with num_workers > 0 they fail";
        return larger(Finding::bad(Area::Host, name, "there is no /dev/shm", why));
    };
    let used = facts.host.shm_used;
    let what = format!("/dev/shm: {} of {} free", Bytes(size.saturating_sub(used)), Bytes(size));
    if size < SHM_WANTED {
        let why = "DataLoader workers hand their batches over through it, and end with \"bus error\" where it is full";
        return larger(warn(name, what, why));
    }
    if used > size / 10 * 9 {
        let why = "files that ended programs left there take memory until they are deleted";
        return warn(name, what, why).run("ls -lS /dev/shm | head");
    }
    ok(name, what)
}

fn processors(host: &Host) -> Finding {
    let name = "host.cpu";
    let nodes = if host.nodes > 1 { format!(", {} NUMA nodes", host.nodes) } else { String::new() };
    let cores = if host.cores == 1 { "1 core".to_owned() } else { format!("{} cores", host.cores) };
    let what = format!("processor: {cores}{nodes}, {}", host.cpu);
    let own = host.variables.iter().any(|(name, _)| name == "OMP_NUM_THREADS");
    match host.cpu_quota.filter(|q| *q + 0.5 < f64::from(host.cores)) {
        Some(quota) if !own => {
            let threads = (quota.round() as u32).max(1);
            let what = format!("{what}; this container may use {quota:.1} of them");
            let why = "PyTorch starts a thread for each core that it sees, and the kernel stops them all when the quota is used up";
            warn(name, what, why)
                .run(format!("export OMP_NUM_THREADS={threads}"))
                .run("docker run --cpuset-cpus=0-3 ...   # whole cores instead of a quota")
        }
        Some(quota) => ok(name, format!("{what}; this container may use {quota:.1} of them")),
        None => ok(name, what),
    }
}

fn open_files(facts: &Facts) -> Finding {
    let Limit { soft, hard } = facts.host.open_files;
    let name = "host.open_files";
    let Some(limit) = soft else { return ok(name, "open files: unlimited".into()) };
    let what = format!("open files: {limit} at most");
    if limit >= OPEN_FILES_WANTED {
        return ok(name, what);
    }
    let wanted = hard.unwrap_or(65536).min(65536);
    let why = "each tensor that a DataLoader worker hands over can hold one: \"Too many open files\"";
    let found = warn(name, what, why);
    let found = if wanted > limit { found.run(format!("ulimit -n {wanted}")) } else { found };
    if wanted >= OPEN_FILES_WANTED {
        return found;
    }
    match facts.system.container {
        Some(_) => found.run("docker run --ulimit nofile=65536:65536 ..."),
        None => found.run(
            "echo '* - nofile 65536' | sudo tee /etc/security/limits.d/nofile.conf   # then log in again",
        ),
    }
}

/// CUDA pins memory through its driver; it is network adapters that this limit is about.
fn locked(host: &Host) -> Option<Finding> {
    let limit = host.locked.soft.filter(|n| *n < LOCKED_WANTED)?;
    if host.rdma == 0 {
        return Some(ok(
            "host.locked",
            format!("locked memory: {} at most (enough without InfiniBand)", Bytes(limit)),
        ));
    }
    let what = format!("locked memory: {} at most, and there is an InfiniBand adapter", Bytes(limit));
    let why = "NCCL cannot register its buffers with the adapter, and falls back to TCP or fails";
    Some(warn("host.locked", what, why).run("ulimit -l unlimited").run("docker run --ulimit memlock=-1 ..."))
}

fn address_space(host: &Host) -> Option<Finding> {
    let limit = host.address_space.soft?;
    let what = format!("address space: {} at most (ulimit -v)", Bytes(limit));
    let why = "CUDA and PyTorch reserve far more addresses than they use memory, and fail for that";
    Some(warn("host.address_space", what, why).run("ulimit -v unlimited"))
}

/// Variables that are set for a search for a fault and then forgotten.
fn variable((name, value): &(String, String)) -> Option<Finding> {
    let why = match (name.as_str(), value.as_str()) {
        (_, "0") => return None,
        ("CUDA_LAUNCH_BLOCKING", _) => "every kernel is waited for: training takes far longer",
        ("PYTORCH_NO_CUDA_MEMORY_CACHING", _) => {
            "every tensor is asked of the driver: training takes many times as long, and no allocator figure is true"
        }
        _ => return None,
    };
    let found = warn("host.variables", format!("{name}={value}"), why);
    Some(found.run(format!("unset {name}")))
}
