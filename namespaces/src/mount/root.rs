//! The root directory of a program.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use super::bind::{Propagation, Source};
use super::kernel::Proc;

/// Bytes of `/dev/shm`, as Docker has it.
const SHM_SIZE: u64 = 64 << 20;

/// The root directory of a program, entered by pivot_root(2).
///
/// On top of it come `/proc`, `/sys` (read-only) and a `/dev` of its own, unless left out, then the
/// [`Mount`](crate::Mount)s in the order given. What of `/proc` and `/sys` tells too much or can do harm is hidden, as Docker
/// does.
///
/// Nothing that is mounted on the host later on, below a directory that is the root, shows up inside; see
/// [`slave`](Self::slave).
#[derive(Clone, Debug)]
pub struct RootFs {
    pub(crate) source: Source,
    pub(crate) access: Access,
    pub(crate) propagation: Propagation,
    pub(crate) proc: Option<Proc>,
    pub(crate) sys: Option<Access>,
    /// With the size of `/dev/shm` in bytes.
    pub(crate) dev: Option<u64>,
    pub(crate) hidden: Hidden,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    ReadWrite,
    ReadOnly,
}

/// What of the root, of `/proc` and of `/sys` cannot be seen or written.
#[derive(Clone, Debug)]
pub(crate) struct Hidden {
    /// Docker's masked and read-only paths.
    pub(crate) defaults: bool,
    pub(crate) masked: Vec<PathBuf>,
    pub(crate) read_only: Vec<PathBuf>,
}

impl RootFs {
    /// A directory with all that is mounted below it. Unless [`read_only`](Self::read_only), what the program writes
    /// stays there; so do empty directories for `/proc`, `/sys`, `/dev` and other mounts where they are missing.
    #[must_use]
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Self::of(Source::Path(path.into()))
    }

    /// The directory behind `fd`, which may be `O_PATH`. Else as [`directory`](Self::directory).
    #[must_use]
    pub fn directory_fd(fd: OwnedFd) -> Self {
        Self::of(Source::Fd(Arc::new(fd)))
    }

    /// A detached mount, as fsmount(2) or open_tree(2) return it. It can serve one start only.
    #[must_use]
    pub fn mount(fd: OwnedFd) -> Self {
        Self::of(Source::Detached(Arc::new(fd)))
    }

    fn of(source: Source) -> Self {
        RootFs {
            source,
            access: Access::ReadWrite,
            propagation: Propagation::Private,
            proc: Some(Proc::new()),
            sys: Some(Access::ReadOnly),
            dev: Some(SHM_SIZE),
            hidden: Hidden {
                defaults: true,
                masked: Vec::new(),
                read_only: Vec::new(),
            },
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

    /// What the host mounts below a directory that is the root later on shows up inside, writable if the host has it so. The
    /// directory must be on a mount that is shared, as most systems have theirs, or a slave.
    #[must_use]
    #[doc(alias = "MS_SLAVE")]
    pub fn slave(mut self) -> Self {
        self.propagation = Propagation::Slave;
        self
    }

    /// `/proc` with these options.
    #[must_use]
    pub fn proc(mut self, proc: Proc) -> Self {
        self.proc = Some(proc);
        self
    }

    /// No `/proc`.
    #[must_use]
    pub fn without_proc(mut self) -> Self {
        self.proc = None;
        self
    }

    /// `/sys` can be written, as far as the program's ids and capabilities go. It shows the devices of the whole machine: for
    /// programs that are trusted with them. Needs a network namespace of its own in a user namespace.
    #[must_use]
    pub fn writable_sys(mut self) -> Self {
        self.sys = Some(Access::ReadWrite);
        self
    }

    /// No `/sys`.
    #[must_use]
    pub fn without_sys(mut self) -> Self {
        self.sys = None;
        self
    }

    /// At most so many bytes (more than 0) in `/dev/shm`: 64 MiB unless set.
    #[must_use]
    pub fn shm_size(mut self, bytes: u64) -> Self {
        self.dev = Some(bytes);
        self
    }

    /// No `/dev` but what the root has. Then a [`Mount`](crate::Mount) may go there.
    #[must_use]
    pub fn without_dev(mut self) -> Self {
        self.dev = None;
        self
    }

    /// Hides one more file or directory, behind `/dev/null` or an empty directory that cannot be written. Once all is mounted
    /// the path is resolved inside the root; where it leads to nothing there is nothing to hide.
    #[must_use]
    pub fn mask(mut self, path: impl Into<PathBuf>) -> Self {
        self.hidden.masked.push(path.into());
        self
    }

    /// One more file or directory that cannot be written, nor what is mounted below it. Resolved as by [`mask`](Self::mask).
    #[must_use]
    pub fn read_only_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.hidden.read_only.push(path.into());
        self
    }

    /// Hides nothing of `/proc` and `/sys` but what [`mask`](Self::mask) and [`read_only_path`](Self::read_only_path) name. A
    /// program that is root outside a user namespace can do much harm then.
    #[must_use]
    pub fn unmask(mut self) -> Self {
        self.hidden.defaults = false;
        self
    }

    /// Every path that was given.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &OsStr> {
        let hidden = self.hidden.masked.iter().chain(&self.hidden.read_only);
        self.source
            .path()
            .into_iter()
            .chain(hidden.map(|path| path.as_os_str()))
    }
}
