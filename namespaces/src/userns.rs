//! User namespaces that nobody runs in, for idmapped mounts.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::applied::{Applied, CloneCall};
use crate::error::{Error, Result};
use crate::fds::gaps;
use crate::idmap::IdMap;
use crate::program::{Arg, Program, Word, call};
use crate::spawned::Spawned;
use crate::sys::{self, Cells, FirstStage};

/// A user namespace with the ids of `map`. It is born with a process that does nothing and is killed at once: the fd
/// keeps it.
pub(crate) fn of(map: &IdMap) -> Result<OwnedFd> {
    // Whose other end nobody else has for long: it ends with the caller too, should that be killed meanwhile.
    let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC).map_err(Error::sys("pipe2"))?;
    let mut program = Program::default();
    let own = theirs.as_raw_fd();
    for (first, last) in gaps(0, [own]) {
        let range = [Arg::Int(first.into()), Arg::Int(last.into()), Arg::Int(0)];
        program.op(call!(SYS_close_range), range, "close the caller's fds");
    }
    let byte = program.words(&[Word::Int(0)]);
    let args = [Arg::fd(own), byte, Arg::Int(1)];
    program.op(call!(SYS_read), args, "wait to be killed");
    let flags = u64::from(libc::CLONE_NEWUSER.unsigned_abs());
    let clone = |call| FirstStage::clone(call, Cells::new(), &program, flags);
    let child = match clone(CloneCall::Clone3) {
        Err(Errno::NOSYS) => clone(CloneCall::Clone),
        other => other,
    };
    let FirstStage { memory, pid, pidfd } = child.map_err(Error::sys("clone a user namespace"))?;
    let process = Spawned::new(pid, pidfd, [None, None, None], Applied::default());
    // By the number that /proc knows it by, which may count another pid namespace's.
    let namespace = sys::pid_of(process.as_fd())
        .and_then(|pid| write_maps(pid, map).map(|()| pid))
        .and_then(open);
    drop(ours);
    // Its Drop kills and reaps; then nobody runs on the memory any more.
    drop(process);
    drop(memory);
    namespace
}

fn write_maps(pid: u32, map: &IdMap) -> Result<()> {
    let write = |file: &str, content: &str| {
        fs::write(format!("/proc/{pid}/{file}"), content)
            .map_err(Error::sys("write the ids of an idmapped mount"))
    };
    if map.denies_setgroups() {
        write("setgroups", "deny")?;
    }
    write("uid_map", &map.uid_map())?;
    write("gid_map", &map.gid_map())
}

fn open(pid: u32) -> Result<OwnedFd> {
    File::open(format!("/proc/{pid}/ns/user"))
        .map(OwnedFd::from)
        .map_err(Error::sys("open a user namespace"))
}
