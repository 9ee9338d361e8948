//! What to run, and in what surroundings.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::capabilities::Capabilities;
use crate::error::{Error, Result};
use crate::idmap::IdMap;
use crate::mount::{Mount, RootFs, Source, What};
use crate::namespace::{Namespace, Namespaces};
use crate::spawned::Spawned;
use crate::stdio::Stdio;

/// A program with its surroundings: a plain value. [`spawn`](Self::spawn) starts it, any number of times.
///
/// It begins with an empty environment but for `PATH`, in `/`, with streams at `/dev/null`, all signals at their
/// defaults, no fds but the three streams, as the leader of a new session, with Docker's default capabilities and
/// no_new_privs.
#[derive(Clone, Debug)]
#[must_use = "a Command does nothing until it is spawned"]
pub struct Command {
    pub(crate) program: OsString,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) workdir: PathBuf,
    pub(crate) streams: [Stdio; 3],
    pub(crate) namespaces: Namespaces,
    pub(crate) id_map: Option<IdMap>,
    pub(crate) root: Option<RootFs>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) hostname: Option<OsString>,
    pub(crate) capabilities: Capabilities,
    pub(crate) user: Option<(u32, u32)>,
    pub(crate) cgroup: Option<Arc<OwnedFd>>,
    pub(crate) procs: Vec<Arc<OwnedFd>>,
    pub(crate) deadline: Duration,
}

impl Command {
    /// `program` with a container's [`Namespaces`] and the caller's root. A name without a slash is looked for in the
    /// `PATH` of the program's own environment, in its own root.
    pub fn new(program: impl Into<OsString>) -> Self {
        Command {
            program: program.into(),
            args: Vec::new(),
            env: vec![("PATH".into(), DEFAULT_PATH.into())],
            workdir: "/".into(),
            streams: std::array::from_fn(|_| Stdio::null()),
            namespaces: Namespaces::default(),
            id_map: None,
            root: None,
            mounts: Vec::new(),
            hostname: None,
            capabilities: Capabilities::default(),
            user: None,
            cgroup: None,
            procs: Vec::new(),
            deadline: Duration::from_secs(10),
        }
    }

    /// Another program, in the same surroundings.
    pub fn program(mut self, program: impl Into<OsString>) -> Self {
        self.program = program.into();
        self
    }

