//! Starts a [`Command`]: prepares what the child is to find, clones it, and waits for its execve(2).

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::thread::CapabilitySet;

use crate::command::Command;
use crate::compile::{Bind, Devices, Prepared, Target, Tree, compile};
use crate::error::{Error, Result};
use crate::fds::{FdTable, Lasts};
use crate::mount::{Access, Source, What};
use crate::program::{Failure, Program};
use crate::spawned::Spawned;
use crate::stage1::{self, Handoff};
use crate::stdio::Stdio;
use crate::stub;
use crate::sys::{self, Cells, FirstStage};

const MOUNT_ATTR_RDONLY: u64 = 1;

pub(crate) fn spawn(command: &Command) -> Result<Spawned> {
    let now = Instant::now();
    // A deadline beyond what the clock can say is a year away.
    let deadline = now
        .checked_add(command.deadline)
        .unwrap_or(now + Duration::from_secs(31_536_000));
    let streams = Stdio::open(&command.streams)?;
    let held = Held::prepare(command)?;
    let handoff = Handoff::open(command)?;

    let mut fds = FdTable::default();
    for stream in &streams {
        fds.add(&stream.inside, Lasts::PastExec);
    }
    let stub_number = fds.reserve();
    let numbers = handoff.add_to(&mut fds);
    let prepared = held.add_to(command, &mut fds)?;
    let program = compile(command, &prepared);
    let stub = stub::memfd(&program.encode(stub::IMAGE_BASE, prepared.error_fd).bytes)?;
    fds.fill(stub_number, &stub);

    let cells = Cells::new();
    let wake = command.cgroup.as_ref().map(|_| cells.started());
    let first = stage1::compile(command, &fds, numbers, stub_number, wake);
    let start = Start {
        command,
        program: &program,
        first: &first,
        deadline,
    };
    let child = start.clone(cells)?;
    match start.finish(&child, handoff) {
        Ok(()) => {
            let streams = streams.map(|stream| stream.outside);
            Ok(Spawned::new(child.pid, child.pidfd, streams))
        }
        Err(problem) => Err(start.abandon(child, problem)),
    }
}

/// What the parent opens for the child.
struct Held {
    root: Option<Tree<OwnedFd>>,
    binds: Vec<(Tree<OwnedFd>, Target)>,
}

impl Held {
    /// Opens every source: what is missing is an error before anything is made.
    fn prepare(command: &Command) -> Result<Self> {
        let root = match &command.root {
            None => None,
            Some(root) => Some(match &root.source {
                Source::Path(path) => clone_directory(path, root.access)?,
                Source::Detached(fd) => {
                    Tree::Detached(fd.try_clone().map_err(Error::sys("duplicate the root"))?)
                }
            }),
        };
        let mut binds = Vec::new();
        for mount in &command.mounts {
            if let What::Bind { source, access } = &mount.what {
                let tree = clone_tree("open the mount source", source, *access)?;
                let kind = kind_of(&tree).map_err(Error::path("open the mount source", source))?;
                binds.push((tree, kind));
            }
        }
        Ok(Held { root, binds })
    }

    fn add_to(&self, command: &Command, fds: &mut FdTable) -> Result<Prepared> {
        let mut number = |tree: &Tree<OwnedFd>| match tree {
            Tree::Detached(fd) => Tree::Detached(fds.add(fd, Lasts::PastExec)),
            Tree::Path(path) => Tree::Path(path.clone()),
        };
        let root = self.root.as_ref().map(&mut number);
        let binds = self.binds.iter().map(|(tree, kind)| Bind {
            tree: number(tree),
            kind: *kind,
        });
        let binds = binds.collect();
        let procs = command
            .procs
            .iter()
            .map(|fd| fds.add(fd, Lasts::PastExec))
            .collect();
        let net = command
            .namespaces
            .net()
            .map(|fd| fds.add(fd, Lasts::PastExec));
        let user = command.owns_user_namespace();
        let initial = in_initial_user_namespace();
        let denied = user && command.ids().denies_setgroups() || !initial && setgroups_denied();
        Ok(Prepared {
            root,
            binds,
            procs,
            net,
            error_fd: stage1::error_fd(fds.first_free()),
            devices: if user || !initial {
                Devices::Bind
            } else {
                Devices::Mknod
            },
            permitted: if user {
                u64::MAX
            } else {
                permitted(command.capabilities.bits())?
            },
            ignored_signals: sys::ignored_signals(),
            setgroups_denied: denied,
        })
    }
}

fn clone_directory(path: &Path, access: Access) -> Result<Tree<OwnedFd>> {
    let tree = clone_tree("open the root", path, access)?;
    match kind_of(&tree).map_err(Error::path("open the root", path))? {
        Target::Directory => Ok(tree),
        Target::File => Err(Error::path("open the root", path)(Errno::NOTDIR)),
    }
}

