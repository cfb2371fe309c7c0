//! The command: what it writes, and what it says where it cannot.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::searches::Search;

/// What came of a command.
pub struct Finished {
    status: i32,
    out: String,
    err: String,
}

/// The program under test.
pub fn autofit(dir: &Path, args: &[&str]) -> Finished {
    let mut command = Command::new(env!("CARGO_BIN_EXE_autofit"));
    let done = command.args(args).current_dir(dir).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Finished { status: done.status.code().unwrap(), out: text(&done.stdout), err: text(&done.stderr) }
}

impl Finished {
    #[track_caller]
    pub fn expect(self, status: i32) -> Self {
        assert_eq!(self.status, status, "{}\n{}", self.out, self.err);
        self
    }
}

#[test]
fn both_files_are_written_beside_the_journal_and_named() {
    let place = tempfile::tempdir().unwrap();
    let dir = Search::that_rescues().write(place.path());
    let id = dir.file_name().unwrap().to_str().unwrap().to_owned();
    let expected = format!(".autofit/{id}/report.html\n.autofit/{id}/report.md\n");
    // From where the search was started, and by its folder.
    for args in [vec!["report"], vec!["report", "."], vec!["report", ".autofit"]] {
        let said = autofit(place.path(), &args).expect(0);
        assert_eq!((said.out.as_str(), said.err.as_str()), (expected.as_str(), ""), "{args:?}");
    }
    let html = fs::read(dir.join("report.html")).unwrap();
    let markdown = fs::read_to_string(dir.join("report.md")).unwrap();
    assert!(markdown.starts_with("# autofit: Made to fit in 1.50 GiB\n"), "{markdown}");
    autofit(&dir, &["report", "--out", "elsewhere"]).expect(0);
    assert_eq!(fs::read(dir.join("elsewhere/report.html")).unwrap(), html, "the same again");
    assert!(html.len() < 200_000, "a report is small enough to be sent: {}", html.len());
}

#[test]
fn a_search_that_was_killed_is_told_from_its_journal() {
    let place = tempfile::tempdir().unwrap();
    let dir = Search::that_rescues().write(place.path());
    fs::remove_file(dir.join("result.json")).unwrap();
    let journal = fs::read_to_string(dir.join("journal.jsonl")).unwrap();
    let kept: Vec<&str> = journal.lines().take(6).collect();
    fs::write(dir.join("journal.jsonl"), kept.join("\n") + "\n{\"v\":1,\"t\":\"obs").unwrap();
    autofit(place.path(), &["report"]).expect(0);
    let markdown = fs::read_to_string(dir.join("report.md")).unwrap();
    assert!(markdown.contains("the search has not come to its end"), "{markdown}");
    assert!(markdown.contains("`python train.py --config configs/base.yaml --lr 3e-4`"), "{markdown}");
    assert!(markdown.contains("a candidate, not a claim") && markdown.contains("402 ± 5"), "{markdown}");
    assert!(!markdown.contains("441 ± 4"), "what was cut off is not told");
}

#[test]
fn two_searches_are_compared() {
    let place = tempfile::tempdir().unwrap();
    for (name, search) in [("a", Search::that_rescues()), ("b", Search::on_a_gpu())] {
        fs::create_dir(place.path().join(name)).unwrap();
        search.write(&place.path().join(name));
    }
    let said = autofit(place.path(), &["report", "a", "b"]).expect(0);
    assert!(said.out.contains("# autofit: B runs at 2.71x of A"), "{}", said.out);
    assert!(said.out.contains("| peak memory | 1.29 GiB | 10.7 GiB |"), "{}", said.out);
    assert!(said.out.contains("| device | cpu | NVIDIA L4, 24.0 GiB, driver 570.133.20 |"), "{}", said.out);
    assert!(said.out.ends_with("comparison.html\ncomparison.md\n"), "{}", said.out);
    let same = autofit(place.path(), &["report", "a", "a", "--out", "same"]).expect(0);
    assert!(same.out.contains("A and B are alike within their spread (1.00x)"), "{}", same.out);
    assert!(same.out.contains("Nothing that is known."), "{}", same.out);
}

#[test]
fn where_there_is_nothing_to_report_one_sentence_says_so() {
    let place = tempfile::tempdir().unwrap();
    let said = autofit(place.path(), &["report"]).expect(2);
    assert_eq!(
        said.err,
        "autofit: there is no search in .: neither a journal.jsonl nor a folder .autofit with one; name the folder where \
         autofit was started, or the one that its output named\n"
    );
    let said = autofit(place.path(), &["report", "nowhere"]).expect(2);
    assert_eq!(said.err, "autofit: there is no folder nowhere\n");
    autofit(place.path(), &["report", "a", "b", "c"]).expect(2);

    let dir = Search::that_rescues().write(place.path());
    let journal = fs::read_to_string(dir.join("journal.jsonl")).unwrap();
    fs::write(dir.join("journal.jsonl"), journal.replacen("\"t\":\"observation\"", "\"t\":", 1)).unwrap();
    let said = autofit(place.path(), &["report"]).expect(6);
    assert!(
        said.err.starts_with("autofit: line 2 of ./.autofit/") && said.err.lines().count() == 1,
        "{}",
        said.err
    );
    assert!(!dir.join("report.html").exists());

    fs::write(dir.join("journal.jsonl"), journal.lines().next().unwrap().to_owned() + "\n").unwrap();
    let said = autofit(place.path(), &["report"]).expect(2);
    assert!(said.err.contains("has measured nothing yet"), "{}", said.err);
}

#[test]
fn a_folder_that_cannot_be_written_is_named_with_the_option_that_chooses_another() {
    let place = tempfile::tempdir().unwrap();
    let dir = Search::that_rescues().write(place.path());
    fs::create_dir(dir.join("report.html")).unwrap();
    autofit(place.path(), &["report"]).expect(6);
    fs::remove_dir(dir.join("report.html")).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(dir.join("probe"), "").is_ok() {
        // root may write everywhere; a folder under a file is refused to everybody.
        let said = autofit(place.path(), &["report", "--out", "/dev/null/x"]).expect(6);
        assert!(said.err.contains("/dev/null/x cannot be made"), "{}", said.err);
    } else {
        let said = autofit(place.path(), &["report"]).expect(6);
        assert!(said.err.contains("cannot be written") && said.err.contains("--out DIR"), "{}", said.err);
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
}
