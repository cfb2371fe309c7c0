//! What people type wrong, and scripts that fail: one sentence with what to do, a status of its own, nothing left.

use std::time::Duration;

use crate::support::{Project, alone, autofit};

/// A refusal before anything is launched must be quick.
const AT_ONCE: Duration = Duration::from_secs(20);

#[test]
fn a_broken_recipe_names_file_line_and_column() {
    let project = Project::with_tiny().file("tune.yaml", "about: x\nladder:\n  - accumulation: [2,\n");
    let before = project.snapshot();
    autofit(project.path())
        .line("--recipe tune.yaml -- python3 tiny.py")
        .limit(AT_ONCE)
        .finish()
        .expect(2)
        .says("tune.yaml:")
        .leaves_no_process();
    project.assert_unchanged(&before);
}

#[test]
fn an_unknown_knob_in_a_recipe_is_named_with_its_line_and_what_was_meant() {
    let project = Project::with_tiny().file("tune.yaml", "about: x\nladder:\n  - chekpoint\n");
    autofit(project.path())
        .line("--recipe tune.yaml -- python3 tiny.py")
        .limit(AT_ONCE)
        .finish()
        .expect(2)
        .says("tune.yaml:3:5")
        .says("did you mean `checkpoint`?");
    autofit(project.path())
        .line("recipe check tune.yaml")
        .limit(AT_ONCE)
        .finish()
        .expect(2)
        .says("did you mean `checkpoint`?");
}

#[test]
fn a_missing_recipe_is_named() {
    let project = Project::with_tiny();
    autofit(project.path())
        .line("--recipe nowhere.yaml -- python3 tiny.py")
        .limit(AT_ONCE)
        .finish()
        .expect(2)
        .says("nowhere.yaml");
}

#[test]
fn usage_mistakes_say_what_to_type_instead() {
    let cases = [
        ("", "autofit -- python train.py"),
        ("python3 tiny.py", "autofit -- python3 tiny.py"),
        ("tun -- python3 tiny.py", "did you mean `tune`?"),
        ("--memory-cap lots -- python3 tiny.py", "24GiB"),
        ("try --set ampp=bf16 -- python3 tiny.py", "did you mean `amp`?"),
        ("try --set amp=fp8 -- python3 tiny.py", "one of off, bf16, fp16"),
        ("-- pythn3 tiny.py", "there is no command `pythn3`"),
        ("-- python3 tyni.py", "there is no script `tyni.py`"),
        ("-- ./tiny.py", "python3 ./tiny.py"),
    ];
    let project = Project::with_tiny();
    let before = project.snapshot();
    for (line, sentence) in cases {
        autofit(project.path()).line(line).limit(AT_ONCE).finish().expect(2).says(sentence);
    }
    project.assert_unchanged(&before);
}

#[test]
fn a_place_that_cannot_be_written_is_refused_before_anything_runs() {
    let project = Project::with_tiny();
    // Nobody, not even root, makes files in /proc.
    autofit(project.path())
        .line("--out /proc -- python3 tiny.py")
        .limit(AT_ONCE)
        .finish()
        .expect(6)
        .says("/proc")
        .leaves_no_process();
}

#[test]
fn a_script_that_fails_by_itself_is_shown_with_its_own_words() {
    let _turn = alone();
    let project = Project::new().file(
        "broken.py",
        "import torch\n\ndef load(path):\n    return open(path)\n\nload('data/train.bin')\n",
    );
    let before = project.snapshot();
    let end = autofit(project.path())
        .with_python()
        .line("--device cpu -- python broken.py")
        .finish()
        .expect(4)
        .says("FileNotFoundError")
        .says("data/train.bin")
        .leaves_no_process();
    assert!(!project.path().join("autofit.env").exists(), "nothing was tuned:\n{}", end.stderr);
    project.assert_unchanged(&before);
}

#[test]
fn a_script_that_is_over_before_it_trains_is_no_success() {
    let _turn = alone();
    let project = Project::new().file("hello.py", "import torch\nprint('hello', torch.zeros(1).item())\n");
    let end = autofit(project.path()).with_python().line("--device cpu -- python hello.py").finish();
    assert!(matches!(end.code(), 4 | 5), "status {}\n{}", end.code(), end.stderr);
    assert!(!project.path().join("autofit.env").exists());
    end.leaves_no_process();
}

#[test]
fn a_python_without_torch_is_named() {
    let _turn = alone();
    let project = Project::with_tiny();
    // `-S` keeps site-packages away, and the agent with it; an isolated environment has no torch at all.
    let bare = project.path().join("bare");
    let made = crate::support::plain("python3", project.path())
        .line("-m venv --without-pip bare")
        .finish()
        .expect(0);
    drop(made);
    let end = autofit(project.path())
        .line("--device cpu --")
        .arg(bare.join("bin/python"))
        .arg("tiny.py")
        .finish()
        .says("torch")
        .leaves_no_process();
    assert!(matches!(end.code(), 4 | 6), "status {}\n{}", end.code(), end.stderr);
}

#[test]
fn an_isolated_python_keeps_the_agent_out_and_is_never_taken_for_a_fit() {
    let _turn = alone();
    let project = Project::with_tiny();
    let before = project.snapshot();
    autofit(project.path())
        .with_python()
        .line("--device cpu -- python -I tiny.py --samples 256")
        .finish()
        .expect(5)
        .says("-I")
        .leaves_no_process();
    assert!(!project.path().join("autofit.env").exists());
    project.assert_unchanged(&before);
}

#[test]
fn a_limit_below_what_torch_itself_needs_ends_with_nothing_fits() {
    let _turn = alone();
    let project = Project::with_tiny();
    let before = project.snapshot();
    autofit(project.path())
        .with_python()
        .line("--device cpu --memory-cap 64MiB --max-trials 6 -- python tiny.py")
        .limit(Duration::from_secs(400))
        .finish()
        .expect(3)
        .leaves_no_process();
    assert!(!project.path().join("autofit.env").exists());
    project.assert_unchanged(&before);
}
