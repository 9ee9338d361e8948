//! From a [`Command`] to the [`Program`] that sets it up, in the order in which the kernel wants it.

use std::borrow::Cow;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::command::Command;
use crate::mount::{Access, Mount, What};
use crate::namespace::Namespace;
use crate::program::{Arg, Program, Word, call};

use libc::{EACCES, EEXIST, EINVAL, ENOENT, ENOTDIR};

const OPEN_TREE: i32 = 1 | libc::O_CLOEXEC; // OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC
const OPEN_TREE_RECURSIVE: i32 = OPEN_TREE | 0x8000; // AT_RECURSIVE
const MOVE_MOUNT_F_EMPTY_PATH: i32 = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: i32 = 0x40;
const MOUNT_ATTR_RDONLY: u64 = 1;
const RESOLVE_NO_MAGICLINKS: u64 = 0x2;
const RESOLVE_NO_SYMLINKS: u64 = 0x4;

/// Devices of a container, with major and minor number.
const NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Docker's masked paths, files and directories, where the kernel has them.
const MASKED_FILES: [&str; 7] = [
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/timer_list",
    "/proc/timer_stats",
];
const MASKED_DIRECTORIES: [&str; 5] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/scsi",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Docker's read-only paths.
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// What the program finds ready when it starts, by fd number in the child.
#[derive(Clone, Debug, Default)]
pub(crate) struct Prepared {
    /// The root, where there is one.
    pub(crate) root: Option<Tree>,
    /// One for each bind mount, in order.
    pub(crate) binds: Vec<Bind>,
    /// Open `cgroup.procs`.
    pub(crate) procs: Vec<i32>,
    /// The network namespace to join.
    pub(crate) net: Option<i32>,
    /// How `/dev` gets its devices.
    pub(crate) devices: Devices,
    /// The capabilities the program can make use of while it sets up.
    pub(crate) permitted: u64,
    /// The signals the caller ignores, the first in bit 0.
    pub(crate) ignored_signals: u64,
    /// Whether setgroups(2) is denied, for ever, in the user namespace it runs in: its groups stay the caller's.
    pub(crate) setgroups_denied: bool,
}

/// A tree of mounts to be attached.
#[derive(Clone, Debug)]
pub(crate) enum Tree<F = i32> {
    /// A detached mount, ready to be moved.
    Detached(F),
    /// A path of the host that only the child has the right to clone.
    Path(PathBuf),
}

/// A bind mount's tree and kind of target.
#[derive(Clone, Debug)]
pub(crate) struct Bind {
    pub(crate) tree: Tree,
    pub(crate) kind: Target,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    File,
    Directory,
}

/// How `/dev` gets its devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Devices {
    /// mknod(2), which only the initial user namespace allows.
    #[default]
    Mknod,
    /// Bind mounts of the host's.
    Bind,
}

/// The whole of the second stage.
pub(crate) fn compile(command: &Command, prepared: &Prepared) -> Program {
    let mut compiler = Compiler {
        program: Program::default(),
        command,
        prepared,
    };
    compiler.protect();
    compiler.join();
    if let Some(root) = &prepared.root {
        compiler.filesystem(root);
    } else if command.namespaces.has(Namespace::Mount) {
        compiler.make_private("/");
    }
    compiler.identity();
    compiler.exec();
    compiler.program
}

/// What an op is for.
type Step = Cow<'static, str>;

struct Compiler<'c> {
    program: Program,
    command: &'c Command,
    prepared: &'c Prepared,
}

