//! The one thread that serves all containers. It waits in epoll(7) and nowhere else.

use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::time::{Duration, Instant};

use rustix::net::{SocketFlags, accept_with, sockopt};

use crate::Upstreams;
use crate::answer::{Outcome, respond};
use crate::batch::Batch;
use crate::cache::Cache;
use crate::counters::Counts;
use crate::forward::{Forwarder, Origin};
use crate::log::{Fate, Log};
use crate::poll::{Events, Interest, Poll, Ready, Token};
use crate::scope::{Scope, View};
use crate::slab::{Key, Slab};
use crate::stream::Stream;
use crate::wire::{Query, Rcode, Response, Transport};

/// How often flights and connections are looked over, while there are any.
const TICK: Duration = Duration::from_millis(50);
/// A connection without a whole query for this long is closed.
const IDLE: Duration = Duration::from_secs(10);
/// Connections of one container; a further one takes the place of the one idle longest.
const STREAMS_PER_ENDPOINT: usize = 16;
/// Connections of all containers.
const STREAMS_MAX: usize = 512;
/// Queries of one container at an upstream over UDP: one container's flood leaves room for the others.
const UDP_FLIGHTS_PER_ENDPOINT: usize = 256;
/// The same over TCP, where there is less room: a few connections to each upstream.
const TCP_FLIGHTS_PER_ENDPOINT: usize = 64;
/// Connections taken from a listener before others have their turn.
const AT_ONCE: usize = 32;
/// For how long a listener rests that could not accept.
const REST: Duration = Duration::from_millis(100);

/// What all loops of a server have in common.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) upstreams: Upstreams,
    pub(crate) cache: Option<Cache>,
    pub(crate) log: Log,
}

/// What the loop is told to do.
#[derive(Debug)]
pub(crate) enum Command {
    Serve {
        served: Served,
        done: SyncSender<io::Result<Key>>,
    },
    Scope {
        endpoint: Key,
        scope: Scope,
        done: SyncSender<()>,
    },
    Remove {
        endpoint: Key,
        done: SyncSender<()>,
    },
    Stop,
}

/// A container to serve.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) id: u64,
    pub(crate) udp: UdpSocket,
    pub(crate) tcp: TcpListener,
    pub(crate) scope: Scope,
    pub(crate) counts: Arc<Counts>,
}

/// The sockets of one container.
#[derive(Debug)]
struct Endpoint {
    id: u64,
    udp: UdpSocket,
    tcp: TcpListener,
    scope: View,
    /// Where other names are asked for.
    route: Key,
    counts: Arc<Counts>,
    /// Queries at an upstream.
    udp_flights: usize,
    tcp_flights: usize,
    /// The listener waits for room until then.
    rests_until: Option<Instant>,
}

/// Fields drop in this order: sockets before the channel whose end says that they are closed.
#[derive(Debug)]
pub(crate) struct EventLoop {
    endpoints: Slab<Endpoint>,
    streams: Slab<Stream>,
    /// Connections so far.
    admitted: u64,
    /// Of all scopes that have none of their own.
    upstreams: Upstreams,
    forwarder: Forwarder,
    poll: Poll,
    wake: Arc<OwnedFd>,
    now: Instant,
    ticked: Instant,
    /// Datagrams of a container and the replies to them.
    batch: Batch,
    /// What is being read from elsewhere.
    buffer: Vec<u8>,
    /// The query of a connection that is being answered.
    query: Vec<u8>,
    /// What is being written.
    out: Vec<u8>,
    /// Listeners that wait for room.
    resting: usize,
    log: Log,
    commands: Receiver<Command>,
}

