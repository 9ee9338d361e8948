//! The caller's own cgroup, made into one that can have children with limits.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;

use crate::controller::{Controller, Version};
use crate::dir::Dir;
use crate::error::{Error, Result};
use crate::hierarchy::Hierarchy;
use crate::level::{self, Kind, Level, Verdict};
use crate::limits::Limits;
use crate::member::Member;
use crate::name::CgroupName;
use crate::stat;

/// What [`Hierarchy::own_subtree`] does if the own cgroup has other processes than the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// Fails with `Busy` and names them.
    Refuse,
    /// Moves them along.
    Move,
}

/// The caller's own v2 cgroup after its processes went into a leaf of it, so that it can pass controllers on.
///
/// Dropping it undoes that as [`OwnSubtree::undo`] does, if no cgroup made since is there; else all stays as it is.
/// [`OwnSubtree::persist`] keeps it. Should the process be killed, its cgroup stays divided until whoever manages it
/// removes it.
#[derive(Debug)]
#[must_use = "dropping an OwnSubtree undoes it"]
pub struct OwnSubtree {
    hierarchy: Hierarchy,
    own: Arc<Dir>,
    /// `None` for the root of the whole tree, where nothing has to move.
    leaf: Option<Member>,
    /// `cgroup.subtree_control` as it was.
    enabled: BTreeSet<String>,
    /// The cgroups that were there.
    children: Vec<OsString>,
    armed: bool,
}

/// How often processes may appear while others move.
const ROUNDS: u32 = 100;

impl Hierarchy {
    /// Makes the calling process's own v2 cgroup able to have children with limits: moves its processes into a child
    /// `leaf`, because a cgroup that passes controllers on may have none itself, and enables the controllers that
    /// `limits` need in its `cgroup.subtree_control`. Those that later limits need are enabled when they are.
    ///
    /// What comes with [`OwnSubtree::hierarchy`] makes its cgroups beside `leaf`. All threads of the process move. At
    /// the root of the whole tree, which may have processes and children with limits, nothing moves.
    ///
    /// Needs a cgroup that is delegated to the caller: a container's with a writable mount, a systemd unit's with
    /// `Delegate=yes`.
    ///
    /// # Errors
    /// Before any change: `InvalidInput` for the limits; `Busy` if there are other processes, naming them, or processes
    /// of an outer pid namespace, which have no number here; `Unsupported` if the own cgroup cannot be seen, is threaded
    /// or is not given a controller. `PermissionDenied`, `AlreadyExists`: then all is as before.
    pub fn own_subtree(
        &self,
        leaf: &CgroupName,
        limits: &Limits,
        others: Others,
    ) -> Result<OwnSubtree> {
        limits.validate()?;
        self.divide(leaf, limits, others)
            .map_err(|error| self.explained(error))
    }

    fn divide(&self, leaf: &CgroupName, limits: &Limits, others: Others) -> Result<OwnSubtree> {
        let own = self.own_dir()?;
        let kind = Kind::read(&own)?;
        let needed = self.needed_of_v2(limits)?;
        possible(&own, &kind, &needed)?;
        let mut subtree = OwnSubtree {
            hierarchy: self.with_own(&own),
            enabled: enabled(&own)?,
            children: own.children()?,
            own: Arc::clone(&own),
            leaf: None,
            armed: false,
        };
        if kind != Kind::Root {
            may_move(&own, others)?;
            subtree.leaf = Some(Member::make(Version::V2, &own, leaf)?);
        }
        subtree.armed = true;
        // From here on a failure drops it, which undoes what was done.
        if let Some(leaf) = &subtree.leaf {
            move_all(&own, &leaf.dir)?;
        }
        level::enable(&own, kind, &needed)?;
        Ok(subtree)
    }

    /// The controllers that only v2 can have here.
    fn needed_of_v2(&self, limits: &Limits) -> Result<Vec<Controller>> {
        let plan = self.plan(limits, &mut Vec::new())?;
        let v2 = plan
            .into_iter()
            .find(|site| site.mount.version == Version::V2);
        Ok(v2.map(|site| site.needed()).unwrap_or_default())
    }
}

impl OwnSubtree {
    /// The hierarchy whose own cgroup is the divided one.
    #[must_use]
    pub fn hierarchy(&self) -> &Hierarchy {
        &self.hierarchy
    }

