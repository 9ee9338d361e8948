//! Layer tars into directories that overlayfs can stack.

mod acl;
mod build;
mod data;
mod entry;
mod failure;
mod ids;
mod limits;
mod lower;
mod meta;
mod names;
mod pax;
mod pipe;
mod source;
mod tree;
mod xattrs;

use std::ffi::OsString;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use rustix::fs::{CWD, Mode, OFlags, openat};

pub(crate) use acl::mapped as mapped_acl;
pub(crate) use failure::Failure;
pub use ids::Unmapped;
pub use limits::Limits;
pub use pipe::Compression;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::marks::Marks;
use ids::Ids;
pub(crate) use lower::Below;
use lower::Lowers;

/// Unpacks a layer's tar into a directory, in the form that overlayfs stacks: what the layer deletes is a character device
/// 0:0, and a directory that hides those below has the xattr `trusted.overlay.opaque` or `user.overlay.opaque`.
///
/// ```no_run
/// use std::fs::File;
///
/// use cofferdam_overlay::Apply;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let applied = Apply::new("/srv/app") // an empty directory
///     .lower(["/srv/debian"])
///     .blob("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".parse()?)
///     .tar(File::open("app.tar.gz")?)?;
/// println!("{} entries, diff id {}", applied.entries, applied.diff_id);
/// # Ok(())
/// # }
/// ```
///
/// The tar may be plain, gzip or zstd, which its first bytes tell. Two threads help, one to read and inflate, one to hash
/// (what is plain, the one that reads hashes); they end before the call returns. All files are made by the calling thread,
/// with its ids and in its namespaces. The umask does not matter. It takes about a hundred fds, however many layers are below.
///
/// # What becomes of an entry
///
/// | in the layer | in the directory |
/// |---|---|
/// | a file, directory, symlink, fifo | the same: mode with set-id bits, owner, mtime to the nanosecond, xattrs, ACLs; the holes of a sparse file stay holes |
/// | the same path twice | the later one; a directory stays with what is in it, and takes the later metadata |
/// | a directory where a file was, or a file where a directory was | the later one; the directory hides those below |
/// | a hard link to a file of the layer | a hard link |
/// | a hard link to a file of a layer below only | a copy of that file in this layer, and a link to it |
/// | `./` | metadata of the layer's root; without it those of the layers below, or mode 755 |
/// | a path without an entry for a directory on the way | the directory has the metadata of the layers below; without them mode 755, user and group 0 and the entry's mtime |
/// | a symlink on the way, of this layer or one below | followed, with the layer as `/`: `lib/new` is at `usr/lib/new` where `lib` points to `usr/lib` |
/// | a path with `..` in it | refused |
/// | an absolute path | below the layer's root |
/// | `.wh.name` of any type | a whiteout of `name` |
/// | `.wh.name` and `name`, in any order | `name`: a whiteout hides layers below only. As a directory it hides those below |
/// | `.wh..wh..opq`, first or last in its directory | the directory hides those below, and keeps all of this layer |
/// | `.wh..wh..opq` in the root | [`AppliedLayer::opaque_root`]: overlayfs has no such mark, so stack nothing below |
/// | a whiteout of what is not below, or in a directory that hides those below | nothing: overlayfs would list a name that is not there |
/// | `.wh..wh.plnk` and other names of AUFS | skipped |
/// | `.wh.`, `.wh..`, `.wh...`, or a whiteout on the way | refused |
/// | a device | as [`devices`](Apply::devices) says |
/// | a character device 0:0 | as [`raw_whiteouts`](Apply::raw_whiteouts) says |
/// | xattrs `trusted.overlay.*`, or in a user namespace `user.overlay.*` | kept, escaped as overlayfs does it (`trusted.overlay.overlay.*`), so that they are shown and mean nothing |
/// | `security.capability` | kept, for the root of the container |
/// | other `security.*` and `system.*`, `user.*` on what is no file or directory, and in a user namespace `trusted.*` | skipped |
///
/// What is skipped is told in [`AppliedLayer::skipped`]. What hides or is hidden is decided when all entries are there, so that
/// their order does not matter. Without [`lower`](Apply::lower) it is not known what is below: then every whiteout is made
/// that is not in a directory which hides those below.
///
#[doc = include_str!("others.md")]
///
/// # Errors and what they leave
///
/// An error leaves the directory empty, as it was; only where that fails too, or the process is killed, is something left.
/// Until all has been read and the digests have been compared, nobody but the caller can enter the directory: its mode is
/// 700.
///
/// # Privileges
///
/// `CAP_CHOWN`, `CAP_FOWNER`, `CAP_DAC_OVERRIDE`, `CAP_MKNOD` for devices and `CAP_SYS_ADMIN` for `trusted.*` xattrs: root,
/// or root of a user namespace, where neither of the latter is needed. `/proc` must be mounted.
#[derive(Clone, Debug)]
#[must_use = "nothing is applied before `tar`"]
pub struct Apply {
    target: Target,
    lower: Option<Vec<PathBuf>>,
    blob: Option<Digest>,
    diff_id: Option<Digest>,
    limits: Limits,
    ids: Ids,
    marks: Option<Marks>,
    devices: Option<Devices>,
    raw_whiteouts: RawWhiteouts,
    durability: Durability,
}

