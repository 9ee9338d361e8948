//! Sockets that keep the host's processes off a published port.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::thread;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::element::Port;
use crate::error::Failure;
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

/// A socket that has the port, and gets nothing. Dropping it frees the port.
///
/// The TCP one listens, since only that excludes every other listener whatever its `SO_REUSEADDR`, and is possible where
/// connections of an earlier listener are in TIME_WAIT. Its filter drops even the SYN, so that nobody is let in before the
/// transaction: a client tries again a second later and reaches the container.
#[derive(Debug)]
pub(crate) struct Reservation {
    /// None for SCTP: asking for a socket would load the kernel's module.
    _socket: Option<OwnedFd>,
}

impl Reservation {
    pub(crate) fn new(netns: &NetNs, port: &Port) -> Result<Self, Failure> {
        let address = SocketAddrV4::new(
            port.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED),
            port.host_port,
        );
        let socket = match port.protocol {
            Protocol::Tcp => netns.run(|| tcp(address)).map(Some),
            Protocol::Udp => netns.run(|| udp(address)).map(Some),
            Protocol::Sctp => Ok(None),
        };
        let bind = |error| Failure::call(format_args!("bind {address}/{}", port.protocol), &error);
        let _socket = socket.map_err(bind)?;
        Ok(Reservation { _socket })
    }
}

fn tcp(address: SocketAddrV4) -> io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        Some(ipproto::TCP),
    )?;
    sys::drop_all(&socket)?;
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, 1)?;
    Ok(socket)
}

fn udp(address: SocketAddrV4) -> io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(ipproto::UDP),
    )?;
    sys::drop_all(&socket)?;
    bind(&socket, &address)?;
    Ok(socket)
}
