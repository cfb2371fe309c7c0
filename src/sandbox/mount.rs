//! Taking the steps of a [`View`], in the helper, in its own mount namespace.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::{FsFlags, statvfs};

use super::mountinfo::mounts;
use super::view::{Step, View, What};

/// Inode of the machine's first user namespace; the kernel fixes it (`PROC_USER_INIT_INO`).
const FIRST_USER_NAMESPACE: &str = "user:[4026531837]";

/// Makes everything read-only and puts the views in place.  The caller has to enter its working directory again.
pub(crate) fn build(view: &View) -> Result<(), String> {
    let words = |step: &Step, e: io::Error| format!("{} ({}): {e}", step.at.display(), name(&step.what));
    // Opened while every path still means the real thing.  Directories come and go in /tmp: a place that has gone
    // since the view was planned needs no protection.
    let mut steps = Vec::with_capacity(view.steps.len());
    for step in &view.steps {
        match open(if step.may_be_new() { Path::new("/") } else { &step.at }) {
            Ok(real) => steps.push((step, real)),
            Err(e) if step.may_have_gone() && e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(words(step, e)),
        }
    }
    let was_read_only: Vec<bool> = steps.iter().map(|(step, _)| is_read_only(&step.at)).collect();
    read_only(&writable(view))?;
    let mut ours = Vec::with_capacity(steps.len());
    for ((step, _), was_read_only) in steps.iter().zip(was_read_only) {
        ours.push(Ours::prepare(step, was_read_only).map_err(|e| words(step, e))?);
    }
    let first = fs::read_link("/proc/self/ns/user").is_ok_and(|l| l.as_os_str() == FIRST_USER_NAMESPACE);
    for ((step, real), ours) in steps.iter().zip(&ours) {
        match take(step, real, ours, first) {
            Err(e) if step.may_have_gone() && e.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(|e| words(step, e))?,
        }
    }
    Ok(())
}

fn name(what: &What) -> &'static str {
    match what {
        What::Overlay { .. } => "overlay",
        What::Skeleton { .. } => "skeleton",
        What::Real { .. } => "bind",
        What::Kept { .. } => "cache",
        What::SharedMemory { .. } => "shared memory",
    }
}

/// Directories of ours, on mounts that may be written.
#[derive(Default)]
struct Ours {
    upper: Option<File>,
    work: Option<File>,
    dir: Option<File>,
}

impl Ours {
    fn prepare(step: &Step, was_read_only: bool) -> io::Result<Self> {
        let mut ours = Self::default();
        match &step.what {
            What::Overlay { layer } => {
                writable_again(layer)?;
                ours.upper = Some(open(&layer.join("upper"))?);
                ours.work = Some(open(&layer.join("work"))?);
            }
            What::Skeleton { dir } | What::Kept { dir } => {
                writable_again(dir)?;
                ours.dir = Some(open(dir)?);
            }
            // What could not be written before cannot be written now.
            What::Real { writable: true } if !was_read_only => {
                writable_again(&step.at)?;
                ours.dir = Some(open(&step.at)?);
            }
            What::Real { .. } | What::SharedMemory { .. } => {}
        }
        Ok(ours)
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(path)
}

/// A path that means an open file whatever is mounted over its name, and that has no characters that options of
/// mounts give a meaning to.
fn path_of(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

fn bind(from: &Path, to: &Path) -> io::Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    Ok(mount::<Path, Path, str, str>(Some(from), to, None, flags, None)?)
}

fn remount(at: &Path, read_only: MsFlags) -> io::Result<()> {
    // Options that are not named again would be dropped, which a user namespace does not allow.
    let found = statvfs(at)?.flags();
    let mut flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | read_only;
    for (is, keep) in [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ] {
        if found.contains(is) {
            flags |= keep;
        }
    }
    Ok(mount::<str, Path, str, str>(None, at, None, flags, None)?)
}

/// Real places that are to be written.
fn writable(view: &View) -> Vec<PathBuf> {
    let steps = view.steps.iter().filter(|s| s.what == What::Real { writable: true });
    steps.map(|s| s.at.clone()).collect()
}

fn is_read_only(at: &Path) -> bool {
    statvfs(at).is_ok_and(|s| s.flags().contains(FsFlags::ST_RDONLY))
}

/// A mount of its own for a directory on a mount that has become read-only.
fn writable_again(dir: &Path) -> io::Result<()> {
    bind(dir, dir)?;
    remount(dir, MsFlags::empty())
}

/// Every mount, except devices, `/proc`, and what lies inside of places that are written.
fn read_only(writable: &[PathBuf]) -> Result<(), String> {
    for m in mounts().map_err(|e| e.to_string())? {
        let device = ["/dev", "/proc"].iter().any(|top| m.point.starts_with(top));
        if device || m.is_read_only() || writable.iter().any(|dir| m.point.starts_with(dir)) {
            continue;
        }
        match remount(&m.point, MsFlags::MS_RDONLY) {
            Ok(()) => {}
            // Not to be reached, so not to be written either (a FUSE mount of another user).
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied && statvfs(&m.point).is_err() => {}
            Err(e) => return Err(format!("{} cannot be made read-only: {e}", m.point.display())),
        }
    }
    Ok(())
}

fn take(step: &Step, real: &File, ours: &Ours, first: bool) -> io::Result<()> {
    let at = step.at.as_path();
    let missing = || io::Error::from(io::ErrorKind::NotFound);
    match &step.what {
        What::Overlay { .. } => {
            let (upper, work) = ours.upper.as_ref().zip(ours.work.as_ref()).ok_or_else(missing)?;
            overlay(at, real, upper, work, first)
        }
        What::Skeleton { .. } => bind(&path_of(ours.dir.as_ref().ok_or_else(missing)?), at),
        What::Kept { .. } => {
            fs::create_dir_all(at)?;
            bind(&path_of(ours.dir.as_ref().ok_or_else(missing)?), at)
        }
        What::Real { .. } => bind(&path_of(ours.dir.as_ref().unwrap_or(real)), at),
        What::SharedMemory { size, over } => shared_memory(at, real, *size, *over, first),
    }
}

fn overlay(at: &Path, lower: &File, upper: &File, work: &File, first: bool) -> io::Result<()> {
    let layers = format!(
        "lowerdir={},upperdir={},workdir={}",
        path_of(lower).display(),
        path_of(upper).display(),
        path_of(work).display()
    );
    // In a user namespace overlayfs keeps its marks in `user.` attributes; without them, removing a directory that
    // was there before is an input/output error.  Elsewhere a directory that was there before can also be renamed.
    let more: &[&str] =
        if first { &["index=off,redirect_dir=on", "index=off", ""] } else { &["userxattr", ""] };
    let mut result = Err(io::Error::from(io::ErrorKind::Unsupported));
    for more in more {
        let options = if more.is_empty() { layers.clone() } else { format!("{layers},{more}") };
        result = mount(Some("overlay"), at, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
            .map_err(io::Error::from);
        // An option that the kernel does not know.
        if !matches!(&result, Err(e) if e.raw_os_error() == Some(libc::EINVAL)) {
            break;
        }
    }
    result
}

fn shared_memory(at: &Path, real: &File, size: u64, over: bool, first: bool) -> io::Result<()> {
    let options = format!("size={size},mode=1777");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some(options.as_str()))?;
    if !over {
        return Ok(());
    }
    let (upper, work) = (at.join("upper"), at.join("work"));
    for dir in [&upper, &work] {
        fs::create_dir(dir)?;
        fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o1777))?;
    }
    let (upper, work) = (open(&upper)?, open(&work)?);
    overlay(at, real, &upper, &work, first)
}
