//! Which port of the host leads to which port of a container, in Docker's spelling.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::error::{Error, Inner, Result};

/// Ports to publish, as `docker run --publish` spells them: `[[host address:][host ports]:]container ports[/protocol]`.
///
/// | spelling | meaning |
/// |---|---|
/// | `8080:80` | port 8080 of every address of the host, IPv4 and IPv6 |
/// | `127.0.0.1:8080:80`, `[::1]:8080:80` | of one address; an IPv6 address stands in brackets |
/// | `0.0.0.0:8080:80`, `[::]:8080:80` | of every IPv4 address, of every IPv6 address |
/// | `80`, `:80`, `0:80`, `127.0.0.1::80` | a free port of the host, chosen when it is published |
/// | `8000-8100:3000-3100` | each port to its counterpart; ranges of unequal length are refused |
/// | `8000-8010:80` | one free port out of 8000 to 8010 |
/// | `8000-8010` | a free port of the host for each of these ports of the container |
/// | `53:53/udp`, `/sctp`, `/TCP` | the protocol, in any case; `tcp` where none is given |
///
/// Unlike Docker's parser this takes an IPv6 address only in brackets (`::1:80:80` is `InvalidInput`: which colon is whose is a
/// guess), no leading zeros, no empty protocol, and no port 0 of a container.
///
/// ```
/// use cofferdam_portmap::{PortSpec, Protocol};
///
/// let spec: PortSpec = "127.0.0.1:8080:80".parse()?;
/// assert_eq!(spec.host_port(), 8080);
/// assert_eq!(spec.container_port(), 80);
/// assert_eq!(spec.protocol(), Protocol::Tcp);
/// assert_eq!(spec.to_string(), "127.0.0.1:8080:80/tcp");
/// # Ok::<(), cofferdam_portmap::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortSpec {
    host_ip: Option<IpAddr>,
    host: Ports,
    container: Ports,
    protocol: Protocol,
}

impl PortSpec {
    /// A TCP port on every address of the host. Host port 0 is a free one, chosen when it is published.
    ///
    /// # Errors
    /// `InvalidInput` for container port 0.
    pub fn new(host_port: u16, container_port: u16) -> Result<Self> {
        PortSpec::from_ranges(host_port..=host_port, container_port..=container_port)
    }

    /// TCP ports on every address of the host, each to its counterpart in the container. Host ports `0..=0` are free ones; more
    /// than one host port for one container port is one free port out of those.
    ///
    /// # Errors
    /// `InvalidInput` for an empty range, for ranges of unequal length otherwise, for container port 0, and for a range of host
    /// ports that contains 0 and more.
    pub fn from_ranges(host: RangeInclusive<u16>, container: RangeInclusive<u16>) -> Result<Self> {
        let text = format!(
            "{}-{}:{}-{}",
            host.start(),
            host.end(),
            container.start(),
            container.end()
        );
        PortSpec::checked(&text, None, host.into(), container.into(), Protocol::Tcp)
    }

    fn checked(
        text: &str,
        host_ip: Option<IpAddr>,
        host: Ports,
        container: Ports,
        protocol: Protocol,
    ) -> Result<Self> {
        let wrong =
            |part, ports: Ports, reason| Err(invalid(text, part, &ports.to_string(), reason));
        if container.first == 0 || container.last < container.first {
            return wrong(CONTAINER_PORT, container, NOT_PORTS);
        }
        if host != Ports::ANY && (host.first == 0 || host.last < host.first) {
            return wrong(HOST_PORT, host, NOT_PORTS);
        }
        let pairs = container.len() == 1 || host.len() == container.len();
        if host != Ports::ANY && !pairs {
            return wrong(HOST_PORT, host, "not as many ports as the container's");
        }
        Ok(PortSpec {
            host_ip,
            host,
            container,
            protocol,
        })
    }

    /// The same on one address of the host only; `0.0.0.0` means every IPv4 address, `::` every IPv6 address.
    #[must_use]
    pub fn with_host_ip(mut self, host_ip: IpAddr) -> Self {
        self.host_ip = Some(host_ip);
        self
    }

