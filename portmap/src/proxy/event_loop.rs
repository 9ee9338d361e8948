//! The one thread of a proxy.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, accept_with, connect, recv, send,
    socket_with, sockopt,
};

use super::relay::{Pipes, Progress, Relay, reset};
use super::sessions::{Client, Session, Sessions};
use super::{Command, Limits, Shared, add, sys};

/// What is waited for, in the last two bits of a token; before them stands whose.
const CLIENT: u64 = 0;
const TARGET: u64 = 1;
const DOOR: u64 = 2;
const SESSION: u64 = 3;
/// The token of the eventfd that says there are commands.
const WAKE: u64 = u64::MAX;
/// Between two tries of what failed for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// How many connections or datagrams of one socket are taken before it is the turn of others.
const TURN: usize = 64;

/// A socket that clients come to.
#[derive(Debug)]
struct Door {
    socket: OwnedFd,
    target: SocketAddr,
    is_udp: bool,
    is_paused: bool,
}

pub(super) struct EventLoop {
    epoll: OwnedFd,
    shared: Arc<Shared>,
    limits: Limits,
    doors: HashMap<u64, Door>,
    relays: HashMap<u64, Relay>,
    sessions: Sessions,
    pipes: Pipes,
    /// Relays with more to move, and those that wait for a pipe.
    ready: BTreeSet<u64>,
    starved: BTreeSet<u64>,
    /// How many relays wait for their target, so that it is known when nobody need be looked after.
    connecting: usize,
    next_id: u64,
    next_round: Instant,
    buffer: Vec<u8>,
}

