//! The blocking transport: many requests in one send, each acknowledged.

use std::io;

use netlink_packet_core::NLM_F_DUMP_INTR;
use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::answer::{self, Ack, NLMSG_DONE, NLMSG_ERROR, malformed};
use crate::error::{Error, ErrorKind, Result};
use crate::message::Request;

/// How often a dump that was interrupted by a change is done again.
const DUMP_ATTEMPTS: usize = 20;

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

    /// How many messages were sent.
    pub(crate) fn sent(&self) -> u32 {
        self.sequence
    }

    /// Sends all `requests` at once and returns what came of each. The kernel goes on after one it refused.
    pub(crate) fn ask<const N: usize>(&mut self, requests: [Request; N]) -> Result<[Outcome; N]> {
        let outcomes = self.outcomes(&requests)?;
        outcomes
            .try_into()
            .map_err(|_outcomes| malformed("an answer is missing"))
    }

    /// Sends all `requests` at once; the first that was refused is the error.
    pub(crate) fn ask_all(&mut self, requests: &[Request]) -> Result<()> {
        self.outcomes(requests)?
            .into_iter()
            .try_for_each(|outcome| outcome.map(drop))
    }

    /// Sends one request and returns its answer.
    pub(crate) fn ask_one(&mut self, request: Request) -> Result<Vec<u8>> {
        let [outcome] = self.ask([request])?;
        outcome
    }

    /// The payloads of a dump, taken again where a change interrupted it.
    pub(crate) fn dump(&mut self, request: &Request) -> Result<Vec<Vec<u8>>> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(payloads) = self.dump_once(request)? {
                return Ok(payloads);
            }
        }
        let why = format!("changed {DUMP_ATTEMPTS} times while being read");
        Err(Error::plain(ErrorKind::Busy, &request.what, why))
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

    /// `None` where the dump was interrupted (`NLM_F_DUMP_INTR`) and may lack entries or have some twice.
    fn dump_once(&mut self, request: &Request) -> Result<Option<Vec<Vec<u8>>>> {
        let sequence = self.send(std::slice::from_ref(request))?;
        let mut payloads = Vec::new();
        let mut interrupted = false;
        loop {
            self.receive()?;
            for message in answer::messages(&self.buffer)? {
                if message.sequence != sequence {
                    continue;
                }
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                let ack = match message.kind {
                    NLMSG_ERROR => Ack::of_error(&message)?,
                    NLMSG_DONE => Ack::of_done(&message),
                    _ => {
                        payloads.push(message.payload.to_vec());
                        continue;
                    }
                };
                return match ack.errno {
                    0 => Ok((!interrupted).then_some(payloads)),
                    errno => Err(Error::refused(request.what.clone(), errno, ack.text)),
                };
            }
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

    /// Receives one datagram. The kernel has queued the answer when send(2) returns, and the next part of a dump when
    /// recv(2) does: so this never waits.
    fn receive(&mut self) -> Result<()> {
        self.buffer.clear();
        let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
        let length = uninterrupted(|| self.socket.recv(&mut self.buffer, flags))
            .map_err(|error| Error::sys("receive on an rtnetlink socket", error))?;
        if length > self.buffer.len() {
            return Err(malformed("a datagram is longer than the buffer"));
        }
        Ok(())
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