    /// The same for another protocol.
    #[must_use]
    pub fn with_protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// The host address as it was given, if one was.
    #[must_use]
    pub fn host_ip(&self) -> Option<IpAddr> {
        self.host_ip
    }

    /// The port on the host, or the first of several; 0, as in bind(2), where a free one is to be chosen.
    #[must_use]
    pub fn host_port(&self) -> u16 {
        self.host.first
    }

    /// The ports on the host: `0..=0` where free ones are to be chosen.
    #[must_use]
    pub fn host_ports(&self) -> RangeInclusive<u16> {
        self.host.first..=self.host.last
    }

    /// The port in the container, or the first of several. Never 0.
    #[must_use]
    pub fn container_port(&self) -> u16 {
        self.container.first
    }

    /// The ports in the container.
    #[must_use]
    pub fn container_ports(&self) -> RangeInclusive<u16> {
        self.container.first..=self.container.last
    }

    /// The protocol.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Whether it says one port of the container and which port of the host leads there, with nothing to be chosen.
    #[must_use]
    pub fn is_single(&self) -> bool {
        self.container.len() == 1 && self.host.len() == 1 && self.host != Ports::ANY
    }

    /// The same as specs of one port of the container each. Where a host port is to be chosen it still is.
    ///
    /// ```
    /// let spec: cofferdam_portmap::PortSpec = "8000-8001:80-81".parse()?;
    /// let ports: Vec<String> = spec.expand().map(|one| one.to_string()).collect();
    /// assert_eq!(ports, ["8000:80/tcp", "8001:81/tcp"]);
    /// # Ok::<(), cofferdam_portmap::Error>(())
    /// ```
    pub fn expand(&self) -> impl Iterator<Item = PortSpec> + use<> {
        let whole = *self;
        let choice = whole.host == Ports::ANY || whole.container.len() == 1;
        whole.container_ports().map(move |container_port| {
            let offset = container_port - whole.container.first;
            let host = match choice {
                true => whole.host,
                false => Ports::one(whole.host.first + offset),
            };
            PortSpec {
                host,
                container: Ports::one(container_port),
                ..whole
            }
        })
    }

    /// The addresses to bind for it: the one that was given, or the wildcards of both families.
    #[must_use]
    pub fn host_addresses(&self) -> Vec<IpAddr> {
        match self.host_ip {
            Some(ip) => vec![ip],
            None => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        }
    }

    /// Refuses one that is not [single](Self::is_single).
    pub(crate) fn require_single(&self) -> Result<()> {
        match self.is_single() {
            true => Ok(()),
            false => Err(invalid(
                &self.to_string(),
                HOST_PORT,
                &self.host.to_string(),
                "not one port for one of the container",
            )),
        }
    }

    /// The same with its host port chosen.
    pub(crate) fn at_host_port(mut self, port: u16) -> Self {
        self.host = Ports::one(port);
        self
    }
}

impl fmt::Display for PortSpec {
    /// Prints the shortest spelling with the protocol, which parses back to the same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_ip {
            None => {}
            Some(IpAddr::V4(ip)) => write!(f, "{ip}:")?,
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:")?,
        }
        if self.host != Ports::ANY {
            write!(f, "{}", self.host)?;
        }
        if self.host != Ports::ANY || self.host_ip.is_some() {
            f.write_str(":")?;
        }
        write!(f, "{}/{}", self.container, self.protocol)
    }
}

impl FromStr for PortSpec {
    type Err = Error;

    /// Parses Docker's spelling, as in the table of [`PortSpec`].
    ///
    /// # Errors
    /// `InvalidInput` naming the part that is wrong.
    fn from_str(spec: &str) -> Result<Self> {
        let (ports, protocol) = match spec.split_once('/') {
            None => (spec, Protocol::Tcp),
            Some((ports, name)) => (ports, parse_protocol(spec, name)?),
        };
        let (host_ip, ports) = split_host_ip(spec, ports)?;
        let (host, container) = ports.split_once(':').unwrap_or(("", ports));
        let container = parse_ports(spec, CONTAINER_PORT, container)?;
        let host = match host {
            "" | "0" => Ports::ANY,
            host => parse_ports(spec, HOST_PORT, host)?,
        };
        PortSpec::checked(spec, host_ip, host, container, protocol)
    }
}

