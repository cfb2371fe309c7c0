//! What the report says, and that it is whole.

use sha2::{Digest as _, Sha256};

use super::charts::front;
use super::model::TimeUse;
use super::{Comparison, Page};
use crate::model::{Observation, Purpose, Verdict};
use crate::report::fixtures::{self, assembled};

#[test]
fn the_front_is_what_nothing_beats_in_memory_and_rate_at_once() {
    let all = [
        (1, 700, 300.0),
        (2, 900, 250.0),
        (3, 900, 410.0),
        (4, 1200, 410.0),
        (5, 1300, 500.0),
        (6, 600, f64::NAN),
    ];
    assert_eq!(front(&all), [1, 3, 5]);
    assert_eq!(front(&[]), Vec::<u32>::new());
}

#[test]
fn what_did_not_fit_stands_at_what_it_needs_and_advice_is_no_choice() {
    let input = fixtures::baseline_ooms();
    let result = assembled(&input);
    let page = Page::of(&result, &input.observations);
    let dot = |n: u32| page.dots.iter().find(|d| d.trial == n).unwrap();
    assert_eq!(
        (dot(1).rate, dot(1).bytes),
        (None, 1536 << 20),
        "more than the cap, whatever the last sample was"
    );
    assert_eq!(dot(1).text, "oom, at least 1.50 GiB");
    assert_eq!(dot(6).text, "409 ± 3 samples/s, peak 1.21 GiB");
    assert!(dot(6).winner && !dot(4).winner, "the winner's figures are those of its confirm trial");
    assert!(dot(5).advice && !dot(5).front, "it is faster with less memory, but beyond the bound");
    assert!(dot(3).front && dot(4).front && !dot(6).front);
    assert_eq!(page.dots.len(), 6);
}

#[test]
fn rates_of_launches_that_compare_losses_or_count_otherwise_are_no_dots() {
    let mut input = fixtures::baseline_wins();
    input.observations.push(fixtures::fit(4, Purpose::Parity, "", 300, 900.0, 1.0));
    let mut steps = fixtures::fit(5, Purpose::Climb, "amp=bf16", 300, 2.0, 0.1);
    steps.timing.as_mut().unwrap().unit = "steps/s".into();
    input.observations.push(steps);
    let result = assembled(&input);
    let dots = Page::of(&result, &input.observations).dots;
    assert!(dots.iter().all(|d| d.trial != 4));
    assert_eq!(dots.iter().find(|d| d.trial == 5).unwrap().rate, None);
}

#[test]
fn where_nothing_was_measured_there_is_no_chart_of_rates() {
    let input = fixtures::script_fails();
    let result = assembled(&input);
    let page = Page::of(&result, &input.observations);
    assert!(page.dots.is_empty() && page.traces.is_empty() && page.losses.is_none());
    let html = page.html();
    for absent in ["id=\"scatter\"", "Memory over time", "Does it train alike?", "card-size"] {
        assert!(!html.contains(absent), "{absent}");
    }
    assert!(html.contains("last words") && html.contains("File &quot;train.py&quot;, line 12"), "{html}");
}

#[test]
fn memory_over_time_is_the_journals() {
    let input = fixtures::baseline_ooms();
    let result = assembled(&input);
    let mut observations = input.observations.clone();
    // A journal of an earlier version has none.
    observations[2].memory = None;
    let page = Page::of(&result, &observations);
    assert_eq!(page.traces.iter().map(|t| t.trial).collect::<Vec<_>>(), [1, 2, 4, 5, 6]);
    assert_eq!(page.traces[0].verdict, "oom in train");
    assert_eq!(page.traces[2].memory.host.iter().max(), Some(&(1240 << 20)));
    assert_eq!((page.traces[0].first_step, page.traces[2].first_step), (None, Some(4.2)));
}

#[test]
fn a_cap_far_above_everything_does_not_press_the_charts_flat() {
    let mut input = fixtures::baseline_wins();
    let sees = |input: &crate::report::assemble::SummaryInput| {
        let result = assembled(input);
        Page::of(&result, &input.observations).cap_in_sight()
    };
    // 901 MiB were used.
    assert!(sees(&input));
    input.cap.bytes = Some(2300 << 20);
    assert!(!sees(&input));
    input.cap.bytes = None;
    assert!(!sees(&input));
}

#[test]
fn every_second_of_a_launch_is_somewhere() {
    let mut input = fixtures::baseline_ooms();
    // Figures that contradict each other must not make a negative rest.
    input.observations[2].seconds = 3.0;
    let result = assembled(&input);
    let page = Page::of(&result, &input.observations);
    for (t, o) in page.times.iter().zip(&input.observations) {
        assert!((t.total() - o.seconds).abs() < 1e-9, "{t:?}");
        assert!(t.measured >= 0.0 && t.rest >= 0.0, "{t:?}");
    }
    let expected = TimeUse {
        trial: 4,
        what: "accumulation=2, amp=bf16".into(),
        start: Some(4.2),
        measured: 40.0 * 64.0 / 412.37,
        rest: 0.0,
    };
    let four = &page.times[3];
    assert_eq!((four.trial, &four.what, four.start), (expected.trial, &expected.what, expected.start));
    assert!((four.measured - 5.3).abs() < 1e-9, "no more than there was: {four:?}");
    assert_eq!(page.times[0].start, None);
}

