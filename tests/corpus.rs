//! Every labelled output of `tests/corpus` (collected, described in its README) and of `tests/corpus-extra` (written
//! by hand in the same form) is read exactly: kind, fragmentation and all fields.

#![allow(clippy::unwrap_used, missing_docs)]

use std::path::{Path, PathBuf};

use autofit::model::observation::ProcessEnd;
use autofit::model::{FailureFields, FailureKind, Knob};
use autofit::verdict::failure::rung;
use autofit::verdict::read_failure;
use serde::Deserialize;

#[derive(Deserialize, Clone)]
struct Label {
    file: String,
    kind: FailureKind,
    fragmentation: Option<bool>,
    fields: FailureFields,
    confidence: String,
    #[serde(default)]
    note: String,
}

/// Labels that come from the account around a text and not from the text; here they are given the way a launcher
/// knows them, or not at all.
fn end_of(file: &str) -> Option<ProcessEnd> {
    match file {
        "042.txt" | "164.txt" => Some(ProcessEnd::Exited { code: 1 }),
        "128.txt" => Some(ProcessEnd::Exited { code: 0 }),
        _ => None,
    }
}

fn not_in_the_text(file: &str, fields: &mut FailureFields) {
    if file == "074.txt" {
        fields.torch_version = None;
    }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

fn labels(name: &str) -> Vec<Label> {
    serde_yaml::from_str(&std::fs::read_to_string(folder(name).join("labels.yaml")).unwrap()).unwrap()
}

/// Knobs that act on what ran out, one of which comes first.
fn helps(kind: FailureKind) -> &'static [Knob] {
    match kind {
        FailureKind::GpuOom => &[Knob::Allocator, Knob::Accumulation, Knob::Compile],
        FailureKind::GpuOomLibrary => &[Knob::CudnnBenchmark],
        FailureKind::HostOom | FailureKind::WorkerKilled => &[Knob::NumWorkers],
        FailureKind::ShmOom | FailureKind::FdLimit => &[Knob::PrefetchFactor],
        FailureKind::NotMemory => &[],
    }
}

fn wrong(name: &str) -> (usize, Vec<String>) {
    let mut wrong = Vec::new();
    let labels = labels(name);
    for mut label in labels.iter().filter(|l| l.confidence != "low").cloned() {
        let text = std::fs::read_to_string(folder(name).join(&label.file)).unwrap();
        let end = if name == "corpus" { end_of(&label.file) } else { None };
        if name == "corpus" {
            not_in_the_text(&label.file, &mut label.fields);
        }
        let read = read_failure(&text, end.as_ref());
        if (read.kind, read.fragmentation) != (label.kind, label.fragmentation) || read.fields != label.fields
        {
            wrong.push(format!(
                "{} ({}): {:?} {:?}, not {:?} {:?}\n   read  {:?}\n   label {:?}\n   by {:?}",
                label.file,
                label.note,
                read.kind,
                read.fragmentation,
                label.kind,
                label.fragmentation,
                read.fields,
                label.fields,
                read.evidence
            ));
        }
        assert!(!read.cause.is_empty() && !read.cause.contains('\n'), "{}: {:?}", label.file, read.cause);
        let wants_advice = read.kind != FailureKind::NotMemory;
        let rungs: Vec<Knob> =
            read.next.iter().filter_map(|line| rung(line)).flat_map(|c| c.0.into_keys()).collect();
        let must = helps(read.kind);
        let first = rungs.first().is_some_and(|knob| must.contains(knob));
        assert_eq!(first, wants_advice, "{}: the first rung of {rungs:?} is one of {must:?}", label.file);
        assert_eq!(!read.next.is_empty(), wants_advice, "{}", label.file);
    }
    (labels.len(), wrong)
}

#[test]
fn the_collected_outputs() {
    let (n, wrong) = wrong("corpus");
    assert_eq!(n, 89);
    assert!(wrong.is_empty(), "{} of {n} are read wrongly:\n{}", wrong.len(), wrong.join("\n"));
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    text: String,
    end: Option<End>,
    kind: FailureKind,
    fragmentation: Option<bool>,
    #[serde(default)]
    fields: FailureFields,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
struct End {
    exit: Option<i32>,
    signal: Option<i32>,
}

#[test]
fn the_outputs_written_by_hand() {
    let cases = std::fs::read_to_string(folder("corpus-extra").join("cases.yaml")).unwrap();
    let cases: Vec<Case> = serde_yaml::from_str(&cases).unwrap();
    let mut wrong = Vec::new();
    for case in &cases {
        let end = case.end.as_ref().and_then(|e| match (e.exit, e.signal) {
            (Some(code), _) => Some(ProcessEnd::Exited { code }),
            (None, Some(signal)) => Some(ProcessEnd::Signaled { signal }),
            (None, None) => None,
        });
        let read = read_failure(&case.text, end.as_ref());
        if (read.kind, read.fragmentation) != (case.kind, case.fragmentation) || read.fields != case.fields {
            wrong.push(format!(
                "{}: {:?} {:?} {:?} by {:?}\n     not {:?} {:?} {:?}",
                case.name,
                read.kind,
                read.fragmentation,
                read.fields,
                read.evidence,
                case.kind,
                case.fragmentation,
                case.fields
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {} are read wrongly:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
