//! The first stage: what the child does while it still shares the caller's memory, which is as little as possible.

use std::fs::File;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
};
use rustix::pipe::PipeFlags;

use crate::command::Command;
use crate::error::{Error, Result};
use crate::fds::{FdTable, Lasts};
use crate::program::{Arg, Program, Word, call};

/// What parent and child say to each other: a socket on which the child returns the fd that its errors come
/// from, and with a user namespace a pipe that says the id maps are written.
///
/// The child makes the pipe for its errors itself, after it has closed all fds it does not need: no other child of the
/// caller, and no fork of it, can hold a copy of the writing end, so its end of file means execve(2) and nothing else.
#[derive(Debug)]
pub(crate) struct Handoff {
    ours: OwnedFd,
    theirs: OwnedFd,
    maps: Option<(OwnedFd, OwnedFd)>,
}

/// Where the child finds its ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers {
    socket: i32,
    maps: Option<i32>,
}

impl Handoff {
    pub(crate) fn open(command: &Command) -> Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .map_err(Error::sys("socketpair"))?;
        let maps = if command.owns_user_namespace() {
            Some(rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(Error::sys("pipe2"))?)
        } else {
            None
        };
        Ok(Handoff { ours, theirs, maps })
    }

    pub(crate) fn add_to(&self, fds: &mut FdTable) -> Numbers {
        Numbers {
            socket: fds.add(&self.theirs, Lasts::UntilExec),
            maps: self
                .maps
                .as_ref()
                .map(|(read, _)| fds.add(read, Lasts::UntilExec)),
        }
    }

    /// Lets the child go on once its id maps are written.
    pub(crate) fn maps_written(&self) -> Result<()> {
        let Some((_, write)) = &self.maps else {
            return Ok(());
        };
        rustix::io::write(write, b"m").map_err(Error::sys("write to the child"))?;
        Ok(())
    }

    /// The fd that the child's second stage reports on. `None`: the child died before it sent one.
    pub(crate) fn receive(self) -> Result<Option<File>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let mut data = [IoSliceMut::new(&mut byte)];
        if rustix::net::recvmsg(&self.ours, &mut data, &mut control, flags).is_err() {
            return Ok(None);
        }
        let mut fds = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        Ok(fds.next().and_then(|mut fds| fds.next()).map(File::from))
    }
}

/// The program of the first stage. The pipe for errors takes the two numbers after the last of `fds`. `wake` is the address of
/// the word that the caller waits on, if it does not make the child itself.
pub(crate) fn compile(
    command: &Command,
    fds: &FdTable,
    at: Numbers,
    stub: i32,
    wake: Option<u64>,
) -> Program {
    let mut program = Program::default();
    if let Some(word) = wake {
        let args = [Arg::Int(word), Arg::flags(libc::FUTEX_WAKE), Arg::Int(1)];
        program.op(call!(SYS_futex), args, "wake the caller");
    }
    fds.compile(&mut program);
    send_error_pipe(&mut program, at.socket, fds.first_free());
    if let Some(fd) = at.maps {
        let byte = program.words(&[Word::Int(0)]);
        let step = if command.ids().denies_setgroups() {
            "wait for the id map"
        } else {
            "wait for the id ranges"
        };
        program
            .op(call!(SYS_read), [Arg::fd(fd), byte, Arg::Int(1)], step)
            .at_least(1);
        keep_capabilities(&mut program);
    }
    let empty = program.string("");
    let argv = program.string_array([b"cofferdam-init".as_slice()]);
    let envp = argv.offset(8);
    let flags = Arg::flags(libc::AT_EMPTY_PATH);
    let args = [Arg::fd(stub), empty, argv, envp, flags];
    program.op(
        call!(SYS_execveat),
        args,
        "execute the stub (a sealed memfd)",
    );
    program
}

/// The number of the error pipe's writing end, given the first free one.
pub(crate) fn error_fd(first_free: i32) -> i32 {
    first_free + 1
}

/// pipe2(2) puts both numbers into a message of SCM_RIGHTS, of which the first is sent.
fn send_error_pipe(program: &mut Program, socket: i32, first_free: i32) {
    let header = 16 + 4; // struct cmsghdr and one fd
    let kind = u64::from(libc::SOL_SOCKET.unsigned_abs());
    let kind = kind | u64::from(libc::SCM_RIGHTS.unsigned_abs()) << 32;
    let control = program.words(&[Word::Int(header), Word::Int(kind), Word::Int(0)]);
    let byte = program.words(&[Word::Int(0)]);
    let data = program.words(&[Word::Ptr(byte), Word::Int(1)]);
    let message = program.words(&[
        Word::Int(0),
        Word::Int(0),
        Word::Ptr(data),
        Word::Int(1),
        Word::Ptr(control),
        Word::Int(24),
        Word::Int(0),
    ]);
    let step = "make the pipe for errors";
    program.op(call!(SYS_pipe2), [control.offset(16), Arg::Int(0)], step);
    let flags = Arg::flags(libc::MSG_NOSIGNAL);
    program
        .op(call!(SYS_sendmsg), [Arg::fd(socket), message, flags], step)
        .at_least(1);
    program.op(call!(SYS_close), [Arg::fd(first_free)], step);
}

/// A new user namespace gives all capabilities, but execveat(2) by a user that is not its root would take them: ambient
/// ones stay. Becoming root here instead would change the caller's dumpable flag.
fn keep_capabilities(program: &mut Program) {
    let header = program.words(&[Word::Int(0x2008_0522)]);
    let all = Word::Int(u64::MAX);
    // Two __user_cap_data_struct of effective, permitted and inheritable: the low 32 capabilities, then the high ones.
    let mixed = Word::Int(0xffff_ffff | HIGH << 32);
    let sets = program.words(&[all, mixed, Word::Int(HIGH | HIGH << 32)]);
    program.op(call!(SYS_capset), [header, sets], "keep capabilities");
    for capability in 0..=LAST_CAPABILITY {
        let option = Arg::flags(libc::PR_CAP_AMBIENT);
        let args = [
            option,
            Arg::Int(2),
            Arg::Int(capability),
            Arg::Int(0),
            Arg::Int(0),
        ];
        program.op(call!(SYS_prctl), args, "keep capabilities");
    }
}

/// `CAP_CHECKPOINT_RESTORE`, of Linux 5.9.
const LAST_CAPABILITY: u64 = 40;
/// Bits of the capabilities from 32 on.
const HIGH: u64 = (1 << (LAST_CAPABILITY + 1 - 32)) - 1;
