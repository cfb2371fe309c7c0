//! What the figures were measured with, so that production can say what differs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::report::redact;

/// Script, packages, device and cap of a search.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fingerprint {
    /// The script's path as typed, if the command names a file.
    pub script: Option<String>,
    /// SHA-256 of that file.
    pub script_sha256: Option<String>,
    /// The command as typed; secrets replaced.
    pub argv: Vec<String>,
    /// `3.11.7`.
    pub python: Option<String>,
    /// Versions by package.
    pub packages: BTreeMap<String, String>,
    /// `cpu`, or the accelerator's name.
    pub device: String,
    /// The limit, bytes.
    pub cap_bytes: Option<u64>,
}

impl Fingerprint {
    /// The part that can be told without launching anything: command and script.
    pub fn of_command(argv: &[String], directory: &Path) -> Self {
        let script = script_of(argv, directory);
        let script_sha256 = script.as_ref().and_then(|s| sha256(&directory.join(s)));
        Self { script, script_sha256, argv: redact::command(argv), ..Self::default() }
    }

    /// What differs between what was measured (`self`) and what is about to run, in words.  What either side does
    /// not know is not compared.
    pub fn differences(&self, now: &Self) -> Vec<String> {
        let mut out = Vec::new();
        if self.argv != now.argv && !self.argv.is_empty() && !now.argv.is_empty() {
            let typed = shell_words::join(&self.argv);
            out.push(format!("the command was tuned as: {typed}"));
        }
        if let (Some(a), Some(b)) = (&self.script_sha256, &now.script_sha256)
            && a != b
        {
            let name = now.script.as_deref().unwrap_or("the script");
            out.push(format!("{name} has changed since it was tuned"));
        }
        let mut known = |what: &str, then: Option<&str>, now: Option<&str>| {
            if let (Some(a), Some(b)) = (then, now)
                && !same_version(a, b)
            {
                out.push(format!("{what} was {a}, is {b}"));
            }
        };
        known("python", self.python.as_deref(), now.python.as_deref());
        for (name, version) in &self.packages {
            known(name, Some(version), now.packages.get(name).map(String::as_str));
        }
        let named = |d: &str| if d.is_empty() { None } else { Some(d.to_owned()) };
        known("the device", named(&self.device).as_deref(), named(&now.device).as_deref());
        if let (Some(a), Some(b)) = (self.cap_bytes, now.cap_bytes)
            && a > b
        {
            use crate::model::size::Bytes;
            out.push(format!("it was tuned for a cap of {}, and {} may be used", Bytes(a), Bytes(b)));
        }
        out
    }
}

/// The first argument that is a Python file: `python -u train.py`, `torchrun --nproc 2 train.py`, `./train.py`.
/// `python -m pkg.train` names no file.
fn script_of(argv: &[String], directory: &Path) -> Option<String> {
    let files = |a: &&String| a.ends_with(".py") && directory.join(a).is_file();
    argv.iter()
        .find(files)
        .or_else(|| argv.first().filter(|a| starts_with_python(&directory.join(a))))
        .cloned()
}

/// A file of the user's own that says `#!...python`.
fn starts_with_python(path: &Path) -> bool {
    use std::io::Read;
    let mut head = [0u8; 80];
    let Ok(mut file) = fs::File::open(path) else { return false };
    let n = file.read(&mut head).unwrap_or(0);
    let first = head[..n].split(|b| *b == b'\n').next().unwrap_or_default();
    first.starts_with(b"#!") && String::from_utf8_lossy(first).contains("python")
}

fn sha256(path: &Path) -> Option<String> {
    let digest = Sha256::digest(fs::read(path).ok()?);
    Some(digest.iter().map(|b| format!("{b:02x}")).collect())
}

/// `2.11.0+cu130`, as the package says of itself, is `2.11.0` where its installer left the local part out.
fn same_version(a: &str, b: &str) -> bool {
    let public = |v: &str| v.split_once('+').map_or(v.to_owned(), |(public, _)| public.to_owned());
    a == b || (a.contains('+') != b.contains('+') && public(a) == public(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn an_edited_script_and_other_arguments_are_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("train.py"), "print(1)\n").unwrap();
        let then = Fingerprint::of_command(&argv("python -u train.py --lr 1"), dir.path());
        assert_eq!(then.script.as_deref(), Some("train.py"));
        assert!(then.differences(&then).is_empty());

        fs::write(dir.path().join("train.py"), "print(2)\n").unwrap();
        let now = Fingerprint::of_command(&argv("python -u train.py --lr 2"), dir.path());
        assert_eq!(
            then.differences(&now),
            [
                "the command was tuned as: python -u train.py --lr 1",
                "train.py has changed since it was tuned"
            ]
        );
    }

    #[test]
    fn a_smaller_cap_and_other_packages_are_named_and_a_larger_cap_is_not() {
        let then = Fingerprint {
            packages: [("torch".to_owned(), "2.11.0".to_owned())].into(),
            device: "NVIDIA A".into(),
            cap_bytes: Some(24 << 30),
            ..Default::default()
        };
        let now = Fingerprint {
            packages: [("torch".to_owned(), "2.12.0".to_owned())].into(),
            device: "NVIDIA B".into(),
            cap_bytes: Some(16 << 30),
            ..Default::default()
        };
        assert_eq!(
            then.differences(&now),
            [
                "torch was 2.11.0, is 2.12.0",
                "the device was NVIDIA A, is NVIDIA B",
                "it was tuned for a cap of 24.0 GiB, and 16.0 GiB may be used"
            ]
        );
        assert!(then.differences(&Fingerprint { cap_bytes: Some(32 << 30), ..then.clone() }).is_empty());
    }

    #[test]
    fn a_module_names_no_file_and_an_executable_script_does() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("train"), "#!/usr/bin/env python3\n").unwrap();
        assert_eq!(Fingerprint::of_command(&argv("python -m pkg.train"), dir.path()).script, None);
        assert_eq!(Fingerprint::of_command(&argv("./train"), dir.path()).script.as_deref(), Some("./train"));
    }
}
