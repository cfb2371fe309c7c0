use super::*;
use crate::model::event::{Event, KnobReport, Phase};
use crate::model::{Knob, VERSION};

/// Records as the agent writes them, step by step.
#[derive(Default)]
struct Launch {
    records: Vec<Record>,
    run: u32,
    index: u64,
}

impl Launch {
    /// Steps before the first window.
    fn warm() -> Self {
        let mut launch = Self::default();
        for i in 0..6 {
            launch.step(0.1, 8, i < 4, None);
        }
        launch
    }

    fn step(&mut self, seconds: f64, samples: u64, warmup: bool, run: Option<u32>) {
        let step = Step { index: self.index, seconds, samples, warmup, run, ..Step::default() };
        self.index += 1;
        self.records.push(Record::Step(step));
    }

    fn open(&mut self, window: Option<u32>, why_not: Option<&str>) {
        let (run, knobs) = (self.run, Vec::new());
        self.run += 1;
        let why_not = why_not.map(str::to_owned);
        self.records.push(Record::Window(WindowOpened { run, window, knobs, why_not }));
    }

    /// A window with one step of warm-up and these.
    fn window(&mut self, window: Option<u32>, samples: u64, seconds: &[f64]) -> &mut Self {
        self.open(window, None);
        self.step(9.0, samples, true, Some(self.run - 1));
        for s in seconds {
            self.step(*s, samples, false, Some(self.run - 1));
        }
        self
    }

    fn memory(&mut self, peak: u64) -> &mut Self {
        self.records.push(Record::WindowMemory { run: self.run - 1, peak, allocated: None });
        self
    }

    fn oom(&mut self) -> &mut Self {
        let (device, message) =
            ("cpu".to_owned(), "DefaultCPUAllocator: can't allocate\nand more".to_owned());
        self.records.push(Record::Oom {
            device,
            phase: Phase::Train,
            message,
            step: self.index,
            fatal: false,
        });
        self
    }

    fn ended(&mut self, reason: EndReason) -> Records {
        self.records.push(Record::End { reason, error: None });
        self.broken_off()
    }

    fn broken_off(&self) -> Records {
        let event = |r: &Record| Event { v: VERSION, at: 0.0, pid: 1, record: r.clone() };
        let mut records = Records::default();
        records.extend(0, self.records.iter().map(event));
        records
    }
}

fn asked() -> Vec<Configuration> {
    vec![
        Configuration::baseline().with(Knob::Amp, "bf16"),
        Configuration::baseline().with(Knob::BatchSize, 4),
    ]
}

fn seen(records: &Records) -> Vec<Window> {
    windows(&asked(), records, None)
}

#[test]
fn a_ratio_is_to_the_windows_beside_it_whatever_the_machine_does() {
    // The machine becomes slower by 10 % from window to window.
    let (mut launch, mut slow) = (Launch::warm(), 1.0);
    let mut turn = |launch: &mut Launch, window, samples, seconds: f64| {
        let s = seconds * slow;
        slow *= 1.1;
        launch.window(window, samples, &[s, 0.99 * s, 1.01 * s]);
    };
    for round in 0..4 {
        turn(&mut launch, None, 8, 0.1);
        turn(&mut launch, Some(0), 8, 0.05);
        turn(&mut launch, None, 8, 0.1);
        turn(&mut launch, Some(1), 4, 0.08 + f64::from(round) * 0.001);
    }
    turn(&mut launch, None, 8, 0.1);
    let found = seen(&launch.ended(EndReason::Measured));
    let ratio = found[0].ratio.unwrap();
    assert!((ratio.ratio - 2.0).abs() < 1e-9, "{ratio:?}");
    // As sure as rounds are alike, those of the other window among them.
    assert!(ratio.interval.0 > 1.96 && ratio.interval.1 < 2.04 && ratio.interval.1 > 2.0, "{ratio:?}");
    // Half the samples in four fifths of the time.
    let ratio = found[1].ratio.unwrap();
    assert!((0.60..0.63).contains(&ratio.ratio), "{ratio:?}");
    assert!(ratio.interval.0 < ratio.ratio && ratio.ratio < ratio.interval.1);
    assert_eq!((found[1].steps, found[1].samples_per_step), (12, 4.0));
}

