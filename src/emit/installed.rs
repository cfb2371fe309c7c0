//! Versions of the packages that a command would import, read from the names of folders: nothing is launched.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Versions of `wanted`, as far as they can be told for the interpreter behind `program` (a resolved path: a Python,
/// or a tool such as torchrun that stands beside one).
pub fn versions<'a>(program: &Path, wanted: impl Iterator<Item = &'a String>) -> BTreeMap<String, String> {
    let folders = site_packages(program);
    wanted.filter_map(|name| Some((name.clone(), version(&folders, name)?))).collect()
}

/// `lib/python3.X/site-packages` beside the `bin` that the program is in: virtual environments and conda.  A
/// system's Python has its packages in other places, and then nothing is known.
fn site_packages(program: &Path) -> Vec<PathBuf> {
    // The link is not followed: a virtual environment's `python` points to the system's.
    let Some(prefix) = program.parent().and_then(Path::parent) else { return Vec::new() };
    let pythons = fs::read_dir(prefix.join("lib")).into_iter().flatten().flatten();
    pythons
        .filter(|e| e.file_name().to_string_lossy().starts_with("python3"))
        .map(|e| e.path().join("site-packages"))
        .filter(|p| p.is_dir())
        .collect()
}

/// From `torch-2.11.0+cpu.dist-info`; `None` when there is none or several.
fn version(folders: &[PathBuf], name: &str) -> Option<String> {
    let head = format!("{}-", name.replace('-', "_").to_lowercase());
    let mut found = folders.iter().flat_map(fs::read_dir).flatten().flatten().filter_map(|e| {
        let entry = e.file_name().to_string_lossy().into_owned();
        let stem = entry.strip_suffix(".dist-info")?;
        stem.to_lowercase().starts_with(&head).then(|| stem[head.len()..].to_owned())
    });
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_beside_the_interpreter() {
        let dir = tempfile::tempdir().unwrap();
        let site = dir.path().join("lib/python3.11/site-packages");
        for name in
            ["torch-2.11.0+cpu.dist-info", "pytorch_lightning-2.5.0.dist-info", "torchvision-1.dist-info"]
        {
            fs::create_dir_all(site.join(name)).unwrap();
        }
        let wanted = ["torch", "pytorch-lightning", "absent"].map(str::to_owned);
        let found = versions(&dir.path().join("bin/python"), wanted.iter());
        assert_eq!(
            found,
            [("torch", "2.11.0+cpu"), ("pytorch-lightning", "2.5.0")]
                .map(|(a, b)| (a.to_owned(), b.to_owned()))
                .into()
        );
    }
}
