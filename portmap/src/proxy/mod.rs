//! Ports led to a target by this process instead of the kernel: for `::1`, from IPv6 to IPv4, and where there is no netfilter.

mod event_loop;
mod relay;
mod sessions;
pub(crate) mod sys;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{AddressFamily, sockopt};

use crate::ephemeral::{Candidates, Turn};
use crate::error::{Failure, Inner, Result};
use crate::mapping::PortMapping;
use crate::netns::NetNs;
use crate::portmap::Published;
use crate::reservation::{BACKLOG, Claim, Families, Purpose, bound, refused};
use crate::spec::{PortSpec, Protocol};
use event_loop::EventLoop;

/// Leads ports of the host to targets through sockets of this process, by one thread with epoll(7) for all of them.
///
/// TCP goes through pipes with splice(2), without a copy to user space: the end of a stream and a RST are passed on, and who
/// does not read slows down who writes. UDP has a socket to the target for each client, and answers from the address the client
/// wrote to. The target sees the host's address as the client's.
///
/// It is what the rules of a [`Portmap`](crate::Portmap) cannot do: the kernel does not route `::1` to a container, nor from IPv6 to
/// IPv4. And it needs no privilege for ports that any process may bind.
///
/// A silent connection takes two file descriptors, one with data on its way four or six. Out of descriptors, clients wait in the
/// backlog.
///
/// Dropping it stops the thread: ports are closed, and connections that are open are reset. That takes milliseconds.
#[derive(Debug)]
#[must_use = "dropping a Proxy stops it"]
pub struct Proxy {
    shared: Arc<Shared>,
    netns: NetNs,
    turn: Turn,
    thread: Option<JoinHandle<()>>,
}

/// What a [`Proxy`] is started with.
#[derive(Clone, Debug, Default)]
#[must_use = "a ProxyBuilder does nothing until start"]
pub struct ProxyBuilder {
    limits: Limits,
    listen_netns: Option<Arc<OwnedFd>>,
    dial_netns: Option<Arc<OwnedFd>>,
}

#[derive(Clone, Debug)]
struct Limits {
    connections: usize,
    sessions: usize,
    connect_timeout: Duration,
    udp_idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 4096,
            sessions: 4096,
            connect_timeout: Duration::from_secs(10),
            udp_idle: Duration::from_secs(90),
        }
    }
}

/// What a [`Proxy`] has done so far. Bytes are those of streams and datagrams, without headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProxyStats {
    /// TCP connections that were accepted.
    pub accepted: u64,
    /// TCP connections that are open now.
    pub open: u64,
    /// Clients whose target refused, did not answer in time, or could not be dialled for want of file descriptors.
    pub unreachable: u64,
    /// How often accept(2) failed for want of file descriptors or memory.
    pub accept_errors: u64,
    /// UDP clients that were met.
    pub sessions: u64,
    /// Bytes from clients.
    pub to_target: u64,
    /// Bytes from targets.
    pub to_client: u64,
}

/// Ports that a [`Proxy`] leads somewhere. Dropping it closes them; connections that are open go on until they end or the proxy
/// stops.
#[derive(Debug)]
#[must_use = "dropping a Proxied closes its ports"]
pub struct Proxied {
    shared: Arc<Shared>,
    doors: Vec<u64>,
    ports: Vec<PortSpec>,
    /// Sockets that reserve ports, to let nothing in again.
    lent: Vec<OwnedFd>,
}

impl ProxyBuilder {
    /// At most so many TCP connections at once, 4096 by default. More wait in the backlog.
    pub fn max_connections(mut self, count: usize) -> Self {
        self.limits.connections = count;
        self
    }

    /// At most so many UDP clients at once, 4096 by default. For one more, the one that has been silent longest is forgotten.
    pub fn max_sessions(mut self, count: usize) -> Self {
        self.limits.sessions = count.max(1);
        self
    }

