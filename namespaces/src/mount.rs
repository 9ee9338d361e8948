//! What a program finds mounted: its root, and what is on top of it.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The root directory of a program, entered by pivot_root(2).
///
/// On top of it come `/proc`, `/sys` (read-only) and a `/dev` of its own, then the [`Mount`]s in the order given.
#[derive(Clone, Debug)]
pub struct RootFs {
    pub(crate) source: Source,
    pub(crate) access: Access,
}

impl RootFs {
    /// A directory with all that is mounted below it. Unless [`read_only`](Self::read_only), what the program writes
    /// stays there; so do empty directories for `/proc`, `/sys`, `/dev` and other mounts where they are missing.
    #[must_use]
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        RootFs {
            source: Source::Path(path.into()),
            access: Access::ReadWrite,
        }
    }

    /// A detached mount, as fsmount(2) or open_tree(2) return it. It can serve one start only.
    #[must_use]
    pub fn mount(fd: OwnedFd) -> Self {
        RootFs {
            source: Source::Detached(Arc::new(fd)),
            access: Access::ReadWrite,
        }
    }

    /// Nothing below the root can be written, other than what is mounted on top. Of a directory that holds for all mounted
    /// below it, and from the start: it must have the directories and files that are mounted on, `/dev`, `/proc` and `/sys`
    /// among them.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.access = Access::ReadOnly;
        self
    }

    pub(crate) fn path(&self) -> Option<&OsStr> {
        match &self.source {
            Source::Path(path) => Some(path.as_os_str()),
            Source::Detached(_) => None,
        }
    }
}

/// Something mounted on top of the root. A target that is missing is made, with its parents, where the root can be
/// written. Symbolic links in a target stay inside the root.
#[derive(Clone, Debug)]
pub struct Mount {
    pub(crate) target: PathBuf,
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    Bind { source: PathBuf, access: Access },
    Tmpfs { size: u64, mode: u32 },
    File { content: Vec<u8>, mode: u32 },
}

impl Mount {
    /// A file or directory of the host, with all that is mounted below it: a recursive bind mount, private.
    #[must_use]
    pub fn bind(source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        let what = What::Bind {
            source: source.into(),
            access: Access::ReadWrite,
        };
        Mount {
            target: target.into(),
            what,
        }
    }

    /// An empty filesystem in memory of at most `size` bytes (more than 0), world-writable and sticky like `/tmp`; no devices, no
    /// set-user-ID programs.
    #[must_use]
    pub fn tmpfs(target: impl Into<PathBuf>, size: u64) -> Self {
        Mount {
            target: target.into(),
            what: What::Tmpfs { size, mode: 0o1777 },
        }
    }

    /// A file in memory with this content and mode 0644: `/etc/resolv.conf`, a secret.
    #[must_use]
    pub fn file(target: impl Into<PathBuf>, content: impl Into<Vec<u8>>) -> Self {
        let what = What::File {
            content: content.into(),
            mode: 0o644,
        };
        Mount {
            target: target.into(),
            what,
        }
    }

    /// Permission bits of a [`tmpfs`](Self::tmpfs)'s root or of a [`file`](Self::file).
    #[must_use]
    pub fn mode(mut self, bits: u32) -> Self {
        match &mut self.what {
            What::Tmpfs { mode, .. } | What::File { mode, .. } => *mode = bits & 0o7777,
            What::Bind { .. } => {}
        }
        self
    }

    /// A [`bind`](Self::bind) that nothing can be written to, what is mounted below it included.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        if let What::Bind { access, .. } = &mut self.what {
            *access = Access::ReadOnly;
        }
        self
    }

    /// Its target and its source.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &OsStr> {
        let source = match &self.what {
            What::Bind { source, .. } => Some(source.as_os_str()),
            What::Tmpfs { .. } | What::File { .. } => None,
        };
        std::iter::once(self.target.as_os_str()).chain(source)
    }

    /// Where it goes, as given.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }
}

/// Where a mount comes from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Path(PathBuf),
    Detached(Arc<OwnedFd>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    ReadWrite,
    ReadOnly,
}
