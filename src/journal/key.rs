//! What makes two searches the same search.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::model::VERSION;
use crate::model::plan::Device;

/// A search is the same search when all of this is: then it resumes, or shows its result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SearchKey {
    /// The command as typed.
    pub argv: Vec<String>,
    /// Where it is launched.
    pub cwd: String,
    /// The recipe's text, with defaults filled in.
    pub recipe: Option<String>,
    /// Scripts by path, with the SHA-256 of their content ([`hash_file`]).
    pub files: BTreeMap<String, String>,
    /// Versions by package, as far as known before the first launch.
    pub packages: BTreeMap<String, String>,
    /// Where training happens.
    pub device: Device,
    /// The very devices: GPU UUIDs, or the processor's name and number of cores.
    pub device_ids: Vec<String>,
    /// The cap, bytes.
    pub cap_bytes: Option<u64>,
    /// The seed of the trials.
    pub seed: Option<u64>,
    /// What bounds the search, by name: `numerics`, `batch`, `max_batch`, `isolate`, ...  A budget of time is not part
    /// of it: a search with more time is the same search, continued.
    pub policy: BTreeMap<String, String>,
}

impl SearchKey {
    /// The search's id: 16 hexadecimal digits.
    pub fn id(&self) -> String {
        // Fields are written in the order of the struct and maps are sorted, so the text is the same each time.
        let text = serde_json::to_vec(&(VERSION, self)).unwrap_or_default();
        hex(&Sha256::digest(text))[..16].to_owned()
    }

    /// `meta.json`: the parts for people, secrets in the command blotted out.
    pub(super) fn meta(&self, id: &str) -> Vec<u8> {
        let key = Self { argv: redact(&self.argv), ..self.clone() };
        let meta = serde_json::json!({
            "version": VERSION,
            "id": id,
            "autofit": env!("CARGO_PKG_VERSION"),
            "started_unix_seconds": super::unix_seconds(),
            "key": key,
        });
        let mut text = format!("{meta:#}").into_bytes();
        text.push(b'\n');
        text
    }
}

/// The SHA-256 of a file's content, in hexadecimal.
///
/// # Errors
/// When it cannot be read.
pub fn hash_file(path: &Path) -> io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut s, b| {
        // Writing into a String cannot fail.
        let _ = write!(s, "{b:02x}");
        s
    })
}

/// A command with the values of options and variables that sound like secrets replaced by `***`.
pub fn redact(argv: &[String]) -> Vec<String> {
    let secret = |name: &str| {
        let name = name.to_ascii_lowercase().replace('-', "_");
        ["api_key", "apikey", "password", "passwd", "secret", "credential", "access_key"]
            .iter()
            .any(|w| name.contains(w))
            || name.ends_with("token")
    };
    let looks = |value: &str| {
        ["hf_", "sk-", "ghp_", "github_pat_", "AKIA"].iter().any(|p| value.starts_with(p))
            && value.len() >= 20
    };
    let mut hide = false;
    argv.iter()
        .map(|arg| {
            let hidden = std::mem::take(&mut hide) && !arg.starts_with("--");
            if let Some((name, value)) = arg.split_once('=') {
                if secret(name) || looks(value) {
                    return format!("{name}=***");
                }
            } else if arg.starts_with('-') && secret(arg) {
                hide = true;
                return arg.clone();
            }
            if hidden || looks(arg) { "***".to_owned() } else { arg.clone() }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SearchKey {
        SearchKey {
            argv: vec!["python".into(), "train.py".into()],
            cwd: "/home/me".into(),
            recipe: None,
            files: BTreeMap::new(),
            packages: BTreeMap::from([("torch".into(), "2.11.0".into())]),
            device: Device::Cpu,
            device_ids: vec![],
            cap_bytes: Some(1 << 30),
            seed: Some(0),
            policy: BTreeMap::new(),
        }
    }

    #[test]
    fn every_part_makes_another_search() {
        let id = key().id();
        assert_eq!(id, key().id());
        assert_eq!(id.len(), 16);
        type Change = fn(&mut SearchKey);
        let changes: [Change; 10] = [
            |k| k.argv.push("--fast".into()),
            |k| k.cwd.push('x'),
            |k| k.recipe = Some(String::new()),
            |k| drop(k.files.insert("train.py".into(), "00".into())),
            |k| drop(k.packages.insert("torch".into(), "2.12.0".into())),
            |k| k.device = Device::Cuda,
            |k| k.device_ids.push("GPU-1".into()),
            |k| k.cap_bytes = None,
            |k| k.seed = Some(1),
            |k| drop(k.policy.insert("numerics".into(), "exact".into())),
        ];
        for (i, change) in changes.iter().enumerate() {
            let mut other = key();
            change(&mut other);
            assert_ne!(other.id(), id, "change {i}");
        }
    }

    #[test]
    fn secrets_do_not_reach_the_folder() {
        let argv = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let shown = |text: &str| redact(&argv(text)).join(" ");
        assert_eq!(shown("t.py --hf-token abc --lr 1"), "t.py --hf-token *** --lr 1");
        assert_eq!(shown("env WANDB_API_KEY=abc python t.py"), "env WANDB_API_KEY=*** python t.py");
        assert_eq!(shown("t.py hf_abcdefghijklmnopqrstuv"), "t.py ***");
        assert_eq!(shown("t.py --max-tokens 5 --tokenizer gpt2"), "t.py --max-tokens 5 --tokenizer gpt2");
        assert_eq!(shown("t.py --use-token --lr 1"), "t.py --use-token --lr 1");
    }

    #[test]
    fn files_are_known_by_their_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.py");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(
            hash_file(&path).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
