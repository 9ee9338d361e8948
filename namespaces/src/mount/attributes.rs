//! Attributes of mounts, as mount_setattr(2) takes them.

use super::bind::Propagation;

pub(crate) const RDONLY: u64 = 0x1;
pub(crate) const NOSUID: u64 = 0x2;
pub(crate) const NODEV: u64 = 0x4;
pub(crate) const NOEXEC: u64 = 0x8;
pub(crate) const NOATIME: u64 = 0x10;
pub(crate) const NODIRATIME: u64 = 0x80;
pub(crate) const NOSYMFOLLOW: u64 = 0x20_0000;
/// The bits that say together how access times are kept: to set one of them all have to be cleared.
const ATIME: u64 = 0x70;

/// What is set on a mount, beside what it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    set: u64,
}

impl Attributes {
    pub(crate) const fn of(set: u64) -> Self {
        Attributes { set }
    }

    pub(crate) fn with(self, bits: u64) -> Self {
        Self::of(self.set | bits)
    }

    pub(crate) fn is_empty(self) -> bool {
        self.set == 0
    }

    /// As mount_setattr(2) and fsmount(2) take them.
    pub(crate) fn to_set(self) -> u64 {
        self.set
    }

    /// What mount_setattr(2) has to clear for that.
    pub(crate) fn to_clear(self) -> u64 {
        if self.set & ATIME == 0 { 0 } else { ATIME }
    }

    /// As mount(2) takes them.
    pub(crate) fn mount_flags(self) -> u64 {
        let table = [
            (RDONLY, libc::MS_RDONLY),
            (NOSUID, libc::MS_NOSUID),
            (NODEV, libc::MS_NODEV),
            (NOEXEC, libc::MS_NOEXEC),
            (NOATIME, libc::MS_NOATIME),
            (NODIRATIME, libc::MS_NODIRATIME),
            (NOSYMFOLLOW, 256), // MS_NOSYMFOLLOW
        ];
        let set = table.into_iter().filter(|(bit, _)| self.set & bit != 0);
        set.fold(0, |flags, (_, flag)| flags | flag)
    }
}

/// One mount_setattr(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) depth: Depth,
    pub(crate) attributes: Attributes,
    pub(crate) propagation: Propagation,
}

/// How far down a tree of mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// The mount itself.
    Top,
    /// All that is mounted below it, too.
    Recursive,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_the_same_to_both_calls() {
        let all = Attributes::of(RDONLY | NOSUID)
            .with(NODEV | NOEXEC)
            .with(NOATIME | NODIRATIME | NOSYMFOLLOW);
        let flags = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        let times = libc::MS_NOATIME | libc::MS_NODIRATIME;
        assert_eq!(all.mount_flags(), flags | times | 256);
        assert_eq!(all.to_clear(), 0x70);
        assert_eq!(Attributes::of(RDONLY).to_clear(), 0);
    }
}
