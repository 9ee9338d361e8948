//! Giving a cgroup to a user.

use std::fs;

use rustix::fs::{AtFlags, Gid, OFlags, Uid};
use rustix::io::Errno;

use crate::cgroup::Cgroup;
use crate::controller::Version;
use crate::dir::Dir;
use crate::error::{Error, Result};

/// The kernel's list of what a user may be given (Linux 4.15).
const LIST: &str = "/sys/kernel/cgroup/delegate";
/// What every kernel's list has.
const ALWAYS: [&str; 3] = ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"];
/// How the files end that hold what the level above grants: the user of a cgroup is never given these.
const LIMITS: [&str; 11] = [
    "depth",
    "descendants",
    "max",
    "high",
    "low",
    "min",
    "weight",
    "burst",
    "cpus",
    "mems",
    "partition",
];

impl Cgroup {
    /// Delegates it to a user, by fchownat(2): the directory, and of its files those that
    /// `/sys/kernel/cgroup/delegate` lists (`cgroup.procs`, `cgroup.threads` and `cgroup.subtree_control` where there is
    /// no such list). The user can then make cgroups inside it, limit those, and move processes between them.
    ///
    /// The limits of this cgroup itself stay as they are, and the caller's: no limit file changes hands, whatever the
    /// list says. Processes come in only through who may write above it too: put the first one in by
    /// [`Cgroup::entry`] or [`Cgroup::add`] before, or let it start there.
    ///
    /// # Errors
    /// `Unsupported` for a cgroup with v1 directories, which cannot be given away safely; `PermissionDenied` without
    /// `CAP_CHOWN`; `InvalidInput` for `u32::MAX`, which is no id. After an error all owners are as before.
    pub fn delegate_to(&self, uid: u32, gid: u32) -> Result<()> {
        if let Some(v1) = self.members().find(|member| member.version == Version::V1) {
            return Err(Error::not_delegable(v1.dir.path()));
        }
        if uid == u32::MAX || gid == u32::MAX {
            return Err(Error::limit("delegate_to", u32::MAX, "is no id"));
        }
        let dir = &self.main().dir;
        let mut done = Vec::new();
        for file in files(&fs::read_to_string(LIST).unwrap_or_default()) {
            match give(dir, &file, uid, gid) {
                Ok(Some(before)) => done.push((file, before)),
                Ok(None) => {}
                Err(error) => {
                    give_back(dir, &done);
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

/// What changes hands, the directory last: until then the user can do nothing.
fn files(list: &str) -> Vec<String> {
    let mut files: Vec<_> = ALWAYS.map(str::to_owned).to_vec();
    for file in list.lines().map(str::trim) {
        let plain = !file.is_empty() && !file.contains('/');
        let known = files.iter().any(|known| known == file);
        if plain && !known && !is_limit(file) {
            files.push(file.to_owned());
        }
    }
    files.push(".".to_owned());
    files
}

fn is_limit(file: &str) -> bool {
    let last = file.rsplit('.').next().unwrap_or(file);
    LIMITS.contains(&last)
}

/// Gives one file away and says whose it was; `None` if there is none, which is so for controllers not enabled.
fn give(dir: &Dir, file: &str, uid: u32, gid: u32) -> Result<Option<(u32, u32)>> {
    let failed = |errno| Error::sys("chown", &dir.file_path(file), errno);
    let fd = match dir.open_file(file, OFlags::PATH) {
        Ok(fd) => fd,
        Err(Errno::NOENT) if !ALWAYS.contains(&file) && file != "." => return Ok(None),
        Err(errno) => return Err(failed(errno)),
    };
    let before = rustix::fs::fstat(&fd).map_err(failed)?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::fs::chownat(&fd, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).map_err(failed)?;
    Ok(Some((before.st_uid, before.st_gid)))
}

/// The first error is the one to tell.
fn give_back(dir: &Dir, done: &[(String, (u32, u32))]) {
    for (file, (uid, gid)) in done {
        let _given = give(dir, file, *uid, *gid).is_ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_changes_hands() {
        let list = "cgroup.procs\ncgroup.threads\ncgroup.subtree_control\nmemory.oom.group\nmemory.reclaim\n";
        let expected = [
            "cgroup.procs",
            "cgroup.threads",
            "cgroup.subtree_control",
            "memory.oom.group",
            "memory.reclaim",
            ".",
        ];
        assert_eq!(files(list), expected);
        let hostile = "memory.max\n../cgroup.procs\ncgroup.max.depth\npids.max\ncpu.weight\n\n";
        assert_eq!(
            files(hostile),
            [
                "cgroup.procs",
                "cgroup.threads",
                "cgroup.subtree_control",
                "."
            ]
        );
        assert_eq!(files(""), files(hostile));
    }
}
