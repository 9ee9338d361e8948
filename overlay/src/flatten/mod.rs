//! A stack of layers as one plain directory, without overlayfs.

mod entry;
mod merge;

use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::error::{Error, Inner, Result};
use crate::{Marks, directory};

/// What becomes of files that are flattened. Directories are always made new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Flatten {
    /// Copies: by `FICLONE` where the filesystem shares extents, else by copy_file_range(2), else read and written; holes
    /// stay holes, and names of one file in a layer stay names of one file.
    Copy,
    /// Further names of the layers' own files, by link(2): fast and without cost, for a directory on the same filesystem
    /// that is itself to be a layer. Whoever writes to it writes to the layers.
    HardLink,
}

/// What [`flatten`] made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Flattened {
    /// Directories, the target among them.
    pub directories: u64,
    /// Names of files of any other kind.
    pub files: u64,
    /// Those that are further names of a file.
    pub linked: u64,
    /// Those that share their extents with the layer's.
    pub cloned: u64,
    /// Bytes that were copied, without holes and what is shared.
    pub bytes: u64,
}

/// Makes what an overlay of `layers` (the top one first, any number of them) would show in the directory `target`, which
/// must be empty or not be there. A deep stack made one layer mounts at once, and what is in it is found faster.
///
/// Whiteouts and opaque directories are applied, and none is left. Owners, modes, times to the nanosecond, and xattrs are
/// kept; xattrs that a layer escapes for a nested overlay stay escaped. What is mounted below a layer is not in a copy if the
/// caller may clone the layer's mount, and else an error (`EXDEV`). Memory is needed for the names in one directory, and for each file with more than
/// one name.
///
/// Privileges: those to make such files, which is root's for foreign owners and devices; and to see the marks of the layers,
/// which are trusted xattrs (`CAP_SYS_ADMIN`) except in a user namespace.
///
/// # Errors
/// `AlreadyExists`: the target is not empty. `NotFound` or `InvalidInput` (`ENOTDIR`) for layers and target. `Unsupported`: a
/// layer has redirected directories or files without their data (`redirect_dir`, `metacopy`), or the target's filesystem
/// does not take an xattr. `PermissionDenied`, or `Os` for anything else; linking over filesystems is `Os` (`EXDEV`). What
/// was made until then stays in the target.
pub fn flatten<L: AsRef<Path>>(
    layers: impl IntoIterator<Item = L>,
    target: impl AsRef<Path>,
    how: Flatten,
) -> Result<Flattened> {
    let layers: Vec<_> = layers
        .into_iter()
        .map(|path| path.as_ref().into())
        .collect();
    into_directory(&layers, target.as_ref(), how, Marks::detect()?)
}

/// The same for layers with these marks.
pub(crate) fn into_directory(
    layers: &[PathBuf],
    target: &Path,
    how: Flatten,
    marks: Marks,
) -> Result<Flattened> {
    if layers.is_empty() {
        return Err(Inner::NoLayers.into());
    }
    check_marks_are_seen(&layers[0], marks)?;
    let layers = layers
        .iter()
        .map(|path| Layer::open(path, how))
        .collect::<Result<Vec<_>>>()?;
    let root = empty_directory(target)?;
    merge::Merge::new(&layers, target, root, how, marks).run()
}

/// To whom they are hidden, what a layer hides would come back.
fn check_marks_are_seen(layer: &Path, marks: Marks) -> Result<()> {
    if marks.are_seen()? {
        return Ok(());
    }
    let path = layer.to_owned();
    Err(Inner::HiddenMarks { path }.into())
}

/// A directory to be read from.
#[derive(Debug)]
struct Layer {
    path: PathBuf,
    root: OwnedFd,
}

impl Layer {
    /// Its mount alone, without what is mounted below, if that may be had: a file has a further name only on the very mount.
    fn open(path: &Path, how: Flatten) -> Result<Self> {
        let opened = directory::open_as("open layer", path)?;
        let root = match how {
            Flatten::HardLink => opened,
            Flatten::Copy => directory::clone_mount(opened.as_fd()).unwrap_or(opened),
        };
        Ok(Layer {
            path: path.to_owned(),
            root,
        })
    }
}

fn empty_directory(target: &Path) -> Result<OwnedFd> {
    match fs::create_dir(target) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(Error::sys("mkdir", target)(error));
        }
        _ => {}
    }
    let mut entries = fs::read_dir(target).map_err(Error::sys("open target", target))?;
    if entries.next().is_some() {
        let path = target.to_owned();
        return Err(Inner::NotEmpty { path }.into());
    }
    directory::open_as("open target", target)
}