impl EventLoop {
    pub(crate) fn new(
        config: Config,
        wake: Arc<OwnedFd>,
        commands: Receiver<Command>,
    ) -> rustix::io::Result<Self> {
        let poll = Poll::new()?;
        poll.add(&wake, Token::Wake, Interest::Read)?;
        let now = Instant::now();
        Ok(EventLoop {
            endpoints: Slab::new(),
            streams: Slab::new(),
            admitted: 0,
            upstreams: config.upstreams,
            forwarder: Forwarder::new(config.cache),
            poll,
            wake,
            now,
            ticked: now,
            batch: Batch::new(),
            buffer: vec![0; usize::from(u16::MAX)],
            query: Vec::new(),
            out: Vec::new(),
            resting: 0,
            log: config.log,
            commands,
        })
    }

    /// Serves until told to stop, or until nobody is left to tell it.
    pub(crate) fn run(mut self) {
        let mut events = Events::new();
        loop {
            if self.poll.wait(self.timeout(), &mut events).is_err() {
                return;
            }
            self.now = Instant::now();
            for ready in events.iter() {
                if ready.token == Token::Wake && self.obey() == Obeyed::Stop {
                    return;
                }
                self.dispatch(ready);
            }
            if self.now - self.ticked >= TICK {
                self.tick();
            }
        }
    }

    fn timeout(&self) -> Option<Duration> {
        if self.forwarder.is_busy() || !self.streams.is_empty() || self.resting > 0 {
            return Some(TICK.saturating_sub(self.now - self.ticked));
        }
        self.forwarder.patience()
    }

    fn dispatch(&mut self, ready: Ready) {
        match ready.token {
            Token::Wake => {}
            Token::Udp(key) => self.datagrams(key),
            Token::Listener(key) => self.accept(key),
            Token::Stream(key) => self.stream_ready(ready, key),
            Token::Socket(key) => {
                self.forwarder
                    .socket_ready(key, &mut self.buffer, self.now, &self.poll);
            }
            Token::Link(key) => {
                self.forwarder
                    .link_ready(ready, key, &mut self.buffer, self.now, &self.poll);
            }
        }
        self.deliver();
    }

    /// Carries out what came through the channel.
    fn obey(&mut self) -> Obeyed {
        let mut count = [0; 8];
        let _nothing_new = rustix::io::read(&self.wake, &mut count).is_err();
        loop {
            match self.commands.try_recv() {
                Ok(Command::Serve { served, done }) => {
                    let _caller_has_gone = done.send(self.serve(served)).is_err();
                }
                Ok(Command::Scope {
                    endpoint,
                    scope,
                    done,
                }) => {
                    self.set_scope(endpoint, scope);
                    let _caller_has_gone = done.send(()).is_err();
                }
                Ok(Command::Remove { endpoint, done }) => {
                    self.remove(endpoint);
                    let _caller_has_gone = done.send(()).is_err();
                }
                Err(TryRecvError::Empty) => return Obeyed::Go,
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return Obeyed::Stop,
            }
        }
    }

    fn serve(&mut self, served: Served) -> io::Result<Key> {
        let key = self.endpoints.next_key();
        let (udp, tcp) = (served.udp, served.tcp);
        self.poll.add(&udp, Token::Udp(key), Interest::Read)?;
        if let Err(errno) = self.poll.add(&tcp, Token::Listener(key), Interest::Read) {
            self.poll.delete(&udp);
            return Err(errno.into());
        }
        let route = self.join(&served.scope);
        Ok(self.endpoints.insert(Endpoint {
            id: served.id,
            udp,
            tcp,
            route,
            scope: served.scope.into_view(),
            counts: served.counts,
            udp_flights: 0,
            tcp_flights: 0,
            rests_until: None,
        }))
    }

    fn join(&mut self, scope: &Scope) -> Key {
        let upstreams = scope.own_upstreams().unwrap_or(&self.upstreams);
        self.forwarder.join(upstreams, self.now, &self.poll)
    }

    fn set_scope(&mut self, key: Key, scope: Scope) {
        let route = self.join(&scope);
        let left = match self.endpoints.get_mut(key) {
            Some(endpoint) => {
                endpoint.scope = scope.into_view();
                std::mem::replace(&mut endpoint.route, route)
            }
            None => route,
        };
        self.forwarder.leave(left, &self.poll);
    }

