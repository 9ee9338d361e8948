//! The ids that are delegated to a user by `/etc/subuid` and `/etc/subgid`, as in subuid(5).

use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;

use super::{IdMap, own_ids};
use crate::error::{Error, Result};
use crate::lines::{self, Lines};

const OF_HOST: &str = "file of the host";

pub(super) fn subordinate() -> Result<IdMap> {
    let (uid, gid) = own_ids();
    if uid == 0 && crate::spawn::in_initial_user_namespace() {
        let feature = "a map of root's own id";
        return Err(Error::unsupported(feature, "root has IdMap::range"));
    }
    let root = Path::new("/");
    let root = File::open(root).map_err(Error::path("open", root))?;
    let user = Caller::find(uid, &root)?;
    let uids = user.ranges("/etc/subuid", "--add-subuids", &root)?;
    let gids = user.ranges("/etc/subgid", "--add-subgids", &root)?;
    let map = IdMap::new().uid(0, uid, 1).gid(0, gid, 1);
    let map = from_one(&uids).fold(map, |map, (inside, outside, count)| {
        map.uid(inside, outside, count)
    });
    let map = from_one(&gids).fold(map, |map, (inside, outside, count)| {
        map.gid(inside, outside, count)
    });
    map.validate()?;
    Ok(map)
}

/// The ranges one after another, inside from 1 on. What ends beyond the last id is left for the check of the map.
fn from_one(ranges: &[(u32, u32)]) -> impl Iterator<Item = (u32, u32, u32)> {
    ranges.iter().scan(1u32, |next, &(first, count)| {
        let inside = *next;
        *next = next.saturating_add(count);
        Some((inside, first, count))
    })
}

/// The two names that a line can begin with.
struct Caller {
    uid: u32,
    /// As `/etc/passwd` has it, if it does.
    name: Option<Vec<u8>>,
}

impl Caller {
    fn find(uid: u32, root: &File) -> Result<Self> {
        let named = |line: &[u8]| {
            let mut fields = line.split(|&byte| byte == b':');
            let name = fields.next().filter(|name| !name.is_empty());
            let same = fields.nth(1).and_then(lines::id) == Some(uid);
            Ok(match name.filter(|_| same) {
                Some(name) => ControlFlow::Break(name.to_vec()),
                None => ControlFlow::Continue(()),
            })
        };
        let name = match Lines::open(root, OF_HOST, Path::new("/etc/passwd"))? {
            Some(lines) => lines.each(named)?,
            None => None,
        };
        Ok(Caller { uid, name })
    }

    /// First ids and counts, in the order of the file, each once.
    fn ranges(&self, path: &str, option: &str, root: &File) -> Result<Vec<(u32, u32)>> {
        let mut found = Vec::new();
        if let Some(lines) = Lines::open(root, OF_HOST, Path::new(path))? {
            lines.each(|line| {
                let mut fields = line.split(|&byte| byte == b':');
                if fields.next().is_some_and(|user| self.is(user)) {
                    let mut number = || fields.next().and_then(lines::id);
                    let odd =
                        || lines.bad("has a line of this user without a first id and a count");
                    let range = (number().ok_or_else(odd)?, number().ok_or_else(odd)?);
                    if range.1 > 0 && !found.contains(&range) {
                        found.push(range);
                    }
                }
                // More than a map can have is told when it is checked.
                Ok(match found.len() {
                    0..=1000 => ControlFlow::<()>::Continue(()),
                    _ => ControlFlow::Break(()),
                })
            })?;
        }
        if found.is_empty() {
            let remedy = format!("usermod {option} 100000-165535 {}", self.said());
            let user = match &self.name {
                Some(_) => format!("no range for user {:?} (uid {})", self.said(), self.uid),
                None => format!(
                    "no range for uid {}, which has no name in /etc/passwd",
                    self.uid
                ),
            };
            let what = format!("{user}: as root, {remedy} gives one, of ids nobody else has");
            return Err(Error::missing(path.to_owned(), what));
        }
        Ok(found)
    }

    fn is(&self, user: &[u8]) -> bool {
        self.name.as_deref() == Some(user) || lines::id(user) == Some(self.uid)
    }

    fn said(&self) -> String {
        match &self.name {
            Some(name) => String::from_utf8_lossy(name).into_owned(),
            None => self.uid.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use std::fs;

    /// The ranges that a `/etc/subuid` with this text gives user 1000, who is called `app`.
    fn ranges(test: &str, text: &str) -> Result<Vec<(u32, u32)>> {
        let name = format!("cofferdam-subid-{}-{test}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(directory.join("etc")).unwrap();
        fs::write(
            directory.join("etc/passwd"),
            "root:x:0:0\napple:x:10:0\napp:x:1000:5:::\n",
        )
        .unwrap();
        fs::write(directory.join("etc/subuid"), text).unwrap();
        let root = File::open(&directory).unwrap();
        let found = Caller::find(1000, &root)
            .and_then(|caller| caller.ranges("/etc/subuid", "--add-subuids", &root));
        fs::remove_dir_all(directory).unwrap();
        found
    }

    #[test]
    fn ranges_are_found_by_name_and_by_number_each_once() {
        let text = "# a remark\n\nroot:1:2\napple:3:4\napp:100000:65536\n1000:3000000000:5\n10000:6:7\n\
            app:100000:65536\napp:9:0\nxapp:8:8\n";
        assert_eq!(
            ranges("both", text).unwrap(),
            [(100_000, 65_536), (3_000_000_000, 5)]
        );
    }

    #[test]
    fn no_range_is_an_error_with_a_remedy() {
        let error = ranges("none", "root:1:2\n").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(
            error.to_string(),
            "/etc/subuid: no range for user \"app\" (uid 1000): as root, usermod --add-subuids 100000-165535 app gives one, \
             of ids nobody else has"
        );
    }

    #[test]
    fn an_odd_line_of_the_caller_is_an_error_and_one_of_others_is_not() {
        for (test, line) in ["app:1", "app:x:1", "app:-1:5", "1000:1:0x5", "app"]
            .into_iter()
            .enumerate()
        {
            let error = ranges(&format!("odd{test}"), line).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{line}: {error}");
        }
        assert_eq!(
            ranges("other", "other\nx:y:z\napp:1:2\n").unwrap(),
            [(1, 2)]
        );
    }

    #[test]
    fn ranges_follow_each_other_from_one_on() {
        let ranges = [(100, 10), (500, 5), (u32::MAX - 1, u32::MAX)];
        let inside: Vec<_> = from_one(&ranges).map(|(inside, ..)| inside).collect();
        assert_eq!(inside, [1, 11, 16]);
    }
}
