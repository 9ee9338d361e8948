//! Queries on their way to an upstream and back.
//!
//! A query becomes a flight. It is sent to the best upstream, and to the next one when that is silent for
//! [`RETRY`], refuses, or cannot be reached; a late reply to an earlier try still counts. After [`GIVE_UP`] the client
//! gets SERVFAIL. Every reply must come from the address asked (the sockets are connected), with the random id and the
//! question that was sent.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::cache::{Cache, Kept};
use crate::poll::{Interest, Poll, Ready, Token};
use crate::random::Random;
use crate::resolv_conf::NAMESERVERS_MAX;
use crate::slab::{Key, Slab};
use crate::upstream::{Health, Link, Socket, Upstream};
use crate::upstreams::Upstreams;
use crate::wire::{Envelope, Query, Rcode, Response, Transport, Verdict, judge};

/// Silence after which the next upstream is tried.
const RETRY: Duration = Duration::from_millis(800);
/// Silence after which the client is told.
const GIVE_UP: Duration = Duration::from_millis(2400);
/// Queries sent for one flight.
const TRIES: usize = 3;
/// The longest refusal that is kept while another upstream is asked: they are short, and there may be one of each flight.
const UNHELPFUL_MAX: usize = 512;
/// Flights at once.
const FLIGHTS_MAX: usize = 32_768;
/// Bytes of their queries.
const BYTES_MAX: usize = 8 << 20;
/// Flights looked after in one go, before others have their turn.
const OVERDUE_AT_ONCE: usize = 256;
/// UDP sockets per upstream that new queries may use.
const SOCKETS_PER_UPSTREAM: usize = 8;
/// UDP sockets at once, those that wait for last replies included. An upstream without any may have one more.
const SOCKETS_MAX: usize = 96;
/// TCP connections to one upstream: servers take few from one client, but many queries on each.
const LINKS_PER_UPSTREAM: usize = 4;
/// Queries at once on a TCP connection.
const LINK_QUERIES: usize = 256;
/// A TCP connection without queries for this long is closed, before the upstream does.
const LINK_IDLE: Duration = Duration::from_secs(3);
/// Queries after which a socket makes way for one with another port.
const SOCKET_QUERIES: u32 = 1024;
/// Age after which it does: its port gets known and its source address stale.
const SOCKET_AGE: Duration = Duration::from_secs(30);
/// How often a file is looked at that may have changed.
const LOOK: Duration = Duration::from_secs(1);
/// Replies taken from a socket before others have their turn.
const REPLIES_AT_ONCE: usize = 32;

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Udp {
        endpoint: Key,
        peer: SocketAddr,
    },
    Tcp {
        endpoint: Key,
        stream: Key,
        peer: Option<SocketAddr>,
    },
    /// Nobody: it shows whether an upstream is back.
    Probe,
}

#[derive(Debug)]
pub(crate) struct Forwarder {
    routes: Slab<Route>,
    upstreams: Slab<Upstream>,
    sockets: Slab<Socket>,
    links: Slab<Link>,
    flights: Slab<Flight>,
    cache: Option<Kept>,
    /// Of all queries in flight.
    bytes: usize,
    random: Random,
    /// Replies to deliver.
    pub(crate) done: Vec<(Origin, Vec<u8>)>,
    /// Buffers to use again.
    spare: Vec<Vec<u8>>,
    due: Vec<Key>,
    /// A reply read from a TCP connection.
    message: Vec<u8>,
}

/// Where queries of some endpoints go.
#[derive(Debug)]
struct Route {
    source: Upstreams,
    version: u64,
    looked_at: Instant,
    endpoints: usize,
    /// Best first.
    choices: Choices,
}

/// Upstreams to choose from.
type Choices = [Option<Key>; NAMESERVERS_MAX];

