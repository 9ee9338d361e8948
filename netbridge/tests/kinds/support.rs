//! A network with hosts on it, and packets.

use std::collections::BTreeSet;
use std::io::ErrorKind as IoErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use cofferdam_netbridge::{
    Attachment, Bridge, ErrorKind, IfName, IpNetwork, LinkKind, NetNs, Port, links,
};
use netlink_packet_route::link::LinkAttribute;

use crate::kernel;
use cofferdam_testkit::{Need, have, is_emulated, skip};

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// How long nothing must come, for a packet to be lost. A machine that is slower makes the test pass, not fail.
const SILENCE: Duration = Duration::from_millis(300);

/// Runs `work` in a network namespace of its own, where the machine allows one and the kernel has the `kinds`.
pub(crate) fn in_own_netns(kinds: &[LinkKind], work: impl FnOnce() + Send) {
    if have(&[Need::Namespaces]) {
        cofferdam_testkit::NetNs::new().run(|| {
            if kinds.iter().all(|kind| has(*kind)) {
                work();
            }
        });
    }
}

/// The VM has every kind, other machines these at least.
fn has(kind: LinkKind) -> bool {
    let everywhere = [
        LinkKind::Bridge,
        LinkKind::Veth,
        LinkKind::Macvlan,
        LinkKind::Vxlan,
    ];
    match kind.available() {
        Ok(()) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            let promised = is_emulated() || everywhere.contains(&kind);
            skip(&format!("links of kind {kind}"), promised);
            false
        }
    }
}

pub(crate) fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

pub(crate) fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A network segment: a bridge in the namespace of the test, with 10.5.0.1 and fd00:5::1.
#[derive(Debug)]
pub(crate) struct Lan(pub(crate) Bridge);

impl Lan {
    pub(crate) fn new() -> Self {
        let bridge = Bridge::builder(name("lan0"))
            .address(net("10.5.0.1/24"))
            .address(net("fd00:5::1/64"));
        Lan(bridge.create().unwrap())
    }

    /// A machine with the link `eth0`.
    pub(crate) fn host(&self, addresses: &[&str]) -> Host {
        let netns = NetNs::new().unwrap();
        let attachment = addresses
            .iter()
            .fold(Attachment::default(), |all, one| all.address(net(one)));
        let port = self.0.attach(&netns, attachment).unwrap();
        let host = Host { netns, port };
        host.reflect(false);
        host
    }
}

/// A simulated machine.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) netns: NetNs,
    pub(crate) port: Port,
}

impl Host {
    /// Whether the switch sends frames back to the machine: few do.
    pub(crate) fn reflect(&self, on: bool) {
        kernel::set_hairpin(self.port.index(), on);
    }

    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.netns.run(work).unwrap()
    }
}

pub(crate) fn link_names() -> BTreeSet<String> {
    links().unwrap().into_iter().map(|link| link.name).collect()
}

pub(crate) fn names_in(netns: &NetNs) -> BTreeSet<String> {
    netns.run(link_names).unwrap()
}

pub(crate) fn sysctl(path: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/sys/net/{path}")).unwrap();
    text.trim_end().to_owned()
}

/// A UDP socket inside, with a deadline.
pub(crate) fn udp(netns: &NetNs, address: &str) -> UdpSocket {
    let socket = netns.run(|| UdpSocket::bind((ip(address), 0)));
    let socket = socket.unwrap().unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// A UDP socket in the namespace of the test.
pub(crate) fn udp_here(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind((ip(address), 0)).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// A packet there, and one back.
pub(crate) fn echo(from: &UdpSocket, to: &UdpSocket) {
    let mut buffer = [0; 1024];
    let ping = [7; 1024];
    from.send_to(&ping, to.local_addr().unwrap()).unwrap();
    let (length, peer) = to.recv_from(&mut buffer).unwrap();
    assert_eq!(buffer[..length], ping);
    assert_eq!(peer, from.local_addr().unwrap());
    to.send_to(b"pong", peer).unwrap();
    let (length, _) = from.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"pong");
}

/// Not one packet comes there, though `to` would take it.
pub(crate) fn silence(from: &UdpSocket, to: &UdpSocket) {
    let _refused_at_once_or_lost = from.send_to(b"ping", to.local_addr().unwrap()).is_ok();
    to.set_read_timeout(Some(SILENCE)).unwrap();
    let error = to.recv_from(&mut [0; 16]).unwrap_err();
    assert_eq!(error.kind(), IoErrorKind::WouldBlock);
    to.set_read_timeout(Some(DEADLINE)).unwrap();
}

/// Flags and promiscuity of a link of this thread's namespace.
pub(crate) fn flags(name: &str) -> (u32, u32) {
    let link = kernel::link(name).unwrap();
    let promiscuity = link
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Promiscuity(count) => Some(*count),
            _ => None,
        });
    (link.header.flags.bits(), promiscuity.unwrap())
}

pub(crate) fn set_down(netns: &NetNs, name: &str) {
    let work = || kernel::set_down(kernel::link(name).unwrap().header.index);
    netns.run(work).unwrap();
}
