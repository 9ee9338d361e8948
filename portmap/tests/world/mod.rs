//! Network namespaces wired up like a host with containers and a neighbour, by raw rtnetlink, and questions to the kernel.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::Once;
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_testkit::{NetNs, is_emulated, load_module, skip};
use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST,
    NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
    NlasIterator,
};
use netlink_packet_netfilter::nftables::{
    GenMessage, NfTablesMessage, RuleMessage, SetElementList, SetElementMessage, TableAttribute,
    TableMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute,
    LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr as NetlinkAddr};

pub(crate) const BRIDGE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
pub(crate) const WEB: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
pub(crate) const MATE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 3);
pub(crate) const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// A host with bridge `br0` (containers `web` and `mate`), bridge `br1` (container `stranger`) and a neighbour on its LAN who
/// knows the way to the containers' subnets.
pub(crate) struct World {
    pub(crate) host: NetNs,
    pub(crate) web: NetNs,
    pub(crate) mate: NetNs,
    pub(crate) stranger: NetNs,
    pub(crate) neighbour: NetNs,
}

/// Whether br_netfilter passes bridged packets to the IP hooks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum BridgedPackets {
    Seen,
    Unseen,
}

impl World {
    pub(crate) fn new(bridged: BridgedPackets) -> Self {
        let world = World {
            host: NetNs::new(),
            web: NetNs::new(),
            mate: NetNs::new(),
            stranger: NetNs::new(),
            neighbour: NetNs::new(),
        };
        let host = Links::of(&world.host);
        host.bridge("br0", BRIDGE, 24);
        host.bridge("br1", Ipv4Addr::new(10, 2, 0, 1), 24);
        host.container("web0", &world.web, "br0", WEB, BRIDGE);
        host.container("mate0", &world.mate, "br0", MATE, BRIDGE);
        let gateway = Ipv4Addr::new(10, 2, 0, 1);
        host.container("stranger0", &world.stranger, "br1", STRANGER, gateway);
        host.veth("lan0", &world.neighbour);
        host.address("lan0", HOST, 24);
        let neighbour = Links::of(&world.neighbour);
        neighbour.up("eth0");
        neighbour.address("eth0", NEIGHBOUR, 24);
        neighbour.route(Ipv4Addr::new(10, 0, 0, 0), 8, HOST);
        world.host.run(|| {
            sysctl("ipv4/ip_forward", "1");
            sysctl("ipv4/conf/all/rp_filter", "0");
            sysctl("ipv4/conf/br0/route_localnet", "1");
            bridged.set();
        });
        world
    }
}

impl BridgedPackets {
    const PATH: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

    /// Those this kernel can have.
    pub(crate) fn possible() -> Vec<Self> {
        match Self::has_br_netfilter() {
            true => vec![BridgedPackets::Unseen, BridgedPackets::Seen],
            false => {
                skip("br_netfilter for bridged packets", is_emulated());
                vec![BridgedPackets::Unseen]
            }
        }
    }

    /// A namespace that is there when the module comes shows them: it comes before any.
    fn has_br_netfilter() -> bool {
        static LOADED: Once = Once::new();
        LOADED.call_once(|| load_module("br_netfilter"));
        Path::new(Self::PATH).exists()
    }

    fn set(self) {
        if Self::has_br_netfilter() {
            let value = (self == BridgedPackets::Seen) as u8;
            fs::write(Self::PATH, value.to_string()).unwrap();
        }
    }
}

/// Writes a sysctl of the calling thread's network namespace.
pub(crate) fn sysctl(name: &str, value: &str) {
    let path = format!("/proc/sys/net/{name}");
    fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
}

/// Asks `to` from `client` by TCP whether `server` is behind it. Returns the address the server saw.
pub(crate) fn tcp(
    client: &NetNs,
    to: impl Into<SocketAddr>,
    server: &TcpListener,
    wait: Wait,
) -> Option<IpAddr> {
    let to = to.into();
    let mut asking = client
        .run(|| TcpStream::connect_timeout(&to, wait.time()))
        .ok()?;
    server.set_nonblocking(true).unwrap();
    let deadline = Instant::now() + wait.time();
    let (mut answering, from) = loop {
        match server.accept() {
            Ok(accepted) => break accepted,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if Instant::now() > deadline {
                    return None;
                }
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("accept: {error}"),
        }
    };
    answering.set_nonblocking(false).unwrap();
    answering.write_all(b"hello").unwrap();
    drop(answering);
    let mut heard = String::new();
    asking.set_read_timeout(Some(wait.time())).unwrap();
    asking.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "hello");
    Some(from.ip())
}

