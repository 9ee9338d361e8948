//! A diff as a tar.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::Problem;
use super::metadata::{FileKind, Metadata};
use super::options::Diff;
use super::tar::{self, Header, Kind};
use super::walk::{Entry, Standing, Step, Walk};
use super::xattrs::{Opened, Xattrs};
use crate::apply::mapped_acl;
use crate::digest::{Digest, Hashing};
use crate::error::{Error, Result};

/// The most that is told of what was left out.
pub(super) const MOST_OMITTED: usize = 1000;

/// A layer that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Written {
    /// The sha256 of the tar, by which images name their layers.
    pub diff_id: Digest,
    /// Bytes of the tar.
    pub size: u64,
    /// The sha256 of what was written: of the tar, or of the compressed one.
    pub blob: Digest,
    /// Bytes that were written.
    pub blob_size: u64,
    /// Entries of the tar.
    pub entries: u64,
    /// What a layer cannot hold, at most the first 1000.
    pub skipped: Vec<Omitted>,
}

/// Something that was left out of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Omitted {
    /// What it was on, below the root.
    pub path: PathBuf,
    /// What it was.
    pub what: OmittedPart,
}

/// What was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OmittedPart {
    /// The file itself: a socket is of use only to the process that made it.
    Socket,
    /// An xattr: its name holds a `=`, which no tar can.
    Xattr(Vec<u8>),
}

pub(super) fn plain(diff: &Diff, writer: impl Write) -> Result<Written> {
    let mut tar = Tar::new(diff, Hashing::new(writer))?;
    tar.write_all()?;
    let (out, entries, skipped) = tar.finish()?;
    let (mut writer, diff_id, size) = out.finish();
    writer
        .flush()
        .map_err(|error| failed_to_write(Path::new("tar"), error))?;
    Ok(Written {
        diff_id,
        size,
        blob: diff_id,
        blob_size: size,
        entries,
        skipped,
    })
}

pub(super) fn gzip(diff: &Diff, writer: impl Write, level: u32) -> Result<Written> {
    let failed = |error| failed_to_write(Path::new("tar.gz"), error);
    let level = Compression::new(level.min(9));
    let compressed = GzEncoder::new(Hashing::new(writer), level);
    let mut tar = Tar::new(diff, Hashing::new(compressed))?;
    tar.write_all()?;
    let (out, entries, skipped) = tar.finish()?;
    let (compressed, diff_id, size) = out.finish();
    let (mut writer, blob, blob_size) = compressed.finish().map_err(failed)?.finish();
    writer.flush().map_err(failed)?;
    Ok(Written {
        diff_id,
        size,
        blob,
        blob_size,
        entries,
        skipped,
    })
}

pub(super) fn failed_to_write(path: &Path, error: io::Error) -> Error {
    match error.raw_os_error() {
        Some(_) => Error::sys("write layer", path)(error),
        None => {
            let path = path.to_owned();
            Problem::Writer { path, error }.into()
        }
    }
}

/// A tar that is being written.
struct Tar<'a, W: Write> {
    diff: &'a Diff,
    walk: Walk,
    out: BufWriter<W>,
    buffer: Vec<u8>,
    /// Directories above that are written only with something in them.
    pending: Vec<Pending>,
    /// The first names of files that have others.
    links: Links,
    entries: u64,
    /// Of files, so far.
    bytes: u64,
    skipped: Vec<Omitted>,
}

struct Pending {
    path: PathBuf,
    metadata: Metadata,
    xattrs: Xattrs,
}

impl<'a, W: Write> Tar<'a, W> {
    fn new(diff: &'a Diff, out: W) -> Result<Self> {
        Ok(Tar {
            diff,
            walk: diff.walk()?,
            out: BufWriter::with_capacity(1 << 18, out),
            buffer: vec![0; 1 << 17],
            pending: Vec::new(),
            links: Links::default(),
            entries: 0,
            bytes: 0,
            skipped: Vec::new(),
        })
    }

    fn write_all(&mut self) -> Result<()> {
        while let Some(step) = self.walk.next()? {
            match step {
                Step::Enter(entry) => self.enter(&entry)?,
                Step::File(entry) if entry.standing == Standing::Unchanged => {}
                Step::File(entry) => self.file(&entry)?,
                Step::Whiteout => self.whiteout()?,
                Step::Leave => self.leave(),
            }
        }
        tar::write_end(&mut self.out).map_err(|error| failed_to_write(Path::new("tar"), error))
    }

