//! What can be said against mounts without asking the kernel.

use std::ffi::OsStr;
use std::path::{Component, Path};

use super::bind::{Propagation, Source};
use super::{Access, Kernel, Mount, RootFs, What};
use crate::command::Command;
use crate::error::{Error, Result};
use crate::idmap::IdMap;
use crate::namespace::Namespace;

/// The only place in sysfs that something can be mounted on.
pub(super) const CGROUPS: &str = "/sys/fs/cgroup";

/// Refuses mounts that cannot be, or that would take off what protects the host.
pub(crate) fn validate(command: &Command) -> Result<()> {
    let Some(root) = &command.root else {
        return match command.mounts.first() {
            None => Ok(()),
            Some(mount) => refuse(mount, "needs a root to be mounted on"),
        };
    };
    validate_root(command, root)?;
    for mount in &command.mounts {
        validate_target(mount, root)?;
        validate_kind(command, mount, root)?;
    }
    validate_shared(command)
}

fn refuse(mount: &Mount, reason: &'static str) -> Result<()> {
    Err(Error::invalid("mount", &mount.target, reason))
}

fn validate_root(command: &Command, root: &RootFs) -> Result<()> {
    let refuse = |reason| Err(Error::invalid("root", &command.program, reason));
    let owns = |namespace| command.namespaces.has(namespace);
    if root.dev == Some(0) {
        return refuse("has a /dev/shm of 0 bytes, which would be no limit");
    }
    if root.dev.is_none() && command.terminal.is_some() {
        return refuse("has no /dev for a terminal");
    }
    if root.propagation == Propagation::Slave && matches!(root.source, Source::Detached(_)) {
        return refuse("is a detached mount, which is nobody's slave");
    }
    let own_net = owns(Namespace::Net) || !command.owns_user_namespace();
    if root.sys == Some(Access::ReadWrite) && !own_net {
        return refuse("has a writable /sys without a network namespace of its own");
    }
    let hidden = root.hidden.masked.iter().chain(&root.hidden.read_only);
    hidden
        .into_iter()
        .try_for_each(|path| validate_hidden(path))
}

fn validate_hidden(path: &Path) -> Result<()> {
    let refuse = |reason| Err(Error::invalid("masked path", path, reason));
    match relative(path) {
        Err(reason) => refuse(reason),
        Ok(names) => match names.as_slice() {
            [] => refuse("is the root itself"),
            [name] if ["proc", "sys", "dev"].iter().any(|all| name == all) => {
                refuse("is all of a filesystem that can be left out")
            }
            _ => Ok(()),
        },
    }
}

/// The components of an absolute path below the root.
fn relative(path: &Path) -> std::result::Result<Vec<&OsStr>, &'static str> {
    if !path.is_absolute() {
        return Err("is not absolute");
    }
    // It is resolved name by name, which the kernel would never refuse.
    if path.as_os_str().len() >= libc::PATH_MAX.unsigned_abs() as usize {
        return Err("is longer than a path can be");
    }
    let mut components = path.components().skip(1);
    if components.any(|component| component == Component::ParentDir) {
        return Err("has a .. in it");
    }
    Ok(path
        .components()
        .skip(1)
        .map(Component::as_os_str)
        .collect())
}

/// Refuses targets that would cover the root, `/dev`, or anything of procfs and sysfs (CVE-2019-16884).
fn validate_target(mount: &Mount, root: &RootFs) -> Result<()> {
    let target = &mount.target;
    let refuse = |reason| Err(Error::invalid("mount target", target, reason));
    let names = match relative(target) {
        Err(reason) => return refuse(reason),
        Ok(names) => names,
    };
    let first = names.first().and_then(|name| name.to_str());
    match (first, names.len()) {
        (_, 0) => refuse("is the root itself"),
        (Some("sys"), _) if matches!(mount.what, What::Kernel(Kernel::Cgroup2)) => Ok(()),
        (Some("proc" | "sys"), _) => refuse("is in procfs or sysfs"),
        (Some("dev"), 1) if root.dev.is_some() => refuse("is the program's own /dev"),
        _ => Ok(()),
    }
}