#[test]
fn losses_are_those_that_were_compared() {
    let mut input = fixtures::baseline_wins();
    input.winner = Some(2);
    input.observations[1].losses = vec![2.302, 2.101, 1.951];
    let result = assembled(&input);
    let losses = Page::of(&result, &input.observations).losses.unwrap();
    assert_eq!((losses.trials, losses.reference.len()), ((1, 2), 3));
    assert_eq!(losses.winner, [2.302, 2.101, 1.951]);

    // The comparison without random draws is the one that was judged.
    let quiet = |n: u32, set: &str, first: f64| Observation {
        losses: vec![first, 1.0],
        parity: (!set.is_empty()).then(|| crate::model::parity::Compared {
            outcome: crate::model::parity::Outcome::Agrees,
            sentence: "loss within 0.1 %".into(),
            figures: vec![],
        }),
        ..fixtures::fit(n, Purpose::Parity, set, 300, 900.0, 1.0)
    };
    input.observations.extend([quiet(7, "", 5.0), quiet(8, "num_workers=2", 5.005)]);
    let result = assembled(&input);
    let losses = Page::of(&result, &input.observations).losses.unwrap();
    assert_eq!((losses.trials, losses.reference[0], losses.winner[0]), ((7, 8), 5.0, 5.005));
}

#[test]
fn the_headline_is_what_came_out() {
    let headline = |change: fn(&mut crate::report::assemble::SummaryInput)| {
        let mut input = fixtures::baseline_wins();
        change(&mut input);
        let result = assembled(&input);
        Page::of(&result, &input.observations).headline
    };
    assert_eq!(headline(|_| {}), "Nothing beat the script as it is");
    assert_eq!(
        headline(|i| {
            i.observations[1] = fixtures::fit(2, Purpose::Climb, "amp=bf16", 500, 768.0, 3.0);
            i.winner = Some(2);
        }),
        "1.50x the throughput of the script as it is"
    );
    let of = |input: crate::report::assemble::SummaryInput| {
        let result = assembled(&input);
        Page::of(&result, &input.observations).headline
    };
    assert_eq!(of(fixtures::baseline_ooms()), "Made to fit in 1.50 GiB");
    assert_eq!(of(fixtures::nothing_fits()), "Nothing fits in 1.50 GiB");
    assert_eq!(of(fixtures::interrupted()), "Stopped before its end");
    assert_eq!(of(fixtures::script_fails()), "The script fails, and not for want of memory");
}

#[test]
fn every_kind_of_search_makes_a_whole_page() {
    for (name, input) in fixtures::all() {
        let result = assembled(&input);
        let page = Page::of(&result, &input.observations);
        for html in [page.html(), Comparison::of(Page::of(&result, &input.observations), page).html()] {
            assert!(html.starts_with("<!DOCTYPE html>") && html.ends_with("</html>"), "{name}");
            // Three scripts (figures, library, ours), and nothing that is fetched.
            assert_eq!(html.matches("</script>").count(), 3, "{name}");
            let markup = html
                .replace("http://www.w3.org/2000/svg", "")
                .replace("https://github.com/leeoniya/uPlot", "");
            // What was taken out are the icon's name space and the library's own head, where nobody goes.
            for reach in ["http:", "https:", " src=", "url(", "@import"] {
                assert!(!markup.contains(reach), "{name}: {reach}");
            }
        }
    }
}

#[test]
fn two_launches_of_a_configuration_are_compared_by_their_last_quiet_one() {
    let input = fixtures::baseline_wins();
    let mut other = input.clone();
    other.cap.bytes = Some(3 << 30);
    other.machine.packages.insert("torch".into(), "2.12.0".into());
    other.observations[1] = fixtures::fit(2, Purpose::Climb, "num_workers=2", 901, 976.0, 9.0);
    let mut disturbed = fixtures::fit(4, Purpose::Repeat, "num_workers=2", 901, 5.0, 1.0);
    disturbed.verdict = Verdict::Disturbed;
    other.observations.push(disturbed);
    let (a, b) = (assembled(&input), assembled(&other));
    let c = Comparison::of(Page::of(&a, &input.observations), Page::of(&b, &other.observations));
    assert_eq!(c.headline, "A and B are alike within their spread (1.00x)");
    let common: Vec<_> =
        c.common.iter().map(|c| (c.settings.as_str(), c.ratio.as_str(), c.intervals)).collect();
    assert_eq!(common, [("as the script is", "1.00x", "overlap"), ("num_workers=2", "2.00x", "apart")]);
    let differences: Vec<&str> = c.differences.iter().map(|d| d[0].as_str()).collect();
    assert_eq!(differences, ["cap", "torch"]);

    other.command.push("--wide".into());
    let b = assembled(&other);
    let c = Comparison::of(Page::of(&a, &input.observations), Page::of(&b, &other.observations));
    assert_eq!(c.headline, "B runs at 1.00x of A, with another command");
    assert_eq!(c.differences[0][0], "command");
}

