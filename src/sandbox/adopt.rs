//! Files of users that are not mapped, in a user namespace.
//!
//! Overlayfs changes a file by copying it to the upper layer with its owner, and refuses (EOVERFLOW) when uid or gid
//! have no meaning in the namespace.  Only one of each has: those of the user.  So the file of a shared group cannot
//! be changed, nor anything below a directory of root, though the user may do both outside.  What is on the way to
//! places that will be written is therefore put into the upper layer beforehand, as the user's own.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access, getegid, geteuid};

/// Entries of a working directory that are looked at, at most: a data set may have millions.
const ENTRIES: usize = 20_000;
/// Files larger than this are not copied, bytes.
const FILE: u64 = 16 << 20;
/// All copies of one trial, bytes.
const TOTAL: u64 = 256 << 20;

/// An overlay's place and its upper layer.
pub(super) struct Layer {
    pub at: PathBuf,
    pub upper: PathBuf,
}

/// Whether owner and group mean something in the namespace.
pub(super) fn is_mapped(found: &fs::Metadata) -> bool {
    found.uid() == geteuid().as_raw() && found.gid() == getegid().as_raw()
}

fn is_writable(path: &Path) -> bool {
    access(path, AccessFlags::W_OK).is_ok()
}

/// Upper layers that are being prepared.  Modes are set at the end: a directory that may only be read in the trial is
/// filled here first.
pub(super) struct Adoption<'a> {
    layers: &'a [Layer],
    /// Real directory and ours, parents before children.
    made: Vec<(PathBuf, PathBuf)>,
    copied: u64,
}

impl<'a> Adoption<'a> {
    pub fn begin(layers: &'a [Layer]) -> Self {
        let mut made = Vec::new();
        for layer in layers {
            let _ = fs::set_permissions(&layer.upper, fs::Permissions::from_mode(0o700));
            made.push((layer.at.clone(), layer.upper.clone()));
        }
        Self { layers, made, copied: 0 }
    }

    /// Puts the directories on the way to `place` into the upper layer that covers it.
    pub fn way(&mut self, place: &Path) {
        let Some(layer) = enclosing(self.layers, place) else { return };
        let strange = |dir: &Path| fs::metadata(dir).is_ok_and(|found| !is_mapped(&found));
        let inside = |dir: &&Path| *dir != layer.at && dir.starts_with(&layer.at);
        // From the deepest directory that needs it upwards, every one has to be there.
        if let Some(deepest) = place.ancestors().filter(inside).find(|dir| dir.is_dir() && strange(dir)) {
            self.make(layer, deepest);
        }
    }

    /// Puts what may be written but belongs to others below `top` into the upper layer.  Says what was left out.
    pub fn tree(&mut self, top: &Path) -> Option<String> {
        let layer = enclosing(self.layers, top)?;
        let (mut queue, mut entries, mut left_out) = (vec![top.to_owned()], 0, 0_usize);
        while let Some(dir) = queue.pop() {
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                entries += 1;
                if entries > ENTRIES {
                    return Some(format!(
                        "{} has more than {ENTRIES} files: some of other groups may not be changeable in a trial",
                        top.display()
                    ));
                }
                let (path, Ok(found)) = (entry.path(), entry.metadata()) else { continue };
                // Another mount or overlay begins here.
                if self.layers.iter().any(|l| l.at == path) {
                    continue;
                }
                let strange = !is_mapped(&found) && is_writable(&path);
                if found.is_dir() {
                    if strange {
                        self.make(layer, &path);
                    }
                    queue.push(path);
                } else if strange && found.is_file() && !self.copy(layer, &path, found.len()) {
                    left_out += 1;
                }
            }
        }
        let text = || {
            format!(
                "{left_out} large files of other groups in {} cannot be changed in a trial",
                top.display()
            )
        };
        (left_out > 0).then(text)
    }

    /// A directory and those above it, in the upper layer: it is seen merged with the real one.
    fn make(&mut self, layer: &Layer, dir: &Path) {
        let Ok(below) = dir.strip_prefix(&layer.at) else { return };
        let (mut real, mut ours) = (layer.at.clone(), layer.upper.clone());
        for part in below {
            real.push(part);
            ours.push(part);
            if fs::create_dir(&ours).is_ok() {
                self.made.push((real.clone(), ours.clone()));
            }
        }
    }

    fn copy(&mut self, layer: &Layer, file: &Path, bytes: u64) -> bool {
        let Ok(below) = file.strip_prefix(&layer.at) else { return false };
        if bytes > FILE || self.copied + bytes > TOTAL {
            return false;
        }
        if let Some(dir) = file.parent() {
            self.make(layer, dir);
        }
        let ours = layer.upper.join(below);
        if fs::copy(file, &ours).is_err() {
            return false;
        }
        self.copied += bytes;
        if let Ok(modified) = fs::metadata(file).and_then(|m| m.modified()) {
            let _ = fs::File::options().append(true).open(&ours).and_then(|f| f.set_modified(modified));
        }
        like(file, &ours);
        true
    }

    /// Sets the modes.
    pub fn finish(self) {
        for (real, ours) in self.made.iter().rev() {
            like(real, ours);
        }
    }
}

fn enclosing<'a>(layers: &'a [Layer], place: &Path) -> Option<&'a Layer> {
    layers.iter().filter(|l| place.starts_with(&l.at)).max_by_key(|l| l.at.components().count())
}

/// Owner, where that may be given, and mode of another file.  What becomes the user's own may be written by them
/// exactly if the other may.
pub(super) fn like(model: &Path, file: &Path) {
    let Ok(found) = fs::metadata(model) else { return };
    let mut mode = found.mode() & 0o7777;
    if std::os::unix::fs::chown(file, Some(found.uid()), Some(found.gid())).is_err() {
        let may = |flag| access(model, flag).is_ok();
        mode &= !0o700;
        for (flag, bit) in
            [(AccessFlags::R_OK, 0o400), (AccessFlags::W_OK, 0o200), (AccessFlags::X_OK, 0o100)]
        {
            if may(flag) {
                mode |= bit;
            }
        }
    }
    let _ = fs::set_permissions(file, fs::Permissions::from_mode(mode));
}
