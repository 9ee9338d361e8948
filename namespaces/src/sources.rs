//! What is mounted from the host, opened by the caller before there is a child.

mod bind;
mod device;

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::command::Command;
use crate::error::{Error, Result};
use crate::fds::{FdTable, Lasts};
use crate::mount::{
    Access, Attributes, Bind, Change, Depth, Device, Links, Mount, Propagation, RDONLY, RootFs,
    STANDARD, Source, What,
};
use crate::namespace::Namespace;

use bind::open_bind;
use device::{host_device, node, standard_device, standard_devices};

/// What is mounted from the host: by fds of the caller, or by their numbers in the child.
#[derive(Clone, Debug)]
pub(crate) struct Sources<F = i32> {
    pub(crate) root: Option<Tree<F>>,
    /// One for each mount.
    pub(crate) mounts: Vec<Opened<F>>,
    /// The host's [`STANDARD`] devices, where they cannot be made.
    pub(crate) devices: Option<Vec<Tree<F>>>,
    /// The host's `/dev/null` for masks, where none can be made.
    pub(crate) null: Option<Tree<F>>,
    /// The host's sysfs, where there can be no other.
    pub(crate) sys: Option<Tree<F>>,
    /// Directories of sysfs to be masked that not every machine has.
    pub(crate) throttles: Vec<String>,
}

impl<F> Default for Sources<F> {
    fn default() -> Self {
        Sources {
            root: None,
            mounts: Vec::new(),
            devices: None,
            null: None,
            sys: None,
            throttles: Vec::new(),
        }
    }
}

/// A tree of mounts to be attached.
#[derive(Clone, Debug)]
pub(crate) enum Tree<F = i32> {
    /// A detached mount, ready to be moved.
    Detached(F),
    /// A path of the host that only the child has the right to clone.
    Path(HostPath),
}

/// A path of the host, and what the caller found there.
#[derive(Clone, Debug)]
pub(crate) struct HostPath {
    pub(crate) path: PathBuf,
    pub(crate) links: Links,
    pub(crate) depth: Depth,
    /// Whether mounts of the host's are to show up in it.
    pub(crate) propagation: Propagation,
    pub(crate) identity: Identity,
}

/// Which file it is, whatever leads to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) inode: u64,
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

/// What the caller has opened for a mount.
#[derive(Clone, Debug)]
pub(crate) enum Opened<F = i32> {
    /// Nothing: it comes from the kernel or from memory.
    Nothing,
    /// A tree, to be mounted on a target of this kind.
    Tree(Tree<F>, Target),
    /// A device to be made.
    Node(Node),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    File,
    Directory,
}

/// A device to be made by mknod(2).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    pub(crate) device: Device,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
}

/// How devices come to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Devices {
    /// By mknod(2), which only the initial user namespace allows.
    #[default]
    Mknod,
    /// As bind mounts of the host's.
    Bind,
}

/// What the caller holds open until there is a child.
pub(crate) type Held = Sources<OwnedFd>;

impl Held {
    /// Opens every source: what is missing is an error before anything is made.
    pub(crate) fn open(command: &Command, devices: Devices) -> Result<Self> {
        let Some(root) = &command.root else {
            return Ok(Self::default());
        };
        let mounts = command.mounts.iter();
        let mounts = mounts.map(|mount| open_mount(mount, root, devices));
        let hosts = devices == Devices::Bind && root.dev.is_some();
        // Where there are masks that a /dev of its own is not there for.
        let masks = !root.hidden.masked.is_empty() || root.hidden.defaults && root.dev.is_none();
        let null = devices == Devices::Bind && masks;
        Ok(Sources {
            root: Some(open_root(root)?),
            mounts: mounts.collect::<Result<_>>()?,
            devices: hosts.then(standard_devices).transpose()?,
            null: null.then(|| standard_device(STANDARD[0])).transpose()?,
            sys: open_sys(command, root)?,
            throttles: throttles(root),
        })
    }

    /// Whether there is a root, and the child has nothing to look up on the host.
    pub(crate) fn is_detached(&self) -> bool {
        let mounts = self.mounts.iter().filter_map(|opened| match opened {
            Opened::Tree(tree, _) => Some(tree),
            Opened::Nothing | Opened::Node(_) => None,
        });
        let others = self.devices.iter().flatten().chain(&self.null);
        let mut all = self
            .root
            .iter()
            .chain(mounts)
            .chain(others)
            .chain(&self.sys);
        self.root.is_some() && all.all(|tree| matches!(tree, Tree::Detached(_)))
    }

    /// Their numbers in the child.
    pub(crate) fn add_to(&self, fds: &mut FdTable) -> Sources {
        let mut number = |tree: &Tree<OwnedFd>| match tree {
            Tree::Detached(fd) => Tree::Detached(fds.add(fd, Lasts::PastExec)),
            Tree::Path(path) => Tree::Path(path.clone()),
        };
        let root = self.root.as_ref().map(&mut number);
        let mounts = self.mounts.iter().map(|opened| match opened {
            Opened::Nothing => Opened::Nothing,
            Opened::Tree(tree, kind) => Opened::Tree(number(tree), *kind),
            Opened::Node(node) => Opened::Node(*node),
        });
        let mounts = mounts.collect();
        let devices = self.devices.as_ref();
        Sources {
            root,
            mounts,
            devices: devices.map(|trees| trees.iter().map(&mut number).collect()),
            null: self.null.as_ref().map(&mut number),
            sys: self.sys.as_ref().map(&mut number),
            throttles: self.throttles.clone(),
        }
    }
}