#[test]
fn the_chart_library_is_the_published_one() {
    let sum = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect::<String>();
    let files: [(&[u8], &str); 3] = [
        (
            include_bytes!("assets/uplot/uPlot.iife.min.js"),
            "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
        ),
        (
            include_bytes!("assets/uplot/uPlot.min.css"),
            "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
        ),
        (
            include_bytes!("assets/uplot/LICENSE"),
            "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
        ),
    ];
    for (bytes, expected) in files {
        assert_eq!(sum(bytes), expected);
    }
}

#[test]
fn the_text_for_pull_requests() {
    let input = fixtures::baseline_ooms();
    let result = assembled(&input);
    let text = Page::of(&result, &input.observations).markdown();
    let text = text.replace(&format!("autofit: {}", env!("CARGO_PKG_VERSION")), "autofit: VERSION");
    insta::assert_snapshot!(text, @r#"
    # autofit: Made to fit in 1.50 GiB

    `python train.py --lr 1e-3`

    accumulation=2, amp=bf16 is the fastest of what was tried and fits.

    | throughput | peak memory | headroom | cost |
    | --- | --- | --- | --- |
    | 409 ± 3 samples/s (the script as it is: oom in train) | 1.21 GiB (of 1.50 GiB allowed) | 293 MiB (in a fresh process) | 57 s (6 launches) |

    - **winner**: accumulation=2, amp=bf16
      - confirmed in a fresh process: peak 1.21 GiB, headroom 293 MiB, 409 ± 3 samples/s, 1.35x trial 3
      - train seen, eval seen, save not seen, largest batch: of 120 looked at
      - losses not compared: the script as it is runs out of memory before there is one to compare
    - **filled**: when trial 1 ran out, tensors on cpu held 1.07 GiB: activations 980 MiB (89 %), optimizer state 80.0 MiB (7 %), parameters 40.0 MiB (4 %)
    - **filled**: the largest: 12 x 64.0 MiB float32 8192x2048 (activations, GeluBackward0); 12 x 16.0 MiB float32 8192x512 (activations, AddmmBackward0); 8 x 4.00 MiB float32 2048x512 (optimizer state, exp_avg)
    - **advice**: an effective batch of 32 gives 455 ± 4 samples/s at a peak of 1.07 GiB; it is another training run (option: --batch lower)

    ## The ladder as it was climbed

    | # | what changed | verdict | peak | headroom | samples/s | relative |
    | ---: | --- | --- | ---: | ---: | ---: | ---: |
    | 1 | baseline | oom in train | 1.49 GiB | - | - | - |
    | 2 | accumulation=2 | oom in train | 1.49 GiB | - | - | - |
    | 3 | accumulation=4, checkpoint=alternate | fit | 980 MiB | 556 MiB | 302 ± 2 | 1.00x |
    | 4 | accumulation=2, amp=bf16 | fit | 1.21 GiB | 296 MiB | 412 ± 4 | 1.37x |
    | 5 | for advice: batch_size=32, amp=bf16 | fit | 1.07 GiB | 436 MiB | 455 ± 4 | 1.51x |
    | **6** | **confirm: accumulation=2, amp=bf16** | fit | 1.21 GiB | 293 MiB | 409 ± 3 | 1.35x |

    bold: the winner; relative: to trial 3, the first that fits; ±: 95 % interval within a launch

    ## What to type

    ```sh
    # train with it
    autofit run -- python train.py --lr 1e-3
    # search further, as advised
    autofit --memory-cap 1.5GiB --batch lower -- python train.py --lr 1e-3
    # measure it again, beside the script as it is
    autofit try --set 'accumulation=2,amp=bf16' --repeat 5 --memory-cap 1.5GiB -- python train.py --lr 1e-3
    # search again
    autofit --fresh --memory-cap 1.5GiB -- python train.py --lr 1e-3
    # write this report again
    autofit report .autofit/3f9a2c
    ```

    Time: 57 s in launches (17 s until the first step, 21 s of measured steps, 19 s of warm-up, other phases and ends).

    <details><summary>Environment, and what was not tried</summary>

    - autofit: VERSION
    - search: 3f9a2c
    - device: cpu
    - processor: 2 cores
    - cap: 1.50 GiB by cgroup v1 (process tree, anonymous + shared memory)
    - isolation: overlay: the working directory, HOME, /tmp; not covered: the network
    - system: Linux 6.1 x86_64
    - directory: /home/me/project
    - not tried: pin_memory: pinned memory is for CUDA; training is on the CPU

    </details>
    "#);
}
