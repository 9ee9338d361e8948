//! The filesystem: everything between the first mount of a namespace and the one the program sees.
//!
//! What comes from the host is cloned first, by path or by fd. Then the root takes the host's place, and the host is gone
//! before anything is resolved inside: no link of the root leads out of it, and no procfs is there yet whose magic links
//! could. What protects the program's procfs and sysfs is done by fd, so nothing of the root can stand in for it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libc::{AT_EMPTY_PATH, EEXIST, ENOENT, O_CLOEXEC, O_DIRECTORY, O_PATH};

use super::{Compiler, Devices, Step, Target, Tree};
use crate::mount::{Access, Mount, What};
use crate::namespace::Namespace;
use crate::program::{Arg, Word, call};

const AT_RECURSIVE: i32 = 0x8000;
const OPEN_TREE: i32 = 1 | O_CLOEXEC; // OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC
const F_EMPTY: i32 = 0x4; // MOVE_MOUNT_F_EMPTY_PATH
const T_EMPTY: i32 = 0x40; // MOVE_MOUNT_T_EMPTY_PATH
const RDONLY: u64 = 1; // MOUNT_ATTR_RDONLY
const NOSUID: u64 = 2;
const NODEV: u64 = 4;
const NOEXEC: u64 = 8;
const NO_MAGICLINKS: u64 = 0x2;
const NO_SYMLINKS: u64 = 0x4;

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

/// Docker's masked paths, where the kernel has them.
const MASKED_PROC_FILES: [&str; 7] = [
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "timer_list",
    "timer_stats",
];
const MASKED_PROC_DIRECTORIES: [&str; 3] = ["acpi", "asound", "scsi"];
const MASKED_SYS_DIRECTORIES: [&str; 2] = ["devices/virtual/powercap", "firmware"];

/// Docker's read-only paths.
const READ_ONLY_PROC: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// A filesystem of the kernel's.
struct Filesystem {
    name: &'static str,
    target: &'static str,
    options: &'static [(&'static str, &'static str)],
    attributes: u64,
}

const PROC: Filesystem = Filesystem {
    name: "proc",
    target: "/proc",
    options: &[],
    attributes: NOSUID | NODEV | NOEXEC,
};
const SYS: Filesystem = Filesystem {
    name: "sysfs",
    target: "/sys",
    options: &[],
    attributes: RDONLY | NOSUID | NODEV | NOEXEC,
};
const DEV: Filesystem = Filesystem {
    name: "tmpfs",
    target: "/dev",
    options: &[("mode", "755"), ("size", "65536k")],
    attributes: NOSUID,
};
/// Where files are written before they are mounted. Attached only while they are, in the host's place.
const STAGE: Filesystem = Filesystem {
    name: "tmpfs",
    target: "the stage of files",
    options: &[("mode", "700")],
    attributes: NOSUID | NODEV,
};

