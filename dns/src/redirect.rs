//! Beside a container that has port 53 for itself.

use std::fmt;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;

use crate::{LISTEN, Result, Transport, bind_in};

/// What leads queries for 127.0.0.11, port 53, to sockets on other ports: two rules of destination NAT for the container's
/// network namespace. [`bind_beside`] makes one.
///
/// A socket on 127.0.0.11:53 keeps the container from binding port 53 on the wildcard address, as a nameserver in it would.
/// Where that is to be possible, the resolver listens on ports the kernel picks, and whoever makes the rules of the
/// namespace applies these two, at hook output with the priority of destination NAT. Its `Display` is the whole table in the
/// syntax of nft(8). Nobody needs to take it away: it ends with the namespace.
///
/// ```no_run
/// # use std::fs::File;
/// use cofferdam_dns::bind_beside;
///
/// let netns = File::open("/proc/4711/ns/net")?;
/// let (udp, tcp, redirect) = bind_beside(&netns)?;
/// for (transport, from, to) in redirect.rules() {
///     println!("{transport:?}: {from} is {to}");
/// }
/// # drop((udp, tcp));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redirect {
    udp: SocketAddr,
    tcp: SocketAddr,
}

impl Redirect {
    /// Each rule: of which packets to the first address the destination becomes the second.
    pub fn rules(&self) -> impl Iterator<Item = (Transport, SocketAddr, SocketAddr)> {
        [
            (Transport::Udp, LISTEN, self.udp),
            (Transport::Tcp, LISTEN, self.tcp),
        ]
        .into_iter()
    }
}

impl fmt::Display for Redirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("table ip cofferdam-dns {\n\tchain output {\n")?;
        f.write_str("\t\ttype nat hook output priority -100; policy accept;\n")?;
        for (transport, from, to) in self.rules() {
            let protocol = match transport {
                Transport::Udp => "udp",
                Transport::Tcp => "tcp",
            };
            let (ip, port) = (from.ip(), from.port());
            writeln!(f, "\t\tip daddr {ip} {protocol} dport {port} dnat to {to}")?;
        }
        f.write_str("\t}\n}\n")
    }
}

/// Opens a UDP socket and a TCP listener on 127.0.0.11 inside the network namespace `netns`, on ports that the kernel picks,
/// and says what leads port 53 there. It works like [`bind_in`].
///
/// # Errors
/// Those of [`bind_in`], but that port 53 needs no privilege and may be in use.
pub fn bind_beside(netns: impl AsFd) -> Result<(UdpSocket, TcpListener, Redirect)> {
    let (udp, tcp) = bind_in(netns, SocketAddr::new(LISTEN.ip(), 0))?;
    let local = |address: std::io::Result<SocketAddr>| {
        address.map_err(crate::Error::sys("getsockname", LISTEN.ip()))
    };
    let redirect = Redirect {
        udp: local(udp.local_addr())?,
        tcp: local(tcp.local_addr())?,
    };
    Ok((udp, tcp, redirect))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_prints_as_a_table() {
        let redirect = Redirect {
            udp: "127.0.0.11:40001".parse().unwrap(),
            tcp: "127.0.0.11:40002".parse().unwrap(),
        };
        assert_eq!(
            redirect.to_string(),
            "table ip cofferdam-dns {\n\tchain output {\n\t\ttype nat hook output priority -100; policy accept;\n\
             \t\tip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:40001\n\
             \t\tip daddr 127.0.0.11 tcp dport 53 dnat to 127.0.0.11:40002\n\t}\n}\n"
        );
    }
}
