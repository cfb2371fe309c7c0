//! GPUs as NVML tells them, through the real loader and a stand-in library (`nvml-standin/nvml.c`, which also says how
//! the scripts read).
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

#[path = "nvml-standin/mod.rs"]
mod standin;

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use autofit::watch::nvml::{Baseline, Freed, GpuProcess};
use autofit::watch::{
    DeviceSource, Gpus, MachineFacts, NvmlUnavailable, Sampler, SamplerOptions, WatchSummary,
};
use autofit::watch::{sampler::Pids, wait_until_free};
use standin::Standin;

const MIB: u64 = 1 << 20;
/// No such process can be: the kernel's PIDs end below it.
const UNKNOWN: u32 = 4_300_000;

const ONE: &str = "gpu 0 GPU-aaaa 81559 NVIDIA H100 80GB HBM3\n";

/// Watches for long enough that every reading of a short script is taken.
fn watch(standin: &Standin, ours: &[u32]) -> WatchSummary {
    let gpus = Arc::new(standin.open().unwrap());
    let all = gpus.visible(None, None);
    let baseline = Baseline::now(&gpus, &all);
    let ours = ours.to_vec();
    let pids: Pids = Arc::new(move || ours.clone());
    let options = SamplerOptions { gpus: Some(gpus), baseline, ..SamplerOptions::default() };
    let sampler = Sampler::start(pids, options).unwrap();
    std::thread::sleep(Duration::from_millis(700));
    sampler.stop()
}

fn me() -> u32 {
    std::process::id()
}

#[test]
fn one_gpu_is_described() {
    let s = Standin::new(&format!("{ONE}driver 570.124.06\nuse 0 0 1000\nutil 0 35\nproc 0 0 self 600\n"));
    let gpus = s.open().unwrap();
    let machine = MachineFacts::read(Ok(&gpus));
    assert_eq!(machine.gpus[0].name, "NVIDIA H100 80GB HBM3");
    assert_eq!((machine.gpus[0].total_bytes, machine.gpus.len()), (81_559 * MIB, 1));
    assert_eq!((machine.driver.as_deref(), machine.cuda.as_deref()), (Some("570.124.06"), Some("12.8")));
    let json = serde_json::to_string(&machine).unwrap();
    assert!(!json.contains("GPU-aaaa"), "the very piece is nobody's business: {json}");
    let r = gpus.read(0);
    assert_eq!((r.used, r.utilization, r.failure), (Some(1000 * MIB), Some(35), None));
    assert_eq!(r.processes.unwrap(), [GpuProcess { pid: me(), used: Some(600 * MIB) }]);
}

#[test]
fn growing_memory_gives_the_highest_of_our_own_processes() {
    // Others hold 2000 MiB; ours grows to 9000 for one reading and falls again.
    let script = format!(
        "{ONE}use 0 0 2000\nproc 0 0 1 2000\nuse 0 3 5000\nproc 0 3 self 3000\nuse 0 6 11000\nproc 0 6 self 9000\nuse 0 7 4000\nproc 0 7 self 2000\n"
    );
    let summary = watch(&Standin::new(&script), &[me()]);
    let d = &summary.devices[0];
    assert_eq!((d.peak, d.source), (Some(9000 * MIB), DeviceSource::Processes));
    assert_eq!((d.over_baseline_peak, d.used_peak), (Some(9000 * MIB), Some(11_000 * MIB)));
    assert_eq!((d.baseline, d.foreign_peak), (Some(2000 * MIB), Some(2000 * MIB)));
    assert_eq!(summary.device_peak(), d.peak);
    assert_eq!(summary.notes, [] as [&str; 0]);
    let highest = summary.series.points.iter().filter_map(|p| p.device).max();
    assert_eq!(highest, d.peak, "the peak is in the series too");
}

#[test]
fn a_foreign_process_is_neither_counted_nor_passed_over() {
    let script = format!("{ONE}use 0 0 0\nuse 0 3 1000\nproc 0 3 self 1000\nuse 0 5 7000\nproc 0 5 1 6000\n");
    let summary = watch(&Standin::new(&script), &[me()]);
    let d = &summary.devices[0];
    assert_eq!((d.peak, d.over_baseline_peak), (Some(1000 * MIB), Some(1000 * MIB)));
    assert_eq!(d.foreign_peak, Some(6000 * MIB));
    assert_eq!(summary.notes, ["NVIDIA H100 80GB HBM3: another process took device memory meanwhile"]);
}

