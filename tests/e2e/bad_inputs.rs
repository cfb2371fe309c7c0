//! What people type wrong, and scripts that fail: one sentence with what to do, a status of its own, nothing left.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
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
fn a_recipe_that_is_none_is_refused_by_name() {
    let project = Project::with_tiny()
        .file("empty.yaml", "# to be written\n")
        .file("list.yaml", "- checkpoint\n- amp\n")
        .file("bare.yaml", "about: no command in it\n")
        .file("nul.yaml", "about: x\ncommand: [python3, \"ti\\0ny.py\"]\n");
    let before = project.snapshot();
    let cases = [
        ("--recipe empty.yaml -- python3 tiny.py", "empty.yaml: the recipe is empty"),
        ("recipe check empty.yaml", "empty.yaml: the recipe is empty"),
        (
            "--recipe list.yaml -- python3 tiny.py",
            "list.yaml:1:1: expected a recipe: keys such as `command:`",
        ),
        ("--recipe bare.yaml", "autofit --recipe bare.yaml -- python train.py"),
        ("--recipe nul.yaml", "there is a NUL character in it"),
        ("--recipe ./ -- python3 tiny.py", "./ is a folder"),
    ];
    for (line, sentence) in cases {
        autofit(project.path()).line(line).limit(AT_ONCE).finish().expect(2).says(sentence);
    }
    project.assert_unchanged(&before);
}

#[test]
fn a_word_that_is_not_utf8_is_named() {
    let project = Project::with_tiny();
    let word = OsStr::from_bytes(b"ti\xffny.py");
    let before = project.snapshot();
    autofit(project.path())
        .line("-- python3")
        .arg(word)
        .limit(AT_ONCE)
        .finish()
        .expect(2)
        .says("of the command is not UTF-8")
        .says("give the file another name");
    autofit(project.path())
        .line("--recipe")
        .arg(word)
        .line("-- python3 tiny.py")
        .limit(AT_ONCE)
        .finish()
        .expect(2)
        .says("ny.py is not UTF-8");
    project.assert_unchanged(&before);
}

#[test]
fn where_there_is_only_python3_it_is_suggested() {
    let project = Project::with_tiny();
    std::fs::create_dir(project.path().join("bin")).unwrap();
    std::os::unix::fs::symlink("/usr/bin/python3", project.path().join("bin/python3")).unwrap();
    autofit(project.path())
        .env("PATH", project.path().join("bin"))
        .line("-- python tiny.py")
        .limit(AT_ONCE)
        .finish()
        .expect(2)
        .says("there is no command `python`; did you mean `python3`?");
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
        ("try --set foo=1 -- python3 tiny.py", "there is no knob `foo`; the knobs are allocator, "),
        ("try --set amp -- python3 tiny.py", "`amp` has no `=`"),
        ("--memory-cap 8 -- python3 tiny.py", "was a unit meant, as in --memory-cap 8GiB?"),
        ("-- pythn3 tiny.py", "there is no command `pythn3`; did you mean `python3`?"),
        (
            "-- no-such-command tiny.py",
            "there is no command `no-such-command`; is it installed, and on PATH?",
        ),
        ("-- python3", "`python3` is given no script"),
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
        // Its own words, whole, and how to see it fail without autofit.
        .prints("| Traceback (most recent call last):")
        .prints("line 6, in <module>")
        .prints("| FileNotFoundError: [Errno 2] No such file or directory: 'data/train.bin'")
        .prints("next: python broken.py")
        .leaves_no_process();
    assert!(!project.path().join("autofit.env").exists(), "nothing was tuned:\n{}", end.stderr);
    project.assert_unchanged(&before);
}

#[test]
fn a_script_that_refuses_its_arguments_is_shown_with_its_reason() {
    let _turn = alone();
    let project = Project::with_tiny();
    autofit(project.path())
        .with_python()
        .line("--device cpu -- python tiny.py --epochz 3")
        .finish()
        .expect(4)
        .prints("cause: Not a lack of memory: tiny.py: error: unrecognized arguments: --epochz 3")
        .leaves_no_process();
}

#[test]
fn a_script_that_is_over_before_it_trains_is_no_success() {
    let _turn = alone();
    let project = Project::new().file("hello.py", "import torch\nprint('hello', torch.zeros(1).item())\n");
    let end = autofit(project.path()).with_python().line("--device cpu -- python hello.py").finish();
    assert!(matches!(end.code(), 4 | 5), "status {}\n{}", end.code(), end.stderr);
    assert!(!project.path().join("autofit.env").exists());
    end.prints("it came to its end without an optimizer step").leaves_no_process();
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
        .expect(6)
        .says("the script's Python has no torch; install it there")
        .says("No module named 'torch'")
        .leaves_no_process();
    assert!(!project.path().join("autofit.env").exists(), "{}", end.stderr);
}

#[test]
fn a_torch_that_is_too_old_is_named() {
    let _turn = alone();
    let project = Project::with_tiny();
    // What the agent looks at before anything else.
    std::fs::write(project.path().join("torch.py"), "__version__ = '2.3.1+cu121'\n").unwrap();
    autofit(project.path())
        .with_python()
        .line("--device cpu -- python tiny.py")
        .finish()
        .expect(6)
        .says("PyTorch 2.3.1+cu121 is older than 2.4")
        .says("install a newer one")
        .leaves_no_process();
    assert!(!project.path().join("autofit.env").exists());
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
        .says("python -I, -E and -S switch the agent off")
        .says("leave that out for tuning")
        .leaves_no_process();
    assert!(!project.path().join("autofit.env").exists());
    project.assert_unchanged(&before);
}
