//! What cannot be seen or written.

use std::ffi::OsStr;
use std::path::Path;

use libc::{EBADF, ENOENT, ENOTDIR, O_CLOEXEC, O_DIRECTORY, O_PATH};

use super::{
    AT_RECURSIVE, BENEATH, Compiler, F_EMPTY, HOW_SIZE, NO_MAGICLINKS, NO_SYMLINKS, OPEN_TREE,
    Standard,
};
use crate::mount::{Attributes, Depth, NODEV, NOEXEC, NOSUID, RDONLY, RootFs, STANDARD};
use crate::program::{Arg, call};

/// Docker's masked paths, where the kernel has them.
const PROC_FILES: [&str; 7] = [
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "timer_list",
    "timer_stats",
];
const PROC_DIRECTORIES: [&str; 3] = ["acpi", "asound", "scsi"];
const SYS_DIRECTORIES: [&str; 2] = ["devices/virtual/powercap", "firmware"];

/// Docker's read-only paths.
const READ_ONLY_PROC: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// An empty directory, next to a `null`.
const EMPTY: &str = ".empty";

/// Where a path is looked for, and what may be on the way.
type Place<'p> = (Arg, &'p OsStr, u64);

impl Compiler<'_> {
    /// A tmpfs on top of the root with what masks are made of: where there is no `/dev` of its own, and for the caller's masks,
    /// as what the caller mounts in `/dev` is not to be in the way.
    pub(super) fn veils(&mut self, root: &RootFs, hosts_null: Option<Arg>) -> Option<Arg> {
        let hidden = &root.hidden;
        if hidden.masked.is_empty() && !(hidden.defaults && root.dev.is_none()) {
            return None;
        }
        let step = "make a /dev/null for masks";
        let stage = self.stage(Attributes::of(NOSUID | NOEXEC));
        let (_, device) = STANDARD[0];
        let (kind, number) = match hosts_null {
            None => (device.type_bits(), device.number()),
            Some(_) => (libc::S_IFREG, 0),
        };
        let null = self.program.string("null");
        let mode = Arg::Int((kind | 0o666).into());
        let args = [stage, null, mode, Arg::Int(number)];
        self.program.op(call!(SYS_mknodat), args, step);
        if let Some(tree) = hosts_null {
            let empty = self.program.string("");
            let args = [tree, empty, stage, null, Arg::flags(F_EMPTY)];
            self.program.op(call!(SYS_move_mount), args, step);
        }
        self.make_empty(stage);
        Some(stage)
    }

    /// What of procfs and sysfs tells too much or can do harm. What a kernel does not have is passed over.
    pub(super) fn mask_defaults(&mut self, standard: Standard, veils: Option<Arg>) {
        let from = match (veils, standard.dev) {
            (Some(veils), _) => veils,
            (None, Some(dev)) => {
                self.make_empty(dev);
                dev
            }
            (None, None) => return,
        };
        if let Some(proc) = standard.proc {
            self.mask_proc(proc, from);
        }
        if let Some(sys) = standard.sys {
            let prepared = self.prepared;
            let throttles = prepared.sources.throttles.iter().map(String::as_str);
            for name in SYS_DIRECTORIES.into_iter().chain(throttles) {
                self.mask_directory(sys, name, from, format!("mask /sys/{name}"));
            }
        }
        if veils.is_none() {
            let empty = self.program.string(EMPTY);
            let args = [from, empty, Arg::flags(libc::AT_REMOVEDIR)];
            self.program
                .op(call!(SYS_unlinkat), args, "remove the empty directory");
        }
        for name in READ_ONLY_PROC {
            let Some(proc) = standard.proc else { break };
            let step = format!("make /proc/{name} read-only");
            let target = self.masked(proc, name, 3, step.clone());
            self.read_only(target, step);
        }
    }

    fn mask_proc(&mut self, proc: Arg, from: Arg) {
        for name in PROC_FILES {
            let step = format!("mask /proc/{name}");
            let target = self.masked(proc, name, 2, step.clone());
            self.cover_file(target, from, step);
        }
        for name in PROC_DIRECTORIES {
            self.mask_directory(proc, name, from, format!("mask /proc/{name}"));
        }
    }

    fn mask_directory(&mut self, mount: Arg, name: &str, from: Arg, step: String) {
        let target = self.masked(mount, name, 3, step.clone());
        self.cover_directory(target, from, step);
    }

    /// The caller's.
    pub(super) fn mask_paths(&mut self, root: &RootFs, standard: Standard, veils: Option<Arg>) {
        if let Some(veils) = veils {
            for path in &root.hidden.masked {
                self.mask_path(place(path, standard), veils, path);
            }
        }
        for path in &root.hidden.read_only {
            let step = format!("make {} read-only", path.display());
            let (at, name, resolve) = place(path, standard);
            let [name, how] = self.how(name, O_PATH, resolve);
            let target = self
                .program
                .op(call!(SYS_openat2), [at, name, how, HOW_SIZE], step.clone())
                .tolerate(&[ENOENT, ENOTDIR])
                .or_skip(3)
                .keep();
            self.read_only(target, step);
        }
    }

    /// Whether it is a directory only shows when it is opened as one.
    fn mask_path(&mut self, (at, path_name, resolve): Place<'_>, veils: Arg, path: &Path) {
        let step = format!("mask {}", path.display());
        let [name, how] = self.how(path_name, O_PATH | O_DIRECTORY, resolve);
        let target = self
            .program
            .op(call!(SYS_openat2), [at, name, how, HOW_SIZE], step.clone())
            .tolerate(&[ENOENT, ENOTDIR])
            .or_skip(4)
            .keep();
        self.cover_directory(target, veils, step.clone());
        // It always fails: the rest is for what is no directory.
        self.program
            .op(call!(SYS_close), [Arg::fd(-1)], step.clone())
            .tolerate(&[EBADF])
            .or_skip(3);
        let [name, how] = self.how(path_name, O_PATH, resolve);
        let target = self
            .program
            .op(call!(SYS_openat2), [at, name, how, HOW_SIZE], step.clone())
            .tolerate(&[ENOENT, ENOTDIR])
            .or_skip(2)
            .keep();
        self.cover_file(target, veils, step);
    }

    /// Two ops.
    fn cover_file(&mut self, target: Arg, from: Arg, step: String) {
        let null = self.open_tree(from, "null", OPEN_TREE, step.clone());
        self.move_onto(null, target, step);
    }

    /// Three ops.
    fn cover_directory(&mut self, target: Arg, from: Arg, step: String) {
        let tree = self.open_tree(from, EMPTY, OPEN_TREE, step.clone());
        let attributes = Attributes::of(RDONLY | NOSUID | NODEV | NOEXEC);
        self.set_attributes(tree, Depth::Top, attributes, step.clone());
        self.move_onto(tree, target, step);
    }

    /// Three ops: a read-only clone of what `target` is, on top of it.
    fn read_only(&mut self, target: Arg, step: String) {
        let tree = self.open_tree(target, "", OPEN_TREE | AT_RECURSIVE, step.clone());
        let attributes = Attributes::of(RDONLY);
        self.set_attributes(tree, Depth::Recursive, attributes, step.clone());
        self.move_onto(tree, target, step);
    }

    fn make_empty(&mut self, directory: Arg) {
        let empty = self.program.string(EMPTY);
        let args = [directory, empty, Arg::Int(0o555)];
        self.program
            .op(call!(SYS_mkdirat), args, "make an empty directory");
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
}

/// What is in procfs and sysfs is looked for in the mounts just made, by fd.
fn place(path: &Path, standard: Standard) -> Place<'_> {
    let mounts = [("/proc", standard.proc), ("/sys", standard.sys)];
    for (prefix, mount) in mounts {
        if let (Ok(rest), Some(mount)) = (path.strip_prefix(prefix), mount) {
            return (mount, rest.as_os_str(), NO_SYMLINKS | BENEATH);
        }
    }
    (Arg::CWD, path.as_os_str(), NO_MAGICLINKS)
}
