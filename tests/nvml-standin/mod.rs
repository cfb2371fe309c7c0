//! The stand-in for NVIDIA's management library, compiled and told what to say (`nvml.c` says how scripts read).
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use autofit::watch::{Gpus, NvmlUnavailable};

/// A library of its own, since it counts readings for each time that it is loaded.
pub struct Standin {
    dir: tempfile::TempDir,
}

impl Standin {
    /// A driver that answers as the script says.
    pub fn new(script: &str) -> Self {
        Self::built(script, &[])
    }

    /// The same, built with these definitions.
    pub fn built(script: &str, defines: &[&str]) -> Self {
        static PLAIN: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
        let dir = tempfile::tempdir().unwrap();
        let library = dir.path().join("libnvidia-ml.so.1");
        if defines.is_empty() {
            let (_, plain) = PLAIN.get_or_init(|| {
                let once = tempfile::tempdir().unwrap();
                let path = once.path().join("nvml.so");
                compile(&path, &[]);
                (once, path)
            });
            std::fs::copy(plain, &library).unwrap();
        } else {
            compile(&library, defines);
        }
        std::fs::write(dir.path().join("script"), script).unwrap();
        Self { dir }
    }

    /// Loads it into this process.
    pub fn open(&self) -> Result<Gpus, NvmlUnavailable> {
        Gpus::open_at(&self.library())
    }

    /// The library, for `AUTOFIT_NVML_LIB`.
    pub fn library(&self) -> PathBuf {
        self.dir.path().join("libnvidia-ml.so.1")
    }

    /// The folder that it lies in.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }
}

fn compile(to: &Path, defines: &[&str]) {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nvml-standin/nvml.c");
    let mut cc = Command::new("cc");
    cc.args(["-Wall", "-Werror", "-shared", "-fPIC", "-o"]).arg(to).args(defines).arg(source);
    let out = cc.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}
