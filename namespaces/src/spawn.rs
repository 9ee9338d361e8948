//! Starts a [`Command`]: prepares what the child is to find, clones it, and waits for its execve(2).

#[cfg(test)]
mod faults;

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, setpgid};
use rustix::thread::CapabilitySet;

use crate::applied::{Applied, CgroupEntry, CloneCall, MountOrigin};
use crate::attributes;
use crate::command::{Command, Session};
use crate::compile::{Join, Prepared, compile};
use crate::error::{Error, Result};
use crate::fds::{FdTable, Lasts};
use crate::idmap;
use crate::lifeline::Lifeline;
use crate::minimal;
use crate::namespace::{Joined, Namespace, Namespaces};
use crate::plan::Plan;
use crate::program::{Failure, Program};
use crate::sources::{Devices, Held};
use crate::spawned::Spawned;
use crate::stage1::{self, Handoff, Numbers, Sent};
use crate::stdio::{Stdio, Stream};
use crate::stub;
use crate::sys::{self, Cells, FirstStage};
use crate::sysctl;
use crate::terminal::{Pair, Terminal};
use crate::user;

/// Called with the pid of a process that waits in its new namespaces.
type Prepare<'p> = &'p mut dyn FnMut(u32) -> std::io::Result<()>;

pub(crate) fn spawn(command: &Command, prepare: Prepare<'_>) -> Result<Spawned> {
    let now = Instant::now();
    // A deadline beyond what the clock can say is a year away.
    let deadline = now
        .checked_add(command.deadline)
        .unwrap_or(now + Duration::from_secs(31_536_000));
    let mut ways = Ways::default();
    loop {
        match start(command, deadline, ways, prepare) {
            Err(Refused::Clone3) if ways.clone == CloneCall::Clone3 => {
                ways.clone = CloneCall::Clone;
            }
            Err(Refused::Memfd(_)) if ways.memfd => ways.memfd = false,
            Err(Refused::Clone3) => {
                return Err(Error::step(command.name(), "clone", libc::ENOSYS));
            }
            Err(Refused::Memfd(error) | Refused::Other(error)) => return Err(error),
            Ok(spawned) => return Ok(spawned),
        }
    }
}

/// What the child would run, and nothing is started.
pub(crate) fn program(command: &Command) -> Result<Program> {
    let held = open_sources(command)?;
    let attributes = attributes::Held::prepare(&command.attributes)?;
    let streams = Stdio::open(&command.streams)?;
    let mut parts = Parts::new(command, &streams, Ways::default())?;
    let handoff = Handoff::open(command)?;
    let (prepared, _) = parts.prepare(command, &held, &attributes, &handoff)?;
    Ok(compile(command, &prepared))
}

/// Which ways to try: those a kernel or a sandbox refuses have others that take their place.
#[derive(Clone, Copy, Debug)]
struct Ways {
    clone: CloneCall,
    memfd: bool,
}

impl Default for Ways {
    fn default() -> Self {
        let clone = CloneCall::Clone3;
        Ways { clone, memfd: true }
    }
}

/// Why nothing was started.
enum Refused {
    /// There is no clone3(2).
    Clone3,
    /// The stub's memfd was not executed.
    Memfd(Error),
    /// Nothing else to try.
    Other(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Refused::Other(error)
    }
}

