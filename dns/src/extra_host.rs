//! Names that are given to a container beside those of its networks.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::{Error, Name, Result};

/// What stands for the host's own address.
const HOST_GATEWAY: &str = "host-gateway";

/// A name with an address, as `docker run --add-host` takes it: `db:10.0.0.2`, `db=fd00::2`, `db:[fd00::2]`, or
/// `host.internal:host-gateway` for an address of the host that the container reaches.
///
/// ```
/// use cofferdam_dns::{ExtraHost, Hosts};
///
/// let extra: ExtraHost = "host.internal:host-gateway".parse()?;
/// let gateways = ["10.89.0.1".parse()?];
/// let hosts = Hosts::ipv4_only().extra(&extra, &gateways);
/// assert!(hosts.to_string().ends_with("10.89.0.1\thost.internal\n"));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExtraHost {
    name: Name,
    /// Without one it is the host's.
    address: Option<IpAddr>,
}

impl ExtraHost {
    /// A name for this address.
    #[must_use]
    pub fn new(name: Name, address: IpAddr) -> Self {
        let address = Some(address);
        ExtraHost { name, address }
    }

    /// A name for the host.
    #[must_use]
    pub fn host_gateway(name: Name) -> Self {
        let address = None;
        ExtraHost { name, address }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Its addresses, where `gateways` are the host's: those of the container's bridge, say. None of them means that the
    /// container cannot reach the host.
    pub fn addresses<'a>(&'a self, gateways: &'a [IpAddr]) -> impl Iterator<Item = IpAddr> + 'a {
        let of_host = if self.address.is_none() {
            gateways
        } else {
            &[]
        };
        self.address.iter().chain(of_host).copied()
    }
}

impl FromStr for ExtraHost {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let fault = |why| Error::extra_host(text, why);
        // An IPv6 address has colons of its own; a name has none.
        let split = text
            .find(['=', ':'])
            .ok_or_else(|| fault("is not name:address"))?;
        let (name, address) = (&text[..split], &text[split + 1..]);
        let name: Name = name.parse()?;
        if address == HOST_GATEWAY {
            return Ok(ExtraHost::host_gateway(name));
        }
        let bare = address
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        match bare.unwrap_or(address).parse() {
            Ok(address) => Ok(ExtraHost::new(name, address)),
            Err(_) => Err(fault("has no address after the name")),
        }
    }
}

impl fmt::Display for ExtraHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "{}:{address}", self.name),
            None => write!(f, "{}:{HOST_GATEWAY}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_spellings_are_read() {
        for (text, name, addresses) in [
            ("db:10.0.0.2", "db", &["10.0.0.2"][..]),
            ("db=10.0.0.2", "db", &["10.0.0.2"]),
            ("db:fd00::2", "db", &["fd00::2"]),
            ("db:[fd00::2]", "db", &["fd00::2"]),
            ("db=::1", "db", &["::1"]),
            ("a.b:host-gateway", "a.b", &["10.9.0.1", "fd00::1"]),
        ] {
            let extra: ExtraHost = text.parse().unwrap();
            let gateways = ["10.9.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
            let found: Vec<_> = extra.addresses(&gateways).map(|a| a.to_string()).collect();
            assert_eq!(
                (extra.name().as_str(), found),
                (name, addresses.iter().map(|a| a.to_string()).collect())
            );
            assert_eq!(extra.to_string().parse::<ExtraHost>().unwrap(), extra);
        }
    }

    #[test]
    fn what_is_none_is_refused_with_the_reason() {
        for (text, line) in [
            ("db", r#"extra host "db": is not name:address"#),
            ("db:", r#"extra host "db:": has no address after the name"#),
            (
                "db:10.0.0",
                r#"extra host "db:10.0.0": has no address after the name"#,
            ),
            (
                "db:host-gateway\n1.1.1.1",
                r#"extra host "db:host-gateway\n1.1.1.1": has no address after the name"#,
            ),
            (
                "d b:1.1.1.1",
                r#"name "d b": has a byte that is no letter, digit, hyphen or underscore"#,
            ),
            (":1.1.1.1", r#"name "": is empty"#),
        ] {
            assert_eq!(text.parse::<ExtraHost>().unwrap_err().to_string(), line);
        }
    }
}