impl RootFs {
    /// The root as a bind mount, and what is to be done to its clone.
    pub(crate) fn bind(&self) -> (Bind, Vec<Change>) {
        let mut bind = Bind::new(self.source.clone());
        bind.propagation = self.propagation;
        let attributes = match self.access {
            Access::ReadWrite => Attributes::default(),
            Access::ReadOnly => Attributes::of(RDONLY),
        };
        let changes = bind.changes(attributes);
        (bind, changes)
    }
}

fn open_root(root: &RootFs) -> Result<Tree<OwnedFd>> {
    const STEP: &str = "open the root";
    if let Source::Detached(fd) = &root.source {
        let fd = fd.try_clone().map_err(Error::sys("duplicate the root"))?;
        return Ok(Tree::Detached(fd));
    }
    let (bind, changes) = root.bind();
    match open_bind(STEP, &bind, &changes)? {
        (tree, Target::Directory) => Ok(tree),
        (_, Target::File) => Err(Error::path(STEP, root.source.name())(Errno::NOTDIR)),
    }
}

fn open_mount(mount: &Mount, root: &RootFs, devices: Devices) -> Result<Opened<OwnedFd>> {
    match &mount.what {
        What::Bind(bind) => {
            let changes = bind.changes(mount.attributes);
            let (tree, kind) = open_bind("open the mount source", bind, &changes)?;
            Ok(Opened::Tree(tree, kind))
        }
        What::Device(device) if devices == Devices::Mknod && root.dev.is_some() => {
            Ok(Opened::Node(node(&mount.target, device)?))
        }
        What::Device(device) => {
            if device.mode.is_some() || device.owner.is_some() {
                let reason = "has a mode or an owner, but cannot be made here: it is the host's";
                return Err(Error::invalid("device", &mount.target, reason));
            }
            let tree = host_device(&mount.target, device.device)?;
            Ok(Opened::Tree(tree, Target::File))
        }
        What::Tmpfs(_) | What::File(_) | What::Kernel(_) => Ok(Opened::Nothing),
    }
}

/// A user namespace can mount sysfs only with a network namespace of its own; else it gets the host's, read-only.
fn open_sys(command: &Command, root: &RootFs) -> Result<Option<Tree<OwnedFd>>> {
    let own = !command.owns_user_namespace() || command.namespaces.has(Namespace::Net);
    if own || root.sys.is_none() {
        return Ok(None);
    }
    let bind = Bind::new(Source::Path("/sys".into()));
    let (tree, _) = open_bind("open", &bind, &sys_changes())?;
    Ok(Some(tree))
}

/// What is done to the host's sysfs.
pub(crate) fn sys_changes() -> [Change; 1] {
    [Change {
        depth: Depth::Recursive,
        attributes: Attributes::of(RDONLY),
        propagation: Propagation::Private,
    }]
}

/// What tells of the heat of each CPU, and so of what others do, where the machine has it.
fn throttles(root: &RootFs) -> Vec<String> {
    if root.sys.is_some() && root.hidden.defaults {
        throttles_in(Path::new("/sys"))
    } else {
        Vec::new()
    }
}

fn throttles_in(sys: &Path) -> Vec<String> {
    const CPUS: &str = "devices/system/cpu";
    let below = |cpu: &str| format!("{CPUS}/{cpu}/thermal_throttle");
    // All of them have it or none has.
    if !sys.join(below("cpu0")).exists() {
        return Vec::new();
    }
    let cpus = fs::read_dir(sys.join(CPUS)).into_iter().flatten().flatten();
    let names = cpus.filter_map(|entry| entry.file_name().into_string().ok());
    let is_numbered = |name: &String| {
        let number = name.strip_prefix("cpu").unwrap_or_default();
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    names.filter(is_numbered).map(|name| below(&name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cpu_that_tells_of_its_heat_is_found() {
        let sys = std::env::temp_dir().join(format!("cofferdam-sys-{}", std::process::id()));
        assert_eq!(throttles_in(&sys), Vec::<String>::new());
        for cpu in ["cpu0", "cpu1", "cpu10", "cpufreq", "cpu"] {
            let path = sys.join("devices/system/cpu").join(cpu);
            fs::create_dir_all(path.join("thermal_throttle")).unwrap();
        }
        let mut found = throttles_in(&sys);
        found.sort();
        fs::remove_dir_all(&sys).unwrap();
        let expected = ["cpu0", "cpu1", "cpu10"];
        let expected = expected.map(|cpu| format!("devices/system/cpu/{cpu}/thermal_throttle"));
        assert_eq!(found, expected);
    }
}
