//! Which views protect every place that a trial could write.
//!
//! Every directory below `/` and every mount gets an overlay, so that a script may write wherever it could write
//! before.  An overlay's layer may not lie inside of what it covers, so the directories above the scratch room are
//! split: each of their subdirectories gets an overlay of its own, and they themselves become a skeleton.  In a user
//! namespace two more rules hold: a directory above another mount cannot be covered (it is split, too), and files of
//! others need care ([`adopt`]).

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};

use super::adopt::{Adoption, Layer, is_mapped, like};
use super::mountinfo::{Mount, inside, mounts};
use super::view::{View, What};

/// What the cover is for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    /// Room of this trial; holds every layer.
    pub scratch: PathBuf,
    /// Really written: what the user shares, and what is ours.
    pub real: Vec<PathBuf>,
    /// The script's working directory.
    pub cwd: PathBuf,
    /// Places where the script is known to write, absolute: working directory, HOME, paths in arguments.
    pub named: Vec<PathBuf>,
    /// Caches and the directory that keeps them between trials.
    pub caches: Option<(Vec<PathBuf>, PathBuf)>,
    /// In a user namespace.
    pub mapped_only: bool,
}

/// Left as they are; `/dev/shm` is seen to apart.  Sockets of services live in `/run`.
const SPECIAL: [&str; 4] = ["/proc", "/sys", "/dev", "/run"];
/// Belong to the system: a user without privileges cannot write there, and services have sockets there.
const SYSTEM: [&str; 10] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/boot", "/var"];
/// Directories whose sockets programs talk to: seen through an overlay they are dead.
const SOCKETS: [&str; 3] = ["/var/lib/sss/pipes", "/tmp/nvidia-mps", "/tmp/.X11-unix"];
/// Files in a skeleton that are copied, so that they can be changed; larger ones can only be read, bytes.
const COPIED: u64 = 1 << 20;

/// A split directory with more subdirectories than this is not rebuilt: each would be a mount.
const MANY: usize = 500;

/// File systems that hold no files of users.
const PSEUDO: [&str; 22] = [
    "proc",
    "sysfs",
    "devtmpfs",
    "devpts",
    "cgroup",
    "cgroup2",
    "mqueue",
    "hugetlbfs",
    "debugfs",
    "tracefs",
    "securityfs",
    "pstore",
    "bpf",
    "configfs",
    "fusectl",
    "binfmt_misc",
    "autofs",
    "efivarfs",
    "nsfs",
    "rpc_pipefs",
    "selinuxfs",
    "fuse.portal",
];

/// Works out the views and makes the directories that they need below `scratch`.  Says what they do not cover.
pub(crate) fn cover(wanted: &Wanted) -> io::Result<(View, Vec<String>)> {
    let mounts = mounts()?;
    let layers = [Some(&wanted.scratch), wanted.caches.as_ref().map(|(_, kept)| kept)];
    let rooms = layers.into_iter().flatten().filter_map(|p| inside(&mounts, p)).collect();
    let mut work = Work { wanted, mounts, rooms, view: View::default(), count: 0 };
    work.everything()?;
    work.shared_memory();
    work.caches()?;
    let notes = if wanted.mapped_only { work.strangers() } else { Vec::new() };
    for path in SOCKETS.map(PathBuf::from).iter().filter(|p| p.is_dir()) {
        work.view.put(path, What::Real { writable: true });
    }
    for path in &wanted.real {
        work.view.put(path, What::Real { writable: true });
    }
    Ok((work.view.finish(), notes))
}

struct Work<'a> {
    wanted: &'a Wanted,
    mounts: Vec<Mount>,
    /// Where layers lie, as device and path inside of it.
    rooms: Vec<(String, PathBuf)>,
    view: View,
    count: u32,
}

