//! The invariants that `src/lib.rs` states, as far as reading the sources can check them.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A source file without its comments and without its tests.
struct Source {
    /// Relative to `src/`, with `/`.
    name: String,
    code: Vec<(usize, String)>,
}

#[test]
fn pure_rooms_touch_neither_the_world_nor_the_command_line() {
    let pure = ["model/", "recipe/", "inspect/", "verdict/", "search/", "doctor/rules/"];
    let sources = sources();
    for room in pure {
        assert!(
            sources.iter().any(|s| s.name.starts_with(room)),
            "the room {room} has moved: update this test"
        );
    }
    forbid(
        &["clap", "tokio", "nvml_wrapper", "std::fs", "indicatif", "std::process", "std::net", "std::thread"],
        |s| pure.iter().any(|room| s.name.starts_with(room)),
        "pure rooms do no I/O",
    );
}

#[test]
fn only_process_spawns() {
    forbid(
        &[
            "Command::new",
            "std::process::Command",
            "process::Stdio",
            "tokio::process",
            "fork(",
            "execve",
            "execvp(",
        ],
        |s| !s.name.starts_with("process/"),
        "only process/ spawns",
    );
}

#[test]
fn only_report_and_commands_print() {
    forbid(
        &["print!(", "println!(", "eprint!(", "eprintln!(", "io::stdout()", "io::stderr()"],
        |s| !(s.name.starts_with("report/") || s.name.starts_with("commands/") || s.name == "main.rs"),
        "only report/, commands/ and main.rs print",
    );
}

#[test]
fn only_cli_knows_clap() {
    forbid(&["clap::", "use clap"], |s| !s.name.starts_with("cli/"), "only cli knows clap");
}

#[test]
fn the_agent_imports_only_the_standard_library_when_it_is_loaded() {
    let script = r#"
import ast, pathlib, sys
bad = []
files = sorted(pathlib.Path(sys.argv[1]).rglob("*.py"))
assert files, "no agent"
for file in files:
    for node in ast.parse(file.read_text()).body:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module]
        for name in names:
            top = name.split(".")[0]
            if top not in sys.stdlib_module_names and top != "autofit_agent":
                bad.append("%s:%d imports %s" % (file, node.lineno, name))
print("\n".join(bad))
sys.exit(bool(bad))
"#;
    let agent = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/agent");
    let out = Command::new("python3").arg("-c").arg(script).arg(agent).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
}

#[test]
fn the_check_itself_sees_code_and_overlooks_comments_and_tests() {
    let text = "//! std::fs\nuse std::fs;\n/// clap\nfn f() {} // println!()\n#[cfg(test)]\nmod tests { use clap; }\n";
    let code: String = strip(text).into_iter().map(|(_, l)| l + "\n").collect();
    assert!(code.contains("use std::fs;") && !code.contains("clap") && !code.contains("println"));
    assert!(names("use std::fs;", "std::fs") && !names("use std::fstat;", "std::fs"));
}

/// Fails with every line of the chosen files that has one of these words.
fn forbid(words: &[&str], chosen: impl Fn(&Source) -> bool, rule: &str) {
    let mut found = Vec::new();
    for source in sources().iter().filter(|s| chosen(s)) {
        for (number, line) in &source.code {
            if words.iter().any(|w| names(line, w)) {
                found.push(format!("src/{}:{number}: {}", source.name, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

/// Whether `word` stands in `line` on its own, not as a part of a longer name.
fn names(line: &str, word: &str) -> bool {
    let part_of_name = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        let ends_open = word.ends_with(|c: char| c.is_alphanumeric());
        let before = part_of_name(line[..at].chars().next_back());
        let after = ends_open && part_of_name(line[at + word.len()..].chars().next());
        !before && !after
    })
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&root, &mut files);
    files
        .iter()
        .map(|f| (f.strip_prefix(&root).unwrap().to_str().unwrap().to_owned(), f))
        .filter(|(name, _)| !name.contains("tests") && !name.contains("fixtures"))
        .map(|(name, file)| Source { name, code: strip(&fs::read_to_string(file).unwrap()) })
        .collect()
}

fn rust_files(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

/// Numbered lines up to the tests at the end of the file, without comments.
fn strip(text: &str) -> Vec<(usize, String)> {
    text.lines()
        .enumerate()
        .take_while(|(_, l)| !l.starts_with("#[cfg(test)]"))
        .map(|(i, l)| (i + 1, l.split("//").next().unwrap_or_default().to_owned()))
        .filter(|(_, l)| !l.trim().is_empty())
        .collect()
}
