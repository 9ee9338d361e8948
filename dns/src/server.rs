//! The server: its threads, and the containers it serves.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, sync_channel};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::counters::Counts;
use crate::event_loop::{Command, Config, Served};
use crate::log::Log;
use crate::scope::Scope;
use crate::slab::Key;
use crate::worker::{Control, PATIENCE, THREAD, Worker};
use crate::{Cache, Counters, Error, Logged, Result, Upstreams};

/// Threads of a server: more than there are reasons for.
const WORKERS_MAX: usize = 64;

/// A DNS server for any number of containers, on a thread of its own or several.
///
/// Dropping it ends the threads and closes every socket, within 2 seconds; [`Server::stop`] tells how that went. It
/// cannot outlive the process: names have to be answered by someone.
#[derive(Debug)]
#[must_use = "dropping a Server ends its thread"]
pub struct Server {
    workers: Vec<Worker>,
    /// Endpoints so far: the workers take turns.
    served: AtomicU64,
}

/// How a [`Server`] is to be. It does nothing before [`start`](ServerBuilder::start).
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing before start()"]
pub struct ServerBuilder {
    upstreams: Option<Upstreams>,
    cache: Option<Cache>,
    more_workers: usize,
    log: Log,
}

/// One container that a [`Server`] serves.
///
/// Dropping it closes the container's sockets, within 2 seconds; [`Endpoint::remove`] tells how that went.
#[derive(Debug)]
#[must_use = "dropping an Endpoint closes its sockets"]
pub struct Endpoint {
    control: Control,
    key: Option<Key>,
    id: u64,
    counts: Arc<Counts>,
}

impl ServerBuilder {
    /// Where queries go that no zone answers. Without any, they fail. A [`Scope`] may have [others](Scope::upstreams).
    pub fn upstreams(mut self, upstreams: &Upstreams) -> Self {
        self.upstreams = Some(upstreams.clone());
        self
    }

    /// Sends them to the nameservers of a resolv.conf(5), and to others when the file changes: [`Upstreams::follow`].
    pub fn resolv_conf(self, path: impl Into<PathBuf>) -> Self {
        self.upstreams(&Upstreams::follow(path))
    }

    /// Keeps answers of upstreams. Unless asked for, none are.
    pub fn cache(mut self, cache: Cache) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Serves from so many threads, one unless told otherwise, among which the containers are shared out. One answers
    /// about as many queries as a CPU can receive; a second is for hosts where that is too few, and has
    /// [limits](crate#limits) and sockets to upstreams of its own.
    pub fn workers(mut self, threads: NonZeroUsize) -> Self {
        self.more_workers = threads.get() - 1;
        self
    }

    /// Has `tell` told of each query that could be read, before it is answered or forwarded.
    ///
    /// It is called on the server's threads, so nobody is answered while it runs: it should count, or hand on by a
    /// channel that does not block. A panic of it ends here, once the panic hook has told of it: the query is answered all
    /// the same, and the next one told.
    pub fn query_log(mut self, tell: impl Fn(&Logged<'_>) + Send + Sync + 'static) -> Self {
        self.log = Log::new(tell);
        self
    }

    /// Starts the threads. Their sockets to upstreams are of the network namespace that the calling thread is in.
    ///
    /// # Errors
    /// `InvalidInput` for more than 64 threads; `Busy` or `Os` if epoll, an eventfd or a thread cannot be had.
    pub fn start(self) -> Result<Server> {
        if self.more_workers >= WORKERS_MAX {
            return Err(Error::workers(self.more_workers + 1));
        }
        let config = Config {
            upstreams: self.upstreams.unwrap_or_else(Upstreams::none),
            cache: self.cache,
            log: self.log,
        };
        let start = |_| Worker::start(config.clone());
        Ok(Server {
            workers: (0..=self.more_workers).map(start).collect::<Result<_>>()?,
            served: AtomicU64::new(0),
        })
    }
}

impl Server {
    /// A server to be configured. As it is, it has no upstreams.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }

