//! What is to be compared, and how it is to be written.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::Problem;
use super::changes::Changes;
use super::commit::{self, Committed, Usage};
use super::ids::{IdRange, Ids};
use super::lowers::{Directory, Lowers};
use super::walk::Walk;
use super::write::{self, Written};
use crate::error::{Error, Result};
use crate::marks::Marks;
use crate::roots::Roots;

/// What an upper directory changes of the layers below it: a description, nothing is read yet.
///
/// Only the upper is walked, in the order of the bytes of names: what it costs depends on the changes, not on the size of the
/// layers. The overlay should be unmounted, or at rest: what is changed meanwhile may be told in either state, or be an error.
/// No symlink is followed, no mount below is entered, and no fifo or device opened, whatever the upper holds. It takes
/// an fd for each level of directories of the upper (two where these are made anew), and two hundred more, however many layers
/// there are.
#[derive(Clone, Debug)]
#[must_use = "nothing is read before `changes`, `write_tar` or `commit`"]
pub struct Diff {
    upper: PathBuf,
    lowers: Vec<PathBuf>,
    marks: Option<Marks>,
    pub(crate) compare_content: bool,
    pub(crate) latest: Option<i64>,
    pub(crate) most_bytes: u64,
    pub(crate) ids: Ids,
}

impl Diff {
    /// The directory an overlay wrote to. Without [`lower`](Diff::lower) all in it is new.
    pub fn of(upper: impl Into<PathBuf>) -> Self {
        Diff {
            upper: upper.into(),
            lowers: Vec::new(),
            marks: None,
            compare_content: false,
            latest: None,
            most_bytes: 64 << 30,
            ids: Ids::default(),
        }
    }

    /// The layers it was stacked on, the top one first.
    pub fn lower(mut self, layers: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        self.lowers = layers.into_iter().map(Into::into).collect();
        self
    }

    /// Where upper and layers have their marks, if not where [`Marks::detect`] says.
    pub fn marks(mut self, marks: Marks) -> Self {
        self.marks = Some(marks);
        self
    }

    /// Leaves out files that have the metadata, xattrs and content of the layer's, such as those opened for writing and
    /// not written to. Without it a file in the upper is a change, and only equal directories are left out.
    pub fn compare_content(mut self) -> Self {
        self.compare_content = true;
        self
    }

    /// In tars, times after `seconds` since 1970 become that time, as with `SOURCE_DATE_EPOCH`.
    pub fn clamp_modified(mut self, seconds: i64) -> Self {
        self.latest = Some(seconds);
        self
    }

    /// In tars, the most bytes of files together, holes included: whoever writes to an upper can make a file of 8 EiB that
    /// takes no space. By default 64 GiB, which is what [`Apply`](crate::Apply) takes.
    pub fn most_bytes(mut self, limit: u64) -> Self {
        self.most_bytes = limit;
        self
    }

    /// In tars, owners are mapped back by `users` and groups by `groups`, from how the caller sees them on the disk to how
    /// the container did. An id of no range is then an error.
    pub fn ids(
        mut self,
        users: impl IntoIterator<Item = IdRange>,
        groups: impl IntoIterator<Item = IdRange>,
    ) -> Self {
        self.ids = Ids {
            users: users.into_iter().collect(),
            groups: groups.into_iter().collect(),
        };
        self
    }

    /// The changes one by one, each directory before what is in it. A directory that differs in nothing but what is in it
    /// is left out.
    ///
    /// # Errors
    /// Here as for each item: `NotFound` or `InvalidInput` (`ENOTDIR`) name the directory; `PermissionDenied` also where
    /// trusted xattrs are to be read without `CAP_SYS_ADMIN`; `Unsupported` names a directory that was renamed with `redirect_dir`, or
    /// a file that holds only metadata (`metacopy`: found where it has fewer blocks than its size needs; a tar or commit finds each);
    /// `InvalidInput`: a path over 4096 bytes, over 1 MiB of xattrs.
    pub fn changes(&self) -> Result<Changes> {
        self.walk().map(Changes::new)
    }

    /// Writes them as an OCI layer: a tar that is the same for the same content, with whiteouts as `.wh.` names.
    ///
    /// Entries are ustar, with PAX records only where these hold too little: long names, nanoseconds, big sizes and ids,
    /// xattrs. Directories are followed by what is in them in the order of bytes; those above a change are there too. Owners
    /// have no names. Holes are written as zeros.
    ///
    /// # Errors
    /// As [`changes`](Diff::changes); `InvalidInput` too for a name that begins with `.wh.` and for an id of no range; `Busy`
    /// where a file shrank meanwhile; `LimitExceeded` for more than [`most_bytes`](Diff::most_bytes); `Os` and others as the writer says. What was written until then is no whole tar.
    pub fn write_tar(&self, writer: impl Write) -> Result<Written> {
        write::plain(self, writer)
    }

    /// The same compressed by gzip at `level` (0 to 9), with a header that holds no time and no name. Another version of
    /// this crate may compress the same tar to other bytes.
    ///
    /// # Errors
    /// As [`write_tar`](Diff::write_tar).
    pub fn write_tar_gz(&self, writer: impl Write, level: u32) -> Result<Written> {
        write::gzip(self, writer, level)
    }

    /// Copies them into the empty directory `target`, which becomes a layer: by reflinks where the filesystem has them,
    /// else by copy_file_range(2), with holes kept. Marks stay where they hide something, others go, as do overlayfs's own notes.
    /// Ids are not mapped. After an error there is part of it in `target`.
    ///
    /// It is not synced to the disk.
    ///
    /// # Errors
    /// As [`changes`](Diff::changes); `AlreadyExists` for a target that is not empty; `PermissionDenied` without the
    /// capabilities to make devices or to give files away.
    pub fn commit(&self, target: impl AsRef<Path>) -> Result<Committed> {
        commit::copy(self, target.as_ref())
    }

    /// The same, but moves files where they are on the filesystem of `target`: the upper is used up, also after an error.
    /// It must not be mounted.
    ///
    /// # Errors
    /// As [`commit`](Diff::commit).
    pub fn commit_moving(&self, target: impl AsRef<Path>) -> Result<Committed> {
        commit::moving(self, target.as_ref())
    }

    /// What a layer of them takes.
    ///
    /// # Errors
    /// As [`changes`](Diff::changes).
    pub fn usage(&self) -> Result<Usage> {
        commit::usage(self)
    }

    pub(crate) fn walk(&self) -> Result<Walk> {
        let marks = match self.marks {
            Some(marks) => marks,
            None => Marks::detect()?,
        };
        self.check_sees(marks)?;
        let upper = open_upper(&self.upper, marks)?;
        let roots = Roots::open("open layer", &self.lowers, OFlags::empty())?;
        let lowers = Lowers::roots(roots, marks)?;
        Walk::new(&self.upper, marks, self.compare_content, upper, lowers)
    }

    /// Hidden marks look like none: what was deleted and made again would show what it hides.
    fn check_sees(&self, marks: Marks) -> Result<()> {
        if marks.are_seen()? {
            return Ok(());
        }
        let upper = self.upper.clone();
        Err(Problem::HiddenMarks { upper }.into())
    }
}

fn open_upper(path: &Path, marks: Marks) -> Result<Directory> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = openat(CWD, path, flags, Mode::empty()).map_err(Error::sys("open upper", path))?;
    Directory::new(Arc::new(fd), marks, path)
}
