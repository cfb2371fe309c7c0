//! The journal against what happens to files: crashes, other searches, full and read-only places.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use autofit::exit::{self, Exit};
use autofit::journal::{Journal, JournalError, SearchKey};
use autofit::model::VERSION;
use autofit::model::configuration::Configuration;
use autofit::model::knob::Knob;
use autofit::model::observation::{
    Cap, Disturbance, Observation, Peaks, ProcessEnd, Purpose, TrialSpec, Verdict,
};
use autofit::model::plan::Device;
use autofit::model::trace::MemoryTrace;

fn key() -> SearchKey {
    SearchKey {
        argv: vec!["python".into(), "train.py".into(), "--hf-token".into(), "abc".into()],
        cwd: "/home/me".into(),
        recipe: None,
        files: BTreeMap::new(),
        packages: BTreeMap::new(),
        device: Device::Cpu,
        device_ids: vec![],
        cap_bytes: None,
        seed: Some(0),
        policy: BTreeMap::new(),
    }
}

fn observation(trial: u32) -> Observation {
    Observation {
        version: VERSION,
        trial,
        purpose: Purpose::Climb,
        settings: Configuration::baseline().with(Knob::Accumulation, i64::from(trial)),
        verdict: Verdict::Fit,
        why: "it ran within the cap".into(),
        end: ProcessEnd::Exited { code: 0 },
        failure: None,
        oom_phase: None,
        knobs: vec![],
        timing: None,
        peaks: Peaks { host: Some(u64::from(trial) << 20), ..Peaks::default() },
        memory: Some(MemoryTrace {
            at: vec![0.0, 0.25],
            host: vec![1 << 20, 2 << 20],
            ..MemoryTrace::default()
        }),
        filled: None,
        cap: Cap::default(),
        losses: vec![0.1 + 0.2, 1e-300],
        grad_norms: vec![],
        coverage: None,
        disturbance: Disturbance::default(),
        steps: 5,
        seconds: 1.25,
        tail: vec!["\u{1b}[31mline \"with\" everything\n\0".into()],
        inspection: None,
        ranks: Vec::new(),
        nodes: Vec::new(),
        windows: Vec::new(),
        taken_norms: vec![],
        after: None,
        parity: None,
        torch: false,
    }
}

fn spec(trial: u32) -> TrialSpec {
    TrialSpec::new(observation(trial).settings, Purpose::Climb)
}

fn open(dir: &Path) -> (Journal, Vec<Observation>) {
    Journal::open(dir, &key(), false).unwrap()
}

fn path(dir: &Path) -> PathBuf {
    dir.join(".autofit").join(key().id()).join("journal.jsonl")
}

/// A journal with two observations.
fn two(dir: &Path) {
    let (mut j, none) = open(dir);
    assert!(none.is_empty());
    for trial in [1, 2] {
        assert_eq!(j.next_trial(), trial);
        j.started(trial, &spec(trial)).unwrap();
        j.append(&observation(trial)).unwrap();
    }
}

#[test]
fn what_was_observed_comes_back_exactly() {
    let dir = tempfile::tempdir().unwrap();
    two(dir.path());
    let (j, back) = open(dir.path());
    assert_eq!(back, [observation(1), observation(2)]);
    assert_eq!((j.next_trial(), j.notes().len(), j.interrupted()), (3, 0, None));
    assert_eq!(fs::read_to_string(dir.path().join(".autofit/.gitignore")).unwrap(), "*\n");
    let meta = fs::read_to_string(j.dir().join("meta.json")).unwrap();
    assert!(meta.contains("train.py") && !meta.contains("abc"), "{meta}");
}

#[test]
fn a_loss_that_is_no_number_does_not_poison_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let (mut j, _) = open(dir.path());
    let diverged =
        Observation { losses: vec![2.5, f64::NAN, f64::INFINITY], seconds: f64::NAN, ..observation(1) };
    j.append(&diverged).unwrap();
    j.append(&observation(2)).unwrap();
    drop(j);
    let (_, back) = open(dir.path());
    assert!(back[0].losses[0] == 2.5 && back[0].losses[1].is_nan() && back[0].losses[2].is_nan());
    assert_eq!(back[1], observation(2));
}

