//! `--executor slurm` against a real SLURM of two nodes on this host, started by each test (`cluster.sh`).

#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod cluster;
mod ends;
mod several_nodes;

use std::time::{Duration, Instant};

use cluster::Cluster;
use support::{Project, alone};

fn lines(project: &Project, kind: &str) -> usize {
    project.journal().iter().filter(|l| l["t"] == kind).count()
}

/// Folders that launcher and nodes shared.
fn shared(project: &Project) -> usize {
    let entries = std::fs::read_dir(project.path().join(".autofit")).into_iter().flatten().flatten();
    entries.filter(|e| e.file_name().to_string_lossy().starts_with("autofit-jobs-")).count()
}

#[test]
#[ignore = "takes minutes and needs SLURM; CI runs it"]
fn a_search_runs_two_jobs_at_a_time_and_leaves_none() {
    let _turn = alone();
    let cluster = Cluster::start();
    let project = Project::with_tiny();
    let before = project.snapshot();
    let line = "--executor slurm --jobs 2 --device cpu --max-trials 10 -- python tiny.py --epochs 200";
    let on_a_node_each = cluster.autofit(&project).line("tune --slurm --exclusive");
    let mut running = on_a_node_each.line(line).start();
    running.wait_until("two jobs run at a time", || cluster.running().len() >= 2);
    assert!(lines(&project, "started") >= 3, "the script as it is runs alone");
    let end = running.finish().expect(0).leaves_no_process().prints("run -- python tiny.py");
    cluster.has_no_job();
    assert_eq!(shared(&project), 0);
    project.assert_unchanged(&before);
    project.has_reports(&end.stdout);
    let result = project.result();
    assert_eq!(result["status"], "tuned");
    assert!(result["confirmed"]["samples_per_second"].is_object(), "{:#}", result["confirmed"]);
    assert!(lines(&project, "observation") >= 4, "a search of several trials");
    assert!(project.read("autofit.env").contains("AUTOFIT_CONFIG="));
}

#[test]
#[ignore = "takes minutes and needs SLURM; CI runs it"]
fn a_job_that_slurm_kills_for_its_memory_is_out_of_memory() {
    let _turn = alone();
    let cluster = Cluster::start();
    let project = Project::new().file("forks.py", include_str!("forks.py"));
    let end = cluster
        .autofit(&project)
        .line("try --executor slurm --device cpu --json")
        .arg("--slurm")
        .arg("--mem=700M")
        .line("-- python forks.py")
        .finish()
        .expect(3)
        .leaves_no_process()
        .says("exceeded memory limit");
    let result: serde_json::Value = serde_json::from_str(&end.stdout).unwrap();
    assert_eq!(result["trials"][0]["verdict"], "oom", "{:#}", result["trials"][0]);
    assert_eq!(result["cap"]["bytes"], 700 << 20, "the job's own share is the limit");
    cluster.has_no_job();
    assert!(!project.path().join(".autofit").exists(), "a try leaves nothing");
}

#[test]
#[ignore = "takes minutes and needs SLURM; CI runs it"]
fn a_search_that_is_killed_or_cancelled_leaves_no_job() {
    let _turn = alone();
    let cluster = Cluster::start();
    let project = Project::with_tiny();
    let line = "--executor slurm --jobs 2 --device cpu -- python tiny.py --epochs 2000";
    let mut running = cluster.autofit(&project).line(line).start();
    running.wait_until("two jobs run at a time", || cluster.running().len() >= 2);
    running.signal(libc::SIGKILL);
    running.finish().expect(137);
    let (measured, began) = (lines(&project, "observation"), lines(&project, "started"));
    assert!(measured >= 1, "the script as it is was measured");
    assert_eq!(shared(&project), 1);

    let mut running = cluster.autofit(&project).line(line).start();
    running.wait_until("trials run again", || {
        lines(&project, "started") > began && !cluster.running().is_empty()
    });
    running.signal(libc::SIGINT);
    std::thread::sleep(Duration::from_millis(300));
    running.signal(libc::SIGINT);
    let began = Instant::now();
    let end = running.finish().expect(130).leaves_no_process();
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    let end = end.says("of a search that was killed").says("goes on with search");
    cluster.has_no_job();
    assert_eq!(shared(&project), 0, "{}", end.stderr);
    assert!(lines(&project, "observation") >= measured, "nothing measured is lost");
}

#[test]
#[ignore = "takes minutes and needs SLURM; CI runs it"]
fn inside_an_allocation_trials_are_its_steps() {
    let _turn = alone();
    let cluster = Cluster::start();
    let project = Project::with_tiny();
    let program = env!("CARGO_BIN_EXE_autofit");
    let said = cluster.submits(
        &project,
        &["--nodes=2"],
        &format!("#!/bin/bash\n{program} --executor slurm --device cpu --max-trials 2 -- python tiny.py --epochs 200\n"),
    );
    assert!(said.contains("a step runs"), "{said}");
    assert_eq!(project.result()["status"], "tuned", "{said}");
}
