//! A user's folder, and whether it is still what it was.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A temporary folder with scripts in it; deleted when dropped.
pub struct Project {
    dir: tempfile::TempDir,
}

/// Everything in a folder: kind, mode, and bytes or link target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<PathBuf, (u32, Vec<u8>)>);

impl Project {
    /// An empty one, on a real file system (overlayfs on tmpfs differs).
    pub fn new() -> Self {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
        fs::create_dir_all(place).unwrap();
        Self { dir: tempfile::Builder::new().prefix("project-").tempdir_in(place).unwrap() }
    }

    /// With some of `examples/`.
    pub fn with_examples(names: &[&str]) -> Self {
        let project = Self::new();
        for name in names {
            fs::copy(
                Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name),
                project.path().join(name),
            )
            .unwrap();
        }
        project
    }

    /// With `tiny.py`, a training script that is over quickly.
    pub fn with_tiny() -> Self {
        Self::new().file("tiny.py", include_str!("scripts/tiny.py"))
    }

    /// With one more file.
    pub fn file(self, name: &str, content: &str) -> Self {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A file's text.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// `result.json` of the only search here.
    pub fn result(&self) -> serde_json::Value {
        let results: Vec<_> = fs::read_dir(self.path().join(".autofit"))
            .unwrap()
            .map(|e| e.unwrap().path().join("result.json"))
            .filter(|p| p.exists())
            .collect();
        assert_eq!(results.len(), 1, "one search, one result: {results:?}");
        serde_json::from_slice(&fs::read(&results[0]).unwrap()).unwrap()
    }

    /// Both reports of the only search here are there, were named, and have what only the journal knows.
    #[track_caller]
    pub fn has_reports(&self, said: &str) {
        let result = self.result();
        for (file, holds) in [("report", "id=\"trace-0\""), ("markdown", "## The ladder as it was climbed")] {
            let name = result["files"][file].as_str().unwrap();
            assert!(self.read(name).contains(holds), "{name}");
            assert!(said.contains(name), "{name} is not named in:\n{said}");
        }
    }

    /// Lines of the journal of the only search here; none before there is one.
    pub fn journal(&self) -> Vec<serde_json::Value> {
        let Ok(entries) = fs::read_dir(self.path().join(".autofit")) else { return Vec::new() };
        entries
            .filter_map(|e| fs::read_to_string(e.unwrap().path().join("journal.jsonl")).ok())
            .flat_map(|text| text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect::<Vec<_>>())
            .collect()
    }

    /// All that is in it now, but for what autofit says it leaves: `autofit.env` and `.autofit/`.
    pub fn snapshot(&self) -> Snapshot {
        let mut all = BTreeMap::new();
        walk(self.path(), Path::new(""), &mut all);
        Snapshot(all)
    }

    /// Fails naming the files that differ from `before`.
    #[track_caller]
    pub fn assert_unchanged(&self, before: &Snapshot) {
        let after = self.snapshot();
        let differs: Vec<_> =
            before.0.keys().chain(after.0.keys()).filter(|k| before.0.get(*k) != after.0.get(*k)).collect();
        assert!(differs.is_empty(), "the user's folder was changed: {differs:?}");
    }
}

fn walk(root: &Path, under: &Path, all: &mut BTreeMap<PathBuf, (u32, Vec<u8>)>) {
    for entry in fs::read_dir(root.join(under)).unwrap() {
        let name = under.join(entry.unwrap().file_name());
        if under.as_os_str().is_empty() && (name == Path::new("autofit.env") || name == Path::new(".autofit"))
        {
            continue;
        }
        let path = root.join(&name);
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_symlink() {
            fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
        } else if meta.is_file() {
            fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        all.insert(name.clone(), (meta.mode(), content));
        if meta.is_dir() {
            walk(root, &name, all);
        }
    }
}
