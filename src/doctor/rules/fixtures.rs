//! A machine on which nothing is wrong, for tests to break.

use crate::doctor::facts::{
    Answer, Facts, Gpu, Holder, Host, Launches, Limit, Nvidia, Nvml, Python, System, Tools, Torch, Version,
};
use crate::watch::health::{GpuHealth, Mode, Pcie};
use crate::watch::nvml::GpuFacts;

pub(in crate::doctor) const GIB: u64 = 1 << 30;

/// One H100 under Debian, with PyTorch for CUDA 12.8.
pub(in crate::doctor) fn healthy() -> Facts {
    Facts {
        system: System { os: "Debian GNU/Linux 12 (bookworm)".into(), apt: true, ..System::default() },
        nvidia: Nvidia {
            nvml: Nvml::Loaded,
            driver: Some("570.124.06".into()),
            cuda: Some(Version(12, 8)),
            on_bus: 1,
            module: true,
            gpus: vec![gpu(0)],
            ..Nvidia::default()
        },
        python: Python {
            command: "python".into(),
            failed: None,
            answer: Some(Answer {
                version: "3.11.7".into(),
                executable: "/venv/bin/python".into(),
                venv: true,
                headers: true,
                torch_error: None,
                torch: Some(Torch {
                    version: "2.11.0+cu128".into(),
                    cuda: Some("12.8".into()),
                    available: true,
                    devices: 1,
                    arch: ["sm_80", "sm_90", "compute_90"].map(String::from).to_vec(),
                    cudnn: Some("9.10.2".into()),
                    nccl: Some("2.27.5".into()),
                    triton: true,
                    threads: 16,
                    ..Torch::default()
                }),
            }),
        },
        host: Host {
            cpu: "Intel Xeon Platinum 8480".into(),
            cores: 16,
            nodes: 1,
            our_nodes: vec![0],
            ram: 128 * GIB,
            available: 120 * GIB,
            swap: 8 * GIB,
            shm: Some(64 * GIB),
            open_files: Limit { soft: Some(1 << 20), hard: Some(1 << 20) },
            ..Host::default()
        },
        tools: Tools { cc: Some("cc".into()), cxx: Some("c++".into()), numactl: false },
        launches: Launches {
            isolation: "overlay".into(),
            contained: true,
            cap: Some("cgroup v2".into()),
            scratch: Some(("/var/tmp/autofit-1000".into(), 200 * GIB)),
            ..Launches::default()
        },
    }
}

pub(in crate::doctor) fn gpu(index: u32) -> Gpu {
    Gpu {
        facts: GpuFacts {
            index,
            mig: None,
            uuid: format!("GPU-{index}"),
            name: "NVIDIA H100 80GB HBM3".into(),
            total_bytes: 80 * GIB,
        },
        used: Some(0),
        free: Some(79 * GIB),
        processes: Some(Vec::new()),
        unread: None,
        health: GpuHealth {
            capability: Some((9, 0)),
            persistence: Some(true),
            ecc: Some(true),
            uncorrected_errors: Some(0),
            pages_pending: Some(false),
            mode: Some(Mode::Shared),
            mig_mode: Some(false),
            pcie: Some(Pcie { width: 16, max_width: 16, max_generation: 5 }),
            nvlinks: Some((18, 18)),
            bus: Some("0000:65:00.0".into()),
            ..GpuHealth::default()
        },
        node: Some(0),
    }
}

pub(in crate::doctor) fn holder(pid: u32, gib: u64) -> Holder {
    let (program, user) = (Some("python".to_owned()), Some("ann".to_owned()));
    Holder { pid, used: Some(gib * GIB), program, user }
}

/// The same without GPU and driver, as a laptop or a runner has it.
pub(in crate::doctor) fn without_gpu() -> Facts {
    let mut facts = healthy();
    facts.nvidia = Nvidia { said: Some("no library".into()), ..Nvidia::default() };
    let answer = facts.python.answer.get_or_insert_default();
    answer.torch = Some(Torch { version: "2.11.0+cpu".into(), threads: 16, ..Torch::default() });
    facts
}
