//! A persistent place for the agent, so that `autofit run` can become the command and leave nothing to clean up.
//!
//! `$XDG_CACHE_HOME/autofit/agent/<version>-<hash>`, or a private folder below `/tmp` where HOME cannot be written.
//! The name has the hash of the content: versions do not mix, and a folder that was made once is right for ever
//! unless somebody changed it, which is looked for each time.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Bits of a mode that let others than the owner write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// A file of the agent: path below the folder, content.
pub(super) type AgentFile<'a> = (&'a Path, &'a [u8]);

/// Why the agent cannot be put anywhere.
#[derive(Debug, thiserror::Error)]
#[error("the agent cannot be unpacked: {}", .0.join("; "))]
pub struct NoPlace(Vec<String>);

/// Makes sure that the files are in a persistent folder, and says where.
pub(super) fn install(files: &[AgentFile], roots: &[PathBuf]) -> Result<PathBuf, NoPlace> {
    let name = format!("{}-{}", env!("CARGO_PKG_VERSION"), &hash(files)[..16]);
    let mut refused = Vec::new();
    for root in roots {
        match install_in(files, root, &name) {
            Ok(path) => return Ok(path),
            Err(e) => refused.push(format!("{}: {e}", root.display())),
        }
    }
    Err(NoPlace(refused))
}

/// Places to try, best first.
pub(super) fn roots(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|h| h.join(".cache")));
    let private = PathBuf::from("/tmp").join(format!("autofit-{}", nix::unistd::geteuid()));
    cache.map(|c| c.join("autofit")).into_iter().chain([private]).map(|p| p.join("agent")).collect()
}

fn install_in(files: &[AgentFile], root: &Path, name: &str) -> io::Result<PathBuf> {
    // Only folders that we make are private; HOME's own modes are the user's business.
    if let Some(parent) = root.parent() {
        if let Some(above) = parent.parent() {
            fs::create_dir_all(above)?;
        }
        private(parent)?;
    }
    private(root)?;
    let place = root.join(name);
    if holds(&place, files) {
        return Ok(place);
    }
    let fresh = tempfile::Builder::new().prefix(".new-").tempdir_in(root)?;
    for (path, content) in files {
        let path = fresh.path().join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, content)?;
    }
    replace(fresh, &place)?;
    if holds(&place, files) { Ok(place) } else { Err(io::Error::other("the files are not as written")) }
}

/// Puts the fresh folder in its place.  A run that was faster has written the same; one that was altered is moved
/// out of the way first, since a folder cannot be renamed over another.
fn replace(fresh: tempfile::TempDir, place: &Path) -> io::Result<()> {
    let old = fresh.path().with_extension("old");
    match fs::rename(place, &old) {
        Ok(()) => {
            let _ = fs::remove_dir_all(&old);
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    match fs::rename(fresh.path(), place) {
        Ok(()) => {
            // It has another name now; there is nothing left to remove.
            let _ = fresh.keep();
            Ok(())
        }
        Err(e) if place.is_dir() && e.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        Err(e) => Err(e),
    }
}

/// A folder that only its owner, this user, can write to.
fn private(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    if is_ours(path) { Ok(()) } else { Err(io::Error::other("others can write to it")) }
}

fn is_ours(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| {
        !m.is_symlink() && m.uid() == nix::unistd::geteuid().as_raw() && m.mode() & WRITABLE_BY_OTHERS == 0
    })
}

/// Whether every file is there, as it should be, and nobody else can change it.
fn holds(place: &Path, files: &[AgentFile]) -> bool {
    let right = |(path, content): &AgentFile| {
        let path = place.join(path);
        is_ours(&path) && fs::read(&path).is_ok_and(|now| now == *content)
    };
    is_ours(place) && files.iter().all(right)
}

fn hash(files: &[AgentFile]) -> String {
    let mut sorted = files.to_vec();
    sorted.sort();
    let mut sha = Sha256::new();
    for (path, content) in sorted {
        sha.update(path.as_os_str().as_encoded_bytes());
        sha.update([0]);
        sha.update((content.len() as u64).to_le_bytes());
        sha.update(content);
    }
    sha.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn files() -> Vec<AgentFile<'static>> {
        vec![
            (Path::new("sitecustomize.py"), b"import a\n".as_slice()),
            (Path::new("autofit_agent/__init__.py"), b"".as_slice()),
        ]
    }

    #[test]
    fn it_is_made_once_and_put_right_when_it_was_altered() {
        let dir = tempfile::tempdir().unwrap();
        let roots = [dir.path().join("cache/autofit/agent")];
        let place = install(&files(), &roots).unwrap();
        let inode = |p: &Path| fs::metadata(p).unwrap().ino();
        let first = inode(&place);
        assert_eq!(install(&files(), &roots).unwrap(), place);
        assert_eq!(inode(&place), first, "not written again");

        fs::write(place.join("sitecustomize.py"), "import evil\n").unwrap();
        assert_eq!(install(&files(), &roots).unwrap(), place);
        assert_eq!(fs::read(place.join("sitecustomize.py")).unwrap(), b"import a\n");

        fs::remove_file(place.join("autofit_agent/__init__.py")).unwrap();
        install(&files(), &roots).unwrap();
        assert!(place.join("autofit_agent/__init__.py").exists());
        assert_eq!(fs::read_dir(&roots[0]).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_place_that_others_can_write_to_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("a/autofit/agent");
        fs::create_dir_all(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        let other = dir.path().join("b/autofit/agent");
        let place = install(&files(), &[open.clone(), other.clone()]).unwrap();
        assert!(place.starts_with(&other));
        let refused = install(&files(), &[open]).unwrap_err().to_string();
        assert!(refused.contains("others can write to it"), "{refused}");
    }

    #[test]
    fn the_cache_is_where_the_user_says() {
        let vars = |xdg: Option<&'static str>, home: Option<&'static str>| {
            let roots = roots(move |name| if name == "HOME" { home } else { xdg }.map(OsString::from));
            roots[0].display().to_string()
        };
        assert_eq!(vars(Some("/x"), Some("/home/me")), "/x/autofit/agent");
        assert_eq!(vars(Some("relative"), Some("/home/me")), "/home/me/.cache/autofit/agent");
        assert!(vars(None, None).starts_with("/tmp/autofit-"));
    }
}
