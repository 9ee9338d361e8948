//! The filesystem: everything between the first mount of a namespace and the one the program sees.
//!
//! What comes from the host is cloned first, by fd; by path only for a caller without privilege. Then the root takes the host's
//! place, and the host is gone before anything is resolved inside: no link of the root leads out of it, and no procfs is
//! there yet whose magic links could. What protects the program's procfs and sysfs is done by fd, so nothing of the root
//! can stand in for it.

mod calls;
mod devices;
mod files;
mod kernel;
mod masks;
mod sources;
mod targets;

use std::ffi::OsStr;

use libc::{O_CLOEXEC, O_DIRECTORY, O_PATH};

use super::{Compiler, Step};
use crate::mount::{
    Access, Attributes, Depth, Mount, NODEV, NOSUID, Proc, Propagation, RDONLY, RootFs, What,
};
use crate::namespace::Namespace;
use crate::program::{Arg, call};
use crate::sources::{Node, Opened, Target};

const AT_RECURSIVE: i32 = 0x8000;
pub(super) const OPEN_TREE: i32 = 1 | O_CLOEXEC; // OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC
const F_EMPTY: i32 = 0x4; // MOVE_MOUNT_F_EMPTY_PATH
const T_EMPTY: i32 = 0x40; // MOVE_MOUNT_T_EMPTY_PATH
const NO_MAGICLINKS: u64 = 0x2;
const NO_SYMLINKS: u64 = 0x4;
const BENEATH: u64 = 0x8;
/// Bytes of a struct open_how.
const HOW_SIZE: Arg = Arg::Int(24);

/// What is ready to be put on a mount's target.
#[derive(Clone, Copy, Debug)]
enum Ready {
    /// A detached tree.
    Tree(Arg, Target),
    /// A tmpfs, which is made where it goes.
    Tmpfs,
    /// A device, which is made where it goes.
    Node(Node),
}

/// The kernel's filesystems, detached.
#[derive(Clone, Copy, Debug)]
struct Standard {
    proc: Option<Arg>,
    sys: Option<Arg>,
    dev: Option<Arg>,
}