/// One port, or those from one to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    /// A free port of the host.
    const ANY: Ports = Ports { first: 0, last: 0 };

    fn one(port: u16) -> Self {
        Ports {
            first: port,
            last: port,
        }
    }

    fn len(self) -> u32 {
        u32::from(self.last.saturating_sub(self.first)) + 1
    }
}

impl From<RangeInclusive<u16>> for Ports {
    fn from(range: RangeInclusive<u16>) -> Self {
        Ports {
            first: *range.start(),
            last: *range.end(),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// A protocol with ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Protocol {
    /// TCP, the default.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Its number in an IP header.
    pub(crate) fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    pub(crate) fn of_number(number: u8) -> Option<Self> {
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
            .into_iter()
            .find(|protocol| protocol.number() == number)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        })
    }
}

const HOST_IP: &str = "host address";
const HOST_PORT: &str = "host port";
const CONTAINER_PORT: &str = "container port";
const NOT_A_PORT: &str = "not a number from 1 to 65535";
const NOT_PORTS: &str = "neither a port nor a range of ports";

fn split_host_ip<'a>(spec: &str, ports: &'a str) -> Result<(Option<IpAddr>, &'a str)> {
    if let Some(rest) = ports.strip_prefix('[') {
        let Some((ip, rest)) = rest.split_once("]:") else {
            return Err(invalid(spec, HOST_IP, ports, "no closing bracket and port"));
        };
        let ip: Ipv6Addr = ip
            .parse()
            .or(Err(invalid(spec, HOST_IP, ip, "not an IPv6 address")))?;
        return Ok((Some(ip.into()), require_colon(spec, rest)?));
    }
    match ports.matches(':').count() {
        0 | 1 => Ok((None, ports)),
        2 => {
            let (ip, rest) = ports.split_once(':').unwrap_or_default();
            if ip.is_empty() {
                return Ok((None, rest));
            }
            let ip: Ipv4Addr =
                ip.parse()
                    .or(Err(invalid(spec, HOST_IP, ip, "not an IPv4 address")))?;
            Ok((Some(ip.into()), rest))
        }
        _ => Err(invalid(
            spec,
            HOST_IP,
            ports,
            "too many colons; an IPv6 address goes in brackets",
        )),
    }
}

/// After an address there are two ports, though the first may be empty.
fn require_colon<'a>(spec: &str, ports: &'a str) -> Result<&'a str> {
    match ports.matches(':').count() {
        1 => Ok(ports),
        _ => Err(invalid(
            spec,
            HOST_PORT,
            ports,
            "not a host and a container port",
        )),
    }
}

fn parse_ports(spec: &str, part: &'static str, text: &str) -> Result<Ports> {
    let Some((first, last)) = text.split_once('-') else {
        return parse_port(text)
            .map(Ports::one)
            .ok_or_else(|| invalid(spec, part, text, NOT_A_PORT));
    };
    match (parse_port(first), parse_port(last)) {
        (Some(first), Some(last)) if first <= last => Ok(Ports { first, last }),
        _ => Err(invalid(spec, part, text, NOT_PORTS)),
    }
}

/// Digits only: no sign, no space, no leading zero.
fn parse_port(text: &str) -> Option<u16> {
    if text.starts_with('0') || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn parse_protocol(spec: &str, name: &str) -> Result<Protocol> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .find(|protocol| protocol.to_string().eq_ignore_ascii_case(name))
        .ok_or_else(|| invalid(spec, "protocol", name, "not tcp, udp or sctp"))
}

