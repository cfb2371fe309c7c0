use std::process::Command;

use super::*;
use crate::emit::config::tests::document;

fn head() -> Head {
    Head {
        command: ["python", "train.py", "--name", "a\nEVIL=1", "x\\"].map(str::to_owned).to_vec(),
        tuned: "2026-01-02 03:04:05 UTC".into(),
        settings: "amp=bf16, num_workers=2".into(),
        confirmed: "412 ± 3 samples/s, peak 1.21 GiB".into(),
        cap: "1.50 GiB by cgroup v1 \\".into(),
        proved: Some("needs at most 1.28 GiB".into()),
    }
}

fn document_with_allocator() -> RunDocument {
    let mut d = document();
    d.env.insert("PYTORCH_CUDA_ALLOC_CONF".into(), "expandable_segments:True,max_split_size_mb:128".into());
    d.env.insert("GLIBC_TUNABLES".into(), "glibc.malloc.trim_threshold=1000000000".into());
    d
}

#[test]
fn the_head_says_what_how_and_how_to_use_it() {
    let text = render(&document_with_allocator(), &head()).unwrap();
    let comments: Vec<&str> = text.lines().filter(|l| l.starts_with('#')).collect();
    insta::assert_snapshot!(comments.join("\n"), @r#"
    # autofit.env, written by autofit 0.1.0
    # command: python train.py --name 'a EVIL=1' 'x\'
    # tuned: 2026-01-02 03:04:05 UTC
    # settings: amp=bf16, num_workers=2
    # confirmed: 412 ± 3 samples/s, peak 1.21 GiB
    # cap: 1.50 GiB by cgroup v1 \ .
    # proved: needs at most 1.28 GiB
    # needs: autofit run
    # use: autofit run -- COMMAND
    "#);
}

/// What a reader that takes every line literally gets (docker `--env-file`, systemd without quotes).
fn literally(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .map(|l| l.split_once('=').expect(l))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}

#[test]
fn sh_and_literal_readers_and_we_ourselves_take_the_same_values() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    let text = render(&document_with_allocator(), &head()).unwrap();
    write(&path, &text, dir.path()).unwrap();
    let ours = read(&path).unwrap();
    assert_eq!(ours.document, document_with_allocator());
    assert_eq!(literally(&text), ours.variables);
    assert_eq!(ours.variables.len(), 5, "nothing but what was set: {:?}", ours.variables);

    let out = Command::new("env")
        .args(["-i", "/bin/sh", "-c", "set -a; . ./autofit.env; exec /usr/bin/env -0"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let mut shell: BTreeMap<String, String> = String::from_utf8(out.stdout)
        .unwrap()
        .split_terminator('\0')
        .map(|l| l.split_once('=').unwrap())
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    for own in ["PWD", "_", "OLDPWD", "SHLVL"] {
        shell.remove(own);
    }
    assert_eq!(shell, ours.variables);
}

#[test]
fn a_file_of_somebody_else_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    fs::write(&path, "SECRET=1\n").unwrap();
    assert!(matches!(check_target(&path), Err(EnvError::Foreign(_))));
    assert!(matches!(write(&path, "x", dir.path()), Err(EnvError::Foreign(_))));
    assert_eq!(fs::read_to_string(&path).unwrap(), "SECRET=1\n");
}

#[test]
fn our_own_file_is_replaced_whole_and_nothing_else_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    let text = render(&document(), &head()).unwrap();
    write(&path, &text, dir.path()).unwrap();
    write(&path, &text, dir.path()).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn the_workshop_may_be_on_another_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let workshop = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = dir.path().join(FILE_NAME);
    write(&path, &render(&document(), &head()).unwrap(), workshop.path()).unwrap();
    read(&path).unwrap();
    for place in [&dir, &workshop] {
        let left = fs::read_dir(place.path()).unwrap().map(|e| e.unwrap().path());
        assert_eq!(left.filter(|p| *p != path).count(), 0);
    }
}

#[test]
fn a_link_stays_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let (real, link) = (dir.path().join("real.env"), dir.path().join(FILE_NAME));
    let text = render(&document(), &head()).unwrap();
    write(&real, &text, dir.path()).unwrap();
    std::os::unix::fs::symlink("real.env", &link).unwrap();
    write(&link, &text, dir.path()).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
}

#[test]
fn a_value_that_not_every_reader_takes_is_refused() {
    let mut d = document();
    d.env.insert("A".into(), "x y".into());
    assert!(matches!(render(&d, &head()), Err(EnvError::Unsafe { .. })));
}

#[test]
fn errors_name_file_and_line() {
    let error = |text: &str| parse(Path::new("a.env"), text).unwrap_err().to_string();
    assert_eq!(error("# x\n\nFOO\n"), "a.env:3: `FOO` is not NAME=value");
    assert_eq!(error("1A=b"), "a.env:1: `1A` is not the name of a variable");
    assert_eq!(
        error("A=\"b\""),
        "a.env:1: the value of A has `\\\"`; autofit writes only letters, digits and _./:,=+-"
    );
    let read = parse(Path::new("a.env"), "\u{feff}export A=1\r\n B=2=3 \r\n").unwrap();
    assert_eq!(read, [(1, "A".to_owned(), "1".to_owned()), (2, "B".to_owned(), "2=3".to_owned())]);
    let missing = super::read(Path::new("/nonexistent/autofit.env")).unwrap_err();
    assert!(missing.to_string().starts_with("there is no /nonexistent/autofit.env; tune first"));
}
