//! What depends on networks and ports: elements of the table's sets and maps.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use ipnetwork::{IpNetwork, Ipv4Network};

use crate::error::{Inner, Result};
use crate::layout::Set;
use crate::name::IfName;
use crate::spec::{PortSpec, Protocol};

/// One element of one set or map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Element {
    Bridge(IfName),
    Intra(IfName),
    Subnet(Ipv4Network),
    Port(Port),
}

impl Element {
    /// The elements of a network.
    pub(crate) fn network(bridge: &str, subnet: IpNetwork) -> Result<[Element; 3]> {
        let name = IfName::new(bridge)?;
        let IpNetwork::V4(subnet) = subnet else {
            return Err(Inner::NotYet {
                doing: format!("manage bridge {bridge}"),
                what: format!("an IPv6 subnet ({subnet})"),
            }
            .into());
        };
        Ok([
            Element::Bridge(name.clone()),
            Element::Intra(name),
            Element::Subnet(canonical(subnet)),
        ])
    }

    pub(crate) fn set(&self) -> Set {
        match self {
            Element::Bridge(_) => Set::Bridges,
            Element::Intra(_) => Set::Intra,
            Element::Subnet(_) => Set::SubnetPairs,
            Element::Port(port) if port.host_ip.is_some() => Set::Ports4,
            Element::Port(_) => Set::Ports4Any,
        }
    }

    /// The key as it lies in registers.
    pub(crate) fn key(&self) -> Vec<u8> {
        match self {
            Element::Bridge(name) => name.padded().to_vec(),
            Element::Intra(name) => name.padded().repeat(2),
            Element::Subnet(subnet) => subnet.network().octets().repeat(2),
            Element::Port(port) => port.key(port.host_ip),
        }
    }

    /// The last key of an interval.
    pub(crate) fn key_end(&self) -> Option<Vec<u8>> {
        match self {
            Element::Subnet(subnet) => Some(subnet.broadcast().octets().repeat(2)),
            _ => None,
        }
    }

    /// What the key is mapped to.
    pub(crate) fn data(&self) -> Option<Vec<u8>> {
        match self {
            Element::Port(port) => {
                let mut data = port.target.ip().octets().to_vec();
                data.extend(service(port.target.port()));
                Some(data)
            }
            _ => None,
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Bridge(name) => write!(f, "{:?}", name.as_str()),
            Element::Intra(name) => write!(f, "{0:?} . {0:?}", name.as_str()),
            Element::Subnet(subnet) => write!(f, "{subnet} . {subnet}"),
            Element::Port(port) => {
                if let Some(ip) = port.host_ip {
                    write!(f, "{ip} . ")?;
                }
                let (ip, to) = (port.target.ip(), port.target.port());
                write!(f, "{} . {} : {ip} . {to}", port.protocol, port.host_port)
            }
        }
    }
}

/// A published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port {
    /// `None` is every address of the host.
    pub(crate) host_ip: Option<Ipv4Addr>,
    pub(crate) protocol: Protocol,
    pub(crate) host_port: u16,
    pub(crate) target: SocketAddrV4,
}

impl Port {
    pub(crate) fn new(spec: &PortSpec, target: IpAddr) -> Result<Self> {
        let doing = format!("publish {spec} to {target}");
        let nowhere = Port::nowhere(spec, &doing)?;
        let IpAddr::V4(ip) = target else {
            let what = "an IPv6 target".to_owned();
            return Err(Inner::NotYet { doing, what }.into());
        };
        Ok(nowhere.to(SocketAddrV4::new(ip, spec.container_port())))
    }

    /// Where `spec` is published, without where it leads.
    pub(crate) fn nowhere(spec: &PortSpec, doing: &str) -> Result<Self> {
        let host_ip = match spec.host_ip() {
            None => None,
            Some(IpAddr::V4(ip)) => Some(ip).filter(|ip| !ip.is_unspecified()),
            Some(IpAddr::V6(ip)) => {
                let (doing, what) = (doing.to_owned(), format!("an IPv6 host address ({ip})"));
                return Err(Inner::NotYet { doing, what }.into());
            }
        };
        Ok(Port {
            host_ip,
            protocol: spec.protocol(),
            host_port: spec.host_port(),
            target: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
        })
    }

    /// The same leading elsewhere.
    pub(crate) fn to(mut self, target: SocketAddrV4) -> Self {
        self.target = target;
        self
    }

    /// The key of this port on another address, or on every one.
    pub(crate) fn on(mut self, host_ip: Option<Ipv4Addr>) -> Self {
        self.host_ip = host_ip;
        self
    }

    fn key(&self, host_ip: Option<Ipv4Addr>) -> Vec<u8> {
        let mut key = host_ip.map_or(Vec::new(), |ip| ip.octets().to_vec());
        key.extend([self.protocol.number(), 0, 0, 0]);
        key.extend(service(self.host_port));
        key
    }
}

/// A port as it lies in a register: in network order, and then nothing.
fn service(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// The subnet without host bits.
fn canonical(subnet: Ipv4Network) -> Ipv4Network {
    Ipv4Network::new(subnet.network(), subnet.prefix()).unwrap_or(subnet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn keys_and_data_lie_as_registers_do() {
        let spec = "127.0.0.1:8080:80".parse().unwrap();
        let port = Port::new(&spec, "10.1.0.2".parse().unwrap()).unwrap();
        let one = Element::Port(port);
        assert_eq!(one.key(), [127, 0, 0, 1, 6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        assert_eq!(one.data().unwrap(), [10, 1, 0, 2, 0, 80, 0, 0]);
        let any = Element::Port(port.on(None));
        assert_eq!(any.key(), [6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
    }

    #[test]
    fn keys_and_data_are_as_long_as_their_set_says() {
        let length = |types: &[crate::layout::Type]| types.iter().map(|one| one.len()).sum::<u32>();
        let spec: PortSpec = "8080:80".parse().unwrap();
        let any = Port::new(&spec, "10.1.0.2".parse().unwrap()).unwrap();
        let mut elements = Element::network("br0", "10.1.0.1/24".parse().unwrap())
            .unwrap()
            .to_vec();
        elements.push(Element::Port(any));
        elements.push(Element::Port(any.on(Some(Ipv4Addr::LOCALHOST))));
        assert_eq!(elements.len(), Set::ALL.len());
        for element in elements {
            let set = element.set();
            assert_eq!(element.key().len() as u32, length(set.key()), "{element}");
            let data = element.data().map(|data| data.len() as u32);
            assert_eq!(data, set.data().map(length), "{element}");
            assert_eq!(element.key_end().is_some(), set.has_intervals());
        }
    }

    #[test]
    fn the_unspecified_host_address_is_every_address() {
        let to = "10.1.0.2".parse().unwrap();
        let explicit = Port::new(&"0.0.0.0:1:1".parse().unwrap(), to).unwrap();
        assert_eq!(explicit, Port::new(&"1:1".parse().unwrap(), to).unwrap());
    }

    #[test]
    fn ipv6_is_a_typed_error() {
        let spec: PortSpec = "[::1]:80:80".parse().unwrap();
        for error in [
            Port::new(&spec, "10.1.0.2".parse().unwrap()).unwrap_err(),
            Port::new(&"80:80".parse().unwrap(), "fd00::2".parse().unwrap()).unwrap_err(),
            Element::network("br0", "fd00::/64".parse().unwrap()).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("IPv6"), "{error}");
        }
    }
}