impl Work<'_> {
    fn everything(&mut self) -> io::Result<()> {
        for mount in self.mounts.clone() {
            let point = mount.point.as_path();
            if point == Path::new("/") {
                self.root()?;
            } else if !is_below(point, &SPECIAL) && !self.is_real(point) {
                let covered =
                    !mount.is_read_only() && !PSEUDO.contains(&mount.kind.as_str()) && point.is_dir();
                if covered {
                    self.place(point)?;
                } else {
                    // An overlay above shows what is below the mount: put it back.
                    self.view.put(point, What::Real { writable: false });
                }
            }
        }
        Ok(())
    }

    /// Entries can not be made in `/` itself, which stays read-only.
    fn root(&mut self) -> io::Result<()> {
        for dir in self.directories(Path::new("/"))? {
            let system = self.wanted.mapped_only && is_below(&dir, &SYSTEM);
            if !is_below(&dir, &SPECIAL) && !system {
                self.place(&dir)?;
            }
        }
        if self.wanted.mapped_only && !self.is_mount(Path::new("/var/tmp")) {
            self.place(Path::new("/var/tmp"))?;
        }
        Ok(())
    }

    /// Covers one directory, or splits it.
    fn place(&mut self, dir: &Path) -> io::Result<()> {
        if self.is_real(dir) || !dir.is_dir() {
            return Ok(());
        }
        if !self.must_split(dir) {
            return self.overlay(dir);
        }
        let children = self.directories(dir)?;
        if children.len() > MANY {
            // It stays real and read-only, except on the way to what will be written.
            for child in children.into_iter().filter(|c| self.wanted.named.iter().any(|n| n.starts_with(c))) {
                self.place(&child)?;
            }
            return Ok(());
        }
        self.skeleton(dir)?;
        for child in children {
            self.place(&child)?;
        }
        Ok(())
    }

    fn overlay(&mut self, at: &Path) -> io::Result<()> {
        self.count += 1;
        let layer = self.wanted.scratch.join(format!("layer-{}", self.count));
        make_layer(&layer, Some(at))?;
        self.view.put(at, What::Overlay { layer });
        Ok(())
    }

    /// A directory of ours that looks like a real one: placeholders for directories, copies of links and small files.
    fn skeleton(&mut self, at: &Path) -> io::Result<()> {
        if access(at, AccessFlags::W_OK).is_err() {
            return Ok(());
        }
        self.count += 1;
        let dir = self.wanted.scratch.join(format!("skeleton-{}", self.count));
        fs::create_dir(&dir)?;
        for entry in fs::read_dir(at).into_iter().flatten().flatten() {
            let (path, copy) = (entry.path(), dir.join(entry.file_name()));
            let Ok(found) = entry.metadata() else { continue };
            if found.is_symlink() {
                if let Ok(target) = fs::read_link(&path) {
                    std::os::unix::fs::symlink(target, &copy)?;
                }
            } else if found.is_dir() {
                if !self.is_room(&path) {
                    fs::create_dir(&copy)?;
                    like(&path, &copy);
                    // Until something better is put there (the next step for the same place).
                    self.view.put(&path, What::Real { writable: false });
                }
            } else if found.is_file() && found.len() <= COPIED && fs::copy(&path, &copy).is_ok() {
                like(&path, &copy);
            } else {
                fs::write(&copy, "")?;
                self.view.put(&path, What::Real { writable: false });
            }
        }
        like(at, &dir);
        self.view.put(at, What::Skeleton { dir });
        Ok(())
    }

    /// Subdirectories that are no mounts and no room of ours.
    fn directories(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let Ok(entries) = fs::read_dir(dir) else { return Ok(Vec::new()) };
        let directories = entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
        Ok(directories.map(|e| e.path()).filter(|p| !self.is_room(p) && !self.is_mount(p)).collect())
    }

    fn is_mount(&self, path: &Path) -> bool {
        self.mounts.iter().any(|m| m.point == path)
    }

    fn is_room(&self, path: &Path) -> bool {
        inside(&self.mounts, path).is_some_and(|place| self.rooms.contains(&place))
    }

    fn is_real(&self, path: &Path) -> bool {
        self.wanted.real.iter().any(|real| path.starts_with(real))
    }

    fn must_split(&self, dir: &Path) -> bool {
        let holds_room = inside(&self.mounts, dir).is_some_and(|(device, path)| {
            self.rooms.iter().any(|(d, room)| *d == device && room.starts_with(&path))
        });
        let holds_mount = || self.mounts.iter().any(|m| m.point != dir && m.point.starts_with(dir));
        holds_room || (self.wanted.mapped_only && holds_mount())
    }

    /// In a user namespace: what belongs to others and will be written all the same.
    fn strangers(&self) -> Vec<String> {
        let overlay = |step: &super::view::Step| match &step.what {
            What::Overlay { layer } => Some(Layer { at: step.at.clone(), upper: layer.join("upper") }),
            _ => None,
        };
        let layers: Vec<Layer> = self.view.steps.iter().filter_map(overlay).collect();
        let mut adoption = Adoption::begin(&layers);
        for named in &self.wanted.named {
            adoption.way(&resolve(named));
        }
        let top = resolve(&self.wanted.cwd);
        // A look at the first level tells whether groups are in play at all.
        let entries = || fs::read_dir(&top).into_iter().flatten().flatten();
        let shared = entries().any(|e| {
            let strange = e.metadata().is_ok_and(|m| !m.is_symlink() && !is_mapped(&m));
            strange && access(&e.path(), AccessFlags::W_OK).is_ok()
        });
        let left_out = if shared { adoption.tree(&top) } else { None };
        adoption.finish();
        left_out.into_iter().collect()
    }

    fn shared_memory(&mut self) {
        let Ok(at) = Path::new("/dev/shm").canonicalize() else { return };
        if self.is_real(&at) || !at.is_dir() {
            return;
        }
        let size = statvfs(&at).map_or(0, |s| s.blocks() * s.fragment_size());
        let over = fs::read_dir(&at).is_ok_and(|mut entries| entries.next().is_some());
        self.view.put(&at, What::SharedMemory { size, over });
    }

    fn caches(&mut self) -> io::Result<()> {
        let Some((caches, kept)) = &self.wanted.caches else { return Ok(()) };
        let mut seen = HashSet::new();
        for cache in caches {
            let cache = resolve(cache);
            let inner = caches.iter().any(|c| resolve(c) != cache && cache.starts_with(resolve(c)));
            if is_below(&cache, &SPECIAL) || self.is_real(&cache) || inner || !seen.insert(cache.clone()) {
                continue;
            }
            let layer = kept.join(name_of(&cache));
            if cache.is_dir() && !self.must_split(&cache) {
                make_layer(&layer, Some(&cache))?;
                self.view.put(&cache, What::Overlay { layer });
            } else if !cache.exists() {
                make_layer(&layer, None)?;
                self.view.put(&cache, What::Kept { dir: layer.join("upper") });
            }
        }
        Ok(())
    }
}

fn is_below(path: &Path, tops: &[&str]) -> bool {
    tops.iter().any(|top| path.starts_with(top))
}

/// Without symbolic links, also when the end of the path does not exist.
pub(crate) fn resolve(path: &Path) -> PathBuf {
    let there = path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let below = path.strip_prefix(there).unwrap_or(Path::new(""));
    let there = there.canonicalize().unwrap_or_else(|_| there.to_owned());
    if below.as_os_str().is_empty() { there } else { there.join(below) }
}

/// One file name for a path.
fn name_of(path: &Path) -> String {
    use sha2::{Digest, Sha256};
    use std::os::unix::ffi::OsStrExt;
    let digest = Sha256::digest(path.as_os_str().as_bytes());
    digest.iter().take(8).map(|b| format!("{b:02x}")).collect()
}

/// The two directories of a layer; the top of what is seen has the attributes of `upper`.
fn make_layer(layer: &Path, model: Option<&Path>) -> io::Result<()> {
    for part in ["upper", "work"] {
        fs::create_dir_all(layer.join(part))?;
    }
    if let Some(model) = model {
        like(model, &layer.join("upper"));
    }
    Ok(())
}
