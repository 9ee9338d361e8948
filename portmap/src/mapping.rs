//! One port of the host that leads to one port of a container.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::error::{Inner, Result};
use crate::name::Owner;
use crate::spec::{PortSpec, Protocol};

/// A published port: one port of the host, on one address or all of a family, that leads to an address and port of a container.
///
/// ```
/// use cofferdam_portmap::{Owner, PortMapping, Protocol};
///
/// let web = PortMapping::new(Protocol::Tcp, 8080, "10.1.0.2:80".parse()?)?
///     .on("127.0.0.1".parse()?)?
///     .owned_by(Owner::new("web")?);
/// assert_eq!(web.to_string(), "127.0.0.1:8080/tcp to 10.1.0.2:80 of web");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[must_use = "a PortMapping does nothing until it is given to a Portmap or a Ruleset"]
pub struct PortMapping {
    protocol: Protocol,
    host_ip: Option<IpAddr>,
    host_port: u16,
    target: SocketAddr,
    owner: Option<Owner>,
}

impl PortMapping {
    /// A port on every address of the host that is of the target's family.
    ///
    /// # Errors
    /// `InvalidInput` for port 0, and for a target without an address (`0.0.0.0`, `::`) or on loopback.
    pub fn new(protocol: Protocol, host_port: u16, target: SocketAddr) -> Result<Self> {
        let target = SocketAddr::new(target.ip(), target.port()); // without scope and flow
        let mapping = PortMapping {
            protocol,
            host_ip: None,
            host_port,
            target,
            owner: None,
        };
        let reason = if host_port == 0 {
            "the host port is 0"
        } else if target.port() == 0 {
            "the container's port is 0"
        } else if target.ip().is_unspecified() || target.ip().is_loopback() {
            "no address of a container"
        } else {
            return Ok(mapping);
        };
        Err(mapping.wrong(reason))
    }

    /// What `spec` says, with the container at `target`.
    ///
    /// # Errors
    /// As [`new`](Self::new) and [`on`](Self::on), and `InvalidInput` for a spec of several ports or one with a port to be chosen:
    /// [`PortSpec::expand`] makes single ones of the former.
    pub fn of_spec(spec: &PortSpec, target: IpAddr) -> Result<Self> {
        spec.require_single()?;
        let target = SocketAddr::new(target, spec.container_port());
        let mapping = Self::new(spec.protocol(), spec.host_port(), target)?;
        match spec.host_ip() {
            None => Ok(mapping),
            Some(ip) => mapping.on(ip),
        }
    }

    /// The same on one address of the host only; `0.0.0.0` and `::` mean every one of the family.
    ///
    /// # Errors
    /// `InvalidInput` if the address is of another family than the target: nf_tables cannot lead from one to the other.
    /// `Unsupported` for `::1`: the kernel routes nothing from there to a container.
    pub fn on(mut self, host_ip: IpAddr) -> Result<Self> {
        let unspecified = host_ip.is_unspecified();
        self.host_ip = (!unspecified).then_some(host_ip);
        if host_ip.is_ipv4() != self.target.is_ipv4() {
            self.host_ip = Some(host_ip);
            return Err(self.wrong("the host address is of another family than the container's"));
        }
        if host_ip == IpAddr::V6(Ipv6Addr::LOCALHOST) {
            let port = self.to_string();
            return Err(Inner::Loopback { port }.into());
        }
        Ok(self)
    }

    /// Whose it is.
    pub fn owned_by(mut self, owner: Owner) -> Self {
        self.owner = Some(owner);
        self
    }

    /// The protocol.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The address of the host; `None` is every one of the target's family.
    #[must_use]
    pub fn host_ip(&self) -> Option<IpAddr> {
        self.host_ip
    }

    /// The port of the host.
    #[must_use]
    pub fn host_port(&self) -> u16 {
        self.host_port
    }

    /// The container's address and port.
    #[must_use]
    pub fn target(&self) -> SocketAddr {
        self.target
    }

