//! Every rule: a machine on which one thing is wrong, and the one finding that this makes.

use super::fixtures::{GIB, gpu, healthy, holder, without_gpu};
use crate::doctor::facts::{Facts, Limit, Nvml, Python, Torch, Version};
use crate::doctor::{Finding, Level, Step, examine, worst};
use crate::report::doctor::render;
use crate::report::style::Style;
use crate::watch::health::{Mode, Pcie};

/// One thing that is wrong: what is changed, and the name, verdict and words of the finding.
type Case = (&'static str, Level, &'static str, fn(&mut Facts));

fn wrong(facts: &Facts) -> Vec<Finding> {
    examine(facts).into_iter().filter(|f| f.verdict != Level::Ok).collect()
}

#[track_caller]
fn check(start: fn() -> Facts, cases: &[Case]) {
    for (name, level, words, change) in cases {
        let mut facts = start();
        change(&mut facts);
        let found = wrong(&facts);
        let [one] = &found[..] else { panic!("{name} ({words}): {found:#?}") };
        assert_eq!((one.name, one.verdict), (*name, *level), "{words}: {one:#?}");
        let said = format!("{} | {} | {:?}", one.what, one.why, one.next);
        assert!(said.contains(words), "`{words}` is not in: {said}");
        assert!(!one.why.is_empty(), "{one:#?}");
    }
}

fn torch(facts: &mut Facts) -> &mut Torch {
    facts.python.answer.get_or_insert_default().torch.get_or_insert_default()
}

#[test]
fn nothing_is_wrong_with_a_healthy_machine_with_and_without_a_gpu() {
    for facts in [healthy(), without_gpu()] {
        assert_eq!(wrong(&facts), [], "{}", facts.system.os);
        assert_eq!(worst(&examine(&facts)), Level::Ok);
    }
}

#[test]
fn the_driver() {
    check(
        without_gpu,
        &[
            ("gpu.driver", Level::Bad, "apt-get install nvidia-driver", |f| f.nvidia.on_bus = 2),
            ("gpu.driver", Level::Bad, "libcuda.so.1", |f| f.nvidia.module = true),
            ("gpu.driver", Level::Bad, "docker run --gpus all", |f| {
                (f.nvidia.module, f.system.container) = (true, Some("docker".into()));
            }),
            ("gpu.driver", Level::Bad, "nvidia.com/gpu: 1", |f| {
                (f.nvidia.module, f.system.container) = (true, Some("kubernetes".into()));
            }),
            ("gpu.driver", Level::Bad, "usermod -aG video", |f| f.nvidia.nvml = Nvml::NoPermission),
            ("gpu.driver", Level::Bad, "reboot", |f| f.nvidia.nvml = Nvml::VersionMismatch),
            ("gpu.driver", Level::Warn, "too old", |f| f.nvidia.nvml = Nvml::TooOld),
            ("gpu.driver", Level::Bad, "nvidia-smi", |f| f.nvidia.nvml = Nvml::Failed),
            ("gpu.driver", Level::Bad, "fallen off the bus", |f| f.nvidia.nvml = Nvml::Loaded),
        ],
    );
    check(healthy, &[("gpu.lost", Level::Bad, "GPU 1 does not answer", |f| f.nvidia.lost = vec![1])]);
    let mut hidden = healthy();
    hidden.nvidia.visible = Some("-1".into());
    torch(&mut hidden).available = false;
    assert_eq!(wrong(&hidden).iter().map(|f| f.name).collect::<Vec<_>>(), ["gpu.visible"]);
}

