use std::sync::{Arc, Mutex};

use super::*;
use crate::model::plan::Device;
use crate::report::fixtures;

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Sink {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn plain(verbosity: Verbosity) -> (Reporter, Sink) {
    let sink = Sink::default();
    let mode = Mode { verbosity, live: false, style: Style::PLAIN };
    (Reporter::with_output(mode, Box::new(sink.clone())), sink)
}

fn started() -> Progress {
    Progress::Started {
        id: "3f9a2c".into(),
        command: vec!["python".into(), "train.py".into(), "--hub-token".into(), "abc".into()],
        device: Device::Cpu,
        cap: fixtures::cap(),
        budget: Some(300.0),
        resumed: 0,
    }
}

fn tick(trial: u32, elapsed: f64, steps: u64) -> Progress {
    Progress::Tick {
        trial,
        elapsed,
        steps,
        steps_per_second: (steps > 0).then_some(5.2),
        memory: Some(1045 << 20),
        limit: Some(1536 << 20),
        budget_left: Some(250.0),
    }
}

/// A search of these trials, each living for `seconds`, two ticks a second.
fn play(reporter: &mut Reporter, observations: &[Observation], seconds: u32) {
    reporter.handle(&started());
    for o in observations {
        reporter.handle(&Progress::TrialStarted {
            trial: o.trial,
            of: Some(12),
            settings: o.settings.clone(),
            purpose: o.purpose,
            budget_left: Some(290.0),
        });
        for half in 1..=seconds * 2 {
            reporter.handle(&tick(o.trial, f64::from(half) / 2.0, u64::from(half / 10)));
        }
        reporter.handle(&Progress::TrialEnded(Box::new(o.clone())));
    }
}

#[test]
fn plain_lines() {
    let (mut reporter, sink) = plain(Verbosity::Normal);
    let mut trials = fixtures::baseline_ooms().observations;
    trials.push(fixtures::failed(7, Purpose::Climb, "num_workers=2"));
    play(&mut reporter, &trials, 8);
    reporter.handle(&Progress::Note("Ctrl-C: stopping after this trial".into()));
    insta::assert_snapshot!(sink.text(), @r#"
    tuning python train.py --hub-token '***'
    cap 1.50 GiB by cgroup v1 (process tree, anonymous + shared memory), budget 5 min 00 s
    trial 1/12 baseline: started, budget left 4 min 50 s
    trial 1/12 baseline: oom in train, peak 1.49 GiB
        the host refused an allocation of 256 MiB (DefaultCPUAllocator)
    trial 2/12 accumulation=2: started, budget left 4 min 50 s
    trial 2/12 accumulation=2: oom in train, peak 1.49 GiB
        the host refused an allocation of 256 MiB (DefaultCPUAllocator)
    trial 3/12 accumulation=4, checkpoint=alternate: started, budget left 4 min 50 s
    trial 3/12 accumulation=4, checkpoint=alternate: fit, peak 980 MiB, headroom 556 MiB, 302 ± 2 samples/s
    trial 4/12 accumulation=2, amp=bf16: started, budget left 4 min 50 s
    trial 4/12 accumulation=2, amp=bf16: fit, peak 1.21 GiB, headroom 296 MiB, 412 ± 4 samples/s, 1.37x trial 3
    trial 5/12 for advice: batch_size=32, amp=bf16: started, budget left 4 min 50 s
    trial 5/12 for advice: batch_size=32, amp=bf16: fit, peak 1.07 GiB, headroom 436 MiB, 455 ± 4 samples/s, 1.51x trial 3
    trial 6/12 confirm: accumulation=2, amp=bf16: started, budget left 4 min 50 s
    trial 6/12 confirm: accumulation=2, amp=bf16: fit, peak 1.21 GiB, headroom 293 MiB, 409 ± 3 samples/s, 1.35x trial 3
    trial 7/12 num_workers=2: started, budget left 4 min 50 s
    trial 7/12 num_workers=2: failed
        the script ended with exit status 1 before its first step
        | Traceback (most recent call last):
        |   File "train.py", line 12, in <module>
        | FileNotFoundError: [Errno 2] No such file or directory: 'data/train.bin'
    note: Ctrl-C: stopping after this trial
    "#);
}

#[test]
fn two_trials_at_a_time_have_lines_of_their_own() {
    let (mut reporter, sink) = plain(Verbosity::Normal);
    let begins = |trial, settings| Progress::TrialStarted {
        trial,
        of: None,
        settings: fixtures::settings(settings),
        purpose: Purpose::Climb,
        budget_left: None,
    };
    let stands = |trial, elapsed, text: &str| Progress::Job { trial, elapsed, text: text.to_owned() };
    reporter.handle(&begins(2, "amp=bf16"));
    reporter.handle(&begins(3, "accumulation=2"));
    reporter.handle(&stands(3, 5.0, "job 13 waits (Resources)"));
    reporter.handle(&stands(2, 31.0, "job 12 runs on n1"));
    assert_eq!(reporter.message(), "trial 2 job 12 runs on n1; trial 3 job 13 waits (Resources)");
    let fits = fixtures::fit(2, Purpose::Climb, "amp=bf16", 700, 512.0, 4.0);
    reporter.handle(&Progress::TrialEnded(Box::new(fits)));
    reporter.handle(&stands(3, 40.0, "job 13 runs on n2"));
    insta::assert_snapshot!(sink.text(), @r#"
    trial 2 amp=bf16: started
    trial 3 accumulation=2: started
    trial 2 amp=bf16: 31 s, job 12 runs on n1
    trial 2 amp=bf16: fit, peak 700 MiB, headroom 836 MiB, 512 ± 4 samples/s
    trial 3 accumulation=2: 40 s, job 13 runs on n2
    "#);
}

#[test]
fn a_baseline_that_fits_is_what_the_others_are_relative_to() {
    let (mut reporter, sink) = plain(Verbosity::Normal);
    play(&mut reporter, &fixtures::baseline_wins().observations, 1);
    insta::assert_snapshot!(sink.text(), @r#"
    tuning python train.py --hub-token '***'
    cap 1.50 GiB by cgroup v1 (process tree, anonymous + shared memory), budget 5 min 00 s
    trial 1/12 baseline: started, budget left 4 min 50 s
    trial 1/12 baseline: fit, peak 700 MiB, headroom 836 MiB, 512 ± 4 samples/s
    trial 2/12 num_workers=2: started, budget left 4 min 50 s
    trial 2/12 num_workers=2: fit, peak 901 MiB, headroom 635 MiB, 488 ± 9 samples/s, 0.95x baseline
    trial 3/12 confirm: baseline: started, budget left 4 min 50 s
    trial 3/12 confirm: baseline: fit, peak 702 MiB, headroom 834 MiB, 511 ± 5 samples/s, 1.00x baseline
    "#);
}

#[test]
fn a_long_trial_leaves_few_lines_in_a_log() {
    let (mut reporter, sink) = plain(Verbosity::Normal);
    play(&mut reporter, &[fixtures::fit(1, Purpose::Baseline, "", 700, 512.0, 4.0)], 3600);
    let text = sink.text();
    // Two of the start, one of the trial's start, one of its end, and signs of life at 30 s, 60 s, ... 1920 s.
    assert_eq!(text.lines().count(), 2 + 2 + 7, "{text}");
}

#[test]
fn quiet_shows_only_what_must_not_be_missed() {
    let (mut reporter, sink) = plain(Verbosity::Quiet);
    play(&mut reporter, &fixtures::baseline_wins().observations, 40);
    assert_eq!(sink.text(), "");
    reporter.handle(&Progress::Note("no isolation".into()));
    assert_eq!(sink.text(), "note: no isolation\n");
}

#[test]
fn verbose_adds_how_each_figure_came_about() {
    let (mut reporter, sink) = plain(Verbosity::Verbose);
    play(&mut reporter, &[fixtures::fit(1, Purpose::Baseline, "", 700, 512.0, 4.0)], 1);
    let text = sink.text();
    assert!(text.contains("40 steady steps, first step after 4.2 s"), "{text}");
    assert!(text.contains("took 9.5 s"), "{text}");
}

#[test]
fn a_resumed_search_compares_with_trials_of_its_earlier_part() {
    let (mut reporter, sink) = plain(Verbosity::Normal);
    reporter.recall(&[fixtures::fit(1, Purpose::Baseline, "", 700, 512.0, 4.0)]);
    reporter.handle(&Progress::TrialEnded(Box::new(fixtures::fit(
        2,
        Purpose::Climb,
        "num_workers=2",
        700,
        1024.0,
        4.0,
    ))));
    assert!(sink.text().contains("2.00x baseline"), "{}", sink.text());
}

#[test]
fn the_live_line_says_what_a_trial_does() {
    assert_eq!(
        living(&tick(1, 12.0, 31)),
        "31 steps, 5.20 steps/s, memory 1.02 GiB of 1.50 GiB, budget left 4 min 10 s"
    );
    assert!(living(&tick(1, 1.0, 0)).starts_with("setting up, memory 1.02 GiB of 1.50 GiB, budget left"));
}

#[test]
fn where_the_line_is_short_the_figures_stay() {
    let mode = Mode { verbosity: Verbosity::Normal, live: false, style: Style { width: 80, color: false } };
    let reporter = Reporter::with_output(mode, Box::new(Sink::default()));
    let current = Current {
        trial: 12,
        of: Some(20),
        settings: fixtures::settings("accumulation=4,checkpoint=alternate,num_workers=4"),
        purpose: Purpose::Confirm,
        next_sign: 0.0,
        text: String::new(),
    };
    let text = living(&tick(12, 12.0, 31));
    let line = reporter.fitted(&current, &text);
    assert!(line.ends_with(&text), "{line}");
    assert!(line.chars().count() < 80, "{line}");
}
