//! A launch to be described in a few words.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use autofit::process::{self, Ended, Launch, Running, StartError};
use autofit::sandbox::Isolation;
use tempfile::TempDir;

pub struct Case {
    pub launch: Launch,
    pub dir: TempDir,
}

/// `sh -c SCRIPT`, not isolated, in a new directory.
pub fn sh(script: &str) -> Case {
    command(&["sh", "-c", script])
}

pub fn python(script: &str) -> Case {
    command(&["python3", "-c", script])
}

pub fn command(argv: &[&str]) -> Case {
    let helper = std::env::var_os("AUTOFIT_TEST_HELPER");
    process::use_helper(Path::new(helper.as_deref().unwrap_or(env!("CARGO_BIN_EXE_autofit").as_ref())));
    let dir = tempfile::tempdir().unwrap();
    let path = std::env::var_os("PATH").unwrap();
    let launch = Launch {
        argv: argv.iter().map(OsString::from).collect(),
        cwd: dir.path().to_owned(),
        env: vec![("PATH".into(), path), ("HOME".into(), dir.path().into())],
        trial_dir: dir.path().join("trial"),
        log: dir.path().join("trial.log"),
        isolation: Isolation::None,
        share: Vec::new(),
        writable: Vec::new(),
        cache_layer: None,
        caches: Vec::new(),
        memory_limit: None,
        grace: Duration::from_millis(300),
    };
    Case { launch, dir }
}

impl Case {
    pub fn with(mut self, change: impl FnOnce(&mut Launch)) -> Self {
        change(&mut self.launch);
        self
    }

    pub fn start(&self) -> Result<Running, StartError> {
        process::start_blocking(&self.launch)
    }

    pub fn run(&self) -> (Ended, Vec<String>) {
        let running = self.start().unwrap();
        let ended = wait(&running);
        (ended, running.tail(1000))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

pub fn wait(running: &Running) -> Ended {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), running.wait()).await.expect("the trial does not end")
    })
}

/// Waits for something that other processes bring about.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("never came true: {what}");
}

/// Living processes whose command line holds a word.
pub fn living(word: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if line.windows(word.len()).any(|w| w == word.as_bytes()) {
            found.push(pid);
        }
    }
    found
}
