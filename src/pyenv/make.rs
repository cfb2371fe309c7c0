//! Making the environment, once.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::needs::{self, Base};
use super::{Notice, PyenvError, Python, Setup};
use crate::model::VERSION;
use crate::process::tool::{self, Heard, Tool};

/// How often a lock that somebody else holds is tried.
const LOCK_POLL: Duration = Duration::from_millis(200);
/// Written last: the environment is whole.
const MARKER: &str = "autofit-complete.json";

#[derive(Serialize, Deserialize)]
struct Marker {
    version: u32,
    packages: Vec<String>,
    module_version: String,
}

type Tell<'a> = &'a mut dyn FnMut(Notice);

/// The environment of `setup`, made if it is not there.
///
/// # Errors
/// [`PyenvError`].
pub fn ensure_with(setup: &Setup, notice: Tell<'_>) -> Result<Python, PyenvError> {
    let base = needs::python(setup)?;
    let dir = dir(setup, &base);
    if let Some(python) = whole(&dir, setup) {
        return Ok(python);
    }
    fs::create_dir_all(&setup.root).map_err(|e| place(&setup.root, e))?;
    // Beside the folder, not in it: an unfinished folder is deleted while the lock is held.
    let mut lock_file = dir.clone().into_os_string();
    lock_file.push(".lock");
    let _lock = lock(Path::new(&lock_file), notice)?;
    if let Some(python) = whole(&dir, setup) {
        return Ok(python);
    }
    if dir.exists() {
        notice(Notice::Say(format!("An earlier attempt left {} unfinished; making it anew.", dir.display())));
        fs::remove_dir_all(&dir).map_err(|e| place(&dir, e))?;
    }
    needs::space(&setup.root, setup.free_needed)?;
    notice(Notice::Announce(setup.announcement.clone()));
    make(setup, &base, &dir, notice)
}

/// The environment of `setup` if it is whole.
pub fn find(setup: &Setup) -> Option<Python> {
    let base = needs::python(setup).ok()?;
    whole(&dir(setup, &base), setup)
}

/// `torch-2.11.0-numpy-py3.11`: another Python or another pin is another environment.
fn dir(setup: &Setup, base: &Base) -> PathBuf {
    setup.root.join(format!("{}-py{}.{}", setup.name, base.version.0, base.version.1))
}

fn whole(dir: &Path, setup: &Setup) -> Option<Python> {
    let marker: Marker = serde_json::from_slice(&fs::read(dir.join(MARKER)).ok()?).ok()?;
    let path = dir.join("bin/python");
    (marker.version == VERSION && marker.packages == setup.packages && path.exists())
        .then_some(Python { path, torch_version: marker.module_version })
}

fn lock(file: &Path, notice: Tell<'_>) -> Result<Flock<File>, PyenvError> {
    let mut handle =
        OpenOptions::new().create(true).truncate(false).write(true).open(file).map_err(|e| place(file, e))?;
    let began = Instant::now();
    loop {
        match Flock::lock(handle, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, Errno::EWOULDBLOCK | Errno::EINTR)) => handle = back,
            Err((_, errno)) => return Err(place(file, errno.into())),
        }
        notice(Notice::Working {
            what: "waiting for another autofit that is making the environment",
            elapsed: began.elapsed(),
            last: String::new(),
        });
        thread::sleep(LOCK_POLL);
    }
}

fn make(setup: &Setup, base: &Base, dir: &Path, notice: Tell<'_>) -> Result<Python, PyenvError> {
    step("making a virtual environment", Tool::new(&base.path).args(["-m", "venv"]).arg(dir), notice)?;
    let python = dir.join("bin/python");
    match &setup.base {
        Some(base) => {
            see_packages(base, &python, notice)?;
            // uv does not look where a .pth file points, and would fetch PyTorch again.
            with_pip(setup, &python, notice)?;
        }
        None => {
            if let Err(error) = with_uv(setup, dir, &python, notice) {
                notice(Notice::Say(format!("uv did not manage ({error}); trying pip, which takes longer.")));
                with_pip(setup, &python, notice)?;
            }
        }
    }
    let module = &setup.module;
    let check = format!("import {module}; print({module}.__version__)");
    let version = step("importing it for the first time", Tool::new(&python).args(["-c", &check]), notice)?;
    let marker = Marker {
        version: VERSION,
        packages: setup.packages.clone(),
        module_version: version.trim().to_owned(),
    };
    let text = serde_json::to_vec(&marker).map_err(|e| place(dir, e.into()))?;
    let part = dir.join(format!("{MARKER}.part"));
    fs::write(&part, text)
        .and_then(|()| File::open(&part)?.sync_all())
        .and_then(|()| fs::rename(&part, dir.join(MARKER)))
        .map_err(|e| place(dir, e))?;
    notice(Notice::Say(format!("{module} {} is ready in {}.", marker.module_version, dir.display())));
    Ok(Python { path: python, torch_version: marker.module_version })
}

