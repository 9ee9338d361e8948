//! Sockets that keep the host's processes off published ports.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::io::fcntl_dupfd_cloexec;
use rustix::net::{
    AddressFamily, Protocol as Number, SocketFlags, SocketType, bind, ipproto, listen, socket_with,
    sockopt,
};
use rustix::process::{Resource, getrlimit};

use crate::error::{Errno, ErrorKind, Failure, Note};
use crate::listeners;
use crate::mapping::PortMapping;
use crate::netns::NetNs;
use crate::spec::{PortSpec, Protocol};
use crate::sys;

/// What is done about processes of the host that have a port or may want it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reserve {
    /// A socket is bound to the port as long as it is published: one that a process of the host has is refused, and none can take
    /// it. That is one file descriptor a port, also where it is of both families, out of `RLIMIT_NOFILE`, and the time that ten
    /// thousand sockets take if they are as many.
    #[default]
    Hold,
    /// A port that a process of the host listens on is refused. A process may take it later, and gets no connections from where
    /// the port is published. Nothing is kept: this is for thousands of ports.
    ///
    /// Of a few ports each is bound for a moment. Of more, one of each protocol and host address is, and the sockets of the host
    /// are read for all others, by sock_diag(7): TCP sockets that listen (from Linux 6.8 on also those that are bound only), and UDP
    /// sockets that are bound and not connected. Where the kernel has no sock_diag, they are bound one after the other.
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
        let mut failed = None;
        let visited = match reserve {
            Reserve::Hold => {
                enough_descriptors(claims.len())?;
                netns.run(|| hold(claims, &mut failed))
            }
            _ => netns.run(|| check(claims, &mut failed)),
        };
        visited.map_err(|error| refused(failed, &error))
    }
}

/// Up to as many ports each are bound with a filter of their own, which costs less than to load one for all or to read the host's
/// sockets.
const FEW: usize = 16;

fn hold(claims: &[Claim], failed: &mut Option<Claim>) -> io::Result<Vec<Reservation>> {
    let filter = Filter::of(claims.len());
    let held = claims.iter().enumerate().map(|(at, claim)| {
        let bound = bound_by(claim, Purpose::Reserve, &filter);
        let socket = bound.inspect_err(|_| *failed = Some(*claim))?;
        if at == 0 && claims.len() > FEW {
            room_for(claims.len(), socket.as_ref());
        }
        Ok(Reservation::of(*claim, socket))
    });
    held.collect()
}

/// Has the kernel grow the process's table of file descriptors once. Of a process with threads it waits each time until none
/// reads the former one, and it would do so with every doubling. If it cannot, the sockets will say so.
fn room_for(sockets: usize, first: Option<&OwnedFd>) {
    let last = |first: &OwnedFd| i32::try_from(sockets).ok()?.checked_add(first.as_raw_fd());
    if let Some((first, last)) = first.and_then(|first| Some((first, last(first)?))) {
        let _grown = fcntl_dupfd_cloexec(first, last).is_ok();
    }
}

fn check(claims: &[Claim], failed: &mut Option<Claim>) -> io::Result<Vec<Reservation>> {
    match claims.len() > FEW {
        true => look_for(claims, failed)?,
        false => bind_each(claims, failed)?,
    }
    Ok(claims.iter().map(|_| Reservation::nothing()).collect())
}

/// As if each were bound.
fn look_for(claims: &[Claim], failed: &mut Option<Claim>) -> io::Result<()> {
    // The lowest port of an address tells for all whether it is the host's, and whether such ports may be bound.
    let mut lowest = BTreeMap::new();
    for claim in claims {
        let least: &mut Claim = lowest.entry((claim.protocol, claim.ip)).or_insert(*claim);
        least.port = least.port.min(claim.port);
    }
    bind_each(lowest.values(), failed)?;
    let is_sctp = |claim: &&Claim| claim.protocol == Protocol::Sctp;
    bind_each(claims.iter().filter(is_sctp), failed)?;
    match listeners::among(claims) {
        Ok(None) => Ok(()),
        Ok(taken) => {
            *failed = taken;
            Err(io::Error::from_raw_os_error(libc::EADDRINUSE))
        }
        Err(_no_sock_diag) => bind_each(claims, failed),
    }
}

fn bind_each<'a>(
    claims: impl IntoIterator<Item = &'a Claim>,
    failed: &mut Option<Claim>,
) -> io::Result<()> {
    claims.into_iter().try_for_each(|claim| {
        let bound = bound(claim, Purpose::Reserve);
        bound.map(drop).inspect_err(|_| *failed = Some(*claim))
    })
}

/// What keeps a socket from getting anything.
enum Filter {
    /// Each has its own.
    Own,
    /// All have the same.
    Shared(OwnedFd),
}