    fn finish(self) -> Result<(W, u64, Vec<Omitted>)> {
        let out = self
            .out
            .into_inner()
            .map_err(|error| failed_to_write(Path::new("tar"), error.into_error()))?;
        Ok((out, self.entries, self.skipped))
    }

    fn enter(&mut self, entry: &Entry) -> Result<()> {
        self.check_name(entry)?;
        let xattrs = self.walk.xattrs(self.walk.directory()?, Opened::Readable)?;
        let xattrs = self.kept(xattrs)?;
        let path = self.walk.path().to_owned();
        let is_root = path.as_os_str().is_empty();
        self.pending.push(Pending {
            path,
            metadata: entry.metadata,
            xattrs,
        });
        let is_change = match entry.standing {
            Standing::Added => !is_root,
            Standing::Modified => true,
            Standing::Unchanged => false,
        };
        if is_change {
            self.write_pending()?;
        }
        if entry.opaque {
            self.mark(b".wh..wh..opq", self.walk.path().to_owned())?;
        }
        Ok(())
    }

    fn leave(&mut self) {
        if self
            .pending
            .last()
            .is_some_and(|last| last.path == self.walk.path())
        {
            self.pending.pop();
        }
    }

    fn write_pending(&mut self) -> Result<()> {
        for directory in std::mem::take(&mut self.pending) {
            let mut name = directory.path.into_os_string().into_vec();
            if name.is_empty() {
                name.push(b'.');
            }
            name.push(b'/');
            self.header(
                &name,
                Kind::Directory,
                &directory.metadata,
                &directory.xattrs,
            )?;
        }
        Ok(())
    }

    fn whiteout(&mut self) -> Result<()> {
        let path = self.walk.path().to_owned();
        let name = path.file_name().unwrap_or_default().as_bytes();
        let marker = [b".wh.", name].concat();
        self.mark(
            &marker,
            path.parent().map(Path::to_owned).unwrap_or_default(),
        )
    }

    /// An empty file in `directory` that stands for something else.
    fn mark(&mut self, name: &[u8], directory: PathBuf) -> Result<()> {
        self.write_pending()?;
        let path = directory.join(OsStr::from_bytes(name));
        let header = Header {
            path: path.as_os_str().as_bytes(),
            kind: Kind::Regular { size: 0 },
            mode: 0o644,
            uid: 0,
            gid: 0,
            modified: (0, 0),
            xattrs: &Xattrs::new(),
        };
        self.entries += 1;
        tar::write_header(&mut self.out, &header).map_err(|error| failed_to_write(&path, error))
    }

    fn file(&mut self, entry: &Entry) -> Result<()> {
        self.check_name(entry)?;
        if entry.metadata.kind == FileKind::Socket {
            self.skip(OmittedPart::Socket);
            return Ok(());
        }
        self.write_pending()?;
        let path = self.walk.path().as_os_str().as_bytes().to_vec();
        if let Some(first) = self.links.first_of(entry, &path) {
            let kind = Kind::Hardlink { to: &first };
            return self.header(&path, kind, &entry.metadata, &Xattrs::new());
        }
        match entry.metadata.kind {
            FileKind::Regular => self.regular(entry, &path),
            FileKind::Symlink => {
                let to = self.walk.target(entry)?;
                let to = to.to_bytes();
                self.special(entry, &path, Kind::Symlink { to })
            }
            FileKind::Fifo => self.special(entry, &path, Kind::Fifo),
            FileKind::BlockDevice => {
                let device = entry.metadata.device;
                self.special(entry, &path, Kind::BlockDevice { device })
            }
            _ => {
                let device = entry.metadata.device;
                self.special(entry, &path, Kind::CharacterDevice { device })
            }
        }
    }

    fn special(&mut self, entry: &Entry, path: &[u8], kind: Kind<'_>) -> Result<()> {
        let file = self.walk.open_path(entry)?;
        let xattrs = self.walk.xattrs(&file, Opened::Path)?;
        let xattrs = self.kept(xattrs)?;
        self.header(path, kind, &entry.metadata, &xattrs)
    }

    fn regular(&mut self, entry: &Entry, path: &[u8]) -> Result<()> {
        let file = self.walk.open(entry)?;
        let xattrs = self.walk.xattrs(&file, Opened::Readable)?;
        let xattrs = self.kept(xattrs)?;
        let size = entry.metadata.size;
        self.check_size(size)?;
        self.header(path, Kind::Regular { size }, &entry.metadata, &xattrs)?;
        self.content(file, size)
    }

