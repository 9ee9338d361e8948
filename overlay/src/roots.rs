//! The directories of layers, of which few are open at a time: there may be more of them than a process may open files.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, fstat, openat};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// How many of a stack of directories stay open, the top ones, which are looked into first. The others are opened each time.
pub(crate) const KEPT: usize = 32;

/// Device and inode.
pub(crate) type Id = (u64, u64);

/// Layers, the top one first.
#[derive(Debug)]
pub(crate) struct Roots {
    layers: Vec<Root>,
    flags: OFlags,
}

#[derive(Debug)]
struct Root {
    path: PathBuf,
    id: Id,
    fd: Option<Arc<OwnedFd>>,
}

impl Roots {
    /// Opens each once, with `flags`, so that all are there.
    pub(crate) fn open(what: &'static str, paths: &[PathBuf], flags: OFlags) -> Result<Self> {
        let flags = flags | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut layers = Vec::new();
        for (at, path) in paths.iter().enumerate() {
            let failed = |errno| Error::sys(what, path)(errno);
            let fd = openat(CWD, path, flags, Mode::empty()).map_err(failed)?;
            layers.push(Root {
                path: path.clone(),
                id: id(&fd).map_err(failed)?,
                fd: (at < KEPT).then(|| Arc::new(fd)),
            });
        }
        Ok(Roots { layers, flags })
    }

    /// Of no layers.
    pub(crate) fn none() -> Self {
        Roots {
            layers: Vec::new(),
            flags: OFlags::empty(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.layers.len()
    }

    pub(crate) fn path(&self, layer: usize) -> Option<&Path> {
        self.layers.get(layer).map(|root| root.path.as_path())
    }

    /// `ESTALE` where another directory has its path now.
    pub(crate) fn fd(&self, layer: usize) -> Result<Arc<OwnedFd>, Errno> {
        let root = self.layers.get(layer).ok_or(Errno::NOENT)?;
        if let Some(fd) = &root.fd {
            return Ok(Arc::clone(fd));
        }
        let fd = openat(CWD, &root.path, self.flags, Mode::empty())?;
        if id(&fd)? != root.id {
            return Err(Errno::STALE);
        }
        Ok(Arc::new(fd))
    }
}

pub(crate) fn id(fd: &OwnedFd) -> Result<Id, Errno> {
    let found = fstat(fd)?;
    Ok((found.st_dev, found.st_ino))
}
