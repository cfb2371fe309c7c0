//! The limit: what was asked for, or what there is, less what a margin keeps free.

use crate::exit::{self, Exit};
use crate::model::observation::Cap;
use crate::model::plan::Device;
use crate::model::size::Bytes;
use crate::recipe::Recipe;
use crate::watch::MachineFacts;

/// Under a smaller limit not even a Python without PyTorch starts (10 to 20 MiB): a slip, such as `8` for `8GiB`.
const LEAST: u64 = 16 << 20;

/// `limit` is what the processes of this machine may use, bytes; `visible` the GPUs that the script can see.
///
/// # Errors
/// [`Exit`] with status 2 for a limit in which nothing runs, 6 for one that the machine does not have.
pub(super) fn cap(
    recipe: &Recipe,
    device: Device,
    machine: &MachineFacts,
    limit: u64,
    visible: &[usize],
) -> Result<Cap, Exit> {
    let margin = recipe.limits.margin;
    let asked = recipe.memory_cap;
    if let Some(asked) = asked.filter(|asked| kept_free(*asked, margin) + LEAST > *asked) {
        let less =
            if margin > 0.0 { format!(" less a margin of {} %", margin * 100.0) } else { String::new() };
        let message = format!(
            "a memory limit of {}{less} is less than Python alone needs; was a unit meant, as in --memory-cap 8GiB?",
            Bytes(asked)
        );
        return Err(Exit::new(exit::USAGE, message));
    }
    let text = |s: &str| s.to_owned();
    match device {
        Device::Cpu => match asked {
            Some(asked) if asked > limit => {
                let (have, asked) = (Bytes(limit), Bytes(asked));
                Err(Exit::new(
                    exit::PLACE,
                    format!("--memory-cap {asked} is more than this machine may use ({have})"),
                ))
            }
            asked => Ok(less_margin(
                Cap {
                    bytes: Some(asked.unwrap_or(limit)),
                    margin_bytes: 0,
                    mechanism: text(if asked.is_some() { "cgroup" } else { "machine limit" }),
                    scope: text("process tree"),
                    metric: text("anonymous + shared memory"),
                },
                margin,
            )),
        },
        Device::Cuda => {
            let smallest = visible.iter().filter_map(|i| machine.gpus.get(*i)).map(|g| g.total_bytes).min();
            let (mechanism, scope, metric) = (text("device"), text("device"), text("device memory"));
            let whole = Cap { bytes: smallest, margin_bytes: 0, mechanism, scope, metric };
            Ok(less_margin(whole.lowered(asked), margin))
        }
    }
}

fn less_margin(cap: Cap, margin: f64) -> Cap {
    let margin_bytes = cap.bytes.map_or(0, |bytes| kept_free(bytes, margin));
    Cap { margin_bytes, ..cap.lowered(cap.bytes.map(|bytes| bytes - margin_bytes)) }
}

/// Bytes that a margin, a share from 0 to 0.9, keeps free of a limit.
fn kept_free(bytes: u64, margin: f64) -> u64 {
    (bytes as f64 * margin) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe;
    use crate::watch::machine::MachineGpu;

    const GIB: u64 = 1 << 30;

    fn of(device: Device, asked: Option<u64>, margin: f64) -> Result<Cap, Exit> {
        let mut recipe = recipe::default_for(device).unwrap();
        (recipe.memory_cap, recipe.limits.margin) = (asked, margin);
        let gpus = vec![MachineGpu { total_bytes: 80 * GIB, ..MachineGpu::default() }];
        cap(&recipe, device, &MachineFacts { gpus, ..MachineFacts::default() }, 64 * GIB, &[0])
    }

    #[test]
    fn a_margin_lowers_the_limit_and_is_told_apart_from_it() {
        for (device, have) in [(Device::Cpu, 64 * GIB), (Device::Cuda, 80 * GIB)] {
            for asked in [None, Some(8 * GIB)] {
                let allowed = asked.unwrap_or(have);
                let whole = of(device, asked, 0.0).unwrap();
                assert_eq!((whole.bytes, whole.margin_bytes), (Some(allowed), 0));
                let less = of(device, asked, 0.25).unwrap();
                assert_eq!((less.bytes, less.margin_bytes), (Some(allowed / 4 * 3), allowed / 4));
            }
        }
    }

    #[test]
    fn a_part_of_a_gpu_is_held_by_its_allocator() {
        let mechanism = |asked, margin| of(Device::Cuda, asked, margin).unwrap().mechanism;
        assert_eq!(mechanism(None, 0.0), "device");
        assert_eq!(mechanism(None, 0.05), "allocator fraction");
        assert_eq!(mechanism(Some(8 * GIB), 0.0), "allocator fraction");
    }

    #[test]
    fn a_limit_in_which_nothing_runs_is_a_slip() {
        let message = |asked, margin| of(Device::Cpu, Some(asked), margin).unwrap_err().message;
        assert!(message(8, 0.0).starts_with("a memory limit of 8 B is less than"));
        assert!(
            message(100 << 20, 0.9).starts_with("a memory limit of 100 MiB less a margin of 90 % is less")
        );
        assert_eq!(of(Device::Cpu, Some(65 * GIB), 0.5).unwrap_err().status, exit::PLACE);
    }
}
