//! What is decided before a helper is started: how strongly a trial is contained and how its files are protected.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::abilities::abilities;
use super::launch::{Launch, StartError};
use crate::sandbox::scratch::{Scratch, VARIABLE, is_in_memory, sweep};
use crate::sandbox::{self, Kind, View, Wanted};

/// The decisions.
pub(super) struct Prepared {
    pub argv: Vec<OsString>,
    pub env: Vec<(OsString, OsString)>,
    pub cwd: PathBuf,
    pub namespaces: bool,
    pub kind: Kind,
    pub view: Option<View>,
    /// Landlock's allow-list.
    pub writable_only: Option<Vec<PathBuf>>,
    /// Holds what the trial writes; lives as long as it.
    pub scratch: Option<Scratch>,
    /// Sentences on everything that is weaker than it could be.
    pub notes: Vec<String>,
}

pub(super) fn prepare(launch: &Launch) -> Result<Prepared, StartError> {
    let abilities = abilities();
    let kind =
        sandbox::choose(launch.isolation, abilities).map_err(|e| StartError::Isolation(e.to_string()))?;
    let mut prepared = Prepared {
        argv: launch.argv.clone(),
        env: launch.env.clone(),
        cwd: launch.cwd.clone(),
        namespaces: abilities.namespaces.is_ok(),
        kind,
        view: None,
        writable_only: None,
        scratch: None,
        notes: Vec::new(),
    };
    if let Err(error) = &abilities.namespaces {
        prepared.notes.push(format!("no PID namespace here ({error}): a daemon of the script may escape"));
    }
    std::fs::create_dir_all(&launch.trial_dir).map_err(place(&launch.trial_dir))?;
    make_device_nodes();
    match kind {
        Kind::None => {}
        Kind::Overlay => overlay(launch, &mut prepared)?,
        Kind::Landlock | Kind::Copy => copy(launch, &mut prepared)?,
    }
    Ok(prepared)
}

/// CUDA's first use after a boot makes a device node through a program with raised privileges, which a sandbox takes
/// away: done here, before, as the script itself would have it done.
fn make_device_nodes() {
    let is_there = |path: &str| Path::new(path).exists();
    if is_there("/dev/nvidiactl") && !is_there("/dev/nvidia-uvm") {
        let _ = Command::new("nvidia-modprobe").args(["-u", "-c=0"]).stdin(Stdio::null()).output();
    }
}

fn place(path: &Path) -> impl Fn(io::Error) -> StartError {
    move |error| StartError::Place { path: path.to_owned(), error }
}

fn refused(error: io::Error) -> StartError {
    StartError::Isolation(error.to_string())
}

/// What is really written: what the user shares, and what is ours.
fn real(launch: &Launch) -> Result<Vec<PathBuf>, StartError> {
    let all = launch.writable.iter().chain(&launch.share).chain(std::iter::once(&launch.trial_dir));
    all.map(|path| path.canonicalize().map_err(place(path))).collect()
}

fn overlay(launch: &Launch, prepared: &mut Prepared) -> Result<(), StartError> {
    sweep();
    let scratch = Scratch::create().map_err(refused)?;
    if is_in_memory(scratch.path()) {
        prepared.notes.push(format!(
            "files that trials write are kept in memory ({}) and count as theirs; name a place on disk in {VARIABLE}",
            scratch.path().display()
        ));
    }
    let caches = launch
        .cache_layer
        .as_ref()
        .map(|kept| std::fs::create_dir_all(kept).and_then(|()| kept.canonicalize()).map_err(place(kept)));
    let mut places = sandbox::caches(&launch.env);
    places.extend(launch.caches.iter().cloned());
    let wanted = Wanted {
        scratch: scratch.path().to_owned(),
        real: real(launch)?,
        cwd: launch.cwd.clone(),
        named: sandbox::named(&launch.argv, &launch.cwd, &launch.env),
        caches: caches.transpose()?.map(|kept| (places, kept)),
        mapped_only: abilities().namespaces == Ok(true),
    };
    let (view, notes) = sandbox::cover(&wanted).map_err(refused)?;
    prepared.view = Some(view);
    prepared.notes.extend(notes);
    prepared.scratch = Some(scratch);
    Ok(())
}

/// The script runs in a copy; with Landlock, writing elsewhere is denied.
fn copy(launch: &Launch, prepared: &mut Prepared) -> Result<(), StartError> {
    sweep();
    let scratch = Scratch::create().map_err(refused)?;
    let cwd = launch
        .cwd
        .canonicalize()
        .map_err(|e| StartError::WorkingDirectory { path: launch.cwd.clone(), error: e.to_string() })?;
    let copied = sandbox::copy(&cwd, scratch.path()).map_err(refused)?;
    let temporary = scratch.path().join("tmp");
    std::fs::create_dir(&temporary).map_err(place(&temporary))?;
    for argument in &mut prepared.argv {
        for known in [&cwd, &launch.cwd] {
            *argument = sandbox::rewrite(argument, known, &copied.cwd);
        }
    }
    set(&mut prepared.env, "PWD", copied.cwd.clone().into());
    for name in ["TMPDIR", "TMP", "TEMP"] {
        set(&mut prepared.env, name, temporary.clone().into());
    }
    let mut places = sandbox::caches(&prepared.env);
    if let Some(kept) = &launch.cache_layer {
        // They cannot be views here; what has a variable of its own is moved.
        for (name, below) in [("TORCHINDUCTOR_CACHE_DIR", "inductor"), ("TRITON_CACHE_DIR", "triton")] {
            let dir = kept.join(below);
            if !prepared.env.iter().any(|(n, _)| n == name) && std::fs::create_dir_all(&dir).is_ok() {
                set(&mut prepared.env, name, dir.clone().into());
                places.push(dir);
            }
        }
    }
    if !copied.linked.is_empty() {
        let first: Vec<String> = copied.linked.iter().take(3).map(|p| p.display().to_string()).collect();
        prepared.notes.push(format!(
            "too large to copy, so {}: {} of {}",
            if prepared.kind == Kind::Copy {
                "trials see the real one and can change it"
            } else {
                "read-only in trials"
            },
            first.join(", "),
            copied.linked.len()
        ));
    }
    if prepared.kind == Kind::Landlock {
        places.extend(real(launch)?);
        places.extend(["/dev", "/proc"].map(PathBuf::from));
        places.push(scratch.path().to_owned());
        prepared.writable_only = Some(places);
    }
    prepared.cwd = copied.cwd;
    prepared.scratch = Some(scratch);
    Ok(())
}

fn set(env: &mut Vec<(OsString, OsString)>, name: &str, value: OsString) {
    env.retain(|(n, _)| n != name);
    env.push((name.into(), value));
}
