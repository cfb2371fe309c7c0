//! How SLURM ends jobs, and what becomes of their trials.

use std::time::Duration;

use crate::cluster::Cluster;
use crate::support::Project;

/// A job is looked for this often.
const LOOK: Duration = Duration::from_millis(200);

#[test]
#[ignore = "takes minutes and needs SLURM; CI runs it"]
fn a_trial_that_lost_its_place_or_its_node_is_launched_again_and_one_at_its_time_limit_is_over() {
    // It only waits, so that it needs no turn of its own.
    let cluster = Cluster::start();
    let project = Project::new().file("waits.py", "import time\ntime.sleep(600)\n");
    let line = "try --executor slurm --device cpu --json --slurm --nodelist=n1 -- python waits.py";
    let mut running = cluster.autofit(&project).line(line).start();
    let mut jobs: Vec<String> = Vec::new();
    // The first job only looks at its node.
    running.wait_until("the trial's first job runs", || {
        std::thread::sleep(LOOK);
        jobs = cluster.running();
        jobs.len() == 1 && cluster.ask(&format!("scontrol show job {}", jobs[0])).contains("trial-1")
    });
    let mut next = |what: &str| {
        let before = jobs[0].clone();
        running.wait_until(what, || {
            std::thread::sleep(LOOK);
            jobs = cluster.running();
            jobs.len() == 1 && jobs[0] != before
        });
        jobs[0].clone()
    };

    cluster.ask("sbatch --partition=urgent --nodelist=n1 --exclusive --output=/dev/null --wrap true");
    next("the preempted trial runs again");

    cluster.ask("scontrol update NodeName=n1 State=DOWN Reason=test");
    cluster.ask("scontrol update NodeName=n1 State=RESUME");
    let job = next("the trial whose node was lost runs again");

    cluster.ask(&format!("scontrol update JobId={job} EndTime=now"));
    let end = running.finish().expect(4).leaves_no_process();
    let end =
        end.says("was preempted; trial 1 is launched again").says("lost its node; trial 1 is launched again");
    let result: serde_json::Value = serde_json::from_str(&end.stdout).unwrap();
    let trial = &result["trials"][0];
    assert_eq!(trial["verdict"], "timeout", "{trial:#}");
    assert!(trial["why"].as_str().unwrap().contains("at its time limit"), "{trial:#}");
    cluster.has_no_job();
}