#[test]
fn each_gpu() {
    check(
        healthy,
        &[
            ("gpu.memory", Level::Warn, "python (pid 42 of ann) holds 30.0 GiB", |f| {
                let g = &mut f.nvidia.gpus[0];
                (g.used, g.free, g.processes) = (Some(30 * GIB), Some(49 * GIB), Some(vec![holder(42, 30)]));
            }),
            ("gpu.memory", Level::Warn, "kill 42", |f| {
                let g = &mut f.nvidia.gpus[0];
                (g.used, g.processes) = (Some(30 * GIB), Some(vec![holder(42, 30)]));
            }),
            ("gpu.memory", Level::Warn, "per-process figures are absent", |f| {
                let g = &mut f.nvidia.gpus[0];
                (g.used, g.processes) = (Some(30 * GIB), None);
            }),
            ("gpu.memory", Level::Warn, "cannot be read", |f| {
                let g = &mut f.nvidia.gpus[0];
                (g.used, g.free, g.unread) = (None, None, Some("no permission".into()));
            }),
            ("gpu.mig", Level::Bad, "nvidia-smi mig -i 0 -cgi", |f| {
                f.nvidia.gpus[0].health.mig_mode = Some(true);
            }),
            ("gpu.ecc", Level::Bad, "3 memory errors", |f| {
                f.nvidia.gpus[0].health.uncorrected_errors = Some(3);
            }),
            ("gpu.ecc", Level::Warn, "--gpu-reset", |f| f.nvidia.gpus[0].health.pages_pending = Some(true)),
            ("gpu.mode", Level::Bad, "-c DEFAULT", |f| f.nvidia.gpus[0].health.mode = Some(Mode::Prohibited)),
            ("gpu.mode", Level::Warn, "one process", |f| {
                f.nvidia.gpus[0].health.mode = Some(Mode::Exclusive)
            }),
            ("gpu.persistence", Level::Warn, "nvidia-smi -pm 1", |f| {
                f.nvidia.gpus[0].health.persistence = Some(false);
            }),
            ("gpu.clocks", Level::Warn, "heat", |f| f.nvidia.gpus[0].health.slowed = vec!["heat".into()]),
            ("gpu.pcie", Level::Warn, "4 of 16", |f| {
                f.nvidia.gpus[0].health.pcie = Some(Pcie { width: 4, max_width: 16, max_generation: 4 });
            }),
            ("gpu.nvlink", Level::Warn, "12 of 18", |f| f.nvidia.gpus[0].health.nvlinks = Some((12, 18))),
            ("gpu.numa", Level::Warn, "numactl --cpunodebind=1", |f| {
                (f.host.nodes, f.tools.numactl, f.nvidia.gpus[0].node) = (2, true, Some(1));
            }),
        ],
    );
}

#[test]
fn of_a_divided_gpu_the_whole_is_described_once() {
    let mut facts = healthy();
    facts.nvidia.gpus = vec![gpu(0), gpu(0)];
    for (slot, part) in facts.nvidia.gpus.iter_mut().enumerate() {
        (part.facts.mig, part.health.mig_mode, part.health.persistence) =
            (Some(slot as u32), Some(true), Some(false));
    }
    assert_eq!(wrong(&facts).len(), 1);
    let parts = examine(&facts).into_iter().find(|f| f.name == "gpu.mig").map(|f| f.what);
    assert_eq!(parts.as_deref(), Some("GPU 0 is divided (MIG); one process uses one of its 2 parts"));
}

#[test]
fn pytorch_and_whether_it_goes_with_the_driver() {
    check(
        healthy,
        &[
            ("torch", Level::Bad, "built without CUDA", |f| {
                (torch(f).cuda, torch(f).version, torch(f).available) = (None, "2.11.0+cpu".into(), false);
            }),
            ("torch", Level::Warn, "ROCm 6.4", |f| {
                (torch(f).cuda, torch(f).hip) = (None, Some("6.4".into()));
            }),
            ("torch.driver", Level::Bad, "too old for this build", |f| {
                (f.nvidia.cuda, torch(f).cuda, torch(f).available) =
                    (Some(Version(12, 4)), Some("13.0".into()), false);
            }),
            ("torch.driver", Level::Warn, "compatibility libraries", |f| {
                (f.nvidia.cuda, torch(f).cuda) = (Some(Version(12, 4)), Some("13.0".into()));
            }),
            ("torch.arch", Level::Bad, "previous-versions", |f| {
                f.nvidia.gpus[0].health.capability = Some((6, 1));
            }),
            ("torch.arch", Level::Bad, "no kernel image is available", |f| {
                torch(f).arch = vec!["sm_80".into()];
            }),
            ("torch.cuda", Level::Bad, "CUDA unknown error", |f| {
                (torch(f).available, torch(f).unavailable) = (false, Some("CUDA unknown error".into()));
            }),
            ("torch.numpy", Level::Warn, "numpy<2", |f| torch(f).numpy = Some("not available".into())),
            ("torch.triton", Level::Warn, "pip install triton", |f| torch(f).triton = false),
            ("torch", Level::Bad, "pip install torch", |f| {
                let answer = f.python.answer.get_or_insert_default();
                answer.torch = None;
                answer.torch_error = Some("ModuleNotFoundError: No module named 'torch'".into());
            }),
            ("torch", Level::Bad, "libcudart.so.12", |f| {
                let answer = f.python.answer.get_or_insert_default();
                answer.torch = None;
                answer.torch_error = Some("ImportError: libcudart.so.12: cannot open".into());
            }),
            ("python", Level::Bad, "neither", |f| {
                f.python = Python { failed: Some("neither is there".into()), ..Python::default() };
            }),
        ],
    );
}

#[test]
fn a_newer_minor_version_of_cuda_is_served_by_an_older_driver() {
    let mut facts = healthy();
    facts.nvidia.cuda = Some(Version(12, 2));
    assert_eq!(wrong(&facts), []);
    assert!(examine(&facts).iter().any(|f| f.what.contains("the same major version, which is enough")));
}

