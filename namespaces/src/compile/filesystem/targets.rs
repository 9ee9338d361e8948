//! Where mounts go.

use std::ffi::OsStr;
use std::path::Path;

use libc::{EEXIST, O_DIRECTORY};

use super::Compiler;
use crate::mount::{Mount, What};
use crate::program::{Arg, call};
use crate::sources::{Node, Target};

impl Compiler<'_> {
    pub(super) fn tmpfs(&mut self, mount: &Mount, resolve: u64) {
        let What::Tmpfs(tmpfs) = &mount.what else {
            return;
        };
        let step = format!("mount tmpfs on {}", mount.target.display());
        let target = self.target(&mount.target, Target::Directory, resolve);
        self.program.op(call!(SYS_fchdir), [target], step.clone());
        self.close(target);
        let dot = self.program.string(".");
        let flags = mount.attributes.mount_flags();
        self.classic_mount(dot, "tmpfs", flags, &tmpfs.options(), step);
    }

    /// Moves the tree onto `path`, which is made if it is missing.
    pub(super) fn attach(&mut self, tree: Arg, path: impl AsRef<Path>, kind: Target, resolve: u64) {
        let path = path.as_ref();
        let target = self.target(path, kind, resolve);
        self.move_onto(tree, target, format!("mount on {}", path.display()));
        self.close(target);
    }

    /// mknod(2) at `path`, whose directory is made if it is missing.
    pub(super) fn make_node(&mut self, path: &Path, node: Node, resolve: u64) {
        let step = format!("make the device {}", path.display());
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return;
        };
        let directory = self.target(directory, Target::Directory, resolve);
        let name = self.program.string(name.as_encoded_bytes());
        let mode = Arg::Int((node.device.type_bits() | node.mode).into());
        let args = [directory, name, mode, Arg::Int(node.device.number())];
        self.program.op(call!(SYS_mknodat), args, step.clone());
        let (uid, gid) = node.owner;
        if (uid, gid) != (0, 0) {
            let owner = [Arg::Int(uid.into()), Arg::Int(gid.into())];
            let flags = Arg::flags(libc::AT_SYMLINK_NOFOLLOW);
            let args = [directory, name, owner[0], owner[1], flags];
            self.program.op(call!(SYS_fchownat), args, step);
        }
        self.close(directory);
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
        let name = self.program.string(name.as_encoded_bytes());
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
}
