//! What a program finds mounted on top of its root.

mod attributes;
mod bind;
mod device;
mod kernel;
mod root;
mod tmpfs;
mod validate;

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::idmap::IdMap;

pub(crate) use attributes::{Attributes, Change, Depth, NODEV, NOEXEC, NOSUID, RDONLY};
pub(crate) use bind::{Bind, Links, Propagation, Source};
pub use device::Device;
pub(crate) use device::{DeviceMount, STANDARD};
pub(crate) use kernel::Kernel;
pub use kernel::{HidePid, Proc};
pub(crate) use root::Access;
pub use root::RootFs;
pub(crate) use tmpfs::{InMemory, Tmpfs};
pub(crate) use validate::validate;

use attributes::{NOATIME, NODIRATIME, NOSYMFOLLOW};
use bind::Mapping;

/// Something mounted on top of the root. A target that is missing is made, with its parents, where the root can be
/// written. Symbolic links in a target stay inside the root.
///
/// An option that its kind of mount does not have is an error of the start, before anything is done.
///
/// ```
/// use cofferdam_namespaces::{Command, Mount, RootFs};
///
/// let command = Command::new("/bin/app")
///     .root(RootFs::directory("/srv/debian").read_only())
///     .mount(Mount::bind("/srv/data", "/data").nofollow().nosuid())
///     .mount(Mount::tmpfs("/tmp", 64 << 20).noexec())
///     .mount(Mount::file("/etc/resolv.conf", "nameserver 127.0.0.11\n"))
///     .mount(Mount::device("/dev/fuse"));
/// ```
#[derive(Clone, Debug)]
pub struct Mount {
    pub(crate) target: PathBuf,
    pub(crate) what: What,
    pub(crate) attributes: Attributes,
    /// What is wrong with an option that was set.
    misfit: Option<&'static str>,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    Bind(Bind),
    Tmpfs(Tmpfs),
    File(InMemory),
    Device(DeviceMount),
    Kernel(Kernel),
}

impl Mount {
    /// A file or directory of the host, with all that is mounted below it: a recursive bind mount, private.
    ///
    /// The source is resolved once, when the program is started, and what it is then is mounted. Without `CAP_SYS_ADMIN` the
    /// child resolves it a second time: it does not start (`EAGAIN`) if that leads to another file.
    #[must_use]
    #[doc(alias = "open_tree")]
    pub fn bind(source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        let source = Source::Path(source.into());
        Self::new(target, What::Bind(Bind::new(source)), Attributes::default())
    }

    /// The file or directory behind `fd`, which may be `O_PATH`, with all that is mounted below it; or a detached mount, as
    /// open_tree(2) and fsmount(2) return it. Before Linux 6.15 a detached mount serves one start only.
    #[must_use]
    pub fn bind_fd(fd: OwnedFd, target: impl Into<PathBuf>) -> Self {
        let source = Source::Fd(Arc::new(fd));
        Self::new(target, What::Bind(Bind::new(source)), Attributes::default())
    }

    /// An empty filesystem in memory of at most `size` bytes (more than 0), world-writable and sticky like `/tmp`; no devices, no
    /// set-user-ID programs.
    #[must_use]
    pub fn tmpfs(target: impl Into<PathBuf>, size: u64) -> Self {
        let tmpfs = Tmpfs {
            size,
            mode: 0o1777,
            inodes: None,
            owner: None,
        };
        let attributes = Attributes::of(NOSUID | NODEV);
        Self::new(target, What::Tmpfs(tmpfs), attributes)
    }

    /// A file in memory with this content and mode 0644: `/etc/resolv.conf`, a secret.
    #[must_use]
    pub fn file(target: impl Into<PathBuf>, content: impl Into<Vec<u8>>) -> Self {
        let file = InMemory {
            content: content.into(),
            mode: 0o644,
            owner: None,
        };
        Self::new(target, What::File(file), Attributes::default())
    }

    /// The device that `path` is on the host, at the same path inside, which is below `/dev`: `/dev/fuse`. No component of it may
    /// be a symbolic link. With the mode and the owner it has on the host unless set.
    ///
    /// It is made by mknod(2), or in a user namespace mounted from the host. What may be done with it is up to its mode and to
    /// the cgroup.
    #[must_use]
    #[doc(alias = "mknod")]
    pub fn device(path: impl Into<PathBuf>) -> Self {
        let device = What::Device(DeviceMount::default());
        Self::new(path, device, Attributes::default())
    }