#[test]
fn the_host() {
    check(
        healthy,
        &[
            ("host.memory", Level::Warn, "1.00 GiB available", |f| f.host.available = GIB),
            ("host.shm", Level::Bad, "no /dev/shm", |f| f.host.shm = None),
            ("host.shm", Level::Warn, "mount -o remount", |f| f.host.shm = Some(64 << 20)),
            ("host.shm", Level::Warn, "--shm-size", |f| {
                (f.host.shm, f.system.container) = (Some(64 << 20), Some("docker".into()));
            }),
            ("host.shm", Level::Warn, "medium: Memory", |f| {
                (f.host.shm, f.system.container) = (Some(64 << 20), Some("kubernetes".into()));
            }),
            ("host.shm", Level::Warn, "ls -lS /dev/shm", |f| f.host.shm_used = 63 * GIB),
            ("host.cpu", Level::Warn, "OMP_NUM_THREADS=4", |f| f.host.cpu_quota = Some(4.0)),
            ("host.open_files", Level::Warn, "ulimit -n 65536", |f| f.host.open_files.soft = Some(1024)),
            ("host.open_files", Level::Warn, "limits.d", |f| {
                f.host.open_files = Limit { soft: Some(1024), hard: Some(1024) };
            }),
            ("host.locked", Level::Warn, "ulimit -l", |f| {
                (f.host.locked.soft, f.host.rdma) = (Some(8 << 20), 1);
            }),
            ("host.address_space", Level::Warn, "ulimit -v", |f| f.host.address_space.soft = Some(GIB)),
            ("host.overcommit", Level::Warn, "vm.overcommit_memory=0", |f| f.host.strict_overcommit = true),
            ("host.variables", Level::Warn, "unset CUDA_LAUNCH_BLOCKING", |f| {
                f.host.variables = vec![("CUDA_LAUNCH_BLOCKING".into(), "1".into())];
            }),
        ],
    );
    let mut swapping = healthy();
    (swapping.host.swap_used, swapping.host.available) = (4 * GIB, GIB);
    assert_eq!(wrong(&swapping).iter().map(|f| f.name).collect::<Vec<_>>(), ["host.memory", "host.swap"]);
    let mut set = healthy();
    set.host.cpu_quota = Some(4.0);
    set.host.variables = vec![("OMP_NUM_THREADS".into(), "4".into())];
    assert_eq!(wrong(&set), [], "whoever sets the threads knows of the quota");
}

#[test]
fn programs() {
    check(
        healthy,
        &[
            ("tools", Level::Warn, "apt-get install gcc", |f| f.tools.cc = None),
            ("tools", Level::Warn, "apt-get install numactl", |f| f.host.nodes = 2),
            ("tools", Level::Warn, "apt-get install python3-dev python3-venv", |f| {
                let answer = f.python.answer.get_or_insert_default();
                (answer.headers, answer.venv) = (false, false);
            }),
        ],
    );
    check(without_gpu, &[("tools", Level::Warn, "apt-get install g++", |f| f.tools.cxx = None)]);
}

#[test]
fn what_launches_get_here() {
    check(
        healthy,
        &[
            ("autofit.isolation", Level::Warn, "(EPERM)", |f| {
                (f.launches.isolation, f.launches.refused) = ("copy".into(), Some("EPERM".into()));
            }),
            ("autofit.isolation", Level::Warn, "--cap-add=SYS_ADMIN", |f| {
                (f.launches.isolation, f.system.container) = ("landlock".into(), Some("docker".into()));
            }),
            ("autofit.processes", Level::Warn, "may escape", |f| f.launches.contained = false),
            ("autofit.cap", Level::Warn, "Delegate=yes", |f| f.launches.cap = None),
            ("autofit.scratch", Level::Warn, "AUTOFIT_SCRATCH", |f| {
                f.launches.scratch = Some(("/tmp".into(), GIB));
            }),
        ],
    );
}

