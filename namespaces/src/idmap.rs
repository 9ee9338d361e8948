//! User and group ids of a user namespace.

mod helper;
mod hint;
mod subid;
mod write;

use std::fmt;

use rustix::thread::CapabilitySet;

use crate::error::{Error, Result};

pub(crate) use hint::explain;
pub(crate) use write::write;

/// Which ids outside stand for the ids inside a user namespace, as in user_namespaces(7).
///
/// Id 0 has to be among the users and among the groups inside: it sets the container up. A caller with `CAP_SETUID` and
/// `CAP_SETGID` can use any id it has itself; one without them its own, and those that `/etc/subuid` and `/etc/subgid`
/// give it, which `newuidmap` and `newgidmap` (Debian's package `uidmap`) write.
///
/// ```
/// use cofferdam_namespaces::IdMap;
///
/// // Root inside is 100000 outside, user and group 1000 are the host's.
/// let map = IdMap::new()
///     .uid(0, 100_000, 1000)
///     .uid(1000, 1000, 1)
///     .gid(0, 100_000, 1000)
///     .gid(1000, 1000, 1);
/// map.validate()?;
/// # Ok::<(), cofferdam_namespaces::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMap {
    uids: Vec<Range>,
    gids: Vec<Range>,
    setgroups: Setgroups,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Range {
    inside: u32,
    outside: u32,
    count: u32,
}

/// Whether processes inside may call setgroups(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Setgroups {
    #[default]
    Allow,
    /// What the kernel demands of a map written without privilege (CVE-2014-8989).
    Deny,
}

impl IdMap {
    /// No ids: [`uid`](Self::uid) and [`gid`](Self::gid) add some.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Root inside is the caller outside, and no other id exists. Needs no privilege; setgroups(2) is denied.
    #[must_use]
    pub fn current_user() -> Self {
        let (uid, gid) = own_ids();
        Self::new().uid(0, uid, 1).gid(0, gid, 1).deny_setgroups()
    }

    /// Ids `0..count` inside are `first..first + count` outside, users and groups alike. Needs `CAP_SETUID` and
    /// `CAP_SETGID` where the caller is, or a delegation of these ids to it.
    #[must_use]
    pub fn range(first: u32, count: u32) -> Self {
        Self::new().uid(0, first, count).gid(0, first, count)
    }

    /// Root inside is the caller outside; ids from 1 on are the ranges that `/etc/subuid` and `/etc/subgid` give the caller,
    /// in their order: the map of rootless Docker and Podman. Needs no privilege, but `newuidmap` and `newgidmap`.
    ///
    /// Both files are searched for the caller's user, by name and by number. The name is that in `/etc/passwd`: NSS, and with it
    /// LDAP, is not asked.
    ///
    /// # Errors
    /// `NotFound` names the file that has no range for this user, and the command that adds one. `InvalidInput` for a file
    /// that is larger than 16 MiB, or whose line for this user cannot be understood. `Unsupported` for root of the initial user
    /// namespace, whose containers would have the host's root: that has [`range`](Self::range).
    #[doc(alias = "newuidmap")]
    pub fn subordinate() -> Result<Self> {
        subid::subordinate()
    }

    /// Users `inside..inside + count` are `outside..outside + count` outside.
    #[must_use]
    pub fn uid(mut self, inside: u32, outside: u32, count: u32) -> Self {
        self.uids.push(Range {
            inside,
            outside,
            count,
        });
        self
    }

    /// Groups `inside..inside + count` are `outside..outside + count` outside.
    #[must_use]
    pub fn gid(mut self, inside: u32, outside: u32, count: u32) -> Self {
        self.gids.push(Range {
            inside,
            outside,
            count,
        });
        self
    }

    /// No process inside can change its supplementary groups, for ever. Where the one group is the caller's own and the
    /// caller has no `CAP_SETGID` it is so anyway: the kernel wants it.
    #[must_use]
    pub fn deny_setgroups(mut self) -> Self {
        self.setgroups = Setgroups::Deny;
        self
    }