impl Compiler<'_> {
    /// Nobody in a namespace that is joined can look into this process from now on.
    fn protect(&mut self) {
        self.prctl(libc::PR_SET_DUMPABLE, &[0], "clear the dumpable flag");
        self.program.op(call!(SYS_umask), [Arg::Int(0)], "umask 0");
    }

    fn join(&mut self) {
        if self.command.namespaces.has(Namespace::User) {
            self.become_root();
        }
        for &fd in &self.prepared.procs {
            let zero = self.program.string("0");
            let args = [Arg::fd(fd), zero, Arg::Int(1)];
            self.program
                .op(call!(SYS_write), args, "enter the cgroup")
                .at_least(1);
        }
        if self.command.namespaces.has(Namespace::Cgroup) {
            let flag = Arg::flags(libc::CLONE_NEWCGROUP);
            self.program
                .op(call!(SYS_unshare), [flag], "unshare the cgroup namespace");
        }
        if let Some(fd) = self.prepared.net {
            let args = [Arg::fd(fd), Arg::flags(libc::CLONE_NEWNET)];
            self.program
                .op(call!(SYS_setns), args, "join the network namespace");
        }
        if self.command.namespaces.has(Namespace::Net) {
            self.loopback_up();
        }
        self.program.op(call!(SYS_setsid), [], "start a session");
    }

    fn loopback_up(&mut self) {
        let step = "set the loopback up";
        let kind = Arg::flags(libc::SOCK_DGRAM | libc::SOCK_CLOEXEC);
        let args = [Arg::flags(libc::AF_INET), kind, Arg::Int(0)];
        let socket = self.program.op(call!(SYS_socket), args, step).keep();
        // A struct ifreq: 16 bytes of name, then the flags.
        let name = u64::from_ne_bytes(*b"lo\0\0\0\0\0\0");
        let flags = u64::from((libc::IFF_UP | libc::IFF_RUNNING).unsigned_abs());
        let request = self.program.words(&[name, 0, flags, 0, 0].map(Word::Int));
        let args = [socket, Arg::Int(libc::SIOCSIFFLAGS), request];
        self.program.op(call!(SYS_ioctl), args, step);
    }

    /// Stage one kept all capabilities over its execveat(2) as ambient ones.
    fn become_root(&mut self) {
        let zero = Arg::Int(0);
        if !self.prepared.setgroups_denied {
            self.program
                .op(call!(SYS_setgroups), [zero, Arg::NULL], "drop groups");
        }
        let step = "become root of the user namespace";
        self.program.op(call!(SYS_setresgid), [zero; 3], step);
        self.program.op(call!(SYS_setresuid), [zero; 3], step);
        self.prctl(libc::PR_CAP_AMBIENT, &[4], "clear ambient capabilities");
        self.prctl(libc::PR_SET_DUMPABLE, &[0], "clear the dumpable flag");
    }

    fn filesystem(&mut self, root: &Tree) {
        self.make_private("/");
        let root = self.take(root, Access::ReadWrite, "clone the root");
        let binds: Vec<_> = self.take_binds();
        let nodes = self.take_nodes();
        let sysfs = self.take_sysfs();
        self.pivot(root);
        self.devices(&nodes);
        self.mounts(&binds);
        self.mount_over("/proc", "proc", b"");
        match sysfs {
            Some(tree) => self.attach(tree, "/sys", Target::Directory, RESOLVE_NO_SYMLINKS),
            None => self.mount_over("/sys", "sysfs", b""),
        }
        self.leave_old_root();
        self.mask();
        if let Some(name) = &self.command.hostname {
            let text = self.program.string(name.as_bytes());
            let args = [text, Arg::Int(name.len() as u64)];
            self.program
                .op(call!(SYS_sethostname), args, "set the host name");
        }
        if self
            .command
            .root
            .as_ref()
            .is_some_and(|root| root.access == Access::ReadOnly)
        {
            let slash = self.program.string("/");
            self.set_read_only(Arg::CWD, slash, 0, "make the root read-only");
        }
    }

    /// A fd of the tree, cloned here if it could not be before.
    fn take(&mut self, tree: &Tree, access: Access, step: &'static str) -> Arg {
        let path = match tree {
            Tree::Detached(fd) => return Arg::fd(*fd),
            Tree::Path(path) => path,
        };
        let step = format!("{step} {}", path.display());
        let text = self.program.string(path.as_os_str().as_bytes());
        let args = [Arg::CWD, text, Arg::flags(OPEN_TREE_RECURSIVE)];
        let fd = self
            .program
            .op(call!(SYS_open_tree), args, step.clone())
            .keep();
        if access == Access::ReadOnly {
            let empty = self.program.string("");
            let flags = libc::AT_EMPTY_PATH | 0x8000;
            self.set_read_only(fd, empty, flags, step.clone());
        }
        fd
    }

    fn take_binds(&mut self) -> Vec<(Arg, Target)> {
        let accesses = self
            .command
            .mounts
            .iter()
            .filter_map(|mount| match mount.what {
                What::Bind { access, .. } => Some(access),
                What::Tmpfs { .. } | What::File { .. } => None,
            });
        let pairs: Vec<_> = self.prepared.binds.iter().zip(accesses).collect();
        let taken = |(bind, access): (&Bind, Access)| {
            (
                self.take(&bind.tree, access, "clone the mount source"),
                bind.kind,
            )
        };
        pairs.into_iter().map(taken).collect()
    }

    /// The host's devices, where they cannot be made.
    fn take_nodes(&mut self) -> Vec<Arg> {
        if self.prepared.devices == Devices::Mknod {
            return Vec::new();
        }
        let mut nodes = Vec::new();
        for (name, ..) in NODES {
            let step = format!("clone the device /dev/{name}");
            let text = self.program.string(format!("/dev/{name}"));
            let args = [Arg::CWD, text, Arg::flags(OPEN_TREE)];
            nodes.push(self.program.op(call!(SYS_open_tree), args, step).keep());
        }
        nodes
    }

    /// A user namespace can mount sysfs only with a network namespace of its own; else it gets the host's, read-only.
    fn take_sysfs(&mut self) -> Option<Arg> {
        let namespaces = &self.command.namespaces;
        if !namespaces.has(Namespace::User) || namespaces.has(Namespace::Net) {
            return None;
        }
        Some(self.take(&Tree::Path("/sys".into()), Access::ReadOnly, "clone"))
    }

    /// The root becomes `/`, with the old one still on top of it, which proc and sysfs need in a user namespace: the
    /// kernel lets them be mounted only where they are seen already.
    fn pivot(&mut self, root: Arg) {
        let (empty, slash, dot) = (
            self.program.string(""),
            self.program.string("/"),
            self.program.string("."),
        );
        let args = [
            root,
            empty,
            Arg::CWD,
            slash,
            Arg::flags(MOVE_MOUNT_F_EMPTY_PATH),
        ];
        self.program
            .op(call!(SYS_move_mount), args, "attach the root");
        self.program.op(call!(SYS_fchdir), [root], "enter the root");
        self.program
            .op(call!(SYS_pivot_root), [dot, dot], "pivot_root");
        self.make_private(".");
    }

    fn leave_old_root(&mut self) {
        let slash = self.program.string("/");
        self.program.op(call!(SYS_chdir), [slash], "enter /");
        let args = [slash, Arg::flags(libc::MNT_DETACH)];
        self.program
            .op(call!(SYS_umount2), args, "unmount the old root");
    }

    fn devices(&mut self, nodes: &[Arg]) {
        self.mount_over("/dev", "tmpfs", b"mode=755,size=65536k");
        self.enter("/dev");
        if self.prepared.devices == Devices::Mknod {
            for (name, major, minor) in NODES {
                let text = self.program.string(name);
                let device = libc::makedev(major, minor);
                let args = [
                    text,
                    Arg::Int((libc::S_IFCHR | 0o666).into()),
                    Arg::Int(device),
                ];
                self.program
                    .op(call!(SYS_mknod), args, format!("make /dev/{name}"));
            }
        }
        for ((name, ..), &node) in NODES.iter().zip(nodes) {
            let text = self.program.string(name);
            let step = format!("mount the device /dev/{name}");
            let args = [text, Arg::Int((libc::S_IFREG | 0o666).into()), Arg::Int(0)];
            self.program.op(call!(SYS_mknod), args, step.clone());
            let empty = self.program.string("");
            let args = [
                node,
                empty,
                Arg::CWD,
                text,
                Arg::flags(MOVE_MOUNT_F_EMPTY_PATH),
            ];
            self.program.op(call!(SYS_move_mount), args, step);
        }
        for (name, target) in LINKS {
            let (target, link) = (self.program.string(target), self.program.string(name));
            self.program.op(
                call!(SYS_symlink),
                [target, link],
                format!("make /dev/{name}"),
            );
        }
        self.device_filesystems();
    }

    /// Mounted on directories of the tmpfs just made, where nothing of the root can be in the way.
    fn device_filesystems(&mut self) {
        // Group 5 is tty; a user namespace may not know it.
        let pts: &[u8] = match self.prepared.devices {
            Devices::Mknod => b"newinstance,ptmxmode=0666,mode=0620,gid=5",
            Devices::Bind => b"newinstance,ptmxmode=0666,mode=0620",
        };
        let (nodev, noexec) = (libc::MS_NODEV, libc::MS_NOEXEC);
        let rows: [(&str, &str, u64, &[u8]); 3] = [
            ("pts", "devpts", noexec, pts),
            ("shm", "tmpfs", noexec | nodev, b"mode=1777,size=65536k"),
            ("mqueue", "mqueue", noexec | nodev, b""),
        ];
        let owns_ipc = self.command.namespaces.has(Namespace::Ipc);
        for (name, filesystem, flags, data) in rows {
            if name == "mqueue" && !owns_ipc {
                continue;
            }
            let step = format!("mount {filesystem} on /dev/{name}");
            let target = self.program.string(name);
            self.program
                .op(call!(SYS_mkdir), [target, Arg::Int(0o755)], step.clone());
            self.mount(target, filesystem, libc::MS_NOSUID | flags, data, step);
        }
    }

    /// What the caller asked for, while no procfs is there that a link in the root could lead into.
    fn mounts(&mut self, binds: &[(Arg, Target)]) {
        let mut binds = binds.iter();
        for mount in &self.command.mounts {
            match &mount.what {
                What::Bind { .. } => {
                    if let Some(&(tree, kind)) = binds.next() {
                        self.attach(tree, &mount.target, kind, RESOLVE_NO_MAGICLINKS);
                    }
                }
                What::Tmpfs { size, mode } => self.tmpfs(mount, *size, *mode),
                What::File { content, mode } => self.file(mount, content, *mode),
            }
        }
    }

    fn tmpfs(&mut self, mount: &Mount, size: u64, mode: u32) {
        let step = format!("mount tmpfs on {}", mount.target.display());
        self.make_target(&mount.target, Target::Directory);
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let target = self.open(&mount.target, flags, RESOLVE_NO_MAGICLINKS, step.clone());
        self.program.op(call!(SYS_fchdir), [target], step.clone());
        let data = format!("size={size},mode={mode:o}");
        let dot = self.program.string(".");
        let flags = libc::MS_NOSUID | libc::MS_NODEV;
        self.mount(dot, "tmpfs", flags, data.as_bytes(), step);
    }

    /// Written to a file in the program's own `/dev`, which is unlinked once it is mounted where it belongs.
    fn file(&mut self, mount: &Mount, content: &[u8], mode: u32) {
        let step = format!("write the file {}", mount.target.display());
        self.enter("/dev");
        let name = self.program.string(".file");
        let flags = Arg::flags(libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY | libc::O_CLOEXEC);
        let args = [Arg::CWD, name, flags, Arg::Int(mode.into())];
        let file = self
            .program
            .op(call!(SYS_openat), args, step.clone())
            .keep();
        if !content.is_empty() {
            let (data, length) = (self.program.string(content), content.len());
            let args = [file, data, Arg::Int(length as u64)];
            let least = i32::try_from(length).unwrap_or(i32::MAX);
            self.program
                .op(call!(SYS_write), args, step.clone())
                .at_least(least);
        }
        let args = [Arg::CWD, name, Arg::flags(OPEN_TREE)];
        let tree = self
            .program
            .op(call!(SYS_open_tree), args, step.clone())
            .keep();
        self.program.op(call!(SYS_close), [file], step.clone());
        self.attach(tree, &mount.target, Target::File, RESOLVE_NO_MAGICLINKS);
        self.program.op(call!(SYS_unlink), [name], step);
    }

    /// Moves the tree onto `path`, which is made if it is missing.
    fn attach(&mut self, tree: Arg, path: impl AsRef<Path>, kind: Target, resolve: u64) {
        let path = path.as_ref();
        let step = format!("mount on {}", path.display());
        self.make_target(path, kind);
        let target = self.open(path, libc::O_PATH, resolve, step.clone());
        let empty = self.program.string("");
        let flags = Arg::flags(MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
        self.program.op(
            call!(SYS_move_mount),
            [tree, empty, target, empty, flags],
            step,
        );
    }

    /// Makes what is missing of `path`. What is there is EEXIST, also where nothing can be made.
    fn make_target(&mut self, path: &Path, kind: Target) {
        let step = format!("make {}", path.display());
        let mut parents: Vec<_> = path
            .ancestors()
            .skip(1)
            .filter(|p| p.parent().is_some())
            .collect();
        parents.reverse();
        for directory in parents {
            let text = self.program.string(directory.as_os_str().as_bytes());
            let op = self
                .program
                .op(call!(SYS_mkdir), [text, Arg::Int(0o755)], step.clone());
            op.tolerate(&[EEXIST]);
        }
        let text = self.program.string(path.as_os_str().as_bytes());
        let op = match kind {
            Target::Directory => self
                .program
                .op(call!(SYS_mkdir), [text, Arg::Int(0o755)], step),
            Target::File => {
                let mode = Arg::Int((libc::S_IFREG | 0o644).into());
                self.program
                    .op(call!(SYS_mknod), [text, mode, Arg::Int(0)], step)
            }
        };
        op.tolerate(&[EEXIST]);
    }

    /// Mounts a kernel filesystem on a directory of the root itself: a symbolic link there is refused.
    fn mount_over(&mut self, path: &str, filesystem: &str, data: &[u8]) {
        let step = format!("mount {filesystem} on {path}");
        self.make_target(Path::new(path), Target::Directory);
        self.enter(path);
        let dot = self.program.string(".");
        let flags = match filesystem {
            "tmpfs" => libc::MS_NOSUID,
            "sysfs" => libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC | libc::MS_RDONLY,
            _ => libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
        };
        self.mount(dot, filesystem, flags, data, step);
    }

    fn enter(&mut self, path: &str) {
        let step = format!("enter {path}");
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let fd = self.open(Path::new(path), flags, RESOLVE_NO_SYMLINKS, step.clone());
        self.program.op(call!(SYS_fchdir), [fd], step);
    }

    fn open(&mut self, path: &Path, flags: i32, resolve: u64, step: impl Into<Step>) -> Arg {
        let text = self.program.string(path.as_os_str().as_bytes());
        let flags = u64::from((flags | libc::O_CLOEXEC).unsigned_abs());
        let how = self
            .program
            .words(&[Word::Int(flags), Word::Int(0), Word::Int(resolve)]);
        let args = [Arg::CWD, text, how, Arg::Int(24)];
        self.program.op(call!(SYS_openat2), args, step).keep()
    }

    fn mount(&mut self, target: Arg, filesystem: &str, flags: u64, data: &[u8], step: String) {
        let kind = self.program.string(filesystem);
        let data = if data.is_empty() {
            Arg::NULL
        } else {
            self.program.string(data)
        };
        let args = [kind, target, kind, Arg::Int(flags), data];
        self.program.op(call!(SYS_mount), args, step);
    }

    fn make_private(&mut self, path: &str) {
        let text = self.program.string(path);
        let flags = Arg::Int(libc::MS_REC | libc::MS_PRIVATE);
        let args = [Arg::NULL, text, Arg::NULL, flags, Arg::NULL];
        self.program
            .op(call!(SYS_mount), args, format!("make {path} private"));
    }

    fn set_read_only(&mut self, dirfd: Arg, path: Arg, flags: i32, step: impl Into<Step>) {
        let attr = [MOUNT_ATTR_RDONLY, 0, 0, 0].map(Word::Int);
        let attr = self.program.words(&attr);
        let args = [dirfd, path, Arg::flags(flags), attr, Arg::Int(32)];
        self.program.op(call!(SYS_mount_setattr), args, step);
    }

    /// What of procfs and sysfs tells too much or can do harm. Paths a kernel does not have are passed over.
    fn mask(&mut self) {
        let null = self.program.string("/dev/null");
        for path in MASKED_FILES {
            let text = self.program.string(path);
            let args = [null, text, Arg::NULL, Arg::Int(libc::MS_BIND), Arg::NULL];
            self.program
                .op(call!(SYS_mount), args, format!("mask {path}"))
                .tolerate(&[ENOENT]);
        }
        for path in MASKED_DIRECTORIES {
            let text = self.program.string(path);
            let kind = self.program.string("tmpfs");
            let data = self.program.string("size=4k,nr_inodes=1");
            let flags = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
            let args = [kind, text, kind, Arg::Int(flags), data];
            self.program
                .op(call!(SYS_mount), args, format!("mask {path}"))
                .tolerate(&[ENOENT]);
        }
        for path in READ_ONLY {
            let step = format!("make {path} read-only");
            let text = self.program.string(path);
            let flags = Arg::Int(libc::MS_BIND | libc::MS_REC);
            let args = [text, text, Arg::NULL, flags, Arg::NULL];
            self.program
                .op(call!(SYS_mount), args, step.clone())
                .tolerate(&[ENOENT]);
            let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
            let flags = flags | libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY;
            let args = [Arg::NULL, text, Arg::NULL, Arg::Int(flags), Arg::NULL];
            self.program
                .op(call!(SYS_mount), args, step)
                .tolerate(&[ENOENT]);
        }
    }

    /// no_new_privs, the bounding set, ids, and no capability but what execve(2) gives root of the bounding set.
    fn identity(&mut self) {
        self.prctl(libc::PR_SET_NO_NEW_PRIVS, &[1], "set no_new_privs");
        if self.prepared.permitted == 0 {
            // Without a capability to begin with there is none to drop, and no_new_privs keeps it so.
            return;
        }
        let allowed = self.command.capabilities.bits();
        // Unknown ones are EINVAL: what a future kernel knows is dropped as well.
        for capability in (0..64).filter(|capability| allowed & (1 << capability) == 0) {
            let call = [Arg::flags(libc::PR_CAPBSET_DROP), Arg::Int(capability)];
            let step = format!("drop capability {capability} from the bounding set");
            self.program
                .op(call!(SYS_prctl), call, step)
                .tolerate(&[EINVAL]);
        }
        if !self.prepared.setgroups_denied {
            self.program.op(
                call!(SYS_setgroups),
                [Arg::Int(0), Arg::NULL],
                "drop groups",
            );
        }
        if let Some((uid, gid)) = self.command.user {
            let step = format!("become user {uid}:{gid}");
            self.program.op(
                call!(SYS_setresgid),
                [Arg::Int(gid.into()); 3],
                step.clone(),
            );
            self.program
                .op(call!(SYS_setresuid), [Arg::Int(uid.into()); 3], step);
        }
        self.set_capabilities();
    }

    /// Effective and permitted are what the bounding set leaves, which execve(2) needs under no_new_privs; inheritable is
    /// empty (CVE-2022-24769).
    fn set_capabilities(&mut self) {
        let root = self.command.user.is_none_or(|(uid, _)| uid == 0);
        let kept = if root {
            self.command.capabilities.bits() & self.prepared.permitted
        } else {
            0
        };
        let (low, high) = (kept & 0xffff_ffff, kept >> 32);
        // A __user_cap_header_struct of version 3 for this thread, and two __user_cap_data_structs of three u32 each.
        let header = self.program.words(&[Word::Int(0x2008_0522)]);
        let data = [low | low << 32, high << 32, high].map(Word::Int);
        let data = self.program.words(&data);
        self.program
            .op(call!(SYS_capset), [header, data], "set capabilities");
    }

    fn exec(&mut self) {
        self.program
            .op(call!(SYS_umask), [Arg::Int(0o022)], "umask 022");
        let workdir = self.command.workdir.as_path();
        let step = format!("enter the workdir {}", workdir.display());
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let fd = self.open(workdir, flags, RESOLVE_NO_MAGICLINKS, step.clone());
        self.program.op(call!(SYS_fchdir), [fd], step);
        self.signals();
        let args = [Arg::Int(3), Arg::Int(u32::MAX.into()), Arg::Int(4)];
        self.program
            .op(call!(SYS_close_range), args, "close fds at exec");
        let strings = [self.command.program.as_os_str()].into_iter();
        let strings = strings.chain(self.command.args.iter().map(OsString::as_os_str));
        let argv: Vec<_> = strings.map(OsStrExt::as_bytes).collect();
        let argv = self.program.string_array(argv);
        let env: Vec<_> = self
            .command
            .env
            .iter()
            .map(|(n, v)| variable(n, v))
            .collect();
        let envp = self.program.string_array(env.iter().map(Vec::as_slice));
        let candidates = self.candidates();
        for (index, path) in candidates.iter().enumerate() {
            let text = self.program.string(path.as_os_str().as_bytes());
            let step = format!("execve {}", self.command.name().display());
            let op = self.program.op(call!(SYS_execve), [text, argv, envp], step);
            if index + 1 < candidates.len() {
                op.tolerate(&[ENOENT, EACCES, ENOTDIR]);
            }
        }
    }

    /// Default dispositions, then no signal blocked.
    fn signals(&mut self) {
        let none = self.program.words(&[Word::Int(0); 4]);
        // clone3(2) has taken away the handlers; what the caller ignores, the child would too.
        for signal in
            (1..=64).filter(|signal| self.prepared.ignored_signals & 1 << (signal - 1) != 0)
        {
            let args = [Arg::flags(signal), none, Arg::NULL, Arg::Int(8)];
            self.program
                .op(call!(SYS_rt_sigaction), args, "reset signals");
        }
        let args = [Arg::flags(libc::SIG_SETMASK), none, Arg::NULL, Arg::Int(8)];
        self.program
            .op(call!(SYS_rt_sigprocmask), args, "unblock signals");
    }

    /// Where the program may be.
    fn candidates(&self) -> Vec<PathBuf> {
        let program = self.command.name();
        if program.as_os_str().as_bytes().contains(&b'/') {
            return vec![program.to_owned()];
        }
        let path = self.command.env.iter().find(|(name, _)| name == "PATH");
        let path = path.map_or(&b""[..], |(_, value)| value.as_bytes());
        let directories = path
            .split(|&byte| byte == b':')
            .map(|directory| PathBuf::from(OsString::from_vec(directory.to_vec())).join(program));
        directories.collect()
    }

    fn prctl(&mut self, option: i32, args: &[u64], step: &'static str) {
        let mut all = [Arg::Int(0); 5];
        all[0] = Arg::flags(option);
        for (position, &value) in args.iter().enumerate() {
            all[position + 1] = Arg::Int(value);
        }
        self.program.op(call!(SYS_prctl), all, step);
    }
}

