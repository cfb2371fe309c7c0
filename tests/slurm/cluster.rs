//! A SLURM of two nodes that a test starts (`cluster.sh`).

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::command::Run;
use crate::support::{Project, autofit, plain};

/// For commands that launch several trials.
pub const LONG: Duration = Duration::from_secs(300);

/// A running cluster; stopped when dropped.
pub struct Cluster {
    dir: tempfile::TempDir,
    /// The process in whose namespaces users type, where the nodes are hosts of their own.
    login: Option<String>,
}

impl Cluster {
    /// Two nodes that share this host's name and network.
    pub fn start() -> Self {
        let mut cluster = Self::new();
        cluster.script("start", &[&free_port()]);
        cluster
    }

    /// Two nodes with a network namespace, a name and an address each.
    pub fn apart() -> Self {
        let mut cluster = Self::new();
        cluster.script("start", &[&free_port(), "apart"]);
        let login = std::fs::read_to_string(cluster.dir.path().join("login.host")).unwrap();
        cluster.login = Some(login.trim().to_owned());
        cluster
    }

    fn new() -> Self {
        // A socket's path must be short.
        Self { dir: tempfile::Builder::new().prefix("slurm-").tempdir_in("/tmp").unwrap(), login: None }
    }

    fn script(&mut self, what: &str, more: &[&str]) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slurm/cluster.sh");
        let log = self.dir.path().join("cluster.out");
        let out = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        let err = out.try_clone().unwrap();
        let status = Command::new(script)
            .arg(what)
            .arg(self.dir.path())
            .args(more)
            .stdout(out)
            .stderr(err)
            .status()
            .unwrap();
        assert!(
            status.success(),
            "no SLURM (apt-get install slurm-wlm munge iproute2, and be root): {}",
            std::fs::read_to_string(log).unwrap()
        );
    }

    /// `autofit`, to be typed by a user.
    pub fn autofit(&self, project: &Project) -> Run {
        let run = match &self.login {
            None => autofit(project.path()),
            Some(_) => self.plain(env!("CARGO_BIN_EXE_autofit"), project.path()),
        };
        // Two jobs at a time on two cores: one thread each.
        run.with_python().env("OMP_NUM_THREADS", "1").env("SLURM_CONF", self.conf()).limit(LONG)
    }

    /// Another program.
    fn plain(&self, program: &str, dir: &Path) -> Run {
        match &self.login {
            None => plain(program, dir),
            Some(pid) => plain("nsenter", dir)
                .line(&format!("--target {pid} --net --uts --mount"))
                .arg(format!("--wd={}", dir.display()))
                .arg(program),
        }
    }

    fn conf(&self) -> PathBuf {
        self.dir.path().join("slurm.conf")
    }

    /// What one of SLURM's programs prints.
    pub fn ask(&self, line: &str) -> String {
        let (program, words) = line.split_once(' ').unwrap();
        let run = self.plain(program, self.dir.path()).env("SLURM_CONF", self.conf());
        run.line(words).finish().stdout
    }

    /// Jobs that run, those of an urgent partition left out.
    pub fn running(&self) -> Vec<String> {
        let all = self.ask("squeue --noheader --partition=main --states=RUNNING --format=%i");
        all.lines().map(str::to_owned).collect()
    }

    /// Fails where a job is left.
    #[track_caller]
    pub fn has_no_job(&self) {
        let left = self.ask("squeue --noheader");
        assert_eq!(left, "", "jobs are left");
    }

    /// Submits a script of the project's and waits for its end; what it printed.
    pub fn submits(&self, project: &Project, options: &[&str], script: &str) -> String {
        let path = project.path().join("job.sh");
        std::fs::write(&path, script).unwrap();
        let output = project.path().join("job.txt");
        let done = self
            .plain("sbatch", project.path())
            .with_python()
            .env("OMP_NUM_THREADS", "1")
            .env("SLURM_CONF", self.conf())
            .limit(LONG)
            .arg("--wait")
            .arg(format!("--output={}", output.display()))
            .also(|c| {
                c.args(options);
            })
            .arg(path)
            .finish();
        let printed = std::fs::read_to_string(output).unwrap_or_default();
        assert_eq!(done.code(), 0, "{printed}\n{}", done.stderr);
        printed
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.script("stop", &[]);
    }
}

/// Of three in a row that are free now.
fn free_port() -> String {
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    port.clamp(2000, 65_000).to_string()
}
