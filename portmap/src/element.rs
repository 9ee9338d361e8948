//! What depends on networks and ports: elements of the table's sets and maps, as bytes the kernel takes and gives back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use crate::layout::{Set, Type};
use crate::mapping::PortMapping;
use crate::name::{IfName, Owner, padded};
use crate::network::{Isolation, NetworkSpec};
use crate::spec::Protocol;

/// One element of one set or map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Element {
    pub(crate) set: Set,
    /// The key as it lies in registers. Empty is `NFT_SET_ELEM_CATCHALL`, whatever has no other; none of ours is.
    pub(crate) key: Vec<u8>,
    /// The last key of an interval.
    pub(crate) key_end: Option<Vec<u8>>,
    /// What the key is mapped to.
    pub(crate) data: Option<Vec<u8>>,
    /// nft's comment: the owner, or the bridge of a subnet.
    pub(crate) comment: Option<String>,
}

impl Element {
    /// The elements of a network.
    pub(crate) fn of_network(network: &NetworkSpec) -> Vec<Element> {
        let bridge = padded(network.bridge());
        let name = |set| Element::key_only(set, bridge.to_vec());
        let mut elements =
            vec![name(Set::Bridges).with_comment(network.owner().map(Owner::as_str))];
        if network.has_icc() {
            elements.push(Element::key_only(Set::Open, bridge.repeat(2)));
        }
        for trusted in network.trusted() {
            let key = [padded(trusted), bridge].concat();
            elements.push(Element::key_only(Set::Open, key));
        }
        if network.is_internal() {
            elements.push(name(Set::Internal));
        }
        if network.isolated() == Isolation::Strict {
            elements.push(name(Set::Strict));
        }
        if network.has_masquerade() {
            elements.push(name(Set::Masquerade));
        }
        let subnets = network.subnets().map(Element::of_subnet);
        elements.extend(subnets.map(|one| one.with_comment(Some(network.bridge()))));
        elements
    }

    fn of_subnet(subnet: IpNetwork) -> Element {
        let (set, first, last) = match subnet {
            IpNetwork::V4(subnet) => (
                Set::SubnetPairs4,
                subnet.network().octets().repeat(2),
                subnet.broadcast().octets().repeat(2),
            ),
            IpNetwork::V6(subnet) => (
                Set::SubnetPairs6,
                subnet.network().octets().repeat(2),
                subnet.broadcast().octets().repeat(2),
            ),
        };
        let mut element = Element::key_only(set, first);
        element.key_end = Some(last);
        element
    }

    pub(crate) fn of_port(port: &PortMapping) -> Element {
        let set = match (port.is_ipv4(), port.host_ip()) {
            (true, Some(_)) => Set::Ports4,
            (true, None) => Set::Ports4Any,
            (false, Some(_)) => Set::Ports6,
            (false, None) => Set::Ports6Any,
        };
        let mut key = Vec::with_capacity(24);
        if let Some(ip) = port.host_ip() {
            push_address(&mut key, ip);
        }
        key.extend([port.protocol().number(), 0, 0, 0]);
        key.extend(service(port.host_port()));
        let mut data = Vec::with_capacity(20);
        push_address(&mut data, port.target().ip());
        data.extend(service(port.target().port()));
        Element {
            set,
            key,
            key_end: None,
            data: Some(data),
            comment: port.owner().map(|owner| owner.as_str().to_owned()),
        }
    }

    /// The keys of a port: where it would be itself, and, if it is on one address, where one on every address would be.
    pub(crate) fn keys_of_port(port: &PortMapping) -> Vec<Element> {
        const SERVICE: usize = 8;
        let Element { set, key, .. } = Element::of_port(port);
        let any = match set {
            Set::Ports4 => Some(Set::Ports4Any),
            Set::Ports6 => Some(Set::Ports6Any),
            _ => None,
        };
        let behind_address = key[key.len().saturating_sub(SERVICE)..].to_vec();
        let any = any.map(|any| Element::key_only(any, behind_address));
        let own = Element::key_only(set, key);
        any.into_iter().chain([own]).collect()
    }

    fn key_only(set: Set, key: Vec<u8>) -> Element {
        Element {
            set,
            key,
            key_end: None,
            data: None,
            comment: None,
        }
    }

