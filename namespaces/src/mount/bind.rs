//! Bind mounts: where they come from and how they differ from that.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::attributes::{Attributes, Change, Depth, RDONLY};
use crate::error::Result;
use crate::idmap::IdMap;
use crate::userns;

/// A file or a tree of the host's.
#[derive(Clone, Debug)]
pub(crate) struct Bind {
    pub(crate) source: Source,
    pub(crate) depth: Depth,
    pub(crate) links: Links,
    pub(crate) propagation: Propagation,
    pub(crate) mapping: Option<Mapping>,
    /// Read-only itself, whatever is mounted below it.
    pub(crate) read_only_top: bool,
}

impl Bind {
    pub(crate) fn new(source: Source) -> Self {
        Bind {
            source,
            depth: Depth::Recursive,
            links: Links::Follow,
            propagation: Propagation::Private,
            mapping: None,
            read_only_top: false,
        }
    }

    /// What is to be done to a clone of its source.
    pub(crate) fn changes(&self, attributes: Attributes) -> Vec<Change> {
        let mut changes = vec![Change {
            depth: Depth::Recursive,
            attributes,
            propagation: self.propagation,
        }];
        if self.read_only_top {
            changes.push(Change {
                depth: Depth::Top,
                attributes: Attributes::of(RDONLY),
                propagation: Propagation::Shared,
            });
        }
        changes
    }
}

/// Where a mount comes from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Path(PathBuf),
    /// A file or directory, or a detached mount.
    Fd(Arc<OwnedFd>),
    /// A detached mount, which is not cloned.
    Detached(Arc<OwnedFd>),
}

impl Source {
    pub(crate) fn path(&self) -> Option<&OsStr> {
        match self {
            Source::Path(path) => Some(path.as_os_str()),
            Source::Fd(_) | Source::Detached(_) => None,
        }
    }

    /// As errors name it.
    pub(crate) fn name(&self) -> &Path {
        match self {
            Source::Path(path) => path,
            Source::Fd(_) | Source::Detached(_) => Path::new("(a file descriptor)"),
        }
    }
}

/// What becomes of symbolic links on the way to a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Links {
    Follow,
    Refuse,
}

/// Where mounts go that are made later below a mount or below its source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Propagation {
    /// They stay where they are made.
    #[default]
    Private,
    /// From the source to the mount.
    Slave,
    /// Both ways: as it is on the host.
    Shared,
}

impl Propagation {
    /// As mount_setattr(2) takes it.
    pub(crate) fn to_set(self) -> u64 {
        match self {
            Propagation::Private => libc::MS_PRIVATE,
            Propagation::Slave => libc::MS_SLAVE,
            Propagation::Shared => 0,
        }
    }
}

/// The ids of an idmapped mount.
#[derive(Clone, Debug)]
pub(crate) enum Mapping {
    /// Those of a map. Its user namespace is made by the first start and lives as long as this.
    Ids(IdMap, Arc<OnceLock<OwnedFd>>),
    /// Those of a user namespace of the caller's.
    Namespace(Arc<OwnedFd>),
}

impl Mapping {
    pub(crate) fn ids(&self) -> Option<&IdMap> {
        match self {
            Mapping::Ids(map, _) => Some(map),
            Mapping::Namespace(_) => None,
        }
    }

    pub(crate) fn namespace(&self) -> Result<&OwnedFd> {
        let (map, made) = match self {
            Mapping::Namespace(fd) => return Ok(fd),
            Mapping::Ids(map, made) => (map, made),
        };
        if let Some(fd) = made.get() {
            return Ok(fd);
        }
        // Two starts at once may both make one: the first stays.
        let fresh = userns::of(map)?;
        Ok(made.get_or_init(|| fresh))
    }
}