    fn check_size(&mut self, size: u64) -> Result<()> {
        let limit = self.diff.most_bytes;
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes <= limit {
            return Ok(());
        }
        let path = self.walk.named();
        Err(Problem::TooLarge { path, size, limit }.into())
    }

    fn content(&mut self, file: OwnedFd, size: u64) -> Result<()> {
        let mut file = File::from(file);
        let mut left = size;
        while left > 0 {
            let most = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(self.buffer.len());
            let count = file
                .read(&mut self.buffer[..most])
                .map_err(Error::sys("read", &self.walk.named()))?;
            if count == 0 {
                let path = self.walk.named();
                return Err(Problem::Changed { path }.into());
            }
            self.out
                .write_all(&self.buffer[..count])
                .map_err(|error| failed_to_write(&self.walk.named(), error))?;
            left -= count as u64;
        }
        tar::write_padding(&mut self.out, size)
            .map_err(|error| failed_to_write(&self.walk.named(), error))
    }

    fn header(
        &mut self,
        path: &[u8],
        kind: Kind<'_>,
        metadata: &Metadata,
        xattrs: &Xattrs,
    ) -> Result<()> {
        let shown = Path::new(OsStr::from_bytes(path));
        let header = Header {
            path,
            kind,
            mode: metadata.mode,
            uid: self.diff.ids.user(metadata.uid, shown)?,
            gid: self.diff.ids.group(metadata.gid, shown)?,
            modified: self.clamped(metadata.modified),
            xattrs,
        };
        self.entries += 1;
        tar::write_header(&mut self.out, &header).map_err(|error| failed_to_write(shown, error))
    }

    fn clamped(&self, modified: (i64, u32)) -> (i64, u32) {
        match self.diff.latest {
            Some(latest) => modified.min((latest, 0)),
            None => modified,
        }
    }

    fn check_name(&self, entry: &Entry) -> Result<()> {
        if !entry.name.to_bytes().starts_with(b".wh.") {
            return Ok(());
        }
        let path = self.walk.named();
        Err(Problem::WhiteoutName { path }.into())
    }

    /// Of the xattrs of the present file those that a tar can hold, with the ids of the layer.
    fn kept(&mut self, mut xattrs: Xattrs) -> Result<Xattrs> {
        let refused: Vec<_> = xattrs
            .keys()
            .filter(|name| name.contains(&b'='))
            .cloned()
            .collect();
        for name in refused {
            xattrs.remove(&name);
            self.skip(OmittedPart::Xattr(name));
        }
        if let Some(capability) = xattrs.get_mut(b"security.capability".as_slice()) {
            forget_namespace(capability);
        }
        for (name, acl) in &mut xattrs {
            if name.starts_with(b"system.posix_acl_") {
                *acl = mapped_acl(acl, |user, id| match user {
                    true => self.diff.ids.user(id, self.walk.path()),
                    false => self.diff.ids.group(id, self.walk.path()),
                })?;
            }
        }
        Ok(xattrs)
    }

    fn skip(&mut self, what: OmittedPart) {
        if self.skipped.len() < MOST_OMITTED {
            let path = self.walk.path().to_owned();
            self.skipped.push(Omitted { path, what });
        }
    }
}

/// File capabilities set in a user namespace name its root (revision 3, 24 bytes): those of a layer do not (revision 2).
fn forget_namespace(capability: &mut Vec<u8>) {
    if capability.len() == 24 && capability[3] == 3 {
        capability[3] = 2;
        capability.truncate(20);
    }
}

/// Files with several names.
#[derive(Debug, Default)]
pub(super) struct Links {
    first: HashMap<(u32, u32, u64), (Vec<u8>, u32)>,
}

impl Links {
    /// The name under which this file was met before. A file is forgotten with its last name.
    pub(super) fn first_of(&mut self, entry: &Entry, path: &[u8]) -> Option<Vec<u8>> {
        if entry.metadata.links < 2 {
            return None;
        }
        let Some((first, left)) = self.first.get_mut(&entry.id) else {
            let left = entry.metadata.links - 1;
            self.first.insert(entry.id, (path.to_vec(), left));
            return None;
        };
        let first_path = first.clone();
        *left -= 1;
        if *left == 0 {
            self.first.remove(&entry.id);
        }
        Some(first_path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_lose_the_user_namespace_they_were_set_in() {
        let mut third = vec![
            1, 0, 0, 3, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 160, 134, 1, 0,
        ];
        forget_namespace(&mut third);
        assert_eq!(
            third,
            [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        );
        let second = third.clone();
        forget_namespace(&mut third);
        assert_eq!(third, second);
    }
}
