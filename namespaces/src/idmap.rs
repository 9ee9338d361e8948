//! User and group ids of a user namespace.

use std::fmt::Write;

/// Which ids outside stand for the ids inside a user namespace, as in user_namespaces(7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMap {
    uids: Vec<Range>,
    gids: Vec<Range>,
    setgroups: Setgroups,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    inside: u32,
    outside: u32,
    count: u32,
}

/// Whether processes inside may call setgroups(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setgroups {
    Allow,
    /// What the kernel demands of a map written without privilege (CVE-2014-8989).
    Deny,
}

impl IdMap {
    /// Root inside is the caller outside, and no other id exists. Needs no privilege; setgroups(2) is denied.
    #[must_use]
    pub fn current_user() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        let one = |outside| {
            vec![Range {
                inside: 0,
                outside,
                count: 1,
            }]
        };
        IdMap {
            uids: one(uid),
            gids: one(gid),
            setgroups: Setgroups::Deny,
        }
    }

    /// Ids `0..count` inside are `first..first + count` outside, users and groups alike. Needs `CAP_SETUID` and
    /// `CAP_SETGID` where the caller is.
    #[must_use]
    pub fn range(first: u32, count: u32) -> Self {
        let ranges = vec![Range {
            inside: 0,
            outside: first,
            count,
        }];
        IdMap {
            uids: ranges.clone(),
            gids: ranges,
            setgroups: Setgroups::Allow,
        }
    }

    /// A range without ids, or that ends beyond what an id can be.
    pub(crate) fn overflow(&self) -> Option<String> {
        let bad = |range: &&Range| {
            let ends = |start: u32| start.checked_add(range.count).is_some();
            range.count == 0 || !ends(range.inside) || !ends(range.outside)
        };
        self.uids
            .iter()
            .chain(&self.gids)
            .find(bad)
            .map(|range| format!("{} {}", range.outside, range.count))
    }

    pub(crate) fn denies_setgroups(&self) -> bool {
        self.setgroups == Setgroups::Deny
    }

    pub(crate) fn uid_map(&self) -> String {
        render(&self.uids)
    }

    pub(crate) fn gid_map(&self) -> String {
        render(&self.gids)
    }
}

fn render(ranges: &[Range]) -> String {
    ranges.iter().fold(String::new(), |mut text, range| {
        // Writing to a String cannot fail.
        let _ok = writeln!(text, "{} {} {}", range.inside, range.outside, range.count).is_ok();
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_renders_as_the_kernel_reads_it() {
        let map = IdMap::range(100_000, 65_536);
        assert_eq!(map.uid_map(), "0 100000 65536\n");
        assert_eq!(map.gid_map(), "0 100000 65536\n");
        assert!(!map.denies_setgroups());
    }

    #[test]
    fn the_single_id_map_denies_setgroups() {
        let map = IdMap::current_user();
        let uid = rustix::process::geteuid().as_raw();
        assert_eq!(map.uid_map(), format!("0 {uid} 1\n"));
        assert!(map.denies_setgroups());
    }
}