#[test]
fn without_figures_for_processes_the_use_over_the_baseline_counts() {
    let said = "NVIDIA H100 80GB HBM3: the driver does not tell the processes' own memory apart; their use is the device's use over the baseline";
    let no_figure = format!("{ONE}use 0 0 500\nuse 0 4 4500\nproc 0 3 self na\n");
    let host_pid = format!("{ONE}use 0 0 500\nuse 0 4 4500\nproc 0 3 {UNKNOWN} 4000\n");
    let no_list = format!("{ONE}use 0 0 500\nuse 0 4 4500\nfail 0 processes not_supported\n");
    for script in [no_figure, host_pid, no_list] {
        let summary = watch(&Standin::new(&script), &[me()]);
        let d = &summary.devices[0];
        assert_eq!((d.peak, d.source), (Some(4000 * MIB), DeviceSource::UsedOverBaseline), "{script}");
        assert_eq!(summary.notes[0], said, "{script}");
    }
}

#[test]
fn without_the_device_figure_the_processes_count() {
    let s = Standin::built(&format!("{ONE}proc 0 0 self 3000\n"), &["-DNO_MEMORY_V2"]);
    let gpus = s.open().unwrap();
    let r = gpus.read(0);
    assert_eq!(r.used, None);
    assert!(r.failure.unwrap().contains("symbol"));
    let summary = watch(&s, &[me()]);
    assert_eq!(
        (summary.devices[0].peak, summary.devices[0].source),
        (Some(3000 * MIB), DeviceSource::Processes)
    );
    assert!(summary.notes[0].contains("not everything could be read"), "{:?}", summary.notes);
    let baseline = Baseline::now(&gpus, &[0]);
    assert_eq!(wait_until_free(&gpus, &baseline, Duration::from_secs(1)), Freed::Unknown);
}

#[test]
fn nothing_readable_is_no_figure_and_no_failure() {
    let s = Standin::new(&format!("{ONE}fail 0 memory no_permission\nfail 0 processes no_permission\n"));
    let summary = watch(&s, &[me()]);
    let d = &summary.devices[0];
    assert_eq!((d.peak, d.source), (None, DeviceSource::None));
    assert!(summary.notes[0].contains("permission"), "{:?}", summary.notes);
    assert!(summary.host.peak.is_some(), "the host is watched all the same");
}

#[test]
fn two_gpus_and_which_a_script_sees() {
    let same = "gpu 0 GPU-aaaa 1000 A100\ngpu 1 GPU-bbbb 1000 A100\nuse 1 0 300\nproc 1 0 self 300\n";
    let gpus = Standin::new(same).open().unwrap();
    assert_eq!(gpus.visible(None, None), [0, 1]);
    assert_eq!(gpus.visible(Some("1"), None), [1]);
    assert_eq!(gpus.visible(Some("GPU-bb"), None), [1]);
    assert_eq!(gpus.visible(Some("1,7,0"), None), [1], "the list ends at the first that is not there");
    assert_eq!(gpus.visible(Some(""), None), [] as [usize; 0]);
    assert_eq!(gpus.visible(Some("-1"), None), [] as [usize; 0]);
    let summary = watch(&Standin::new(same), &[me()]);
    assert_eq!(summary.devices.iter().map(|d| d.peak).collect::<Vec<_>>(), [Some(0), Some(300 * MIB)]);
    assert_eq!(summary.device_peak(), Some(300 * MIB));
    // CUDA numbers different GPUs by speed, NVML by bus.
    let mixed = Standin::new("gpu 0 GPU-aaaa 1000 T4\ngpu 1 GPU-bbbb 1000 A100\n").open().unwrap();
    assert_eq!(mixed.visible(Some("0"), None), [0, 1]);
    assert_eq!(mixed.visible(Some("0"), Some("PCI_BUS_ID")), [0]);
}

