//! The blocking transport: many requests in one send, each acknowledged.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::NLM_F_DUMP_INTR;
use netlink_packet_route::link::LinkFlags;
use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_ROUTE;
use rustix::net::netdevice::index_to_name;

use crate::answer::{self, Ack, NLMSG_DONE, NLMSG_ERROR, malformed};
use crate::error::{Error, ErrorKind, Result};
use crate::ifname::IfName;
use crate::message::Request;
use crate::netns::run_in;
use crate::sys;

/// How often a dump that was interrupted by a change is done again.
pub(crate) const DUMP_ATTEMPTS: usize = 20;

/// The longest datagram taken. The kernel makes none of more than 32 KiB but for one object that is larger alone.
const LARGEST: usize = 1 << 20;

/// How many requests go into one send. The kernel queues all their answers before it returns: more might not fit.
const BATCH: usize = 64;

/// An rtnetlink socket. It stays in the network namespace of the thread that opened it.
pub(crate) struct Socket {
    socket: netlink_sys::Socket,
    /// Counts the requests, from 1.
    sequence: u32,
    buffer: Vec<u8>,
}

/// What came back for one request: the payload of its answer, empty where it only has an ack.
pub(crate) type Outcome = Result<Vec<u8>>;

impl Socket {
    pub(crate) fn open() -> Result<Self> {
        let socket = connect().map_err(|error| Error::sys("open an rtnetlink socket", error))?;
        Ok(Socket {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(64 << 10),
        })
    }

    /// In another network namespace, by a thread that is thrown away.
    pub(crate) fn open_in(netns: BorrowedFd<'_>) -> Result<Self> {
        run_in(netns, Socket::open)?
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn into_inner(self) -> netlink_sys::Socket {
        self.socket
    }

    /// Sends all `requests` at once (64 at a time) and returns what came of each. The kernel goes on after one it
    /// refused.
    pub(crate) fn ask_each(&mut self, requests: &[Request]) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::with_capacity(requests.len());
        for batch in requests.chunks(BATCH) {
            outcomes.append(&mut self.outcomes(batch)?);
        }
        Ok(outcomes)
    }

    /// Sends one request and returns its answer.
    pub(crate) fn ask_one(&mut self, request: Request) -> Result<Vec<u8>> {
        let outcome = self.outcomes(&[request])?.pop();
        outcome.ok_or_else(|| malformed("an answer is missing"))?
    }

    /// The name of the link at `index`, as by ioctl(2) `SIOCGIFNAME`.
    pub(crate) fn name_of(&self, index: u32) -> Result<IfName> {
        index_to_name(self, index)
            .map_err(|errno| Error::sys(format!("name of link {index}"), errno))?
            .parse()
    }

    /// The flags of the link of this name by ioctl(2) `SIOCGIFFLAGS`, which does not wait for rtnetlink, as reading the link
    /// does. A link that is not there has none.
    pub(crate) fn flags(&self, name: &IfName) -> LinkFlags {
        let flags = sys::flags(self.as_fd(), name.as_str()).unwrap_or(0);
        LinkFlags::from_bits_retain(flags.into())
    }

    /// The payloads of a dump, taken again where a change interrupted it.
    pub(crate) fn dump(&mut self, request: &Request) -> Result<Vec<Vec<u8>>> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(payloads) = self.dump_once(request)? {
                return Ok(payloads);
            }
        }
        Err(ever_changing(request))
    }

    /// One outcome for each request.
    fn outcomes(&mut self, requests: &[Request]) -> Result<Vec<Outcome>> {
        let first = self.send(requests)?;
        let mut answers = vec![Vec::new(); requests.len()];
        let mut outcomes: Vec<Option<Outcome>> = requests.iter().map(|_| None).collect();
        while outcomes.iter().any(Option::is_none) {
            self.receive()?;
            for message in answer::messages(&self.buffer)? {
                let at = message.sequence.wrapping_sub(first) as usize;
                let Some(request) = requests.get(at) else {
                    continue; // of a conversation that broke off
                };
                if message.kind != NLMSG_ERROR {
                    answers[at] = message.payload.to_vec();
                    continue;
                }
                let ack = Ack::of_error(&message)?;
                outcomes[at] = Some(match ack.errno {
                    0 => Ok(std::mem::take(&mut answers[at])),
                    errno => Err(Error::refused(request.what.clone(), errno, ack.text)),
                });
            }
        }
        Ok(outcomes.into_iter().flatten().collect())
    }

    /// `None` where a change interrupted it.
    fn dump_once(&mut self, request: &Request) -> Result<Option<Vec<Vec<u8>>>> {
        let mut dump = Dump::new(self.send(std::slice::from_ref(request))?);
        let ack = loop {
            match self.receive() {
                // Parts were lost. To its end all the same: the socket takes no other dump before.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    dump.interrupted = true;
                    continue;
                }
                received => received?,
            }
            if let Some(ack) = dump.take(&self.buffer)? {
                break ack;
            }
        };
        match ack.errno {
            0 => Ok(dump.complete()),
            errno => Err(Error::refused(request.what.clone(), errno, ack.text)),
        }
    }

    /// Sends and returns the sequence number of the first.
    fn send(&mut self, requests: &[Request]) -> Result<u32> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(1024);
        for request in requests {
            self.sequence = self.sequence.wrapping_add(1);
            bytes.extend(request.render(self.sequence));
        }
        uninterrupted(|| self.socket.send(&bytes, 0))
            .map_err(|error| Error::sys("send on an rtnetlink socket", error))?;
        Ok(first)
    }

    /// Receives one datagram, whatever its size. The kernel has queued the answer when send(2) returns, and the next part
    /// of a dump when recv(2) does: so this never waits.
    fn receive(&mut self) -> Result<()> {
        let refused = |error| Error::sys("receive on an rtnetlink socket", error);
        let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
        let peek = flags | libc::MSG_PEEK;
        let size = uninterrupted(|| self.socket.recv(&mut &mut [0; 16][..], peek));
        let size = size.map_err(refused)?;
        if size > LARGEST {
            return Err(malformed("a datagram is too long"));
        }
        self.buffer.clear();
        self.buffer.reserve(size);
        let length =
            uninterrupted(|| self.socket.recv(&mut self.buffer, flags)).map_err(refused)?;
        if length > self.buffer.len() {
            return Err(malformed("a datagram is longer than the buffer"));
        }
        Ok(())
    }
}