    /// One more argument.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// More arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        let name = name.into();
        self.env.retain(|(other, _)| *other != name);
        self.env.push((name, value.into()));
        self
    }

    /// The directory it starts in.
    pub fn workdir(mut self, path: impl Into<PathBuf>) -> Self {
        self.workdir = path.into();
        self
    }

    /// Its standard input.
    pub fn stdin(mut self, stdio: impl Into<Stdio>) -> Self {
        self.streams[0] = stdio.into();
        self
    }

    /// Its standard output.
    pub fn stdout(mut self, stdio: impl Into<Stdio>) -> Self {
        self.streams[1] = stdio.into();
        self
    }

    /// Its standard error.
    pub fn stderr(mut self, stdio: impl Into<Stdio>) -> Self {
        self.streams[2] = stdio.into();
        self
    }

    /// The namespaces it gets of its own.
    pub fn namespaces(mut self, namespaces: Namespaces) -> Self {
        self.namespaces = namespaces;
        self
    }

    /// A user namespace of its own with these ids. The program is root in it, whatever the caller is outside.
    #[doc(alias = "CLONE_NEWUSER")]
    pub fn id_map(mut self, map: IdMap) -> Self {
        self.id_map = Some(map);
        self
    }

    /// Its root directory.
    #[doc(alias = "pivot_root")]
    pub fn root(mut self, root: RootFs) -> Self {
        self.root = Some(root);
        self
    }

    /// Something mounted on top of the root.
    pub fn mount(mut self, mount: Mount) -> Self {
        self.mounts.push(mount);
        self
    }

    /// The host name in its UTS namespace, at most 64 bytes.
    #[doc(alias = "sethostname")]
    pub fn hostname(mut self, name: impl Into<OsString>) -> Self {
        self.hostname = Some(name.into());
        self
    }

    /// The capabilities it can ever have, instead of Docker's.
    pub fn capabilities(mut self, capabilities: Capabilities) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// The user and group id it runs with, as its user namespace counts. Unless set they are the caller's, or root of a
    /// new user namespace. Who is not root has no capabilities. Supplementary groups are dropped, but by a caller without
    /// any capability, or where the user namespace denies setgroups(2): those keep theirs.
    #[doc(alias = "setresuid")]
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.user = Some((uid, gid));
        self
    }

    /// Starts it inside the cgroup v2 directory behind `fd`, by `CLONE_INTO_CGROUP`.
    #[doc(alias = "CLONE_INTO_CGROUP")]
    pub fn cgroup(mut self, fd: OwnedFd) -> Self {
        self.cgroup = Some(Arc::new(fd));
        self
    }

    /// Before anything else it writes itself into this open `cgroup.procs`, as cgroup v1 wants it.
    pub fn cgroup_procs(mut self, fd: OwnedFd) -> Self {
        self.procs.push(Arc::new(fd));
        self
    }

    /// How long a start can take before it is killed and [`TimedOut`](crate::ErrorKind::TimedOut): 10 s unless set.
    pub fn start_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Starts it and returns once its execve(2) has succeeded.
    ///
    /// Takes about a millisecond, whatever the size of the caller's memory, from any thread. Nothing of the caller's
    /// process changes, and nothing is left when it fails, but for directories made in a root that is a directory.
    ///
    /// # Errors
    /// `InvalidInput` before anything is done: a NUL in a string, a target under `/proc`, mounts without a root, more
    /// than 8 MiB of it all. `NotFound`, `PermissionDenied` and others name the step that failed and its errno.
    /// `TimedOut` if the start took longer than its deadline.
    pub fn spawn(&self) -> Result<Spawned> {
        self.validate()?;
        crate::spawn::spawn(self)
    }

    /// Whether it gets a user namespace of its own.
    pub(crate) fn owns_user_namespace(&self) -> bool {
        self.id_map.is_some() || self.namespaces.has(Namespace::User)
    }

    /// The ids of its user namespace. One that was asked for without them has the caller's.
    pub(crate) fn ids(&self) -> IdMap {
        self.id_map.clone().unwrap_or_else(IdMap::current_user)
    }

    pub(crate) fn root_is_detached(&self) -> bool {
        self.root
            .as_ref()
            .is_some_and(|root| matches!(root.source, Source::Detached(_)))
    }

    /// What is mounted on top of its root, in order.
    #[must_use]
    pub fn mounts(&self) -> &[Mount] {
        &self.mounts
    }

    /// The program's name, as errors give it.
    pub(crate) fn name(&self) -> &Path {
        Path::new(&self.program)
    }

    /// Checks all that can be checked without the kernel, as [`spawn`](Self::spawn) does first.
    ///
    /// # Errors
    /// `InvalidInput` names the item that cannot be.
    pub fn validate(&self) -> Result<()> {
        if self.program.is_empty() {
            return Err(Error::invalid("program", "", "is empty"));
        }
        let env = self.env.iter().flat_map(|(name, value)| [name, value]);
        let root = self.root.iter().filter_map(RootFs::path);
        let paths = self.mounts.iter().flat_map(Mount::paths).chain(root);
        let strings = [self.program.as_os_str(), self.workdir.as_os_str()].into_iter();
        let strings = strings.chain(self.args.iter().chain(env).map(OsString::as_os_str));
        if let Some(bad) = strings
            .chain(paths)
            .find(|string| string.as_bytes().contains(&0))
        {
            return Err(Error::invalid("string", bad, "has a NUL byte in it"));
        }
        let bad_name = |name: &OsStr| name.is_empty() || name.as_bytes().contains(&b'=');
        if let Some((name, _)) = self.env.iter().find(|(name, _)| bad_name(name)) {
            return Err(Error::invalid(
                "environment variable",
                name,
                "is no name of one",
            ));
        }
        if !self.workdir.is_absolute() {
            return Err(Error::invalid("workdir", &self.workdir, "is not absolute"));
        }
        self.validate_ids()?;
        self.validate_namespaces()?;
        if let Some(mount) = self
            .mounts
            .iter()
            .find(|mount| matches!(mount.what, What::Tmpfs { size: 0, .. }))
        {
            return Err(Error::invalid(
                "tmpfs",
                &mount.target,
                "has a size of 0, which would be no limit",
            ));
        }
        self.mounts
            .iter()
            .try_for_each(|mount| validate_target(&mount.target))
    }

    fn validate_ids(&self) -> Result<()> {
        // To setresuid(2) it means "as before", which would be root.
        if let Some((uid, gid)) = self
            .user
            .filter(|&(uid, gid)| uid == u32::MAX || gid == u32::MAX)
        {
            return Err(Error::invalid("user", format!("{uid}:{gid}"), "is no id"));
        }
        match self.id_map.as_ref().and_then(IdMap::overflow) {
            Some(range) => Err(Error::invalid("id map", range, "has no ids or too many")),
            None => Ok(()),
        }
    }

    fn validate_namespaces(&self) -> Result<()> {
        let owns = |namespace| self.namespaces.has(namespace);
        if let Some(name) = &self.hostname {
            if !owns(Namespace::Uts) {
                return Err(Error::invalid("hostname", name, "needs a UTS namespace"));
            }
            if name.len() > 64 || name.as_bytes().contains(&0) {
                return Err(Error::invalid(
                    "hostname",
                    name,
                    "is longer than 64 bytes or has a NUL",
                ));
            }
        }
        if let Some(mount) = self.mounts.first().filter(|_| self.root.is_none()) {
            return Err(Error::invalid(
                "mount",
                &mount.target,
                "needs a root to be mounted on",
            ));
        }
        if self.root.is_some() && !(owns(Namespace::Mount) && owns(Namespace::Pid)) {
            let reason = "needs a mount and a pid namespace";
            return Err(Error::invalid("root", &self.program, reason));
        }
        if self.namespaces.net().is_some() && self.owns_user_namespace() {
            let feature = "joining a network namespace from a new user namespace";
            return Err(Error::unsupported(
                feature,
                "give it a network namespace of its own",
            ));
        }
        Ok(())
    }
}

