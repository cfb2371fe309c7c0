use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::*;

/// A setup that never gets to fetch anything.
fn setup(root: &Path, python: PathBuf) -> Setup {
    Setup {
        python,
        root: root.join("cache"),
        name: "nothing".into(),
        base: None,
        packages: vec!["nothing-of-that-name==1.0".into()],
        module: "torch".into(),
        oldest: (3, 10),
        free_needed: 1,
        announcement: String::new(),
    }
}

/// An interpreter that answers every question with `lines`.
fn fake_python(dir: &Path, lines: &str) -> PathBuf {
    let path = dir.join("python3");
    fs::write(&path, format!("#!/bin/sh\nprintf '{lines}'\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn refusal(lines: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let s = setup(dir.path(), fake_python(dir.path(), lines));
    let error = ensure_with(&s, &mut |_| ()).unwrap_err().to_string();
    assert!(!s.root.exists(), "a refusal leaves nothing behind");
    error
}

#[test]
fn what_is_missing_is_named_with_what_to_type() {
    assert!(
        refusal("/usr/bin/python3\\n3.9\\n")
            .contains("is Python 3.9, and nothing-of-that-name==1.0 needs 3.10")
    );
    let venv = refusal("/usr/bin/python3\\n3.11\\nensurepip\\n");
    assert!(venv.contains("ensurepip is missing") && venv.contains("apt-get install python3-venv"), "{venv}");
    let dir = tempfile::tempdir().unwrap();
    let none = setup(dir.path(), dir.path().join("no-python"));
    assert!(
        ensure_with(&none, &mut |_| ())
            .unwrap_err()
            .to_string()
            .contains("apt-get install python3 python3-venv")
    );
}

#[test]
fn a_full_disk_is_told_before_anything_is_fetched() {
    let dir = tempfile::tempdir().unwrap();
    let mut s = setup(dir.path(), fake_python(dir.path(), "/usr/bin/python3\\n3.11\\n"));
    s.free_needed = u64::MAX;
    let error = ensure_with(&s, &mut |_| ()).unwrap_err();
    assert!(matches!(error, PyenvError::Space { .. }), "{error}");
}

#[test]
fn an_override_that_cannot_import_torch_is_refused_with_its_words() {
    let error = own(Path::new("/bin/false")).unwrap_err();
    assert!(error.to_string().contains("AUTOFIT_PYTHON names /bin/false"), "{error}");
}
