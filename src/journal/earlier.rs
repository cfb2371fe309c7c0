//! Earlier searches of the same command on the same machine.

use std::path::Path;

use serde_json::Value;

use super::reading::Recorded;
use super::{FOLDER, SearchKey, redact};

/// The latest that are looked at.
const MOST: usize = 3;

/// Ids of searches below `dir` that launched the command of `key` in the same folder on the same devices, the latest
/// first.  The script, the cap and what was allowed may have been others.
pub(super) fn of_the_same_command(dir: &Path, key: &SearchKey) -> Vec<String> {
    let wanted = serde_json::json!({
        "argv": redact(&key.argv), "cwd": key.cwd, "device": key.device, "device_ids": key.device_ids,
    });
    let same = |folder: &Path| -> Option<String> {
        let meta = std::fs::read(folder.join("meta.json")).ok()?;
        let meta: Value = serde_json::from_slice(&meta).ok()?;
        let id = folder.file_name()?.to_str()?.to_owned();
        let alike = wanted.as_object()?.iter().all(|(name, value)| meta["key"][name] == *value);
        (alike && id != key.id()).then_some(id)
    };
    Recorded::find(dir).iter().filter_map(|folder| same(folder)).take(MOST).collect()
}

/// The journals of these; one that cannot be read is of no use, and no reason to stop.
pub(super) fn read(dir: &Path, ids: &[String]) -> Vec<(String, Recorded)> {
    let one = |id: &String| Some((id.clone(), Recorded::read(&dir.join(FOLDER).join(id)).ok()?));
    ids.iter().filter_map(one).collect()
}