/// Docker's.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Refuses targets that would cover the root, `/dev`, or anything of procfs and sysfs (CVE-2019-16884).
fn validate_target(target: &Path) -> Result<()> {
    let refuse = |reason| Err(Error::invalid("mount target", target, reason));
    if !target.is_absolute() {
        return refuse("is not absolute");
    }
    if target
        .components()
        .any(|component| component == Component::ParentDir)
    {
        return refuse("has a .. in it");
    }
    let mut components = target.components().skip(1).map(Component::as_os_str);
    match (components.next().and_then(OsStr::to_str), components.next()) {
        (None, None) => refuse("is the root itself"),
        (Some("proc" | "sys"), _) => refuse("is in procfs or sysfs"),
        (Some("dev"), None) => refuse("is the program's own /dev"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn refused(command: Command) -> String {
        let error = command.validate().expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        error.to_string()
    }

    fn rooted() -> Command {
        Command::new("/bin/app").root(RootFs::directory("/srv"))
    }

    #[test]
    fn bad_input_names_the_item() {
        assert_eq!(refused(Command::new("")), "program \"\": is empty");
        assert_eq!(
            refused(Command::new("a").arg("b\0c")),
            r#"string "b\0c": has a NUL byte in it"#
        );
        assert_eq!(
            refused(Command::new("a").workdir("x")),
            "workdir \"x\": is not absolute"
        );
        assert_eq!(
            refused(Command::new("a").env("a=b", "")),
            "environment variable \"a=b\": is no name of one"
        );
        let refused_on_root = |mount| refused(rooted().mount(mount));
        assert!(refused_on_root(Mount::bind("a\0b", "/mnt")).contains("has a NUL byte"));
        assert!(refused_on_root(Mount::tmpfs("/mnt", 0)).contains("would be no limit"));
        assert_eq!(
            refused(Command::new("a").user(0, u32::MAX)),
            "user \"0:4294967295\": is no id"
        );
        let map = crate::IdMap::range(u32::MAX - 1, 2);
        assert!(refused(Command::new("a").id_map(map)).starts_with("id map \"4294967294 2\""));
        let mount = Mount::tmpfs("/tmp", 1);
        assert_eq!(
            refused(Command::new("a").mount(mount)),
            "mount \"/tmp\": needs a root to be mounted on"
        );
    }

    #[test]
    fn targets_that_cover_what_protects_the_host_are_refused() {
        for target in [
            "/",
            "/proc",
            "/proc/self/attr",
            "//proc/x",
            "/sys",
            "/dev",
            "/a/../proc",
            "a",
        ] {
            refused(rooted().mount(Mount::tmpfs(target, 1)));
        }
        for target in ["/dev/shm", "/procs", "/a/proc", "/data"] {
            rooted()
                .mount(Mount::tmpfs(target, 1))
                .validate()
                .expect("allowed");
        }
    }

    #[test]
    fn a_variable_set_twice_has_the_last_value() {
        let command = Command::new("a").env("A", "1").env("A", "2");
        let set: Vec<_> = command.env.iter().filter(|(name, _)| name == "A").collect();
        assert_eq!(set, [&("A".into(), "2".into())]);
    }
}
