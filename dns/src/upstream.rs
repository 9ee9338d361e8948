//! One upstream: where it is, whether it answered lately, and the sockets to it.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, ipproto, socket_with};

use crate::poll::Interest;
use crate::slab::Key;
use crate::upstreams::Upstreams;

/// Between two tries of an upstream that is down: at first, and at most.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_LAST: Duration = Duration::from_secs(30);
/// Bytes of queries that may wait for an upstream to read them. Those of clients that have left are among them.
const OUTBOX_MAX: usize = 64 * 1024;
/// Sockets opened in another namespace within a span: enough for 300,000 queries a second.
const OPENS_MAX: u32 = 32;
const OPENS_SPAN: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    /// Whose it is, and so from where it is asked.
    source: Upstreams,
    pub(crate) health: Health,
    /// The sockets that new queries may use.
    pub(crate) sockets: Vec<Key>,
    opens: Opens,
}

impl Upstream {
    pub(crate) fn new(address: SocketAddr, source: Upstreams) -> Self {
        Upstream {
            address,
            source,
            health: Health::new(),
            sockets: Vec::new(),
            opens: Opens::default(),
        }
    }

    /// Whether one more socket may be opened now. In another namespace each takes a thread, so there a container whose
    /// upstream cannot be reached, and that asks all the same, would keep the one that serves all busy.
    pub(crate) fn may_open(&mut self, now: Instant) -> bool {
        self.source.netns().is_none() || self.opens.take(now)
    }

    /// Opens a socket in the namespace it is asked from.
    fn open<T: Send>(&self, open: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        match self.source.netns() {
            Some(netns) => crate::server::run_in(netns, open)?,
            None => open(),
        }
    }
}

/// How many sockets were opened lately.
#[derive(Debug, Default)]
struct Opens {
    since: Option<Instant>,
    count: u32,
}

impl Opens {
    fn take(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now - since >= OPENS_SPAN) {
            *self = Opens {
                since: Some(now),
                count: 0,
            };
        }
        self.count += 1;
        self.count <= OPENS_MAX
    }
}

/// Whether an upstream answered lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Health {
    down: Option<Down>,
    last_reply: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Down {
    probe_at: Instant,
    pause: Duration,
}

impl Health {
    pub(crate) fn new() -> Self {
        Health {
            down: None,
            last_reply: None,
        }
    }

    pub(crate) fn is_down(&self) -> bool {
        self.down.is_some()
    }

    pub(crate) fn replied(&mut self, now: Instant) {
        self.down = None;
        self.last_reply = Some(now);
    }

    /// No reply to a query sent at `sent`. One slow name says nothing about a server that answered others since.
    pub(crate) fn silent(&mut self, sent: Instant, now: Instant) {
        if self.last_reply.is_none_or(|reply| reply < sent) {
            self.failed(now);
        }
    }

    pub(crate) fn failed(&mut self, now: Instant) {
        // The next query is the first probe: a single lost packet costs no more than that.
        self.down.get_or_insert(Down {
            probe_at: now,
            pause: PAUSE_FIRST,
        });
    }

    /// Whether to see now if it is back. A yes puts the next one off, further each time.
    pub(crate) fn take_probe(&mut self, now: Instant) -> bool {
        let Some(down) = &mut self.down else {
            return false;
        };
        if now < down.probe_at {
            return false;
        }
        down.probe_at = now + down.pause;
        down.pause = (down.pause * 2).min(PAUSE_LAST);
        true
    }
}

/// A UDP socket connected to an upstream from a port the kernel picked at random. Several queries share it.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) upstream: Key,
    pub(crate) udp: UdpSocket,
    pub(crate) local: SocketAddr,
    /// Queries without a reply: their random ids and flights.
    pub(crate) ids: HashMap<u16, Key>,
    pub(crate) sent: u32,
    pub(crate) opened: Instant,
    /// Takes no more queries and closes after the last reply.
    pub(crate) retiring: bool,
}

impl Socket {
    pub(crate) fn open(upstream: Key, to: &Upstream, now: Instant) -> io::Result<Self> {
        let address = to.address;
        let any: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let udp = to.open(|| UdpSocket::bind(any))?;
        udp.set_nonblocking(true)?;
        udp.connect(address)?;
        Ok(Socket {
            upstream,
            local: udp.local_addr()?,
            udp,
            ids: HashMap::new(),
            sent: 0,
            opened: now,
            retiring: false,
        })
    }

