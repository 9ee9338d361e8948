//! Starts a [`Command`]: prepares what the child is to find, clones it, and waits for its execve(2).

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::command::Command;
use crate::compile::{Bind, Devices, Prepared, Target, Tree, compile};
use crate::error::{Error, Result};
use crate::fds::{FdTable, Lasts};
use crate::mount::{Access, Source, What};
use crate::namespace::Namespace;
use crate::program::{Failure, Program};
use crate::spawned::Spawned;
use crate::stage1::{self, Handoff};
use crate::stdio::Stdio;
use crate::stub;
use crate::sys::{self, FirstStage};

const MOUNT_ATTR_RDONLY: u64 = 1;

pub(crate) fn spawn(command: &Command) -> Result<Spawned> {
    let deadline = Instant::now() + command.deadline;
    let streams = Stdio::open(&command.streams)?;
    let held = Held::prepare(command)?;
    let handoff = Handoff::open(command)?;

    let mut fds = FdTable::default();
    for stream in &streams {
        fds.add(&stream.inside, Lasts::PastExec);
    }
    let stub_number = fds.reserve();
    let numbers = handoff.add_to(&mut fds);
    let prepared = held.add_to(command, &mut fds);
    let program = compile(command, &prepared);
    let error_fd = stage1::error_fd(fds.first_free());
    let stub = stub::memfd(&program.encode(stub::IMAGE_BASE, error_fd).bytes)?;
    fds.fill(stub_number, &stub);
    let first = stage1::compile(command, &fds, numbers, stub_number);

    let flags = u64::from(command.namespaces.clone_flags().unsigned_abs());
    let cgroup = command.cgroup.as_ref().map(|fd| fd.as_fd());
    let child = FirstStage::clone(&first, flags, cgroup)
        .map_err(|errno| Error::step(command.name(), "clone3", errno.raw_os_error()))?;
    let start = Start {
        command,
        program: &program,
        first: &first,
        deadline,
    };
    match start.finish(&child, handoff) {
        Ok(()) => {
            let streams = streams.map(|stream| stream.outside);
            Ok(Spawned::new(child.pid, child.pidfd, streams))
        }
        Err(error) => {
            start.abandon(child);
            Err(error)
        }
    }
}

/// What the parent opens for the child.
struct Held {
    root: Option<Tree<OwnedFd>>,
    binds: Vec<(Tree<OwnedFd>, Target)>,
}

impl Held {
    /// Opens every source once: what is missing is an error before anything is made.
    fn prepare(command: &Command) -> Result<Self> {
        let root = match &command.root {
            None => None,
            Some(root) => Some(match &root.source {
                Source::Path(path) => {
                    open_directory(path)?;
                    clone_tree(path, Access::ReadWrite)?
                }
                Source::Detached(fd) => {
                    Tree::Detached(fd.try_clone().map_err(Error::sys("duplicate the root"))?)
                }
            }),
        };
        let mut binds = Vec::new();
        for mount in &command.mounts {
            if let What::Bind { source, access } = &mount.what {
                let kind = target_kind(source)?;
                binds.push((clone_tree(source, *access)?, kind));
            }
        }
        Ok(Held { root, binds })
    }

    fn add_to(&self, command: &Command, fds: &mut FdTable) -> Prepared {
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
        let user = command.namespaces.has(Namespace::User);
        let initial = in_initial_user_namespace();
        let devices = if user || !initial {
            Devices::Bind
        } else {
            Devices::Mknod
        };
        let permitted = if user { u64::MAX } else { permitted() };
        let setgroups_denied =
            user && command.id_map.denies_setgroups() || !initial && setgroups_denied();
        Prepared {
            root,
            binds,
            procs,
            net,
            devices,
            permitted,
            ignored_signals: sys::ignored_signals(),
            setgroups_denied,
        }
    }
}

/// A clone of the tree of mounts at `path`, private. A caller without the right to make one leaves it to the child.
fn clone_tree(path: &Path, access: Access) -> Result<Tree<OwnedFd>> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = match open_tree(CWD, path, flags) {
        Err(Errno::PERM) => return Ok(Tree::Path(path.to_owned())),
        other => other.map_err(Error::path("open_tree", path))?,
    };
    let attributes = match access {
        Access::ReadWrite => 0,
        Access::ReadOnly => MOUNT_ATTR_RDONLY,
    };
    sys::set_mount_attributes(tree.as_fd(), attributes)
        .map_err(Error::path("mount_setattr", path))?;
    Ok(Tree::Detached(tree))
}

fn open_directory(path: &Path) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(Error::path("open the root", path))?;
    Ok(())
}

fn target_kind(source: &Path) -> Result<Target> {
    let metadata = fs::metadata(source).map_err(Error::path("open the mount source", source))?;
    Ok(if metadata.is_dir() {
        Target::Directory
    } else {
        Target::File
    })
}

/// The permitted capabilities of this thread; none where they cannot be read, and then none are used.
fn permitted() -> u64 {
    rustix::thread::capabilities(None).map_or(0, |sets| sets.permitted.bits())
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

impl Start<'_> {
    fn finish(&self, child: &FirstStage, handoff: Handoff) -> Result<()> {
        if self.command.namespaces.has(Namespace::User) {
            self.write_id_maps(child.pid)?;
            handoff.maps_written()?;
        }
        if !child.memory.left(self.deadline) {
            return Err(self.timed_out());
        }
        if let Some(failure) = child.memory.failure() {
            return Err(self.failed(self.first, failure));
        }
        match handoff.receive()? {
            Some(errors) => self.wait_for_exec(errors),
            // Killed by somebody else before it could do anything: its status tells.
            None => Ok(()),
        }
    }

    /// The pipe ends at execve(2), or at the child's death, which its status tells.
    fn wait_for_exec(&self, mut errors: File) -> Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).ok();
        let mut pollfd = [PollFd::new(&errors, PollFlags::IN)];
        match poll(&mut pollfd, timeout.as_ref()) {
            Ok(0) => return Err(self.timed_out()),
            Err(Errno::INTR) => return self.wait_for_exec(errors),
            Ok(_) | Err(_) => {}
        }
        let mut bytes = [0; 8];
        match errors
            .read(&mut bytes)
            .map_err(Error::sys("read from the child"))?
        {
            8 => Failure::decode(bytes)
                .map_or(Ok(()), |failure| Err(self.failed(self.program, failure))),
            _ => Ok(()),
        }
    }

    fn write_id_maps(&self, pid: u32) -> Result<()> {
        let map = &self.command.id_map;
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
        Error::timed_out(self.command.name(), self.command.deadline.as_secs())
    }

    /// Ends and reaps a child whose start failed.
    fn abandon(&self, child: FirstStage) {
        let FirstStage { memory, pid, pidfd } = child;
        let process = Spawned::new(pid, pidfd, [None, None, None]);
        // Its Drop kills and reaps.
        drop(process);
        drop(memory);
    }
}
