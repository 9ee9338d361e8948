//! The first stage: what the child does while it still shares the caller's memory, which is as little as possible.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags,
    SocketType,
};
use rustix::pipe::PipeFlags;

use crate::command::Command;
use crate::error::{Error, Result};
use crate::fds::{FdTable, Lasts};
use crate::program::{Arg, Program, Word, call};

/// What parent and child say to each other: a socket on which the child returns fds, first of all the one that its errors come
/// from, and with a user namespace a pipe that says the id maps are written.
///
/// The child makes the pipe for its errors itself, after it has closed all fds it does not need: no other child of the
/// caller, and no fork of it, can hold a copy of the writing end, so its end of file means execve(2) and nothing else.
#[derive(Debug)]
pub(crate) struct Handoff {
    ours: OwnedFd,
    theirs: Option<OwnedFd>,
    maps: Option<(OwnedFd, OwnedFd)>,
}

/// Where the child finds its ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers {
    pub(crate) socket: i32,
    /// Where the first stage waits for the id map.
    maps: Option<i32>,
    /// Where the stub does.
    pub(crate) maps_in_stub: Option<i32>,
}

/// What the child sent: mostly an fd, and a number that goes with it.
#[derive(Debug)]
pub(crate) struct Sent {
    /// Who sent it, as the caller's pid namespace counts.
    pub(crate) sender: Option<u32>,
    fd: Option<OwnedFd>,
    pub(crate) number: u64,
}

impl Handoff {
    pub(crate) fn open(command: &Command) -> Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .map_err(Error::sys("socketpair"))?;
        // Who has taken the socket from the child by ptrace(2) is told from it by the kernel.
        rustix::net::sockopt::set_socket_passcred(&ours, true)
            .map_err(Error::sys("setsockopt SO_PASSCRED"))?;
        let maps = if command.owns_user_namespace() {
            Some(rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(Error::sys("pipe2"))?)
        } else {
            None
        };
        let theirs = Some(theirs);
        Ok(Handoff { ours, theirs, maps })
    }

    /// The socket is there as long as the stub is, if that has something to send too.
    pub(crate) fn add_to(&self, fds: &mut FdTable, lasts: Lasts, late_maps: bool) -> Numbers {
        let socket = self.theirs.as_ref();
        let socket = socket.map_or(-1, |theirs| fds.add(theirs, lasts));
        let maps = self.maps.as_ref().map(|(read, _)| fds.add(read, lasts));
        Numbers {
            socket,
            maps: maps.filter(|_| !late_maps),
            maps_in_stub: maps.filter(|_| late_maps),
        }
    }

    /// Lets go of the child's end, once it has its own: then the end of all its processes is the end of what can be received.
    pub(crate) fn cloned(&mut self) {
        self.theirs = None;
    }

    /// Lets the child go on once its id maps are written.
    pub(crate) fn maps_written(&self) -> Result<()> {
        let Some((_, write)) = &self.maps else {
            return Ok(());
        };
        rustix::io::write(write, b"m").map_err(Error::sys("write to the child"))?;
        Ok(())
    }

    /// Lets a second process go on once it is known here.
    pub(crate) fn known(&self) -> Result<()> {
        rustix::net::send(&self.ours, b"k", SendFlags::NOSIGNAL)
            .map_err(Error::sys("write to the child"))?;
        Ok(())
    }

    /// What the child has sent so far, one at a time. `None`: nothing.
    pub(crate) fn receive(&self) -> Option<Sent> {
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1), ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut number = [0; 8];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let mut data = [IoSliceMut::new(&mut number)];
        let message = rustix::net::recvmsg(&self.ours, &mut data, &mut control, flags).ok()?;
        if message.bytes == 0 {
            return None;
        }
        let (mut fd, mut sender) = (None, None);
        for part in control.drain() {
            match part {
                RecvAncillaryMessage::ScmRights(mut fds) => fd = fds.next(),
                RecvAncillaryMessage::ScmCredentials(of) => {
                    sender = of.pid.as_raw_nonzero().get().try_into().ok();
                }
                _ => {}
            }
        }
        let number = u64::from_ne_bytes(number);
        Some(Sent { sender, fd, number })
    }
}

impl AsFd for Handoff {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ours.as_fd()
    }
}

impl Sent {
    /// The kernel passes no fd on to a process that can have no more of them, and delivers the message without it.
    pub(crate) fn into_fd(self) -> Result<OwnedFd> {
        let failed = Error::sys("receive a file descriptor of the child");
        self.fd.ok_or(Errno::MFILE).map_err(failed)
    }
}

/// The program of the first stage. The pipe for errors takes the two lowest numbers that `fds` leave free. `wake` is the address of
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
    let [reading, _] = fds.lowest_free();
    send_error_pipe(&mut program, at.socket, reading);
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

/// The number of the error pipe's writing end.
pub(crate) fn error_fd(fds: &FdTable) -> i32 {
    let [_, writing] = fds.lowest_free();
    writing
}

/// pipe2(2) puts both numbers into a message of SCM_RIGHTS, of which the first is sent.
fn send_error_pipe(program: &mut Program, socket: i32, reading: i32) {
    let step = "make the pipe for errors";
    let message = Message::new(program);
    program.op(call!(SYS_pipe2), [message.fd, Arg::Int(0)], step);
    message.send(program, socket, step);
    program.op(call!(SYS_close), [Arg::fd(reading)], step);
}

/// A message with one fd, to be filled in by the calls that come before it is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message {
    header: Arg,
    /// Where the fd goes, four bytes with another four free after them.
    pub(crate) fd: Arg,
    /// Where the number that goes with it goes, eight bytes.
    pub(crate) number: Arg,
}

impl Message {
    pub(crate) fn new(program: &mut Program) -> Self {
        let header = 16 + 4; // struct cmsghdr and one fd
        let kind = u64::from(libc::SOL_SOCKET.unsigned_abs());
        let kind = kind | u64::from(libc::SCM_RIGHTS.unsigned_abs()) << 32;
        let control = program.words(&[Word::Int(header), Word::Int(kind), Word::Int(0)]);
        let number = program.words(&[Word::Int(0)]);
        let data = program.words(&[Word::Ptr(number), Word::Int(8)]);
        let header = program.words(&[
            Word::Int(0),
            Word::Int(0),
            Word::Ptr(data),
            Word::Int(1),
            Word::Ptr(control),
            Word::Int(24),
            Word::Int(0),
        ]);
        Message {
            header,
            fd: control.offset(16),
            number,
        }
    }

    pub(crate) fn send(self, program: &mut Program, socket: i32, step: &'static str) {
        let flags = Arg::flags(libc::MSG_NOSIGNAL);
        let args = [Arg::fd(socket), self.header, flags];
        program.op(call!(SYS_sendmsg), args, step).at_least(8);
    }
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
