//! Sockets that keep the host's processes off published ports.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::net::{
    AddressFamily, Protocol as Number, SocketFlags, SocketType, bind, ipproto, listen, socket_with,
    sockopt,
};
use rustix::process::{Resource, getrlimit};

use crate::error::{Errno, ErrorKind, Failure, Note};
use crate::mapping::PortMapping;
use crate::netns::NetNs;
use crate::spec::{PortSpec, Protocol};
use crate::sys;

/// What is done about processes of the host that have a port or may want it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reserve {
    /// A socket is bound to the port as long as it is published: one that a process of the host has is refused, and none can take
    /// it. That is one file descriptor a port, also where it is of both families, out of `RLIMIT_NOFILE`.
    #[default]
    Hold,
    /// A socket is bound to the port for a moment before it is published: one that a process of the host has is refused. A process
    /// may bind it later, and gets no connections from where the port is published. For thousands of ports at once it still takes
    /// a file descriptor each, for as long as the call lasts.
    Check,
    /// Nothing: a process of the host that has the port gets no new connections as long as it is published, and is not told.
    Never,
}

/// A socket that has the port, and gets nothing. Dropping it frees the port.
///
/// The TCP one listens, since only that excludes every other listener whatever its `SO_REUSEADDR`, and is possible where
/// connections of an earlier listener are in TIME_WAIT. Its filter drops even the SYN, so that nobody is let in before the
/// transaction: a client tries again a second later and reaches the container. One that is bound and does not listen would have
/// the kernel refuse such a client with a RST, and so would it whenever somebody else has flushed the table for a moment.
#[derive(Debug)]
pub(crate) struct Reservation(
    /// None for SCTP where asking for a socket would load the kernel's module, and if nothing is to be held.
    Option<(Claim, OwnedFd)>,
);

/// What to bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// `None` is every address of both families.
    pub(crate) ip: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) protocol: Protocol,
}

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Reserve,
    /// Clients are to be answered.
    Serve,
}

/// Which families a port without a host address is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Families {
    Ipv4,
    Ipv6,
    Both,
}

impl Families {
    /// None is every address of both.
    fn wildcard(self) -> Option<IpAddr> {
        match self {
            Families::Ipv4 => Some(Ipv4Addr::UNSPECIFIED.into()),
            Families::Ipv6 => Some(Ipv6Addr::UNSPECIFIED.into()),
            Families::Both => None,
        }
    }
}

impl Claim {
    /// Of a spec whose host port is chosen.
    pub(crate) fn of(spec: &PortSpec, families: Families) -> Self {
        Claim {
            ip: spec.host_ip().or(families.wildcard()),
            port: spec.host_port(),
            protocol: spec.protocol(),
        }
    }

    /// Whether it is for this port.
    pub(crate) fn is_of(&self, port: &PortMapping) -> bool {
        let same_ip = match self.ip {
            None => port.host_ip().is_none(),
            Some(ip) if ip.is_unspecified() => {
                port.host_ip().is_none() && port.is_ipv4() == ip.is_ipv4()
            }
            ip => port.host_ip() == ip,
        };
        same_ip && (port.host_port(), port.protocol()) == (self.port, self.protocol)
    }

    /// Those of ports of both families on every address are one.
    pub(crate) fn of_all(ports: &[PortMapping]) -> Vec<Self> {
        let mut wildcards = HashMap::new();
        for port in ports.iter().filter(|port| port.host_ip().is_none()) {
            let family = match port.is_ipv4() {
                true => Families::Ipv4,
                false => Families::Ipv6,
            };
            wildcards
                .entry((port.protocol(), port.host_port()))
                .and_modify(|known| {
                    if *known != family {
                        *known = Families::Both;
                    }
                })
                .or_insert(family);
        }
        let claims = ports.iter().filter_map(|port| {
            let (protocol, number) = (port.protocol(), port.host_port());
            let ip = match port.host_ip() {
                Some(ip) => Some(ip),
                None => wildcards.remove(&(protocol, number))?.wildcard(),
            };
            Some(Claim {
                ip,
                port: number,
                protocol,
            })
        });
        claims.collect()
    }
}

impl Reservation {
    /// Which keeps nobody off.
    pub(crate) fn nothing() -> Self {
        Reservation(None)
    }

    pub(crate) fn of(claim: Claim, socket: Option<OwnedFd>) -> Self {
        Reservation(socket.map(|socket| (claim, socket)))
    }

    /// The socket and what it is bound to.
    pub(crate) fn held(&self) -> Option<(Claim, &OwnedFd)> {
        self.0.as_ref().map(|(claim, socket)| (*claim, socket))
    }