/// The same by UDP.
pub(crate) fn udp(
    client: &NetNs,
    to: impl Into<SocketAddr>,
    server: &UdpSocket,
    wait: Wait,
) -> Option<IpAddr> {
    let asking = client.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    asking.connect(to.into()).unwrap();
    asking.send(b"hello?").unwrap();
    server.set_read_timeout(Some(wait.time())).unwrap();
    let (length, from) = server.recv_from(&mut [0; 16]).ok()?;
    assert_eq!(length, 6);
    server.send_to(b"hello", from).unwrap();
    let mut heard = [0; 16];
    asking.set_read_timeout(Some(wait.time())).unwrap();
    let length = asking.recv(&mut heard).unwrap();
    assert_eq!(&heard[..length], b"hello");
    Some(from.ip())
}

/// Whether a datagram for `to` from `client` arrives at `server`, be there a way back or not.
pub(crate) fn arrives(client: &NetNs, to: SocketAddrV4, server: &UdpSocket, wait: Wait) -> bool {
    let asking = client.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    hears(server, &asking, to, wait)
}

/// Whether a datagram for `to` from the socket `asking` arrives at `server`.
pub(crate) fn hears(server: &UdpSocket, asking: &UdpSocket, to: SocketAddrV4, wait: Wait) -> bool {
    asking.send_to(b"hello?", to).unwrap();
    server.set_read_timeout(Some(wait.time())).unwrap();
    server.recv(&mut [0; 16]).is_ok()
}

/// How long to wait for an answer: long where it must come, short where it must not.
#[derive(Clone, Copy)]
pub(crate) enum Wait {
    Reached,
    Closed,
    /// Refused or dropped, told by a moment's silence: for loops.
    Gone,
}

impl Wait {
    fn time(self) -> Duration {
        match self {
            Wait::Reached => Duration::from_secs(10),
            Wait::Closed => Duration::from_millis(300),
            Wait::Gone => Duration::from_millis(5),
        }
    }
}

/// Names of the nf_tables tables of a namespace.
pub(crate) fn tables(netns: &NetNs) -> Vec<String> {
    const NFTA_TABLE_NAME: u16 = 1;
    let attributes = Vec::new();
    nftables(
        netns,
        NfTablesMessage::GetTable(TableMessage { attributes }),
        NLM_F_DUMP,
    )
    .iter()
    .map(|table| {
        let name = String::from_utf8(attribute(table, NFTA_TABLE_NAME)).unwrap();
        name.trim_end_matches('\0').to_owned()
    })
    .collect()
}

/// How many rules a namespace has.
pub(crate) fn rules(netns: &NetNs) -> usize {
    let attributes = Vec::new();
    let message = NfTablesMessage::GetRule(RuleMessage { attributes });
    nftables(netns, message, NLM_F_DUMP).len()
}

/// How many elements a set has.
pub(crate) fn elements(netns: &NetNs, table: &str, set: &str) -> usize {
    const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
    let attributes = vec![
        SetElementList::Table(table.to_owned()),
        SetElementList::Set(set.to_owned()),
    ];
    let message = NfTablesMessage::GetSetElement(SetElementMessage { attributes });
    nftables(netns, message, NLM_F_DUMP)
        .iter()
        .map(|part| NlasIterator::new(&attribute(part, NFTA_SET_ELEM_LIST_ELEMENTS)).count())
        .sum()
}

/// The number the kernel counts up with each change of a namespace's tables.
pub(crate) fn generation(netns: &NetNs) -> u32 {
    const NFTA_GEN_ID: u16 = 1;
    let attributes = Vec::new();
    let answers = nftables(netns, NfTablesMessage::GetGen(GenMessage { attributes }), 0);
    let id = attribute(&answers[0], NFTA_GEN_ID);
    u32::from_be_bytes(id.try_into().unwrap())
}

fn attribute(attributes: &[u8], wanted: u16) -> Vec<u8> {
    NlasIterator::new(attributes)
        .map(|attribute| attribute.unwrap())
        .find(|attribute| attribute.kind() == wanted)
        .map_or(Vec::new(), |attribute| attribute.value().to_vec())
}

/// Makes an empty table in a namespace, as somebody else would.
pub(crate) fn foreign_table(netns: &NetNs, name: &str) {
    let attributes = vec![TableAttribute::Name(name.to_owned())];
    let table = NfTablesMessage::NewTable(TableMessage { attributes });
    foreign(netns, vec![(table, NLM_F_CREATE)]).unwrap();
}

