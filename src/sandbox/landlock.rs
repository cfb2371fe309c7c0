//! Denying writes outside of an allow-list, without namespaces.

use std::path::PathBuf;

use landlock::{ABI, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, path_beneath_rules};

/// The version of Landlock's interface that this kernel has, if it has Landlock and it is switched on.
pub fn version() -> Option<i32> {
    const ASK_VERSION: libc::c_ulong = 1;
    // SAFETY: with this flag the call takes no structure.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0_usize,
            ASK_VERSION,
        )
    };
    i32::try_from(version).ok().filter(|v| *v > 0)
}

/// Gives this process and its children the right to write below these places only.
///
/// Reading, executing, devices' ioctls (a GPU needs them) and the network are not restricted.  Programs that raise
/// privileges (`sudo`) no longer can: the kernel demands that.
///
/// # Errors
/// When the kernel enforces nothing.
pub(crate) fn restrict(places: &[PathBuf]) -> Result<(), String> {
    // Version 3 knows every way to change a file's content (truncation is its addition); older kernels do what they
    // can, and [`super::plan`] names the gap.
    let writing = AccessFs::from_write(ABI::V3);
    let status = Ruleset::default()
        .handle_access(writing)
        .and_then(Ruleset::create)
        .and_then(|rules| rules.add_rules(path_beneath_rules(places, writing)))
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(|e| e.to_string())?;
    match status.ruleset {
        RulesetStatus::NotEnforced => Err("the kernel enforces nothing".to_owned()),
        _ => Ok(()),
    }
}