fn start(
    command: &Command,
    deadline: Instant,
    ways: Ways,
    prepare: Prepare<'_>,
) -> std::result::Result<Spawned, Refused> {
    let streams = Stdio::open(&command.streams)?;
    let held = open_sources(command)?;
    let attributes = attributes::Held::prepare(&command.attributes)?;
    let mut handoff = Handoff::open(command)?;
    let mut parts = Parts::new(command, &streams, ways)?;
    let (prepared, numbers) = parts.prepare(command, &held, &attributes, &handoff)?;
    #[allow(unused_mut, reason = "tests break it")]
    let mut program = compile(command, &prepared);
    #[cfg(test)]
    faults::inject(faults::Stage::Stub, &mut program);
    let encoded = program.encode(stub::IMAGE_BASE, prepared.error_fd);
    let (stub, stub_file) = stub::file(&encoded.bytes, ways.memfd)?;
    parts.fds.fill(parts.stub, &stub);
    parts.applied.stub = stub_file;

    let cells = Cells::new();
    let born = parts.applied.cgroup == CgroupEntry::Born;
    let wake = born.then(|| cells.started());
    #[allow(unused_mut, reason = "tests break it")]
    let mut first = stage1::compile(command, &parts.fds, numbers, parts.stub, wake);
    #[cfg(test)]
    faults::inject(faults::Stage::First, &mut first);
    let start = Start {
        command,
        program: &program,
        first: &first,
        plan: &prepared.plan,
        deadline,
    };
    let child = start.clone(ways.clone, cells, born)?;
    handoff.cloned();
    let mut second = None;
    match start.finish(&child, &handoff, &mut second, prepare) {
        Ok(()) => {
            let streams = streams.map(|stream| stream.outside);
            let (pid, pidfd) = start.of_two(child, second)?;
            let mut spawned = Spawned::new(pid, pidfd, streams, parts.applied);
            spawned.has_init = command.has_init();
            spawned.lifeline = parts.lifeline.map(Lifeline::into_held);
            if command.namespaces.joins(Namespace::Pid) {
                spawned.is_in_another();
            }
            spawned.terminal = match parts.terminal {
                Some(pair) => Some(Terminal::new(pair.master)),
                // Without it the program is killed, as it is dropped.
                None if command.terminal.is_some() => {
                    let sent = handoff.receive().map(Sent::into_fd);
                    let lost = Error::sys("receive the terminal")(Errno::IO);
                    Some(Terminal::new(sent.ok_or(lost)??))
                }
                None => None,
            };
            Ok(spawned)
        }
        Err(problem) => {
            let refused = problem.is_refused_stub(&first) && ways.memfd;
            let error = start.abandon(child, handoff, second, problem);
            Err(if refused {
                Refused::Memfd(error)
            } else {
                Refused::Other(error)
            })
        }
    }
}

/// What a start is put together from, beside what [`Held`] has opened.
struct Parts {
    fds: FdTable,
    stub: i32,
    /// The terminal of a program without a root of its own.
    terminal: Option<Pair>,
    slave: Option<i32>,
    /// `cgroup.procs`, where the child has to write itself there.
    procs: Option<OwnedFd>,
    lifeline: Option<Lifeline>,
    applied: Applied,
}

impl Parts {
    fn new(command: &Command, streams: &[Stream; 3], ways: Ways) -> Result<Self> {
        let numbered = streams.iter().map(|stream| &stream.inside).zip(0..);
        let own = command.fds.iter().map(|(number, fd)| (fd, *number));
        let mut fds = FdTable::new(numbered.chain(own));
        let stub = fds.reserve();
        let mut applied = Applied {
            clone: ways.clone,
            ..Applied::default()
        };
        let procs = match (&command.cgroup, ways.clone) {
            (None, _) => None,
            (Some(_), CloneCall::Clone3) => {
                applied.cgroup = CgroupEntry::Born;
                None
            }
            (Some(fd), CloneCall::Clone) => {
                applied.cgroup = CgroupEntry::Written;
                let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                let procs = rustix::fs::openat(fd, "cgroup.procs", flags, Mode::empty());
                Some(procs.map_err(Error::sys("open cgroup.procs of the cgroup"))?)
            }
        };
        let (terminal, slave) = (None, None);
        Ok(Parts {
            fds,
            stub,
            terminal,
            slave,
            procs,
            lifeline: Lifeline::of(command)?,
            applied,
        })
    }