    fn with_comment(mut self, comment: Option<&str>) -> Element {
        self.comment = comment.map(str::to_owned);
        self
    }

    /// The published port it stands for, if it does.
    fn port(&self) -> Option<PortMapping> {
        let key = Fields::of(self.set.key(), &self.key)?;
        let data = Fields::of(self.set.data()?, self.data.as_ref()?)?;
        let protocol = Protocol::of_number(*key.last(Type::InetProto)?.first()?)?;
        let host_port = port_of(key.last(Type::InetService)?)?;
        let target = SocketAddr::new(data.address()?, port_of(data.last(Type::InetService)?)?);
        let mut port = PortMapping::new(protocol, host_port, target).ok()?;
        if let Some(ip) = key.address() {
            port = port.on(ip).ok()?;
        }
        if let Some(comment) = &self.comment {
            port = port.owned_by(Owner::new(comment).ok()?);
        }
        (Element::of_port(&port) == *self).then_some(port)
    }

    /// The subnet it stands for, if it does.
    fn subnet(&self) -> Option<IpNetwork> {
        let half = self.key.len() / 2;
        let (first, last) = (self.key.get(..half)?, self.key_end.as_ref()?.get(..half)?);
        let same = |(one, other): (&u8, &u8)| (one ^ other).leading_zeros();
        let pairs = first.iter().zip(last);
        let prefix = pairs
            .clone()
            .take_while(|(one, other)| one == other)
            .count()
            * 8;
        let rest = pairs.skip(prefix / 8).map(same).next().unwrap_or(0);
        let prefix = prefix as u8 + rest as u8;
        match address(first)? {
            IpAddr::V4(ip) => Ipv4Network::new(ip, prefix).ok().map(IpNetwork::from),
            IpAddr::V6(ip) => Ipv6Network::new(ip, prefix).ok().map(IpNetwork::from),
        }
    }

    /// The first and the second name of a key of interface names.
    fn names(&self) -> Option<(IfName, Option<IfName>)> {
        let mut names = self.key.chunks(libc::IFNAMSIZ).map(|bytes| {
            let name = bytes.split(|byte| *byte == 0).next()?;
            IfName::new(std::str::from_utf8(name).ok()?).ok()
        });
        Some((names.next()??, names.next().flatten()))
    }
}

/// Networks and ports that elements stand for, and the elements that stand for none of them.
#[derive(Debug, Default)]
pub(crate) struct Read {
    pub(crate) networks: BTreeMap<IfName, NetworkSpec>,
    pub(crate) ports: Vec<PortMapping>,
    pub(crate) strays: Vec<Element>,
}

impl Read {
    pub(crate) fn of(elements: Vec<Element>) -> Self {
        let mut read = Read::default();
        let mut of_networks = BTreeSet::new();
        for element in elements {
            if element.set.data().is_none() {
                of_networks.insert(element);
            } else if let Some(port) = element.port() {
                read.ports.push(port);
            } else {
                read.strays.push(element);
            }
        }
        read.networks(&of_networks);
        let explained = read.networks.values().flat_map(Element::of_network);
        let explained: BTreeSet<Element> = explained.collect();
        let strays = of_networks.difference(&explained).cloned();
        read.strays.extend(strays);
        read
    }

    /// In the order of sets: bridges come first, and what is strict is internal before.
    fn networks(&mut self, elements: &BTreeSet<Element>) {
        for element in elements {
            match (element.set, element.names()) {
                (Set::Bridges, Some((bridge, _))) => self.bridge(bridge, element),
                (Set::SubnetPairs4 | Set::SubnetPairs6, _) => self.subnet(element),
                (set, Some((first, second))) => self.names(set, first, second),
                (_, None) => {}
            }
        }
    }

    fn bridge(&mut self, bridge: IfName, element: &Element) {
        let network = NetworkSpec::on(bridge.clone());
        let mut network = network.without_icc().without_masquerade();
        let owner = element.comment.as_deref();
        network.owner = owner.and_then(|name| Owner::new(name).ok());
        self.networks.insert(bridge, network);
    }

    /// Its comment is the bridge.
    fn subnet(&mut self, element: &Element) {
        let bridge = element.comment.as_deref();
        let bridge = bridge.and_then(|name| IfName::new(name).ok());
        if let (Some(bridge), Some(subnet)) = (bridge, element.subnet()) {
            self.change(&bridge, |network| network.subnet(subnet));
        }
    }