fn variable(name: &OsString, value: &OsString) -> Vec<u8> {
    [name.as_bytes(), b"=", value.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::RootFs;
    use crate::namespace::Namespaces;

    fn lines(command: &Command) -> Vec<String> {
        let root = command.root.is_some().then_some(Tree::Detached(5));
        let prepared = Prepared {
            root,
            permitted: u64::MAX,
            ..Prepared::default()
        };
        let text = compile(command, &prepared).to_string();
        text.lines().map(|line| line[4..].to_owned()).collect()
    }

    fn position(lines: &[String], what: &str) -> usize {
        lines
            .iter()
            .position(|line| line.contains(what))
            .unwrap_or_else(|| panic!("{what} in {lines:#?}"))
    }

    #[test]
    fn a_bare_program_touches_no_mount() {
        let lines = lines(&Command::new("/bin/true").namespaces(Namespaces::none()));
        assert!(
            lines.iter().all(|line| !line.contains("mount")),
            "{lines:#?}"
        );
        assert!(lines.last().unwrap().starts_with("execve(\"/bin/true\""));
    }

    #[test]
    fn the_host_is_gone_before_the_program_can_run_and_no_proc_is_there_when_targets_are_resolved()
    {
        let command = Command::new("/bin/app")
            .root(RootFs::directory("/srv"))
            .mount(Mount::tmpfs("/tmp", 4096));
        let lines = lines(&command);
        let order = [
            "pivot_root",
            "# mount tmpfs on /tmp",
            "mount(\"proc\", \".\", \"proc\"",
            "umount2(\"/\", 2)",
            "# mask /proc/kcore",
            "# set no_new_privs",
            "# drop capability 21 ",
            "# set capabilities",
            "# enter the workdir",
            "close_range(3, 0xffffffff, 4)",
            "execve(",
        ];
        let positions = order.map(|what| position(&lines, what));
        assert!(positions.is_sorted(), "{positions:?} in {lines:#?}");
    }

    #[test]
    fn a_name_without_a_slash_is_tried_along_the_path() {
        let command = Command::new("app")
            .env("PATH", "/a:/b")
            .namespaces(Namespaces::none());
        let lines = lines(&command);
        let tried: Vec<_> = lines
            .iter()
            .filter(|line| line.starts_with("execve"))
            .collect();
        assert_eq!(tried.len(), 2);
        assert!(
            tried[0].starts_with("execve(\"/a/app\"") && tried[1].starts_with("execve(\"/b/app\"")
        );
    }
}