/// Deletes all tables of a namespace that nobody owns, as `nft flush ruleset` does.
pub(crate) fn flush_ruleset(netns: &NetNs) {
    let attributes = Vec::new();
    let all = NfTablesMessage::DeleteTable(TableMessage { attributes });
    foreign(netns, vec![(all, 0)]).unwrap();
}

/// Changes tables of a namespace by one transaction, as somebody else would; the errno if the kernel does not take it.
pub(crate) fn foreign(netns: &NetNs, messages: Vec<(NfTablesMessage, u16)>) -> Result<(), i32> {
    let control = |message: ControlMessage| {
        let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 10);
        bytes(NetfilterMessage::new(header, message), 0)
    };
    let mut batch = control(ControlMessage::BatchBegin);
    for (message, flags) in messages {
        let all =
            matches!(&message, NfTablesMessage::DeleteTable(table) if table.attributes.is_empty());
        let family = match all {
            true => NetfilterProtoFamily::Unspec,
            false => NetfilterProtoFamily::Inet,
        };
        let header = NetfilterHeader::new(family, 0, 0);
        batch.extend(bytes(
            NetfilterMessage::new(header, message),
            flags | NLM_F_ACK,
        ));
    }
    batch.extend(control(ControlMessage::BatchEnd));
    let socket = netns.run(|| connected(NETLINK_NETFILTER));
    socket.send(&batch, 0).unwrap();
    for answer in receive::<Bytes>(&socket) {
        if let NetlinkPayload::Error(error) = &answer.payload {
            if let Some(code) = error.code {
                return Err(-code.get());
            }
        }
    }
    Ok(())
}

/// Asks, and returns the attributes of each answer. In bytes: the packet crate takes a millisecond for each element of a dump.
fn nftables(netns: &NetNs, message: NfTablesMessage, flags: u16) -> Vec<Vec<u8>> {
    const NFGENMSG: usize = 4;
    let socket = netns.run(|| connected(NETLINK_NETFILTER));
    let header = NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0);
    let message = NetfilterMessage::new(header, message);
    socket.send(&bytes(message, flags), 0).unwrap();
    receive::<Bytes>(&socket)
        .into_iter()
        .filter_map(|answer| {
            check(&answer, "ask nf_tables");
            match answer.payload {
                NetlinkPayload::InnerMessage(Bytes(payload)) => Some(payload[NFGENMSG..].to_vec()),
                _ => None,
            }
        })
        .collect()
}

/// A message as it came.
#[derive(Debug)]
struct Bytes(Vec<u8>);

impl NetlinkDeserializable for Bytes {
    type Error = DecodeError;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, Self::Error> {
        Ok(Bytes(payload.to_vec()))
    }
}

/// rtnetlink of one namespace.
struct Links(Socket);

impl Links {
    fn of(netns: &NetNs) -> Self {
        Links(netns.run(|| connected(NETLINK_ROUTE)))
    }