impl Compiler<'_> {
    pub(super) fn filesystem(&mut self) {
        let command = self.command;
        if let Some(root) = &command.root {
            self.root(root);
            return;
        }
        if command.namespaces.has(Namespace::Mount) {
            self.make_private("/");
        }
        self.sysctls(None);
    }

    fn root(&mut self, wanted: &RootFs) {
        let early = self.take_slaves(wanted);
        self.make_private("/");
        let root = self.take_root(wanted, &early);
        let ready = self.take_mounts(&early);
        let devices = self.take_devices();
        let null = self.take_null();
        // While the host's are still seen, which is the kernel's condition in a user namespace.
        let standard = self.standard(wanted);
        let has_sys = wanted.proc.as_ref().is_some_and(Proc::has_sys);
        self.sysctls(standard.proc.filter(|_| has_sys));
        self.pivot(root, wanted);

        let [plain, late, shared] = in_order(&self.command.mounts, ready, standard);
        for (mount, ready) in plain {
            self.mount(mount, ready, NO_MAGICLINKS);
        }
        self.attach_standard(wanted, standard, &devices);
        let veils = self.veils(wanted, null);
        if wanted.hidden.defaults {
            self.mask_defaults(standard, veils);
        }
        for (mount, ready) in late {
            self.mount_late(mount, ready, standard);
        }
        self.mask_paths(wanted, standard, veils);
        if veils.is_some() {
            self.unstage();
        }
        for (mount, ready) in shared {
            self.mount(mount, ready, resolve(mount, standard));
        }
        if wanted.access == Access::ReadOnly {
            let attributes = Attributes::of(RDONLY);
            self.set_attributes(root, Depth::Top, attributes, "make the root read-only");
        }
    }

    fn mount_late(&mut self, mount: &Mount, ready: Ready, standard: Standard) {
        match (ready, standard.sys) {
            (Ready::Tree(tree, _), Some(sys)) if mount.is_cgroup2() => {
                let step = "mount on /sys/fs/cgroup";
                let resolve = NO_SYMLINKS | BENEATH;
                let target = self.open(sys, OsStr::new("fs/cgroup"), O_DIRECTORY, resolve, step);
                self.move_onto(tree, target, step);
            }
            _ => self.mount(mount, ready, NO_SYMLINKS),
        }
    }

    /// The root becomes `/`, and the old one is gone.
    fn pivot(&mut self, root: Arg, wanted: &RootFs) {
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
        if wanted.propagation == Propagation::Private {
            self.make_private("/");
        }
    }

    fn attach_standard(&mut self, wanted: &RootFs, standard: Standard, devices: &[Arg]) {
        if let Some((dev, shm_size)) = standard.dev.zip(wanted.dev) {
            self.attach(dev, "/dev", Target::Directory, NO_SYMLINKS);
            self.fill_dev(dev, devices, shm_size);
            self.open_terminal(dev);
        }
        if let Some(proc) = standard.proc {
            self.attach(proc, "/proc", Target::Directory, NO_SYMLINKS);
        }
        if let Some(sys) = standard.sys {
            self.attach(sys, "/sys", Target::Directory, NO_SYMLINKS);
        }
    }

    /// One of the caller's.
    fn mount(&mut self, mount: &Mount, ready: Ready, resolve: u64) {
        match ready {
            Ready::Tree(tree, kind) => self.attach(tree, &mount.target, kind, resolve),
            Ready::Tmpfs => self.tmpfs(mount, resolve),
            Ready::Node(node) => self.make_node(&mount.target, node, resolve),
        }
    }

    /// What is to be mounted and on what, one for each mount.
    fn take_mounts(&mut self, early: &[Option<Arg>]) -> Vec<Ready> {
        let (command, prepared) = (self.command, self.prepared);
        let mut stage = None;
        let mut all = Vec::with_capacity(command.mounts.len());
        let rows = command.mounts.iter().zip(&prepared.sources.mounts);
        for (index, (mount, opened)) in rows.enumerate() {
            let early = early.get(index + 1).copied().flatten();
            all.push(match (&mount.what, opened) {
                (What::Bind(bind), Opened::Tree(tree, kind)) => {
                    let changes = bind.changes(mount.attributes);
                    let tree = early
                        .unwrap_or_else(|| self.take(tree, &changes, "clone the mount source"));
                    Ready::Tree(tree, *kind)
                }
                (What::File(file), _) => {
                    let stage =
                        *stage.get_or_insert_with(|| self.stage(Attributes::of(NOSUID | NODEV)));
                    let tree = self.write_file(stage, index, mount, file);
                    Ready::Tree(tree, Target::File)
                }
                (What::Kernel(kernel), _) => {
                    Ready::Tree(self.kernel(*kernel, mount), Target::Directory)
                }
                (_, Opened::Tree(tree, kind)) => {
                    Ready::Tree(self.take(tree, &[], "clone the device"), *kind)
                }
                (_, Opened::Node(node)) => Ready::Node(*node),
                (_, Opened::Nothing) => Ready::Tmpfs,
            });
        }
        if stage.is_some() {
            self.unstage();
        }
        all
    }
}

/// What goes into the root; what goes into the standard filesystems, once they are there; and what is shared with the host:
/// that comes last, so that nothing else is mounted on it, and with that on the host.
fn in_order(mounts: &[Mount], ready: Vec<Ready>, standard: Standard) -> [Vec<(&Mount, Ready)>; 3] {
    let mut order = [Vec::new(), Vec::new(), Vec::new()];
    for (mount, ready) in mounts.iter().zip(ready) {
        let late = mount.is_cgroup2() || resolve(mount, standard) == NO_SYMLINKS;
        let position = if mount.is_shared() {
            2
        } else {
            usize::from(late)
        };
        order[position].push((mount, ready));
    }
    order
}

/// No link may be on the way to what is below the program's own `/dev`.
fn resolve(mount: &Mount, standard: Standard) -> u64 {
    if standard.dev.is_some() && mount.target.starts_with("/dev") {
        NO_SYMLINKS
    } else {
        NO_MAGICLINKS
    }
}