    /// All of these or none, by one visit to the namespace. The failure of one says which.
    pub(crate) fn all(
        netns: &NetNs,
        claims: &[Claim],
        reserve: Reserve,
    ) -> Result<Vec<Self>, Failure> {
        if reserve == Reserve::Never {
            return Ok(claims.iter().map(|_| Self::nothing()).collect());
        }
        enough_descriptors(claims.len())?;
        let mut failed = None;
        let sockets = netns.run(|| {
            let bound = claims
                .iter()
                .map(|claim| bound(claim, Purpose::Reserve).inspect_err(|_| failed = Some(*claim)));
            bound.collect::<io::Result<Vec<_>>>()
        });
        let sockets = sockets.map_err(|error| refused(failed, &error))?;
        Ok(match reserve {
            Reserve::Hold => {
                let held = claims.iter().zip(sockets);
                held.map(|(claim, socket)| Self::of(*claim, socket))
                    .collect()
            }
            _ => sockets.iter().map(|_| Self::nothing()).collect(),
        })
    }
}

/// Refuses what cannot be, before it takes the descriptors the process's other threads need meanwhile.
fn enough_descriptors(wanted: usize) -> Result<(), Failure> {
    match getrlimit(Resource::Nofile).current {
        Some(limit) if wanted as u64 >= limit => Err(Failure::Os {
            step: format!("reserve {wanted} ports with RLIMIT_NOFILE {limit}"),
            errno: Errno(libc::EMFILE),
            note: Note::Ours(TOO_MANY),
            kind: ErrorKind::Os,
        }),
        _ => Ok(()),
    }
}

const TOO_MANY: &str =
    "each reserved port is a file descriptor: raise RLIMIT_NOFILE, or publish with Reserve::Never";

pub(crate) fn refused(claim: Option<Claim>, error: &io::Error) -> Failure {
    let Some(claim) = claim else {
        let failure = Failure::call("enter the network namespace", error);
        return match failure.errno() {
            Some(libc::EPERM) => {
                failure.with_note("CAP_SYS_ADMIN, to work in another network namespace, is missing")
            }
            _ => failure,
        };
    };
    let address = match claim.ip {
        Some(ip) => SocketAddr::new(ip, claim.port).to_string(),
        None => format!("*:{}", claim.port),
    };
    let failure = Failure::call(format_args!("bind {address}/{}", claim.protocol), error);
    match failure.errno() {
        Some(libc::EADDRINUSE) => failure.with_note("a socket of the host has it"),
        Some(libc::EADDRNOTAVAIL) => failure.with_note("it is no address of the host"),
        Some(libc::EACCES) => failure.with_note(
            "CAP_NET_BIND_SERVICE is missing, and it is below net.ipv4.ip_unprivileged_port_start",
        ),
        Some(libc::EMFILE | libc::ENFILE) => failure.with_note(TOO_MANY),
        _ => failure,
    }
}

/// A socket that has the port. None for SCTP unless its module is there.
pub(crate) fn bound(claim: &Claim, purpose: Purpose) -> io::Result<Option<OwnedFd>> {
    if claim.protocol == Protocol::Sctp && !Path::new("/proc/thread-self/net/sctp").exists() {
        return Ok(None);
    }
    match claim.ip {
        Some(ip) => bound_to(ip, claim, purpose, sockopt_v6only).map(Some),
        None => bound_to(Ipv6Addr::UNSPECIFIED.into(), claim, purpose, sockopt_both)
            .or_else(|error| match error.raw_os_error() {
                // A kernel without IPv6.
                Some(libc::EAFNOSUPPORT) => {
                    bound_to(Ipv4Addr::UNSPECIFIED.into(), claim, purpose, sockopt_v6only)
                }
                _ => Err(error),
            })
            .map(Some),
    }
}

fn sockopt_v6only(socket: &OwnedFd) -> io::Result<()> {
    match sockopt::socket_domain(socket)? {
        AddressFamily::INET6 => Ok(sockopt::set_ipv6_v6only(socket, true)?),
        _ => Ok(()),
    }
}

/// Whatever `net.ipv6.bindv6only` says.
fn sockopt_both(socket: &OwnedFd) -> io::Result<()> {
    Ok(sockopt::set_ipv6_v6only(socket, false)?)
}

/// As many wait for accept(2) as net.core.somaxconn lets.
pub(crate) const BACKLOG: i32 = 4096;

fn bound_to(
    ip: IpAddr,
    claim: &Claim,
    purpose: Purpose,
    families: fn(&OwnedFd) -> io::Result<()>,
) -> io::Result<OwnedFd> {
    let family = match ip {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    let (kind, number): (SocketType, Number) = match claim.protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, ipproto::SCTP),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, kind, flags, Some(number))?;
    families(&socket)?;
    // What is bound to SCTP without listening answers with ABORT, and no filter would keep it from that.
    if claim.protocol != Protocol::Sctp && purpose == Purpose::Reserve {
        sys::drop_all(&socket)?;
    }
    if claim.protocol == Protocol::Tcp {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &SocketAddr::new(ip, claim.port))?;
    let backlog = match purpose {
        Purpose::Reserve => 1,
        Purpose::Serve => BACKLOG,
    };
    if claim.protocol == Protocol::Tcp {
        listen(&socket, backlog)?;
    }
    Ok(socket)
}
