use std::time::Duration;

use super::*;

fn request(line: &str) -> Result<Request, Exit> {
    parse(std::iter::once("autofit".into()).chain(line.split_whitespace().map(OsString::from)))
}

fn message(line: &str) -> String {
    let e = request(line).unwrap_err();
    assert_eq!(e.status, exit::USAGE);
    e.message
}

#[test]
fn the_command_stands_after_two_dashes() {
    let Request::Tune(job) = request("--memory-cap 1.5GiB -- python train.py --lr 1").unwrap() else {
        panic!("not tune");
    };
    assert_eq!(job.memory_cap, Some(3 << 29));
    assert_eq!(job.command, ["python", "train.py", "--lr", "1"]);
    assert!(matches!(request("tune -- python train.py"), Ok(Request::Tune(_))));
    assert!(matches!(request("--recipe fsdp"), Ok(Request::Tune(_))));
}

#[test]
fn a_command_without_dashes_is_told_where_they_go() {
    assert_eq!(
        message("python train.py --lr 3"),
        "put `--` before the command to tune: autofit -- python train.py --lr 3"
    );
    assert!(message("inspct -- python train.py").contains("inspect"));
    assert!(message("").contains("autofit -- python train.py"));
}

#[test]
fn settings_keep_the_commas_of_allocator_values() {
    let Request::Try(t) = request(
        "try --set amp=bf16,allocator=expandable_segments:True,max_split_size_mb:128,checkpoint=all -- python t.py",
    )
    .unwrap() else {
        panic!("not try");
    };
    assert_eq!(t.settings.text(Knob::Allocator), Some("expandable_segments:True,max_split_size_mb:128"));
    assert_eq!(t.settings.0.len(), 3);
    assert!(message("try --set ampp=bf16 -- x").contains("did you mean `amp`"));
    assert!(message("try --set amp -- x").contains("no `=`"));
}

#[test]
fn a_sweep_names_several_configurations_that_can_be_turned_between_steps() {
    let line = "try --set optimizer=fused --sweep amp=bf16;checkpoint=all,batch_size=8; -- python t.py";
    let Request::Try(t) = request(line).unwrap() else { panic!("not try") };
    let windows: Vec<String> = t.windows.iter().map(ToString::to_string).collect();
    assert_eq!(windows, ["amp=bf16, optimizer=fused", "batch_size=8, checkpoint=all, optimizer=fused"]);
    assert!(message("try --sweep malloc=retain -- x").contains("between two steps"));
    assert!(message("try --sweep amp=bf17 -- x").contains("--sweep: `amp` takes"));
    assert!(message("try --sweep amp=bf16 --repeat 2 -- x").contains("cannot be used with"));
}

#[test]
fn a_report_is_of_one_search_or_of_two() {
    let places = |line: &str| match request(line) {
        Ok(Request::Report(r)) => r.places.len(),
        _ => panic!("not report: {line}"),
    };
    assert_eq!((places("report"), places("report a"), places("report a b --out c")), (0, 1, 2));
    assert!(message("report a b c").contains("unexpected value 'c'"));
}

#[test]
fn options_for_slurm_are_one_word() {
    let line = ["autofit", "--executor", "slurm", "--slurm", "--partition=gpu --gres=gpu:1", "--", "x"];
    let Request::Tune(job) = parse(line.map(OsString::from)).unwrap() else { panic!("not tune") };
    assert_eq!((job.executor, job.slurm.len()), (Some(Executor::Slurm), 2));
    assert!(message("--slurm gpu -- x").contains("`gpu` is no option"));
}

#[test]
fn sizes_and_times_are_checked() {
    assert!(message("--memory-cap lots -- x").contains("24GiB"));
    assert!(
        message("--margin 95% -- x").contains("`95%` is not a share; write it like 5% or 0.05, at most 90%")
    );
    assert!(message("--budget soon -- x").contains("90s"));
    let Request::Tune(job) = request("--prove-peak --margin 5% --budget 2m --max-batch 64 -- x").unwrap()
    else {
        panic!("not tune")
    };
    assert_eq!(job.budget, Some(Duration::from_secs(120)));
    assert_eq!((job.batch, job.margin), (Some(BatchPolicy::Max), Some(0.05)));
    assert!(job.prove_peak);
}
