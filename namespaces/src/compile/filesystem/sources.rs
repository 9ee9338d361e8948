//! What comes from the host.

use std::ffi::OsStr;

use libc::AT_EMPTY_PATH;

use super::{AT_RECURSIVE, Compiler, NO_MAGICLINKS, NO_SYMLINKS, OPEN_TREE, Step};
use crate::mount::{
    Access, Attributes, Change, Depth, Links, Propagation, RDONLY, RootFs, STANDARD, What,
};
use crate::program::{Arg, Word, call};
use crate::sources::{HostPath, Identity, Opened, Tree, sys_changes};

impl Compiler<'_> {
    /// Trees that the child has to clone and that mounts of the host's are to show up in: the root's, then one for each mount.
    /// They are cloned while the child's mounts are still slaves of the host's.
    pub(super) fn take_slaves(&mut self, root: &RootFs) -> Vec<Option<Arg>> {
        let (command, prepared) = (self.command, self.prepared);
        let slave = |tree: &Tree| matches!(tree, Tree::Path(host) if host.propagation != Propagation::Private);
        let mut taken = Vec::with_capacity(1 + command.mounts.len());
        let tree = prepared.sources.root.as_ref().filter(|tree| slave(tree));
        taken.push(tree.map(|tree| self.take(tree, &root.bind().1, "clone the root")));
        for (mount, opened) in command.mounts.iter().zip(&prepared.sources.mounts) {
            taken.push(match (&mount.what, opened) {
                (What::Bind(bind), Opened::Tree(tree, _)) if slave(tree) => {
                    let changes = bind.changes(mount.attributes);
                    Some(self.take(tree, &changes, "clone the mount source"))
                }
                _ => None,
            });
        }
        taken
    }

    /// A read-only directory is that from the start, with all below it. Of a detached mount, which is the caller's to lose, the
    /// top can be written until there are directories to mount on.
    pub(super) fn take_root(&mut self, root: &RootFs, early: &[Option<Arg>]) -> Arg {
        if let Some(fd) = early.first().copied().flatten() {
            return fd;
        }
        let Some(tree) = &self.prepared.sources.root else {
            // The caller has opened one; without, the next op says EBADF.
            return Arg::fd(-1);
        };
        let fd = self.take(tree, &root.bind().1, "clone the root");
        if root.access == Access::ReadOnly && self.command.root_is_detached() {
            let step = "make the root read-only";
            self.set_attributes(fd, Depth::Recursive, Attributes::of(RDONLY), step);
            self.mount_setattr(fd, Depth::Top, [0, RDONLY], step);
        }
        fd
    }

    /// The host's devices, where they cannot be made.
    pub(super) fn take_devices(&mut self) -> Vec<Arg> {
        let prepared = self.prepared;
        let trees = prepared.sources.devices.iter().flatten();
        let named = STANDARD.into_iter().zip(trees);
        let take = |((name, _), tree)| self.take(tree, &[], format!("clone the device {name}"));
        named.map(take).collect()
    }

    /// The host's `/dev/null` for masks, where none can be made.
    pub(super) fn take_null(&mut self) -> Option<Arg> {
        let prepared = self.prepared;
        let tree = prepared.sources.null.as_ref();
        tree.map(|tree| self.take(tree, &[], "clone the device"))
    }

    /// The host's sysfs, where there can be no other.
    pub(super) fn take_sys(&mut self) -> Option<Arg> {
        let prepared = self.prepared;
        let tree = prepared.sources.sys.as_ref();
        tree.map(|tree| self.take(tree, &sys_changes(), "clone"))
    }

    /// A fd of the tree, cloned here if it could not be before.
    pub(super) fn take(&mut self, tree: &Tree, changes: &[Change], step: impl Into<Step>) -> Arg {
        let host = match tree {
            Tree::Detached(fd) => return Arg::fd(*fd),
            Tree::Path(host) => host,
        };
        let step = format!("{} {}", step.into(), host.path.display());
        let fd = self.clone_path(host, &step);
        for change in changes
            .iter()
            .filter(|change| !change.attributes.is_empty())
        {
            self.set_attributes(fd, change.depth, change.attributes, step.clone());
        }
        fd
    }

    fn clone_path(&mut self, host: &HostPath, step: &str) -> Arg {
        let resolve = match host.links {
            Links::Follow => 0,
            Links::Refuse => NO_SYMLINKS | NO_MAGICLINKS,
        };
        let path = host.path.as_os_str();
        let file = self.open(Arg::CWD, path, 0, resolve, step.to_owned());
        self.require(file, host.identity, step);
        let depth = match host.depth {
            Depth::Top => 0,
            Depth::Recursive => AT_RECURSIVE,
        };
        let tree = self.open_tree(file, OsStr::new(""), OPEN_TREE | depth, step.to_owned());
        self.close(file);
        tree
    }

    /// Goes on only if `file` is what the caller saw, else `EAGAIN`: statx(2), whose result futex(2) compares with what is
    /// expected.
    fn require(&mut self, file: Arg, identity: Identity, step: &str) {
        const BASIC_STATS: u64 = 0x7ff;
        const CMP_REQUEUE: i32 = 4 | 128; // FUTEX_CMP_REQUEUE | FUTEX_PRIVATE_FLAG
        let stat = self.program.words(&[Word::Int(0); 32]);
        let empty = self.program.string("");
        let args = [
            file,
            empty,
            Arg::flags(AT_EMPTY_PATH),
            Arg::Int(BASIC_STATS),
            stat,
        ];
        self.program.op(call!(SYS_statx), args, step.to_owned());
        // Offsets in struct statx.
        let [a, b, c, d, e, f, g, h] = identity.inode.to_ne_bytes();
        let words = [
            (32, u32::from_ne_bytes([a, b, c, d])),
            (36, u32::from_ne_bytes([e, f, g, h])),
            (136, identity.major),
            (140, identity.minor),
        ];
        for (offset, expected) in words {
            let word = stat.offset(offset);
            // Nobody waits on these words: nothing is woken or moved.
            let args = [
                word,
                Arg::flags(CMP_REQUEUE),
                Arg::Int(0),
                Arg::Int(0),
                word,
                Arg::Int(expected.into()),
            ];
            let step = format!("{step}, which is not what it was a moment ago");
            self.program.op(call!(SYS_futex), args, step);
        }
    }
}
