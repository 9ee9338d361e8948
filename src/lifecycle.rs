//! How a container lives: what the builder says of it beside its files and its network.

use std::path::PathBuf;

use cofferdam_cgroups::Limits;
use cofferdam_namespaces::IdMap;

use crate::builder::ContainerBuilder;

/// What is said of a container's life.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lifecycle {
    pub(crate) runtime_dir: Option<PathBuf>,
    /// Whether it has a user namespace of its own.
    pub(crate) has_ids: bool,
}

impl ContainerBuilder {
    /// All of its limits at once, instead of those set before: weights, I/O, cpusets, devices and what else
    /// [`Limits`] has.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Whether pid 1 inside is a reaper of some 40 KiB, whose only child the program is at first. It forwards every signal, reaps
    /// whoever ends, and exits as the program does. A program that is pid 1 itself, as it is unless asked, has to reap, and
    /// does not hear signals it has no handler for.
    pub fn init(mut self, init: bool) -> Self {
        self.command = self.command.init(init);
        self
    }

    /// Whether all its processes are killed in the moment in which this process ends, in whatever way, `SIGKILL` too: those of
    /// `exec` as well, and whichever thread started them. Unless asked they run on until somebody calls [`reap`](crate::reap).
    ///
    /// Its [`init`](Self::init) does it, which it therefore has: that watches a pipe of this process. What the kernel does not
    /// take along, its cgroup and its record, a network's bridge and rules, is still for [`reap`](crate::reap). One that is
    /// [paused](crate::Running::pause) dies when it goes on, or is reaped; while a child lives that this process forked without
    /// executing another program, all live. It cannot be [detached](crate::Running::detach).
    #[doc(alias = "die-with-parent")]
    pub fn die_with_embedder(mut self, die: bool) -> Self {
        self.command = self.command.die_with_caller(die);
        self
    }

    /// A user namespace of its own with these ids: what it takes for who is not root, with [`IdMap::current_user`] or
    /// [`IdMap::subordinate`]. The program is root in it unless [`user`](Self::user) says otherwise.
    pub fn id_map(mut self, map: IdMap) -> Self {
        self.command = self.command.id_map(map);
        self.lifecycle.has_ids = true;
        self
    }

    /// Gives it a pseudoterminal with so many rows and columns, where its streams lead that are not led elsewhere.
    /// [`Running::take_terminal`](crate::Running::take_terminal) is the other end.
    pub fn terminal(mut self, rows: u16, columns: u16) -> Self {
        self.command = self.command.terminal(rows, columns);
        self
    }

    /// Where it is written down what a start makes on the host, before it is made: a file for each container, for
    /// [`reap_in`](crate::reap_in) to find after this process was killed.
    ///
    /// Unless set it is the first of these that can be written to, which [`reap`](crate::reap) looks through:
    /// `/run/cofferdam` for root, `$XDG_RUNTIME_DIR/cofferdam`, `/tmp/cofferdam-<uid>`.
    pub fn runtime_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.lifecycle.runtime_dir = Some(path.into());
        self
    }
}
