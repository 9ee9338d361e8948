//! Whose what a layer holds becomes.

use super::failure::Failure;
use crate::error::{Error, Result};
use crate::marks::Marks;
use std::fs;
use std::path::Path;

/// What happens to an entry whose user or group has no id outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unmapped {
    /// The layer is refused.
    #[default]
    Refuse,
    /// It becomes this user's and group's, which are not mapped again.
    Squash {
        /// The user's id, as the caller's user namespace has it.
        uid: u32,
        /// The group's id.
        gid: u32,
    },
}

/// Maps ids of a layer to those on disk, as the lines of `/proc/[pid]/uid_map` do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges(Vec<Range>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    inside: u32,
    outside: u32,
    count: u32,
}

impl Ranges {
    pub(crate) fn push(&mut self, inside: u32, outside: u32, count: u32) {
        self.0.push(Range {
            inside,
            outside,
            count,
        });
    }

    /// Without ranges each id is itself.
    fn map(&self, id: u32) -> Option<u32> {
        if self.0.is_empty() {
            return Some(id);
        }
        self.0.iter().find_map(|range| {
            let distance = id.checked_sub(range.inside)?;
            (distance < range.count).then(|| range.outside.checked_add(distance))?
        })
    }

    /// Those ids that exist in the caller's user namespace, as themselves.
    fn of_namespace(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(Error::sys("read", path))?;
        let mut ranges = Ranges::default();
        for line in text.lines() {
            let numbers: Vec<u32> = line.split_whitespace().flat_map(str::parse).collect();
            if let [inside, _, count] = numbers[..] {
                ranges.push(inside, inside, count);
            }
        }
        Ok(ranges)
    }
}

/// Both maps, what exists at all, and what becomes of the rest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ids {
    pub(crate) users: Ranges,
    pub(crate) groups: Ranges,
    pub(crate) unmapped: Unmapped,
    existing: Option<(Ranges, Ranges)>,
}

impl Ids {
    /// With the ids that a user namespace has, where the caller is in one.
    pub(crate) fn with_namespace(mut self) -> Result<Self> {
        if Marks::detect()? == Marks::User {
            let users = Ranges::of_namespace(Path::new("/proc/thread-self/uid_map"))?;
            let groups = Ranges::of_namespace(Path::new("/proc/thread-self/gid_map"))?;
            self.existing = Some((users, groups));
        }
        Ok(self)
    }

    pub(crate) fn user(&self, id: u32, entry: &[u8]) -> Result<u32, Failure> {
        let existing = self.existing.as_ref().map(|(users, _)| users);
        match (outside(&self.users, existing, id), self.unmapped) {
            (Some(id), _) => Ok(id),
            (None, Unmapped::Squash { uid, .. }) => Ok(uid),
            (None, Unmapped::Refuse) => Err(unmapped(entry, "user", id)),
        }
    }

    pub(crate) fn group(&self, id: u32, entry: &[u8]) -> Result<u32, Failure> {
        let existing = self.existing.as_ref().map(|(_, groups)| groups);
        match (outside(&self.groups, existing, id), self.unmapped) {
            (Some(id), _) => Ok(id),
            (None, Unmapped::Squash { gid, .. }) => Ok(gid),
            (None, Unmapped::Refuse) => Err(unmapped(entry, "group", id)),
        }
    }

    /// Whose the capabilities of files are, where that is not the root of the caller's user namespace.
    pub(crate) fn shifted_root(&self) -> Option<u32> {
        self.users.map(0).filter(|root| *root != 0)
    }
}

fn outside(map: &Ranges, existing: Option<&Ranges>, id: u32) -> Option<u32> {
    let id = map.map(id).filter(|id| *id != u32::MAX)?;
    match existing {
        // A namespace that maps nothing yet has no ids.
        Some(existing) => existing
            .0
            .iter()
            .any(|r| id.wrapping_sub(r.inside) < r.count)
            .then_some(id),
        None => Some(id),
    }
}

fn unmapped(entry: &[u8], what: &'static str, id: u32) -> Failure {
    let entry = super::path_of(entry);
    Failure::Unmapped { entry, what, id }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_shift_and_end() {
        let mut ids = Ids::default();
        ids.users.push(0, 100_000, 1000);
        ids.users.push(65_534, 5, 1);
        let user = |id| ids.user(id, b"a").ok();
        assert_eq!(user(0), Some(100_000));
        assert_eq!(user(999), Some(100_999));
        assert_eq!(user(1000), None);
        assert_eq!(user(65_534), Some(5));
        assert_eq!(ids.group(7, b"a").ok(), Some(7));
    }

    #[test]
    fn a_range_never_wraps() {
        let mut ids = Ids::default();
        ids.users.push(0, u32::MAX - 1, 10);
        assert!(ids.user(0, b"a").is_ok());
        assert!(ids.user(1, b"a").is_err());
        assert!(ids.user(2, b"a").is_err());
    }

    #[test]
    fn what_has_no_id_is_squashed_if_asked_for() {
        let mut ids = Ids {
            unmapped: Unmapped::Squash { uid: 1, gid: 2 },
            ..Ids::default()
        };
        ids.users.push(0, 10, 1);
        ids.groups.push(0, 10, 1);
        assert_eq!(ids.user(5, b"a").ok(), Some(1));
        assert_eq!(ids.group(5, b"a").ok(), Some(2));
    }
}