    /// All that the program finds ready, numbered.
    fn prepare(
        &mut self,
        command: &Command,
        held: &Held,
        attributes: &attributes::Held,
        handoff: &Handoff,
    ) -> Result<(Prepared, Numbers)> {
        let mut plan = Plan::new(command);
        let own_terminal = command.terminal.is_some() && command.root.is_some();
        let lasts = if plan.talks() || own_terminal {
            Lasts::PastExec
        } else {
            Lasts::UntilExec
        };
        let numbers = handoff.add_to(&mut self.fds, lasts, plan.late_user);
        self.open_terminal(command)?;
        let minimal = held.is_detached()
            && plan.at_clone & (libc::CLONE_NEWNS | libc::CLONE_NEWUSER) == libc::CLONE_NEWNS
            && in_initial_user_namespace();
        if let Some(fd) = minimal.then(minimal::mount_namespace).flatten() {
            plan.copy_minimal(self.fds.add(fd, Lasts::PastExec));
        }
        self.applied.mounts = match plan.minimal_mounts {
            Some(_) => MountOrigin::Minimal,
            None if command.namespaces.has(Namespace::Mount) => MountOrigin::Caller,
            None => MountOrigin::Shared,
        };
        let mut prepared = prepare(command, held, &mut self.fds)?;
        if let Some(procs) = &self.procs {
            let number = self.fds.add(procs, Lasts::PastExec);
            prepared.procs.insert(0, number);
        }
        prepared.plan = plan;
        prepared.attributes = attributes.add_to(&mut self.fds);
        #[cfg(feature = "landlock")]
        {
            let landlock = prepared.attributes.landlock.as_ref();
            self.applied.landlock = landlock.map(|(_, enforced)| *enforced);
        }
        prepared.socket = numbers.socket;
        prepared.maps = numbers.maps_in_stub;
        prepared.slave = self.slave;
        prepared.fds = command.fds.iter().map(|(number, _)| *number).collect();
        let lifeline = self.lifeline.as_ref();
        prepared.lifeline = lifeline.map(|lifeline| lifeline.add_to(&mut self.fds));
        prepared.error_fd = stage1::error_fd(&self.fds);
        Ok((prepared, numbers))
    }

    /// With a root the child opens one of its own; else it is the caller's, or that of who is joined.
    fn open_terminal(&mut self, command: &Command) -> Result<()> {
        let Some(size) = command.terminal.filter(|_| command.root.is_none()) else {
            return Ok(());
        };
        let mounts = libc::CLONE_NEWNS;
        let joined = command.namespaces.joined().iter();
        let pair = match joined.clone().find(|joined| joined.flags & mounts != 0) {
            None => Pair::open(size)?,
            Some(joined) => {
                let pid = sys::pid_of(joined.fd.as_fd())?;
                let pair = Pair::open_in(pid, size)?;
                // Still there: the number has meant it all the time.
                sys::pid_of(joined.fd.as_fd())?;
                pair
            }
        };
        self.slave = Some(self.fds.add(&pair.slave, Lasts::PastExec));
        self.terminal = Some(pair);
        Ok(())
    }
}

/// Opens what is mounted, once it is known that nothing of the caller's own would be changed.
fn open_sources(command: &Command) -> Result<Held> {
    sysctl::check_joined(command)?;
    Held::open(command, devices(command))
}

/// Puts what is held into the table of fds, and finds out what the caller is.
fn prepare(command: &Command, held: &Held, fds: &mut FdTable) -> Result<Prepared> {
    let sources = held.add_to(fds);
    let procs = command
        .procs
        .iter()
        .map(|fd| fds.add(fd, Lasts::PastExec))
        .collect();
    let joins = join_order(&command.namespaces)?
        .into_iter()
        .map(|joined| Join {
            fd: fds.add(&joined.fd, Lasts::PastExec),
            flags: joined.flags,
        })
        .collect();
    let owns = command.owns_user_namespace();
    let initial = in_initial_user_namespace();
    let denied = owns && command.ids().denies_setgroups() || !initial && setgroups_denied();
    let permitted = if owns || command.namespaces.joins(Namespace::User) {
        u64::MAX
    } else {
        permitted(command.capabilities.bits())?
    };
    Ok(Prepared {
        sources,
        procs,
        joins,
        devices: devices(command),
        permitted,
        ignored_signals: sys::ignored_signals(),
        setgroups_denied: denied,
        ids: user::resolve(command, held.root.as_ref())?,
        ..Prepared::default()
    })
}

