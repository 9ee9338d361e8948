//! What a container is to be.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use cofferdam_cgroups::Limits;
use cofferdam_namespaces::{Capabilities, Command, Mount, RootFs, Stdio, User};

use crate::container::Container;
use crate::error::{Error, Result, Subject};
use crate::image::Program;
use crate::lifecycle::Lifecycle;
use crate::network::Networking;
use crate::rootfs::Rootfs;
use crate::running::Running;
use crate::secret::{self, Secret};
use crate::volume::Named;

/// The size of a [`tmpfs`](ContainerBuilder::tmpfs): 64 MiB.
const TMPFS_SIZE: u64 = 64 << 20;

/// Says what a [`Container`] is to be. Nothing on the host changes before [`start`](Self::start).
#[derive(Clone, Debug)]
#[must_use = "a ContainerBuilder does nothing until it is started"]
pub struct ContainerBuilder {
    name: Option<String>,
    rootfs: Option<Rootfs>,
    pub(crate) networking: Networking,
    pub(crate) limits: Limits,
    pub(crate) command: Command,
    pub(crate) lifecycle: Lifecycle,
    program: Program,
    pub(crate) named: Vec<Named>,
    pub(crate) secrets: Vec<Secret>,
    hostname: Option<OsString>,
}

impl ContainerBuilder {
    pub(crate) fn new() -> Self {
        ContainerBuilder {
            name: None,
            rootfs: None,
            networking: Networking::default(),
            limits: Limits::new(),
            command: Command::new(""),
            lifecycle: Lifecycle::default(),
            program: Program::default(),
            named: Vec::new(),
            secrets: Vec::new(),
            hostname: None,
        }
    }

    /// Its name: in errors, as its host name, and for the other containers of its network to find it by. Letters,
    /// digits, `-` and `_`, at most 63. Without one it is `c1`, `c2` and so on.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Its root directory. Without one it has the caller's own, and namespaces of its own all the same.
    pub fn rootfs(mut self, rootfs: Rootfs) -> Self {
        self.rootfs = Some(rootfs);
        self
    }

    /// The most memory it may use, in bytes, without swap. Beyond it a process of it is killed.
    #[doc(alias = "memory.max")]
    pub fn memory_max(mut self, bytes: u64) -> Self {
        self.limits = self.limits.memory_max(bytes);
        self
    }

    /// The most processes and threads it may have.
    #[doc(alias = "pids.max")]
    pub fn pids_max(mut self, n: u32) -> Self {
        self.limits = self.limits.pids_max(n);
        self
    }

    /// How much CPU time it may use: 0.5 is half of one CPU's.
    #[doc(alias = "cpu.max")]
    pub fn cpus(mut self, cpus: f64) -> Self {
        self.limits = self.limits.cpus(cpus);
        self
    }

    /// An empty filesystem in memory, of at most 64 MiB. Needs a root.
    pub fn tmpfs(self, target: impl Into<PathBuf>) -> Self {
        self.mount(Mount::tmpfs(target, TMPFS_SIZE))
    }

    /// Anything else mounted on top of the root: read-only volumes, files in memory.
    pub fn mount(mut self, mount: Mount) -> Self {
        self.command = self.command.mount(mount);
        self
    }

    /// The program, instead of what its image has. A name without a slash is looked for in its `PATH`, inside.
    pub fn command(mut self, program: impl Into<OsString>) -> Self {
        self.program.command = Some(program.into());
        self
    }

