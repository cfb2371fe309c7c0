//! Commands that start several processes by themselves: what they did is put together, and a rank that fails ends all.

use std::time::{Duration, Instant};

use crate::support::{Finished, Project, alone, autofit};

/// Starting takes seconds; what is tested must be over soon after that, however busy the machine is.
const SOON: Duration = Duration::from_secs(75);

fn project() -> Project {
    Project::new().file("ranks.py", include_str!("../support/scripts/ranks.py"))
}

fn launch(project: &Project, how: &str) -> (Finished, Duration) {
    let began = Instant::now();
    let end = autofit(project.path())
        .with_python()
        .line(&format!("-v --device cpu --max-trials 1 -- torchrun --nproc-per-node 2 ranks.py {how}"))
        .limit(SOON)
        .finish()
        .leaves_no_process();
    (end, began.elapsed())
}

/// The only trial's verdict and why.
fn verdict(project: &Project) -> (String, String) {
    let trial = project.result()["trials"][0].clone();
    (trial["verdict"].as_str().unwrap().to_owned(), trial["why"].as_str().unwrap().to_owned())
}

#[test]
fn ranks_are_measured_together_and_the_slow_one_is_named() {
    let _turn = alone();
    let project = project();
    let (end, _) = launch(&project, "slow");
    let trial = project.result()["trials"][0].clone();
    assert!(["fit", "disturbed"].contains(&trial["verdict"].as_str().unwrap()), "{trial:#}");
    let ranks = trial["ranks"].as_array().unwrap();
    assert_eq!(ranks.iter().map(|r| r["rank"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1]);
    let rate = |rank: usize| ranks[rank]["samples_per_second"].as_f64().unwrap();
    let both = trial["measured"]["samples_per_second"]["value"].as_f64().unwrap();
    assert!((both / (rate(0) + rate(1)) - 1.0).abs() < 0.2, "{trial:#}");
    assert!(ranks[1]["straggler"] == true && ranks[0]["straggler"] == false, "{trial:#}");
    end.says("rank 1: ").says("it holds the others up");
}

#[test]
#[ignore = "takes minutes; CI runs it"]
fn a_rank_out_of_memory_ends_all_also_where_the_script_catches_it() {
    let _turn = alone();
    for how in ["raises", "catches"] {
        let project = project();
        let (_, took) = launch(&project, how);
        let (verdict, why) = verdict(&project);
        assert_eq!(verdict, "oom", "{how}: {why}");
        assert!(took < SOON, "{how}");
    }
}

#[test]
fn a_rank_that_is_killed_is_no_matter_of_memory() {
    let _turn = alone();
    let project = project();
    launch(&project, "killed");
    let (verdict, why) = verdict(&project);
    assert_eq!(verdict, "failed", "{why}");
    assert!(why.contains("SIGKILL"), "{why}");
}

#[test]
#[ignore = "takes minutes; CI runs it"]
fn ranks_that_stand_still_are_ended_and_say_where() {
    let _turn = alone();
    let project = project();
    launch(&project, "stalls");
    let (verdict, why) = verdict(&project);
    assert_eq!(verdict, "timeout", "{why}");
    assert!(why.contains("rank 0 at ranks.py:") && why.contains("rank 1 at ranks.py:"), "{why}");
}

#[test]
fn nothing_is_left_of_ranks_whose_launcher_is_killed() {
    let _turn = alone();
    let project = project();
    let mut running = autofit(project.path())
        .with_python()
        .line("--device cpu -- torchrun --nproc-per-node 2 ranks.py slow")
        .limit(SOON)
        .start();
    let tag = running.tag();
    let ranks = || crate::support::command::tagged(&tag).iter().filter(|(_, line)| is_rank(line)).count();
    running.wait_until("both ranks run", || ranks() >= 2);
    running.signal(libc::SIGKILL);
    running.finish().expect(137).leaves_no_process();
}

/// `.../python -u ranks.py slow`, and not torchrun's own process.
fn is_rank(line: &str) -> bool {
    line.contains("ranks.py") && !line.contains("torchrun")
}
