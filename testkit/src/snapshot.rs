//! What there is on the machine, counted from the kernel, before and after.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Mounts, links, cgroups, fds and children of this process as a thread sees them.
///
/// Fds and children are the whole process's: a test that compares them must be alone in its binary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Mount ids and targets, from `/proc/thread-self/mountinfo`.
    pub mounts: BTreeSet<String>,
    /// Network links of the thread's namespace, from `/proc/thread-self/net/dev`.
    pub links: BTreeSet<String>,
    /// Directories of every mounted cgroup hierarchy.
    pub cgroups: BTreeSet<String>,
    /// Open fds of the process with what they refer to.
    pub fds: BTreeSet<String>,
    /// Children of the process, zombies included.
    pub children: BTreeSet<String>,
}

impl Snapshot {
    /// Reads it all.
    #[must_use]
    pub fn take() -> Self {
        Snapshot {
            mounts: mounts(),
            links: links(),
            cgroups: cgroups(),
            fds: fds(),
            children: children(),
        }
    }

    /// Panics with what appeared or went since `self` was taken. Cgroups of other processes may come and go: only
    /// those whose path contains `mine` count. The namespaces looked at are the calling thread's: take and compare in
    /// the same ones.
    pub fn assert_same(&self, mine: &str) {
        let now = Snapshot::take();
        let pairs = [
            ("mounts", &self.mounts, &now.mounts),
            ("links", &self.links, &now.links),
            ("cgroups", &self.cgroups, &now.cgroups),
            ("fds", &self.fds, &now.fds),
            ("children", &self.children, &now.children),
        ];
        for (what, before, after) in pairs {
            let left: Vec<_> = before
                .symmetric_difference(after)
                .filter(|item| what != "cgroups" || item.contains(mine))
                .collect();
            assert!(left.is_empty(), "{what} changed: {left:?}");
        }
    }
}

fn mounts() -> BTreeSet<String> {
    lines("/proc/thread-self/mountinfo").into_iter().collect()
}

fn links() -> BTreeSet<String> {
    lines("/proc/thread-self/net/dev")
        .iter()
        .filter_map(|line| line.split_once(':').map(|(name, _)| name.trim().to_owned()))
        .collect()
}

fn cgroups() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in lines("/proc/thread-self/mounts") {
        let fields: Vec<_> = line.split(' ').collect();
        if fields.len() > 2 && fields[2].starts_with("cgroup") {
            walk(Path::new(fields[1]), &mut found);
        }
    }
    found
}

fn walk(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.insert(entry.path().display().to_string());
            walk(&entry.path(), found);
        }
    }
}

fn fds() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc/self/fd")
        .expect("/proc/self/fd")
        .flatten()
    {
        // Another thread may have closed it since; the fd of this very listing does not count.
        if let Ok(target) = fs::read_link(entry.path()) {
            let own = format!("/proc/{}/fd", std::process::id());
            if target != Path::new(&own) {
                found.insert(format!(
                    "{} -> {}",
                    entry.file_name().to_string_lossy(),
                    target.display()
                ));
            }
        }
    }
    found
}

fn children() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for task in fs::read_dir("/proc/self/task")
        .expect("/proc/self/task")
        .flatten()
    {
        match fs::read_to_string(task.path().join("children")) {
            Ok(pids) => found.extend(pids.split_whitespace().map(str::to_owned)),
            // A thread that has ended since, not a kernel that lists no children.
            Err(error) => assert!(!task.path().exists(), "children: {error}"),
        }
    }
    found
}

/// A file that cannot be read would look like one that lists nothing, before and after.
fn lines(path: &str) -> Vec<String> {
    fs::read_to_string(path)
        .unwrap_or_else(|error| panic!("{path}: {error}"))
        .lines()
        .map(str::to_owned)
        .collect()
}
