//! Where images come from: directories and files on disk.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::archive::{self, Member, plain};
use super::config::Platform;
use super::json;
use crate::beneath;
use crate::error::{Error, Result};
use crate::store::Fault;
use crate::store::area::Area;
use crate::store::record::malformed;

/// An image on disk that is to be imported: a description, nothing is read yet.
#[derive(Clone, Debug)]
#[must_use = "nothing is read before `LayerStore::import`"]
pub struct ImageSource {
    pub(super) place: Place,
    pub(super) platform: Platform,
    pub(super) reference: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) enum Place {
    Layout(PathBuf),
    Archive(PathBuf),
}

impl ImageSource {
    /// A directory in OCI image layout.
    pub fn layout(directory: impl Into<PathBuf>) -> Self {
        ImageSource::new(Place::Layout(directory.into()))
    }

    /// A tar as `docker save` writes it, not compressed.
    pub fn archive(file: impl Into<PathBuf>) -> Self {
        ImageSource::new(Place::Archive(file.into()))
    }

    /// Of images for several platforms the one for this; by default that of this program.
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    /// Of several images the one of this name: an `org.opencontainers.image.ref.name` or `io.containerd.image.name` of a
    /// layout, a tag of an archive. Without it there may be one only.
    pub fn reference(mut self, name: impl Into<String>) -> Self {
        self.reference = Some(name.into());
        self
    }

    fn new(place: Place) -> Self {
        ImageSource {
            place,
            platform: Platform::default(),
            reference: None,
        }
    }
}

/// The files of a source by their names.
#[derive(Debug)]
pub(super) enum Files {
    Directory(Area),
    Archive {
        file: Arc<File>,
        path: PathBuf,
        members: HashMap<String, Member>,
    },
}

impl Files {
    pub(super) fn open(place: &Place) -> Result<Self> {
        match place {
            Place::Layout(path) => {
                let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
                let fd = openat(CWD, path, flags, Mode::empty())
                    .map_err(Error::sys("open image layout", path))?;
                Ok(Files::Directory(Area::new(fd, path.clone())))
            }
            Place::Archive(path) => {
                let flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                let fd = openat(CWD, path, flags, Mode::empty())
                    .map_err(Error::sys("open image archive", path))?;
                let file = File::from(fd);
                let members = archive::index(&file, path)?;
                let (file, path) = (Arc::new(file), path.clone());
                Ok(Files::Archive {
                    file,
                    path,
                    members,
                })
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Files::Directory(area) => area.path(),
            Files::Archive { path, .. } => path,
        }
    }

    /// The file `name` and its size. In a directory no symlink is followed; in an archive only to another member.
    pub(super) fn reader(&self, name: &str) -> Result<(Box<dyn Read + Send>, u64)> {
        match self {
            Files::Directory(area) => {
                let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
                let file = beneath::open(area, name, flags).map_err(area.failed("open", name))?;
                let file = File::from(file);
                let path = area.path().join(name);
                let found = file.metadata().map_err(Error::sys("stat", &path))?;
                if !found.is_file() {
                    return Err(malformed(&path, "it is no regular file"));
                }
                Ok((Box::new(file), found.len()))
            }
            Files::Archive {
                file,
                path,
                members,
            } => {
                let (offset, size) = find(members, name)
                    .ok_or_else(|| malformed(path, format!("it has no file {name:?}")))?;
                let file = Arc::clone(file);
                let end = offset + size;
                Ok((Box::new(Part { file, offset, end }), size))
            }
        }
    }

    /// A document as a whole.
    pub(super) fn document(&self, name: &str) -> Result<Vec<u8>> {
        let (reader, size) = self.reader(name)?;
        let path = self.path().join(name);
        if size > json::LIMIT {
            let limit = json::LIMIT;
            return Err(Fault::TooLarge { path, limit }.into());
        }
        let mut bytes = Vec::new();
        reader
            .take(json::LIMIT)
            .read_to_end(&mut bytes)
            .map_err(Error::sys("read", &path))?;
        Ok(bytes)
    }
}

fn find(members: &HashMap<String, Member>, name: &str) -> Option<(u64, u64)> {
    let mut name = plain(name, "")?;
    // As many links as Linux follows.
    for _ in 0..40 {
        match members.get(&name)? {
            Member::File { offset, size } => return Some((*offset, *size)),
            Member::Link(to) => name.clone_from(to),
        }
    }
    None
}

/// A part of a file.
struct Part {
    file: Arc<File>,
    offset: u64,
    end: u64,
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX);
        let most = left.min(buffer.len());
        let count = self.file.read_at(&mut buffer[..most], self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}
