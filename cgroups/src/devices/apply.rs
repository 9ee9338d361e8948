//! Applying a device policy to a cgroup: eBPF where there is cgroup v2, else the v1 files.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::program::Program;
use super::{Devices, v1};
use crate::cgroup::Cgroup;
use crate::controller::Version;
use crate::dir::Dir;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::{self, Attach};

/// A policy made ready before the first change on the host.
#[derive(Debug)]
pub(crate) enum Filter {
    /// A program in the kernel, for the v2 directory.
    Program(OwnedFd),
    /// Writes, for the v1 directory.
    Files(Vec<(&'static str, String)>),
}

/// The kernel gives up a load for a pending signal.
const LOADS: u32 = 30;

impl Filter {
    /// Loads a program if there is a v2 hierarchy; what a machine cannot do by that it does by its v1 hierarchy.
    pub(crate) fn prepare(devices: &Devices, v2: Option<&Path>, v1: bool) -> Result<Self> {
        let Some(path) = v2 else {
            return match v1 {
                true => Ok(Filter::Files(v1::writes(devices)?)),
                false => Err(Error::no_devices()),
            };
        };
        match load(devices, path) {
            Ok(program) => Ok(Filter::Program(program)),
            Err(error) if v1 && cannot(&error) => Ok(Filter::Files(v1::writes(devices)?)),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn is_for(&self, version: Version) -> bool {
        match self {
            Filter::Program(_) => version == Version::V2,
            Filter::Files(_) => version == Version::V1,
        }
    }

    /// Applies it to a directory, if it is one of the version it is for.
    pub(crate) fn apply_to(&self, version: Version, dir: &Dir) -> Result<()> {
        match self.is_for(version) {
            true => self.apply(dir),
            false => Ok(()),
        }
    }

    fn apply(&self, dir: &Dir) -> Result<()> {
        match self {
            Filter::Program(program) => attach(dir, program),
            Filter::Files(writes) => writes.iter().try_for_each(|(file, value)| {
                dir.write(file, value)
                    .map_err(|errno| Error::write(dir.file_path(file), value, errno))
            }),
        }
    }
}

impl Cgroup {
    /// Replaces the device policy of the cgroup, or gives it one, by bpf(2) with `BPF_PROG_ATTACH`.
    ///
    /// In v2 the program takes the place of the one before it in one step (Linux 5.6; before, both hold for a moment,
    /// so that what either denies is denied). Programs that others attached stay: an access is allowed if all allow it.
    /// On v1, and on a hybrid machine that cannot do it by eBPF, the files of the v1 directory are written one after
    /// the other, beginning with `a` into `devices.deny`: it is no single step, and one whose default is to allow
    /// allows for a moment what its rules deny.
    ///
    /// Files that are open stay usable.
    ///
    /// # Errors
    /// `InvalidInput` as [`Devices::validate`], before any change. `PermissionDenied` naming the capability that is
    /// missing. `Unsupported` if neither way is open: the kernel has no device programs and the cgroup no v1 directory
    /// with the devices controller, or v1 cannot hold a rule.
    #[doc(alias = "BPF_F_REPLACE")]
    pub fn set_devices(&self, devices: &Devices) -> Result<()> {
        devices.validate()?;
        let of = |version| self.members().find(move |member| member.version == version);
        let files = self.members().find(|member| {
            member.version == Version::V1
                && member.dir.open_file("devices.allow", OFlags::PATH).is_ok()
        });
        let v2 = of(Version::V2).map(|member| member.dir.path());
        let filter = Filter::prepare(devices, v2, files.is_some())?;
        let member = match filter {
            Filter::Program(_) => of(Version::V2),
            Filter::Files(_) => files,
        };
        filter.apply(&member.ok_or_else(Error::no_devices)?.dir)
    }
}

/// Whether another way may do better.
fn cannot(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Unsupported | ErrorKind::PermissionDenied
    )
}

fn load(devices: &Devices, path: &Path) -> Result<OwnedFd> {
    let program = Program::new(devices);
    let mut tries = LOADS;
    loop {
        tries -= 1;
        match sys::prog_load(program.instructions()) {
            Err(Errno::AGAIN) if tries > 0 => {}
            // A kernel without programs of this type.
            Err(Errno::INVAL | Errno::NOSYS) => return Err(Error::no_devices()),
            loaded => {
                return loaded
                    .map_err(|errno| Error::bpf("load a device program for", path, errno));
            }
        }
    }
}

/// Attaches a program and takes away those that were ours before.
fn attach(dir: &Dir, program: &OwnedFd) -> Result<()> {
    let failed = |op| move |errno| Error::bpf(op, dir.path(), errno);
    // bpf(2) takes no O_PATH fd on all kernels.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let cgroup = dir
        .open_file(".", flags)
        .map_err(|errno| Error::sys("open", dir.path(), errno))?;
    let cgroup = cgroup.as_fd();
    let old = ours(&cgroup).map_err(failed("list device programs of"))?;
    if let [old] = old.as_slice() {
        match sys::prog_attach(cgroup, program.as_fd(), Attach::Replace(old.as_fd())) {
            // Before Linux 5.6.
            Err(Errno::INVAL) => {}
            done => return done.map_err(failed("replace the device program of")),
        }
    }
    sys::prog_attach(cgroup, program.as_fd(), Attach::Beside)
        .map_err(failed("attach a device program to"))?;
    for old in old {
        sys::prog_detach(cgroup, old.as_fd()).map_err(failed("detach a device program from"))?;
    }
    Ok(())
}

/// The programs of this cgroup that this crate attached, known by their name.
fn ours(cgroup: &impl AsFd) -> rustix::io::Result<Vec<OwnedFd>> {
    let mut found = Vec::new();
    for id in sys::prog_query(cgroup.as_fd())? {
        match sys::prog_fd_by_id(id) {
            Ok(fd) if sys::prog_is_ours(fd.as_fd())? => found.push(fd),
            // Detached since.
            Ok(_) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(found)
}
