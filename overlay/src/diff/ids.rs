//! Owners as a layer holds them, where a user namespace holds others.

use std::path::Path;

use super::Problem;
use crate::error::Result;

/// A range of ids that are others in a layer than on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// The first id as the layer has it.
    pub inside: u32,
    /// The first id as the caller sees it on the disk.
    pub outside: u32,
    /// How many follow.
    pub count: u32,
}

/// The ranges of users and of groups; without any, ids are what they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ids {
    pub(crate) users: Vec<IdRange>,
    pub(crate) groups: Vec<IdRange>,
}

impl Ids {
    pub(crate) fn user(&self, id: u32, path: &Path) -> Result<u32> {
        inside(&self.users, "user", id, path)
    }

    pub(crate) fn group(&self, id: u32, path: &Path) -> Result<u32> {
        inside(&self.groups, "group", id, path)
    }
}

fn inside(ranges: &[IdRange], what: &'static str, id: u32, path: &Path) -> Result<u32> {
    if ranges.is_empty() {
        return Ok(id);
    }
    ranges
        .iter()
        .find_map(|range| {
            let offset = id.checked_sub(range.outside)?;
            (offset < range.count).then(|| range.inside.checked_add(offset))?
        })
        .ok_or_else(|| {
            let path = path.to_owned();
            Problem::UnmappedId { path, what, id }.into()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_no_range_are_refused() {
        let range = |inside, outside, count| IdRange {
            inside,
            outside,
            count,
        };
        let ids = Ids {
            users: vec![range(0, 1000, 1), range(1, 100_000, 65_535)],
            groups: vec![],
        };
        let user = |id| ids.user(id, Path::new("a")).ok();
        assert_eq!(user(1000), Some(0));
        assert_eq!(user(100_000), Some(1));
        assert_eq!(user(165_534), Some(65_535));
        assert_eq!(user(165_535), None);
        assert_eq!(user(0), None);
        assert_eq!(ids.group(7, Path::new("a")).unwrap(), 7);
        let huge = Ids {
            users: vec![range(u32::MAX, 0, 2)],
            groups: vec![],
        };
        assert!(huge.user(1, Path::new("a")).is_err());
    }
}
