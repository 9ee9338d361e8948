//! The steps that make the program the user it is to be.

use super::Compiler;
use crate::namespace::Namespace;
use crate::program::{Arg, Word, call};

/// Ids to run with, all of them known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ids {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary ones.
    pub(crate) groups: Vec<u32>,
    /// Whether exactly these groups were asked for: it is them, or no start.
    pub(crate) explicit: bool,
}

impl Compiler<'_> {
    /// `privileged` is who has any capability. Others, and user namespaces that deny it, keep the groups they have, unless
    /// groups were asked for.
    pub(super) fn become_user(&mut self, privileged: bool) {
        let ids = self.prepared.ids.as_ref();
        if ids.is_some_and(|ids| ids.explicit) || privileged {
            match ids.filter(|ids| ids.explicit || !ids.groups.is_empty()) {
                Some(ids) => self.set_groups(ids),
                None => self.drop_groups(),
            }
        }
        if let Some(ids) = ids {
            self.keep_permitted();
            let step = format!("become user {}:{}", ids.uid, ids.gid);
            let (uid, gid) = (Arg::Int(ids.uid.into()), Arg::Int(ids.gid.into()));
            self.program
                .op(call!(SYS_setresgid), [gid; 3], step.clone());
            self.program.op(call!(SYS_setresuid), [uid; 3], step);
        }
    }

    /// Where the user namespace denies it for ever, only groups that were asked for are missed.
    fn set_groups(&mut self, ids: &Ids) {
        if self.prepared.setgroups_denied && !ids.explicit {
            return;
        }
        let groups = &ids.groups;
        // An array of u32, two in each word, in the order of memory.
        let words = groups.chunks(2).map(|pair| {
            let mut bytes = [0; 8];
            for (at, gid) in pair.iter().enumerate() {
                bytes[at * 4..][..4].copy_from_slice(&gid.to_ne_bytes());
            }
            Word::Int(u64::from_ne_bytes(bytes))
        });
        let list = self.program.words(&words.collect::<Vec<_>>());
        let args = [Arg::Int(groups.len() as u64), list];
        let step = format!("set {} supplementary groups", groups.len());
        let op = self.program.op(call!(SYS_setgroups), args, step);
        if self.command.namespaces.joins(Namespace::User) && !ids.explicit {
            // With all capabilities in there, only that can be the reason.
            op.tolerate(&[libc::EPERM]);
        }
    }

    /// Whether the program's user is root of its user namespace, as it is unless another is asked for.
    pub(super) fn runs_as_root(&self) -> bool {
        self.prepared.ids.as_ref().is_none_or(|ids| ids.uid == 0)
    }
}
