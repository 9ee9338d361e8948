//! Files in memory.

use std::ffi::OsStr;

use super::kernel::Filesystem;
use super::{Compiler, F_EMPTY, O_CLOEXEC, OPEN_TREE};
use crate::mount::{Attributes, Depth, InMemory, Mount};
use crate::program::{Arg, call};

impl Compiler<'_> {
    /// A tmpfs on top of `/`, which hides nothing: where things are made before they are mounted elsewhere.
    pub(super) fn stage(&mut self, attributes: Attributes) -> Arg {
        let stage = self.fsmount(&Filesystem {
            name: "tmpfs",
            target: "the stage",
            options: &[("mode", "700".to_owned())],
            attributes,
        });
        let (empty, slash) = (self.program.string(""), self.program.string("/"));
        let args = [stage, empty, Arg::CWD, slash, Arg::flags(F_EMPTY)];
        self.program
            .op(call!(SYS_move_mount), args, "attach the stage");
        stage
    }

    /// Before anything else comes on top of `/`.
    pub(super) fn unstage(&mut self) {
        let slash = self.program.string("/");
        let args = [slash, Arg::flags(libc::MNT_DETACH)];
        self.program
            .op(call!(SYS_umount2), args, "unmount the stage");
    }

    pub(super) fn write_file(
        &mut self,
        stage: Arg,
        index: usize,
        mount: &Mount,
        wanted: &InMemory,
    ) -> Arg {
        let step = format!("write the file {}", mount.target.display());
        let name = index.to_string();
        let text = self.program.string(&name);
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY | O_CLOEXEC;
        let mode = Arg::Int(wanted.mode.into());
        let args = [stage, text, Arg::flags(flags), mode];
        let file = self
            .program
            .op(call!(SYS_openat), args, step.clone())
            .keep();
        self.write(file, &wanted.content, &step);
        if let Some((uid, gid)) = wanted.owner {
            let args = [file, Arg::Int(uid.into()), Arg::Int(gid.into())];
            let step = format!("give {} to {uid}:{gid}", mount.target.display());
            self.program.op(call!(SYS_fchown), args, step);
        }
        self.close(file);
        let tree = self.open_tree(stage, OsStr::new(&name), OPEN_TREE, step.clone());
        if !mount.attributes.is_empty() {
            self.set_attributes(tree, Depth::Top, mount.attributes, step);
        }
        tree
    }

    /// All of it in one write(2).
    pub(crate) fn write(&mut self, file: Arg, content: &[u8], step: &str) {
        if content.is_empty() {
            return;
        }
        let data = self.program.string(content);
        let args = [file, data, Arg::Int(content.len() as u64)];
        let least = i32::try_from(content.len()).unwrap_or(i32::MAX);
        self.program
            .op(call!(SYS_write), args, step.to_owned())
            .at_least(least);
    }
}