    /// Whose it is, if that was said.
    #[must_use]
    pub fn owner(&self) -> Option<&Owner> {
        self.owner.as_ref()
    }

    pub(crate) fn is_ipv4(&self) -> bool {
        self.target.is_ipv4()
    }

    /// Where it is published. In an order in which the ports that exclude each other are neighbours.
    pub(crate) fn key(&self) -> PortKey {
        PortKey {
            is_ipv6: !self.is_ipv4(),
            protocol: self.protocol,
            host_port: self.host_port,
            host_ip: self.host_ip,
        }
    }

    /// What a conflict or an error names it by: host address, port and protocol.
    pub(crate) fn place(&self) -> impl fmt::Display + use<'_> {
        Place(self)
    }

    fn wrong(&self, reason: &'static str) -> crate::Error {
        let value = self.to_string();
        let what = "published port";
        Inner::Input {
            what,
            value,
            reason,
        }
        .into()
    }
}

impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.place(), self.target)?;
        match &self.owner {
            None => Ok(()),
            Some(owner) => write!(f, " of {owner}"),
        }
    }
}

struct Place<'a>(&'a PortMapping);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PortMapping {
            protocol,
            host_port,
            ..
        } = self.0;
        match self.0.host_ip {
            None if self.0.is_ipv4() => write!(f, "0.0.0.0:{host_port}/{protocol}"),
            None => write!(f, "[::]:{host_port}/{protocol}"),
            Some(ip) => write!(f, "{}/{protocol}", SocketAddr::new(ip, *host_port)),
        }
    }
}

/// What tells published ports apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PortKey {
    pub(crate) is_ipv6: bool,
    pub(crate) protocol: Protocol,
    pub(crate) host_port: u16,
    /// Last, and every address before any: those that exclude each other follow each other.
    pub(crate) host_ip: Option<IpAddr>,
}

impl PortKey {
    pub(crate) fn on(self, host_ip: Option<IpAddr>) -> Self {
        PortKey { host_ip, ..self }
    }

    pub(crate) fn same_port(self, other: PortKey) -> bool {
        self.on(None) == other.on(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn mapping(text: &str, to: &str) -> Result<PortMapping> {
        PortMapping::of_spec(&text.parse()?, to.parse().unwrap())
    }

    #[test]
    fn the_unspecified_host_address_is_every_address() {
        for (explicit, to) in [("0.0.0.0:1:1", "10.1.0.2"), ("[::]:1:1", "fd00::2")] {
            let (explicit, any) = (mapping(explicit, to).unwrap(), mapping("1:1", to).unwrap());
            assert_eq!(explicit, any);
            assert_eq!(any.host_ip(), None);
        }
    }

    #[test]
    fn what_the_kernel_cannot_lead_is_refused() {
        for (text, to, kind) in [
            ("[fd00::1]:80:80", "10.1.0.2", ErrorKind::InvalidInput),
            ("[::]:80:80", "10.1.0.2", ErrorKind::InvalidInput),
            ("127.0.0.1:80:80", "fd00::2", ErrorKind::InvalidInput),
            ("0.0.0.0:80:80", "fd00::2", ErrorKind::InvalidInput),
            ("80:80", "0.0.0.0", ErrorKind::InvalidInput),
            ("80:80", "127.0.0.1", ErrorKind::InvalidInput),
            ("80:80", "::1", ErrorKind::InvalidInput),
            ("[::1]:80:80", "fd00::2", ErrorKind::Unsupported),
        ] {
            let error = mapping(text, to).unwrap_err();
            assert_eq!(error.kind(), kind, "{text} to {to}: {error}");
            assert!(error.to_string().contains(":80"), "{error}");
        }
        let target = "10.1.0.2:0".parse().unwrap();
        assert!(PortMapping::new(Protocol::Tcp, 80, target).is_err());
        let target = "10.1.0.2:80".parse().unwrap();
        assert!(PortMapping::new(Protocol::Tcp, 0, target).is_err());
    }
}