#[derive(Clone, Debug)]
enum Target {
    Path(PathBuf),
    Fd(Arc<OwnedFd>),
}

/// What becomes of device nodes in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Devices {
    /// They are made, by mknod(2).
    Make,
    /// They are left out, and told in [`AppliedLayer::skipped`].
    Skip,
    /// A layer with one is refused.
    Refuse,
}

/// What becomes of a character device 0:0 in a layer, which overlayfs takes for a whiteout and no other reader does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RawWhiteouts {
    /// A layer with one is refused.
    #[default]
    Refuse,
    /// It is a whiteout of its own name.
    Apply,
}

/// What is on disk when the call returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// What the kernel has written by then.
    #[default]
    None,
    /// All of it, by syncfs(2), which also waits for what others wrote to that filesystem.
    Syncfs,
}

/// What was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AppliedLayer {
    /// The sha256 of what was read.
    pub blob: Digest,
    /// Bytes that were read.
    pub blob_bytes: u64,
    /// The sha256 of the uncompressed tar stream: the layer's diff id.
    pub diff_id: Digest,
    /// Bytes of the uncompressed tar stream.
    pub tar_bytes: u64,
    /// How it was compressed.
    pub compression: Compression,
    /// Entries of the tar stream.
    pub entries: u64,
    /// The first 100 things that were left out.
    pub skipped: Vec<SkippedEntry>,
    /// How many things were left out.
    pub skipped_count: u64,
    /// The layer hides all below it: stack nothing there.
    pub opaque_root: bool,
}

/// Something of a layer that is not in its directory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SkippedEntry {
    /// The entry's path.
    pub entry: PathBuf,
    /// What of it.
    pub what: SkippedPart,
}

/// What was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SkippedPart {
    /// A device node, or a hard link to one.
    Device,
    /// AUFS's own notes.
    Aufs,
    /// The xattr of that name.
    Xattr(OsString),
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Entries of the tar stream so far.
    pub entries: u64,
    /// Bytes of the uncompressed tar stream so far.
    pub tar_bytes: u64,
}

impl Apply {
    /// Into the directory at `target`, which must be there and empty.
    pub fn new(target: impl Into<PathBuf>) -> Self {
        Apply::with(Target::Path(target.into()))
    }

    /// Into the directory that is open, which must be empty. `O_PATH` is enough.
    pub fn at(target: OwnedFd) -> Self {
        Apply::with(Target::Fd(Arc::new(target)))
    }

    /// Tells what is below: directories in overlay's form, the top one first. None at all are those of a base layer.
    pub fn lower(mut self, layers: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        self.lower = Some(layers.into_iter().map(Into::into).collect());
        self
    }

    /// Refuses a blob with another sha256.
    pub fn blob(mut self, expected: Digest) -> Self {
        self.blob = Some(expected);
        self
    }

    /// Refuses an uncompressed tar stream with another sha256.
    pub fn diff_id(mut self, expected: Digest) -> Self {
        self.diff_id = Some(expected);
        self
    }

    /// What the layer may cost.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Has `count` users of the layer, from `inside` on, be `outside` and so on, as a line of `/proc/[pid]/uid_map`. Without
    /// any such range each is itself. May be called again for more ranges.
    pub fn map_users(mut self, inside: u32, outside: u32, count: u32) -> Self {
        self.ids.users.push(inside, outside, count);
        self
    }

    /// The same for groups.
    pub fn map_groups(mut self, inside: u32, outside: u32, count: u32) -> Self {
        self.ids.groups.push(inside, outside, count);
        self
    }

    /// What becomes of users and groups outside of these ranges, or of the caller's user namespace. By default the layer is
    /// refused.
    pub fn unmapped(mut self, unmapped: Unmapped) -> Self {
        self.ids.unmapped = unmapped;
        self
    }

