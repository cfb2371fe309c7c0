//! What a search has left on disk so far, and the rules that it must obey at every moment, killed or not.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::project::Project;

/// The journals and results of the only search of a project.
pub struct Evidence {
    /// Set aside by `--fresh`, oldest first, and last the one in use; whole lines, and what is torn after them.
    pub journals: Vec<(String, String)>,
    /// `result.json`, if there is one.
    pub result: Option<Value>,
    /// Names in the search's folder.
    pub names: Vec<String>,
}

impl Evidence {
    /// Reads it.  Before the search has a folder there is one empty journal.
    ///
    /// # Panics
    /// When `result.json` or `autofit.env` is there but not whole.
    pub fn read(project: &Project) -> Self {
        let env = project.path().join("autofit.env");
        if env.exists() {
            autofit::emit::env::read(&env).unwrap_or_else(|e| panic!("autofit.env is not whole: {e}"));
        }
        let Some(folder) = folder(project.path()) else {
            return Self { journals: vec![Default::default()], result: None, names: Vec::new() };
        };
        let text = |name: String| fs::read_to_string(folder.join(name)).ok();
        let mut journals: Vec<String> = (1..).map_while(|n| text(format!("journal.{n}.jsonl"))).collect();
        journals.push(text("journal.jsonl".into()).unwrap_or_default());
        let result = text("result.json".into()).map(|t| {
            serde_json::from_str(&t).unwrap_or_else(|e| panic!("result.json is not whole: {e}\n{t}"))
        });
        Self { journals: journals.iter().map(|t| split(t)).collect(), result, names: names(&folder) }
    }

    /// Records of the journal in use.
    pub fn records(&self) -> Vec<Value> {
        self.journals.last().map(|(whole, _)| records(whole)).unwrap_or_default()
    }

    /// Fails unless every line that was in a journal `before` is still there, byte for byte and in its place.
    #[track_caller]
    pub fn continues(&self, before: &Self) {
        let (old, new) = (&before.journals, &self.journals);
        assert!(
            new.len() == old.len() || new.len() == old.len() + 1,
            "{} journals, now {}",
            old.len(),
            new.len()
        );
        for (i, ((was, _), (is, _))) in old.iter().zip(new).enumerate() {
            let may_grow = i + 1 == new.len();
            assert!(is.starts_with(was.as_str()), "journal {i} was rewritten:\n{was}\n--- is now\n{is}");
            assert!(
                may_grow || is == was,
                "journal {i} was set aside and has grown:\n{was}\n--- is now\n{is}"
            );
        }
    }

    /// Fails unless the journal is one of a search that never launched anything twice but what was killed, and the
    /// result is that journal's.
    #[track_caller]
    pub fn is_consistent(&self) {
        for (whole, _) in &self.journals {
            obeys_the_rules(&records(whole));
        }
        if let Some(result) = &self.result {
            let reported: Vec<Value> = result["trials"].as_array().unwrap().iter().map(identity).collect();
            let observed: Vec<Value> = observations(&self.records()).into_iter().map(identity).collect();
            assert_eq!(reported, observed, "the trials of result.json are those of the journal");
        }
    }
}

/// What a trial is known by.
fn identity(record: &Value) -> Value {
    serde_json::json!([record["trial"], record["settings"], record["purpose"]])
}

/// Observations among records.
pub fn observations(records: &[Value]) -> Vec<&Value> {
    records.iter().filter(|r| r["t"] == "observation").collect()
}

#[track_caller]
fn obeys_the_rules(records: &[Value]) {
    let mut last_number = 0;
    let mut running: Option<&Value> = None;
    let mut done: BTreeMap<String, bool> = BTreeMap::new();
    for (i, record) in records.iter().enumerate() {
        let what = record["settings"].to_string() + &record["purpose"].to_string();
        match record["t"].as_str().unwrap() {
            "search" => assert_eq!(i, 0, "a journal begins once"),
            "started" => {
                let number = record["trial"].as_u64().unwrap();
                assert!(number > last_number, "number {number} was used before: {record:#}");
                last_number = number;
                if let Some(killed) = running {
                    let (was, is) = (&killed["settings"], &record["settings"]);
                    assert_eq!(
                        (was, &killed["purpose"]),
                        (is, &record["purpose"]),
                        "goes on where it was killed"
                    );
                }
                assert_ne!(done.get(&what), Some(&false), "was observed, and is launched again: {record:#}");
                running = Some(record);
            }
            "observation" => {
                let started =
                    running.take().unwrap_or_else(|| panic!("observed but not started: {record:#}"));
                assert_eq!(
                    identity(started),
                    identity(record),
                    "an observation is of the trial that was started"
                );
                // Only what was disturbed may be measured again.
                done.insert(what, record["verdict"] == "disturbed");
            }
            "finished" => assert!(running.is_none(), "finished while a trial ran"),
            other => panic!("unknown record {other}"),
        }
    }
}

/// The folder of the only search.
pub fn folder(project: &Path) -> Option<PathBuf> {
    let mut folders =
        fs::read_dir(project.join(".autofit")).ok()?.map(|e| e.unwrap().path()).filter(|p| p.is_dir());
    let found = folders.next();
    assert!(folders.next().is_none(), "one search, one folder");
    found
}

fn names(dir: &Path) -> Vec<String> {
    // What is renamed or removed while we look is simply not there.
    fs::read_dir(dir).unwrap().filter_map(|e| e.ok()?.file_name().into_string().ok()).collect()
}

/// Whole lines, and the torn end.
fn split(text: &str) -> (String, String) {
    let at = text.rfind('\n').map_or(0, |n| n + 1);
    (text[..at].to_owned(), text[at..].to_owned())
}

fn records(whole: &str) -> Vec<Value> {
    let line =
        |l| serde_json::from_str(l).unwrap_or_else(|e| panic!("a line of the journal is torn: {e}\n{l}"));
    whole.lines().map(line).collect()
}