    /// One more argument.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.program.args.push(arg.into());
        self
    }

    /// More arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.program.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable. Without any there is `PATH`, and what its image has.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.program.env.push((name.into(), value.into()));
        self
    }

    /// The directory it starts in: its image's, or `/`, unless set.
    pub fn workdir(mut self, path: impl Into<PathBuf>) -> Self {
        self.program.workdir = Some(path.into());
        self
    }

    /// Who it runs as: `User::id(1000, 1000)`, or `"app".parse()?`, which is looked up in its rootfs at every start. Its
    /// image's, or root, unless set.
    pub fn user(mut self, user: User) -> Self {
        self.program.user = Some(user);
        self
    }

    /// Its host name: its name unless set.
    pub fn hostname(mut self, name: impl Into<OsString>) -> Self {
        self.hostname = Some(name.into());
        self
    }

    /// The capabilities it can ever have, instead of Docker's.
    pub fn capabilities(mut self, capabilities: Capabilities) -> Self {
        self.command = self.command.capabilities(capabilities);
        self
    }

    /// Its standard input: `/dev/null` unless set.
    pub fn stdin(mut self, stdio: impl Into<Stdio>) -> Self {
        self.command = self.command.stdin(stdio);
        self
    }

    /// Its standard output: `/dev/null` unless set.
    pub fn stdout(mut self, stdio: impl Into<Stdio>) -> Self {
        self.command = self.command.stdout(stdio);
        self
    }

    /// Its standard error: `/dev/null` unless set.
    pub fn stderr(mut self, stdio: impl Into<Stdio>) -> Self {
        self.command = self.command.stderr(stdio);
        self
    }

    /// Checks all that can be checked without the kernel.
    ///
    /// # Errors
    /// `InvalidInput` names the option that cannot be: a name that is none, ports or aliases without a network, the same
    /// port twice, a limit out of range, no program.
    pub fn build(self) -> Result<Container> {
        let name = self.name.unwrap_or_else(next_name);
        let subject = Subject::container(&name);
        let networking = self
            .networking
            .check(&subject, &name, self.rootfs.is_some())?;
        if networking.takes_ids() && !self.lifecycle.has_ids {
            let reason = "needs an id_map";
            return Err(Error::invalid(&subject, "pasta_network", &name, reason));
        }
        self.limits
            .validate()
            .map_err(subject.failed("check the limits"))?;
        let hostname = self.hostname.unwrap_or_else(|| name.clone().into());
        if let Some(secret) = self.secrets.iter().find(|secret| !secret.is_named()) {
            let reason = "is not 1 to 128 letters, digits, ., _ and -";
            return Err(Error::invalid(&subject, "secret", secret.name(), reason));
        }
        let command = self.command.hostname(hostname);
        let command = secret::mounts(self.secrets)
            .into_iter()
            .fold(command, Command::mount);
        let image = self.rootfs.as_ref().and_then(Rootfs::config);
        let command = self.program.of(&subject, image, command)?;
        // The real root is opened when it starts; whether there is one is what the check needs.
        let root = self.rootfs.as_ref().map(|_| RootFs::directory("/"));
        let checked = root.into_iter().fold(command.clone(), Command::root);
        checked
            .validate()
            .map_err(subject.failed("check the command"))?;
        Ok(Container {
            subject,
            name,
            rootfs: self.rootfs,
            networking,
            limits: self.limits,
            named: self.named,
            command,
            lifecycle: self.lifecycle,
        })
    }

    /// Builds it and starts it once, as [`Container::start`].
    ///
    /// # Errors
    /// As [`build`](Self::build) and [`Container::start`].
    pub fn start(self) -> Result<Running> {
        self.build()?.start()
    }
}

/// `c1`, `c2` and so on, in this process.
fn next_name() -> String {
    static LAST: AtomicU32 = AtomicU32::new(0);
    format!("c{}", LAST.fetch_add(1, Ordering::Relaxed) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn refused(builder: ContainerBuilder) -> String {
        let error = builder.build().expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        error.to_string()
    }

    fn web() -> ContainerBuilder {
        ContainerBuilder::new().name("web").command("/bin/app")
    }

    #[test]
    fn bad_input_names_container_and_option() {
        assert_eq!(
            refused(web().name("a b")),
            r#"container a b: name "a b": is not 1 to 63 letters, digits, - and _"#
        );
        assert_eq!(
            refused(web().publish("80:80".parse().unwrap())),
            r#"container web: publish "80:80/tcp": needs a network"#
        );
        assert!(refused(web().alias("www")).contains("needs a network"));
        assert!(refused(web().memory_max(0)).starts_with("container web: check the limits: "));
        assert!(refused(web().command("")).starts_with("container web: check the command: "));
        assert!(refused(web().volume("/a", "/b")).contains("needs a root"));
        assert_eq!(
            refused(web().pasta_network()),
            r#"container web: pasta_network "web": needs an id_map"#
        );
    }

    #[test]
    fn a_container_without_a_name_gets_the_next_one() {
        let name = |builder: ContainerBuilder| builder.build().unwrap().name().to_owned();
        let first = name(ContainerBuilder::new().command("a"));
        assert_ne!(first, name(ContainerBuilder::new().command("a")));
    }
}