/// A clone of the tree of mounts at `path`, private. A caller without the right to make one leaves it to the child.
fn clone_tree(step: &'static str, path: &Path, access: Access) -> Result<Tree<OwnedFd>> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = match open_tree(CWD, path, flags) {
        Err(Errno::PERM) => return Ok(Tree::Path(path.to_owned())),
        other => other.map_err(Error::path(step, path))?,
    };
    let attributes = match access {
        Access::ReadWrite => 0,
        Access::ReadOnly => MOUNT_ATTR_RDONLY,
    };
    sys::set_mount_attributes(tree.as_fd(), attributes)
        .map_err(Error::path("mount_setattr", path))?;
    Ok(Tree::Detached(tree))
}

fn kind_of(tree: &Tree<OwnedFd>) -> rustix::io::Result<Target> {
    let stat = match tree {
        Tree::Detached(fd) => rustix::fs::fstat(fd)?,
        Tree::Path(path) => rustix::fs::stat(path)?,
    };
    let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    Ok(if directory {
        Target::Directory
    } else {
        Target::File
    })
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
fn in_initial_user_namespace() -> bool {
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
    deadline: Instant,
}

/// Why a start did not come to its end.
enum Problem {
    Error(Error),
    /// The child is gone, and nothing of it says why.
    Ended,
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Problem::Error(error)
    }
}

impl Start<'_> {
    fn clone(&self, cells: Box<Cells>) -> Result<FirstStage> {
        let mut flags = self.command.namespaces.clone_flags();
        if self.command.owns_user_namespace() {
            flags |= libc::CLONE_NEWUSER;
        }
        let flags = u64::from(flags.unsigned_abs());
        let child = match &self.command.cgroup {
            None => FirstStage::clone(cells, self.first, flags),
            Some(fd) => FirstStage::clone_into(cells, self.first, flags, fd.as_fd()),
        };
        child.map_err(|errno| Error::step(self.command.name(), "clone3", errno.raw_os_error()))
    }

    fn finish(&self, child: &FirstStage, handoff: Handoff) -> std::result::Result<(), Problem> {
        if self.command.owns_user_namespace() {
            self.write_id_maps(child.pid)?;
            handoff.maps_written()?;
        }
        if !child.memory.left(self.deadline) {
            return Err(self.timed_out().into());
        }
        if let Some(failure) = child.memory.failure() {
            return Err(self.failed(self.first, failure).into());
        }
        let mut errors = handoff.receive()?.ok_or(Problem::Ended)?;
        // First comes a failure, or the word that all is set up; then a failure of execve(2), or the end of the pipe, which
        // is that of execve(2) or of a program that ran.
        let set_up = self.read(&mut errors)?.ok_or(Problem::Ended)?;
        let failure = match Failure::decode(set_up) {
            None => self.read(&mut errors)?.and_then(Failure::decode),
            failure => failure,
        };
        match failure {
            None => Ok(()),
            Some(failure) => Err(self.failed(self.program, failure).into()),
        }
    }

    /// Eight bytes, or the end of the pipe.
    fn read(&self, errors: &mut File) -> Result<Option<[u8; 8]>> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).ok();
            match poll(&mut [PollFd::new(errors, PollFlags::IN)], timeout.as_ref()) {
                Ok(0) => return Err(self.timed_out()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::sys("poll")(errno)),
                Ok(_) => break,
            }
        }
        let mut bytes = [0; 8];
        let read = errors
            .read(&mut bytes)
            .map_err(Error::sys("read from the child"))?;
        Ok((read == bytes.len()).then_some(bytes))
    }

    fn write_id_maps(&self, pid: u32) -> Result<()> {
        let map = self.command.ids();
        let write = |file: &str, content: &str| {
            let path = format!("/proc/{pid}/{file}");
            fs::write(&path, content).map_err(|error| {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                let step = format!("write {:?} to the child's {file}", content.trim_end());
                Error::step(self.command.name(), &step, errno)
            })
        };
        if map.denies_setgroups() {
            write("setgroups", "deny")?;
        }
        write("uid_map", &map.uid_map())?;
        write("gid_map", &map.gid_map())
    }

    fn failed(&self, program: &Program, failure: Failure) -> Error {
        Error::step(self.command.name(), program.step(failure.op), failure.errno)
    }

    fn timed_out(&self) -> Error {
        Error::timed_out(self.command.name(), self.command.deadline)
    }

    /// Ends and reaps a child whose start failed.
    fn abandon(&self, child: FirstStage, problem: Problem) -> Error {
        let FirstStage { memory, pid, pidfd } = child;
        let process = Spawned::new(pid, pidfd, [None, None, None]);
        let error = match problem {
            Problem::Error(error) => error,
            Problem::Ended => {
                let status = process.wait_timeout(Duration::from_secs(1));
                Error::ended(self.command.name(), status.unwrap_or_default())
            }
        };
        // Its Drop kills and reaps; then nobody runs on the memory any more.
        drop(process);
        drop(memory);
        error
    }
}
