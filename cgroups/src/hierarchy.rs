//! The cgroup hierarchies of the machine, and the making of cgroups in them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::apply::{self, Skipped};
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
use crate::site::Site;

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
    /// is not understood; `Os` if fds or memory run out: a hierarchy is not left out for that.
    pub fn detect() -> Result<Self> {
        let (mounts, memberships) = (mounts()?, memberships()?);
        let mut found = Hierarchy {
            v2: None,
            v1: Vec::new(),
        };
        for device in devices(&mounts) {
            let Some(mount) = best(&mounts, device, &memberships)? else {
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

    /// A handle to cgroups that exist: the directories that [`Cgroup::persist`] or [`Hierarchy::find`] gave, in whatever
    /// order. Dropping it removes nothing; [`Cgroup::remove`] does.
    ///
    /// # Errors
    /// `NotFound` if one does not exist, `InvalidInput` if there is none or one is not below a cgroup mount.
    pub fn open<P: AsRef<Path>>(&self, paths: impl IntoIterator<Item = P>) -> Result<Cgroup> {
        let members = paths.into_iter().map(|path| self.member(path.as_ref()));
        let mut members = members.collect::<Result<Vec<_>>>()?;
        members.sort_by_key(|member| member.version == Version::V1);
        let mut members = members.into_iter();
        let first = members
            .next()
            .ok_or_else(|| Error::path(Path::new(""), "no path given"))?;
        let mut cgroup = Cgroup::found(first);
        for member in members {
            cgroup.push(member);
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
        let mut skipped = Vec::new();
        let mut sites = Vec::new();
        let mut plan = self.plan(limits, &mut skipped)?;
        let devices = self.plan_for_devices(limits, &mut plan)?;
        for mut site in plan {
            let dir = site.parent(parent, limits, &mut skipped)?;
            sites.push((site, dir));
        }
        let mut cgroup: Option<Cgroup> = None;
        for (site, dir) in sites {
            let member = Member::make(site.mount.version, &dir, name)?;
            let member = match &mut cgroup {
                Some(cgroup) => cgroup.push(member),
                None => cgroup.insert(Cgroup::made(member)).main(),
            };
            skipped.extend(site.apply(member, limits)?);
            let version = site.mount.version;
            let has =
                version == Version::V2 || site.mount.controllers.contains(&Controller::Devices);
            if let Some(devices) = devices.as_ref().filter(|_| has) {
                devices.apply_to(version, &member.dir)?;
            }
        }
        let mut cgroup = cgroup.ok_or_else(Error::no_hierarchy)?;
        cgroup.leave_out(skipped);
        Ok(cgroup)
    }

    /// Which hierarchies a cgroup with these limits has to be in, v2 first, and with which controllers.
    pub(crate) fn plan(
        &self,
        limits: &Limits,
        skipped: &mut Vec<Skipped>,
    ) -> Result<Vec<Site<'_>>> {
        let needed = limits.controllers();
        let offered = self.offered_by_v2(&needed)?;
        let mut plan: Vec<_> = self.v2.iter().map(Site::new).collect();
        for controller in needed {
            let v2 = self.v2.as_ref().filter(|_| offered.contains(&controller));
            let Some(mount) = v2.or_else(|| self.with(controller)) else {
                apply::skip_all(limits, skipped, controller, None, |limit| {
                    self.without(limit, controller)
                })?;
                continue;
            };
            let rendering = limits.render(controller, mount.version);
            let settings = apply::sayable(limits, rendering, skipped, None)?;
            if !settings.is_empty() {
                Site::of(&mut plan, mount).add(controller, settings);
            }
        }
        self.plan_for_kill(&mut plan);
        Ok(plan)
    }

    /// Without v2 the freezer helps to kill, and a cgroup without limits has to be somewhere.
    fn plan_for_kill<'a>(&'a self, plan: &mut Vec<Site<'a>>) {
        if self.v2.is_some() {
            return;
        }
        if let Some(mount) = self.with(Controller::Freezer).or(self.v1.first()) {
            Site::of(plan, mount);
        }
    }

    /// Makes a device policy ready, and adds the v1 hierarchy if it is what has to apply it.
    fn plan_for_devices<'a>(
        &'a self,
        limits: &Limits,
        plan: &mut Vec<Site<'a>>,
    ) -> Result<Option<Filter>> {
        let Some(devices) = limits.device_policy() else {
            return Ok(None);
        };
        let v2 = self.v2.as_ref().map(|mount| mount.root.path());
        let v1 = self.with(Controller::Devices);
        let filter = Filter::prepare(devices, v2, v1.is_some())?;
        if let (true, Some(v1)) = (filter.is_for(Version::V1), v1) {
            Site::of(plan, v1);
        }
        Ok(Some(filter))
    }

    /// What v2 has, as far as it matters: not what a v1 hierarchy has, for a controller is in one alone; and what its top
    /// passes on already it has for certain.
    fn offered_by_v2(&self, needed: &[Controller]) -> Result<Vec<Controller>> {
        let asked = needed.iter().copied();
        let asked: Vec<_> = asked.filter(|one| self.with(*one).is_none()).collect();
        let Some(v2) = self.v2.as_ref().filter(|_| !asked.is_empty()) else {
            return Ok(Vec::new());
        };
        let enabled = level::controllers(&v2.root.read_subtree_control()?);
        if asked.iter().all(|one| enabled.contains(one)) {
            return Ok(enabled);
        }
        let offered = v2.root.read_required("cgroup.controllers")?;
        Ok(level::controllers(&offered))
    }

    /// That a controller is not there: in the part that can be seen, or on the whole machine.
    fn without(&self, limit: &'static str, controller: Controller) -> Error {
        match self.mounts().find(|mount| mount.is_part()) {
            Some(part) => Error::not_given(limit, controller.name(), part.root.path()),
            None => Error::no_controller(limit, controller.name()),
        }
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

/// What is mounted where this thread can see it.
pub(crate) fn mounts() -> Result<Vec<Mounted>> {
    mountinfo::mounts(Path::new(MOUNTINFO), &read(MOUNTINFO)?)
}

/// Where this thread is.
pub(crate) fn memberships() -> Result<Vec<Membership>> {
    mountinfo::memberships(Path::new(CGROUP), &read(CGROUP)?)
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
fn best(
    mounts: &[Mounted],
    device: (u32, u32),
    memberships: &[Membership],
) -> Result<Option<Mount>> {
    let mut candidates: Vec<_> = mounts
        .iter()
        .filter(|mount| mount.device == device)
        .collect();
    candidates.sort_by_key(|mount| mount.own(memberships).is_none());
    for mounted in candidates {
        match Mount::open(mounted, memberships) {
            Ok(mount) => return Ok(Some(mount)),
            Err(error) if error.is_shortage() => return Err(error),
            // It is hidden under another mount.
            Err(_) => {}
        }
    }
    Ok(None)
}