#[test]
fn a_divided_gpu_is_its_parts() {
    let script = "gpu 0 GPU-aaaa 81559 NVIDIA H100\nmig 0 0 MIG-1111 9728 NVIDIA H100 MIG 1g.10gb\nmig 0 2 MIG-2222 19968 NVIDIA H100 MIG 2g.20gb\nuse 0.0 0 15\nuse 0.0 2 2015\nuse 0.2 0 15\n";
    let s = Standin::new(script);
    let gpus = s.open().unwrap();
    let seen: Vec<_> = gpus.devices().iter().map(|d| (d.mig, d.uuid.as_str(), d.total_bytes / MIB)).collect();
    assert_eq!(seen, [(Some(0), "MIG-1111", 9728), (Some(2), "MIG-2222", 19_968)]);
    assert_eq!(gpus.visible(Some("MIG-2222"), None), [1]);
    assert_eq!(gpus.read(1).utilization, None);
    drop(gpus);
    let summary = watch(&s, &[me()]);
    assert_eq!(summary.devices[0].peak, Some(2000 * MIB));
    assert_eq!(summary.devices[1].peak, Some(0));
}

#[test]
fn every_way_of_not_having_nvml_is_told_apart() {
    let refuses = |script: &str, defines: &[&str]| Standin::built(script, defines).open().unwrap_err();
    assert_eq!(refuses("init driver_not_loaded\n", &[]), NvmlUnavailable::NoDriver);
    assert_eq!(refuses("init no_permission\n", &[]), NvmlUnavailable::NoPermission);
    assert_eq!(refuses("init mismatch\n", &[]), NvmlUnavailable::VersionMismatch);
    assert!(matches!(refuses(ONE, &["-DNO_INIT_V2"]), NvmlUnavailable::MissingSymbol(_)));
    let nowhere = Gpus::open_at("/no/such/libnvidia-ml.so.1".as_ref()).unwrap_err();
    assert!(nowhere.to_string().contains("could not be loaded"), "{nowhere}");
    let machine = MachineFacts::read(Err(&nowhere));
    assert!(machine.gpus.is_empty() && machine.gpus_absent.is_some());
    // No GPU at all is a machine without GPUs, not an error.
    assert_eq!(Standin::new("driver 570.1\n").open().unwrap().devices(), []);
}

#[test]
fn a_lost_gpu_does_not_hide_the_others() {
    // Index 0 has no description: its handle is refused as lost.
    let gpus = Standin::new("gpu 1 GPU-bbbb 1000 A100\n").open().unwrap();
    assert_eq!(gpus.devices().iter().map(|d| d.index).collect::<Vec<_>>(), [1]);
}

#[test]
fn waiting_ends_when_the_memory_is_free_again() {
    // Reading 0 is the listing, 1 the baseline.
    let s = Standin::new(&format!(
        "{ONE}use 0 0 200\nuse 0 2 5000\nproc 0 2 {UNKNOWN} 4800\nuse 0 6 210\nproc 0 6 {UNKNOWN} 0\n"
    ));
    let gpus = s.open().unwrap();
    let baseline = Baseline::now(&gpus, &[0]);
    let Freed::Free { after } = wait_until_free(&gpus, &baseline, Duration::from_secs(5)) else {
        panic!("not free")
    };
    assert!(after >= Duration::from_millis(150) && after < Duration::from_secs(3), "{after:?}");
}

#[test]
fn waiting_gives_up_and_names_who_holds_the_memory() {
    let s = Standin::new(&format!(
        "{ONE}use 0 0 200\nproc 0 0 1 200\nuse 0 2 5200\nproc 0 2 {UNKNOWN} 4800\nproc 0 2 1 400\n"
    ));
    let gpus = s.open().unwrap();
    let baseline = Baseline::now(&gpus, &[0]);
    let start = Instant::now();
    let held = wait_until_free(&gpus, &baseline, Duration::from_millis(200));
    // What a process that was there before has gained meanwhile is not waited for.
    assert_eq!(held, Freed::Held { uuid: "GPU-aaaa".into(), bytes: 4800 * MIB, pids: vec![UNKNOWN] });
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn the_library_is_found_through_the_environment() {
    let s = Standin::new("");
    let script = s.folder().join("elsewhere");
    std::fs::write(&script, ONE).unwrap();
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "opens_what_the_environment_names", "--nocapture"])
        .env("AUTOFIT_NVML_LIB", s.library())
        .env("AUTOFIT_NVML_SCRIPT", &script)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(said.contains("GPU-aaaa"), "{said}");
}

#[test]
#[ignore = "run by the test above in a process with the right environment"]
fn opens_what_the_environment_names() {
    println!("{:?}", Gpus::open().unwrap().devices());
}