/// How its devices come to be.
fn devices(command: &Command) -> Devices {
    let user = command.owns_user_namespace() || command.namespaces.joins(Namespace::User);
    if user || !in_initial_user_namespace() {
        Devices::Bind
    } else {
        Devices::Mknod
    }
}

/// The user namespace that what is joined belongs to.
fn owner(joined: &Joined) -> rustix::io::Result<OwnedFd> {
    let Ok(pid) = sys::pid_of(joined.fd.as_fd()) else {
        return sys::owner_of_namespace(joined.fd.as_fd());
    };
    let mut kinds = Namespace::ALL.into_iter();
    let kind = kinds.find(|kind| joined.flags & kind.clone_flag() != 0);
    let file = kind.map_or("user", Namespace::file);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let path = format!("/proc/{pid}/ns/{file}");
    let namespace = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    sys::owner_of_namespace(namespace.as_fd())
}

/// Who joins a user namespace has then only rights over what belongs to it: what is the caller's is joined before.
fn join_order(namespaces: &Namespaces) -> Result<Vec<&Joined>> {
    let mut joined: Vec<_> = namespaces.joined().iter().collect();
    if !namespaces.joins(Namespace::User) || joined.len() < 2 {
        return Ok(joined);
    }
    let own = fs::metadata("/proc/thread-self/ns/user");
    let own = own.map_err(Error::path("stat", "/proc/thread-self/ns/user".as_ref()))?;
    joined.sort_by_cached_key(|joined| {
        if joined.flags & libc::CLONE_NEWUSER != 0 {
            return 1;
        }
        let foreign = owner(joined)
            .and_then(rustix::fs::fstat)
            .is_ok_and(|owner| owner.st_ino != std::os::unix::fs::MetadataExt::ino(&own));
        if foreign { 2 } else { 0 }
    });
    Ok(joined)
}

/// The capabilities that the stub will have: this thread's permitted ones. To root execve(2) gives the bounding set too, which
/// matters only where those do not include all that are `wanted`.
fn permitted(wanted: u64) -> Result<u64> {
    let sets = rustix::thread::capabilities(None).map_err(Error::sys("capget"))?;
    let permitted = sets.permitted.bits();
    let root = rustix::process::geteuid().is_root();
    if !root || permitted != 0 && wanted & !permitted == 0 {
        return Ok(permitted);
    }
    let bound = CapabilitySet::all()
        .iter()
        .filter(|&one| rustix::thread::capability_is_in_bounding_set(one).unwrap_or(false));
    Ok(bound.fold(permitted, |all, one| all | one.bits()))
}

/// The initial user namespace has a fixed inode number, `PROC_USER_INIT_INO`.
pub(crate) fn in_initial_user_namespace() -> bool {
    use std::os::unix::fs::MetadataExt;
    const INITIAL: u64 = 0xefff_fffd;
    fs::metadata("/proc/thread-self/ns/user").is_ok_and(|namespace| namespace.ino() == INITIAL)
}

fn setgroups_denied() -> bool {
    fs::read_to_string("/proc/thread-self/setgroups").is_ok_and(|text| text.trim_end() == "deny")
}

/// A start under way.
struct Start<'s> {
    command: &'s Command,
    program: &'s Program,
    first: &'s Program,
    plan: &'s Plan,
    deadline: Instant,
}

/// Why a start did not come to its end.
enum Problem {
    Error(Error),
    /// An op of the first stage failed, with this errno.
    First(Failure),
    /// The child is gone, and nothing of it says why.
    Ended,
}