    /// Sends a query. What the kernel cannot take now counts as lost on the way.
    pub(crate) fn send(&mut self, query: &[u8]) -> io::Result<()> {
        self.sent += 1;
        for _ in 0..2 {
            match self.udp.send(query) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // This may be about an earlier query; telling it has cleared it.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::ConnectionRefused.into())
    }
}

/// A TCP connection to an upstream. Several queries share it, as RFC 7766 asks of a client.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) upstream: Key,
    pub(crate) tcp: TcpStream,
    pub(crate) local: Option<SocketAddr>,
    /// Queries without a reply: their random ids and flights.
    pub(crate) ids: HashMap<u16, Key>,
    pub(crate) last_used: Instant,
    /// Since when a query waits and no reply comes.
    pub(crate) silent_since: Option<Instant>,
    /// Whether a reply ever came: if so, its end says nothing against the upstream.
    pub(crate) proven: bool,
    pub(crate) interest: Interest,
    outbox: Vec<u8>,
    sent: usize,
    inbox: Vec<u8>,
}

impl Link {
    /// Starts to connect; queries go out when that is done.
    pub(crate) fn open(upstream: Key, to: &Upstream, now: Instant) -> io::Result<Self> {
        let address = to.address;
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let open = || {
            Ok(socket_with(
                family,
                SocketType::STREAM,
                flags,
                Some(ipproto::TCP),
            )?)
        };
        let fd = to.open(open)?;
        match connect(&fd, &address) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(errno) => return Err(errno.into()),
        }
        let tcp = TcpStream::from(fd);
        Ok(Link {
            upstream,
            local: tcp.local_addr().ok(),
            tcp,
            ids: HashMap::new(),
            last_used: now,
            silent_since: None,
            proven: false,
            interest: Interest::Write,
            outbox: Vec::new(),
            sent: 0,
            inbox: Vec::new(),
        })
    }

    /// Whether a query of `length` bytes still fits.
    pub(crate) fn has_room(&self, length: usize) -> bool {
        self.outbox.len() + 2 + length <= OUTBOX_MAX
    }

    /// Queues a query, for which there has to be room.
    pub(crate) fn push(&mut self, query: &[u8], now: Instant) {
        self.last_used = now;
        self.silent_since.get_or_insert(now);
        // A query has at most 65535 bytes: it came in a datagram or a frame.
        let length = query.len() as u16;
        self.outbox.extend_from_slice(&length.to_be_bytes());
        self.outbox.extend_from_slice(query);
    }

    /// Sends what the kernel takes. That the connection has ended is told when it is read, after its last replies.
    pub(crate) fn flush(&mut self) {
        while self.sent < self.outbox.len() {
            match self.tcp.write(&self.outbox[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(_) => break,
            }
        }
        self.outbox.drain(..self.sent);
        self.sent = 0;
    }

    /// Reads once. The end of the stream is an error: who waits for a reply gets none.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        match self.tcp.read(buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.inbox.extend_from_slice(&buffer[..count]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Moves the next whole reply into `reply`. Returns whether there was one.
    pub(crate) fn next_reply(&mut self, reply: &mut Vec<u8>) -> bool {
        let Some((prefix, rest)) = self.inbox.split_first_chunk::<2>() else {
            return false;
        };
        let length = usize::from(u16::from_be_bytes(*prefix));
        let Some(message) = rest.get(..length) else {
            return false;
        };
        reply.clear();
        reply.extend_from_slice(message);
        self.inbox.drain(..2 + length);
        true
    }

    /// A reply came: if any queries are left, they wait from now on.
    pub(crate) fn replied(&mut self, now: Instant) {
        let waits = !(self.ids.is_empty() && self.outbox.is_empty());
        self.silent_since = waits.then_some(now);
        self.last_used = now;
    }

    /// What to wait for now.
    pub(crate) fn wanted(&self) -> Interest {
        Interest::of(true, !self.outbox.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_silence_is_remembered_until_a_reply() {
        let start = Instant::now();
        let mut health = Health::new();
        assert!(!health.is_down() && !health.take_probe(start));
        health.silent(start, start);
        assert!(health.is_down());
        health.replied(start);
        assert!(!health.is_down());
    }

    #[test]
    fn a_reply_to_another_query_excuses_silence() {
        let start = Instant::now();
        let mut health = Health::new();
        health.replied(start + Duration::from_millis(5));
        health.silent(start, start + Duration::from_millis(800));
        assert!(!health.is_down());
    }

    #[test]
    fn sockets_are_opened_at_a_bounded_rate() {
        let mut opens = Opens::default();
        let start = Instant::now();
        let mut now = start;
        let mut opened = 0;
        while now - start < Duration::from_secs(1) {
            opened += u32::from(opens.take(now));
            now += Duration::from_micros(50);
        }
        assert_eq!(opened, 320);
    }

    #[test]
    fn probes_grow_rare_but_never_end() {
        let start = Instant::now();
        let mut health = Health::new();
        health.failed(start);
        assert!(health.take_probe(start));
        assert!(!health.take_probe(start + Duration::from_millis(999)));
        let mut now = start;
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            now += Duration::from_secs(seconds);
            health.failed(now);
            assert!(!health.take_probe(now - Duration::from_millis(1)));
            assert!(health.take_probe(now), "after {seconds} s");
        }
    }
}
