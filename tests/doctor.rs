//! `autofit doctor`, end to end: the stand-in for NVML, and an interpreter that answers what the test says.
#![allow(clippy::unwrap_used)]

#[path = "nvml-standin/mod.rs"]
mod standin;
mod support;

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};
use standin::Standin;
use support::autofit;

/// No such process can be: the kernel's PIDs end below it.
const UNKNOWN: u32 = 4_300_000;
const ONE: &str = "gpu 0 GPU-aaaa 81559 NVIDIA H100 80GB HBM3\nset 0 capability 9.0\nset 0 persistence 1\n";

/// What PyTorch for CUDA 12.8 tells beside a driver that works.
fn torch() -> Value {
    json!({"version": "2.11.0+cu128", "cuda": "12.8", "available": true, "devices": 1, "threads": 8, "triton": true,
           "arch": ["sm_80", "sm_90"], "cudnn": "9.10.2", "nccl": "2.27.5"})
}

/// The findings on GPUs and Python that are not `ok`, as `name verdict`, and everything.
fn examine(script: Option<&str>, torch: Value, variables: &[(&str, &str)]) -> (Vec<String>, Value) {
    let dir = tempfile::tempdir().unwrap();
    let answer = json!({"version": "3.12.1", "executable": "/venv/bin/python", "venv": true, "headers": true,
                        "torch": torch});
    let python = dir.path().join("python");
    std::fs::write(&python, format!("#!/bin/sh\necho some package talks\necho 'autofit-doctor {answer}'\n"))
        .unwrap();
    std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
    let standin = script.map(Standin::new);
    let library = standin.as_ref().map_or("/no/such/library".into(), |s| s.library());
    let mut run = autofit(dir.path()).line("doctor --json --").arg(&python).env("AUTOFIT_NVML_LIB", library);
    for (name, value) in variables {
        run = run.env(name, value);
    }
    let done = run.finish();
    let report: Value = serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("{e}: {done:?}"));
    assert_eq!(done.code(), i32::from(report["verdict"] == "bad"), "{report:#}");
    let wrong = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|f| f["verdict"] != "ok" && matches!(f["area"].as_str(), Some("gpu" | "python")))
        .map(|f| format!("{} {}", f["name"].as_str().unwrap(), f["verdict"].as_str().unwrap()))
        .collect();
    (wrong, report)
}

/// The `what` of a finding.
fn what<'a>(report: &'a Value, name: &str) -> &'a str {
    let all = report["findings"].as_array().unwrap();
    all.iter().find(|f| f["name"] == name).and_then(|f| f["what"].as_str()).unwrap_or_default()
}

fn why<'a>(report: &'a Value, name: &str) -> &'a str {
    let all = report["findings"].as_array().unwrap();
    all.iter().find(|f| f["name"] == name).and_then(|f| f["why"].as_str()).unwrap_or_default()
}

