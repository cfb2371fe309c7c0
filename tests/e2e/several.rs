//! A plain script in several processes: found by the search, confirmed, and started again for production.

use std::time::Duration;

use crate::support::{Project, alone, autofit, plain, python};

const LONG: Duration = Duration::from_secs(300);

fn project() -> Project {
    Project::with_examples(&[])
        .file("recipes/fsdp.yaml", include_str!("../../recipes/fsdp.yaml"))
        .file("examples/gpt.py", include_str!("../../examples/gpt.py"))
        .file("sleepy.py", include_str!("../support/scripts/sleepy.py"))
}

#[test]
fn the_recipe_is_ready_to_be_used_as_it_stands() {
    autofit(project().path())
        .with_python()
        .line("plan --device cpu --recipe recipes/fsdp.yaml")
        .finish()
        .expect(0)
        .prints("examples/gpt.py")
        .prints("strategy=fsdp");
}

#[test]
#[ignore = "takes minutes; CI runs it"]
fn what_is_faster_in_two_processes_trains_there_like_in_one() {
    let _turn = alone();
    let project = project();
    let before = project.snapshot();
    let end = autofit(project.path())
        .with_python()
        .line("--device cpu --recipe recipes/fsdp.yaml --max-trials 5 -- python sleepy.py 40")
        .limit(LONG)
        .finish()
        .expect(0)
        .leaves_no_process();
    project.assert_unchanged(&before);
    let result = project.result();
    let winner = &result["winner"];
    assert_eq!(winner["settings"]["strategy"], "fsdp", "{}\n{winner:#}", end.stdout);
    assert!(winner["relative"].as_f64().unwrap() > 1.1, "{winner:#}");
    assert!(
        ["agrees", "not_compared"].contains(&winner["parity"]["outcome"].as_str().unwrap()),
        "{winner:#}"
    );
    let confirmed = &result["confirmed"]["coverage"];
    assert!(confirmed["eval_seen"] == true && confirmed["save_seen"] == true, "{result:#}");

    let run = |program: &str, autofit_too: bool| {
        let command =
            if autofit_too { autofit(project.path()).with_python() } else { plain(program, project.path()) };
        let line = if autofit_too { "run -- python sleepy.py 2" } else { "sleepy.py 2" };
        command.line(line).limit(LONG).finish().expect(0).leaves_no_process()
    };
    let tuned = run("", true);
    assert_eq!(tuned.stdout.lines().count(), 2, "one process prints: {}", tuned.stdout);
    let alone = run(&python().path.display().to_string(), false);
    assert_eq!(first_numbers(&tuned.stdout, winner), first_numbers(&alone.stdout, winner));
}

/// The lines, or only their beginnings where the winner rounds otherwise.
fn first_numbers(text: &str, winner: &serde_json::Value) -> Vec<String> {
    let rounds = winner["settings"].get("amp").is_some();
    text.lines().map(|l| if rounds { l.split(':').next().unwrap_or(l) } else { l }.to_owned()).collect()
}