fn validate_kind(command: &Command, mount: &Mount, root: &RootFs) -> Result<()> {
    if let Some(misfit) = mount.misfit {
        return refuse(mount, misfit);
    }
    let differs = |namespace| command.namespaces.differs(namespace);
    let no_id = |owner: Option<(u32, u32)>| {
        owner.is_some_and(|(uid, gid)| uid == u32::MAX || gid == u32::MAX)
    };
    match &mount.what {
        What::Tmpfs(tmpfs) if tmpfs.size == 0 => {
            refuse(mount, "has a size of 0, which would be no limit")
        }
        What::Tmpfs(tmpfs) if tmpfs.inodes == Some(0) => {
            refuse(mount, "has 0 inodes, which would be no limit")
        }
        What::Tmpfs(tmpfs) if no_id(tmpfs.owner) => refuse(mount, "has an owner that is no id"),
        What::File(file) if no_id(file.owner) => refuse(mount, "has an owner that is no id"),
        What::Device(device) if no_id(device.owner) => refuse(mount, "has an owner that is no id"),
        What::Device(_)
            if !mount.target.starts_with("/dev") || mount.target == Path::new("/dev") =>
        {
            refuse(mount, "is a device that is not below /dev")
        }
        What::Kernel(Kernel::Cgroup2) if root.sys.is_none() => refuse(mount, "needs a /sys"),
        What::Kernel(Kernel::Cgroup2) if !differs(Namespace::Cgroup) => {
            refuse(mount, "needs a cgroup namespace")
        }
        What::Kernel(Kernel::Mqueue) if !differs(Namespace::Ipc) => {
            refuse(mount, "needs an IPC namespace")
        }
        What::Bind(bind) => {
            let map = bind.mapping.as_ref().and_then(|mapping| mapping.ids());
            map.map_or(Ok(()), IdMap::validate_ranges)
        }
        _ => Ok(()),
    }
}

