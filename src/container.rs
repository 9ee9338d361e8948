//! A container as described, and its start.

use cofferdam_cgroups::{Cgroup, CgroupName, Hierarchy, Limits};
use cofferdam_namespaces::Command;
use cofferdam_overlay::VolumeRef;

use crate::builder::ContainerBuilder;
use crate::error::{Result, Subject};
use crate::lifecycle::Lifecycle;
use crate::network::Plan;
use crate::rootfs::{Opened, Rootfs};
use crate::running::{Held, Parts, Running, enter};
use crate::runtime::{Fact, Record};
use crate::volume::Named;

/// What the names of this suite's cgroups begin with.
const CGROUP_PREFIX: &str = "cofferdam";

/// A container as it is to be: a value, checked as far as it can be without the kernel. [`start`](Self::start) makes it
/// real, any number of times.
#[derive(Clone, Debug)]
pub struct Container {
    pub(crate) subject: Subject,
    pub(crate) name: String,
    pub(crate) rootfs: Option<Rootfs>,
    pub(crate) networking: Plan,
    pub(crate) limits: Limits,
    pub(crate) named: Vec<Named>,
    pub(crate) command: Command,
    pub(crate) lifecycle: Lifecycle,
}

impl Container {
    /// Says what a container is to be.
    pub fn builder() -> ContainerBuilder {
        ContainerBuilder::new()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts it, and returns once the program runs. From any thread; where a network is involved, from one in the
    /// network namespace the network was made in.
    ///
    /// Needs what the parts need: root, or a user namespace that has the caller as root; and for limits, write access to
    /// the cgroup filesystem. When it fails, nothing of it is left but named volumes, which stay as those of any container do.
    /// Without limits it has a cgroup all the same, where the machine gives one; if not, it cannot be paused, watched or
    /// listed.
    ///
    /// What a start makes on the host is [written down](ContainerBuilder::runtime_dir) first, for [`reap`](crate::reap).
    ///
    /// # Errors
    /// The line names the step and the item: a layer that is missing (`NotFound`), a port that is taken
    /// (`AlreadyExists`, `Busy`), a limit the machine cannot apply (`Unsupported`), a program that does not exist
    /// (`NotFound`), a runtime directory that cannot be written (`PermissionDenied`), and so on.
    pub fn start(&self) -> Result<Running> {
        self.networking.check_host(&self.subject)?;
        let dir = self.lifecycle.runtime_dir.as_deref();
        let record = Record::create(dir, &self.name, |id| {
            let cgroup = format!("{CGROUP_PREFIX}-{id}");
            vec![Fact::Name(self.name.clone()), Fact::Cgroup(cgroup)]
        });
        let record = record.map_err(self.subject.failed("write down what is made"))?;
        match self.launch(&record) {
            Ok(parts) => {
                let (subject, name) = (self.subject.clone(), self.name.clone());
                let command = Some(self.command.clone());
                Ok(Running::new(subject, name, command, parts, record))
            }
            Err(error) => {
                // All of it undid itself by now. What could not is for `reap`.
                if !record.has_cgroup() {
                    let _gone = record.remove().is_ok();
                }
                Err(error)
            }
        }
    }

    fn launch(&self, record: &Record) -> Result<Parts> {
        // Each of these undoes itself when a later step fails.
        let root = self
            .rootfs
            .as_ref()
            .map(|rootfs| rootfs.open(&self.subject))
            .transpose()?;
        let volumes = self.volumes(root.as_ref())?;
        let cgroup = self.create_cgroup(record)?;
        let attached = self.networking.attach(&self.subject, &self.name)?;
        let mut command = self.command.clone();
        let mut written = None;
        let has_root = root.is_some();
        if let Some(root) = root {
            let (root, upper) = root.into_root();
            command = command.root(root);
            written = upper;
        }
        if let Some(cgroup) = &cgroup {
            command = enter(&self.subject, command, cgroup)?;
        }
        command = self
            .networking
            .enter(command, attached.as_ref(), &self.subject, has_root)?;
        let (spawned, pasta) = self.networking.spawn(&command, record, &self.subject)?;
        let (pid, started) = (spawned.pid(), spawned.start_time());
        let started = started.map_err(self.subject.failed("look at the program"))?;
        record
            .add(&Fact::Program { pid, started })
            .map_err(self.subject.failed("write down what is made"))?;
        Ok(Parts {
            spawned,
            cgroup,
            attached,
            pasta,
            held: Held { written, volumes },
        })
    }

    /// Named volumes, made and filled where they are new.
    fn volumes(&self, root: Option<&Opened>) -> Result<Vec<VolumeRef>> {
        let Some(root) = root else {
            return Ok(Vec::new());
        };
        let each = self.named.iter();
        each.map(|named| named.acquire(&self.subject, root))
            .collect()
    }

    /// A cgroup of its own; where it has no limits, if that can be had.
    fn create_cgroup(&self, record: &Record) -> Result<Option<Cgroup>> {
        use cofferdam_cgroups::ErrorKind::{NotFound, PermissionDenied, Unsupported};
        let name = CgroupName::new(format!("{CGROUP_PREFIX}-{}", record.id()));
        let name = name.map_err(self.subject.failed("name the cgroup"))?;
        let made = Hierarchy::detect().and_then(|hierarchy| hierarchy.create(&name, &self.limits));
        let cgroup = match made {
            Err(error)
                if self.limits == Limits::new()
                    && matches!(error.kind(), NotFound | PermissionDenied | Unsupported) =>
            {
                return Ok(None);
            }
            made => made.map_err(self.subject.failed("create the cgroup"))?,
        };
        for path in cgroup.paths() {
            record
                .add(&Fact::CgroupPath(path.to_owned()))
                .map_err(self.subject.failed("write down what is made"))?;
        }
        Ok(Some(cgroup))
    }
}