#[test]
fn any_torn_end_is_cut_off_and_said() {
    let dir = tempfile::tempdir().unwrap();
    two(dir.path());
    let whole = fs::read(path(dir.path())).unwrap();
    let last = whole[..whole.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
    let mut ends: Vec<Vec<u8>> = (last + 1..whole.len()).step_by(97).map(|n| whole[..n].to_vec()).collect();
    ends.push(whole[..whole.len() - 1].to_vec()); // all but the newline
    ends.push([&whole[..last], &[0; 512]].concat()); // blocks that were never written
    for end in ends {
        fs::write(path(dir.path()), &end).unwrap();
        let (mut j, back) = open(dir.path());
        assert_eq!(back, [observation(1)], "torn after {} of {} bytes", end.len(), whole.len());
        assert!(j.notes()[0].contains("in the middle of a line"), "{:?}", j.notes());
        assert_eq!(j.interrupted().unwrap().trial, 2, "its observation is gone, so it counts as interrupted");
        assert_eq!(j.next_trial(), 3);
        j.append(&observation(3)).unwrap();
        drop(j);
        assert_eq!(open(dir.path()).1, [observation(1), observation(3)], "what follows the cut is whole");
        fs::write(path(dir.path()), &whole).unwrap();
    }
}

#[test]
fn damage_elsewhere_and_other_versions_are_errors_that_fresh_gets_past() {
    for (from, to, says) in [
        ("\"observation\"", "\"observatiom\"", "line 3 of"),
        ("\"v\":1", "\"v\":9", "has version 9, this autofit reads version 1"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        two(dir.path());
        let text = fs::read_to_string(path(dir.path())).unwrap();
        fs::write(path(dir.path()), text.replacen(from, to, 1)).unwrap();
        let error = Journal::open(dir.path(), &key(), false).unwrap_err();
        assert!(error.to_string().contains(says) && error.to_string().contains("--fresh"), "{error}");
        assert_eq!(Exit::from(error).status, exit::PLACE);
        let (j, back) = Journal::open(dir.path(), &key(), true).unwrap();
        assert!(back.is_empty());
        let kept = fs::read_to_string(j.dir().join("journal.1.jsonl")).unwrap();
        assert!(kept.contains(to), "the old journal is kept");
    }
}

#[test]
fn a_trial_that_was_running_is_named_and_its_number_not_used_again() {
    let dir = tempfile::tempdir().unwrap();
    two(dir.path());
    let (mut j, _) = open(dir.path());
    j.started(3, &spec(3)).unwrap();
    drop(j); // as if killed
    let (j, back) = open(dir.path());
    assert_eq!(back.len(), 2);
    assert_eq!((j.interrupted().unwrap().trial, j.next_trial()), (3, 4));
    assert_eq!(
        j.notes(),
        ["trial 3 (accumulation=3) was running when the search was ended; it does not count"]
    );
}

#[test]
fn of_two_trials_at_a_time_the_one_that_was_begun_last_still_runs_when_the_first_is_over() {
    let dir = tempfile::tempdir().unwrap();
    two(dir.path());
    let (mut j, _) = open(dir.path());
    for trial in [3, 4] {
        j.started(trial, &spec(trial)).unwrap();
    }
    j.append(&observation(3)).unwrap();
    drop(j); // as if killed
    let (j, back) = open(dir.path());
    assert_eq!((back.len(), j.interrupted().unwrap().trial, j.next_trial()), (3, 4, 5));
}

#[test]
fn a_finished_search_says_so_until_it_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    two(dir.path());
    let (mut j, _) = open(dir.path());
    assert!(j.finished().is_none() && j.read_result().is_none());
    j.write_result(&serde_json::json!({"version": 1, "winner": null})).unwrap();
    j.finish("complete", 0).unwrap();
    drop(j);
    let (mut j, back) = open(dir.path());
    assert_eq!((back.len(), j.finished().unwrap().reason.as_str()), (2, "complete"));
    assert_eq!(j.read_result().unwrap()["version"], 1);
    j.append(&observation(3)).unwrap();
    drop(j);
    assert!(open(dir.path()).0.finished().is_none());
}

#[test]
fn two_searches_at_a_time_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (_held, _) = open(dir.path());
    let error = Journal::open(dir.path(), &key(), false).unwrap_err();
    assert!(matches!(error, JournalError::Locked { .. }));
    let says = format!("this search is already running as process {}", std::process::id());
    assert!(error.to_string().starts_with(&says), "{error}");
    // Another search in the same place is another matter.
    let other = SearchKey { seed: Some(1), ..key() };
    Journal::open(dir.path(), &other, false).unwrap();
}

#[test]
fn a_search_knows_of_earlier_ones_of_its_command() {
    let dir = tempfile::tempdir().unwrap();
    two(dir.path());
    let ids = |j: &Journal| j.earlier().into_iter().map(|(id, _)| id).collect::<Vec<_>>();
    let open = |key: &SearchKey, fresh| Journal::open(dir.path(), key, fresh).unwrap().0;
    let edited = SearchKey { files: BTreeMap::from([("train.py".into(), "00".into())]), ..key() };
    let j = open(&edited, false);
    assert_eq!(j.earlier(), [(key().id(), vec![observation(1), observation(2)])]);
    drop(j);
    // A search goes on with what it knew when it began, whatever came between.
    let capped = SearchKey { cap_bytes: Some(1 << 30), ..key() };
    assert_eq!(ids(&open(&capped, false)).len(), 2);
    assert_eq!(ids(&open(&edited, false)), [key().id()]);
    // Who starts anew asks nobody; other commands and machines are of no use.
    assert!(ids(&open(&edited, true)).is_empty());
    assert!(ids(&open(&SearchKey { device_ids: vec!["another".into()], ..key() }, false)).is_empty());
    assert!(
        ids(&open(&SearchKey { argv: vec!["python".into(), "test.py".into()], ..key() }, false)).is_empty()
    );
    // One that cannot be read any more is forgotten.
    fs::write(path(dir.path()), "{\n{\n").unwrap();
    assert!(!ids(&open(&capped, false)).contains(&key().id()));
}

