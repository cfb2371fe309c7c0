//! Rungs of the ladder as advice: each begins with the setting, as `autofit try --set` takes it, and says why it helps.

use crate::model::{Configuration, Knob};

pub(super) const SEGMENTS: &str =
    "allocator=expandable_segments:True: reserved memory that is in pieces becomes usable; costs nothing";
pub(super) const GIVE_BACK: &str = "empty_cache=true: what training left in the cache is given back before evaluation and saving, which ask for other sizes";
pub(super) const ACCUMULATE: &str = "accumulation=2, then 4: micro-batches at the same effective batch; activations shrink with it, training does not change";
pub(super) const AMP: &str = "amp=bf16, or fp16 on devices without it: activations take half the memory and often less time; \
                              losses are compared with the baseline's";
pub(super) const CHECKPOINT: &str = "checkpoint=selective, then alternate, then all: activations are computed again in the backward pass; \
                                     up to a third more computing";
pub(super) const UPDATE: &str =
    "optimizer=fused: the update works in place; foreach makes copies as large as the parameters";
pub(super) const OFFLOAD: &str =
    "offload=optimizer, then activations: they wait in the host's memory; slow, so it comes last";
pub(super) const WORKSPACE: &str =
    "cudnn_benchmark=false: the search for the fastest convolution takes large workspaces";
pub(super) const NO_GRAPHS: &str = "compile=default: CUDA graphs (reduce-overhead) keep memory pools of their own, which nothing else may use";
pub(super) const FEWER_WORKERS: &str = "num_workers=2, then 0: each worker is a process of its own with its batches; with 0 an error of the data set is shown as it is";
pub(super) const FEWER_AHEAD: &str = "prefetch_factor=1: a worker keeps one batch ready instead of two";
pub(super) const WORKERS_END: &str =
    "persistent_workers=false: workers end with their epoch, and what they gathered with them";
pub(super) const NOT_PINNED: &str =
    "pin_memory=false: page-locked batches can neither be swapped nor reclaimed";
pub(super) const TRIM: &str = "malloc=trim: freed memory goes back to the system at once";
pub(super) const ACCUMULATE_HERE: &str = "accumulation=2, then 4: where training runs on the processor its activations are host memory, and shrink with the micro-batch";
pub(super) const CHECKPOINT_HERE: &str = "checkpoint=selective, then alternate, then all: on the processor likewise; activations are computed again";

/// The setting that a line of advice begins with; `None` for advice that is no rung.
pub fn rung(line: &str) -> Option<Configuration> {
    let (name, rest) = line.split_once('=')?;
    let knob: Knob = name.parse().ok()?;
    // A value may hold colons; the setting ends at the first one with a blank behind it, or at a comma.
    let end = [rest.find(": "), rest.find(", ")].into_iter().flatten().min()?;
    let value = knob.parse_value(&rest[..end]).ok()?;
    Some(Configuration::baseline().with(knob, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rung_is_a_setting_that_can_be_typed() {
        for line in [
            SEGMENTS,
            GIVE_BACK,
            ACCUMULATE,
            AMP,
            CHECKPOINT,
            UPDATE,
            OFFLOAD,
            WORKSPACE,
            NO_GRAPHS,
            FEWER_WORKERS,
            FEWER_AHEAD,
            WORKERS_END,
            NOT_PINNED,
            TRIM,
            ACCUMULATE_HERE,
            CHECKPOINT_HERE,
        ] {
            assert!(rung(line).is_some(), "{line}");
        }
        assert_eq!(
            rung(SEGMENTS).map(|c| c.to_string()).as_deref(),
            Some("allocator=expandable_segments:True")
        );
        assert_eq!(rung("end other processes on the device"), None);
        assert_eq!(rung("a higher limit: `ulimit -n 65536` (systemd: LimitNOFILE=65536)"), None);
    }
}
