//! What the first packet of a flow to a published port costs: five thousand datagrams of as many clients, through a host of two
//! links. By the sending thread's CPU clock: veth carries a packet to its end within send(2), or within the softirq on its way out.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use cofferdam_portmap::{NetworkSpec, PortMapping, Portmap, Protocol, Reserve};
use cofferdam_testkit::NetNs;
use rustix::net::{AddressFamily, SendFlags, SocketAddrV4, SocketFlags, SocketType, ipproto};
use rustix::time::{ClockId, clock_gettime};

use crate::raw::{Netlink, cable, default_route};
use crate::{floor, row};

const FLOWS: u16 = 5000;
const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const BRIDGE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const WEB: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
/// The host's link to the container.
const LINK: &str = "web0";

/// A single port and the last of many, ours and as one rule each, in turns.
pub(crate) fn rows(quick: bool) {
    let rounds = if quick { 2 } else { 7 };
    let ids = ["flow/only", "flow/last-of-10000"];
    let mut samples = [const { Vec::new() }; 4];
    let mut rules = [0; 2];
    for _ in 0..rounds {
        for (at, count) in [(0, 1), (1, MANY)] {
            let (time, found) = ours(count);
            samples[2 * at].push(time);
            rules[at] = found;
            samples[2 * at + 1].push(linear(count));
        }
    }
    let rows = ids
        .into_iter()
        .flat_map(|id| ["ours", "linear-chain"].map(|who| (id, who)));
    for ((id, who), samples) in rows.zip(samples) {
        row(id, who, samples);
    }
    println!("row rules/1 ours min={0} p50={0} unit=count", rules[0]);
    println!("row rules/10000 ours min={0} p50={0} unit=count", rules[1]);
    assert_eq!(
        rules[0], rules[1],
        "the number of rules depends on that of ports"
    );
}

const FIRST: u16 = 10_000;
const MANY: u16 = 10_000;

/// The time of a flow to the last of `count` ports, and how many rules there are.
fn ours(count: u16) -> (Duration, usize) {
    let mut world = World::new();
    let portmap = world
        .host
        .run(|| Portmap::builder("bench").reserve(Reserve::Never).open());
    let portmap = portmap.unwrap();
    let network = NetworkSpec::new(LINK).unwrap();
    let network = network.subnet("10.1.0.0/24".parse().unwrap());
    let _network = portmap.network(network).unwrap();
    let ports = (FIRST..FIRST + count).map(|port| {
        let target = (IpAddr::from(WEB), port).into();
        PortMapping::new(Protocol::Udp, port, target).unwrap()
    });
    let _published = portmap.publish_all(ports).unwrap();
    let rules = Netlink::netfilter(&world.host).count(&floor::dump_rules());
    (world.flow(FIRST + count - 1, FIRST + count - 1), rules)
}

fn linear(count: u16) -> Duration {
    let mut world = World::new();
    let ports: Vec<_> = (FIRST..FIRST + count).collect();
    let rules = floor::linear(&ports, WEB);
    Netlink::netfilter(&world.host).send(&floor::transaction(rules));
    world.flow(FIRST + count - 1, FIRST + count - 1)
}

/// A client, a host and a container in a row.
struct World {
    host: NetNs,
    client: NetNs,
    web: NetNs,
    turn: u8,
}

impl World {
    fn new() -> Self {
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
    fn flow(&mut self, port: u16, to: u16) -> Duration {
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
