//! The cgroup hierarchies of the machine, and the making of cgroups in them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cgroup::Cgroup;
use crate::controller::{Controller, Version};
use crate::devices::Filter;
use crate::dir::Dir;
use crate::error::{Error, Result};
use crate::level;
use crate::limits::Limits;
use crate::member::Member;
use crate::mount::{Mount, Parent};
use crate::mountinfo::{self, Membership, Mounted};
use crate::name::CgroupName;

/// The cgroup hierarchies that this process can see, held by fds. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Hierarchy {
    pub(crate) v2: Option<Arc<Mount>>,
    pub(crate) v1: Vec<Arc<Mount>>,
}

/// How the machine's cgroups are set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// cgroup v2 alone.
    Unified,
    /// cgroup v2, but v1 hierarchies have some or all of the controllers.
    Hybrid,
    /// cgroup v1 alone.
    V1,
}

const MOUNTINFO: &str = "/proc/thread-self/mountinfo";
const CGROUP: &str = "/proc/thread-self/cgroup";

impl Hierarchy {
    /// Finds what is mounted, from `/proc/thread-self/mountinfo`, and the calling thread's own cgroup in it, from
    /// `/proc/thread-self/cgroup`. A mount counts if it
    /// is what its path shows, not hidden under another: checked by fstatfs(2), device number and mount id.
    ///
    /// # Errors
    /// `Unsupported` if no cgroup hierarchy can be seen, `NotFound` without `/proc`, `Malformed` if the kernel's text
    /// is not understood.
    pub fn detect() -> Result<Self> {
        let mounts = mountinfo::mounts(Path::new(MOUNTINFO), &read(MOUNTINFO)?)?;
        let memberships = mountinfo::memberships(Path::new(CGROUP), &read(CGROUP)?)?;
        let mut found = Hierarchy {
            v2: None,
            v1: Vec::new(),
        };
        for device in devices(&mounts) {
            let Some(mount) = best(&mounts, device, &memberships) else {
                continue;
            };
            match mount.version {
                Version::V2 => found.v2 = Some(Arc::new(mount)),
                Version::V1 => found.v1.push(Arc::new(mount)),
            }
        }
        if found.v2.is_none() && found.v1.is_empty() {
            return Err(Error::no_hierarchy());
        }
        Ok(found)
    }

    /// How the machine is set up.
    #[must_use]
    pub fn mode(&self) -> Mode {
        match (&self.v2, self.v1.is_empty()) {
            (Some(_), true) => Mode::Unified,
            (Some(_), false) => Mode::Hybrid,
            (None, _) => Mode::V1,
        }
    }

    /// Makes a cgroup with limits, by mkdir(2) and one write(2) a limit.
    ///
    /// In v2 it becomes a child of the caller's own cgroup (as of [`Hierarchy::detect`]) where the kernel allows that: a
    /// cgroup other than the root that has processes of its own, such as the caller, can only pass controllers on that
    /// it passes on already. Else it becomes a child of the top of the mount, which takes root. Without limits the own
    /// cgroup always will do. In v1, which has no such rule, it becomes a child of the own cgroup of each hierarchy.
    ///
    /// Only the controllers the limits need are enabled, where they are not; they stay enabled.
    ///
    /// A hybrid or v1 machine gets one directory in each hierarchy used: v2 always, v1 where it has a controller that
    /// the limits need.
    ///
    /// # Errors
    /// `InvalidInput` for a limit that cannot be, `Unsupported` naming the limit for one the machine cannot apply: both
    /// before any change. `AlreadyExists` if the name is taken in any of the hierarchies used. `PermissionDenied`
    /// naming the path. `LimitReached` naming the bound of a level above. `Busy` naming the level that has processes, if neither place can pass the controllers on.
    /// After an error no directory is left.
    pub fn create(&self, name: &CgroupName, limits: &Limits) -> Result<Cgroup> {
        self.create_below(Parent::Own, name, limits)
            .map_err(|error| self.explained(error))
    }