    /// How long a target may take to accept a connection, 10 seconds by default. Then the client's is reset.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.limits.connect_timeout = timeout;
        self
    }

    /// How long a UDP client may be silent before it is forgotten, 90 seconds by default. It may take a quarter longer.
    pub fn udp_idle(mut self, timeout: Duration) -> Self {
        self.limits.udp_idle = timeout;
        self
    }

    /// Listens in this network namespace instead of that of the thread that starts it.
    pub fn listen_in(mut self, netns: OwnedFd) -> Self {
        self.listen_netns = Some(Arc::new(netns));
        self
    }

    /// Dials targets from this network namespace instead of that of the thread that starts it: such as the container's own, and
    /// then `127.0.0.1` is the container's.
    pub fn dial_from(mut self, netns: OwnedFd) -> Self {
        self.dial_netns = Some(Arc::new(netns));
        self
    }

    /// Starts the thread. It takes two file descriptors and one for each namespace, and blocks all signals there.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_SYS_ADMIN` for another network namespace; else what the system says.
    pub fn start(self) -> Result<Proxy> {
        const DOING: &str = "start the proxy";
        let call =
            |step: &'static str| move |error: io::Error| Failure::call(step, &error).during(DOING);
        let here = || NetNs::of_this_thread().map_err(|failure| failure.during(DOING));
        let there = |fd: Option<Arc<OwnedFd>>| match fd {
            Some(fd) => NetNs::of_fd(&*fd).map_err(call("dup")),
            None => here(),
        };
        let (netns, dial_netns) = (there(self.listen_netns)?, there(self.dial_netns)?);
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let shared = Arc::new(Shared {
            wake: wake.map_err(|errno| call("eventfd")(errno.into()))?,
            commands: Mutex::default(),
            counters: Counters::default(),
            next_door: AtomicU64::new(0),
        });
        let event_loop = EventLoop::new(Arc::clone(&shared), self.limits).map_err(call("epoll"))?;
        let (entered, entering) = sync_channel(1);
        let thread = thread::Builder::new()
            .name("portmap-proxy".to_owned())
            .spawn(move || {
                sys::block_signals();
                let is_in = dial_netns.enter();
                let may_run = is_in.is_ok();
                drop(dial_netns);
                if entered.send(is_in).is_ok() && may_run {
                    event_loop.run();
                }
            })
            .map_err(call("spawn a thread"))?;
        let mut proxy = Proxy {
            shared,
            netns,
            turn: Turn::default(),
            thread: Some(thread),
        };
        match entering.recv() {
            Ok(Ok(())) => Ok(proxy),
            Ok(Err(error)) => {
                proxy.join();
                Err(refused(None, &error).during(DOING))
            }
            Err(_panicked) => Err(gone(DOING)),
        }
    }
}

impl Proxy {
    /// The default: 4096 connections, in the network namespace of the thread that starts it.
    pub fn builder() -> ProxyBuilder {
        ProxyBuilder::default()
    }

    /// Listens on the host's ports of `spec` and leads them to the container's of `target`, by TCP or UDP. Both may be of either
    /// family. It works from the return of this call.
    ///
    /// # Errors
    /// `Busy` if a socket of the host has a port; `Exhausted` if every port that may be chosen is taken; `NotFound` if the host
    /// does not have the address; `PermissionDenied` for a port below `net.ipv4.ip_unprivileged_port_start` without
    /// `CAP_NET_BIND_SERVICE`; `Unsupported` for SCTP. In each case nothing is listening.
    pub fn publish(&self, spec: &PortSpec, target: IpAddr) -> Result<Proxied> {
        let doing = format!("proxy {spec} to {target}");
        if spec.protocol() == Protocol::Sctp {
            let what = "SCTP by a proxy";
            return Err(Inner::Unsupported { doing, what }.into());
        }
        let bound = spec.expand().map(|one| self.bind(&one, &doing));
        let bound = bound.collect::<Result<Vec<_>>>()?;
        let mut proxied = self.nothing();
        for (port, socket) in bound {
            let target = SocketAddr::new(target, port.container_port());
            self.open(&mut proxied, socket, target, port.protocol(), &doing)?;
            proxied.ports.push(port);
        }
        Ok(proxied)
    }

    /// Leads what comes to a socket that is bound already, and listens if it is of TCP, to `target`. It is set not to block, and let
    /// go of when somebody shuts it down.
    ///
    /// # Errors
    /// `InvalidInput` for a socket that is neither of TCP nor of UDP, or does not listen; else what the system says.
    pub fn serve(&self, socket: impl Into<OwnedFd>, target: SocketAddr) -> Result<Proxied> {
        let socket = socket.into();
        let doing = format!("proxy a socket to {target}");
        let call = |error: io::Error| Failure::call("look at the socket", &error).during(&doing);
        let protocol = protocol_of(&socket).map_err(call)?;
        rustix::io::ioctl_fionbio(&socket, true).map_err(|errno| call(errno.into()))?;
        let mut proxied = self.nothing();
        self.open(&mut proxied, socket, target, protocol, &doing)?;
        Ok(proxied)
    }