    /// Serves one more container from sockets that are bound already, most often by [`bind_in`] to
    /// [`LISTEN`](crate::LISTEN) inside the container's network namespace. Replies go out of the socket that the query
    /// came in, so neither may be bound to the wildcard address.
    ///
    /// # Errors
    /// `InvalidInput` if a socket is bound to no one address; `NotFound` if the server has ended; `Busy` or `Os` if a
    /// socket cannot be waited for.
    pub fn serve(
        &self,
        udp: UdpSocket,
        tcp: TcpListener,
        scope: impl Into<Scope>,
    ) -> Result<Endpoint> {
        let address = prepare(&udp, &tcp)?;
        let id = self.served.fetch_add(1, Ordering::Relaxed);
        let worker = id as usize % self.workers.len();
        let control = &self.workers[worker].control;
        let counts = Arc::new(Counts::default());
        let (done, result) = sync_channel(1);
        let served = Served {
            id,
            udp,
            tcp,
            scope: scope.into(),
            counts: Arc::clone(&counts),
        };
        control.send(Command::Serve { served, done }, "serve")?;
        let key = result
            .recv()
            .map_err(|mpsc::RecvError| Error::ended("serve"))?
            .map_err(Error::sys("epoll_ctl", address))?;
        Ok(Endpoint {
            control: control.clone(),
            key: Some(key),
            id,
            counts,
        })
    }

    /// Ends the threads and closes every socket.
    ///
    /// # Errors
    /// `NotFound` if a thread had ended by itself, which it does only by a panic; `Busy` if it does not end. The others
    /// have ended all the same.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        let ends: Vec<_> = self.workers.iter_mut().map(Worker::end).collect();
        ends.into_iter().collect()
    }
}

impl Endpoint {
    /// Its number among those of its [`Server`], by which a [query log](ServerBuilder::query_log) names it.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What became of the container's queries so far, without asking the server's thread.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counts.now()
    }

    /// Changes what the container may ask: it joined or left a network. Queries sent after this has returned are
    /// answered by the new scope.
    ///
    /// # Errors
    /// `NotFound` if the server has ended; `Busy` if it does not react within 2 seconds, and then the new scope holds
    /// when it does.
    pub fn set_scope(&self, scope: impl Into<Scope>) -> Result<()> {
        let Some(endpoint) = self.key else {
            return Ok(());
        };
        let (done, result) = sync_channel(1);
        let command = Command::Scope {
            endpoint,
            scope: scope.into(),
            done,
        };
        self.control.send(command, "set scope")?;
        match result.recv_timeout(PATIENCE) {
            Ok(()) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => Err(Error::ended("set scope")),
            Err(RecvTimeoutError::Timeout) => {
                Err(Error::sys("set scope in", THREAD)(rustix::io::Errno::BUSY))
            }
        }
    }

    /// Stops serving the container. Its sockets are closed when this returns, so nothing here keeps its network
    /// namespace alive.
    ///
    /// # Errors
    /// `Busy` if the server does not react. A server that has ended has closed the sockets already.
    pub fn remove(mut self) -> Result<()> {
        self.take_out()
    }

    fn take_out(&mut self) -> Result<()> {
        let Some(endpoint) = self.key.take() else {
            return Ok(());
        };
        let (done, result) = sync_channel(1);
        let command = Command::Remove { endpoint, done };
        if self.control.send(command, "remove").is_err() {
            return Ok(());
        }
        match result.recv_timeout(PATIENCE) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => Ok(()),
            Err(RecvTimeoutError::Timeout) => Err(Error::sys("remove endpoint from", THREAD)(
                rustix::io::Errno::BUSY,
            )),
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        let _unheard = self.take_out().is_err();
    }
}

/// Checks that the sockets can be served, and makes them wait for nothing.
fn prepare(udp: &UdpSocket, tcp: &TcpListener) -> Result<SocketAddr> {
    let addresses = [
        udp.local_addr().map_err(Error::sys("getsockname", "udp"))?,
        tcp.local_addr().map_err(Error::sys("getsockname", "tcp"))?,
    ];
    for address in addresses {
        if address.ip().is_unspecified() {
            return Err(Error::socket(address, "is not bound to one address"));
        }
    }
    udp.set_nonblocking(true)
        .and_then(|()| tcp.set_nonblocking(true))
        .map_err(Error::sys("set O_NONBLOCK on", addresses[0]))?;
    Ok(addresses[0])
}

/// Opens a UDP socket and a TCP listener on `address` inside the network namespace `netns`, on a thread that enters it
/// by setns(2) and ends here.
///
/// # Errors
/// `PermissionDenied` without `CAP_SYS_ADMIN` over the namespace and in the caller's own, or, for a port below 1024,
/// `CAP_NET_BIND_SERVICE`; `AlreadyExists` if something listens there; `InvalidInput` if `netns` is no network
/// namespace; `Os` otherwise.
pub fn bind_in(netns: impl AsFd, address: SocketAddr) -> Result<(UdpSocket, TcpListener)> {
    let open = || {
        let udp = UdpSocket::bind(address).map_err(Error::sys("bind udp", address))?;
        let tcp = TcpListener::bind(address).map_err(Error::sys("bind tcp", address))?;
        Ok((udp, tcp))
    };
    run_in(netns.as_fd(), open)?
}