    /// As [`Hierarchy::create`], as child of the cgroup `parent`, for callers who know better.
    ///
    /// `parent` is a path from the top of the hierarchy, as in `/proc/<pid>/cgroup` and Docker's `--cgroup-parent`
    /// (`/machine.slice`), not one of the filesystem. It must exist in every hierarchy used. Controllers are enabled
    /// from the top down to it: one write a level, none where nothing is missing.
    ///
    /// # Errors
    /// As [`Hierarchy::create`]; `NotFound` if there is no such parent, `InvalidInput` if its path contains `..`, `Busy`
    /// naming the level that has processes and the controllers it lacks.
    pub fn create_in(
        &self,
        parent: impl AsRef<Path>,
        name: &CgroupName,
        limits: &Limits,
    ) -> Result<Cgroup> {
        self.create_below(Parent::Given(parent.as_ref()), name, limits)
            .map_err(|error| self.explained(error))
    }

    /// A handle to cgroups that exist: the directories that [`Cgroup::persist`] or [`Hierarchy::find`] gave, the v2 one
    /// first if it is among them. Dropping it removes nothing; [`Cgroup::remove`] does.
    ///
    /// # Errors
    /// `NotFound` if one does not exist, `InvalidInput` if there is none or one is not below a cgroup mount.
    pub fn open<P: AsRef<Path>>(&self, paths: impl IntoIterator<Item = P>) -> Result<Cgroup> {
        let mut paths = paths.into_iter();
        let first = paths
            .next()
            .ok_or_else(|| Error::path(Path::new(""), "no path given"))?;
        let mut cgroup = Cgroup::found(self.member(first.as_ref())?);
        for path in paths {
            cgroup.push(self.member(path.as_ref())?);
        }
        Ok(cgroup)
    }