/// The error for a dump that was interrupted every time.
pub(crate) fn ever_changing(request: &Request) -> Error {
    let why = format!("changed {DUMP_ATTEMPTS} times while being read");
    Error::plain(ErrorKind::Busy, &request.what, why)
}

/// A dump as its datagrams come in.
#[derive(Debug)]
struct Dump {
    sequence: u32,
    payloads: Vec<Vec<u8>>,
    /// `NLM_F_DUMP_INTR` was seen: entries may be missing, or there twice.
    interrupted: bool,
}

impl Dump {
    fn new(sequence: u32) -> Self {
        Dump {
            sequence,
            payloads: Vec::new(),
            interrupted: false,
        }
    }

    /// Returns how the dump ended, when this datagram ends it.
    fn take(&mut self, datagram: &[u8]) -> Result<Option<Ack>> {
        for message in answer::messages(datagram)? {
            if message.sequence != self.sequence {
                continue; // of a conversation that broke off
            }
            self.interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
            match message.kind {
                NLMSG_ERROR => return Ack::of_error(&message).map(Some),
                NLMSG_DONE => return Ok(Some(Ack::of_done(&message))),
                _ => self.payloads.push(message.payload.to_vec()),
            }
        }
        Ok(None)
    }

    fn complete(self) -> Option<Vec<Vec<u8>>> {
        (!self.interrupted).then_some(self.payloads)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Socket").field(&self.socket).finish()
    }
}

fn connect() -> io::Result<netlink_sys::Socket> {
    let socket = netlink_sys::Socket::new(NETLINK_ROUTE)?;
    // Connected, it takes messages only from the kernel.
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_ext_ack(true)?;
    socket.set_cap_ack(true)?;
    socket.set_netlink_get_strict_chk(true)?;
    Ok(socket)
}

fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::NLM_F_MULTIPART;

    fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (16 + payload.len() as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | NLM_F_MULTIPART).to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_dump_is_what_its_messages_carry() {
        let mut dump = Dump::new(7);
        let first = [message(16, 0, 6, b"old"), message(16, 0, 7, b"one")].concat();
        assert_eq!(dump.take(&first).unwrap(), None);
        let last = [
            message(16, 0, 7, b"three"),
            message(NLMSG_DONE, 0, 7, &[0; 4]),
        ];
        assert_eq!(dump.take(&last.concat()).unwrap().unwrap().errno, 0);
        assert_eq!(
            dump.complete().unwrap(),
            [b"one".to_vec(), b"three".to_vec()]
        );
    }

    #[test]
    fn an_interrupted_dump_is_not_complete() {
        for (of_entry, of_done) in [(NLM_F_DUMP_INTR, 0), (0, NLM_F_DUMP_INTR)] {
            let mut dump = Dump::new(1);
            assert_eq!(dump.take(&message(16, of_entry, 1, b"one")).unwrap(), None);
            let done = message(NLMSG_DONE, of_done, 1, &[0; 4]);
            assert!(dump.take(&done).unwrap().is_some());
            assert_eq!(dump.complete(), None);
        }
    }

    #[test]
    fn a_dump_may_end_in_an_error() {
        let mut dump = Dump::new(1);
        let done = message(NLMSG_DONE, 0, 1, &(-libc::ENOENT).to_ne_bytes());
        assert_eq!(dump.take(&done).unwrap().unwrap().errno, libc::ENOENT);
    }
}