/// The packages of `base` become importable in the environment of `python`, after its own.
fn see_packages(base: &Path, python: &Path, notice: Tell<'_>) -> Result<(), PyenvError> {
    let folders = "import sys; print('\\n'.join(p for p in sys.path if p.endswith(('site-packages', 'dist-packages'))))";
    let theirs = step("looking for PyTorch's folder", Tool::new(base).args(["-c", folders]), notice)?;
    let own = "import sysconfig; print(sysconfig.get_path('purelib'))";
    let own = step("looking for the new folder", Tool::new(python).args(["-c", own]), notice)?;
    let file = Path::new(own.trim()).join("base.pth");
    fs::write(&file, theirs).map_err(|e| place(&file, e))
}

fn with_uv(setup: &Setup, dir: &Path, python: &Path, notice: Tell<'_>) -> Result<(), PyenvError> {
    step("fetching the installer uv", pip(python).args(["--no-cache-dir", "uv"]), notice)?;
    let cache = Cache::choose(&setup.root);
    let installed = step(
        "fetching and unpacking packages with uv",
        Tool::new(dir.join("bin/uv"))
            .args(["pip", "install", "--compile-bytecode", "--python"])
            .arg(python)
            .arg("--cache-dir")
            .arg(&cache.path)
            .args(&setup.packages)
            // A slow line is no reason to give up on an archive of half a gigabyte.
            .env("UV_HTTP_TIMEOUT", "300"),
        notice,
    );
    cache.clean();
    installed.map(drop)
}

fn with_pip(setup: &Setup, python: &Path, notice: Tell<'_>) -> Result<(), PyenvError> {
    let tool = pip(python).arg("--no-cache-dir").args(&setup.packages);
    step("fetching and unpacking packages with pip", tool, notice).map(drop)
}

/// `pip install`, without questions.
fn pip(python: &Path) -> Tool {
    Tool::new(python).args(["-m", "pip", "--disable-pip-version-check", "--no-input", "install"])
}

/// Runs one tool, and gives what it wrote to standard output.
fn step(what: &'static str, tool: Tool, notice: Tell<'_>) -> Result<String, PyenvError> {
    // A Python that is set up for something else must not reach into this one.
    let tool = tool.without("PYTHONPATH").without("PYTHONHOME").without("VIRTUAL_ENV");
    let began = Instant::now();
    let mut last = String::new();
    notice(Notice::Working { what, elapsed: Duration::ZERO, last: String::new() });
    let end = tool::run(tool, |heard| {
        if let Heard::Line(line) = heard {
            line.trim().clone_into(&mut last);
        }
        notice(Notice::Working { what, elapsed: began.elapsed(), last: last.clone() });
    })
    .map_err(|e| PyenvError::Tool { what: what.into(), how: e.to_string(), tail: String::new() })?;
    if end.status.success() {
        return Ok(end.stdout);
    }
    Err(PyenvError::Tool { what: what.into(), how: end.status.to_string(), tail: end.tail.join("\n") })
}

/// uv's cache: the user's own where there is one (packages in it are linked, not fetched), else one that is deleted.
struct Cache {
    path: PathBuf,
    ours: bool,
}

impl Cache {
    fn choose(root: &Path) -> Self {
        let user = std::env::var_os("UV_CACHE_DIR").map(PathBuf::from).or_else(|| {
            // `root` is CACHE/autofit/python.
            root.parent().and_then(Path::parent).map(|cache| cache.join("uv"))
        });
        match user.filter(|u| u.is_dir()) {
            Some(path) => Self { path, ours: false },
            None => Self { path: root.join("uv-cache"), ours: true },
        }
    }

    fn clean(&self) {
        if self.ours {
            // What is left over costs disk, nothing else.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn place(place: &Path, error: io::Error) -> PyenvError {
    PyenvError::Place { place: place.into(), error }
}
