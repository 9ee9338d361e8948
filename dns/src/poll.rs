//! epoll(7), with keys of slabs as its data.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

use crate::slab::Key;

/// Events taken at once.
const BATCH: usize = 64;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// A command came.
    Wake,
    /// A container's UDP socket.
    Udp(Key),
    /// A container's TCP listener.
    Listener(Key),
    /// A TCP connection from a container.
    Stream(Key),
    /// A UDP socket to an upstream.
    Socket(Key),
    /// A TCP connection to an upstream.
    Link(Key),
}

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    None,
    Read,
    Write,
    Both,
}

/// What is so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    pub(crate) token: Token,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// Reset, or shut both ways: reported whatever one waits for.
    pub(crate) broken: bool,
}

/// Room for a batch of events.
pub(crate) struct Events(Vec<Event>);

#[derive(Debug)]
pub(crate) struct Poll {
    fd: OwnedFd,
}

impl Poll {
    pub(crate) fn new() -> rustix::io::Result<Self> {
        Ok(Poll {
            fd: epoll::create(CreateFlags::CLOEXEC)?,
        })
    }

    pub(crate) fn add(
        &self,
        source: impl AsFd,
        token: Token,
        interest: Interest,
    ) -> rustix::io::Result<()> {
        epoll::add(&self.fd, source, token.data(), interest.flags())
    }

    pub(crate) fn modify(
        &self,
        source: impl AsFd,
        token: Token,
        interest: Interest,
    ) -> rustix::io::Result<()> {
        epoll::modify(&self.fd, source, token.data(), interest.flags())
    }

    /// Forgets a source that is about to close: a duplicate of it elsewhere would keep it here.
    pub(crate) fn delete(&self, source: impl AsFd) {
        let _gone_already = epoll::delete(&self.fd, source).is_err();
    }

    /// Waits for events, which take the place of those before. A signal ends the wait early.
    pub(crate) fn wait(
        &self,
        timeout: Option<Duration>,
        events: &mut Events,
    ) -> rustix::io::Result<()> {
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs() as _,
            tv_nsec: timeout.subsec_nanos().into(),
        });
        events.0.clear();
        match epoll::wait(&self.fd, spare_capacity(&mut events.0), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

impl Events {
    pub(crate) fn new() -> Self {
        Events(Vec::with_capacity(BATCH))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Ready> + '_ {
        self.0.iter().filter_map(Ready::of)
    }
}

impl Interest {
    pub(crate) fn of(read: bool, write: bool) -> Self {
        match (read, write) {
            (false, false) => Interest::None,
            (true, false) => Interest::Read,
            (false, true) => Interest::Write,
            (true, true) => Interest::Both,
        }
    }

    fn flags(self) -> EventFlags {
        match self {
            Interest::None => EventFlags::empty(),
            Interest::Read => EventFlags::IN,
            Interest::Write => EventFlags::OUT,
            Interest::Both => EventFlags::IN | EventFlags::OUT,
        }
    }
}

impl Ready {
    fn of(event: &Event) -> Option<Self> {
        // The struct is packed: its fields are read by value.
        let (data, flags) = (event.data, event.flags);
        Some(Ready {
            token: Token::of(data)?,
            readable: flags.contains(EventFlags::IN),
            writable: flags.contains(EventFlags::OUT),
            broken: flags.intersects(EventFlags::ERR | EventFlags::HUP),
        })
    }
}

impl Token {
    fn data(self) -> EventData {
        let none = Key {
            index: 0,
            generation: 0,
        };
        let (kind, key) = match self {
            Token::Wake => (0, none),
            Token::Udp(key) => (1, key),
            Token::Listener(key) => (2, key),
            Token::Stream(key) => (3, key),
            Token::Socket(key) => (4, key),
            Token::Link(key) => (5, key),
        };
        EventData::new_u64(kind << 56 | u64::from(key.generation) << 32 | u64::from(key.index))
    }

    fn of(data: EventData) -> Option<Self> {
        let data = data.u64();
        let key = Key {
            index: data as u32,
            generation: (data >> 32) as u32 & 0x00ff_ffff,
        };
        Some(match data >> 56 {
            0 => Token::Wake,
            1 => Token::Udp(key),
            2 => Token::Listener(key),
            3 => Token::Stream(key),
            4 => Token::Socket(key),
            5 => Token::Link(key),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_kernel() {
        let key = Key {
            index: u32::MAX,
            generation: 0x00ff_ffff,
        };
        for token in [
            Token::Wake,
            Token::Udp(key),
            Token::Listener(key),
            Token::Stream(key),
            Token::Socket(key),
            Token::Link(key),
        ] {
            assert_eq!(Token::of(token.data()), Some(token));
        }
    }
}
