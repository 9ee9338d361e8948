//! The calls that everything else is made of.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use libc::{AT_EMPTY_PATH, O_DIRECTORY};

use super::{AT_RECURSIVE, F_EMPTY, NO_MAGICLINKS, O_CLOEXEC, O_PATH, T_EMPTY};
use super::{Compiler, Step};
use crate::mount::{Attributes, Depth};
use crate::program::{Arg, Word, call};

impl Compiler<'_> {
    pub(super) fn make_private(&mut self, path: &str) {
        let text = self.program.string(path);
        let flags = Arg::Int(libc::MS_REC | libc::MS_PRIVATE);
        let args = [Arg::NULL, text, Arg::NULL, flags, Arg::NULL];
        self.program
            .op(call!(SYS_mount), args, format!("make {path} private"));
    }

    pub(crate) fn open_tree(
        &mut self,
        at: Arg,
        path: impl AsRef<OsStr>,
        flags: i32,
        step: impl Into<Step>,
    ) -> Arg {
        let path = path.as_ref().as_bytes();
        let flags = if path.is_empty() {
            flags | AT_EMPTY_PATH
        } else {
            flags
        };
        let path = self.program.string(path);
        self.program
            .op(call!(SYS_open_tree), [at, path, Arg::flags(flags)], step)
            .keep()
    }

    pub(crate) fn move_onto(&mut self, tree: Arg, target: Arg, step: impl Into<Step>) {
        let empty = self.program.string("");
        let args = [tree, empty, target, empty, Arg::flags(F_EMPTY | T_EMPTY)];
        self.program.op(call!(SYS_move_mount), args, step);
    }

    pub(super) fn set_attributes(
        &mut self,
        tree: Arg,
        depth: Depth,
        attributes: Attributes,
        step: impl Into<Step>,
    ) {
        let (set, clear) = (attributes.to_set(), attributes.to_clear());
        self.mount_setattr(tree, depth, [set, clear], step);
    }

    pub(super) fn mount_setattr(
        &mut self,
        tree: Arg,
        depth: Depth,
        [set, clear]: [u64; 2],
        step: impl Into<Step>,
    ) {
        let attributes = self.program.words(&[set, clear, 0, 0].map(Word::Int));
        let empty = self.program.string("");
        let depth = match depth {
            Depth::Top => 0,
            Depth::Recursive => AT_RECURSIVE,
        };
        let args = [
            tree,
            empty,
            Arg::flags(AT_EMPTY_PATH | depth),
            attributes,
            Arg::Int(32),
        ];
        self.program.op(call!(SYS_mount_setattr), args, step);
    }

    pub(super) fn classic_mount(
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

    /// An `O_PATH` fd.
    pub(crate) fn open(
        &mut self,
        at: Arg,
        path: &OsStr,
        flags: i32,
        resolve: u64,
        step: impl Into<Step>,
    ) -> Arg {
        let [path, how] = self.how(path, flags | O_PATH, resolve);
        self.program
            .op(call!(SYS_openat2), [at, path, how, Arg::Int(24)], step)
            .keep()
    }

    /// A path and a struct open_how for openat2(2).
    pub(crate) fn how(&mut self, path: &OsStr, flags: i32, resolve: u64) -> [Arg; 2] {
        let path = self.program.string(path.as_bytes());
        let flags = u64::from((flags | O_CLOEXEC).unsigned_abs());
        [
            path,
            self.program.words(&[flags, 0, resolve].map(Word::Int)),
        ]
    }

    pub(crate) fn enter_workdir(&mut self) {
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

    pub(crate) fn close(&mut self, fd: Arg) {
        self.program
            .op(call!(SYS_close), [fd], "close a file descriptor");
    }
}
