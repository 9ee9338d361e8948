//! A TCP connection from a container: frames in, frames out, never waiting.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::time::Instant;

use crate::poll::Interest;
use crate::slab::Key;
use crate::wire::{HEADER, QUERY_MAX};

/// Queries of one connection that may wait for an upstream at once.
const PENDING_MAX: usize = 16;
/// Bytes of replies that may wait for the client to read them before one more reply.
const OUTBOX_MAX: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) endpoint: Key,
    pub(crate) tcp: TcpStream,
    pub(crate) peer: Option<SocketAddr>,
    /// Queries at an upstream.
    pub(crate) pending: usize,
    /// Its place in the order of all connections: several may have come in the same instant.
    pub(crate) number: u64,
    /// When the last whole query came: half ones keep no connection open.
    pub(crate) last_query: Instant,
    pub(crate) interest: Interest,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    sent: usize,
    /// The client sends no more, but may still read.
    ended: bool,
}

/// What the start of a byte stream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Not there yet.
    Partial,
    /// A message at this range.
    Whole(Range<usize>),
    /// No DNS query has such a length.
    Bad,
}

pub(crate) fn frame(bytes: &[u8]) -> Frame {
    let Some((prefix, rest)) = bytes.split_first_chunk::<2>() else {
        return Frame::Partial;
    };
    let length = usize::from(u16::from_be_bytes(*prefix));
    if !(HEADER..=QUERY_MAX).contains(&length) {
        return Frame::Bad;
    }
    if rest.len() < length {
        return Frame::Partial;
    }
    Frame::Whole(2..2 + length)
}

impl Stream {
    pub(crate) fn new(endpoint: Key, tcp: TcpStream, number: u64, now: Instant) -> Self {
        Stream {
            endpoint,
            peer: tcp.peer_addr().ok(),
            tcp,
            pending: 0,
            number,
            last_query: now,
            interest: Interest::Read,
            inbox: Vec::new(),
            outbox: Vec::new(),
            sent: 0,
            ended: false,
        }
    }

    /// Reads once, at most what the inbox has room for.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let room = (QUERY_MAX + 2).saturating_sub(self.inbox.len());
        if room == 0 || self.ended {
            return Ok(());
        }
        let length = room.min(buffer.len());
        match self.tcp.read(&mut buffer[..length]) {
            Ok(0) => self.ended = true,
            Ok(count) => self.inbox.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Moves the next whole query into `query`, unless enough are under way. Returns whether there was one.
    pub(crate) fn next_query(&mut self, query: &mut Vec<u8>, now: Instant) -> io::Result<bool> {
        if !self.has_room() {
            return Ok(false);
        }
        match frame(&self.inbox) {
            Frame::Partial => Ok(false),
            Frame::Bad => Err(io::ErrorKind::InvalidData.into()),
            Frame::Whole(range) => {
                query.clear();
                query.extend_from_slice(&self.inbox[range.clone()]);
                self.inbox.drain(..range.end);
                self.last_query = now;
                Ok(true)
            }
        }
    }

    /// Queues a reply, unless the client leaves too many unread.
    pub(crate) fn push(&mut self, reply: &[u8]) -> io::Result<()> {
        if self.outbox.len() >= OUTBOX_MAX {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // A reply has at most 65535 bytes, its limit over TCP.
        let length = reply.len() as u16;
        self.outbox.extend_from_slice(&length.to_be_bytes());
        self.outbox.extend_from_slice(reply);
        Ok(())
    }

    /// Sends what the kernel takes.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while self.sent < self.outbox.len() {
            match self.tcp.write(&self.outbox[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.outbox.drain(..self.sent);
        self.sent = 0;
        Ok(())
    }

    /// What to wait for now.
    pub(crate) fn wanted(&self) -> Interest {
        let read = !self.ended && self.has_room() && self.inbox.len() < QUERY_MAX + 2;
        Interest::of(read, !self.outbox.is_empty())
    }

    /// Whether nothing more will come or go.
    pub(crate) fn is_done(&self) -> bool {
        self.ended && self.pending == 0 && self.outbox.is_empty()
    }

    fn has_room(&self) -> bool {
        self.pending < PENDING_MAX && self.outbox.len() < OUTBOX_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_cut_where_their_length_says() {
        let message = [&[0, 12][..], &[7; 12], &[0]].concat();
        for cut in 0..14 {
            assert_eq!(frame(&message[..cut]), Frame::Partial, "{cut}");
        }
        assert_eq!(frame(&message), Frame::Whole(2..14));
        assert_eq!(frame(&[0, 11]), Frame::Bad);
        assert_eq!(frame(&[0xff, 0xff]), Frame::Bad);
    }
}
