//! Trials that run on two nodes, each a host of its own as far as the network goes.

use serde_json::Value;

use crate::cluster::Cluster;
use crate::support::command::Running;
use crate::support::{Project, alone};

fn project() -> Project {
    Project::new()
        .file("ranks.py", include_str!("../support/scripts/ranks.py"))
        .file("meet.py", include_str!("meet.py"))
}

/// The lines in which ranks of `meet.py` say where they are.
fn meets_on(printed: &str) -> Vec<&str> {
    ["n1", "n2"]
        .into_iter()
        .filter(|node| printed.lines().any(|l| l.contains(" of 2 ") && l.ends_with(node)))
        .collect()
}

#[test]
#[ignore = "takes minutes and needs SLURM; CI runs it"]
fn a_search_in_an_allocation_of_two_hosts_and_what_it_emits_run_on_both() {
    let _turn = alone();
    let cluster = Cluster::apart();
    let project = project();
    let program = env!("CARGO_BIN_EXE_autofit");
    let command = "srun --ntasks-per-node=1 torchrun --nproc-per-node 1 ranks.py slow";
    let line = format!("{program} -v --executor slurm --device cpu --max-trials 2 -- {command}");
    let said = cluster.submits(&project, &["--nodes=2"], &format!("#!/bin/bash\n{line}\n"));
    let result = project.result();
    assert_eq!(result["status"], "tuned", "{said}");
    assert!(result["confirmed"]["samples_per_second"].is_object(), "{result:#}");

    let trial = &result["trials"][0];
    let of = |key: &str, field: &str| -> Vec<Value> {
        trial[key].as_array().unwrap().iter().map(|figures| figures[field].clone()).collect()
    };
    assert_eq!(of("ranks", "host"), ["n1", "n2"], "{trial:#}");
    assert_eq!(of("ranks", "straggler"), [false, true], "{trial:#}");
    assert_eq!(of("nodes", "host"), ["n1", "n2"], "{trial:#}");
    let peaks: Vec<u64> = of("nodes", "peak_host").iter().map(|p| p.as_u64().unwrap()).collect();
    assert!(peaks.iter().all(|p| *p > 100 << 20), "{trial:#}");
    assert_eq!(trial["measured"]["peak_host_bytes"], peaks[0].max(peaks[1]), "the worst node's");
    let rates: f64 = of("ranks", "samples_per_second").iter().map(|r| r.as_f64().unwrap()).sum();
    let all = trial["measured"]["samples_per_second"]["value"].as_f64().unwrap();
    assert!((all / rates - 1.0).abs() < 0.2, "{trial:#}");
    assert!(said.contains("rank 1 on n2"), "{said}");
    let next = result["next"][0].as_str().unwrap();
    assert!(next.contains("emit --form sbatch -- torchrun") && next.ends_with(" >train.sbatch"), "{next}");

    let line = "emit --form sbatch --slurm --time=10 -- srun torchrun --nproc-per-node 1 meet.py";
    let script = cluster.autofit(&project).line(line).finish().expect(0).stdout;
    assert!(script.contains("#SBATCH --nodes=2\n"), "as trials had: {script}");
    let printed = cluster.submits(&project, &[], &script);
    assert_eq!(meets_on(&printed), ["n1", "n2"], "{printed}");
}

#[test]
#[ignore = "takes minutes and needs SLURM; CI runs it"]
fn a_rank_that_fails_on_one_host_ends_the_trial_on_both() {
    let _turn = alone();
    let cluster = Cluster::apart();
    let launch = |how: &str| -> (Project, Running) {
        let project = project();
        let line =
            format!("try --executor slurm --device cpu --json --slurm --nodes=2 -- torchrun ranks.py {how}");
        let running = cluster.autofit(&project).line(&line).start();
        (project, running)
    };
    let line = "plan --executor slurm --slurm --nodes=2 -- torchrun ranks.py slow";
    let planned = cluster.autofit(&project()).line(line).finish().expect(0);
    planned.prints("sbatch --ntasks-per-node=1 --nodes=2 --ntasks=2").prints("SLURM says: Job ");
    cluster.has_no_job();
    // Two at a time on two cores, the longest first: most of what they do is to wait.
    let all = [("stalls", "timeout", 4), ("catches", "oom", 3), ("killed", "failed", 4)];
    let launched = all.map(|(how, verdict, status)| (how, verdict, status, launch(how)));
    for (how, verdict, status, (project, running)) in launched {
        let end = running.finish().expect(status).leaves_no_process();
        let result: Value = serde_json::from_str(&end.stdout).unwrap();
        let trial = &result["trials"][0];
        let why = trial["why"].as_str().unwrap();
        assert_eq!(trial["verdict"], verdict, "{how}: {trial:#}");
        match how {
            "killed" => assert!(why.contains("SIGKILL"), "{why}"),
            "stalls" => {
                assert!(why.contains("rank 0 at ranks.py:") && why.contains("rank 1 at ranks.py:"), "{why}");
            }
            _ => {}
        }
        assert!(!project.path().join(".autofit").exists(), "a try leaves nothing");
    }
    cluster.has_no_job();
}
