//! What to run, and in what surroundings.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::attributes::Attributes;
use crate::capabilities::Capabilities;
use crate::error::{Error, Result};
use crate::idmap::{self, IdMap};
use crate::mount::{self, Mount, RootFs, Source};
use crate::namespace::{Namespace, Namespaces};
use crate::plan::Plan;
use crate::program::Program;
use crate::seccomp::Seccomp;
use crate::spawned::Spawned;
use crate::stdio::Stdio;
use crate::sysctl::{self, Sysctl};
use crate::user::User;

/// A program with its surroundings: a plain value. [`spawn`](Self::spawn) starts it, any number of times.
///
/// It begins with an empty environment but for `PATH`, in `/`, with streams at `/dev/null`, all signals at their
/// defaults, no fds but the three streams, as the leader of a new session, with Docker's default capabilities and
/// system call filter, and no_new_privs.
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
    pub(crate) domainname: Option<OsString>,
    pub(crate) sysctls: Vec<Sysctl>,
    pub(crate) capabilities: Capabilities,
    pub(crate) user: Option<User>,
    pub(crate) attributes: Attributes,
    pub(crate) cgroup: Option<Arc<OwnedFd>>,
    pub(crate) procs: Vec<Arc<OwnedFd>>,
    pub(crate) fds: Vec<(i32, Arc<OwnedFd>)>,
    pub(crate) init: bool,
    pub(crate) dies_with_caller: bool,
    pub(crate) session: Session,
    pub(crate) terminal: Option<(u16, u16)>,
    pub(crate) deadline: Duration,
    pub(crate) seccomp: Seccomp,
}