impl EventLoop {
    pub(super) fn new(shared: Arc<Shared>, limits: Limits) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = epoll::EventData::new_u64(WAKE);
        epoll::add(&epoll, &shared.wake, wake, epoll::EventFlags::IN)?;
        Ok(EventLoop {
            epoll,
            shared,
            limits,
            doors: HashMap::new(),
            relays: HashMap::new(),
            sessions: Sessions::default(),
            pipes: Pipes::default(),
            ready: BTreeSet::new(),
            starved: BTreeSet::new(),
            connecting: 0,
            next_id: 0,
            next_round: Instant::now(),
            buffer: vec![0; 1 << 16],
        })
    }

    /// Until it is told to stop. Connections that are open then are reset.
    pub(super) fn run(mut self) {
        let mut events = Vec::with_capacity(256);
        loop {
            let timeout = self.timeout();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                timeout.as_ref(),
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_impossible) => break,
            }
            for event in events.drain(..) {
                let (token, flags) = (event.data.u64(), event.flags);
                if token == WAKE {
                    if !self.obey() {
                        return self.reset_all();
                    }
                    continue;
                }
                self.answer(token >> 2, token & 3, flags);
            }
            for id in std::mem::take(&mut self.ready) {
                self.advance(id);
            }
            self.look_after();
        }
        self.reset_all();
    }

    fn reset_all(mut self) {
        for (_, relay) in self.relays.drain() {
            relay.reset();
        }
        self.shared
            .counters
            .open
            .store(0, std::sync::atomic::Ordering::Relaxed);
    }

    /// None to wait for events only: nobody has a deadline.
    fn timeout(&self) -> Option<Timespec> {
        let wait = match () {
            () if !self.ready.is_empty() => Duration::ZERO,
            () if self.has_deadlines() => self.next_round.saturating_duration_since(Instant::now()),
            () => return None,
        };
        Timespec::try_from(wait).ok()
    }

    fn has_deadlines(&self) -> bool {
        !self.starved.is_empty()
            || self.connecting > 0
            || self.sessions.len() > 0
            || (self.has_room() && self.doors.values().any(|door| door.is_paused))
    }

    fn has_room(&self) -> bool {
        self.relays.len() < self.limits.connections
    }

    /// Does what was asked for by the handles. False to stop.
    fn obey(&mut self) -> bool {
        // Nonblocking: how often it was written does not matter.
        let _unused = rustix::io::read(&self.shared.wake, &mut [0; 8]).is_ok();
        let commands = std::mem::take(&mut self.shared.commands().waiting);
        for command in commands {
            match command {
                Command::Open {
                    id,
                    socket,
                    target,
                    is_udp,
                    done,
                } => {
                    let _nobody_waits = done.send(self.open(id, socket, target, is_udp)).is_ok();
                }
                Command::Close { id, done } => {
                    self.close(id);
                    let _nobody_waits = done.send(Ok(())).is_ok();
                }
                Command::Stop => return false,
            }
        }
        true
    }

    fn open(
        &mut self,
        id: u64,
        socket: OwnedFd,
        target: SocketAddr,
        is_udp: bool,
    ) -> io::Result<()> {
        let token = epoll::EventData::new_u64(id << 2 | DOOR);
        epoll::add(&self.epoll, &socket, token, epoll::EventFlags::IN)?;
        let door = Door {
            socket,
            target,
            is_udp,
            is_paused: false,
        };
        self.doors.insert(id, door);
        Ok(())
    }

    fn close(&mut self, id: u64) {
        if let Some(door) = self.doors.remove(&id) {
            let _unused = epoll::delete(&self.epoll, &door.socket).is_ok();
        }
        self.sessions.remove_of(id);
    }

    fn answer(&mut self, id: u64, whose: u64, flags: epoll::EventFlags) {
        match whose {
            DOOR => match self.doors.get(&id).map(|door| door.is_udp) {
                Some(true) => self.hear(id),
                Some(false) => self.accept(id),
                None => {}
            },
            SESSION => self.reply(id),
            _ => {
                let Some(relay) = self.relays.get_mut(&id) else {
                    return;
                };
                let is_connecting = relay.connecting_until.is_some();
                if is_connecting && whose == TARGET {
                    if relay.connected().is_err() {
                        add(&self.shared.counters.unreachable, 1);
                        return self.end(id, Progress::Broken);
                    }
                    self.connecting -= 1;
                } else if flags.contains(epoll::EventFlags::ERR) && relay.is_reset() {
                    return self.end(id, Progress::Broken);
                }
                self.advance(id);
            }
        }
    }

    fn accept(&mut self, id: u64) {
        for _ in 0..TURN {
            let Some(door) = self.doors.get_mut(&id) else {
                return;
            };
            // What cannot be served waits in the backlog.
            if self.relays.len() >= self.limits.connections {
                return self.pause(id);
            }
            let target = door.target;
            match accept_with(&door.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(client) => self.relay(client, target),
                Err(Errno::AGAIN) => return,
                // It was gone before it was taken.
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                // Somebody has shut the socket down: it would be told of for ever.
                Err(Errno::INVAL) => return self.close(id),
                Err(_no_descriptors) => {
                    add(&self.shared.counters.accept_errors, 1);
                    return self.pause(id);
                }
            }
        }
    }

    /// Lets a door wait: it would be told of again and again.
    fn pause(&mut self, id: u64) {
        if let Some(door) = self.doors.get_mut(&id) {
            let token = epoll::EventData::new_u64(id << 2 | DOOR);
            let none = epoll::EventFlags::empty();
            door.is_paused = epoll::modify(&self.epoll, &door.socket, token, none).is_ok();
            self.next_round = self.next_round.min(Instant::now() + PAUSE);
        }
    }

    fn relay(&mut self, client: OwnedFd, target: SocketAddr) {
        add(&self.shared.counters.accepted, 1);
        let dialled = dial(target, SocketType::STREAM).and_then(|target| {
            for end in [&client, &target] {
                sockopt::set_tcp_nodelay(end, true)?;
                sockopt::set_socket_keepalive(end, true)?;
            }
            Ok(target)
        });
        let Ok(target) = dialled else {
            add(&self.shared.counters.unreachable, 1);
            return reset(&client);
        };
        let id = self.take_id();
        let relay = Relay::new(client, target, self.limits.connect_timeout);
        let flags = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::ET;
        for (end, whose) in relay.ends.iter().zip([CLIENT, TARGET]) {
            let token = epoll::EventData::new_u64(id << 2 | whose);
            if epoll::add(&self.epoll, end, token, flags).is_err() {
                return relay.reset();
            }
        }
        self.connecting += 1;
        self.next_round = self.next_round.min(Instant::now() + PAUSE);
        self.relays.insert(id, relay);
        self.count_open();
    }

    fn advance(&mut self, id: u64) {
        let Some(relay) = self.relays.get_mut(&id) else {
            return;
        };
        let mut moved = [0, 0];
        let progress = relay.advance(&mut self.pipes, &mut moved);
        add(&self.shared.counters.to_target, moved[0]);
        add(&self.shared.counters.to_client, moved[1]);
        match progress {
            Progress::Waiting => {}
            Progress::More => {
                self.ready.insert(id);
            }
            Progress::NoPipe => {
                self.starved.insert(id);
                self.next_round = self.next_round.min(Instant::now() + PAUSE);
            }
            Progress::Ended | Progress::Broken => self.end(id, progress),
        }
    }

    fn end(&mut self, id: u64, how: Progress) {
        let Some(relay) = self.relays.remove(&id) else {
            return;
        };
        if relay.connecting_until.is_some() {
            self.connecting -= 1;
        }
        if how == Progress::Broken {
            relay.reset();
        }
        self.count_open();
    }

    fn count_open(&self) {
        let open = self.relays.len() as u64;
        let counter = &self.shared.counters.open;
        counter.store(open, std::sync::atomic::Ordering::Relaxed);
    }

    /// Datagrams from clients.
    fn hear(&mut self, id: u64) {
        for _ in 0..TURN {
            let Some(door) = self.doors.get(&id) else {
                return;
            };
            let Ok(datagram) = sys::receive(&door.socket, &mut self.buffer) else {
                return;
            };
            let (target, from, to) = (door.target, datagram.from, datagram.to);
            let client = Client {
                forward: id,
                from,
                to,
            };
            if self.sessions.of(&client).is_none() && self.meet(client, target).is_err() {
                add(&self.shared.counters.unreachable, 1);
                continue;
            }
            if let Some(session) = self.sessions.of(&client) {
                session.last = Instant::now();
                let bytes = &self.buffer[..datagram.length];
                // UDP: what cannot be sent now is lost. ECONNREFUSED is of an earlier one, and clears with this call.
                if send(&session.socket, bytes, SendFlags::DONTWAIT) == Err(Errno::CONNREFUSED) {
                    let _unused = send(&session.socket, bytes, SendFlags::DONTWAIT).is_ok();
                }
                add(&self.shared.counters.to_target, datagram.length as u64);
            }
        }
    }

    fn meet(&mut self, client: Client, target: SocketAddr) -> io::Result<()> {
        if self.sessions.len() >= self.limits.sessions {
            self.sessions.remove_oldest();
        }
        let socket = dial(target, SocketType::DGRAM)?;
        let id = self.take_id();
        let token = epoll::EventData::new_u64(id << 2 | SESSION);
        epoll::add(&self.epoll, &socket, token, epoll::EventFlags::IN)?;
        let last = Instant::now();
        self.sessions.add(
            id,
            Session {
                client,
                socket,
                last,
            },
        );
        self.next_round = self.next_round.min(last + self.limits.udp_idle / 4);
        add(&self.shared.counters.sessions, 1);
        Ok(())
    }

    /// Datagrams from the target.
    fn reply(&mut self, id: u64) {
        for _ in 0..TURN {
            let Some(session) = self.sessions.by_id(id) else {
                return;
            };
            let length = match recv(&session.socket, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((_, length)) => length,
                // Nobody listens at the target: told once for each datagram.
                Err(Errno::CONNREFUSED) => continue,
                Err(_) => return,
            };
            session.last = Instant::now();
            let Some(door) = self.doors.get(&session.client.forward) else {
                return;
            };
            let Client { from, to, .. } = session.client;
            let bytes = &self.buffer[..length];
            if sys::send(&door.socket, bytes, from, to).is_ok() {
                add(&self.shared.counters.to_client, length as u64);
            }
        }
    }

    /// Once in a while, if there is anybody to look after.
    fn look_after(&mut self) {
        let now = Instant::now();
        if !self.has_deadlines() || now < self.next_round {
            return;
        }
        self.sessions.remove_silent(self.limits.udp_idle, now);
        let late: Vec<u64> = self
            .relays
            .iter()
            .filter(|(_, relay)| relay.connecting_until.is_some_and(|until| until <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            add(&self.shared.counters.unreachable, 1);
            self.end(id, Progress::Broken);
        }
        for id in std::mem::take(&mut self.starved) {
            self.advance(id);
        }
        if self.has_room() {
            self.resume();
        }
        let soon = !self.starved.is_empty() || self.connecting > 0;
        let next = match soon || self.doors.values().any(|door| door.is_paused) {
            true => PAUSE,
            false => (self.limits.udp_idle / 4).max(PAUSE),
        };
        self.next_round = now + next;
    }

    fn resume(&mut self) {
        for (id, door) in self.doors.iter_mut().filter(|(_, door)| door.is_paused) {
            let token = epoll::EventData::new_u64(*id << 2 | DOOR);
            let resumed = epoll::modify(&self.epoll, &door.socket, token, epoll::EventFlags::IN);
            door.is_paused = resumed.is_err();
        }
    }

    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        // Whoever waits for an answer is told by this that there will be none.
        let mut commands = self.shared.commands();
        commands.closed = true;
        commands.waiting.clear();
    }
}

/// A socket that is on its way to be connected.
fn dial(target: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = match target {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, kind, flags, None)?;
    match connect(socket.as_fd(), &target) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}