fn invalid(spec: &str, part: &'static str, value: &str, reason: &'static str) -> Error {
    Inner::Port {
        spec: spec.to_owned(),
        part,
        value: value.to_owned(),
        reason,
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn docker_spellings_parse_and_print() {
        for (text, printed) in [
            ("8080:80", "8080:80/tcp"),
            ("8080:80/udp", "8080:80/udp"),
            ("8080:80/SCTP", "8080:80/sctp"),
            ("1:65535/tcp", "1:65535/tcp"),
            ("127.0.0.1:8080:80/tcp", "127.0.0.1:8080:80/tcp"),
            ("0.0.0.0:8080:80", "0.0.0.0:8080:80/tcp"),
            ("[::1]:53:53/udp", "[::1]:53:53/udp"),
            ("[0:0::0]:53:53/udp", "[::]:53:53/udp"),
            ("80", "80/tcp"),
            (":80", "80/tcp"),
            ("0:80/udp", "80/udp"),
            ("::80", "80/tcp"),
            (":8080:80", "8080:80/tcp"),
            ("127.0.0.1::80", "127.0.0.1::80/tcp"),
            ("[::1]::80/Udp", "[::1]::80/udp"),
            ("127.0.0.1:0:80", "127.0.0.1::80/tcp"),
            ("8000-8100:3000-3100", "8000-8100:3000-3100/tcp"),
            ("8000-8010:80", "8000-8010:80/tcp"),
            ("8000-8000:80-80", "8000:80/tcp"),
            ("8000-8010", "8000-8010/tcp"),
            ("[::1]:1-65535:1-65535/sctp", "[::1]:1-65535:1-65535/sctp"),
        ] {
            let spec: PortSpec = text.parse().unwrap();
            assert_eq!(spec.to_string(), printed, "{text}");
        }
    }

    #[test]
    fn a_wrong_part_is_named_and_the_whole_is_quoted() {
        for (text, part) in [
            ("", "container port \"\""),
            (":", "container port \"\""),
            ("80:0", "container port \"0\""),
            ("65536:80", "host port \"65536\""),
            ("80:65536", "container port \"65536\""),
            ("65536", "container port \"65536\""),
            ("+80:80", "host port \"+80\""),
            ("80:+80", "container port \"+80\""),
            ("-80:80", "host port \"-80\""),
            ("80:-80", "container port \"-80\""),
            (" 80:80", "host port \" 80\""),
            ("80: 80", "container port \" 80\""),
            ("80:80 ", "container port \"80 \""),
            ("080:80", "host port \"080\""),
            ("http:80", "host port \"http\""),
            ("٣:80", "host port \"٣\""),
            ("80:", "container port \"\""),
            ("80:80/", "protocol \"\""),
            ("80:80/icmp", "protocol \"icmp\""),
            ("80:80/tcp/udp", "protocol \"tcp/udp\""),
            ("80:80/tcp ", "protocol \"tcp \""),
            ("127.0.0.1:80", "host port \"127.0.0.1\""),
            ("127.0.0:80:80", "host address \"127.0.0\""),
            ("127.0.0.01:80:80", "host address \"127.0.0.01\""),
            ("localhost:80:80", "host address \"localhost\""),
            ("::1:80:80", "host address \"::1:80:80\""),
            ("1.2.3.4:80:80:80", "host address \"1.2.3.4:80:80:80\""),
            ("[::1]80:80", "host address \"[::1]80:80\""),
            ("[::1:80:80", "host address \"[::1:80:80\""),
            ("[127.0.0.1]:80:80", "host address \"127.0.0.1\""),
            ("[fe80::1%eth0]:80:80", "host address \"fe80::1%eth0\""),
            ("[::1]:80", "host port \"80\""),
            ("[::1]:80:80:80", "host port \"80:80:80\""),
            ("80-70:80-70", "container port \"80-70\""),
            ("0-10:80", "host port \"0-10\""),
            ("0", "container port \"0\""),
            ("8000-8010:80-89", "host port \"8000-8010\""),
            ("8000:80-89", "host port \"8000\""),
            ("::1:80", "host address \"::1:80\""),
            ("8000-8010:3000-3011", "host port \"8000-8010\""),
            ("80-:80", "host port \"80-\""),
            ("1-2-3:80", "host port \"1-2-3\""),
            ("80\n:80", "host port \"80\\n\""),
        ] {
            let error = text.parse::<PortSpec>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text:?}: {error}");
            let line = error.to_string();
            assert!(line.starts_with(&format!("port {text:?}: ")), "{line}");
            assert!(line.contains(part), "{text:?}: {line}");
            assert!(!line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn a_spec_expands_into_single_ports() {
        for (text, expanded) in [
            ("8080:80", &["8080:80/tcp"][..]),
            ("80/udp", &["80/udp"]),
            ("80-82", &["80/tcp", "81/tcp", "82/tcp"]),
            ("[::1]::80-81", &["[::1]::80/tcp", "[::1]::81/tcp"]),
            ("8000-8010:80", &["8000-8010:80/tcp"]),
            ("65534-65535:1-2", &["65534:1/tcp", "65535:2/tcp"]),
        ] {
            let spec: PortSpec = text.parse().unwrap();
            let got: Vec<String> = spec.expand().map(|one| one.to_string()).collect();
            assert_eq!(got, expanded, "{text}");
            let single = expanded.len() == 1 && text == "8080:80";
            assert_eq!(spec.is_single(), single, "{text}");
        }
        let all: PortSpec = "1-65535:1-65535".parse().unwrap();
        assert_eq!(all.expand().count(), 65535);
        assert!(all.expand().all(|one| one.is_single()));
    }

    #[test]
    fn without_an_address_it_is_for_both_families() {
        let addresses = |text: &str| text.parse::<PortSpec>().unwrap().host_addresses();
        let both: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        assert_eq!(addresses("80:80"), both);
        assert_eq!(addresses("0.0.0.0:80:80"), both[..1]);
        assert_eq!(addresses("[::]:80:80"), both[1..]);
        assert_eq!(
            addresses("[::1]:80:80"),
            [IpAddr::from(Ipv6Addr::LOCALHOST)]
        );
    }

    #[test]
    fn what_is_printed_parses_back_to_the_same() {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        for _ in 0..20_000 {
            let ports = next();
            let host = (ports as u16).clamp(1, 65000);
            let container = ((ports >> 16) as u16).clamp(1, 65000);
            let length = (ports >> 32) as u16 % 500;
            let mut spec = match next() % 5 {
                0 => PortSpec::new(0, container),
                1 => PortSpec::from_ranges(host..=host + length, container..=container),
                2 => PortSpec::from_ranges(host..=host + length, container..=container + length),
                3 => PortSpec::from_ranges(0..=0, container..=container + length),
                _ => PortSpec::new(host, container),
            }
            .unwrap();
            spec = match next() % 4 {
                0 => spec,
                1 => spec.with_host_ip(Ipv4Addr::from(next() as u32).into()),
                2 => spec.with_host_ip(Ipv6Addr::from(u128::from(next()) << 40).into()),
                _ => spec.with_host_ip(
                    Ipv6Addr::from(0xffff_0000_0000 | u128::from(next() as u32)).into(),
                ),
            };
            spec = match next() % 3 {
                0 => spec,
                1 => spec.with_protocol(Protocol::Udp),
                _ => spec.with_protocol(Protocol::Sctp),
            };
            assert_eq!(
                spec.to_string().parse::<PortSpec>().unwrap(),
                spec,
                "{spec}"
            );
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic_or_change_a_port() {
        let alphabet = ['0', '1', '8', ':', '-', '/', '[', ']', '.', 't', 'é', ' '];
        let mut random = 88_172_645_463_325_252_u64;
        for _ in 0..50_000 {
            let mut text = String::new();
            for _ in 0..random % 9 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                text.push(alphabet[(random >> 5) as usize % alphabet.len()]);
            }
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            if let Ok(spec) = text.parse::<PortSpec>() {
                let printed = spec.to_string();
                assert_eq!(printed.parse::<PortSpec>().unwrap(), spec, "{text:?}");
                let ports = spec.container_ports();
                assert!(*ports.start() > 0 && ports.start() <= ports.end());
                assert!(text.contains(&ports.end().to_string()), "{text:?}: {spec}");
            }
        }
    }

    #[test]
    fn wrong_ports_are_refused_from_code_too() {
        for (host, container, part) in [
            (80..=80, 0..=0, "container port \"0\""),
            (0..=1, 1..=2, "host port \"0-1\""),
            (RangeInclusive::new(2, 1), 1..=1, "host port \"2-1\""),
            (1..=2, 1..=3, "host port \"1-2\""),
            (1..=1, RangeInclusive::new(3, 1), "container port \"3-1\""),
        ] {
            let error = PortSpec::from_ranges(host, container).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(part), "{error}");
        }
        assert_eq!(PortSpec::new(0, 80).unwrap().to_string(), "80/tcp");
    }
}