    /// Closes an endpoint's sockets and connections, and forgets its queries.
    fn remove(&mut self, key: Key) {
        let Some(endpoint) = self.endpoints.remove(key) else {
            return;
        };
        self.poll.delete(&endpoint.udp);
        self.poll.delete(&endpoint.tcp);
        self.resting -= usize::from(endpoint.rests_until.is_some());
        let streams = self.streams.iter();
        let its: Vec<_> = streams
            .filter(|(_, stream)| stream.endpoint == key)
            .map(|(key, _)| key)
            .collect();
        for stream in its {
            self.close(stream);
        }
        if endpoint.udp_flights > 0 {
            let of_it = |origin| matches!(origin, Origin::Udp { endpoint, .. } if endpoint == key);
            self.forwarder.cancel(of_it, &self.poll);
        }
        self.forwarder.leave(endpoint.route, &self.poll);
    }

    /// Answers what came on a container's UDP socket: one call takes it, one brings the replies. Where more waits, the
    /// next event says so, and others have their turn first.
    fn datagrams(&mut self, key: Key) {
        let Some(endpoint) = self.endpoints.get_mut(key) else {
            return;
        };
        if self.batch.receive(&endpoint.udp).is_err() {
            return;
        }
        endpoint.scope.refresh();
        for index in 0..self.batch.len() {
            let peer = self.batch.peer(index);
            let Some((query, reply)) = self.batch.query(index) else {
                continue;
            };
            match (endpoint.take(query, Transport::Udp, &self.log, reply), peer) {
                (Taken::Reply, _) => self.batch.answered(index),
                (Taken::Forward(query), Some(peer)) => {
                    endpoint.udp_flights += 1;
                    let route = endpoint.route;
                    let endpoint = key;
                    let origin = Origin::Udp { endpoint, peer };
                    let (forwarder, poll) = (&mut self.forwarder, &self.poll);
                    forwarder.submit(&query, route, origin, Transport::Udp, self.now, poll);
                }
                (Taken::Drop, _) | (_, None) => {}
            }
        }
        self.batch.send(&endpoint.udp);
    }

    fn accept(&mut self, key: Key) {
        for _ in 0..AT_ONCE {
            let Some(endpoint) = self.endpoints.get_mut(key) else {
                return;
            };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match accept_with(&endpoint.tcp, flags) {
                Ok(fd) => self.admit(key, TcpStream::from(fd)),
                Err(errno) if is_about_one_connection(errno) => {}
                Err(rustix::io::Errno::AGAIN) => return,
                Err(_) => return self.rest(key),
            }
        }
    }

    /// Takes a connection in, in the place of the one idle longest where there are many.
    fn admit(&mut self, endpoint: Key, tcp: TcpStream) {
        let of_it = |stream: &Stream| stream.endpoint == endpoint;
        let its = self.streams.iter().filter(|(_, s)| of_it(s)).count();
        if its >= STREAMS_PER_ENDPOINT {
            self.close_idlest(of_it);
        } else if self.streams.len() >= STREAMS_MAX {
            self.close_idlest(|_| true);
        }
        // Without it, a reply may wait for the acknowledgement of the one before.
        let _slower = sockopt::set_tcp_nodelay(&tcp, true).is_err();
        let key = self.streams.next_key();
        if self
            .poll
            .add(&tcp, Token::Stream(key), Interest::Read)
            .is_ok()
        {
            let stream = Stream::new(endpoint, tcp, self.admitted, self.now);
            self.streams.insert(stream);
            self.admitted += 1;
        }
    }

    fn close_idlest(&mut self, among: impl Fn(&Stream) -> bool) {
        let streams = self.streams.iter().filter(|(_, stream)| among(stream));
        let idlest = streams
            .min_by_key(|(_, stream)| (stream.pending > 0, stream.last_query, stream.number));
        if let Some((key, _)) = idlest {
            self.close(key);
        }
    }