    /// This device at `path`, which is below `/dev`, with mode 0600 and owned by root unless set. The host need not have a node for
    /// it; but in a user namespace, where nodes cannot be made, what the host has at `path` must be this device.
    #[must_use]
    pub fn node(path: impl Into<PathBuf>, device: Device) -> Self {
        let device = What::Device(DeviceMount {
            device: Some(device),
            ..DeviceMount::default()
        });
        Self::new(path, device, Attributes::default())
    }

    /// cgroup v2 on `/sys/fs/cgroup`, writable unless [`read_only`](Self::read_only). Needs a cgroup namespace of its own, whose
    /// root is then all that is seen.
    #[must_use]
    pub fn cgroup2() -> Self {
        let attributes = Attributes::of(NOSUID | NODEV | NOEXEC);
        let what = What::Kernel(Kernel::Cgroup2);
        Self::new(validate::CGROUPS, what, attributes)
    }

    /// Pseudoterminals, a new instance. For a root [without a `/dev`](RootFs::without_dev): that one has them.
    #[must_use]
    pub fn devpts(target: impl Into<PathBuf>) -> Self {
        let attributes = Attributes::of(NOSUID | NOEXEC);
        Self::new(target, What::Kernel(Kernel::Devpts), attributes)
    }

    /// POSIX message queues of its IPC namespace, which has to be its own. For a root [without a `/dev`](RootFs::without_dev):
    /// that one has them.
    #[must_use]
    pub fn mqueue(target: impl Into<PathBuf>) -> Self {
        let attributes = Attributes::of(NOSUID | NODEV | NOEXEC);
        Self::new(target, What::Kernel(Kernel::Mqueue), attributes)
    }

    fn new(target: impl Into<PathBuf>, what: What, attributes: Attributes) -> Self {
        Mount {
            target: target.into(),
            what,
            attributes,
            misfit: None,
        }
    }

    /// Permission bits of a [`tmpfs`](Self::tmpfs)'s root, of a [`file`](Self::file) or of a device that is made.
    #[must_use]
    pub fn mode(mut self, bits: u32) -> Self {
        match &mut self.what {
            What::Tmpfs(Tmpfs { mode, .. }) | What::File(InMemory { mode, .. }) => {
                *mode = bits & 0o7777;
            }
            What::Device(DeviceMount { mode, .. }) => *mode = Some(bits & 0o7777),
            What::Bind(_) | What::Kernel(_) => {
                self.misfit = Some("has a mode, which it takes from its source");
            }
        }
        self
    }