/// Which session a program is in, as of setsid(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Session {
    /// One of its own, which it leads: no terminal of the caller's is its controlling terminal.
    #[default]
    New,
    /// The caller's, with its process group; who enters a container has a group of its own where the caller's is led from
    /// outside of the caller's pid namespace. Signals of the caller's terminal reach it; and if it can open that terminal it can put characters into its
    /// input, where the kernel still has `TIOCSTI` (CVE-2017-5226).
    Inherit,
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
            domainname: None,
            sysctls: Vec::new(),
            capabilities: Capabilities::default(),
            user: None,
            attributes: Attributes::default(),
            cgroup: None,
            procs: Vec::new(),
            fds: Vec::new(),
            init: false,
            dies_with_caller: false,
            session: Session::New,
            terminal: None,
            deadline: Duration::from_secs(10),
            seccomp: Seccomp::default(),
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

    /// The capabilities it can ever have, instead of Docker's: its bounding set, and what root has from the start. Who is not
    /// root has those that are [`ambient`](Self::ambient).
    pub fn capabilities(mut self, capabilities: Capabilities) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// The user and the groups it runs with: `User::id(1000, 1000)`, or `"app".parse()?`, which is looked up in its root at
    /// every start. Unless set they are the caller's, or root of a new user namespace, without supplementary groups.
    ///
    /// Who is not root has no capabilities but [`ambient`](Self::ambient) ones. Groups that are not asked for with
    /// [`User::groups`] stay the caller's where they cannot be changed: by a caller without any capability, or where a user
    /// namespace of its own denies setgroups(2).
    #[doc(alias = "setresuid")]
    #[doc(alias = "setgroups")]
    pub fn user(mut self, user: User) -> Self {
        self.user = Some(user);
        self
    }

    /// Starts it inside the cgroup v2 directory behind `fd`, by `CLONE_INTO_CGROUP`.
    #[doc(alias = "CLONE_INTO_CGROUP")]
    pub fn cgroup(mut self, fd: OwnedFd) -> Self {
        self.cgroup = Some(Arc::new(fd));
        self
    }

    /// Before anything else it writes itself into this open `cgroup.procs`, as cgroup v1 wants it; or into `tasks`, for which it
    /// does not wait 10 ms.
    pub fn cgroup_procs(mut self, fd: OwnedFd) -> Self {
        self.procs.push(Arc::new(fd));
        self
    }

    /// An fd the program is to have, beside its streams, under this number from 3 to 1023.
    pub fn fd(mut self, number: i32, fd: impl Into<OwnedFd>) -> Self {
        self.fds.retain(|(other, _)| *other != number);
        self.fds.push((number, Arc::new(fd.into())));
        self
    }

    /// Whether pid 1 of its pid namespace is a reaper whose only child the program is at first: some 40 KiB that forward every
    /// signal to the program, reap whoever ends, and exit as the program does, with 128 and the signal if one ended it.
    ///
    /// A program that is pid 1 itself has to reap, and ignores signals it does not handle.
    pub fn init(mut self, init: bool) -> Self {
        self.init = init;
        self
    }

    /// Whether it is killed, with all of its pid namespace, in the moment in which the caller's process ends: by itself, by a
    /// signal, by `SIGKILL` too. What entered the namespace later dies with it. The thread that started it may end before.
    ///
    /// Pid 1 is a reaper, as with [`init`](Self::init), that also watches a pipe whose other end only the caller's process has,
    /// close-on-exec: the handle holds it, and whoever [keeps](crate::Spawned::keep) the program alive without one leaves it open
    /// until the process ends. A fork(2) of the caller that does not execute another program has a copy, and the end comes
    /// once that has ended too. What it does not protect from is a program with `CAP_SYS_PTRACE` outside of a user namespace
    /// of its own, which can interfere with the reaper.
    ///
    /// Needs a pid namespace of its own.
    #[doc(alias = "die-with-parent")]
    #[doc(alias = "PR_SET_PDEATHSIG")]
    pub fn die_with_caller(mut self, die: bool) -> Self {
        self.dies_with_caller = die;
        self
    }

    /// Which session it is in.
    #[doc(alias = "setsid")]
    pub fn session(mut self, session: Session) -> Self {
        self.session = session;
        self
    }

    /// A pseudoterminal with so many rows and columns is its controlling terminal, and its streams lead there that are not
    /// led elsewhere. The other end is [`Spawned::terminal`](crate::Spawned::terminal).
    ///
    /// With a root it is the container's own, `/dev/pts/0` and `/dev/console`; entering a running container, another of that one;
    /// else one of the caller's.
    #[doc(alias = "pty")]
    pub fn terminal(mut self, rows: u16, columns: u16) -> Self {
        self.terminal = Some((rows, columns));
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
        let spawned = crate::spawn::spawn(self, &mut |_| Ok(()));
        spawned.map_err(|error| idmap::explain(self, error))
    }

    /// As [`spawn`](Self::spawn), and calls `prepare` when its namespaces are there and nothing in them has begun yet: the
    /// process with the pid it is given waits in them, as `/proc/<pid>/ns` shows, for instance for a network to be led there. Needs
    /// a user namespace of its own, and nothing that is joined.
    ///
    /// Where the machine refuses one way of a start and another is tried, `prepare` is called for each.
    ///
    /// # Errors
    /// As `spawn`; and what `prepare` says, with the process gone: by its errno, or else as `PermissionDenied`. `InvalidInput` without a user namespace of its own.
    pub fn spawn_prepared(
        &self,
        mut prepare: impl FnMut(u32) -> std::io::Result<()>,
    ) -> Result<Spawned> {
        self.validate()?;
        if Plan::new(self).at_clone & libc::CLONE_NEWUSER == 0 {
            let reason = "needs a user namespace of its own and none that is joined";
            return Err(Error::invalid("preparation", &self.program, reason));
        }
        let spawned = crate::spawn::spawn(self, &mut prepare);
        spawned.map_err(|error| idmap::explain(self, error))
    }

    /// Starts it in the namespaces of the process behind this pidfd, and of its own has none: what `docker exec` does.
    ///
    /// Joins those that are not the caller's; root directory and mounts are the other process's. It runs with this command's own
    /// user, capabilities, environment and workdir; to be in the other's cgroup it needs [`cgroup`](Self::cgroup). What it joins
    /// is expected to be hostile: until the program runs, nobody in there can see into it, or reach anything of the caller's,
    /// unless it has `CAP_SYS_PTRACE`, and then it finds nobody with more rights than the program will have.
    ///
    /// ```no_run
    /// use cofferdam_namespaces::{Command, RootFs, Stdio};
    ///
    /// let app = Command::new("/bin/app").root(RootFs::directory("/srv/app")).spawn()?;
    /// let who = Command::new("id").stdout(Stdio::piped()).enter(&app)?.output()?;
    /// # Ok::<(), cofferdam_namespaces::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn). `NotFound` if the process has ended, `PermissionDenied` without the right to ptrace(2) it,
    /// `InvalidInput` for a command with a root, mounts or a host name of its own, or an fd that is no pidfd.
    pub fn enter(&self, process: impl AsFd) -> Result<Spawned> {
        let mut command = self.clone();
        command.namespaces = Namespaces::of(process)?;
        command.spawn()
    }

    /// What the child is going to do, as a value that prints as text: for looking at, and for tests. Nothing is started.
    ///
    /// ```no_run
    /// use cofferdam_namespaces::{Command, RootFs};
    ///
    /// let command = Command::new("/bin/app").root(RootFs::directory("/srv/app"));
    /// println!("{}", command.program_of_start()?); // pivot_root(".", ".") and so on, a call a line
    /// # Ok::<(), cofferdam_namespaces::Error>(())
    /// ```
    ///
    /// Fds have the numbers they would have there.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn), but for what only a child would meet.
    pub fn program_of_start(&self) -> Result<Program> {
        self.validate()?;
        crate::spawn::program(self)
    }

    /// Whether it gets a user namespace of its own.
    pub(crate) fn owns_user_namespace(&self) -> bool {
        self.id_map.is_some() || self.namespaces.has(Namespace::User)
    }

    /// The ids of its user namespace. One that was asked for without them has the caller's.
    pub(crate) fn ids(&self) -> IdMap {
        self.id_map.clone().unwrap_or_else(IdMap::current_user)
    }

    /// Whether pid 1 of its pid namespace is a reaper.
    pub(crate) fn has_init(&self) -> bool {
        self.init || self.dies_with_caller
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
        if matches!(
            self.name().to_str(),
            Some("/proc/self/exe" | "/proc/thread-self/exe")
        ) {
            let reason =
                "would be the stub that starts it; std::env::current_exe() names the caller's";
            return Err(Error::invalid("program", &self.program, reason));
        }
        let env = self.env.iter().flat_map(|(name, value)| [name, value]);
        let root = self.root.iter().flat_map(RootFs::paths);
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
        self.seccomp.validate(self.capabilities)?;
        self.attributes.validate(self)?;
        self.validate_streams()?;
        sysctl::validate(self)?;
        mount::validate(self)
    }

    fn validate_ids(&self) -> Result<()> {
        self.user.as_ref().map_or(Ok(()), User::validate)?;
        self.id_map.as_ref().map_or(Ok(()), IdMap::validate)
    }

    fn validate_namespaces(&self) -> Result<()> {
        let owns = |namespace| self.namespaces.has(namespace);
        self.namespaces.validate()?;
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
        let refuse = |item, reason| Err(Error::invalid(item, &self.program, reason));
        if self.root.is_some() && !owns(Namespace::Mount) {
            return refuse("root", "needs a mount namespace of its own");
        }
        if self.root.is_some()
            && self.owns_user_namespace()
            && !self.namespaces.differs(Namespace::Pid)
        {
            return refuse("root", "needs a pid namespace beside the user namespace");
        }
        if self.owns_user_namespace() && self.namespaces.joins(Namespace::User) {
            return refuse("id map", "cannot be of a user namespace that is joined");
        }
        if owns(Namespace::Time) && self.namespaces.joins(Namespace::Mount) {
            return refuse("clock offset", "cannot go with a joined mount namespace");
        }
        let reason = "needs a pid namespace of its own";
        if self.init && !owns(Namespace::Pid) {
            return refuse("init", reason);
        }
        if self.dies_with_caller && !owns(Namespace::Pid) {
            return refuse("die with the caller", reason);
        }
        Ok(())
    }

    fn validate_streams(&self) -> Result<()> {
        if let Some((number, _)) = self.fds.iter().find(|(n, _)| !(3..1024).contains(n)) {
            return Err(Error::invalid("fd", number, "is not from 3 to 1023"));
        }
        if self.terminal.is_some() && self.session == Session::Inherit {
            let reason = "needs a session of its own";
            return Err(Error::invalid("terminal", &self.program, reason));
        }
        Ok(())
    }
}

/// Docker's.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

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
            refused(Command::new("a").user(User::id(0, u32::MAX))),
            "user \"0:4294967295\": is no id"
        );
        let map = crate::IdMap::range(u32::MAX - 1, 2);
        assert!(refused(Command::new("a").id_map(map)).starts_with("uid map \"0 4294967294 2\""));
        let mount = Mount::tmpfs("/tmp", 1);
        assert_eq!(
            refused(Command::new("a").mount(mount)),
            "mount \"/tmp\": needs a root to be mounted on"
        );
    }

    #[test]
    fn without_a_pid_namespace_nothing_dies_with_the_caller() {
        let command = Command::new("a").die_with_caller(true);
        assert_eq!(
            refused(command.namespaces(Namespaces::none())),
            "die with the caller \"a\": needs a pid namespace of its own"
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
