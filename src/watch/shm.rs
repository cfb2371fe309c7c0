//! `/dev/shm`: DataLoader workers hand batches over through it, and it is small in containers (64 MiB in Docker).

use std::path::Path;

/// Size and use of a shared-memory file system, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShmReading {
    /// Its size.
    pub total: u64,
    /// In use by anybody.
    pub used: u64,
}

/// Reads the file system at `path`, normally `/dev/shm`; a trial in a mount namespace may have one of its own at
/// `/proc/<pid>/root/dev/shm`.  `None` where there is none.
pub fn read(path: &Path) -> Option<ShmReading> {
    let s = nix::sys::statvfs::statvfs(path).ok()?;
    let block = s.fragment_size();
    Some(ShmReading { total: s.blocks() * block, used: s.blocks().saturating_sub(s.blocks_free()) * block })
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_written_is_seen() {
        let dir = std::path::Path::new("/dev/shm");
        let Some(before) = super::read(dir) else { panic!("this test needs /dev/shm") };
        let file = tempfile::NamedTempFile::new_in(dir).unwrap();
        std::fs::write(file.path(), vec![1_u8; 8 << 20]).unwrap();
        let after = super::read(dir).unwrap();
        assert!(after.used >= before.used.saturating_sub(4 << 20) + (4 << 20), "{before:?} {after:?}");
        assert!(super::read(std::path::Path::new("/no/such/place")).is_none());
    }
}
