//! `/etc/hosts`, written.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use crate::Name;

/// What every file has of IPv6.
const IPV6: &str = "\
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
";

/// The contents of a hosts(5): localhost, the container itself, extra hosts. Its `Display` is the file.
///
/// ```
/// use cofferdam_dns::Hosts;
///
/// let hosts = Hosts::ipv4_only()
///     .host("10.89.0.2".parse()?, ["web".parse()?, "www".parse()?])
///     .host("10.89.0.1".parse()?, ["host.internal".parse()?]);
/// assert_eq!(
///     hosts.to_string(),
///     "127.0.0.1\tlocalhost\n10.89.0.2\tweb www\n10.89.0.1\thost.internal\n",
/// );
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts {
    loopback_v6: bool,
    lines: Vec<(IpAddr, Vec<Name>)>,
}

impl Hosts {
    /// The localhost lines of both families.
    #[must_use]
    #[expect(
        clippy::new_without_default,
        reason = "which families there are is a choice"
    )]
    pub fn new() -> Self {
        Hosts {
            loopback_v6: true,
            lines: Vec::new(),
        }
    }

    /// The localhost line of IPv4 alone, for a container where IPv6 is off.
    #[must_use]
    pub fn ipv4_only() -> Self {
        Hosts {
            loopback_v6: false,
            lines: Vec::new(),
        }
    }

    /// One more line: the container's own name and aliases, or an extra host. The first name is the canonical one.
    /// Without names there is no line.
    #[must_use]
    pub fn host(mut self, address: IpAddr, names: impl IntoIterator<Item = Name>) -> Self {
        let names: Vec<_> = names.into_iter().collect();
        if !names.is_empty() {
            self.lines.push((address, names));
        }
        self
    }
}

impl fmt::Display for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\tlocalhost", Ipv4Addr::LOCALHOST)?;
        if self.loopback_v6 {
            f.write_str(IPV6)?;
        }
        for (address, names) in &self.lines {
            let names: Vec<_> = names.iter().map(Name::as_str).collect();
            writeln!(f, "{address}\t{}", names.join(" "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_have_their_localhost() {
        let text = Hosts::new()
            .host("fd00::2".parse().unwrap(), ["Web".parse().unwrap()])
            .host("10.0.0.9".parse().unwrap(), [])
            .to_string();
        assert!(text.starts_with("127.0.0.1\tlocalhost\n::1\tlocalhost "));
        assert!(text.ends_with("ip6-allrouters\nfd00::2\tWeb\n"));
    }

    #[test]
    fn every_line_is_an_address_and_names() {
        for line in Hosts::new().to_string().lines() {
            let (address, names) = line.split_once('\t').unwrap();
            assert!(address.parse::<IpAddr>().is_ok(), "{line}");
            assert!(names.split(' ').all(|name| name.parse::<Name>().is_ok()));
        }
    }
}
