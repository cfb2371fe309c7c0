//! The mount table.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// One mount that can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    id: u64,
    /// Major and minor number of the file system.
    pub device: String,
    /// The part of the file system that is mounted.
    pub root: PathBuf,
    /// Where.
    pub point: PathBuf,
    /// Options of the mount: `rw,nosuid`.
    pub options: String,
    /// `ext4`.
    pub kind: String,
    /// Options of the file system.
    pub super_options: String,
}

impl Mount {
    /// Nothing can be written there.
    pub fn is_read_only(&self) -> bool {
        has(&self.options, "ro") || has(&self.super_options, "ro")
    }
}

fn has(options: &str, option: &str) -> bool {
    options.split(',').any(|o| o == option)
}

/// Mounts of this process's namespace that are not hidden below others, parents first.
pub(crate) fn mounts() -> io::Result<Vec<Mount>> {
    let mut mounts: Vec<Mount> =
        fs::read("/proc/self/mountinfo")?.split(|b| *b == b'\n').filter_map(parse).collect();
    mounts.retain(|m| mount_id(&m.point).is_none_or(|id| id == m.id));
    // Where the kernel does not tell ids, the later of two mounts on one place is the upper one.
    mounts.reverse();
    mounts.sort_by(|a, b| a.point.cmp(&b.point));
    mounts.dedup_by(|a, b| a.point == b.point);
    Ok(mounts)
}

fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let id = text(fields.next()?).parse().ok()?;
    let device = text(fields.nth(1)?);
    let root = unescape(fields.next()?);
    let point = unescape(fields.next()?);
    let options = text(fields.next()?);
    let mut fields = fields.skip_while(|f| *f != b"-").skip(1);
    let kind = text(fields.next()?);
    let super_options = text(fields.nth(1)?);
    Some(Mount { id, device, root, point, options, kind, super_options })
}

/// Space, tab, newline and backslash are written in octal.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut i = 0;
    while i < field.len() {
        let octal = (field[i] == b'\\').then(|| field.get(i + 1..i + 4)).flatten();
        match octal.and_then(|o| u8::from_str_radix(std::str::from_utf8(o).ok()?, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                i += 4;
            }
            None => {
                bytes.push(field[i]);
                i += 1;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

/// The mount that a path is on, by the number in the table (Linux 5.8).
fn mount_id(path: &Path) -> Option<u64> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: a structure of integers, for which zeros are a value.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT;
    // SAFETY: path and structure live through the call.
    let failed =
        unsafe { libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, libc::STATX_MNT_ID, &raw mut found) };
    (failed == 0 && found.stx_mask & libc::STATX_MNT_ID != 0).then_some(found.stx_mnt_id)
}

/// Where a path is inside of its file system: device and path from the file system's own root.  Two paths with the
/// same value are the same file, also through bind mounts.
pub(crate) fn inside(mounts: &[Mount], path: &Path) -> Option<(String, PathBuf)> {
    let mount =
        mounts.iter().filter(|m| path.starts_with(&m.point)).max_by_key(|m| m.point.components().count())?;
    let below = path.strip_prefix(&mount.point).ok()?;
    Some((mount.device.clone(), mount.root.join(below)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_escapes_and_optional_fields() {
        let m = parse(br"36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue")
            .unwrap();
        assert_eq!(m.point, Path::new("/mnt 2"));
        assert_eq!((m.root.as_path(), m.kind.as_str()), (Path::new("/mnt1"), "ext3"));
        assert!(!m.is_read_only());
        let m = parse(b"36 35 98:0 / /x ro - tmpfs none rw").unwrap();
        assert!(m.is_read_only());
        assert_eq!(inside(&[m], Path::new("/x/y")), Some(("98:0".to_owned(), PathBuf::from("/y"))));
    }

    #[test]
    fn this_machine_has_a_root() {
        assert!(mounts().unwrap().iter().any(|m| m.point == Path::new("/")));
    }
}