    /// Checks the ranges, as every start does before it does anything.
    ///
    /// # Errors
    /// `InvalidInput` names a range that is empty, ends beyond the last id (4294967294), or overlaps another on either side; a
    /// map without id 0 inside; or one of more than 340 ranges or 4095 bytes, which the kernel does not take.
    pub fn validate(&self) -> Result<()> {
        self.validate_ranges()?;
        has_root("uid map", &self.uids)?;
        has_root("gid map", &self.gids)
    }

    /// The same for an idmapped mount, which nobody has to be root in.
    pub(crate) fn validate_ranges(&self) -> Result<()> {
        check("uid map", &self.uids)?;
        check("gid map", &self.gids)
    }

    pub(crate) fn uid_map(&self) -> String {
        render(&self.uids)
    }

    pub(crate) fn gid_map(&self) -> String {
        render(&self.gids)
    }

    pub(crate) fn denies_setgroups(&self) -> bool {
        self.setgroups == Setgroups::Deny
            || self.gids == [own(&self.gids, own_ids().1)] && !is_capable(CapabilitySet::SETGID)
    }

    pub(crate) fn has_uid(&self, id: u32) -> bool {
        self.uids.iter().any(|range| range.has(id))
    }

    pub(crate) fn has_gid(&self, id: u32) -> bool {
        self.gids.iter().any(|range| range.has(id))
    }
}

impl Range {
    fn has(&self, inside: u32) -> bool {
        inside
            .checked_sub(self.inside)
            .is_some_and(|at| at < self.count)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.inside, self.outside, self.count)
    }
}

/// The kernel's `UID_GID_MAP_MAX_EXTENTS`, since Linux 4.15.
const MAX_RANGES: usize = 340;
/// It takes less than a page, whose size on the smallest machine this is.
const MAX_TEXT: usize = 4095;

fn check(item: &'static str, ranges: &[Range]) -> Result<()> {
    let refuse = |range: &Range, reason| Err(Error::invalid(item, range.to_string(), reason));
    for range in ranges {
        if range.count == 0 {
            return refuse(range, "is an empty range");
        }
        let ends = |start: u32| start.checked_add(range.count).is_some();
        if !ends(range.inside) || !ends(range.outside) {
            return refuse(range, "ends beyond the last id");
        }
    }
    if let Some(range) = overlap(ranges, |range| range.inside) {
        return refuse(&range, "overlaps another range inside");
    }
    if let Some(range) = overlap(ranges, |range| range.outside) {
        return refuse(&range, "overlaps another range outside");
    }
    match ranges.first() {
        None => Err(Error::invalid(item, "", "has no ids")),
        Some(first) if ranges.len() > MAX_RANGES || render(ranges).len() > MAX_TEXT => {
            refuse(first, "and so on are more than 340 ranges or 4095 bytes")
        }
        Some(_) => Ok(()),
    }
}

fn has_root(item: &'static str, ranges: &[Range]) -> Result<()> {
    if ranges.iter().any(|range| range.has(0)) {
        return Ok(());
    }
    let first = ranges.first().map(Range::to_string);
    let reason = "has no id 0 inside, which sets the container up";
    Err(Error::invalid(item, first.unwrap_or_default(), reason))
}

/// A range that begins before the one below it ends. None of them overflows.
fn overlap(ranges: &[Range], start: impl Fn(&Range) -> u32) -> Option<Range> {
    let mut sorted = ranges.to_vec();
    sorted.sort_by_key(&start);
    let pairs = sorted.windows(2);
    let mut bad = pairs.filter(|pair| start(&pair[1]) - start(&pair[0]) < pair[0].count);
    bad.next().map(|pair| pair[1])
}

/// One range a line, as the kernel reads them.
fn render(ranges: &[Range]) -> String {
    ranges.iter().map(|range| format!("{range}\n")).collect()
}

/// The caller's effective user and group.
fn own_ids() -> (u32, u32) {
    let uid = rustix::process::geteuid().as_raw();
    (uid, rustix::process::getegid().as_raw())
}

/// The range of one id that the caller may write without privilege, at the place where `ranges` begins.
fn own(ranges: &[Range], id: u32) -> Range {
    Range {
        inside: ranges.first().map_or(0, |range| range.inside),
        outside: id,
        count: 1,
    }
}

