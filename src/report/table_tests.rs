use super::*;
use crate::report::fixtures::{self, assembled};

const NARROW: Style = Style { width: 80, color: false };
const WIDE: Style = Style { width: 100, color: false };

#[test]
fn the_baseline_runs_out_of_memory_and_a_rung_wins() {
    insta::assert_snapshot!(summary(&assembled(&fixtures::baseline_ooms()), WIDE), @r#"
    autofit: accumulation=2, amp=bf16 is the fastest of what was tried and fits
    command: python train.py --lr 1e-3

     #  what changed                          verdict           peak  headroom  samples/s  relative
     1  baseline                              oom in train  1.49 GiB         -          -         -
     2  accumulation=2                        oom in train  1.49 GiB         -          -         -
     3  accumulation=4, checkpoint=alternate  fit            980 MiB   556 MiB    302 ± 2     1.00x
     4  accumulation=2, amp=bf16              fit           1.21 GiB   296 MiB    412 ± 4     1.37x
     5  for advice: batch_size=32, amp=bf16   fit           1.07 GiB   436 MiB    455 ± 4     1.51x
    *6  confirm: accumulation=2, amp=bf16     fit           1.21 GiB   293 MiB    409 ± 3     1.35x
    * the winner; relative: to trial 3, the first that fits; ±: 95 % interval within a launch

    winner: accumulation=2, amp=bf16
      confirmed in a fresh process: peak 1.21 GiB, headroom 293 MiB, 409 ± 3 samples/s, 1.35x trial 3
      train seen, eval seen, save not seen, largest batch: of 120 looked at
      losses not compared: the script as it is runs out of memory before there is one to compare
    filled: when trial 1 ran out, tensors on cpu held 1.07 GiB: activations 980 MiB (89 %), optimizer
            state 80.0 MiB (7 %), parameters 40.0 MiB (4 %)
    filled: the largest: 12 x 64.0 MiB float32 8192x2048 (activations, GeluBackward0); 12 x 16.0 MiB
            float32 8192x512 (activations, AddmmBackward0); 8 x 4.00 MiB float32 2048x512 (optimizer
            state, exp_avg)
    cap: 1.50 GiB by cgroup v1 (process tree, anonymous + shared memory)
    isolation: overlay: the working directory, HOME, /tmp; not covered: the network
    advice: an effective batch of 32 gives 455 ± 4 samples/s at a peak of 1.07 GiB; it is another
            training run (option: --batch lower)
    skipped: pin_memory: pinned memory is for CUDA; training is on the CPU
    cost: 6 launches, 57 s
    files: autofit.env, .autofit/3f9a2c/result.json

    next:
      autofit run -- python train.py --lr 1e-3
      autofit --memory-cap 1.5GiB --batch lower -- python train.py --lr 1e-3
    "#);
}

#[test]
fn the_baseline_wins() {
    insta::assert_snapshot!(summary(&assembled(&fixtures::baseline_wins()), NARROW), @r#"
    autofit: nothing that was tried is faster than the script as it is
    command: python train.py --lr 1e-3

     #  what changed       verdict     peak  headroom  samples/s  relative
     1  baseline           fit      700 MiB   836 MiB    512 ± 4     1.00x
     2  num_workers=2      fit      901 MiB   635 MiB    488 ± 9     0.95x
    *3  confirm: baseline  fit      702 MiB   834 MiB    511 ± 5     1.00x
    * the winner; relative: to the baseline; ±: 95 % interval within a launch

    winner: as the script is
      confirmed in a fresh process: peak 702 MiB, headroom 834 MiB, 511 ± 5
      samples/s, 1.00x baseline
      train seen, eval not seen, save not seen, largest batch: not looked for
    cap: 1.50 GiB by cgroup v1 (process tree, anonymous + shared memory)
    isolation: overlay: the working directory, HOME, /tmp; not covered: the network
    cost: 3 launches, 28 s
    files: autofit.env, .autofit/3f9a2c/result.json

    next:
      autofit run -- python train.py --lr 1e-3
    "#);
}

#[test]
fn nothing_fits() {
    insta::assert_snapshot!(summary(&assembled(&fixtures::nothing_fits()), NARROW), @r#"
    autofit: nothing that was tried fits within the bounds
    command: python train.py --lr 1e-3

    #  what changed           verdict           peak  headroom   samples/s  relative
    1  baseline               oom in train  1.49 GiB         -           -         -
    2  accumulation=64,       oom in train  1.49 GiB         -           -         -
       checkpoint=all
    3  for advice:            fit           1.37 GiB   136 MiB  77.0 ± 0.8         -
       batch_size=8

    short: baseline; accumulation=64, checkpoint=all: more than 1.50 GiB needed;
           memory ran out in train after 1 step
    filled: when trial 1 ran out, tensors on cpu held 1.07 GiB: activations 980 MiB
            (89 %), optimizer state 80.0 MiB (7 %), parameters 40.0 MiB (4 %)
    filled: the largest: 12 x 64.0 MiB float32 8192x2048 (activations,
            GeluBackward0); 12 x 16.0 MiB float32 8192x512 (activations,
            AddmmBackward0); 8 x 4.00 MiB float32 2048x512 (optimizer state,
            exp_avg)
    cap: 1.50 GiB by cgroup v1 (process tree, anonymous + shared memory)
    isolation: overlay: the working directory, HOME, /tmp; not covered: the network
    advice: batch_size=8 fits (peak 1.37 GiB, 77.0 ± 0.8 samples/s); it is another
            training run (option: --batch lower)
    cost: 3 launches, 28 s
    files: .autofit/3f9a2c/result.json

    next:
      autofit --memory-cap 1.5GiB --batch lower -- python train.py --lr 1e-3
    "#);
}

#[test]
fn the_script_fails() {
    insta::assert_snapshot!(summary(&assembled(&fixtures::script_fails()), NARROW), @r#"
    autofit: the script fails for a reason that is not memory
    command: python train.py --lr 1e-3

    #  what changed  verdict  peak  headroom  samples/s  relative
    1  baseline      failed      -         -          -         -

    the script's last words:
      | Traceback (most recent call last):
      |   File "train.py", line 12, in <module>
      | FileNotFoundError: [Errno 2] No such file or directory: 'data/train.bin'
    cause: FileNotFoundError: [Errno 2] No such file or directory: 'data/train.bin'
    try: put data/train.bin where the script looks for it
    cap: 1.50 GiB by cgroup v1 (process tree, anonymous + shared memory)
    isolation: overlay: the working directory, HOME, /tmp; not covered: the network
    cost: 1 launch, 9.5 s
    files: .autofit/3f9a2c/result.json

    next:
      python train.py --lr 1e-3
    "#);
}

#[test]
fn interrupted() {
    insta::assert_snapshot!(summary(&assembled(&fixtures::interrupted()), NARROW), @r#"
    autofit: stopped; the best so far is: accumulation=4
    command: python train.py --lr 1e-3

     #  what changed    verdict           peak  headroom  samples/s  relative
     1  baseline        oom in train  1.49 GiB         -          -         -
    *2  accumulation=4  fit            980 MiB   556 MiB    302 ± 2     1.00x
     3  amp=bf16        interrupted          -         -          -         -
    * the best so far, not confirmed; relative: to trial 2, the first that fits; ±:
    95 % interval within a launch

    best so far: accumulation=4
      not confirmed in a fresh process: a candidate, not a claim
      losses not compared: the script as it is runs out of memory before there is
      one to compare
    filled: when trial 1 ran out, tensors on cpu held 1.07 GiB: activations 980 MiB
            (89 %), optimizer state 80.0 MiB (7 %), parameters 40.0 MiB (4 %)
    filled: the largest: 12 x 64.0 MiB float32 8192x2048 (activations,
            GeluBackward0); 12 x 16.0 MiB float32 8192x512 (activations,
            AddmmBackward0); 8 x 4.00 MiB float32 2048x512 (optimizer state,
            exp_avg)
    cap: 1.50 GiB by cgroup v1 (process tree, anonymous + shared memory)
    isolation: overlay: the working directory, HOME, /tmp; not covered: the network
    cost: 3 launches, 28 s
    files: autofit.env, .autofit/3f9a2c/result.json

    next:
      autofit run -- python train.py --lr 1e-3
      autofit --memory-cap 1.5GiB -- python train.py --lr 1e-3
    "#);
}

#[test]
fn lines_fit_the_width_and_commands_are_never_broken() {
    for (name, input) in fixtures::all() {
        for style in [NARROW, WIDE] {
            let text = summary(&assembled(&input), style);
            for line in text.lines().take_while(|l| *l != "next:") {
                assert!(line.chars().count() <= style.width || line.starts_with("  | "), "{name}: {line}");
            }
        }
    }
}

#[test]
fn colour_changes_nothing_but_colour() {
    let r = assembled(&fixtures::baseline_ooms());
    let colored = summary(&r, Style { color: true, ..WIDE });
    assert!(colored.contains("\x1b[32m"));
    assert_eq!(console::strip_ansi_codes(&colored), summary(&r, WIDE));
}

#[test]
fn within_is_never_rounded_down() {
    assert_eq!(percent(0.000_204_9), "0.021 %");
    assert_eq!(percent(0.0), "0 %");
    assert_eq!(percent(1e-12), "0.0001 %");
    assert_eq!(percent(0.5), "50 %");
}

#[test]
fn a_comparison_names_both_sides_and_how_sure_it_is() {
    let mut input = fixtures::baseline_ooms();
    input.compared = Some(Compared {
        settings: input.observations[2].settings.clone(),
        against: Configuration::baseline(),
        pairs: 5,
        ratio: 1.063,
        interval: (1.012, 1.117),
    });
    let text = summary(&assembled(&input), WIDE);
    let line: Vec<&str> =
        text.lines().skip_while(|l| !l.starts_with("compared: ")).take(2).map(str::trim).collect();
    assert_eq!(
        line.join(" "),
        "compared: accumulation=4, checkpoint=alternate runs at 1.06x of the script as it is (95 % interval 1.01x to \
         1.12x, 5 pairs of launches in turns)"
    );
}

#[test]
fn a_sweep_is_a_table_of_its_own() {
    let text = summary(&assembled(&fixtures::swept()), WIDE);
    let table: Vec<&str> =
        text.lines().skip_while(|l| !l.starts_with("in one launch")).take_while(|l| !l.is_empty()).collect();
    insta::assert_snapshot!(table.join("\n"), @r"
    in one launch (trial 2), in turns with amp=bf16:
      what differs    speed   95 % interval     peak  steps
      checkpoint=all  0.87x  0.85x to 0.89x  402 MiB     12
      no amp          1.22x  1.20x to 1.24x  840 MiB     12
      tf32=true           -               -        -      -
        not measured: tf32=true was not applied: it is a switch of NVIDIA's libraries
      accumulation=1      -               -        -      -
        too large: the kernel killed a process at the memory limit
    speed: samples/s over those beside it; a launch of its own decides
    ");
}