    /// User and group id of a [`tmpfs`](Self::tmpfs)'s root, of a [`file`](Self::file) or of a device that is made, as the
    /// program's user namespace counts. Root's unless set.
    #[must_use]
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        match &mut self.what {
            What::Tmpfs(Tmpfs { owner, .. })
            | What::File(InMemory { owner, .. })
            | What::Device(DeviceMount { owner, .. }) => *owner = Some((uid, gid)),
            What::Bind(_) | What::Kernel(_) => {
                self.misfit = Some("has an owner, which it takes from its source");
            }
        }
        self
    }

    /// At most so many files and directories in a [`tmpfs`](Self::tmpfs) (more than 0). The kernel's default is one for every two
    /// pages of memory.
    #[must_use]
    pub fn inodes(mut self, count: u64) -> Self {
        if let What::Tmpfs(tmpfs) = &mut self.what {
            tmpfs.inodes = Some(count);
        } else {
            self.misfit = Some("has a number of inodes, but is no tmpfs");
        }
        self
    }

    /// Nothing can be written to it, nor to what is mounted below it on the host.
    #[must_use]
    pub fn read_only(self) -> Self {
        self.attribute(RDONLY)
    }

    /// Nothing can be written to a bind mount itself; what is mounted below it stays as it is.
    #[must_use]
    pub fn read_only_top(self) -> Self {
        self.bind_option(|bind| bind.read_only_top = true)
    }

    /// Set-user-ID bits and file capabilities do not count in it. So it is of every mount but a bind.
    #[must_use]
    pub fn nosuid(self) -> Self {
        self.attribute(NOSUID)
    }

    /// Devices in it cannot be opened. So it is of a tmpfs and of files.
    #[must_use]
    pub fn nodev(self) -> Self {
        self.attribute(NODEV)
    }

    /// Programs in it cannot be executed.
    #[must_use]
    pub fn noexec(self) -> Self {
        self.attribute(NOEXEC)
    }

    /// Times of access are not kept. What the host mounted keeps them as it does, seen from a user namespace: `EPERM`.
    #[must_use]
    pub fn noatime(self) -> Self {
        self.attribute(NOATIME)
    }

    /// Times of access are not kept for directories. As [`noatime`](Self::noatime) in a user namespace.
    #[must_use]
    pub fn nodiratime(self) -> Self {
        self.attribute(NODIRATIME)
    }

    /// Symbolic links in it are not followed. Linux 5.14; an error before.
    #[must_use]
    pub fn nosymfollow(self) -> Self {
        self.attribute(NOSYMFOLLOW)
    }

    /// A bind mount without what is mounted below its source. In a user namespace of a caller without privilege the kernel
    /// refuses to show what is beneath other mounts: `EINVAL`.
    #[must_use]
    pub fn no_recurse(self) -> Self {
        self.bind_option(|bind| bind.depth = Depth::Top)
    }

    /// A bind mount whose source no symbolic link may lead to, in no component of the path: `ELOOP`. For sources that others
    /// can write to.
    #[must_use]
    #[doc(alias = "RESOLVE_NO_SYMLINKS")]
    pub fn nofollow(self) -> Self {
        self.bind_option(|bind| bind.links = Links::Refuse)
    }

    /// A bind mount whose files have other owners: what `map` calls 0 on disk is what it calls the first id outside. With the
    /// map of [`Command::id_map`](crate::Command::id_map) root's files are root's inside.
    ///
    /// Needs `CAP_SYS_ADMIN` where the filesystem was mounted, and a filesystem that can: ext4, xfs, vfat (Linux 5.12), btrfs
    /// (5.15), tmpfs (6.3). `Unsupported` if it cannot.
    #[must_use]
    #[doc(alias = "MOUNT_ATTR_IDMAP")]
    pub fn idmapped(self, map: IdMap) -> Self {
        let mapping = Mapping::Ids(map, Arc::new(OnceLock::new()));
        self.bind_option(|bind| bind.mapping = Some(mapping))
    }

    /// As [`idmapped`](Self::idmapped), with the ids of the user namespace behind `fd`.
    #[must_use]
    pub fn idmapped_by(self, fd: OwnedFd) -> Self {
        let mapping = Mapping::Namespace(Arc::new(fd));
        self.bind_option(|bind| bind.mapping = Some(mapping))
    }

    /// What the host mounts below a bind mount's source later on shows up inside; what is mounted inside stays there. The
    /// source must be on a mount that is shared, as most systems have theirs, or a slave.
    ///
    /// What the host mounts while the program is being started may be missed.
    #[must_use]
    #[doc(alias = "MS_SLAVE")]
    pub fn slave(self) -> Self {
        self.bind_option(|bind| bind.propagation = Propagation::Slave)
    }

    /// As [`slave`](Self::slave), and what is mounted inside, which takes `CAP_SYS_ADMIN` there, shows up on the host and stays
    /// when the program has ended. The source must be on a shared mount. Not in a user namespace of the program's own.
    #[must_use]
    #[doc(alias = "MS_SHARED")]
    pub fn shared(self) -> Self {
        self.bind_option(|bind| bind.propagation = Propagation::Shared)
    }

    fn attribute(mut self, bits: u64) -> Self {
        if let What::Device(_) = self.what {
            self.misfit = Some("has an option of a mount, but is a device");
        }
        self.attributes = self.attributes.with(bits);
        self
    }

    fn bind_option(mut self, set: impl FnOnce(&mut Bind)) -> Self {
        if let What::Bind(bind) = &mut self.what {
            set(bind);
        } else {
            self.misfit = Some("has an option of a bind mount, but is none");
        }
        self
    }

    /// Its target and its source.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &OsStr> {
        let source = match &self.what {
            What::Bind(bind) => bind.source.path(),
            _ => None,
        };
        std::iter::once(self.target.as_os_str()).chain(source)
    }

    pub(crate) fn is_shared(&self) -> bool {
        matches!(&self.what, What::Bind(bind) if bind.propagation == Propagation::Shared)
    }

    pub(crate) fn is_cgroup2(&self) -> bool {
        matches!(self.what, What::Kernel(Kernel::Cgroup2))
    }

    /// Where it goes, as given.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }
}