    /// Stops listening for a while: out of fds or memory, accepting again at once would only burn time.
    fn rest(&mut self, key: Key) {
        if let Some(endpoint) = self.endpoints.get_mut(key) {
            self.resting += usize::from(endpoint.rests_until.is_none());
            endpoint.rests_until = Some(self.now + REST);
            let token = Token::Listener(key);
            let _spins = self
                .poll
                .modify(&endpoint.tcp, token, Interest::None)
                .is_err();
        }
    }

    fn stream_ready(&mut self, ready: Ready, key: Key) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        let failed = ready.readable && stream.read(&mut self.buffer).is_err();
        if failed || ready.broken {
            return self.close(key);
        }
        self.pump(key);
    }

    /// Answers the queries that a connection has, sends what it takes, and closes it where it is over.
    fn pump(&mut self, key: Key) {
        let over = self.answer_stream(key).unwrap_or(true);
        if over {
            self.close(key);
        }
    }

    /// Returns whether the connection is over.
    fn answer_stream(&mut self, key: Key) -> io::Result<bool> {
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(false);
        };
        let Some(endpoint) = self.endpoints.get_mut(stream.endpoint) else {
            return Ok(true);
        };
        stream.flush()?;
        endpoint.scope.refresh();
        while stream.next_query(&mut self.query, self.now)? {
            match endpoint.take(&self.query, Transport::Tcp, &self.log, &mut self.out) {
                Taken::Drop => return Ok(true),
                Taken::Reply => stream.push(&self.out)?,
                Taken::Forward(query) => {
                    endpoint.tcp_flights += 1;
                    stream.pending += 1;
                    let origin = Origin::Tcp {
                        endpoint: stream.endpoint,
                        stream: key,
                        peer: stream.peer,
                    };
                    let (route, poll) = (endpoint.route, &self.poll);
                    self.forwarder
                        .submit(&query, route, origin, Transport::Tcp, self.now, poll);
                }
            }
            stream.flush()?;
        }
        let wanted = stream.wanted();
        if wanted != stream.interest {
            self.poll.modify(&stream.tcp, Token::Stream(key), wanted)?;
            stream.interest = wanted;
        }
        Ok(stream.is_done())
    }

    fn close(&mut self, key: Key) {
        let Some(stream) = self.streams.remove(key) else {
            return;
        };
        self.poll.delete(&stream.tcp);
        if let Some(endpoint) = self.endpoints.get_mut(stream.endpoint) {
            endpoint.tcp_flights -= stream.pending;
        }
        if stream.pending > 0 {
            let of_it = |origin| matches!(origin, Origin::Tcp { stream, .. } if stream == key);
            self.forwarder.cancel(of_it, &self.poll);
        }
    }

    /// Brings replies of upstreams to who asked.
    fn deliver(&mut self) {
        while let Some((origin, reply)) = self.forwarder.done.pop() {
            match origin {
                Origin::Probe => {}
                Origin::Udp { endpoint, peer } => {
                    if let Some(endpoint) = self.endpoints.get_mut(endpoint) {
                        endpoint.udp_flights -= 1;
                        endpoint.count_failure(&reply);
                        let _lost = endpoint.udp.send_to(&reply, peer).is_err();
                    }
                }
                Origin::Tcp {
                    endpoint,
                    stream: key,
                    peer: _,
                } => {
                    if let Some(stream) = self.streams.get_mut(key) {
                        stream.pending -= 1;
                        let pushed = stream.push(&reply);
                        if let Some(endpoint) = self.endpoints.get_mut(endpoint) {
                            endpoint.tcp_flights -= 1;
                            endpoint.count_failure(&reply);
                        }
                        match pushed {
                            Ok(()) => self.pump(key),
                            Err(_) => self.close(key),
                        }
                    }
                }
            }
            self.forwarder.recycle(reply);
        }
    }

    fn tick(&mut self) {
        if self.forwarder.tick(self.now, &self.poll) {
            self.ticked = self.now;
        }
        self.deliver();
        let streams = self.streams.iter();
        let idle = |stream: &Stream| stream.pending == 0 && self.now - stream.last_query >= IDLE;
        let over: Vec<_> = streams
            .filter(|(_, stream)| idle(stream))
            .map(|(key, _)| key)
            .collect();
        for key in over {
            self.close(key);
        }
        self.end_rests();
    }

    fn end_rests(&mut self) {
        if self.resting == 0 {
            return;
        }
        let rested = |endpoint: &Endpoint| endpoint.rests_until.is_some_and(|at| at <= self.now);
        let endpoints = self.endpoints.iter();
        let over: Vec<_> = endpoints
            .filter(|(_, endpoint)| rested(endpoint))
            .map(|(key, _)| key)
            .collect();
        for key in over {
            if let Some(endpoint) = self.endpoints.get_mut(key) {
                let token = Token::Listener(key);
                let woken = self.poll.modify(&endpoint.tcp, token, Interest::Read);
                endpoint.rests_until = woken.is_err().then_some(self.now + REST);
                self.resting -= usize::from(woken.is_ok());
            }
        }
    }
}

