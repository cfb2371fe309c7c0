//! Memory of a whole process tree: a limit that the kernel enforces, and figures to read while it runs.
//!
//! A trial's processes live in a memory cgroup of their own, whether or not a limit is set, because it is the only
//! place that counts workers and shared memory once each.  Where no cgroup may be made, the limit becomes
//! `RLIMIT_DATA`, which holds for each process alone and does not see shared memory: it is announced as weak.

mod delegated;
mod group;
mod machine;
mod mounts;

pub use group::{Group, GroupError};
pub use machine::machine_limit;

use crate::model::observation::Cap;

/// What is counted in a cgroup: page cache is left out, the kernel takes it back when memory is short.
const GROUP_METRIC: &str = "anonymous + shared memory";

/// The cap that a cgroup enforces.
pub(crate) fn group_cap(group: &Group, bytes: Option<u64>) -> Cap {
    match bytes {
        Some(_) => Cap {
            bytes,
            margin_bytes: 0,
            mechanism: group.version().to_owned(),
            scope: "process tree".to_owned(),
            metric: GROUP_METRIC.to_owned(),
        },
        None => no_cap(GROUP_METRIC, "process tree"),
    }
}

/// The cap that `RLIMIT_DATA` enforces.
pub(crate) fn rlimit_cap(bytes: Option<u64>) -> Cap {
    match bytes {
        Some(_) => Cap {
            bytes,
            margin_bytes: 0,
            mechanism: "RLIMIT_DATA (weak)".to_owned(),
            scope: "process".to_owned(),
            metric: "data segment".to_owned(),
        },
        None => no_cap("resident anonymous + shared memory", "process tree"),
    }
}

fn no_cap(metric: &str, scope: &str) -> Cap {
    let (mechanism, scope, metric) = ("none".to_owned(), scope.to_owned(), metric.to_owned());
    Cap { bytes: None, margin_bytes: 0, mechanism, scope, metric }
}

/// What a limit of a process tree would be enforced by here, found by making a cgroup and removing it again.
///
/// # Errors
/// Says why there is none: the limit then holds for each process alone.
pub fn mechanism() -> Result<String, String> {
    // Any limit will do: nothing ever enters.
    let group = Group::create(Some(1 << 30)).map_err(|error| error.to_string())?;
    let name = group.version().to_owned();
    group.remove();
    Ok(name)
}
