//! Puts a map into the kernel, for a child that waits for it.

use std::fs;
use std::path::Path;
use std::time::Instant;

use rustix::process::DumpableBehavior;
use rustix::thread::CapabilitySet;

use super::{IdMap, Range, helper, is_capable, own, own_ids, render};
use crate::command::Command;
use crate::error::{Error, Result};

/// Writes the ids of `command` for the child `pid` of this process, which is not reaped before this returns.
pub(crate) fn write(command: &Command, pid: u32, deadline: Instant) -> Result<()> {
    let map = command.ids();
    let (uid, gid) = own_ids();
    let writer = Writer {
        command,
        pid,
        deadline,
    };
    // Before the map of groups, which a caller without privilege may not write while setgroups(2) is allowed.
    if map.denies_setgroups() {
        writer.put("setgroups", "deny")?;
    }
    let direct = is_capable(CapabilitySet::SETUID) || map.uids == [own(&map.uids, uid)];
    writer.map("uid_map", &map.uids, direct)?;
    let direct = is_capable(CapabilitySet::SETGID) || is_own_group(&map, gid);
    writer.map("gid_map", &map.gids, direct)
}

fn is_own_group(map: &IdMap, gid: u32) -> bool {
    map.gids == [own(&map.gids, gid)]
}

struct Writer<'c> {
    command: &'c Command,
    pid: u32,
    deadline: Instant,
}

impl Writer<'_> {
    fn map(&self, file: &'static str, ranges: &[Range], direct: bool) -> Result<()> {
        if direct {
            return self.put(file, &render(ranges));
        }
        self.is_ours()?;
        let program = match file {
            "uid_map" => "newuidmap",
            _ => "newgidmap",
        };
        let said = helper::run(self.command, program, self.pid, ranges, self.deadline)?;
        // Its status may be lost to others of this process; what counts is what the kernel has.
        let path = self.path(file);
        let text = fs::read_to_string(&path).map_err(Error::path("read", Path::new(&path)))?;
        if parse(&text) == sorted(ranges) {
            return Ok(());
        }
        let said = match said.as_str() {
            "" => "it said nothing".to_owned(),
            _ => said,
        };
        Err(Error::helper(self.command.name(), program, said))
    }

    fn put(&self, file: &str, content: &str) -> Result<()> {
        fs::write(self.path(file), content).map_err(|error| {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            let step = format!("write {:?} to the child's {file}", content.trim_end());
            let failed = Error::step(self.command.name(), &step, errno);
            match self.is_ours() {
                Err(reason) if errno == libc::EACCES => reason,
                _ => failed,
            }
        })
    }

    /// The files of a process that is not dumpable, as the child is as long as it has the caller's memory, are root's.
    fn is_ours(&self) -> Result<()> {
        let dumpable = rustix::process::dumpable_behavior();
        let root = rustix::process::geteuid().is_root();
        if root || matches!(dumpable, Ok(DumpableBehavior::Dumpable)) {
            return Ok(());
        }
        let error = Error::step(self.command.name(), "write the id maps", libc::EACCES);
        Err(error.with_hint("the caller is not dumpable (PR_SET_DUMPABLE), and not root"))
    }

    fn path(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.pid)
    }
}

/// What the kernel shows of a map: three numbers a line.
fn parse(text: &str) -> Vec<Range> {
    let line = |line: &str| {
        let mut numbers = line.split_whitespace().map(|word| word.parse().ok());
        let mut next = || numbers.next().flatten();
        Some(Range {
            inside: next()?,
            outside: next()?,
            count: next()?,
        })
    };
    let ranges: Vec<_> = text.lines().map_while(line).collect();
    sorted(&ranges)
}

/// The kernel sorts maps of more than five lines.
fn sorted(ranges: &[Range]) -> Vec<Range> {
    let mut ranges = ranges.to_vec();
    ranges.sort_unstable();
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_shows_is_compared_in_any_order() {
        let map = IdMap::new().uid(0, 1000, 1).uid(1, 3_000_000_000, 65_536);
        let shown = "         1 3000000000      65536\n         0       1000          1\n";
        assert_eq!(parse(shown), sorted(&map.uids));
        assert_ne!(parse("0 1000 1\n"), sorted(&map.uids));
        assert_ne!(parse(""), sorted(&map.uids));
    }
}