    /// Which xattrs overlayfs will look for; by default those of [`Marks::detect`].
    pub fn marks(mut self, marks: Marks) -> Self {
        self.marks = Some(marks);
        self
    }

    /// What becomes of device nodes. By default they are made, but skipped in a user namespace, where nobody can make them.
    pub fn devices(mut self, devices: Devices) -> Self {
        self.devices = Some(devices);
        self
    }

    /// What becomes of character devices 0:0. By default the layer is refused.
    pub fn raw_whiteouts(mut self, raw_whiteouts: RawWhiteouts) -> Self {
        self.raw_whiteouts = raw_whiteouts;
        self
    }

    /// What is on disk when [`tar`](Apply::tar) returns. By default nothing in particular.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Applies the layer that `reader` gives, to its end.
    ///
    /// # Errors
    /// `Malformed` where it is no tar, or one that readers disagree about, or damaged or cut off. `UnsafePath` where it
    /// reaches outside. `LimitExceeded` by what its [`Limits`] do not allow. `DigestMismatch` where it is not what was
    /// expected. `InvalidInput` for an id that is not mapped. `Unsupported` for another compression. `AlreadyExists` where
    /// the directory is not empty. `PermissionDenied` and others with the entry and the errno of what the kernel refused.
    ///
    /// # Panics
    /// If `reader` does.
    pub fn tar(&self, reader: impl Read + Send) -> Result<AppliedLayer> {
        self.tar_with(reader, |_progress| {})
    }

    /// The same, telling `progress` on the calling thread how far it has come, about each quarter of a megabyte.
    ///
    /// # Errors
    /// Those of [`tar`](Apply::tar).
    ///
    /// # Panics
    /// If `reader` or `progress` does. What was made is left then.
    pub fn tar_with(
        &self,
        reader: impl Read + Send,
        mut progress: impl FnMut(Progress),
    ) -> Result<AppliedLayer> {
        let told = self.lower.clone();
        let below = || Ok(told.clone().unwrap_or_default());
        let lowers = Lowers::new(
            told.as_ref().map(|_told| &below as Below<'_>),
            self.marks_in_force()?,
        );
        lowers.layers()?;
        self.run(reader, lowers, &mut progress)
    }

    /// The same of a layer on others that may still be made: `below` is asked when something is to be known of them.
    pub(crate) fn tar_on(
        &self,
        reader: impl Read + Send,
        below: Below<'_>,
    ) -> Result<AppliedLayer> {
        let lowers = Lowers::new(Some(below), self.marks_in_force()?);
        self.run(reader, lowers, &mut |_progress| {})
    }

    fn run(
        &self,
        reader: impl Read + Send,
        lowers: Lowers<'_>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<AppliedLayer> {
        let shown = self.target.shown();
        let mut build = build::Build::start(self, self.target.open()?, &shown, lowers)?;
        thread::scope(
            |scope| match pipe::Pipe::start(scope, reader, &self.limits) {
                Ok(pipe) => build.run(pipe, progress),
                Err(error) => {
                    build.undo();
                    Err(Error::sys("start a thread for", &shown)(error))
                }
            },
        )
    }

    /// Those that were asked for, or the caller's.
    fn marks_in_force(&self) -> Result<Marks> {
        self.marks.map_or_else(Marks::detect, Ok)
    }

    fn with(target: Target) -> Self {
        Apply {
            target,
            lower: None,
            blob: None,
            diff_id: None,
            limits: Limits::default(),
            ids: Ids::default(),
            marks: None,
            devices: None,
            raw_whiteouts: RawWhiteouts::default(),
            durability: Durability::default(),
        }
    }
}

impl Target {
    /// For messages.
    fn shown(&self) -> PathBuf {
        match self {
            Target::Path(path) => path.clone(),
            Target::Fd(fd) => std::fs::read_link(lower::proc_path(fd.as_fd())).unwrap_or_default(),
        }
    }

    fn open(&self) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match self {
            Target::Path(path) => openat(CWD, path, flags, Mode::empty()),
            Target::Fd(fd) => openat(fd, ".", flags, Mode::empty()),
        }
        .map_err(Error::sys("open", &self.shown()))
    }
}

pub(crate) fn path_of(bytes: &[u8]) -> PathBuf {
    OsString::from_vec(bytes.to_vec()).into()
}

/// Where in `target` an entry is, for messages.
pub(crate) fn shown_in(target: &Path, entry: &[u8]) -> PathBuf {
    let start = entry
        .iter()
        .position(|byte| *byte != b'/')
        .unwrap_or(entry.len());
    target.join(path_of(&entry[start..]))
}
