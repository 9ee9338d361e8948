//! One TCP connection from a client and one to the target, and what is on its way between them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{Shutdown, shutdown, sockopt};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// What a pipe is to hold. With what it holds by itself, 64 KiB, a stream takes three times as long; more than this is slower again.
const CHUNK: usize = 256 << 10;

/// Both ends of a pipe that never leaves the kernel.
#[derive(Debug)]
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

/// Pipes without anything in them, to be used again.
#[derive(Debug, Default)]
pub(super) struct Pipes(Vec<Pipe>);

impl Pipes {
    const MOST: usize = 64;

    fn take(&mut self) -> io::Result<Pipe> {
        if let Some(pipe) = self.0.pop() {
            return Ok(pipe);
        }
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A user may have so many pages in pipes only (fs.pipe-user-pages-soft): then it stays as it is.
        let _larger = fcntl_setpipe_size(&write, CHUNK).is_ok();
        Ok(Pipe { read, write })
    }

    fn give_back(&mut self, pipe: Option<Pipe>) {
        if self.0.len() < Self::MOST {
            self.0.extend(pipe);
        }
    }
}

/// What one side says to the other.
#[derive(Debug, Default)]
struct Direction {
    /// Only while something is in it, so that a silent connection takes two descriptors.
    pipe: Option<Pipe>,
    held: usize,
    /// The side has ended its stream.
    ended: bool,
    /// The other side has been told.
    done: bool,
}

/// The two connections. Number 0 is the client's, 1 the target's.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) ends: [OwnedFd; 2],
    directions: [Direction; 2],
    /// Until when the target has to answer, as long as it has not.
    pub(super) connecting_until: Option<Instant>,
}

/// How far a relay got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Until an end can be read or written again.
    Waiting,
    /// It is the turn of others; there is more.
    More,
    /// It needs a pipe, and there is none to be had.
    NoPipe,
    /// Both streams have ended.
    Ended,
    /// An end was reset, or could not be reached.
    Broken,
}

/// What was moved, by direction.
pub(super) type Moved = [u64; 2];

impl Relay {
    pub(super) fn new(client: OwnedFd, target: OwnedFd, timeout: Duration) -> Self {
        Relay {
            ends: [client, target],
            directions: Default::default(),
            connecting_until: Some(Instant::now() + timeout),
        }
    }

    /// Moves what can be moved without waiting.
    pub(super) fn advance(&mut self, pipes: &mut Pipes, moved: &mut Moved) -> Progress {
        if self.connecting_until.is_some() {
            return Progress::Waiting;
        }
        let mut all = Progress::Ended;
        for (at, count) in moved.iter_mut().enumerate() {
            match self.advance_one(at, pipes, count) {
                Ok(Progress::Ended) => {}
                Ok(progress) if all == Progress::Ended || progress != Progress::Waiting => {
                    all = progress;
                }
                Ok(_) => {}
                Err(_reset) => return Progress::Broken,
            }
        }
        all
    }

    fn advance_one(
        &mut self,
        at: usize,
        pipes: &mut Pipes,
        moved: &mut u64,
    ) -> Result<Progress, Errno> {
        /// Bytes before it is the turn of others.
        const TURN: u64 = 1 << 20;
        let [from, to] = [&self.ends[at], &self.ends[1 - at]];
        let direction = &mut self.directions[at];
        let end_of_turn = *moved + TURN;
        loop {
            if direction.held > 0 {
                let Some(pipe) = &direction.pipe else {
                    return Ok(Progress::Waiting);
                };
                match moving(|| splice(&pipe.read, None, to, None, direction.held, FLAGS))? {
                    None => return Ok(Progress::Waiting),
                    Some(written) => direction.held -= written,
                }
                continue;
            }
            if direction.ended {
                if !direction.done {
                    direction.done = true;
                    pipes.give_back(direction.pipe.take());
                    // Fails only if that end is gone, and then its own stream ends too.
                    let _unused = shutdown(to, Shutdown::Write).is_ok();
                }
                return Ok(Progress::Ended);
            }
            if *moved >= end_of_turn {
                return Ok(Progress::More);
            }
            let pipe = match &direction.pipe {
                Some(pipe) => pipe,
                None => match pipes.take() {
                    Ok(pipe) => direction.pipe.insert(pipe),
                    Err(_none) => return Ok(Progress::NoPipe),
                },
            };
            match moving(|| splice(from, None, &pipe.write, None, CHUNK, FLAGS))? {
                None => {
                    pipes.give_back(direction.pipe.take());
                    return Ok(Progress::Waiting);
                }
                Some(0) => direction.ended = true,
                Some(read) => {
                    direction.held = read;
                    *moved += read as u64;
                }
            }
        }
    }

    /// Whether the target has answered, by what it has answered.
    pub(super) fn connected(&mut self) -> io::Result<()> {
        sockopt::socket_error(&self.ends[1])??;
        self.connecting_until = None;
        Ok(())
    }

    /// Whether an end was reset.
    pub(super) fn is_reset(&self) -> bool {
        let failed = |end| !matches!(sockopt::socket_error(end), Ok(Ok(())));
        self.ends.iter().any(failed)
    }

    /// Ends both connections with a RST: neither side may take what it has for the whole.
    pub(super) fn reset(self) {
        for end in &self.ends {
            reset(end);
        }
    }
}

/// Has closing this socket send a RST.
pub(super) fn reset(socket: impl AsFd) {
    let _unused = sockopt::set_socket_linger(socket, Some(Duration::ZERO)).is_ok();
}

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

/// None where it would have to wait.
fn moving(splice: impl FnMut() -> rustix::io::Result<usize>) -> Result<Option<usize>, Errno> {
    match retry_on_intr(splice) {
        Ok(count) => Ok(Some(count)),
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error),
    }
}