    /// The directory of the cgroup that was divided.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.own.path()
    }

    /// The directory where its processes are now; `None` at the root of the tree, where none moved.
    #[must_use]
    pub fn leaf(&self) -> Option<&Path> {
        self.leaf.as_ref().map(|leaf| leaf.dir.path())
    }

    /// Undoes it: disables the controllers that were enabled since, moves the processes of the leaf back, those that
    /// came since too, and removes the leaf. At the root of the tree there is nothing to undo: controllers stay enabled.
    ///
    /// # Errors
    /// `Busy` naming a cgroup made since that is still there: it would lose its limits. Then nothing changes.
    /// `PermissionDenied`; what could not be undone stays.
    pub fn undo(mut self) -> Result<()> {
        self.armed = false;
        self.take_back()
    }

    /// Keeps it, and gives the directory of the leaf if there is one.
    pub fn persist(mut self) -> Option<PathBuf> {
        self.armed = false;
        self.leaf().map(Path::to_owned)
    }

    fn take_back(&self) -> Result<()> {
        // What the root passes on others may have come to rely on.
        let Some(leaf) = &self.leaf else {
            return Ok(());
        };
        let mut since = self.own.children()?;
        since.retain(|name| {
            let ours = leaf.dir.path().file_name() == Some(name);
            !ours && !self.children.contains(name)
        });
        if let Some(child) = since.first() {
            return Err(Error::in_the_way(&self.own.path().join(child)));
        }
        self.disable()?;
        move_all(&leaf.dir, &self.own)?;
        let now = Instant::now();
        leaf.remove(now, now)
    }

    fn disable(&self) -> Result<()> {
        let now = enabled(&self.own)?;
        let words: Vec<_> = now
            .difference(&self.enabled)
            .map(|controller| format!("-{controller}"))
            .collect();
        if words.is_empty() {
            return Ok(());
        }
        let (file, value) = ("cgroup.subtree_control", words.join(" "));
        self.own
            .write(file, &value)
            .map_err(|errno| Error::write(self.own.file_path(file), &value, errno))
    }
}

impl Drop for OwnSubtree {
    fn drop(&mut self) {
        if self.armed {
            let _undone = self.take_back().is_ok();
        }
    }
}

/// Whether it could be done, as far as that can be known.
fn possible(own: &Dir, kind: &Kind, needed: &[Controller]) -> Result<()> {
    match Level::read(own, kind.clone(), needed)?.verdict(needed) {
        Verdict::NotPassedOn(which) => Err(Error::not_passed_on(own.path(), which)),
        Verdict::Threaded(kind) => Err(Error::threaded(own.path(), kind)),
        Verdict::Ready | Verdict::Enable(_) | Verdict::Populated(_) => Ok(()),
    }
}

fn may_move(own: &Dir, others: Others) -> Result<()> {
    let text = own.read_procs()?.unwrap_or_default();
    if text.lines().any(|line| line == "0") {
        return Err(Error::occupied(
            own.path(),
            "processes of an outer pid namespace",
        ));
    }
    let mut pids = stat::pids(&own.file_path("cgroup.procs"), &text)?;
    pids.retain(|pid| *pid != process::id());
    if others == Others::Move || pids.is_empty() {
        return Ok(());
    }
    let shown: Vec<_> = pids.iter().take(10).map(u32::to_string).collect();
    let more = if pids.len() > shown.len() {
        ", ..."
    } else {
        ""
    };
    let who = format!("{} more processes ({}{more})", pids.len(), shown.join(", "));
    Err(Error::occupied(own.path(), &who))
}

/// Moves until there is nothing left to move: who forks while it moves leaves a child behind.
fn move_all(from: &Dir, to: &Dir) -> Result<()> {
    for _ in 0..ROUNDS {
        let text = from.read_procs()?.unwrap_or_default();
        if text.is_empty() {
            return Ok(());
        }
        for pid in text.lines() {
            // To the kernel that would be the caller.
            if pid == "0" {
                let who = "processes of an outer pid namespace";
                return Err(Error::occupied(from.path(), who));
            }
            match to.write("cgroup.procs", pid) {
                // Ended since, or not yet started: the next round sees.
                Ok(()) | Err(Errno::SRCH | Errno::INVAL) => {}
                Err(errno) => return Err(crate::place::not_moved(to, pid, errno)),
            }
        }
    }
    Err(Error::occupied(
        from.path(),
        "processes that cannot be moved or fork too fast",
    ))
}

fn enabled(dir: &Dir) -> Result<BTreeSet<String>> {
    let text = dir.read_required("cgroup.subtree_control")?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}