impl Compiler<'_> {
    pub(super) fn filesystem(&mut self, root: &Tree) {
        self.make_private("/");
        let (root, access) = (self.take_root(root), self.root_access());
        let trees = self.take_mounts();
        let nodes = self.take_nodes();
        // While the host's are still seen, which is the kernel's condition in a user namespace.
        let proc = self.fsmount(&PROC);
        let sys = self.take_sysfs();
        let dev = self.fsmount(&DEV);
        self.pivot(root);

        let mounts: Vec<_> = self.command.mounts.iter().zip(trees).collect();
        let (under_dev, others): (Vec<_>, Vec<_>) = mounts
            .into_iter()
            .partition(|(mount, _)| mount.target.starts_with("/dev"));
        for (mount, tree) in others {
            self.mount(mount, tree, NO_MAGICLINKS);
        }
        self.attach(dev, DEV.target, Target::Directory, NO_SYMLINKS);
        self.fill_dev(dev, &nodes);
        self.attach(proc, PROC.target, Target::Directory, NO_SYMLINKS);
        self.attach(sys, SYS.target, Target::Directory, NO_SYMLINKS);
        self.mask(dev, proc, sys);
        for (mount, tree) in under_dev {
            self.mount(mount, tree, NO_SYMLINKS);
        }
        if access == Access::ReadOnly {
            self.set_attributes(root, 0, RDONLY, 0, "make the root read-only");
        }
    }

    fn root_access(&self) -> Access {
        self.command
            .root
            .as_ref()
            .map_or(Access::ReadWrite, |root| root.access)
    }

    /// A read-only directory is that from the start, with all below it. Of a detached mount, which is the caller's to lose, the
    /// top can be written until there are directories to mount on.
    fn take_root(&mut self, root: &Tree) -> Arg {
        let access = self.root_access();
        let fd = self.take(root, access, "clone the root");
        if access == Access::ReadOnly && self.command.root_is_detached() {
            let step = "make the root read-only";
            self.set_attributes(fd, AT_RECURSIVE, RDONLY, 0, step);
            self.set_attributes(fd, 0, 0, RDONLY, step);
        }
        fd
    }

    /// A fd of the tree, cloned here if it could not be before.
    fn take(&mut self, tree: &Tree, access: Access, step: &'static str) -> Arg {
        let path = match tree {
            Tree::Detached(fd) => return Arg::fd(*fd),
            Tree::Path(path) => path,
        };
        let step = format!("{step} {}", path.display());
        let flags = OPEN_TREE | AT_RECURSIVE;
        let fd = self.open_tree(Arg::CWD, path.as_os_str(), flags, step.clone());
        if access == Access::ReadOnly {
            self.set_attributes(fd, AT_RECURSIVE, RDONLY, 0, step);
        }
        fd
    }

    /// What is to be mounted and on what, one for each mount; a tmpfs is made where it goes.
    fn take_mounts(&mut self) -> Vec<Option<(Arg, Target)>> {
        let command = self.command;
        let mut binds = self.prepared.binds.iter();
        let mut stage = None;
        let mut trees = Vec::with_capacity(command.mounts.len());
        for (index, mount) in command.mounts.iter().enumerate() {
            trees.push(match &mount.what {
                What::Bind { access, .. } => binds.next().map(|bind| {
                    let tree = self.take(&bind.tree, *access, "clone the mount source");
                    (tree, bind.kind)
                }),
                What::File { content, mode } => {
                    let stage = *stage.get_or_insert_with(|| self.stage());
                    let tree = self.write_file(stage, index, mount, content, *mode);
                    Some((tree, Target::File))
                }
                What::Tmpfs { .. } => None,
            });
        }
        if stage.is_some() {
            // Before the root comes: nothing but the old root may be in its way when that is unmounted.
            let slash = self.program.string("/");
            let args = [slash, Arg::flags(libc::MNT_DETACH)];
            self.program
                .op(call!(SYS_umount2), args, "unmount the stage of files");
        }
        trees
    }

    /// A tmpfs on top of the host's root.
    fn stage(&mut self) -> Arg {
        let stage = self.fsmount(&STAGE);
        let (empty, slash) = (self.program.string(""), self.program.string("/"));
        let args = [stage, empty, Arg::CWD, slash, Arg::flags(F_EMPTY)];
        self.program
            .op(call!(SYS_move_mount), args, "attach the stage of files");
        stage
    }

    fn write_file(
        &mut self,
        stage: Arg,
        index: usize,
        mount: &Mount,
        content: &[u8],
        mode: u32,
    ) -> Arg {
        let step = format!("write the file {}", mount.target.display());
        let name = index.to_string();
        let text = self.program.string(&name);
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY | O_CLOEXEC;
        let args = [stage, text, Arg::flags(flags), Arg::Int(mode.into())];
        let file = self
            .program
            .op(call!(SYS_openat), args, step.clone())
            .keep();
        if !content.is_empty() {
            let data = self.program.string(content);
            let args = [file, data, Arg::Int(content.len() as u64)];
            let least = i32::try_from(content.len()).unwrap_or(i32::MAX);
            self.program
                .op(call!(SYS_write), args, step.clone())
                .at_least(least);
        }
        self.close(file);
        self.open_tree(stage, OsStr::new(&name), OPEN_TREE, step)
    }

    /// The host's devices, where they cannot be made.
    fn take_nodes(&mut self) -> Vec<Arg> {
        if self.prepared.devices == Devices::Mknod {
            return Vec::new();
        }
        let take = |(name, ..): (&str, u32, u32)| {
            let (path, step) = (
                format!("/dev/{name}"),
                format!("clone the device /dev/{name}"),
            );
            self.open_tree(Arg::CWD, OsStr::new(&path), OPEN_TREE, step)
        };
        NODES.into_iter().map(take).collect()
    }

    /// A user namespace can mount sysfs only with a network namespace of its own; else it gets the host's, read-only.
    fn take_sysfs(&mut self) -> Arg {
        if self.command.owns_user_namespace() && !self.command.namespaces.has(Namespace::Net) {
            return self.take(&Tree::Path("/sys".into()), Access::ReadOnly, "clone");
        }
        self.fsmount(&SYS)
    }

    /// The root becomes `/`, and the old one is gone.
    fn pivot(&mut self, root: Arg) {
        let (empty, slash, dot) = (
            self.program.string(""),
            self.program.string("/"),
            self.program.string("."),
        );
        let args = [root, empty, Arg::CWD, slash, Arg::flags(F_EMPTY)];
        self.program
            .op(call!(SYS_move_mount), args, "attach the root");
        self.program.op(call!(SYS_fchdir), [root], "enter the root");
        self.program
            .op(call!(SYS_pivot_root), [dot, dot], "pivot_root");
        let args = [dot, Arg::flags(libc::MNT_DETACH)];
        self.program
            .op(call!(SYS_umount2), args, "unmount the old root");
        self.program.op(call!(SYS_chdir), [slash], "enter /");
        self.make_private("/");
    }

    fn fill_dev(&mut self, dev: Arg, nodes: &[Arg]) {
        for (index, (name, major, minor)) in NODES.into_iter().enumerate() {
            let step = format!("make /dev/{name}");
            let text = self.program.string(name);
            let (kind, device) = match nodes.get(index) {
                None => (libc::S_IFCHR, libc::makedev(major, minor)),
                Some(_) => (libc::S_IFREG, 0),
            };
            let args = [dev, text, Arg::Int((kind | 0o666).into()), Arg::Int(device)];
            self.program.op(call!(SYS_mknodat), args, step.clone());
            if let Some(&node) = nodes.get(index) {
                let empty = self.program.string("");
                let args = [node, empty, dev, text, Arg::flags(F_EMPTY)];
                self.program.op(call!(SYS_move_mount), args, step);
            }
        }
        for (name, target) in LINKS {
            let (target, link) = (self.program.string(target), self.program.string(name));
            let args = [target, dev, link];
            self.program
                .op(call!(SYS_symlinkat), args, format!("make /dev/{name}"));
        }
        self.device_filesystems(dev);
    }

    /// Mounted on directories of the tmpfs just made, where nothing of the root can be in the way.
    fn device_filesystems(&mut self, dev: Arg) {
        // Group 5 is tty; a user namespace may not know it.
        let pts = match self.prepared.devices {
            Devices::Mknod => "newinstance,ptmxmode=0666,mode=0620,gid=5",
            Devices::Bind => "newinstance,ptmxmode=0666,mode=0620",
        };
        let (nodev, noexec) = (libc::MS_NODEV, libc::MS_NOEXEC);
        let rows = [
            ("pts", "devpts", noexec, pts),
            ("shm", "tmpfs", noexec | nodev, "mode=1777,size=65536k"),
            ("mqueue", "mqueue", noexec | nodev, ""),
        ];
        self.program.op(call!(SYS_fchdir), [dev], "enter /dev");
        let owns_ipc = self.command.namespaces.has(Namespace::Ipc);
        for (name, filesystem, flags, data) in rows {
            if name == "mqueue" && !owns_ipc {
                continue;
            }
            let step = format!("mount {filesystem} on /dev/{name}");
            let target = self.program.string(name);
            self.program
                .op(call!(SYS_mkdir), [target, Arg::Int(0o755)], step.clone());
            self.classic_mount(target, filesystem, libc::MS_NOSUID | flags, data, step);
        }
    }

    /// What of procfs and sysfs tells too much or can do harm. What a kernel does not have is passed over.
    fn mask(&mut self, dev: Arg, proc: Arg, sys: Arg) {
        for name in MASKED_PROC_FILES {
            let step = format!("mask /proc/{name}");
            let target = self.masked(proc, name, 2, step.clone());
            let null = self.open_tree(dev, OsStr::new("null"), OPEN_TREE, step.clone());
            self.move_onto(null, target, step);
        }
        let empty = self.program.string(".empty");
        let args = [dev, empty, Arg::Int(0o555)];
        self.program
            .op(call!(SYS_mkdirat), args, "make an empty directory");
        let directories = MASKED_PROC_DIRECTORIES.map(|name| (proc, "/proc", name));
        let others = MASKED_SYS_DIRECTORIES.map(|name| (sys, "/sys", name));
        for (mount, prefix, name) in directories.into_iter().chain(others) {
            let step = format!("mask {prefix}/{name}");
            let target = self.masked(mount, name, 3, step.clone());
            let tree = self.open_tree(dev, OsStr::new(".empty"), OPEN_TREE, step.clone());
            self.set_attributes(tree, 0, RDONLY | NOSUID | NODEV | NOEXEC, 0, step.clone());
            self.move_onto(tree, target, step);
        }
        let args = [dev, empty, Arg::flags(libc::AT_REMOVEDIR)];
        self.program
            .op(call!(SYS_unlinkat), args, "remove the empty directory");
        for name in READ_ONLY_PROC {
            let step = format!("make /proc/{name} read-only");
            let target = self.masked(proc, name, 3, step.clone());
            let tree = self.open_tree(
                proc,
                OsStr::new(name),
                OPEN_TREE | AT_RECURSIVE,
                step.clone(),
            );
            let attributes = RDONLY | NOSUID | NODEV | NOEXEC;
            self.set_attributes(tree, AT_RECURSIVE, attributes, 0, step.clone());
            self.move_onto(tree, target, step);
        }
    }

    /// Opens a path of a kernel filesystem; where it does not exist, `ops` ops after this are passed over.
    fn masked(&mut self, mount: Arg, name: &str, ops: u32, step: String) -> Arg {
        let name = self.program.string(name);
        let args = [
            mount,
            name,
            Arg::flags(O_PATH | O_CLOEXEC | libc::O_NOFOLLOW),
        ];
        self.program
            .op(call!(SYS_openat), args, step)
            .tolerate(&[ENOENT])
            .or_skip(ops)
            .keep()
    }

    /// One of the caller's.
    fn mount(&mut self, mount: &Mount, tree: Option<(Arg, Target)>, resolve: u64) {
        match (&mount.what, tree) {
            (What::Tmpfs { size, mode }, _) => self.tmpfs(mount, *size, *mode, resolve),
            (_, Some((tree, kind))) => self.attach(tree, &mount.target, kind, resolve),
            (What::File { .. } | What::Bind { .. }, None) => {}
        }
    }

    fn tmpfs(&mut self, mount: &Mount, size: u64, mode: u32, resolve: u64) {
        let step = format!("mount tmpfs on {}", mount.target.display());
        let target = self.target(&mount.target, Target::Directory, resolve);
        self.program.op(call!(SYS_fchdir), [target], step.clone());
        self.close(target);
        let data = format!("size={size},mode={mode:o}");
        let dot = self.program.string(".");
        self.classic_mount(dot, "tmpfs", libc::MS_NOSUID | libc::MS_NODEV, &data, step);
    }

    /// Moves the tree onto `path`, which is made if it is missing.
    fn attach(&mut self, tree: Arg, path: impl AsRef<Path>, kind: Target, resolve: u64) {
        let path = path.as_ref();
        let target = self.target(path, kind, resolve);
        self.move_onto(tree, target, format!("mount on {}", path.display()));
        self.close(target);
    }

    /// Opens `path` to be mounted on, making what is missing of it, one component after the other: each is made without
    /// following a link, and opened as `resolve` says.
    fn target(&mut self, path: &Path, kind: Target, resolve: u64) -> Arg {
        let step = format!("open {} to mount on it", path.display());
        let slash = Path::new("/");
        let mut directory = self.open(Arg::CWD, slash.as_os_str(), O_DIRECTORY, 0, step.clone());
        let names: Vec<_> = path.iter().skip(1).collect();
        for (index, name) in names.iter().enumerate() {
            let last = index + 1 == names.len();
            let kind = if last { kind } else { Target::Directory };
            self.make(directory, name, kind, path);
            let flags = if kind == Target::Directory {
                O_DIRECTORY
            } else {
                0
            };
            let next = self.open(directory, name, flags, resolve, step.clone());
            self.close(directory);
            directory = next;
        }
        directory
    }

    /// Makes what is not there: EEXIST is the answer for what is, also where nothing can be made.
    fn make(&mut self, directory: Arg, name: &OsStr, kind: Target, path: &Path) {
        let step = format!("make {}", path.display());
        let name = self.program.string(name.as_bytes());
        let op = match kind {
            Target::Directory => {
                self.program
                    .op(call!(SYS_mkdirat), [directory, name, Arg::Int(0o755)], step)
            }
            Target::File => {
                let mode = Arg::Int((libc::S_IFREG | 0o644).into());
                self.program.op(
                    call!(SYS_mknodat),
                    [directory, name, mode, Arg::Int(0)],
                    step,
                )
            }
        };
        op.tolerate(&[EEXIST]);
    }

    /// A detached mount of a new instance.
    fn fsmount(&mut self, filesystem: &Filesystem) -> Arg {
        const FSCONFIG_SET_STRING: u64 = 1;
        const FSCONFIG_CMD_CREATE: u64 = 6;
        let step = format!("make a {} for {}", filesystem.name, filesystem.target);
        let name = self.program.string(filesystem.name);
        let one = Arg::Int(1); // FSOPEN_CLOEXEC and FSMOUNT_CLOEXEC
        let context = self
            .program
            .op(call!(SYS_fsopen), [name, one], step.clone())
            .keep();
        for (key, value) in filesystem.options {
            let (key, value) = (self.program.string(key), self.program.string(value));
            let args = [
                context,
                Arg::Int(FSCONFIG_SET_STRING),
                key,
                value,
                Arg::Int(0),
            ];
            self.program.op(call!(SYS_fsconfig), args, step.clone());
        }
        let args = [
            context,
            Arg::Int(FSCONFIG_CMD_CREATE),
            Arg::NULL,
            Arg::NULL,
            Arg::Int(0),
        ];
        self.program.op(call!(SYS_fsconfig), args, step.clone());
        let args = [context, one, Arg::Int(filesystem.attributes)];
        let mount = self.program.op(call!(SYS_fsmount), args, step).keep();
        self.close(context);
        mount
    }

    fn classic_mount(
        &mut self,
        target: Arg,
        filesystem: &str,
        flags: u64,
        data: &str,
        step: String,
    ) {
        let kind = self.program.string(filesystem);
        let data = if data.is_empty() {
            Arg::NULL
        } else {
            self.program.string(data)
        };
        let args = [kind, target, kind, Arg::Int(flags), data];
        self.program.op(call!(SYS_mount), args, step);
    }

    pub(super) fn make_private(&mut self, path: &str) {
        let text = self.program.string(path);
        let flags = Arg::Int(libc::MS_REC | libc::MS_PRIVATE);
        let args = [Arg::NULL, text, Arg::NULL, flags, Arg::NULL];
        self.program
            .op(call!(SYS_mount), args, format!("make {path} private"));
    }

    fn open_tree(&mut self, at: Arg, path: &OsStr, flags: i32, step: impl Into<Step>) -> Arg {
        let path = self.program.string(path.as_bytes());
        self.program
            .op(call!(SYS_open_tree), [at, path, Arg::flags(flags)], step)
            .keep()
    }

    fn move_onto(&mut self, tree: Arg, target: Arg, step: impl Into<Step>) {
        let empty = self.program.string("");
        let args = [tree, empty, target, empty, Arg::flags(F_EMPTY | T_EMPTY)];
        self.program.op(call!(SYS_move_mount), args, step);
    }

    fn set_attributes(
        &mut self,
        tree: Arg,
        flags: i32,
        set: u64,
        clear: u64,
        step: impl Into<Step>,
    ) {
        let attributes = self.program.words(&[set, clear, 0, 0].map(Word::Int));
        let empty = self.program.string("");
        let args = [
            tree,
            empty,
            Arg::flags(AT_EMPTY_PATH | flags),
            attributes,
            Arg::Int(32),
        ];
        self.program.op(call!(SYS_mount_setattr), args, step);
    }

    /// An `O_PATH` fd.
    pub(super) fn open(
        &mut self,
        at: Arg,
        path: &OsStr,
        flags: i32,
        resolve: u64,
        step: impl Into<Step>,
    ) -> Arg {
        let path = self.program.string(path.as_bytes());
        let flags = u64::from((flags | O_PATH | O_CLOEXEC).unsigned_abs());
        let how = self.program.words(&[flags, 0, resolve].map(Word::Int));
        self.program
            .op(call!(SYS_openat2), [at, path, how, Arg::Int(24)], step)
            .keep()
    }

    pub(super) fn enter_workdir(&mut self) {
        let workdir = self.command.workdir.as_path();
        let step = format!("enter the workdir {}", workdir.display());
        let fd = self.open(
            Arg::CWD,
            workdir.as_os_str(),
            O_DIRECTORY,
            NO_MAGICLINKS,
            step.clone(),
        );
        self.program.op(call!(SYS_fchdir), [fd], step);
    }

    fn close(&mut self, fd: Arg) {
        self.program
            .op(call!(SYS_close), [fd], "close a file descriptor");
    }
}