/// What is mounted on a shared mount would be mounted on the host.
fn validate_shared(command: &Command) -> Result<()> {
    for shared in command.mounts.iter().filter(|mount| mount.is_shared()) {
        if command.owns_user_namespace() {
            return refuse(shared, "is shared with the host out of a user namespace");
        }
        let mut others = command.mounts.iter();
        let below = |mount: &&Mount| {
            !std::ptr::eq(*mount, shared) && mount.target.starts_with(&shared.target)
        };
        if let Some(mount) = others.find(below) {
            return refuse(
                mount,
                "is below a shared mount, and would be mounted on the host",
            );
        }
        let hidden = command
            .root
            .iter()
            .flat_map(|root| root.hidden.masked.iter().chain(&root.hidden.read_only));
        if let Some(path) = hidden
            .into_iter()
            .find(|path| path.starts_with(&shared.target))
        {
            let reason = "is below a shared mount, and would be masked on the host";
            return Err(Error::invalid("masked path", path, reason));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::mount::Device;
    use crate::namespace::Namespaces;

    fn refused(command: &Command) -> String {
        let error = command.validate().expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        error.to_string()
    }

    fn with(mount: Mount) -> Command {
        Command::new("/bin/app")
            .root(RootFs::directory("/srv"))
            .mount(mount)
    }

    #[test]
    fn an_option_that_a_mount_does_not_have_is_refused() {
        let (bind, tmpfs) = (Mount::bind("/a", "/b"), Mount::tmpfs("/b", 1));
        let device = Mount::device("/dev/fuse");
        let cases = [
            (bind.clone().mode(0o600), "has a mode"),
            (bind.clone().owner(0, 0), "has an owner"),
            (bind.inodes(5), "is no tmpfs"),
            (tmpfs.clone().nofollow(), "of a bind mount"),
            (tmpfs.clone().shared(), "of a bind mount"),
            (tmpfs.clone().inodes(0), "0 inodes"),
            (tmpfs.owner(u32::MAX, 0), "no id"),
            (Mount::file("/b", "").idmapped(IdMap::range(0, 1)), "bind"),
            (Mount::cgroup2().mode(0o700), "has a mode"),
            (device.clone().read_only(), "is a device"),
            (device.owner(0, u32::MAX), "no id"),
            (Mount::device("/dev"), "the program's own /dev"),
            (Mount::node("/srv/x", Device::block(7, 0)), "not below /dev"),
        ];
        for (mount, reason) in cases {
            let line = refused(&with(mount));
            assert!(line.contains(reason), "{line}");
        }
        let map = IdMap::range(u32::MAX, 2);
        let line = refused(&with(Mount::bind("/a", "/b").idmapped(map)));
        assert!(line.starts_with("uid map"), "{line}");
    }

    #[test]
    fn what_needs_a_namespace_or_a_filesystem_says_so() {
        let without = |namespace| Namespaces::default().without(namespace);
        let cgroups = with(Mount::cgroup2());
        cgroups.validate().expect("allowed");
        let line = refused(&cgroups.clone().namespaces(without(Namespace::Cgroup)));
        assert!(line.contains("needs a cgroup namespace"), "{line}");
        let line = refused(&cgroups.root(RootFs::directory("/srv").without_sys()));
        assert!(line.contains("needs a /sys"), "{line}");
        let queues = with(Mount::mqueue("/q")).namespaces(without(Namespace::Ipc));
        assert!(refused(&queues).contains("needs an IPC namespace"));
        let root = RootFs::directory("/srv").writable_sys();
        let command = Command::new("a").root(root).id_map(IdMap::range(0, 1));
        command.validate().expect("allowed");
        let line = refused(&command.namespaces(without(Namespace::Net)));
        assert!(line.contains("writable /sys"), "{line}");
    }

    #[test]
    fn a_dev_of_the_callers_is_allowed_where_there_is_no_other() {
        let bind = || Mount::bind("/dev", "/dev");
        assert!(refused(&with(bind())).contains("own /dev"));
        let root = RootFs::directory("/srv").without_dev();
        with(bind()).root(root).validate().expect("allowed");
        // There is never another /proc or /sys.
        let root = RootFs::directory("/srv").without_proc().without_sys();
        for target in ["/proc", "/sys", "/sys/fs/cgroup"] {
            let line = refused(&with(Mount::bind("/a", target)).root(root.clone()));
            assert!(line.contains("procfs or sysfs"), "{line}");
        }
    }

    #[test]
    fn nothing_goes_below_what_is_shared_with_the_host() {
        let shared = || with(Mount::bind("/a", "/b").shared());
        shared().validate().expect("allowed");
        let line = refused(&shared().mount(Mount::tmpfs("/b/c", 1)));
        assert!(line.contains("below a shared mount"), "{line}");
        let root = RootFs::directory("/srv");
        for root in [root.clone().mask("/b/c"), root.read_only_path("/b/c")] {
            let line = refused(&shared().root(root));
            assert!(line.contains("masked on the host"), "{line}");
        }
        let line = refused(&shared().id_map(IdMap::range(0, 1)));
        assert!(line.contains("user namespace"), "{line}");
    }

    #[test]
    fn masked_paths_are_absolute_and_below_the_root() {
        for path in ["", "etc", "/", "/a/../b", "/proc", "/sys", "/dev", "/a\0b"] {
            let root = RootFs::directory("/srv");
            for root in [root.clone().mask(path), root.read_only_path(path)] {
                refused(&Command::new("a").root(root));
            }
        }
        let root = RootFs::directory("/srv").mask("/proc/cpuinfo").mask("/etc");
        Command::new("a").root(root).validate().expect("allowed");
    }
}