/// Whether this thread has the capability at this moment.
fn is_capable(capability: CapabilitySet) -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(capability))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_range_renders_as_the_kernel_reads_it() {
        let map = IdMap::range(100_000, 65_536);
        assert_eq!(render(&map.uids), "0 100000 65536\n");
        assert_eq!(map.uids, map.gids);
        let high = IdMap::range(0x8000_0000, 0x7fff_ffff);
        assert_eq!(render(&high.gids), "0 2147483648 2147483647\n");
        assert!(high.validate().is_ok());
    }

    #[test]
    fn the_single_id_map_denies_setgroups() {
        let map = IdMap::current_user();
        assert_eq!(render(&map.uids), format!("0 {} 1\n", own_ids().0));
        assert!(map.denies_setgroups());
        assert!(IdMap::range(0, 1).deny_setgroups().denies_setgroups());
    }

    fn map(ranges: &[(u32, u32, u32)]) -> IdMap {
        ranges
            .iter()
            .fold(IdMap::new(), |map, &(inside, outside, count)| {
                map.uid(inside, outside, count).gid(inside, outside, count)
            })
    }

    #[test]
    fn a_map_that_cannot_be_is_refused_with_its_range() {
        let last = u32::MAX;
        let cases: &[(&[_], &str)] = &[
            (&[], "uid map \"\": has no ids"),
            (&[(1, 0, 5)], "uid map \"1 0 5\": has no id 0 inside"),
            (&[(0, 5, 0)], "\"0 5 0\": is an empty range"),
            (&[(0, 5, 1), (9, 9, 0)], "\"9 9 0\": is an empty range"),
            (&[(0, 1, last)], "\"0 1 4294967295\": ends beyond"),
            (&[(0, last, 1)], "\"0 4294967295 1\": ends beyond"),
            (
                &[(0, 5, 1), (last, 7, 1)],
                "\"4294967295 7 1\": ends beyond",
            ),
            (
                &[(0, 5, 10), (9, 100, 1)],
                "\"9 100 1\": overlaps another range inside",
            ),
            (
                &[(9, 100, 1), (0, 5, 10)],
                "\"9 100 1\": overlaps another range inside",
            ),
            (
                &[(0, 5, 10), (10, 14, 1)],
                "\"10 14 1\": overlaps another range outside",
            ),
            (&[(0, 5, 1), (0, 5, 1)], "overlaps another range inside"),
        ];
        for (ranges, expected) in cases {
            let error = map(ranges).validate().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(expected), "{error}");
        }
        let groups = IdMap::new().uid(0, 5, 1).gid(0, 5, 0).validate();
        assert_eq!(
            groups.unwrap_err().to_string(),
            "gid map \"0 5 0\": is an empty range"
        );
        for good in [
            &[(0, 0, last)][..],
            &[(0, 5, 10), (10, 15, 1), (11, 4, 1)],
            &[(0, last - 1, 1)],
        ] {
            assert!(map(good).validate().is_ok(), "{good:?}");
        }
    }

    #[test]
    fn a_map_is_as_long_as_the_kernel_takes_it() {
        let many = |count: u32| map(&(0..count).map(|n| (n, 2 * n, 1)).collect::<Vec<_>>());
        assert!(many(340).validate().is_ok());
        assert!(many(341).validate().is_err());
        let long: Vec<_> = (0..200)
            .map(|n| (n * 1_000_000, 1_000_000_000 + n, 1))
            .collect();
        assert!(render(&map(&long).uids).len() > MAX_TEXT);
        assert!(map(&long).validate().is_err());
    }

    #[test]
    fn an_id_is_in_the_map_or_not() {
        let map = map(&[(0, 100, 10), (0x8000_0000, 200, 2)]);
        for (id, expected) in [
            (0, true),
            (9, true),
            (10, false),
            (0x8000_0001, true),
            (0x8000_0002, false),
        ] {
            assert_eq!(map.has_uid(id), expected, "{id}");
        }
    }
}