/// Does something in a network namespace, on a thread that enters it by setns(2) and ends here.
pub(crate) fn run_in<T: Send>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> Result<T> {
    let enter_and_work = || {
        move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))
            .map_err(Error::sys("setns", "network namespace"))?;
        Ok(work())
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name(THREAD.to_owned())
            .spawn_scoped(scope, enter_and_work)
            .map_err(Error::sys("start thread", THREAD))?;
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read, Write};
    use std::net::TcpStream;
    use std::time::Duration;

    use cofferdam_testkit::{Need, NetNs, have};

    use super::*;
    use crate::{ErrorKind, LISTEN};

    #[test]
    fn sockets_on_the_wildcard_address_are_refused() {
        let server = Server::builder().start().unwrap();
        let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = server.serve(udp, tcp, Scope::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        server.stop().unwrap();
    }

    #[test]
    fn an_endpoint_may_outlive_its_server() {
        let server = Server::builder().start().unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = server.serve(udp, tcp, Scope::new()).unwrap();
        drop(server);
        let error = endpoint.set_scope(Scope::new()).unwrap_err();
        assert_eq!(error.to_string(), "set scope: the dns server has ended");
        endpoint.remove().unwrap();
    }

    #[test]
    fn set_scope_returns_when_the_new_scope_holds_or_tells_that_it_does_not() {
        if !have(&[Need::Namespaces]) {
            return;
        }
        let server = Server::builder().start().unwrap();
        let netns = NetNs::new();
        let (udp, tcp) = bind_in(&netns, LISTEN).unwrap();
        let client = netns.run(|| UdpSocket::bind("127.0.0.1:0").unwrap());
        client.connect(LISTEN).unwrap();
        let old = crate::SharedZone::default();
        let endpoint = server.serve(udp, tcp, &old).unwrap();
        let mut query = *b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x02db\0\0\x01\0\x01";
        // The thread stands still in a query, once one has reached it, for as long as the lock is held.
        let stand_still = old.stand_still();
        let refused = (0..1000).find_map(|_| {
            client.send(&query).unwrap();
            thread::sleep(Duration::from_millis(1));
            endpoint.set_scope(&old).err()
        });
        let error = refused.unwrap();
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert_eq!(
            error.to_string(),
            "set scope in cofferdam-dns: EBUSY: Device or resource busy"
        );
        drop(stand_still);
        endpoint.set_scope(Scope::new().internal()).unwrap();
        query[1] = 2;
        client.send(&query).unwrap();
        let mut reply = [0; 64];
        while reply[1] != 2 {
            client.recv(&mut reply).unwrap();
        }
        assert_eq!(reply[3] & 15, 3, "denied, as by the new scope");
    }

    #[test]
    fn of_connections_that_came_together_the_first_makes_way() {
        if !have(&[Need::Namespaces]) {
            return;
        }
        let server = Server::builder().start().unwrap();
        let netns = NetNs::new();
        let (udp, tcp) = bind_in(&netns, LISTEN).unwrap();
        let zone = crate::SharedZone::default();
        let _endpoint = server.serve(udp, tcp, &zone).unwrap();
        let query = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x02db\0\0\x01\0\x01";
        // The thread stands still in a query for as long as the lock is held, and then finds all connections at once.
        let stand_still = zone.stand_still();
        let client = netns.run(|| UdpSocket::bind("127.0.0.1:0").unwrap());
        client.send_to(query, LISTEN).unwrap();
        let mut streams: Vec<_> = (0..18)
            .map(|_| netns.run(|| TcpStream::connect(LISTEN).unwrap()))
            .collect();
        drop(stand_still);
        for stream in &mut streams[..2] {
            assert!(!matches!(stream.read(&mut [0; 1]), Ok(1..)));
        }
        for stream in &mut streams[2..] {
            stream.write_all(&[0, query.len() as u8]).unwrap();
            stream.write_all(query).unwrap();
            stream.read_exact(&mut [0; 2]).unwrap();
        }
    }

    #[test]
    fn io_errors_carry_the_line() {
        let error: io::Error = Error::ended("serve").into();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(error.to_string(), "serve: the dns server has ended");
    }
}
