//! What is said to the kernel: rtnetlink requests as plain values, made without a syscall.

mod address;
pub(crate) mod brport;
pub(crate) mod gateway;
mod inspect;
mod link;
pub(crate) mod lower;
pub(crate) mod probe;
mod route;
pub(crate) mod sublink;
pub(crate) mod tc;
pub(crate) mod vxlan;

use std::net::IpAddr;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

pub(crate) use address::*;
pub(crate) use inspect::*;
pub(crate) use link::*;
pub(crate) use route::*;

pub(crate) use crate::mac::Mac;
use crate::subnet::hash;

/// The index of `lo` in every network namespace.
pub(crate) const LOOPBACK: u32 = 1;

/// Makes something new, and never changes what is there.
pub(crate) const CREATE: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// One request, and what it is for, as an error will say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) what: String,
    pub(crate) flags: u16,
    pub(crate) message: RouteNetlinkMessage,
}

impl Request {
    /// One that is acknowledged. `flags` are beside `NLM_F_REQUEST` and `NLM_F_ACK`.
    pub(crate) fn new(what: impl Into<String>, flags: u16, message: RouteNetlinkMessage) -> Self {
        Request {
            what: what.into(),
            flags: NLM_F_REQUEST | NLM_F_ACK | flags,
            message,
        }
    }

    /// One for a [`dump`](crate::socket::Socket::dump).
    pub(crate) fn dump(what: impl Into<String>, message: RouteNetlinkMessage) -> Self {
        Request {
            what: what.into(),
            flags: NLM_F_REQUEST | NLM_F_DUMP,
            message,
        }
    }

    /// The message with its header, whose length and sequence number are still to be filled in.
    pub(crate) fn netlink(&self) -> NetlinkMessage<RouteNetlinkMessage> {
        let mut header = NetlinkHeader::default();
        header.flags = self.flags;
        NetlinkMessage::new(header, NetlinkPayload::InnerMessage(self.message.clone()))
    }

    /// The bytes to send, padded so that another may follow.
    pub(crate) fn render(&self, sequence: u32) -> Vec<u8> {
        let mut message = self.netlink();
        message.header.sequence_number = sequence;
        message.finalize();
        let length = message.buffer_len();
        let mut bytes = vec![0; length.next_multiple_of(4)];
        message.serialize(&mut bytes[..length]);
        bytes
    }
}

/// The hardware address a link gets for its address: locally administered, and the same again for the same IP address,
/// so that no neighbour keeps a stale entry when the address is used again.
pub(crate) fn mac_of(address: IpAddr) -> Mac {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            [0x02, 0x42, a, b, c, d]
        }
        IpAddr::V6(address) => mac_of_bytes(&address.octets()),
    }
}

/// The hardware address of a link without an address.
pub(crate) fn mac_of_bytes(bytes: &[u8]) -> Mac {
    let [a, b, c, d, ..] = hash(bytes.iter().copied()).to_be_bytes();
    [0x02, 0x43, a, b, c, d]
}

/// The family of an address.
pub(crate) fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs::File;
    use std::os::fd::{AsFd, BorrowedFd};

    use super::*;
    use crate::bridge_options::BridgeOptions;
    use crate::ifname::IfName;
    use crate::port_flags::{PortFlag, PortFlags};
    use crate::route::Route;

    fn name(text: &str) -> IfName {
        text.parse().unwrap()
    }

    /// What is rendered is read back the same.
    pub(crate) fn round_trip(request: &Request) {
        let bytes = request.render(9);
        let read = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes).unwrap();
        assert_eq!(read.header.flags, request.flags);
        let NetlinkPayload::InnerMessage(message) = read.payload else {
            panic!("{read:?}");
        };
        assert_eq!(message, request.message);
    }

    fn every_request(netns: BorrowedFd<'_>) -> Vec<Request> {
        let (br0, eth0) = (name("br0"), name("eth0"));
        let pair = VethPair {
            name: &name("veth0"),
            bridge: 3,
            mtu: 1400,
            netns,
            inside: Some(&eth0),
            mac: [2, 66, 10, 0, 0, 2],
            state: HostEnd::Up,
        };
        let up = Up {
            mac: Some([2; 6]),
            mtu: Some(1400),
            addressing: Addressing::Derived,
        };
        let mut requests = vec![
            create_bridge(&br0, &BridgeOptions::new()),
            create_veth(&pair),
            create_veth(&VethPair {
                inside: None,
                ..pair
            }),
            port_options(
                4,
                &name("veth0"),
                PortFlags::new().on(PortFlag::Hairpin),
                LinkLocal::Off,
            ),
            set_up(3, "br0", up),
            set_addressing_unknown(3, &br0),
            set_group(3, &br0, 9),
            delete_group(9),
            delete_link(3, &br0),
            delete_link(0, &br0),
            link_named(&br0),
            link_at(3),
            all_links(),
            all_links_counted(),
            all_neighbours(),
            all_addresses(None),
            all_routes(None),
        ];
        for address in ["10.0.0.2/24", "fd00::2/64", "10.0.0.2/32"] {
            let address = address.parse().unwrap();
            requests.push(add_address(3, &br0, address));
            requests.push(delete_address(3, &br0, address));
        }
        for route in [
            Route::via("0.0.0.0/0".parse().unwrap(), [10, 0, 0, 1].into()),
            Route::via("::/0".parse().unwrap(), "fe80::1".parse().unwrap()).onlink(),
            Route::direct("10.9.0.0/16".parse().unwrap()).metric(7),
            Route::blackhole("10.9.0.0/16".parse().unwrap()),
        ] {
            requests.push(add_route(3, &eth0, &route));
        }
        requests
    }

    #[test]
    fn the_bytes_of_a_request_are_the_request() {
        let file = File::open("/dev/null").unwrap();
        for request in every_request(file.as_fd()) {
            let bytes = request.render(9);
            assert_eq!(bytes.len() % 4, 0);
            let read = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes).unwrap();
            assert_eq!(read.header.sequence_number, 9);
            assert_eq!(read.header.flags, request.flags);
            // Written for the kernel nested, read back from it flat: all but the options of a port are the same.
            if !request.what.contains("hairpin") {
                let NetlinkPayload::InnerMessage(message) = read.payload else {
                    panic!("{read:?}");
                };
                assert_eq!(message, request.message);
            }
        }
    }

    #[test]
    fn what_creates_never_changes_what_is_there() {
        let file = File::open("/dev/null").unwrap();
        for request in every_request(file.as_fd()) {
            let creates = request.what.starts_with("create") || request.what.starts_with("add");
            assert_eq!(request.flags & CREATE == CREATE, creates, "{request:?}");
            let dumps = request.flags & NLM_F_DUMP == NLM_F_DUMP;
            assert_eq!(request.flags & NLM_F_ACK == 0, dumps, "{request:?}");
        }
    }

    #[test]
    fn a_mac_is_of_its_address_alone_and_locally_administered() {
        let mac = |text: &str| mac_of(text.parse().unwrap());
        assert_eq!(mac("172.20.0.2"), [2, 66, 172, 20, 0, 2]);
        assert_eq!(mac("fd00::2"), mac("fd00::2"));
        assert_ne!(mac("fd00::2"), mac("fd00::3"));
        assert_eq!(mac("fd00::2")[0] & 3, 2);
    }
}