/// Appends for ever and says each number after the call returned; run by the next test in a process of its own.
#[test]
#[ignore = "never ends by itself"]
fn appender() {
    let dir = std::env::var("JOURNAL_DIR").unwrap();
    let (mut j, _) = open(Path::new(&dir));
    for trial in j.next_trial().. {
        j.started(trial, &spec(trial)).unwrap();
        j.append(&observation(trial)).unwrap();
        println!("done {trial}");
    }
}

#[test]
fn killed_at_any_moment_nothing_that_was_acknowledged_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..6_u32 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "appender", "--nocapture"])
            .env("JOURNAL_DIR", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let number = |l: String| l.rsplit_once("done ").and_then(|(_, n)| n.parse::<u32>().ok());
        let mut acknowledged = 0;
        for _ in 0..3 + round * 2 {
            acknowledged = lines.by_ref().find_map(|l| number(l.unwrap())).unwrap();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged = lines.filter_map(|l| number(l.unwrap())).last().unwrap_or(acknowledged);
        let (_, back) = open(dir.path());
        let seen: Vec<u32> = back.iter().map(|o| o.trial).collect();
        assert!(
            seen.contains(&acknowledged),
            "round {round}: {acknowledged} was acknowledged, {:?}",
            seen.last()
        );
        assert!(back.iter().all(|o| *o == observation(o.trial)));
        assert!(seen.windows(2).all(|w| w[0] < w[1]));
    }
}

#[test]
fn a_place_that_cannot_be_written_is_refused_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    // A file where the folder should be: refused for root as well.
    fs::write(dir.path().join(".autofit"), "").unwrap();
    let error = Journal::open(dir.path(), &key(), false).unwrap_err();
    assert_eq!(Exit::from(error).status, exit::PLACE);
}

/// Opens and appends until refused, and prints the error; run by the next tests in places of their own.
#[test]
#[ignore = "needs a place prepared for it"]
fn opener() {
    let dir = std::env::var("JOURNAL_DIR").unwrap();
    let error = match Journal::open(Path::new(&dir), &key(), false) {
        Err(e) => e,
        Ok((mut j, _)) => {
            println!("opened");
            let large = |trial| Observation { tail: vec!["x".repeat(40_000)], ..observation(trial) };
            let full = (1..10_000).find_map(|t| Some((t, j.append(&large(t)).err()?))).unwrap();
            let text = fs::read_to_string(path(Path::new(&dir))).unwrap();
            let whole = text.lines().filter(|l| serde_json::from_str::<serde_json::Value>(l).is_ok()).count();
            println!("whole {} of {}", whole, full.0);
            assert!(text.ends_with('\n'), "a failed append leaves whole lines");
            full.1
        }
    };
    let kind = match &error {
        JournalError::NotWritable { .. } => "not writable",
        JournalError::NoSpace { .. } => "no space",
        _ => "other",
    };
    println!("kind {kind}: {error}");
}

/// Runs [`opener`] below a user and mount namespace after `prepare`, a shell text that sets up `$JOURNAL_DIR`.
fn opener_after(prepare: &str, dir: &Path) -> String {
    let text = format!("{prepare} && exec \"$0\" --ignored --exact opener --nocapture");
    let out = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &text])
        .arg(std::env::current_exe().unwrap())
        .env("JOURNAL_DIR", dir)
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{said}");
    said
}

#[test]
fn a_read_only_file_system_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let said = opener_after("mount -t tmpfs -o ro none \"$JOURNAL_DIR\"", dir.path());
    assert!(
        said.contains("kind not writable") && said.contains("--out DIR") && !said.contains("opened"),
        "{said}"
    );
}

#[test]
fn a_small_file_system_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let said = opener_after("mount -t tmpfs -o size=1M none \"$JOURNAL_DIR\"", dir.path());
    assert!(said.contains("kind no space") && said.contains("left") && !said.contains("opened"), "{said}");
}

#[test]
fn a_file_system_that_fills_up_loses_no_line() {
    let dir = tempfile::tempdir().unwrap();
    // Enough to begin with; the opener then appends until it is full.
    let said = opener_after("mount -t tmpfs -o size=9M none \"$JOURNAL_DIR\"", dir.path());
    assert!(said.contains("opened") && said.contains("kind no space"), "{said}");
    // The first line, and every observation before the one that was refused.
    let counts = said.lines().find_map(|l| l.strip_prefix("whole ")?.split_once(" of ")).unwrap();
    assert!(counts.0 == counts.1 && counts.0.parse::<u32>().unwrap() > 100, "{said}");
}

#[test]
fn a_folder_without_write_permission_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o555)).unwrap();
    // Without a mapping the process has no power over files beyond their modes, also when the test runs as root.
    let out = Command::new("unshare")
        .arg("--user")
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "opener", "--nocapture"])
        .env("JOURNAL_DIR", dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && said.contains("kind not writable") && !said.contains("opened"), "{said}");
}
