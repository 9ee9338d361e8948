//! A mounted hierarchy, held by fd, and the place in it where a new cgroup goes.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::controller::{Controller, Version};
use crate::dir::Dir;
use crate::error::{Error, ErrorKind, Result};
use crate::level::{self, Kind, Level, Verdict};
use crate::mountinfo::{Membership, Mounted};

#[derive(Debug)]
pub(crate) struct Mount {
    pub(crate) version: Version,
    /// Of v1: what the hierarchy is for.
    pub(crate) controllers: Vec<Controller>,
    pub(crate) root: Arc<Dir>,
    /// The cgroup of the thread that detected it, where this mount shows it.
    own: Option<Arc<Dir>>,
    /// Whether `root` is the root of the whole v2 tree, which it then stays.
    whole: bool,
    /// Whether the caller chose it.
    chosen: bool,
}

/// Which parent the caller asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Parent<'a> {
    Own,
    Given(&'a Path),
}

impl Mount {
    pub(crate) fn open(mounted: &Mounted, memberships: &[Membership]) -> Result<Self> {
        let root = Dir::open_mount(mounted)?;
        let root = Arc::new(root);
        let own = match mounted.own(memberships) {
            None => None,
            Some(own) if own.as_os_str().is_empty() => Some(Arc::clone(&root)),
            Some(own) => match root.open(&own) {
                Ok(own) => Some(Arc::new(own)),
                Err(error) if error.is_shortage() => return Err(error),
                // It may be removed, or hidden by another mount.
                Err(_) => None,
            },
        };
        if mounted.version == Version::V2 {
            // Opened now, so that work with the hierarchy leaves no more fds than it began with.
            let parents = [Some(&root), own.as_ref()].into_iter().flatten();
            parents.for_each(|parent| parent.keep_subtree_control());
        }
        let whole = mounted.version == Version::V2 && Kind::read(&root)? == Kind::Root;
        Ok(Mount {
            whole,
            version: mounted.version,
            controllers: mounted.controllers.clone(),
            root,
            own,
            chosen: false,
        })
    }

    /// A directory given by the caller, for a mount of its own.
    pub(crate) fn at(
        version: Version,
        controllers: Vec<Controller>,
        root: Arc<Dir>,
    ) -> Result<Self> {
        Ok(Mount {
            whole: version == Version::V2 && Kind::read(&root)? == Kind::Root,
            version,
            controllers,
            root,
            own: None,
            chosen: true,
        })
    }

    pub(crate) fn with_own(&self, own: &Arc<Dir>) -> Self {
        Mount {
            version: self.version,
            controllers: self.controllers.clone(),
            root: Arc::clone(&self.root),
            own: Some(Arc::clone(own)),
            whole: self.whole,
            chosen: self.chosen,
        }
    }

    /// Whether there may be more than it shows.
    pub(crate) fn is_part(&self) -> bool {
        self.chosen || (self.version == Version::V2 && !self.whole)
    }

    /// The parent of a new cgroup that is to have the controllers, which are enabled there if it is v2.
    pub(crate) fn parent(&self, parent: Parent<'_>, needed: &[Controller]) -> Result<Arc<Dir>> {
        match (parent, self.version) {
            (Parent::Given(path), Version::V1) => self.root.open(&relative(path)?).map(Arc::new),
            (Parent::Given(path), Version::V2) => self.enable_down_to(path, needed),
            (Parent::Own, Version::V1) => Ok(Arc::clone(self.own.as_ref().unwrap_or(&self.root))),
            (Parent::Own, Version::V2) => {
                let chosen = self.own_if_it_can(needed)?.unwrap_or(&self.root);
                level::enable(chosen, self.kind(chosen)?, needed)?;
                Ok(Arc::clone(chosen))
            }
        }
    }

    /// An existing cgroup, by its path from the top of the hierarchy.
    pub(crate) fn below_root(&self, path: &Path) -> Result<Arc<Dir>> {
        self.root.open(&relative(path)?).map(Arc::new)
    }

    /// The path below the mount, if it is below it.
    pub(crate) fn below<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        path.strip_prefix(self.root.path()).ok()
    }

    /// Paths of the topmost cgroups whose name begins with `prefix`.
    pub(crate) fn find(&self, prefix: &str, found: &mut Vec<PathBuf>) -> Result<()> {
        let mut left = vec![PathBuf::new()];
        while let Some(below) = left.pop() {
            let dir = match self.root.open(&below) {
                Ok(dir) => dir,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for name in dir.children()? {
                if name.as_encoded_bytes().starts_with(prefix.as_bytes()) {
                    found.push(dir.path().join(&name));
                } else {
                    left.push(below.join(&name));
                }
            }
        }
        Ok(())
    }

    fn kind(&self, dir: &Arc<Dir>) -> Result<Kind> {
        if self.whole && Arc::ptr_eq(dir, &self.root) {
            return Ok(Kind::Root);
        }
        Kind::read(dir)
    }

    /// The own cgroup, unless it has processes (the caller's) and does not pass the controllers on already.
    fn own_if_it_can(&self, needed: &[Controller]) -> Result<Option<&Arc<Dir>>> {
        let Some(own) = &self.own else {
            return Ok(None);
        };
        if Arc::ptr_eq(own, &self.root) {
            return Ok(None);
        }
        let level = match self
            .kind(own)
            .and_then(|kind| Level::read(own, kind, needed))
        {
            Ok(level) => level,
            // Removed since.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(match level.verdict(needed) {
            Verdict::Ready | Verdict::Enable(_) => Some(own),
            Verdict::NotPassedOn(_) | Verdict::Populated(_) | Verdict::Threaded(_) => None,
        })
    }

    /// Enables the controllers from the top of the mount down to `path`.
    fn enable_down_to(&self, path: &Path, needed: &[Controller]) -> Result<Arc<Dir>> {
        let path = relative(path)?;
        // All that can be known to fail fails before the first write.
        let parent = self.root.open(&path)?;
        level::enable(&self.root, self.kind(&self.root)?, needed)?;
        let mut below = PathBuf::new();
        for part in path.components() {
            below.push(part);
            let level = self.root.open(&below)?;
            level::enable(&level, Kind::read(&level)?, needed)?;
        }
        Ok(Arc::new(parent))
    }
}

/// A cgroup path without its leading slash.
fn relative(path: &Path) -> Result<PathBuf> {
    let mut below = PathBuf::new();
    for part in path.components() {
        match part {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => below.push(name),
            _ => return Err(Error::path(path, "must not contain '..'")),
        }
    }
    Ok(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_path_is_taken_from_the_root_of_the_hierarchy_and_cannot_leave_it() {
        for (path, expected) in [("/", ""), ("", ""), ("/a/b", "a/b"), ("a//./b/", "a/b")] {
            assert_eq!(relative(Path::new(path)).unwrap(), Path::new(expected));
        }
        for path in ["..", "/a/../b", "a/.."] {
            let error = relative(Path::new(path)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
    }
}