    /// The directories whose name begins with `prefix`, in every hierarchy that [`Hierarchy::create`] uses, those of v2
    /// first. What is inside of one found is not listed again: it goes with it.
    ///
    /// # Errors
    /// `PermissionDenied` if a directory may not be read.
    pub fn find(&self, prefix: &str) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for mount in self.mounts() {
            mount.find(prefix, &mut found)?;
        }
        Ok(found)
    }

    fn create_below(
        &self,
        parent: Parent<'_>,
        name: &CgroupName,
        limits: &Limits,
    ) -> Result<Cgroup> {
        limits.validate()?;
        let mut places = Vec::new();
        let mut plan = self.plan(limits)?;
        let devices = self.plan_for_devices(limits, &mut plan)?;
        for (mount, needed) in plan {
            places.push((mount, mount.parent(parent, &needed)?, needed));
        }
        let mut cgroup: Option<Cgroup> = None;
        for (mount, parent, needed) in places {
            let member = Member::make(mount.version, &parent, name)?;
            let cgroup = match &mut cgroup {
                Some(cgroup) => cgroup.push(member),
                None => cgroup.insert(Cgroup::made(member)).main(),
            };
            for controller in &needed {
                cgroup.apply(&limits.settings(*controller, mount.version))?;
            }
            let here = mount.version == Version::V2 || needed.contains(&Controller::Devices);
            if let Some(devices) = devices.as_ref().filter(|_| here) {
                devices.apply_to(mount.version, &cgroup.dir)?;
            }
        }
        cgroup.ok_or_else(Error::no_hierarchy)
    }

    /// Which hierarchies a cgroup with these limits has to be in, v2 first, and with which controllers.
    pub(crate) fn plan(&self, limits: &Limits) -> Result<Vec<(&Arc<Mount>, Vec<Controller>)>> {
        let needed = limits.controllers();
        let offered = self.offered_by_v2(&needed)?;
        let mut plan: Vec<(&Arc<Mount>, Vec<Controller>)> = Vec::new();
        if let Some(v2) = &self.v2 {
            plan.push((v2, Vec::new()));
        }
        for (controller, limit) in needed {
            let v2 = self.v2.as_ref().filter(|_| offered.contains(&controller));
            let mount = v2
                .or_else(|| self.with(controller))
                .ok_or_else(|| Error::no_controller(limit, controller.name()))?;
            match plan.iter_mut().find(|(used, _)| Arc::ptr_eq(used, mount)) {
                Some((_, controllers)) => controllers.push(controller),
                None => plan.push((mount, vec![controller])),
            }
        }
        self.plan_for_kill(&mut plan);
        Ok(plan)
    }

    /// Without v2 the freezer helps to kill, and a cgroup without limits has to be somewhere.
    fn plan_for_kill<'a>(&'a self, plan: &mut Vec<(&'a Arc<Mount>, Vec<Controller>)>) {
        if self.v2.is_some() {
            return;
        }
        let fallback = self.with(Controller::Freezer).or(self.v1.first());
        let missing =
            fallback.filter(|mount| !plan.iter().any(|(used, _)| Arc::ptr_eq(used, mount)));
        plan.extend(missing.map(|mount| (mount, Vec::new())));
    }

    /// Makes a device policy ready, and adds the v1 hierarchy if it is what has to apply it.
    fn plan_for_devices<'a>(
        &'a self,
        limits: &Limits,
        plan: &mut Vec<(&'a Arc<Mount>, Vec<Controller>)>,
    ) -> Result<Option<Filter>> {
        let Some(devices) = limits.device_policy() else {
            return Ok(None);
        };
        let v2 = self.v2.as_ref().map(|mount| mount.root.path());
        let v1 = self.with(Controller::Devices);
        let filter = Filter::prepare(devices, v2, v1.is_some())?;
        if let (true, Some(v1)) = (filter.is_for(Version::V1), v1) {
            match plan.iter_mut().find(|(used, _)| Arc::ptr_eq(used, v1)) {
                Some((_, controllers)) => controllers.push(Controller::Devices),
                None => plan.push((v1, vec![Controller::Devices])),
            }
        }
        Ok(Some(filter))
    }

    /// What v2 has, as far as it matters: what its top passes on already it has for certain.
    fn offered_by_v2(&self, needed: &[(Controller, &str)]) -> Result<Vec<Controller>> {
        let mut offered = Vec::new();
        let Some(v2) = self.v2.as_ref().filter(|_| !needed.is_empty()) else {
            return Ok(offered);
        };
        for file in ["cgroup.subtree_control", "cgroup.controllers"] {
            offered = level::controllers(&v2.root.read_required(file)?);
            if needed.iter().all(|(one, _)| offered.contains(one)) {
                break;
            }
        }
        Ok(offered)
    }

    fn with(&self, controller: Controller) -> Option<&Arc<Mount>> {
        self.v1
            .iter()
            .find(|mount| mount.controllers.contains(&controller))
    }

    pub(crate) fn mounts(&self) -> impl Iterator<Item = &Arc<Mount>> {
        self.v2.iter().chain(&self.v1)
    }

    /// The same with this v2 cgroup for its own.
    pub(crate) fn with_own(&self, own: &Arc<Dir>) -> Self {
        let mut hierarchy = self.clone();
        let v2 = self.v2.as_ref();
        hierarchy.v2 = v2.map(|mount| Arc::new(mount.with_own(own)));
        hierarchy
    }

    fn member(&self, path: &Path) -> Result<Member> {
        // The longest match: /sys/fs/cgroup may be a mount and /sys/fs/cgroup/unified another.
        let mount = self
            .mounts()
            .filter(|mount| mount.below(path).is_some())
            .max_by_key(|mount| mount.root.path().as_os_str().len())
            .ok_or_else(|| Error::path(path, "is not below a cgroup mount"))?;
        let below = mount.below(path).unwrap_or(path);
        Member::open(mount.version, &mount.root, below)
    }
}

pub(crate) fn read(path: &str) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| {
        let errno = rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO);
        Error::sys("read", Path::new(path), errno)
    })
}

/// One of each hierarchy that is of use here, in the order of their mounts.
fn devices(mounts: &[Mounted]) -> Vec<(u32, u32)> {
    let mut devices = Vec::new();
    for mount in mounts {
        let useful = mount.version == Version::V2 || !mount.controllers.is_empty();
        if useful && !devices.contains(&mount.device) {
            devices.push(mount.device);
        }
    }
    devices
}

/// The mount of one hierarchy to work through: one that shows the own cgroup if there is one.
fn best(mounts: &[Mounted], device: (u32, u32), memberships: &[Membership]) -> Option<Mount> {
    let mut candidates: Vec<_> = mounts
        .iter()
        .filter(|mount| mount.device == device)
        .collect();
    candidates.sort_by_key(|mount| mount.own(memberships).is_none());
    // One that cannot be opened is hidden under another mount.
    candidates
        .into_iter()
        .find_map(|mounted| Mount::open(mounted, memberships).ok())
}