    /// Answers what comes to the sockets that [reserve](crate::Reserve::Hold) published ports, and leads it to where they are
    /// published: what the rules do not lead, such as connections of the host itself to `[::1]`, or to `127.0.0.1` without
    /// `route_localnet`. What the rules lead never comes here, and keeps the client's address. SCTP is left out.
    ///
    /// When it is [removed](Proxied::remove) the sockets let nothing in again.
    ///
    /// # Errors
    /// What the system says. Then the sockets let nothing in, as before.
    pub fn assist(&self, published: &Published) -> Result<Proxied> {
        const DOING: &str = "proxy the sockets of published ports";
        let call = |error: io::Error| Failure::call("open the socket", &error).during(DOING);
        let mut proxied = self.nothing();
        for reservation in &published.reservations {
            let Some((claim, socket)) = reservation.held() else {
                continue;
            };
            let leads = |port: &&PortMapping| claim.is_of(port);
            let Some(port) = published.ports().iter().find(leads) else {
                continue;
            };
            if port.protocol() == Protocol::Sctp {
                continue;
            }
            let dup = || socket.try_clone().map_err(call);
            proxied.lent.push(dup()?);
            let serving = dup()?;
            self.open(&mut proxied, serving, port.target(), port.protocol(), DOING)?;
            answering(socket).map_err(call)?;
        }
        Ok(proxied)
    }

    /// What it has done so far.
    #[must_use]
    pub fn stats(&self) -> ProxyStats {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.shared.counters;
        ProxyStats {
            accepted: of(&counters.accepted),
            open: of(&counters.open),
            unreachable: of(&counters.unreachable),
            accept_errors: of(&counters.accept_errors),
            sessions: of(&counters.sessions),
            to_target: of(&counters.to_target),
            to_client: of(&counters.to_client),
        }
    }

    /// Closes all ports, resets the connections that are open, and waits for the thread.
    ///
    /// # Errors
    /// `Malformed` if the thread had ended before.
    pub fn stop(mut self) -> Result<()> {
        match self.join() {
            true => Ok(()),
            false => Err(gone("stop the proxy")),
        }
    }

    /// Leaves it running as long as the process does. Ports are still closed by their [`Proxied`].
    pub fn persist(mut self) {
        drop(self.thread.take());
    }

    fn nothing(&self) -> Proxied {
        Proxied {
            shared: Arc::clone(&self.shared),
            doors: Vec::new(),
            ports: Vec::new(),
            lent: Vec::new(),
        }
    }

    /// Binds a spec of one container port, and says which port of the host it was.
    fn bind(&self, spec: &PortSpec, doing: &str) -> Result<(PortSpec, OwnedFd)> {
        let candidates = match spec.is_single() {
            true => Ok(Candidates::within(spec.host_port(), spec.host_port())),
            false => Candidates::for_spec(spec, &self.netns),
        };
        let candidates = candidates.map_err(|failure| failure.during(doing))?;
        let mut last = *spec;
        let mut tries = 0;
        let bound = self.netns.run(|| {
            for port in candidates.from(&self.turn).take(Candidates::TRIES) {
                (last, tries) = (spec.at_host_port(port), tries + 1);
                match bound(&Claim::of(&last, Families::Both), Purpose::Serve) {
                    Err(error)
                        if !spec.is_single() && error.raw_os_error() == Some(libc::EADDRINUSE) => {}
                    bound => return bound,
                }
            }
            Ok(None)
        });
        match bound.map_err(|error| {
            refused(Some(Claim::of(&last, Families::Both)), &error).during(doing)
        })? {
            Some(socket) => {
                self.turn.after(&candidates, last.host_port());
                Ok((last, socket))
            }
            None => Err(candidates.exhausted(doing, tries)),
        }
    }

    fn open(
        &self,
        proxied: &mut Proxied,
        socket: OwnedFd,
        target: SocketAddr,
        protocol: Protocol,
        doing: &str,
    ) -> Result<()> {
        let call = |error: io::Error| Failure::call("listen", &error).during(doing);
        let is_udp = protocol == Protocol::Udp;
        if is_udp {
            let family = sockopt::socket_domain(&socket).map_err(|errno| call(errno.into()))?;
            sys::tell_destination(&socket, family == AddressFamily::INET6).map_err(call)?;
        }
        let id = self.shared.next_door.fetch_add(1, Ordering::Relaxed);
        let answer = self.shared.ask(|done| Command::Open {
            id,
            socket,
            target,
            is_udp,
            done,
        });
        match answer.and_then(|answer| answer.recv().ok()) {
            Some(opened) => opened.map_err(call)?,
            None => return Err(gone(doing)),
        }
        proxied.doors.push(id);
        Ok(())
    }

