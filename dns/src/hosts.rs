//! `/etc/hosts`, read and written.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use crate::{ExtraHost, Name};

/// As many lines are read, and as many names of each.
const LINES_MAX: usize = 4096;
const NAMES_MAX: usize = 32;

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

    /// A line for each address of an extra host, where `gateways` are the addresses of the host.
    #[must_use]
    pub fn extra(mut self, extra: &ExtraHost, gateways: &[IpAddr]) -> Self {
        for address in extra.addresses(gateways) {
            self = self.host(address, [extra.name().clone()]);
        }
        self
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

/// Reading.
impl Hosts {
    /// Reads a file such as the host's: each line with an address and names. The names of localhost and what cannot be
    /// used are left out: addresses with a scope, names that are none, lines after the 4096th, names after the 32nd of a
    /// line.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().take(LINES_MAX).filter_map(parse_line);
        let mut hosts = Hosts::new();
        for (address, names) in lines {
            hosts = hosts.host(address, names);
        }
        hosts
    }

    /// What was added to the names of localhost: the lines, for a [`Zone`](crate::Zone) that is to know them as well.
    pub fn lines(&self) -> impl Iterator<Item = (IpAddr, &[Name])> {
        self.lines
            .iter()
            .map(|(address, names)| (*address, &**names))
    }
}

fn parse_line(line: &str) -> Option<(IpAddr, Vec<Name>)> {
    let line = line.split('#').next()?;
    let mut words = line.split_ascii_whitespace();
    let address: IpAddr = words.next()?.parse().ok()?;
    let is_standing = |name: &Name| IPV6.split_whitespace().any(|word| word == name.as_str());
    let names = words.take(NAMES_MAX).filter_map(|word| word.parse().ok());
    let names: Vec<_> = names.filter(|name| !is_standing(name)).collect();
    (!names.is_empty()).then_some((address, names))
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
    fn a_file_is_read_but_for_localhost_and_what_is_of_no_use() {
        let text = "# a comment\n127.0.0.1\tlocalhost\n::1 localhost ip6-localhost\n\n127.0.1.1 Box box.example # me\n\
                    fe80::1%eth0 scoped\nnonsense name\n10.0.0.1\n10.0.0.2 -bad good\n 10.0.0.3\tdb\tdb2\r\n";
        let hosts = Hosts::parse(text);
        let lines: Vec<_> = hosts
            .lines()
            .map(|(address, names)| {
                (
                    address.to_string(),
                    names.iter().map(Name::as_str).collect::<Vec<_>>(),
                )
            })
            .collect();
        let expected = [
            ("127.0.1.1".to_owned(), vec!["Box", "box.example"]),
            ("10.0.0.2".to_owned(), vec!["good"]),
            ("10.0.0.3".to_owned(), vec!["db", "db2"]),
        ];
        assert_eq!(lines, expected);
        assert_eq!(Hosts::parse(&hosts.to_string()), hosts);
        let endless = "10.0.0.1 a b c\n".repeat(10_000);
        assert_eq!(Hosts::parse(&endless).lines().count(), LINES_MAX);
        let wide = format!("10.0.0.1 {}", "x ".repeat(1000));
        assert_eq!(
            Hosts::parse(&wide).lines().next().unwrap().1.len(),
            NAMES_MAX
        );
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
