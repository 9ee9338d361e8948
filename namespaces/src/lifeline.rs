//! What a program holds on to that is to die with its caller.

use std::os::fd::OwnedFd;

use rustix::pipe::PipeFlags;

use crate::command::Command;
use crate::error::{Error, Result};
use crate::fds::{FdTable, Lasts};

/// A pipe that nobody writes to. Its end of file is the end of the caller's process, in whatever way that ended.
///
/// Not a pidfd of the caller: who could take that from the init, with `CAP_SYS_PTRACE`, would hold a way to the caller's fds
/// and namespaces. This leads nowhere. And one for each program: who could open it for writing would save itself, and no other.
#[derive(Debug)]
pub(crate) struct Lifeline {
    watched: OwnedFd,
    held: OwnedFd,
}

impl Lifeline {
    /// If `command` asks for one.
    pub(crate) fn of(command: &Command) -> Result<Option<Self>> {
        if !command.dies_with_caller {
            return Ok(None);
        }
        let pipe = rustix::pipe::pipe_with(PipeFlags::CLOEXEC);
        let (watched, held) = pipe.map_err(Error::sys("pipe2"))?;
        Ok(Some(Lifeline { watched, held }))
    }

    /// The number of the end that the init watches.
    pub(crate) fn add_to(&self, fds: &mut FdTable) -> i32 {
        fds.add(&self.watched, Lasts::PastExec)
    }

    /// The end that the caller holds.
    pub(crate) fn into_held(self) -> OwnedFd {
        self.held
    }
}