#[derive(Debug)]
struct Flight {
    origin: Origin,
    /// Under which the answer is kept, if it is.
    route: Option<Key>,
    transport: Transport,
    client_id: [u8; 2],
    /// The client's query; its id is that of the try sent last.
    query: Vec<u8>,
    question_end: usize,
    tries: [Option<Try>; TRIES],
    sent: usize,
    asked_last: Option<Key>,
    /// Upstreams that may be of use for this query.
    choices: Choices,
    /// What an upstream said that was of no use: better than nothing, where it is short enough to keep.
    unhelpful: Option<Vec<u8>>,
    sent_at: Instant,
    retry_at: Instant,
    give_up_at: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Try {
    upstream: Key,
    via: Via,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Via {
    Udp { socket: Key, id: u16 },
    Tcp { link: Key, id: u16 },
}

impl Flight {
    fn new(
        query: &Query<'_>,
        bytes: Vec<u8>,
        origin: Origin,
        transport: Transport,
        choices: Choices,
        now: Instant,
    ) -> Self {
        Flight {
            origin,
            route: None,
            transport,
            client_id: [bytes[0], bytes[1]],
            query: bytes,
            question_end: query.envelope.question_end(),
            tries: [None; TRIES],
            sent: 0,
            asked_last: None,
            choices,
            unhelpful: None,
            sent_at: now,
            retry_at: now + RETRY,
            give_up_at: now + GIVE_UP,
        }
    }

    fn tried(&self, upstream: Key) -> Option<Try> {
        let tries = self.tries.iter().flatten();
        tries.copied().find(|try_| try_.upstream == upstream)
    }

    fn forget(&mut self, upstream: Key) -> Option<Try> {
        let is_it = |try_: &Option<Try>| try_.is_some_and(|try_| try_.upstream == upstream);
        self.tries.iter_mut().find(|try_| is_it(try_))?.take()
    }

    /// The upstream to ask next: one not asked yet before one asked already, one that is up before one that is down,
    /// then in the order given.
    fn next(&self, upstreams: &Slab<Upstream>) -> Option<Key> {
        if self.sent >= TRIES {
            return None;
        }
        let asks_once = self.transport == Transport::Tcp;
        let may = |key: &Key| !(asks_once && self.tried(*key).is_some());
        let choices = self.choices.iter().flatten().copied().filter(may);
        let there = choices.filter_map(|key| Some((key, upstreams.get(key)?)));
        let best = there
            .min_by_key(|(key, upstream)| (self.tried(*key).is_some(), upstream.health.is_down()));
        best.map(|(key, _)| key)
    }
}

impl Forwarder {
    pub(crate) fn new(cache: Option<Cache>) -> Self {
        Forwarder {
            routes: Slab::new(),
            upstreams: Slab::new(),
            sockets: Slab::new(),
            links: Slab::new(),
            flights: Slab::new(),
            cache: cache.map(Kept::new),
            bytes: 0,
            random: Random::new(),
            done: Vec::new(),
            spare: Vec::new(),
            due: Vec::new(),
            message: Vec::new(),
        }
    }

    /// Whether there is anything a tick may have to do.
    pub(crate) fn is_busy(&self) -> bool {
        !(self.flights.is_empty() && self.links.is_empty())
    }

    /// For how long there is nothing to do at all: then sockets may be old.
    pub(crate) fn patience(&self) -> Option<Duration> {
        (!self.sockets.is_empty()).then_some(SOCKET_AGE)
    }

    /// The route to these upstreams, for one more endpoint.
    pub(crate) fn join(&mut self, upstreams: &Upstreams, now: Instant, poll: &Poll) -> Key {
        let is_it = |(_, route): &(Key, &Route)| route.source.is(upstreams);
        let known = self.routes.iter().find(is_it).map(|(key, _)| key);
        let key = known.unwrap_or_else(|| {
            self.routes.insert(Route {
                source: upstreams.clone(),
                // None that a source has, so that it is read.
                version: u64::MAX,
                looked_at: now,
                endpoints: 0,
                choices: [None; NAMESERVERS_MAX],
            })
        });
        if let Some(route) = self.routes.get_mut(key) {
            route.endpoints += 1;
        }
        self.refresh(key, now, poll);
        key
    }

    /// Forgets a route with the last of its endpoints.
    pub(crate) fn leave(&mut self, key: Key, poll: &Poll) {
        let Some(route) = self.routes.get_mut(key) else {
            return;
        };
        route.endpoints -= 1;
        if route.endpoints == 0 {
            let choices = route.choices;
            self.routes.remove(key);
            for upstream in choices.into_iter().flatten() {
                self.drop_upstream(upstream, poll);
            }
        }
    }

    /// Takes over what has changed of a route's upstreams.
    fn refresh(&mut self, key: Key, now: Instant, poll: &Poll) -> Choices {
        let Some(route) = self.routes.get_mut(key) else {
            return [None; NAMESERVERS_MAX];
        };
        if now - route.looked_at >= LOOK {
            route.looked_at = now;
            route.source.look();
        }
        let version = route.source.version();
        if route.version == version {
            return route.choices;
        }
        route.version = version;
        if let Some(cache) = &mut self.cache {
            cache.forget(key);
        }
        let (source, old) = (route.source.clone(), route.choices);
        let choices = self.choose(&source, old);
        for gone in old
            .into_iter()
            .flatten()
            .filter(|key| !choices.contains(&Some(*key)))
        {
            self.drop_upstream(gone, poll);
        }
        if let Some(route) = self.routes.get_mut(key) {
            route.choices = choices;
        }
        choices
    }

    /// The upstreams of a source: those there already as they are, others new.
    fn choose(&mut self, source: &Upstreams, old: Choices) -> Choices {
        let mut choices = [None; NAMESERVERS_MAX];
        for (choice, address) in choices.iter_mut().zip(source.addresses()) {
            let is_it = |key: &Key| {
                self.upstreams
                    .get(*key)
                    .is_some_and(|u| u.address == address)
            };
            let kept = old.into_iter().flatten().find(is_it);
            *choice = kept.or_else(|| {
                Some(
                    self.upstreams
                        .insert(Upstream::new(address, source.clone())),
                )
            });
        }
        choices
    }

    /// Closes all that leads to an upstream; queries there go elsewhere.
    fn drop_upstream(&mut self, key: Key, poll: &Poll) {
        self.upstreams.remove(key);
        let sockets = self
            .sockets
            .iter()
            .filter(|(_, socket)| socket.upstream == key);
        for socket in sockets.map(|(key, _)| key).collect::<Vec<_>>() {
            self.close_socket(socket, poll);
        }
        let links = self.links.iter().filter(|(_, link)| link.upstream == key);
        for link in links.map(|(key, _)| key).collect::<Vec<_>>() {
            self.close_link(link, poll);
        }
        let at_it = |flight: &Flight| flight.tried(key).is_some();
        let flights = self.flights.iter_mut().filter(|(_, flight)| at_it(flight));
        for (_, flight) in flights {
            flight.forget(key);
            // The next tick looks after it.
            flight.retry_at = flight.sent_at;
        }
    }

    /// Sends a query on its way. The reply, or SERVFAIL, comes out of `done` once.
    pub(crate) fn submit(
        &mut self,
        query: &Query<'_>,
        route: Key,
        origin: Origin,
        transport: Transport,
        now: Instant,
        poll: &Poll,
    ) {
        let choices = self.refresh(route, now, poll);
        if let Some(reply) = self.cached(query, route, transport, now) {
            self.done.push((origin, reply));
            return;
        }
        let bytes = self.copy(query.bytes());
        let flight = Flight {
            route: Some(route),
            ..Flight::new(query, bytes, origin, transport, choices, now)
        };
        if self.is_full(&flight) || self.is_own(query, origin) {
            self.land(flight, None);
            return;
        }
        let key = self.begin(flight);
        self.advance(key, now, poll);
        self.probe(query, choices, now, poll);
    }

    /// Takes a buffer back after delivery.
    pub(crate) fn recycle(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < 64 && buffer.capacity() <= 4096 {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    /// Forgets the flights of who has gone.
    pub(crate) fn cancel(&mut self, gone: impl Fn(Origin) -> bool, poll: &Poll) {
        let flights = self.flights.iter();
        let keys: Vec<_> = flights
            .filter(|(_, flight)| gone(flight.origin))
            .map(|(key, _)| key)
            .collect();
        for key in keys {
            self.take(key, poll);
        }
    }

    /// Tries again what has been silent for long, gives up what has been for too long. Returns whether that is all: a
    /// dead upstream makes thousands due at once.
    pub(crate) fn tick(&mut self, now: Instant, poll: &Poll) -> bool {
        let mut due = std::mem::take(&mut self.due);
        let flights = self.flights.iter();
        let overdue = flights.filter(|(_, flight)| now >= flight.retry_at);
        due.extend(overdue.map(|(key, _)| key).take(OVERDUE_AT_ONCE));
        let is_all = due.len() < OVERDUE_AT_ONCE;
        for key in due.drain(..) {
            self.overdue(key, now, poll);
        }
        let silent = |link: &Link| link.silent_since.is_some_and(|at| now - at >= GIVE_UP);
        let links = self.links.iter();
        due.extend(links.filter(|(_, link)| silent(link)).map(|(key, _)| key));
        for key in due.drain(..) {
            self.link_silent(key, now, poll);
        }
        let links = self.links.iter();
        let idle = |link: &Link| link.ids.is_empty() && now - link.last_used >= LINK_IDLE;
        due.extend(links.filter(|(_, link)| idle(link)).map(|(key, _)| key));
        for key in due.drain(..) {
            self.close_link(key, poll);
        }
        let sockets = self.sockets.iter();
        let old = |socket: &Socket| socket.ids.is_empty() && now - socket.opened >= SOCKET_AGE;
        due.extend(
            sockets
                .filter(|(_, socket)| old(socket))
                .map(|(key, _)| key),
        );
        for key in due.drain(..) {
            self.close_socket(key, poll);
        }
        self.due = due;
        is_all
    }

    /// Takes replies from an upstream's UDP socket.
    pub(crate) fn socket_ready(&mut self, key: Key, buffer: &mut [u8], now: Instant, poll: &Poll) {
        for _ in 0..REPLIES_AT_ONCE {
            let Some(socket) = self.sockets.get(key) else {
                return;
            };
            match socket.udp.recv(buffer) {
                Ok(size) => self.reply(key, &buffer[..size], now, poll),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.socket_failed(key, now, poll),
            }
        }
    }

    /// Goes on with a TCP connection to an upstream.
    pub(crate) fn link_ready(
        &mut self,
        ready: Ready,
        key: Key,
        buffer: &mut [u8],
        now: Instant,
        poll: &Poll,
    ) {
        let Some(link) = self.links.get_mut(key) else {
            return;
        };
        let outcome = drive(link, ready, buffer);
        let mut message = std::mem::take(&mut self.message);
        while self.take_reply(key, &mut message) {
            self.link_reply(key, &message, now, poll);
            if let Some(link) = self.links.get_mut(key) {
                link.replied(now);
            }
        }
        self.message = message;
        if outcome.is_err() || self.await_link(key, poll).is_err() {
            self.link_failed(key, now, poll);
        }
    }

    /// The reply as it was kept, in the form that suits this client.
    fn cached(
        &mut self,
        query: &Query<'_>,
        route: Key,
        transport: Transport,
        now: Instant,
    ) -> Option<Vec<u8>> {
        let mut reply = self.spare.pop().unwrap_or_default();
        let found = self.cache.as_mut()?.find(route, query, now, &mut reply);
        if !found {
            self.recycle(reply);
            return None;
        }
        if reply.len() > query.envelope.client_limit(transport) {
            let response = Response::new(query.envelope, transport, &mut reply);
            response.truncated().finish(Rcode::NoError);
        }
        Some(reply)
    }

    fn keep_answer(&mut self, flight: &Flight, message: &[u8], now: Instant) {
        if let (Some(cache), Some(route)) = (&mut self.cache, flight.route) {
            if let Ok(query) = Query::parse(&flight.query) {
                cache.keep(route, &query, message, now);
            }
        }
    }

    fn is_full(&self, flight: &Flight) -> bool {
        self.flights.len() >= FLIGHTS_MAX || self.bytes + flight.query.len() > BYTES_MAX
    }

    fn begin(&mut self, flight: Flight) -> Key {
        self.bytes += flight.query.len();
        self.flights.insert(flight)
    }

    /// Whether the query is one of ours that came back: an upstream that leads here.
    fn is_own(&self, query: &Query<'_>, origin: Origin) -> bool {
        let id = u16::from_be_bytes([query.bytes()[0], query.bytes()[1]]);
        match origin {
            Origin::Udp { peer, .. } => {
                let mut sockets = self.sockets.iter();
                sockets.any(|(_, socket)| socket.local == peer && socket.ids.contains_key(&id))
            }
            Origin::Tcp { peer, .. } => {
                let mut links = self.links.iter();
                let peer = peer.as_ref();
                links.any(|(_, link)| link.local.as_ref() == peer && link.ids.contains_key(&id))
            }
            Origin::Probe => false,
        }
    }

    fn copy(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.extend_from_slice(bytes);
        copy
    }

    /// Asks the upstreams that were passed over whether they are back, with a copy of a query they would have got.
    fn probe(&mut self, query: &Query<'_>, choices: Choices, now: Instant, poll: &Poll) {
        let is_up = |key: Key| self.upstreams.get(key).is_some_and(|u| !u.health.is_down());
        if !choices.into_iter().flatten().any(is_up) {
            return;
        }
        for upstream in choices.into_iter().flatten() {
            let health = self.health(upstream);
            if !health.is_some_and(|health| health.take_probe(now)) {
                continue;
            }
            let bytes = self.copy(query.bytes());
            let mut only = [None; NAMESERVERS_MAX];
            only[0] = Some(upstream);
            let mut flight = Flight::new(query, bytes, Origin::Probe, Transport::Udp, only, now);
            flight.give_up_at = flight.retry_at;
            let key = self.begin(flight);
            self.advance(key, now, poll);
        }
    }

    fn health(&mut self, upstream: Key) -> Option<&mut Health> {
        let upstream = self.upstreams.get_mut(upstream);
        upstream.map(|upstream| &mut upstream.health)
    }

    fn failed(&mut self, upstream: Key, now: Instant) {
        if let Some(health) = self.health(upstream) {
            health.failed(now);
        }
    }

    fn silent(&mut self, upstream: Key, since: Instant, now: Instant) {
        if let Some(health) = self.health(upstream) {
            health.silent(since, now);
        }
    }

    fn replied(&mut self, upstream: Key, now: Instant) {
        if let Some(health) = self.health(upstream) {
            health.replied(now);
        }
    }

    /// Sends a flight to the next upstream that takes it. Without one, it waits for the replies still out, or lands.
    fn advance(&mut self, key: Key, now: Instant, poll: &Poll) {
        while let Some(flight) = self.flights.get_mut(key) {
            let Some(upstream) = flight.next(&self.upstreams) else {
                flight.retry_at = flight.give_up_at;
                if flight.tries.iter().all(Option::is_none) {
                    self.give_up(key, poll);
                }
                return;
            };
            flight.sent += 1;
            flight.asked_last = Some(upstream);
            flight.sent_at = now;
            flight.retry_at = (now + RETRY).min(flight.give_up_at);
            match self.send(key, upstream, now, poll) {
                Ok(()) => return,
                Err(error) => {
                    if is_theirs(&error) {
                        self.failed(upstream, now);
                    }
                    self.forget(key, upstream, poll);
                }
            }
        }
    }

    fn send(&mut self, key: Key, upstream: Key, now: Instant, poll: &Poll) -> io::Result<()> {
        let Some(flight) = self.flights.get(key) else {
            return Ok(());
        };
        match (flight.transport, flight.tried(upstream)) {
            (Transport::Tcp, _) => self.send_tcp(key, upstream, now, poll),
            (
                Transport::Udp,
                Some(Try {
                    via: Via::Udp { socket, id },
                    ..
                }),
            ) => self.send_udp(key, socket, id),
            (Transport::Udp, _) => {
                let (socket, id) = self.socket_and_id(upstream, now, poll)?;
                self.keep(
                    key,
                    Try {
                        upstream,
                        via: Via::Udp { socket, id },
                    },
                );
                if let Some(socket) = self.sockets.get_mut(socket) {
                    socket.ids.insert(id, key);
                }
                self.send_udp(key, socket, id)
            }
        }
    }

    fn send_udp(&mut self, key: Key, socket: Key, id: u16) -> io::Result<()> {
        let (Some(flight), Some(socket)) =
            (self.flights.get_mut(key), self.sockets.get_mut(socket))
        else {
            return Ok(());
        };
        flight.query[..2].copy_from_slice(&id.to_be_bytes());
        let sent = socket.send(&flight.query);
        if sent.is_err() {
            socket.sent = SOCKET_QUERIES;
        }
        sent
    }

    fn send_tcp(&mut self, key: Key, upstream: Key, now: Instant, poll: &Poll) -> io::Result<()> {
        let Some(flight) = self.flights.get(key) else {
            return Ok(());
        };
        let link_key = self.link(upstream, flight.query.len(), now, poll)?;
        let (Some(flight), Some(link)) = (self.flights.get_mut(key), self.links.get_mut(link_key))
        else {
            return Ok(());
        };
        let id = free_id(&mut self.random, &link.ids)?;
        flight.query[..2].copy_from_slice(&id.to_be_bytes());
        link.push(&flight.query, now);
        link.ids.insert(id, key);
        let via = Via::Tcp { link: link_key, id };
        self.keep(key, Try { upstream, via });
        self.await_link(link_key, poll)
    }

    /// The connection to `upstream` with the fewest queries that takes one of `length` bytes; a new one while that has
    /// any and there are few.
    fn link(&mut self, upstream: Key, length: usize, now: Instant, poll: &Poll) -> io::Result<Key> {
        let its = || {
            self.links
                .iter()
                .filter(|(_, link)| link.upstream == upstream)
        };
        let takes = |link: &Link| link.ids.len() < LINK_QUERIES && link.has_room(length);
        let usable = its().filter(|(_, link)| takes(link));
        let many = its().count() >= LINKS_PER_UPSTREAM;
        match usable.min_by_key(|(_, link)| link.ids.len()) {
            Some((key, link)) if many || link.ids.is_empty() => return Ok(key),
            None if many => return Err(io::ErrorKind::ResourceBusy.into()),
            _ => {}
        }
        let to = self.upstreams.get_mut(upstream).ok_or_else(gone)?;
        if !to.may_open(now) {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let link = Link::open(upstream, to, now)?;
        let token = Token::Link(self.links.next_key());
        poll.add(&link.tcp, token, link.interest)?;
        Ok(self.links.insert(link))
    }

    /// Sends what a connection has to send and waits for what comes next.
    fn await_link(&mut self, key: Key, poll: &Poll) -> io::Result<()> {
        let Some(link) = self.links.get_mut(key) else {
            return Ok(());
        };
        if link.interest != Interest::Write {
            link.flush();
            let wanted = link.wanted();
            if wanted != link.interest {
                poll.modify(&link.tcp, Token::Link(key), wanted)?;
                link.interest = wanted;
            }
        }
        Ok(())
    }

    fn take_reply(&mut self, key: Key, message: &mut Vec<u8>) -> bool {
        let Some(link) = self.links.get_mut(key) else {
            return false;
        };
        link.next_reply(message)
    }

    fn link_reply(&mut self, key: Key, message: &[u8], now: Instant, poll: &Poll) {
        let (Some(link), Some(&[high, low])) = (self.links.get_mut(key), message.first_chunk())
        else {
            return;
        };
        if let Some(&flight) = link.ids.get(&u16::from_be_bytes([high, low])) {
            link.proven = true;
            let upstream = link.upstream;
            self.judge(flight, upstream, message, now, poll);
        }
    }

    /// All who wait for replies on it go elsewhere, or try again if it had only been closed.
    fn link_failed(&mut self, key: Key, now: Instant, poll: &Poll) {
        let Some(link) = self.close_link(key, poll) else {
            return;
        };
        if !link.proven {
            self.failed(link.upstream, now);
        }
        for &flight in link.ids.values() {
            if link.proven {
                self.try_again(flight, link.upstream, now, poll);
            } else {
                self.useless(flight, link.upstream, now, poll);
            }
        }
    }

    /// Some servers end a connection after each reply. Every such end brought one, and a silent connection lasts for as
    /// long as a flight, so this ends too.
    fn uncount(&mut self, key: Key) {
        if let Some(flight) = self.flights.get_mut(key) {
            flight.sent = flight.sent.saturating_sub(1);
        }
    }

    /// It does not connect, or not a single reply comes: whoever still waits for one tries a new connection.
    fn link_silent(&mut self, key: Key, now: Instant, poll: &Poll) {
        let Some(link) = self.close_link(key, poll) else {
            return;
        };
        let since = link.silent_since.unwrap_or(now);
        self.silent(link.upstream, since, now);
        for &flight in link.ids.values() {
            self.try_again(flight, link.upstream, now, poll);
        }
    }

    fn try_again(&mut self, flight: Key, upstream: Key, now: Instant, poll: &Poll) {
        self.drop_try(flight, upstream, poll);
        self.uncount(flight);
        self.advance(flight, now, poll);
    }

    fn close_link(&mut self, key: Key, poll: &Poll) -> Option<Link> {
        let link = self.links.remove(key)?;
        poll.delete(&link.tcp);
        Some(link)
    }

    fn keep(&mut self, key: Key, new: Try) {
        let tries = self.flights.get_mut(key).map(|flight| &mut flight.tries);
        if let Some(slot) = tries.and_then(|tries| tries.iter_mut().find(|slot| slot.is_none())) {
            *slot = Some(new);
        }
    }

    /// A socket to `upstream`, one of several at random, and a random id that is free on it.
    fn socket_and_id(
        &mut self,
        upstream: Key,
        now: Instant,
        poll: &Poll,
    ) -> io::Result<(Key, u16)> {
        self.retire_old(upstream, now, poll);
        let room = self.sockets.len() < SOCKETS_MAX;
        let to = self.upstreams.get_mut(upstream).ok_or_else(gone)?;
        let usable = to.sockets.len();
        let wants = usable == 0 || usable < SOCKETS_PER_UPSTREAM && room;
        let key = if wants && to.may_open(now) {
            self.open_socket(upstream, now, poll)?
        } else if usable > 0 {
            let index = usize::from(self.random.next_u16()?) % usable;
            self.upstreams.get(upstream).ok_or_else(gone)?.sockets[index]
        } else {
            return Err(io::ErrorKind::ResourceBusy.into());
        };
        let Some(socket) = self.sockets.get(key) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let id = free_id(&mut self.random, &socket.ids)?;
        Ok((key, id))
    }

    fn open_socket(&mut self, upstream: Key, now: Instant, poll: &Poll) -> io::Result<Key> {
        let to = self.upstreams.get(upstream).ok_or_else(gone)?;
        let socket = Socket::open(upstream, to, now)?;
        let token = Token::Socket(self.sockets.next_key());
        poll.add(&socket.udp, token, Interest::Read)?;
        let key = self.sockets.insert(socket);
        if let Some(upstream) = self.upstreams.get_mut(upstream) {
            upstream.sockets.push(key);
        }
        Ok(key)
    }

    fn close_socket(&mut self, key: Key, poll: &Poll) {
        let Some(socket) = self.sockets.remove(key) else {
            return;
        };
        poll.delete(&socket.udp);
        if let Some(upstream) = self.upstreams.get_mut(socket.upstream) {
            upstream.sockets.retain(|other| *other != key);
        }
    }

    /// Takes sockets used much or long out of use, as far as there is room to wait for their last replies.
    fn retire_old(&mut self, upstream: Key, now: Instant, poll: &Poll) {
        let room = self.sockets.len() < SOCKETS_MAX;
        let Some(upstream) = self.upstreams.get_mut(upstream) else {
            return;
        };
        let (sockets, list) = (&mut self.sockets, &mut upstream.sockets);
        list.retain(|&key| {
            let Some(socket) = sockets.get_mut(key) else {
                return false;
            };
            let old = socket.sent >= SOCKET_QUERIES || now - socket.opened >= SOCKET_AGE;
            if !old || !(room || socket.ids.is_empty()) {
                return true;
            }
            socket.retiring = true;
            close_if_over(sockets, key, poll);
            false
        });
    }

    /// One message from an upstream's socket.
    fn reply(&mut self, key: Key, message: &[u8], now: Instant, poll: &Poll) {
        let Some(socket) = self.sockets.get(key) else {
            return;
        };
        let Some(&[high, low]) = message.first_chunk() else {
            return;
        };
        let id = u16::from_be_bytes([high, low]);
        if let Some(&flight) = socket.ids.get(&id) {
            self.judge(flight, socket.upstream, message, now, poll);
        }
    }

    fn judge(&mut self, key: Key, upstream: Key, message: &[u8], now: Instant, poll: &Poll) {
        let Some(flight) = self.flights.get_mut(key) else {
            return;
        };
        // The id led here; the query's may be that of a later try.
        if let Some(id) = message.first_chunk::<2>() {
            flight.query[..2].copy_from_slice(id);
        }
        match judge(&flight.query, flight.question_end, message) {
            Verdict::Stranger => {}
            Verdict::Unhelpful => {
                if message.len() <= UNHELPFUL_MAX {
                    flight.unhelpful.get_or_insert_with(|| message.to_vec());
                }
                self.replied(upstream, now);
                self.useless(key, upstream, now, poll);
            }
            Verdict::Answer => {
                self.replied(upstream, now);
                if let Some(flight) = self.take(key, poll) {
                    self.keep_answer(&flight, message, now);
                    self.land(flight, Some(message));
                }
            }
        }
    }

    /// The kernel says that nobody is there: all who wait for it go elsewhere.
    fn socket_failed(&mut self, key: Key, now: Instant, poll: &Poll) {
        let Some(socket) = self.sockets.get_mut(key) else {
            return;
        };
        socket.sent = SOCKET_QUERIES;
        let upstream = socket.upstream;
        let waiting: Vec<_> = socket.ids.values().copied().collect();
        self.failed(upstream, now);
        for flight in waiting {
            self.useless(flight, upstream, now, poll);
        }
    }

    fn useless(&mut self, key: Key, upstream: Key, now: Instant, poll: &Poll) {
        self.forget(key, upstream, poll);
        self.advance(key, now, poll);
    }

    /// Ends a flight's try of an upstream and all further ones.
    fn forget(&mut self, key: Key, upstream: Key, poll: &Poll) {
        if let Some(flight) = self.flights.get_mut(key) {
            for choice in &mut flight.choices {
                choice.take_if(|choice| *choice == upstream);
            }
        }
        self.drop_try(key, upstream, poll);
    }

    fn drop_try(&mut self, key: Key, upstream: Key, poll: &Poll) {
        let flight = self.flights.get_mut(key);
        if let Some(try_) = flight.and_then(|flight| flight.forget(upstream)) {
            self.release(try_, poll);
        }
    }

    fn overdue(&mut self, key: Key, now: Instant, poll: &Poll) {
        let Some(flight) = self.flights.get(key) else {
            return;
        };
        let (is_over, since) = (now >= flight.give_up_at, flight.sent_at);
        if let Some(asked) = flight.asked_last.and_then(|asked| flight.tried(asked)) {
            self.silent(asked.upstream, since, now);
        }
        if is_over {
            self.give_up(key, poll);
        } else {
            self.advance(key, now, poll);
        }
    }

    fn give_up(&mut self, key: Key, poll: &Poll) {
        if let Some(mut flight) = self.take(key, poll) {
            let unhelpful = flight.unhelpful.take();
            self.land(flight, unhelpful.as_deref());
        }
    }

    fn take(&mut self, key: Key, poll: &Poll) -> Option<Flight> {
        let flight = self.flights.remove(key)?;
        self.bytes -= flight.query.len();
        for try_ in flight.tries.iter().flatten() {
            self.release(*try_, poll);
        }
        Some(flight)
    }

    fn release(&mut self, try_: Try, poll: &Poll) {
        match try_.via {
            Via::Udp { socket, id } => {
                if let Some(socket) = self.sockets.get_mut(socket) {
                    socket.ids.remove(&id);
                }
                close_if_over(&mut self.sockets, socket, poll);
            }
            Via::Tcp { link, id } => {
                if let Some(link) = self.links.get_mut(link) {
                    link.ids.remove(&id);
                }
            }
        }
    }

    /// Makes the client's reply of an upstream's message, or SERVFAIL of none.
    fn land(&mut self, mut flight: Flight, message: Option<&[u8]>) {
        flight.query[..2].copy_from_slice(&flight.client_id);
        if flight.origin == Origin::Probe {
            return self.recycle(flight.query);
        }
        let mut reply = self.spare.pop().unwrap_or_default();
        let Some(envelope) = Envelope::of(&flight.query) else {
            return;
        };
        match message {
            None => Response::new(envelope, flight.transport, &mut reply).finish(Rcode::ServFail),
            Some(message) if message.len() > envelope.client_limit(flight.transport) => {
                let response = Response::new(envelope, flight.transport, &mut reply);
                response.truncated().finish(Rcode::NoError);
            }
            Some(message) => {
                reply.extend_from_slice(message);
                reply[..2].copy_from_slice(&flight.client_id);
            }
        }
        self.recycle(flight.query);
        self.done.push((flight.origin, reply));
    }
}

/// An upstream was taken away meanwhile.
fn gone() -> io::Error {
    io::ErrorKind::NotFound.into()
}

/// Whether a failure to send is the upstream's, not ours for want of fds or ports.
fn is_theirs(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkDown
    )
}

/// Closes a socket that takes no more queries and waits for no reply.
fn close_if_over(sockets: &mut Slab<Socket>, key: Key, poll: &Poll) {
    let over = |socket: &Socket| socket.retiring && socket.ids.is_empty();
    if sockets.get(key).is_some_and(over) {
        if let Some(socket) = sockets.remove(key) {
            poll.delete(&socket.udp);
        }
    }
}

/// A random id that no query on its way has. At most [`FLIGHTS_MAX`] of 65536 are taken.
fn free_id(random: &mut Random, taken: &HashMap<u16, Key>) -> io::Result<u16> {
    loop {
        let id = random.next_u16()?;
        if !taken.contains_key(&id) {
            return Ok(id);
        }
    }
}

/// Connects, or reads what there is. A reply that came before a reset is read before the reset is told.
fn drive(link: &mut Link, ready: Ready, buffer: &mut [u8]) -> io::Result<()> {
    if link.interest == Interest::Write {
        if let Some(error) = link.tcp.take_error()? {
            return Err(error);
        }
        if ready.writable {
            // The connection stands.
            link.interest = Interest::None;
        }
    }
    if ready.readable || ready.broken {
        return link.read(buffer);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use cofferdam_testkit::{Need, NetNs, have};

    use super::*;

    /// What asks an upstream that is silent, at times of its own.
    struct World {
        forwarder: Forwarder,
        poll: Poll,
        upstreams: Upstreams,
        _silent: UdpSocket,
    }

    impl World {
        fn new() -> Self {
            let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
            let upstreams = Upstreams::new(vec![silent.local_addr().unwrap()]).unwrap();
            World {
                forwarder: Forwarder::new(None),
                poll: Poll::new().unwrap(),
                upstreams,
                _silent: silent,
            }
        }

        fn ask(&mut self, route: Key, now: Instant) {
            let bytes = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x02db\0\0\x01\0\x01";
            let query = Query::parse(bytes).unwrap();
            let origin = Origin::Udp {
                endpoint: route,
                peer: ([127, 0, 0, 1], 1).into(),
            };
            let (poll, udp) = (&self.poll, Transport::Udp);
            self.forwarder.submit(&query, route, origin, udp, now, poll);
        }
    }

    #[test]
    fn sockets_that_nobody_uses_are_closed() {
        if have(&[Need::Namespaces]) {
            NetNs::new().run(sockets_age);
        }
    }

    fn sockets_age() {
        let mut world = World::new();
        let start = Instant::now();
        let route = world.forwarder.join(&world.upstreams, start, &world.poll);
        assert_eq!(world.forwarder.patience(), None);
        for _ in 0..20 {
            world.ask(route, start);
        }
        assert_eq!(world.forwarder.sockets.len(), SOCKETS_PER_UPSTREAM);
        assert_eq!(world.forwarder.patience(), Some(SOCKET_AGE));
        // Those that wait for replies stay.
        world.ask(route, start + SOCKET_AGE);
        world.forwarder.tick(start + SOCKET_AGE, &world.poll);
        assert!(world.forwarder.is_busy() && !world.forwarder.sockets.is_empty());
        for second in [33, 34, 63, 64] {
            let now = start + Duration::from_secs(second);
            world.forwarder.tick(now, &world.poll);
        }
        assert_eq!(world.forwarder.done.len(), 21);
        assert_eq!(world.forwarder.sockets.len(), 0);
        assert_eq!(world.forwarder.patience(), None);
    }

    #[test]
    fn nothing_is_left_of_a_route_but_what_was_asked() {
        if have(&[Need::Namespaces]) {
            NetNs::new().run(routes_come_and_go);
        }
    }

    fn routes_come_and_go() {
        let mut world = World::new();
        let start = Instant::now();
        for _ in 0..50 {
            let route = world.forwarder.join(&world.upstreams, start, &world.poll);
            world.ask(route, start);
            world.forwarder.leave(route, &world.poll);
        }
        world.forwarder.tick(start, &world.poll);
        let forwarder = &world.forwarder;
        assert_eq!(forwarder.done.len(), 50);
        assert!(forwarder.routes.is_empty() && forwarder.upstreams.is_empty());
        assert!(forwarder.sockets.is_empty() && forwarder.flights.is_empty());
        assert_eq!(forwarder.bytes, 0);
    }
}
