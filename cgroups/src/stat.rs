//! What the kernel's files say; pure.

use std::path::Path;

use crate::error::{Error, Result};

/// The number behind `key` in a file of `key number` lines, such as `cgroup.events`.
pub(crate) fn keyed(path: &Path, text: &str, key: &str) -> Result<u64> {
    let line = text
        .lines()
        .find(|line| line.split(' ').next() == Some(key));
    line.and_then(|line| line.split_once(' '))
        .and_then(|(_, number)| number.parse().ok())
        .ok_or_else(|| Error::parse(path, line.unwrap_or_default().as_bytes()))
}

/// The number that is all of a file.
pub(crate) fn number(path: &Path, text: &str) -> Result<u64> {
    text.trim_end()
        .parse()
        .ok()
        .ok_or_else(|| Error::parse(path, text.as_bytes()))
}

/// The processes in a `cgroup.procs`, each once. Those of an outer pid namespace, listed as 0, are left out.
pub(crate) fn pids(path: &Path, text: &str) -> Result<Vec<u32>> {
    let mut pids = Vec::new();
    for line in text.lines() {
        match line.parse() {
            Ok(0) => {}
            Ok(pid) => pids.push(pid),
            Err(_) => return Err(Error::parse(path, line.as_bytes())),
        }
    }
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn a_key_is_matched_whole() {
        let text = "low 0\noom 3\noom_kill 2\noom_group_kill 1\n";
        let path = Path::new("memory.events");
        assert_eq!(keyed(path, text, "oom").unwrap(), 3);
        assert_eq!(keyed(path, text, "oom_kill").unwrap(), 2);
        assert_eq!(
            keyed(path, text, "oo").unwrap_err().kind(),
            ErrorKind::Malformed
        );
        assert!(keyed(path, "oom_kill many\n", "oom_kill").is_err());
    }

    #[test]
    fn pids_come_sorted_once_and_without_those_of_an_outer_namespace() {
        let path = Path::new("cgroup.procs");
        assert_eq!(pids(path, "7\n0\n3\n7\n").unwrap(), [3, 7]);
        assert_eq!(pids(path, "").unwrap(), [0; 0]);
        assert!(pids(path, "7\nx\n").is_err());
    }
}