#[test]
fn each_situation_has_its_finding() {
    let mut table = String::new();
    let mut row = |name: &str, script: &str, torch: Value| {
        let (wrong, _) = examine(Some(script), torch, &[]);
        let _ =
            writeln!(table, "{name}: {}", if wrong.is_empty() { "-".to_owned() } else { wrong.join(", ") });
    };
    let one = |more: &str| format!("{ONE}{more}");
    let with = |change: fn(&mut Value)| {
        let mut torch = torch();
        change(&mut torch);
        torch
    };
    row("one GPU", ONE, torch());
    row("two GPUs", &one("gpu 1 GPU-bbbb 81559 NVIDIA H100 80GB HBM3\nset 1 persistence 0\n"), torch());
    row("library and module differ", "init mismatch\n", torch());
    row("no permission", "init no_permission\n", torch());
    row("no GPU in the list", "driver 570.1\n", torch());
    row("a lost GPU beside another", "gpu 1 GPU-bbbb 1000 A100\n", torch());
    row("somebody holds memory", &one("use 0 0 30000\nproc 0 0 1 30000\n"), torch());
    row(
        "a process of another container",
        &one(&format!("use 0 0 30000\nproc 0 0 {UNKNOWN} 30000\n")),
        torch(),
    );
    row("no figures for processes", &one("use 0 0 30000\nproc 0 0 self na\n"), torch());
    row("no list of processes", &one("use 0 0 30000\nfail 0 processes not_supported\n"), torch());
    row("memory cannot be read", &one("fail 0 memory no_permission\n"), torch());
    row("little free memory", &one("use 0 0 80000\nproc 0 0 1 80000\n"), torch());
    row("MIG without parts", &one("set 0 mig 1\n"), torch());
    row(
        "MIG",
        &one("mig 0 0 MIG-1 9728 NVIDIA H100 MIG 1g.10gb\nmig 0 1 MIG-2 9728 NVIDIA H100 MIG 1g.10gb\n"),
        torch(),
    );
    row("errors of memory", &one("set 0 ecc 1\nset 0 uncorrected 4\n"), torch());
    row("pages to be retired", &one("set 0 pending 1\n"), torch());
    row("prohibited", &one("set 0 mode 2\n"), torch());
    row("exclusive", &one("set 0 mode 3\n"), torch());
    row("narrow slot", &one("set 0 pcie 4/16/4\n"), torch());
    row("a link is down", &one("set 0 nvlinks 17/18\n"), torch());
    row("hot", &one("set 0 slowed 64\n"), torch());
    row("a build without CUDA", ONE, with(|t| (t["cuda"], t["available"]) = (Value::Null, false.into())));
    row("an older driver", &one("cuda 12040\n"), torch());
    row("a driver too old", &one("cuda 11080\n"), with(|t| t["available"] = false.into()));
    row("an old GPU", &one("set 0 capability 6.1\n"), torch());
    row(
        "CUDA does not start",
        ONE,
        with(|t| (t["available"], t["unavailable"]) = (false.into(), "no".into())),
    );
    insta::assert_snapshot!(table, @r#"
    one GPU: -
    two GPUs: gpu.persistence warn
    library and module differ: gpu.driver bad
    no permission: gpu.driver bad
    no GPU in the list: gpu.driver bad
    a lost GPU beside another: gpu.lost bad
    somebody holds memory: gpu.memory warn
    a process of another container: gpu.memory warn
    no figures for processes: gpu.memory warn
    no list of processes: gpu.memory warn
    memory cannot be read: gpu.memory warn
    little free memory: gpu.memory warn
    MIG without parts: gpu.mig bad
    MIG: -
    errors of memory: gpu.ecc bad
    pages to be retired: gpu.ecc warn
    prohibited: gpu.mode bad
    exclusive: gpu.mode warn
    narrow slot: gpu.pcie warn
    a link is down: gpu.nvlink warn
    hot: gpu.clocks warn
    a build without CUDA: torch bad
    an older driver: -
    a driver too old: torch.driver bad
    an old GPU: torch.arch bad
    CUDA does not start: torch.cuda bad
    "#);
}

#[test]
fn a_library_without_its_kernel_module_is_no_driver() {
    let (wrong, report) = examine(Some("init driver_not_loaded\n"), torch(), &[]);
    assert_eq!(report["facts"]["nvidia"]["nvml"], "no_driver");
    // Whether that is a fault depends on the bus of the machine that this runs on.
    let on_bus = report["facts"]["nvidia"]["on_bus"].as_u64().unwrap();
    assert_eq!(wrong.is_empty(), on_bus == 0, "{wrong:?}");
}

#[test]
fn who_holds_the_memory_is_named() {
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let (_, report) = examine(
        Some(&format!("{ONE}use 0 0 30100\nproc 0 0 {} 30000\nproc 0 0 {UNKNOWN} 100\n", child.id())),
        torch(),
        &[],
    );
    child.kill().unwrap();
    child.wait().unwrap();
    let why = why(&report, "gpu.memory");
    assert!(why.contains(&format!("sleep (pid {} of ", child.id())), "{why}");
    assert!(
        why.contains("holds 29.3 GiB; a process that cannot be seen from here (pid 4300000) holds 100 MiB"),
        "{why}"
    );
}

#[test]
fn hidden_gpus_are_said_to_be_hidden() {
    let mut torch = torch();
    torch["available"] = false.into();
    let (wrong, report) = examine(Some(ONE), torch, &[("CUDA_VISIBLE_DEVICES", "")]);
    assert_eq!(wrong, ["gpu.visible warn"]);
    assert_eq!(report["facts"]["nvidia"]["visible"], "");
}

#[test]
fn without_driver_and_without_python_it_still_tells_the_rest() {
    let nothing = autofit(Path::new("/"))
        .line("doctor")
        .env("PATH", "/no/such/place")
        .env("AUTOFIT_NVML_LIB", "/no/such/library")
        .finish()
        .expect(1)
        .prints("neither `python` nor `python3` is on PATH")
        .prints("memory:")
        .prints("thing is broken");
    assert_eq!(nothing.stderr, "");
}

#[test]
fn an_interpreter_that_fails_or_answers_nonsense_is_a_finding() {
    let dir = tempfile::tempdir().unwrap();
    let python = dir.path().join("python");
    for (body, said) in [
        ("echo broken >&2; exit 3", "it ended with status 3: broken"),
        ("kill -9 $$", "it was killed by signal 9"),
        ("kill -ALRM $$", "no answer within 90 s"),
        ("echo 'autofit-doctor nonsense'", "its answer cannot be read"),
    ] {
        std::fs::write(&python, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
        let _ = autofit(dir.path()).line("doctor --").arg(&python).finish().expect(1).prints(said);
    }
    let _ = autofit(dir.path()).line("doctor -- /no/python").finish().expect(1).prints("could not be asked");
    let _ = autofit(dir.path()).line("doctor -- train.sh").finish().expect(2).says("names no Python");
}

#[test]
fn real_pytorch_answers() {
    let dir = tempfile::tempdir().unwrap();
    // A file of that name in the working directory is not what is imported, and is not run.
    std::fs::write(dir.path().join("json.py"), "open('run', 'w')").unwrap();
    std::fs::write(dir.path().join("torch.py"), "open('run', 'w')").unwrap();
    let done = autofit(dir.path()).with_python().line("doctor --json").finish();
    assert!(!dir.path().join("run").exists());
    let report: Value = serde_json::from_str(&done.stdout).unwrap();
    let answer = &report["facts"]["python"]["answer"];
    assert!(answer["torch"]["version"].as_str().unwrap().starts_with(autofit::pyenv::TORCH), "{answer:#}");
    assert!(answer["torch"]["threads"].as_u64().unwrap() >= 1);
    assert_eq!(answer["torch"]["numpy"], Value::Null, "{answer:#}");
    assert!(what(&report, "torch").starts_with("PyTorch 2."), "{report:#}");
}