    fn bridge(&self, name: &str, address: Ipv4Addr, prefix: u8) {
        let info = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]);
        self.new_link(link(name, [info]));
        self.up(name);
        self.address(name, address, prefix);
    }

    /// A port of the bridge with hairpin on, whose other end is `eth0` of the container.
    fn container(
        &self,
        port: &str,
        netns: &NetNs,
        bridge: &str,
        address: Ipv4Addr,
        gateway: Ipv4Addr,
    ) {
        self.veth(port, netns);
        let master = LinkAttribute::Controller(self.index(bridge));
        self.set_link(link(port, [master]));
        let hairpin =
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(
                true,
            )]));
        self.set_link(link(
            port,
            [LinkAttribute::LinkInfo(vec![
                LinkInfo::PortKind(InfoPortKind::Bridge),
                hairpin,
            ])],
        ));
        let inside = Links::of(netns);
        inside.up("eth0");
        inside.address("eth0", address, 24);
        inside.route(Ipv4Addr::UNSPECIFIED, 0, gateway);
    }

    fn veth(&self, name: &str, peer: &NetNs) {
        let netns = LinkAttribute::NetNsFd(peer.as_fd().as_raw_fd());
        let peer = link("eth0", [netns]);
        let info = LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]);
        self.new_link(link(name, [info]));
        self.up(name);
    }

    fn up(&self, name: &str) {
        let mut message = link(name, []);
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.set_link(message);
    }

    fn address(&self, name: &str, address: Ipv4Addr, prefix: u8) {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = prefix;
        message.header.index = self.index(name);
        message.attributes = vec![
            AddressAttribute::Local(address.into()),
            AddressAttribute::Address(address.into()),
        ];
        self.ask(
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_EXCL,
        );
    }

    fn route(&self, to: Ipv4Addr, prefix: u8, gateway: Ipv4Addr) {
        let mut message = route(to, prefix);
        message.header.protocol = RouteProtocol::Static;
        let gateway = RouteAttribute::Gateway(RouteAddress::Inet(gateway));
        message.attributes.push(gateway);
        self.ask(
            RouteNetlinkMessage::NewRoute(message),
            NLM_F_CREATE | NLM_F_EXCL,
        );
    }

    fn index(&self, name: &str) -> u32 {
        self.ask(RouteNetlinkMessage::GetLink(link(name, [])), 0)
            .into_iter()
            .find_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(message) => Some(message.header.index),
                _ => None,
            })
            .expect("a link")
    }

    fn new_link(&self, message: LinkMessage) {
        self.ask(
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
        );
    }

    fn set_link(&self, message: LinkMessage) {
        self.ask(RouteNetlinkMessage::NewLink(message), 0);
    }

    fn ask(&self, message: RouteNetlinkMessage, flags: u16) -> Vec<RouteNetlinkMessage> {
        let what = format!("{message:?}");
        self.0.send(&bytes(message, flags | NLM_F_ACK), 0).unwrap();
        let mut found = Vec::new();
        for answer in receive::<RouteNetlinkMessage>(&self.0) {
            check(&answer, &what);
            if let NetlinkPayload::InnerMessage(message) = answer.payload {
                found.push(message);
            }
        }
        found
    }
}

/// Has the neighbour send packets for 127.0.0.1 to the host, as an attacker on the LAN would.
pub(crate) fn send_loopback_to_the_host(neighbour: &NetNs) {
    let links = Links::of(neighbour);
    for prefix in [8, 32] {
        let mut local = route(Ipv4Addr::new(127, 0, 0, u8::from(prefix == 32)), prefix);
        local.header.table = RT_TABLE_LOCAL;
        local.header.scope = RouteScope::Host;
        local.header.kind = RouteType::Local;
        links.ask(RouteNetlinkMessage::DelRoute(local), 0);
    }
    links.route(Ipv4Addr::new(127, 0, 0, 0), 8, HOST);
}

const RT_TABLE_LOCAL: u8 = 255;

fn route(to: Ipv4Addr, prefix: u8) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = prefix;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![RouteAttribute::Destination(RouteAddress::Inet(to))];
    message
}

fn link<const N: usize>(name: &str, attributes: [LinkAttribute; N]) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    message.attributes.extend(attributes);
    message
}

fn connected(protocol: isize) -> Socket {
    let mut socket = Socket::new(protocol).unwrap();
    socket.bind(&NetlinkAddr::new(0, 0)).unwrap();
    socket.connect(&NetlinkAddr::new(0, 0)).unwrap();
    socket
}

fn bytes<T>(message: T, flags: u16) -> Vec<u8>
where
    T: NetlinkSerializable + Into<NetlinkPayload<T>>,
{
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// All there is to receive: the kernel answers within send().
fn receive<T: NetlinkDeserializable>(socket: &Socket) -> Vec<NetlinkMessage<T>> {
    let mut messages = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length) = socket.recv(&mut &mut buffer[..], 0x40 /* MSG_DONTWAIT */) {
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            let message = NetlinkMessage::<T>::deserialize(rest).unwrap();
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
            messages.push(message);
        }
    }
    messages
}

fn check<T: std::fmt::Debug>(answer: &NetlinkMessage<T>, what: &str) {
    if let NetlinkPayload::Error(error) = &answer.payload {
        assert!(error.code.is_none(), "{what}: {error}");
    }
}

/// Gives a link of a namespace another address, of that one host.
#[allow(dead_code, reason = "not all tests that have a world need it")]
pub(crate) fn add_address(netns: &NetNs, name: &str, ip: IpAddr) {
    let links = Links::of(netns);
    let mut message = AddressMessage::default();
    (message.header.family, message.header.prefix_len) = match ip {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message.header.index = links.index(name);
    message.header.flags = AddressHeaderFlags::Nodad;
    message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    links.ask(
        RouteNetlinkMessage::NewAddress(message),
        NLM_F_CREATE | NLM_F_EXCL,
    );
}
