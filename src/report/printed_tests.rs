//! What commands print whose text has no file of its own: `try`, `report A B`, `profile` on a GPU.

use std::collections::BTreeMap;

use super::fixtures::{self, assembled};
use super::page::{Comparison, Page};
use super::profile::{ProfileText, render};
use super::result::Compared;
use super::style::Style;
use super::table::summary;
use crate::model::blocks::{BlockRow, Pieces};
use crate::model::plan::Device;
use crate::model::profile::{AtPeak, HostParts, Operator, Profile};
use crate::model::{Configuration, Purpose};

const MIB: u64 = 1 << 20;

#[test]
fn try_with_pairs_of_launches() {
    let mut input = fixtures::baseline_wins();
    input.observations.truncate(2);
    input.winner = Some(2);
    input.compared = Some(Compared {
        settings: input.observations[1].settings.clone(),
        against: Configuration::baseline(),
        pairs: 5,
        ratio: 1.063,
        interval: (1.012, 1.117),
    });
    insta::assert_snapshot!(summary(&assembled(&input), Style { width: 100, color: false }), @r#"
    autofit: num_workers=2 is the fastest of what was tried and fits
    command: python train.py --lr 1e-3

     #  what changed   verdict     peak  headroom  samples/s  relative
     1  baseline       fit      700 MiB   836 MiB    512 ± 4     1.00x
    *2  num_workers=2  fit      901 MiB   635 MiB    488 ± 9     0.95x
    * the best so far, not confirmed; relative: to the baseline; ±: 95 % interval within a launch

    best so far: num_workers=2
      not confirmed in a fresh process: a candidate, not a claim
      loss within 0 %, gradient norm within 0 % of the baseline's over 4 steps
    compared: num_workers=2 runs at 1.06x of the script as it is (95 % interval 1.01x to 1.12x, 5 pairs
              of launches in turns)
    cap: 1.50 GiB by cgroup v1 (process tree, anonymous + shared memory)
    isolation: overlay: the working directory, HOME, /tmp; not covered: the network
    cost: 2 launches, 28 s
    files: autofit.env, .autofit/3f9a2c/result.json

    next:
      autofit run -- python train.py --lr 1e-3
    "#);
}

#[test]
fn report_of_two_searches() {
    let input = fixtures::baseline_wins();
    let mut other = input.clone();
    other.cap.bytes = Some(3 << 30);
    other.machine.packages.insert("torch".into(), "2.12.0".into());
    other.observations[1] = fixtures::fit(2, Purpose::Climb, "num_workers=2", 901, 976.0, 9.0);
    let (a, b) = (assembled(&input), assembled(&other));
    let c = Comparison::of(Page::of(&a, &input.observations), Page::of(&b, &other.observations));
    insta::assert_snapshot!(c.markdown(), @r#"
    # autofit: A and B are alike within their spread (1.00x)

    |  | A | B |
    | --- | --- | --- |
    | search | 3f9a2c | 3f9a2c |
    | result | nothing that was tried is faster than the script as it is | nothing that was tried is faster than the script as it is |
    | winner | as the script is | as the script is |
    | confirmed | yes | yes |
    | throughput | 511 ± 5 samples/s | 511 ± 5 samples/s |
    | script as it is | 512 ± 4 samples/s | 512 ± 4 samples/s |
    | relative | 1.00x | 1.00x |
    | peak memory | 702 MiB | 702 MiB |
    | headroom | 834 MiB | 834 MiB |
    | cap | 1.50 GiB | 3.00 GiB |
    | trains alike | - | - |
    | launches | 3 | 3 |
    | time | 28 s | 28 s |

    ## Measured in both

    | settings | A | B | B over A | intervals |
    | --- | ---: | ---: | ---: | --- |
    | as the script is | 512 ± 4 samples/s | 512 ± 4 samples/s | 1.00x | overlap |
    | num_workers=2 | 488 ± 9 samples/s | 976 ± 9 samples/s | 2.00x | apart |

    ## What else is different

    |  | A | B |
    | --- | --- | --- |
    | cap | 1.50 GiB by cgroup v1 (process tree, anonymous + shared memory) | 3.00 GiB by cgroup v1 (process tree, anonymous + shared memory) |
    | torch | - | 2.12.0 |
    "#);
}

#[test]
fn a_profile_on_a_gpu() {
    let categories: BTreeMap<String, u64> = [("parameters", 500), ("activations", 2900), ("other", 12)]
        .map(|(name, mib)| (name.to_owned(), mib * MIB))
        .into();
    let block = BlockRow {
        category: "activations".into(),
        bytes: 1536 * MIB,
        count: 12,
        place: Some("model.py:84".into()),
        what: None,
        shape: Some(vec![64, 256, 2048]),
        dtype: Some("bfloat16".into()),
    };
    let profile = Profile {
        step: 12,
        seconds: 0.0831,
        device: Device::Cuda,
        by_time: vec![Operator { operator: "aten::mm".into(), calls: 96, value: 0.031, share: 0.61 }],
        by_memory: vec![],
        memory: Some(AtPeak {
            seconds: 0.12,
            peak: 3412 * MIB,
            counted: 3420 * MIB,
            at_start: 1500 * MIB,
            categories,
            blocks: vec![block],
            pieces: Some(Pieces {
                reserved: 4096 * MIB,
                allocated: 1500 * MIB,
                free_segments: 2048 * MIB,
                free_parts: 548 * MIB,
                largest_free: 1024 * MIB,
            }),
        }),
        host: HostParts {
            anonymous_and_shared: 2048 * MIB,
            rest: 2048 * MIB,
            mapped_files: 900 * MIB,
            rss_peak: 3072 * MIB,
        },
        notes: vec!["compiled code hides which lines asked for memory".into()],
    };
    let files = vec![("autofit-profile/memory_snapshot.pickle".to_owned(), "for pytorch.org/memory_viz")];
    let text = ProfileText { settings: &Configuration::baseline(), profile: &profile, files };
    insta::assert_snapshot!(render(&text, Style::PLAIN), @r#"
    baseline: step 12, 83.1 ms under the profiler (slower than without)

    GPU memory in tensors, at its peak
      activations               2.83 GiB   85 %
      parameters                 500 MiB   15 %
      other                     12.0 MiB    0 %
      together                  3.33 GiB
      by the allocator's count  3.34 GiB  99.4 % of it explained
      when the step began       1.46 GiB

    the largest of it, by the line that made it
      1.50 GiB  12x  activations  model.py:84  bfloat16 64x256x2048
      the allocator holds 4.00 GiB: 1.46 GiB in tensors, 2.00 GiB in free segments, 548 MiB free between
      blocks in use; the largest free piece is 1.00 GiB

    the process on the host
      anonymous and shared      2.00 GiB
        of it no tensors        2.00 GiB
      mapped files               900 MiB
      highest resident set      3.00 GiB

    operators by their own time
      aten::mm                                                96x   31.0 ms  61 %
    note: compiled code hides which lines asked for memory

    autofit-profile/memory_snapshot.pickle: for pytorch.org/memory_viz
    "#);
}