    /// What a set has one or two names of interfaces for.
    fn names(&mut self, set: Set, first: IfName, second: Option<IfName>) {
        match (set, second) {
            (Set::Open, Some(bridge)) if first == bridge => {
                self.change(&bridge, NetworkSpec::with_icc);
            }
            (Set::Open, Some(bridge)) => self.change(&bridge, |mut network| {
                network.trusted.insert(first);
                network
            }),
            (Set::Internal, _) => {
                self.change(&first, |network| network.isolation(Isolation::Internal));
            }
            (Set::Strict, _) => {
                self.change(&first, |network| network.isolation(Isolation::Strict));
            }
            (Set::Masquerade, _) => self.change(&first, NetworkSpec::with_masquerade),
            _ => {}
        }
    }

    fn change(&mut self, bridge: &IfName, change: impl FnOnce(NetworkSpec) -> NetworkSpec) {
        if let Some(network) = self.networks.remove(bridge) {
            self.networks.insert(bridge.clone(), change(network));
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.subnet().filter(|_| self.set.has_intervals()) {
            Some(subnet) => write!(f, "{subnet} . {subnet}")?,
            None if self.key.is_empty() => f.write_str("*")?,
            None => write_fields(f, self.set.key(), &self.key)?,
        }
        if let Some(comment) = &self.comment {
            write!(f, " comment {comment:?}")?;
        }
        if let (Some(types), Some(data)) = (self.set.data(), &self.data) {
            f.write_str(" : ")?;
            write_fields(f, types, data)?;
        }
        Ok(())
    }
}

fn write_fields(f: &mut fmt::Formatter<'_>, types: &'static [Type], bytes: &[u8]) -> fmt::Result {
    let Some(Fields(fields)) = Fields::of(types, bytes) else {
        return write!(f, "{bytes:02x?}");
    };
    for (index, (kind, bytes)) in fields.iter().enumerate() {
        if index > 0 {
            f.write_str(" . ")?;
        }
        match (kind, bytes) {
            (Type::Ipv4Addr | Type::Ipv6Addr, bytes) => match address(bytes) {
                Some(ip) => write!(f, "{ip}")?,
                None => write!(f, "{bytes:02x?}")?,
            },
            (Type::InetProto, [number, ..]) => match Protocol::of_number(*number) {
                Some(protocol) => write!(f, "{protocol}")?,
                None => write!(f, "{number}")?,
            },
            (Type::InetService, bytes) => write!(f, "{}", port_of(bytes).unwrap_or_default())?,
            (_, bytes) => {
                let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
                write!(f, "{:?}", String::from_utf8_lossy(name))?;
            }
        }
    }
    Ok(())
}

/// A key or data taken apart.
struct Fields<'a>(Vec<(Type, &'a [u8])>);

impl<'a> Fields<'a> {
    fn of(types: &'static [Type], mut bytes: &'a [u8]) -> Option<Self> {
        let mut fields = Vec::with_capacity(types.len());
        for kind in types {
            let (field, rest) = bytes.split_at_checked(kind.len() as usize)?;
            fields.push((*kind, field));
            bytes = rest;
        }
        bytes.is_empty().then_some(Fields(fields))
    }

    fn last(&self, wanted: Type) -> Option<&'a [u8]> {
        let found = self.0.iter().rfind(|(kind, _)| *kind == wanted);
        found.map(|(_, bytes)| *bytes)
    }

    fn address(&self) -> Option<IpAddr> {
        address(self.last(Type::Ipv4Addr).or(self.last(Type::Ipv6Addr))?)
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?).into()),
        16 => Some(Ipv6Addr::from(*bytes.first_chunk::<16>()?).into()),
        _ => None,
    }
}

fn push_address(bytes: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => bytes.extend(ip.octets()),
        IpAddr::V6(ip) => bytes.extend(ip.octets()),
    }
}

