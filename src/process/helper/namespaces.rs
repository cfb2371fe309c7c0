//! Namespaces of users, mounts and processes.

use std::fs;
use std::io;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

/// Moves this process into new namespaces; its next child is the first process of a new PID namespace.
///
/// The machine's root needs no user namespace, and is better off without one: in it, files of users that are not
/// mapped cannot be written (EOVERFLOW).  Everybody else keeps uid and gid in a user namespace.  Says whether there is
/// one.
pub(super) fn enter() -> io::Result<bool> {
    // IPC, so that System V shared memory ends with the trial.
    let spaces = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWIPC;
    let (uid, gid) = (geteuid(), getegid());
    let map = !(uid.is_root() && unshare(spaces).is_ok());
    if map {
        unshare(spaces | CloneFlags::CLONE_NEWUSER)?;
        // The kernel wants this before a group may be mapped without privileges.
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
        fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
    }
    // What is mounted here must not appear outside.
    mount::<str, str, str, str>(None, "/", None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None)?;
    Ok(map)
}

/// A `/proc` that shows the new PID namespace; called by its first process.
pub(super) fn mount_proc() -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>)?;
    Ok(())
}