    /// Whether the thread ended because it was told to.
    fn join(&mut self) -> bool {
        let Some(thread) = self.thread.take() else {
            return true;
        };
        let told = self.shared.send(Command::Stop);
        thread.join().is_ok() && told
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.join();
        }
    }
}

impl Proxied {
    /// Its ports, one of the host each, with those that were chosen. Empty for a socket that was handed in.
    #[must_use]
    pub fn ports(&self) -> &[PortSpec] {
        &self.ports
    }

    /// Closes its ports, and returns when they are closed. Connections that are open go on until they end or the proxy stops; UDP
    /// clients are forgotten. That the proxy has stopped is success.
    ///
    /// # Errors
    /// None as yet.
    pub fn remove(mut self) -> Result<()> {
        self.close(None);
        Ok(())
    }

    /// Leaves its ports open until the proxy stops.
    pub fn persist(mut self) {
        self.doors.clear();
        self.lent.clear();
    }

    fn close(&mut self, at_most: Option<Duration>) {
        for id in std::mem::take(&mut self.doors) {
            let Some(answer) = self.shared.ask(|done| Command::Close { id, done }) else {
                break;
            };
            let _unused = match at_most {
                Some(time) => answer.recv_timeout(time).is_ok(),
                None => answer.recv().is_ok(),
            };
        }
        for socket in self.lent.drain(..) {
            let _unused = silent(&socket).is_ok();
        }
    }
}

impl Drop for Proxied {
    fn drop(&mut self) {
        self.close(Some(Duration::from_secs(1)));
    }
}

/// What the handles and the thread have in common.
struct Shared {
    /// An eventfd the thread waits for, among others.
    wake: OwnedFd,
    commands: Mutex<Commands>,
    counters: Counters,
    next_door: AtomicU64,
}

#[derive(Default)]
struct Commands {
    waiting: Vec<Command>,
    /// Nobody reads them any more.
    closed: bool,
}

enum Command {
    Open {
        id: u64,
        socket: OwnedFd,
        target: SocketAddr,
        is_udp: bool,
        done: SyncSender<io::Result<()>>,
    },
    Close {
        id: u64,
        done: SyncSender<io::Result<()>>,
    },
    Stop,
}

#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    open: AtomicU64,
    unreachable: AtomicU64,
    accept_errors: AtomicU64,
    sessions: AtomicU64,
    to_target: AtomicU64,
    to_client: AtomicU64,
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

impl Shared {
    fn commands(&self) -> MutexGuard<'_, Commands> {
        // A panic elsewhere leaves a list of commands.
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False if the thread has ended.
    fn send(&self, command: Command) -> bool {
        let mut commands = self.commands();
        if commands.closed {
            return false;
        }
        commands.waiting.push(command);
        drop(commands);
        rustix::io::write(&self.wake, &1_u64.to_ne_bytes()).is_ok()
    }

    fn ask(
        &self,
        command: impl FnOnce(SyncSender<io::Result<()>>) -> Command,
    ) -> Option<Receiver<io::Result<()>>> {
        let (done, answer) = sync_channel(1);
        self.send(command(done)).then_some(answer)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

/// Lets clients in to a socket that reserves a port.
fn answering(socket: &OwnedFd) -> io::Result<()> {
    if protocol_of(socket)? == Protocol::Tcp {
        rustix::net::listen(socket, BACKLOG)?;
    }
    crate::sys::drop_nothing(socket)
}

/// Lets nobody in any more. Who waited to be taken is refused.
fn silent(socket: &OwnedFd) -> io::Result<()> {
    crate::sys::drop_all(socket)?;
    if protocol_of(socket)? == Protocol::Tcp {
        rustix::net::shutdown(socket, rustix::net::Shutdown::Both)?;
        rustix::net::listen(socket, 1)?;
    }
    Ok(())
}

fn protocol_of(socket: &OwnedFd) -> io::Result<Protocol> {
    use rustix::net::SocketType;
    let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
    match (
        sockopt::socket_domain(socket)?,
        sockopt::socket_type(socket)?,
    ) {
        (AddressFamily::INET | AddressFamily::INET6, SocketType::DGRAM) => Ok(Protocol::Udp),
        (AddressFamily::INET | AddressFamily::INET6, SocketType::STREAM) => {
            match sockopt::socket_acceptconn(socket)? {
                true => Ok(Protocol::Tcp),
                false => Err(invalid()),
            }
        }
        _ => Err(invalid()),
    }
}

fn gone(doing: &str) -> crate::error::Error {
    let (step, what) = ("the proxy's thread".to_owned(), "it has ended".to_owned());
    Failure::Answer { step, what }.during(doing)
}