/// A port as it lies in a register: in network order, and then nothing.
fn service(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

fn port_of(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().copied().map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(text: &str, to: &str) -> PortMapping {
        PortMapping::of_spec(&text.parse().unwrap(), to.parse().unwrap()).unwrap()
    }

    #[test]
    fn keys_and_data_lie_as_registers_do() {
        let one = Element::of_port(&port("127.0.0.1:8080:80", "10.1.0.2"));
        assert_eq!(one.key, [127, 0, 0, 1, 6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        assert_eq!(one.data.unwrap(), [10, 1, 0, 2, 0, 80, 0, 0]);
        let any = Element::of_port(&port("8080:80", "10.1.0.2"));
        assert_eq!(any.key, [6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
    }

    fn everything() -> (Vec<NetworkSpec>, Vec<PortMapping>) {
        let networks = vec![
            NetworkSpec::new("br0")
                .unwrap()
                .subnet("10.1.0.1/24".parse().unwrap())
                .subnet("10.4.0.0/15".parse().unwrap())
                .subnet("fd00:1::1/61".parse().unwrap())
                .trust("vpn0")
                .unwrap()
                .trust("vpn1")
                .unwrap()
                .owned_by(Owner::new("app").unwrap()),
            NetworkSpec::new("br1")
                .unwrap()
                .without_icc()
                .without_masquerade(),
            NetworkSpec::new("br2")
                .unwrap()
                .isolation(Isolation::Internal),
            NetworkSpec::new("br3")
                .unwrap()
                .subnet("0.0.0.0/0".parse().unwrap())
                .subnet("10.0.0.1/32".parse().unwrap())
                .isolation(Isolation::Strict),
        ];
        let ports = vec![
            port("1:2/udp", "10.1.0.2"),
            port("127.0.0.1:1:2/sctp", "10.1.0.2").owned_by(Owner::new("web").unwrap()),
            port("[fd00::1]:1:2", "fd00:1::2"),
            port("1:2/tcp", "fd00:1::2"),
        ];
        (networks, ports)
    }

    #[test]
    fn what_is_compiled_reads_back_to_the_same() {
        let (networks, ports) = everything();
        let mut elements: Vec<_> = networks.iter().flat_map(Element::of_network).collect();
        elements.extend(ports.iter().map(Element::of_port));
        let read = Read::of(elements);
        assert_eq!(read.networks.into_values().collect::<Vec<_>>(), networks);
        assert_eq!(read.ports, ports);
        assert_eq!(read.strays, []);
    }

    #[test]
    fn the_keys_of_a_port_are_its_own_and_that_of_every_address() {
        for one in ["127.0.0.1:8080:80", "8080:80"] {
            let own = port(one, "10.1.0.2");
            let keys = Element::keys_of_port(&own);
            let any = Element::of_port(&port("8080:80", "10.1.0.2"));
            let expected = [any, Element::of_port(&own)];
            let expected = match own.host_ip() {
                Some(_) => &expected[..],
                None => &expected[1..],
            };
            assert_eq!(keys.len(), expected.len(), "{one}");
            for (key, expected) in keys.iter().zip(expected) {
                assert_eq!((key.set, &key.key), (expected.set, &expected.key));
            }
        }
    }

    #[test]
    fn what_stands_for_nothing_is_told() {
        let mut strays = vec![
            Element::key_only(Set::Internal, padded("br9").to_vec()),
            Element::key_only(Set::Open, padded("br9").repeat(2)),
            Element::key_only(Set::Bridges, vec![b'/'; 16]),
        ];
        let mut odd = Element::of_port(&port("1:2", "10.1.0.2"));
        odd.key[0] = 99;
        strays.push(odd);
        let read = Read::of(strays.clone());
        assert!(read.networks.is_empty() && read.ports.is_empty());
        let mut found = read.strays;
        found.sort();
        strays.sort();
        assert_eq!(found, strays);
    }

    #[test]
    fn keys_and_data_are_as_long_as_their_set_says() {
        let length = |types: &[Type]| types.iter().map(|one| one.len()).sum::<u32>();
        let (networks, ports) = everything();
        let mut seen = BTreeSet::new();
        let elements = networks.iter().flat_map(Element::of_network);
        for element in elements.chain(ports.iter().map(Element::of_port)) {
            let set = element.set;
            assert_eq!(element.key.len() as u32, length(set.key()), "{element}");
            let data = element.data.as_ref().map(|data| data.len() as u32);
            assert_eq!(data, set.data().map(length), "{element}");
            assert_eq!(element.key_end.is_some(), set.has_intervals());
            seen.insert(set);
        }
        assert_eq!(seen.len(), Set::ALL.len());
    }
}
