//! What the first packet of a flow to a published port costs: five thousand datagrams of as many clients, through a host of two
//! links. By the sending thread's CPU clock: veth carries a packet to its end within send(2), or within the softirq on its way out.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use cofferdam_testkit::NetNs;
use rustix::net::{AddressFamily, SendFlags, SocketAddrV4, SocketFlags, SocketType, ipproto};
use rustix::time::{ClockId, clock_gettime};

use crate::raw::{cable, default_route};

const FLOWS: u16 = 5000;
const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const BRIDGE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
pub(crate) const WEB: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
/// The host's link to the container.
pub(crate) const LINK: &str = "web0";

/// A client, a host and a container in a row.
pub(crate) struct World {
    pub(crate) host: NetNs,
    client: NetNs,
    web: NetNs,
    turn: u8,
}

impl World {
    pub(crate) fn new() -> Self {
        let (host, client, web) = (NetNs::new(), NetNs::new(), NetNs::new());
        cable(&host, "lan0", HOST, &client, CLIENT);
        cable(&host, LINK, BRIDGE, &web, WEB);
        default_route(&web, BRIDGE);
        default_route(&client, HOST);
        host.run(|| {
            for (name, value) in [
                ("ip_forward", "1"),
                ("conf/all/rp_filter", "0"),
                ("conf/lan0/rp_filter", "0"),
            ] {
                std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value).unwrap();
            }
        });
        World {
            host,
            client,
            web,
            turn: 0,
        }
    }

    /// CPU time of one new flow to `port`, which leads to `to` of the container.
    pub(crate) fn flow(&mut self, port: u16, to: u16) -> Duration {
        // Another client each time, whose flows the host does not know yet.
        self.turn += 1;
        let client = Ipv4Addr::new(192, 0, 2, 10 + self.turn);
        let server = self.web.run(|| UdpSocket::bind((WEB, to))).unwrap();
        server.set_nonblocking(true).unwrap();
        let raw = self.client.run(raw_socket);
        let whole = SocketAddrV4::new(HOST, 0);
        let mut heard = 0;
        let mut spent = Duration::ZERO;
        // In parts, so that what arrives fits into the server's buffer and is known to have arrived.
        for part in 0..FLOWS / 50 {
            let packets: Vec<_> = (0..50)
                .map(|one| datagram(client, 10_000 + part * 50 + one, port))
                .collect();
            let before = cpu();
            for packet in &packets {
                rustix::net::sendto(&raw, packet, SendFlags::empty(), &whole).unwrap();
            }
            spent += cpu() - before;
            while server.recv(&mut [0; 8]).is_ok() {
                heard += 1;
            }
        }
        assert!(heard > FLOWS / 10 * 9, "{heard} of {FLOWS} flows arrived");
        spent / u32::from(FLOWS)
    }
}

fn raw_socket() -> OwnedFd {
    let (kind, flags) = (SocketType::RAW, SocketFlags::CLOEXEC);
    rustix::net::socket_with(AddressFamily::INET, kind, flags, Some(ipproto::RAW)).unwrap()
}

/// IP and UDP headers with one byte. The kernel fills in the checksum and the identification.
fn datagram(from: Ipv4Addr, from_port: u16, port: u16) -> Vec<u8> {
    const LENGTH: u8 = 20 + 8 + 1;
    const UDP: u8 = 17;
    let mut packet = vec![0x45, 0, 0, LENGTH, 0, 0, 0, 0, 64, UDP, 0, 0];
    packet.extend(from.octets());
    packet.extend(HOST.octets());
    packet.extend(from_port.to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend([0, 9, 0, 0, b'!']);
    packet
}

fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}