/// What becomes of the loop after a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Obeyed {
    Go,
    Stop,
}

/// What an endpoint makes of a query.
#[derive(Debug)]
enum Taken<'q> {
    /// The reply is in the buffer.
    Reply,
    Forward(Query<'q>),
    Drop,
}

impl Endpoint {
    /// Answers a query into `out`, or says that it has to be forwarded.
    fn take<'q>(
        &self,
        query: &'q [u8],
        transport: Transport,
        log: &Log,
        out: &mut Vec<u8>,
    ) -> Taken<'q> {
        self.counts.queries.up();
        match respond(self.scope.zones(), query, transport, out) {
            Outcome::Answered(query) => {
                self.counts.local.up();
                log.tell(self.id, &query, transport, Fate::Local);
                Taken::Reply
            }
            Outcome::Forward(query) => {
                let fate = self.fate(transport);
                log.tell(self.id, &query, transport, fate);
                self.send_away(query, transport, fate, out)
            }
            Outcome::Malformed => {
                self.counts.malformed.up();
                Taken::Reply
            }
            Outcome::Drop => {
                self.counts.malformed.up();
                Taken::Drop
            }
        }
    }

    /// What becomes of a query for a name of no zone.
    fn fate(&self, transport: Transport) -> Fate {
        if self.scope.is_internal() {
            Fate::Denied
        } else if self.is_full(transport) {
            Fate::Failed
        } else {
            Fate::Forwarded
        }
    }

    fn send_away<'q>(
        &self,
        query: Query<'q>,
        transport: Transport,
        fate: Fate,
        out: &mut Vec<u8>,
    ) -> Taken<'q> {
        let (count, rcode) = match fate {
            Fate::Denied => (&self.counts.denied, Rcode::NxDomain),
            Fate::Failed => (&self.counts.failed, Rcode::ServFail),
            Fate::Local | Fate::Forwarded => {
                self.counts.forwarded.up();
                return Taken::Forward(query);
            }
        };
        count.up();
        Response::new(query.envelope, transport, out).finish(rcode);
        Taken::Reply
    }

    /// Counts a reply to what was forwarded if it says that nobody knows.
    fn count_failure(&self, reply: &[u8]) {
        if reply
            .get(3)
            .is_some_and(|flags| flags & 15 == Rcode::ServFail as u8)
        {
            self.counts.failed.up();
        }
    }

    fn is_full(&self, transport: Transport) -> bool {
        match transport {
            Transport::Udp => self.udp_flights >= UDP_FLIGHTS_PER_ENDPOINT,
            Transport::Tcp => self.tcp_flights >= TCP_FLIGHTS_PER_ENDPOINT,
        }
    }
}

/// Whether accept4(2) tells of a connection that failed, rather than of the listener or the process.
fn is_about_one_connection(errno: rustix::io::Errno) -> bool {
    use rustix::io::Errno as E;
    matches!(errno, E::CONNABORTED | E::INTR | E::PERM | E::PROTO)
}
