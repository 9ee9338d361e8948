//! Sockets that keep the host's processes off a published port.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::thread;

use rustix::net::{
    AddressFamily, Protocol as Protocols, SocketFlags, SocketType, bind, ipproto, listen,
    socket_with,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::Failure;
use crate::mapping::PortMapping;
use crate::spec::Protocol;
use crate::sys;

/// The network namespace a handle was opened in.
#[derive(Debug)]
pub(crate) struct NetNs(File);

impl NetNs {
    const PATH: &str = "/proc/thread-self/ns/net";

    pub(crate) fn of_this_thread() -> Result<Self, Failure> {
        let open = |error: io::Error| Failure::call(format_args!("open {}", Self::PATH), &error);
        File::open(Self::PATH).map(NetNs).map_err(open)
    }

    /// Runs `work` in it: here if this thread is in it already, else on a thread that enters it and ends.
    pub(crate) fn run<T: Send>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<T> {
        let (here, there) = (fs::metadata(Self::PATH)?, self.0.metadata()?);
        if (here.dev(), here.ino()) == (there.dev(), there.ino()) {
            return work();
        }
        thread::scope(|scope| {
            let entered = thread::Builder::new().spawn_scoped(scope, || {
                move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))?;
                work()
            })?;
            entered
                .join()
                .unwrap_or_else(|_panic| Err(io::Error::other("a thread panicked")))
        })
    }
}

/// Sockets that have the ports, and get nothing. Dropping it frees the ports.
///
/// A TCP one listens, since only that excludes every other listener whatever its `SO_REUSEADDR`, and is possible where
/// connections of an earlier listener are in TIME_WAIT. Its filter drops even the SYN, so that nobody is let in before the
/// transaction: a client tries again a second later and reaches the container.
#[derive(Debug)]
pub(crate) struct Reservation {
    /// None for SCTP: asking for a socket would load the kernel's module.
    _sockets: Vec<OwnedFd>,
}

impl Reservation {
    /// Reserves all of the ports or none; the failure names the one.
    pub(crate) fn new(netns: &NetNs, ports: &[PortMapping]) -> Result<Self, Failure> {
        let mut sockets = Vec::with_capacity(ports.len());
        let mut at = None;
        let made = netns.run(|| {
            for port in ports {
                at = Some(port);
                sockets.extend(reserve(port)?);
            }
            Ok(())
        });
        let bind = |error| match at {
            Some(port) => Failure::call(format_args!("bind {}", port.place()), &error),
            None => Failure::call("bind", &error),
        };
        made.map_err(bind)?;
        Ok(Reservation { _sockets: sockets })
    }
}

fn reserve(port: &PortMapping) -> io::Result<Option<OwnedFd>> {
    let any: IpAddr = match port.target() {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let address = SocketAddr::new(port.host_ip().unwrap_or(any), port.host_port());
    match port.protocol() {
        Protocol::Tcp => tcp(address).map(Some),
        Protocol::Udp => udp(address).map(Some),
        Protocol::Sctp => Ok(None),
    }
}

fn tcp(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = socket(address, SocketType::STREAM, ipproto::TCP)?;
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, 1)?;
    Ok(socket)
}

fn udp(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = socket(address, SocketType::DGRAM, ipproto::UDP)?;
    bind(&socket, &address)?;
    Ok(socket)
}

fn socket(address: SocketAddr, kind: SocketType, protocol: Protocols) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, Some(protocol))?;
    if address.is_ipv6() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    sys::drop_all(&socket)?;
    Ok(socket)
}