#[test]
fn every_finding_is_described_for_people() {
    // What can be found is what the rules name, and those names are in the page for people and nowhere else.
    let rules = [
        include_str!("nvidia.rs"),
        include_str!("gpus.rs"),
        include_str!("torch.rs"),
        include_str!("host.rs"),
        include_str!("launches.rs"),
    ];
    let page = include_str!("../../../docs/doctor.md");
    let areas = ["gpu.", "torch.", "host.", "autofit."];
    let mut seen = 0;
    for text in rules {
        for name in text.split('"').filter(|w| areas.iter().any(|a| w.starts_with(a)) && !w.contains(' ')) {
            assert!(page.contains(&format!("`{name}`")), "docs/doctor.md does not have `{name}`");
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
}

#[test]
fn root_is_not_told_to_use_sudo() {
    let mut facts = healthy();
    facts.system.root = true;
    facts.nvidia.gpus[0].health.persistence = Some(false);
    assert_eq!(wrong(&facts)[0].next, [Step::Type("nvidia-smi -pm 1".into())]);
}

#[test]
fn the_report_of_a_machine_with_much_wrong() {
    let mut facts = healthy();
    facts.system.container = Some("docker".into());
    facts.nvidia.gpus.push(gpu(1));
    let first = &mut facts.nvidia.gpus[0];
    (first.used, first.free, first.processes) = (Some(30 * GIB), Some(49 * GIB), Some(vec![holder(42, 30)]));
    facts.nvidia.gpus[1].health.uncorrected_errors = Some(2);
    torch(&mut facts).version = "2.11.0+cu130".into();
    torch(&mut facts).cuda = Some("13.0".into());
    torch(&mut facts).available = false;
    facts.host.shm = Some(64 << 20);
    facts.host.open_files.soft = Some(1024);
    facts.launches.isolation = "landlock".into();
    facts.launches.refused = Some("Operation not permitted".into());
    facts.launches.open = vec!["effects over the network".into()];
    insta::assert_snapshot!(render(&examine(&facts), Style { width: 100, color: false }), @r#"
    GPU
      ok    NVIDIA driver 570.124.06, for CUDA up to 12.8
      warn  GPU 0, NVIDIA H100 80GB HBM3: 49.0 GiB of 80.0 GiB free
            30.0 GiB in use: python (pid 42 of ann) holds 30.0 GiB. A trial has only what is left
            $ nvidia-smi
            $ kill 42   # if they are yours and are not needed
      ok    GPU 0: compute capability 9.0, ECC on and no errors, PCI Express 5.0 x16, 18 NVLinks, NUMA
            node 0
      ok    GPU 1, NVIDIA H100 80GB HBM3: 79.0 GiB of 80.0 GiB free
      bad   GPU 1: 2 memory errors that could not be corrected
            results may be wrong, and programs that touch those pages are ended (Xid 48, 63, 94)
            $ nvidia-smi -q -d ECC -i 1
            $ sudo nvidia-smi --gpu-reset -i 1   # while nobody uses it

    Python and PyTorch
      ok    Python 3.11.7 (/venv/bin/python)
      ok    PyTorch 2.11.0+cu130, built for CUDA 13.0, cuDNN 9.10.2, NCCL 2.27.5
      bad   PyTorch is built for CUDA 13.0, the driver serves CUDA 12.8 and older
            the driver is too old for this build: CUDA does not start
            see https://pytorch.org/get-started/locally for a build for CUDA 12 or older
            see https://www.nvidia.com/drivers for a newer driver, where you may install one

    Host
      ok    memory: 120 GiB available of 128 GiB
      ok    swap: 0 B of 8.00 GiB in use
      warn  /dev/shm: 64.0 MiB of 64.0 MiB free
            DataLoader workers hand their batches over through it, and end with "bus error" where it is
            full
            $ docker run --shm-size=8g ...   # or --ipc=host
      ok    processor: 16 cores, Intel Xeon Platinum 8480
      warn  open files: 1024 at most
            each tensor that a DataLoader worker hands over can hold one: "Too many open files"
            $ ulimit -n 65536

    Programs
      ok    compiler: c++; nothing is missing

    Launches by autofit
      warn  trials run in a copy, and may not write elsewhere (--isolate=landlock)
            overlay views are refused (Operation not permitted). Left open: effects over the network
            $ docker run --cap-add=SYS_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined ...
      ok    no process outlives its trial (PID namespace)
      ok    --memory-cap holds for the whole process tree (cgroup v2)
      ok    trials write to /var/tmp/autofit-1000: 200 GiB free

    2 things are broken; 4 warnings
    "#);
}

#[test]
fn the_report_of_a_machine_without_a_gpu() {
    insta::assert_snapshot!(render(&examine(&without_gpu()), Style { width: 100, color: false }), @r#"
    GPU
      ok    no NVIDIA GPU and no driver: autofit tunes for the processor

    Python and PyTorch
      ok    Python 3.11.7 (/venv/bin/python)
      ok    PyTorch 2.11.0+cpu, built without CUDA

    Host
      ok    memory: 120 GiB available of 128 GiB
      ok    swap: 0 B of 8.00 GiB in use
      ok    /dev/shm: 64.0 GiB of 64.0 GiB free
      ok    processor: 16 cores, Intel Xeon Platinum 8480
      ok    open files: 1048576 at most

    Programs
      ok    compiler: c++; nothing is missing

    Launches by autofit
      ok    trials see your files through overlay views (--isolate=overlay)
      ok    no process outlives its trial (PID namespace)
      ok    --memory-cap holds for the whole process tree (cgroup v2)
      ok    trials write to /var/tmp/autofit-1000: 200 GiB free

    nothing is wrong
    "#);
}