#[test]
fn fewer_rounds_are_as_sure_as_their_steps_are_alike() {
    let of = |spread: f64| {
        let mut launch = Launch::warm();
        let around = |s: f64| [s, s * (1.0 + spread), s * (1.0 - spread)];
        launch.window(None, 8, &around(0.1)).window(Some(0), 8, &around(0.1)).window(None, 8, &around(0.1));
        seen(&launch.ended(EndReason::Measured))[0].ratio.unwrap().interval
    };
    let (narrow, wide) = (of(0.01), of(0.1));
    assert!(narrow.0 > 0.96 && narrow.1 < 1.04 && narrow.1 > 1.0, "{narrow:?}");
    assert!(wide.0 < 0.85 && wide.1 > 1.15, "{wide:?}");
}

#[test]
fn what_was_not_measured_says_why() {
    let mut launch = Launch::warm();
    launch.window(None, 8, &[0.1; 3]);
    launch.open(Some(0), Some("amp=bf16 was not applied: parameters of Net are in bfloat16 already"));
    let found = seen(&launch.ended(EndReason::Measured));
    assert_eq!(found[0].why_not.as_deref().unwrap().split(':').next(), Some("amp=bf16 was not applied"));
    assert_eq!(found[1].why_not.as_deref(), Some("there was no time for it"));
    assert!(found.iter().all(|w| w.ratio.is_none() && w.steps == 0 && !w.too_large));
}

#[test]
fn a_knob_that_was_tried_in_vain_is_told_from_one_that_could_not_be_tried() {
    let of = |knobs: Vec<KnobReport>| {
        let mut launch = Launch::warm();
        launch.window(None, 8, &[0.1; 3]);
        let why_not = Some("why".to_owned());
        launch.records.push(Record::Window(WindowOpened { run: 9, window: Some(0), knobs, why_not }));
        !seen(&launch.ended(EndReason::Measured))[0].not_applied.is_empty()
    };
    let report = |effective| KnobReport {
        knob: Knob::OmpThreads,
        requested: 2.into(),
        effective,
        how: String::new(),
        objects: 0,
        reason: None,
    };
    assert!(of(vec![report(None)]));
    assert!(!of(vec![report(Some(2.into()))]) && !of(Vec::new()));
}

#[test]
fn the_launch_is_judged_by_its_own_steps() {
    let mut launch = Launch::warm();
    launch.window(None, 8, &[0.1; 3]).memory(500).window(Some(0), 8, &[0.7; 3]).memory(300).oom();
    let records = launch.window(None, 8, &[0.1; 3]).ended(EndReason::Measured);
    let own = of_settings(&records);
    // The steps before the first window as they are, later ones without their warm-up.
    let steps = &own.steps()[&0];
    assert_eq!(steps.iter().filter(|s| s.warmup).count(), 4);
    assert!(steps.iter().all(|s| s.seconds == 0.1 || s.run == Some(0)), "{steps:?}");
    assert_eq!((own.ooms().len(), records.ooms().len()), (0, 1));
    assert_eq!(peak_of_settings(&records), Some((500, None)));
    let found = seen(&records);
    assert!(found[0].too_large && found[0].ratio.is_none());
    assert_eq!(found[0].why_not.as_deref(), Some("memory ran out: DefaultCPUAllocator: can't allocate"));
}

#[test]
fn a_launch_that_dies_in_a_window_keeps_what_was_measured_before() {
    let mut launch = Launch::warm();
    launch.window(None, 8, &[0.1; 3]).window(Some(0), 8, &[0.05; 3]).memory(300).window(None, 8, &[0.1; 3]);
    launch.window(Some(1), 4, &[]);
    let records = launch.broken_off();
    assert_eq!(under_way(&records), Some(1));
    let death = |verdict| Death { window: 1, verdict, why: "the kernel killed a process".into() };
    let found = windows(&asked(), &records, Some(&death(Verdict::Oom)));
    assert!((found[0].ratio.unwrap().ratio - 2.0).abs() < 1e-9);
    assert_eq!((found[0].peak, found[0].why_not.as_deref()), (Some(300), None));
    assert_eq!(
        (found[1].too_large, found[1].why_not.as_deref()),
        (true, Some("the kernel killed a process"))
    );
    assert!(!windows(&asked(), &records, Some(&death(Verdict::Failed)))[1].too_large);
}

#[test]
fn a_launch_that_dies_elsewhere_does_not_blame_a_window() {
    let mut launch = Launch::warm();
    launch.window(None, 8, &[0.1; 3]).window(Some(0), 8, &[0.05; 3]).window(None, 8, &[0.1; 2]);
    assert_eq!(under_way(&launch.broken_off()), None, "back in its own settings");
    let records = launch.ended(EndReason::ScriptEnd);
    assert_eq!(under_way(&records), None);
    let found = seen(&records);
    assert!(found[0].ratio.is_some());
    assert_eq!(found[1].why_not.as_deref(), Some("the launch ended before its turn came"));
}