impl Filter {
    /// For as many sockets. To load a program takes `CAP_BPF` in the initial user namespace, or what
    /// `kernel.unprivileged_bpf_disabled` says.
    fn of(sockets: usize) -> Self {
        match sockets > FEW {
            true => sys::load_drop_all().map_or(Filter::Own, Filter::Shared),
            false => Filter::Own,
        }
    }

    fn attach(&self, socket: &OwnedFd) -> io::Result<()> {
        match self {
            Filter::Own => sys::drop_all(socket),
            Filter::Shared(program) => sys::attach(socket, program),
        }
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
    "each reserved port is a file descriptor: raise RLIMIT_NOFILE, or publish with Reserve::Check";

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
    bound_by(claim, purpose, &Filter::Own)
}

fn bound_by(claim: &Claim, purpose: Purpose, filter: &Filter) -> io::Result<Option<OwnedFd>> {
    if claim.protocol == Protocol::Sctp && !Path::new("/proc/thread-self/net/sctp").exists() {
        return Ok(None);
    }
    let bound_to = |ip, families| bound_to(ip, claim, purpose, filter, families);
    match claim.ip {
        Some(ip) => bound_to(ip, sockopt_v6only).map(Some),
        None => bound_to(Ipv6Addr::UNSPECIFIED.into(), sockopt_both)
            .or_else(|error| match error.raw_os_error() {
                // A kernel without IPv6.
                Some(libc::EAFNOSUPPORT) => bound_to(Ipv4Addr::UNSPECIFIED.into(), sockopt_v6only),
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
    filter: &Filter,
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
        filter.attach(&socket)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use cofferdam_testkit::{Need, NetNs as Own, have, refuse_syscall};
    use std::net::{TcpStream, UdpSocket};
    use std::thread;
    use std::time::Duration;

    const FIRST: u16 = 20_000;

    fn claims(protocol: Protocol, count: usize) -> Vec<Claim> {
        let ports = FIRST..FIRST + count as u16;
        let claim = |port| Claim {
            ip: Some(Ipv4Addr::UNSPECIFIED.into()),
            port,
            protocol,
        };
        ports.map(claim).collect()
    }

    /// Neither let in, nor refused, nor told that nobody is there.
    fn is_left_waiting(port: u16) {
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let error = TcpStream::connect_timeout(&at, Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        client.connect(at).unwrap();
        client.send(b"x").unwrap();
        let error = client.recv(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
    }

    #[test]
    fn clients_of_reserved_ports_wait_however_many_they_are_and_without_bpf() {
        if !have(&[Need::Namespaces]) {
            return;
        }
        let own = Own::new();
        let netns = NetNs::of_fd(&own).unwrap();
        for (count, bpf) in [(FEW, true), (3 * FEW, true), (3 * FEW, false)] {
            let work = || {
                if !bpf {
                    refuse_syscall(libc::SYS_bpf);
                }
                let is_shared = matches!(Filter::of(count), Filter::Shared(_));
                assert_eq!(is_shared, bpf && count > FEW);
                let all = [Protocol::Tcp, Protocol::Udp].map(|protocol| {
                    Reservation::all(&netns, &claims(protocol, count), Reserve::Hold).unwrap()
                });
                assert!(all.iter().flatten().all(|one| one.held().is_some()));
                is_left_waiting(FIRST);
                is_left_waiting(FIRST + count as u16 - 1);
                drop(all);
                let free = |port| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
                assert!((FIRST..FIRST + count as u16).all(free));
            };
            thread::scope(|scope| scope.spawn(|| own.run(work)).join().unwrap());
        }
    }

    #[test]
    fn of_many_to_check_the_one_that_is_taken_is_named_and_none_is_held() {
        if !have(&[Need::Namespaces]) {
            return;
        }
        let own = Own::new();
        let netns = NetNs::of_fd(&own).unwrap();
        let check = |claims: &[Claim]| Reservation::all(&netns, claims, Reserve::Check);
        own.run(|| {
            let claims = claims(Protocol::Udp, 3 * FEW);
            let made = check(&claims).unwrap();
            assert!(made.iter().all(|one| one.held().is_none()));
            let _taken = UdpSocket::bind(("127.0.0.1", FIRST + 40)).unwrap();
            let line = check(&claims).unwrap_err().during("publish").to_string();
            assert!(line.contains("0.0.0.0:20040/udp: EADDRINUSE"), "{line}");
            let elsewhere: Vec<Claim> = claims
                .iter()
                .map(|claim| Claim {
                    ip: Some(Ipv4Addr::new(192, 0, 2, 9).into()),
                    ..*claim
                })
                .collect();
            let line = check(&elsewhere).unwrap_err().during("publish").to_string();
            assert!(line.contains("it is no address of the host"), "{line}");
        });
    }
}
