//! Rules for paths, which only the child can open, and their enforcement.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libc::{EBADF, ENOTDIR, O_CLOEXEC, O_DIRECTORY, O_PATH};

use super::Compiler;
use crate::program::{Arg, Word, call};

const NO_MAGICLINKS: u64 = 0x2;

impl Compiler<'_> {
    /// Enforces the ruleset that the caller has made.
    pub(super) fn landlock(&mut self) {
        let (Some(landlock), Some((Some(ruleset), enforced))) = (
            &self.command.attributes.landlock,
            &self.prepared.attributes.landlock,
        ) else {
            return;
        };
        let ruleset = Arg::fd(*ruleset);
        for (path, rights) in landlock.rules(enforced) {
            // Nothing the kernel knows is allowed there.
            if rights[0] != 0 {
                self.allow(ruleset, path, rights);
            }
        }
        let args = [ruleset, Arg::Int(0)];
        self.program
            .op(call!(SYS_landlock_restrict_self), args, "enforce landlock");
    }

    /// A rule for a directory, or else the rule for what is none: of a file the kernel refuses what only directories have.
    fn allow(&mut self, ruleset: Arg, path: &Path, [directory, file]: [u64; 2]) {
        const RULE: u32 = 3; // ops of one rule
        const REST: u32 = 3; // the rest of a rule, and what passes over the next
        let step = format!("allow {} by landlock", path.display());
        self.rule(ruleset, path, directory, O_DIRECTORY, REST);
        self.program
            .op(call!(SYS_close), [Arg::fd(-1)], step)
            .tolerate(&[EBADF])
            .or_skip(RULE);
        self.rule(ruleset, path, file, 0, 0);
    }

    fn rule(&mut self, ruleset: Arg, path: &Path, rights: u64, flags: i32, skip: u32) {
        const LANDLOCK_RULE_PATH_BENEATH: Arg = Arg::Int(1);
        let step = format!("allow {} by landlock", path.display());
        // A struct landlock_path_beneath_attr: rights, then the fd.
        let rule = self.program.words(&[rights, 0].map(Word::Int));
        let text = self.program.string(path.as_os_str().as_bytes());
        let flags = u64::from((flags | O_PATH | O_CLOEXEC).unsigned_abs());
        let how = self
            .program
            .words(&[flags, 0, NO_MAGICLINKS].map(Word::Int));
        let args = [Arg::CWD, text, how, Arg::Int(24)];
        let mut open = self.program.op(call!(SYS_openat2), args, step.clone());
        if skip > 0 {
            open = open.tolerate(&[ENOTDIR]).or_skip(skip);
        }
        let parent_fd = rule.offset(8);
        open.keep_in(parent_fd);
        let args = [ruleset, LANDLOCK_RULE_PATH_BENEATH, rule, Arg::Int(0)];
        self.program
            .op(call!(SYS_landlock_add_rule), args, step.clone());
        let args = [parent_fd.loaded()];
        self.program.op(call!(SYS_close), args, step);
    }
}