impl Problem {
    /// Whether it was the execution of the stub that failed, in a way that another kind of file may not.
    fn is_refused_stub(&self, first: &Program) -> bool {
        let Problem::First(failure) = self else {
            return false;
        };
        first.len() == failure.op as usize + 1
            && matches!(failure.errno, libc::EACCES | libc::EPERM)
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Problem::Error(error)
    }
}

impl Start<'_> {
    fn clone(
        &self,
        call: CloneCall,
        cells: Box<Cells>,
        born: bool,
    ) -> std::result::Result<FirstStage, Refused> {
        let flags = u64::from(self.plan.at_clone.unsigned_abs());
        let child = match self.command.cgroup.as_ref().filter(|_| born) {
            None => FirstStage::clone(call, cells, self.first, flags),
            Some(fd) => FirstStage::clone_into(cells, self.first, flags, fd.as_fd()),
        };
        let step = match call {
            CloneCall::Clone3 => "clone3",
            CloneCall::Clone => "clone",
        };
        child.map_err(|errno| match errno {
            Errno::NOSYS => Refused::Clone3,
            errno => Error::step(self.command.name(), step, errno.raw_os_error()).into(),
        })
    }

    /// A second process is left in `second` as soon as there is one.
    fn finish(
        &self,
        child: &FirstStage,
        handoff: &Handoff,
        second: &mut Option<(u32, OwnedFd)>,
        prepare: Prepare<'_>,
    ) -> std::result::Result<(), Problem> {
        if self.plan.at_clone & libc::CLONE_NEWUSER != 0 {
            let pid = self.write_id_maps(child)?;
            prepare(pid).map_err(|error| match error.raw_os_error() {
                Some(_) => Error::sys("prepare the start")(error),
                None => Error::helper(self.command.name(), "its preparation", error.to_string()),
            })?;
            handoff.maps_written()?;
        }
        if !child.memory.left(self.deadline) {
            return Err(self.timed_out().into());
        }
        if let Some(failure) = child.memory.failure() {
            return Err(Problem::First(failure));
        }
        let errors = handoff.receive().ok_or(Problem::Ended)?.into_fd()?;
        let mut errors = File::from(errors);
        if self.plan.late_user && self.says(handoff, &errors)?.is_some() {
            self.write_id_maps(child)?;
            handoff.maps_written()?;
        }
        let mut all_said = true;
        if self.plan.second.is_some() {
            // Without it, a process that waits to be known holds the pipe open.
            all_said = false;
            if let Some(sent) = self.says(handoff, &errors)? {
                all_said = true;
                if sent.sender != Some(child.pid) {
                    return Err(Problem::Ended);
                }
                let pid = u32::try_from(sent.number).unwrap_or_default();
                *second = Some((pid, sent.into_fd()?));
                self.take_into_group(pid)?;
                // Should it have died meanwhile, it says why.
                let _known = handoff.known().is_ok();
            }
        }
        // Asleep until the pipe of errors ends, by execve(2) or by the end of the child: to be woken for what comes before would cost the
        // child time.
        let until = if all_said {
            PollFlags::empty()
        } else {
            PollFlags::IN
        };
        self.poll(&mut [PollFd::new(&errors, until)])?;
        // First comes a failure, or the word that all is set up; then a failure of execve(2), or nothing.
        let set_up = read(&mut errors)?.ok_or(Problem::Ended)?;
        let failure = match Failure::decode(set_up) {
            None => read(&mut errors)?.and_then(Failure::decode),
            failure => failure,
        };
        match failure {
            None => Ok(()),
            Some(failure) => Err(self.failed(self.program, failure).into()),
        }
    }

    /// Gives the second process, which is in a group of the first's, the caller's, if it is to have that and it has a number here.
    fn take_into_group(&self, pid: u32) -> Result<()> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let group = sys::process_group();
        if self.command.session != Session::Inherit || pid.is_none() || group.is_none() {
            return Ok(());
        }
        match setpgid(pid, group) {
            // It has ended, and will have said why.
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(Error::sys("setpgid of the program")(errno)),
        }
    }

    /// What the child sends next. `None`: it sends nothing any more, but may have written why.
    fn says(&self, handoff: &Handoff, errors: &File) -> Result<Option<Sent>> {
        loop {
            let mut fds = [
                PollFd::new(handoff, PollFlags::IN),
                PollFd::new(errors, PollFlags::IN),
            ];
            self.poll(&mut fds)?;
            let [socket, errors] = fds.map(|fd| !fd.revents().is_empty());
            match handoff.receive() {
                Some(sent) => return Ok(Some(sent)),
                None if socket || errors => return Ok(None),
                None => {}
            }
        }
    }

    fn poll(&self, fds: &mut [PollFd<'_>]) -> Result<()> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).ok();
            match poll(fds, timeout.as_ref()) {
                Ok(0) => return Err(self.timed_out()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::sys("poll")(errno)),
                Ok(_) => return Ok(()),
            }
        }
    }

    /// By the number that /proc knows it by, which may count another pid namespace's.
    fn write_id_maps(&self, child: &FirstStage) -> Result<u32> {
        let pid = sys::pid_of(child.pidfd.as_fd())?;
        idmap::write(self.command, pid, self.deadline)?;
        Ok(pid)
    }

    fn failed(&self, program: &Program, failure: Failure) -> Error {
        Error::step(self.command.name(), program.step(failure.op), failure.errno)
    }

    fn timed_out(&self) -> Error {
        Error::timed_out(self.command.name(), self.command.deadline)
    }

    /// The process that runs the program; where that is the second, the first is about to end.
    fn of_two(&self, child: FirstStage, second: Option<(u32, OwnedFd)>) -> Result<(u32, OwnedFd)> {
        let Some(second) = second else {
            return Ok((child.pid, child.pidfd));
        };
        let FirstStage { pid, pidfd, .. } = child;
        let first = Spawned::new(pid, pidfd, [None, None, None], Applied::default());
        let left = self.deadline.saturating_duration_since(Instant::now());
        let _ended = first.wait_timeout(left).is_ok();
        Ok(second)
    }

    /// Ends and reaps what a failed start has made.
    fn abandon(
        &self,
        child: FirstStage,
        handoff: Handoff,
        second: Option<(u32, OwnedFd)>,
        problem: Problem,
    ) -> Error {
        let handle = |pid, pidfd| Spawned::new(pid, pidfd, [None, None, None], Applied::default());
        let FirstStage { memory, pid, pidfd } = child;
        let process = handle(pid, pidfd);
        let second = second.map(|(pid, pidfd)| handle(pid, pidfd));
        let error = match problem {
            Problem::Error(error) => error,
            Problem::First(failure) => self.failed(self.first, failure),
            Problem::Ended => {
                let ended = second.as_ref().unwrap_or(&process);
                let status = ended.wait_timeout(Duration::from_secs(1));
                Error::ended(self.command.name(), status.unwrap_or_default())
            }
        };
        // One that nobody has told of waits for the caller, and ends now.
        drop(handoff);
        if self.plan.second.is_some() && second.is_none() {
            let _killed = process.kill().is_ok();
            let _reaped = process.wait_timeout(Duration::from_secs(1)).is_ok();
            sys::reap_group(pid, Instant::now() + Duration::from_secs(1));
        }
        // Their Drop kills and reaps; then nobody runs on the memory any more.
        drop(second);
        drop(process);
        drop(memory);
        error
    }
}

/// Eight bytes, or the end of a pipe that nobody writes to any more.
fn read(errors: &mut File) -> Result<Option<[u8; 8]>> {
    let mut bytes = [0; 8];
    let read = errors
        .read(&mut bytes)
        .map_err(Error::sys("read from the child"))?;
    Ok((read == bytes.len()).then_some(bytes))
}
