//! Which port of the host leads to which port of a container, in Docker's spelling.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::error::{Error, Inner, Result};

/// A port to publish: `[host address:]host port:container port[/protocol]`, as `docker run --publish` spells it.
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
    host_port: u16,
    container_port: u16,
    protocol: Protocol,
}

impl PortSpec {
    /// A TCP port on every address of the host.
    ///
    /// # Errors
    /// `InvalidInput` for port 0.
    pub fn new(host_port: u16, container_port: u16) -> Result<Self> {
        let spec = PortSpec {
            host_ip: None,
            host_port,
            container_port,
            protocol: Protocol::Tcp,
        };
        for (part, value) in [(HOST_PORT, host_port), (CONTAINER_PORT, container_port)] {
            if value == 0 {
                return Err(invalid(&spec.to_string(), part, "0", NOT_A_PORT));
            }
        }
        Ok(spec)
    }

    /// The same on one address of the host only; `0.0.0.0` means every one.
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

    /// The port on the host, 1 to 65535.
    #[must_use]
    pub fn host_port(&self) -> u16 {
        self.host_port
    }

    /// The port in the container, 1 to 65535.
    #[must_use]
    pub fn container_port(&self) -> u16 {
        self.container_port
    }

    /// The protocol.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_ip {
            None => {}
            Some(IpAddr::V4(ip)) => write!(f, "{ip}:")?,
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:")?,
        }
        write!(
            f,
            "{}:{}/{}",
            self.host_port, self.container_port, self.protocol
        )
    }
}

impl FromStr for PortSpec {
    type Err = Error;

    /// Parses Docker's spelling. The protocol is `tcp` where none is given; its case does not matter.
    ///
    /// # Errors
    /// `InvalidInput` naming the part that is wrong; `Unsupported` for a host port left to be chosen (`80`, `127.0.0.1::80`) and for
    /// ranges (`8000-8010:80-90`).
    fn from_str(spec: &str) -> Result<Self> {
        let (ports, protocol) = match spec.split_once('/') {
            None => (spec, Protocol::Tcp),
            Some((ports, name)) => (ports, parse_protocol(spec, name)?),
        };
        let (host_ip, ports) = split_host_ip(spec, ports)?;
        let Some((host, container)) = ports.split_once(':') else {
            parse_ports(spec, CONTAINER_PORT, ports)?;
            return Err(not_yet(spec, "a host port left to be chosen"));
        };
        let container = parse_ports(spec, CONTAINER_PORT, container)?;
        if host.is_empty() && host_ip.is_some() {
            return Err(not_yet(spec, "a host port left to be chosen"));
        }
        match (parse_ports(spec, HOST_PORT, host)?, container) {
            (Ports::One(host_port), Ports::One(container_port)) => Ok(PortSpec {
                host_ip,
                host_port,
                container_port,
                protocol,
            }),
            _ => Err(not_yet(spec, "a range of ports")),
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

/// One port, or two with a dash between.
enum Ports {
    One(u16),
    Range,
}

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
            .map(Ports::One)
            .ok_or_else(|| invalid(spec, part, text, NOT_A_PORT));
    };
    match (parse_port(first), parse_port(last)) {
        (Some(first), Some(last)) if first <= last => Ok(Ports::Range),
        _ => Err(invalid(
            spec,
            part,
            text,
            "neither a port nor a range of ports",
        )),
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

fn not_yet(spec: &str, form: &'static str) -> Error {
    let spec = spec.to_owned();
    Inner::Form { spec, form }.into()
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
            ("0:80", "host port \"0\""),
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
            (":80", "host port \"\""),
            ("80:80/", "protocol \"\""),
            ("80:80/icmp", "protocol \"icmp\""),
            ("80:80/tcp/udp", "protocol \"tcp/udp\""),
            ("80:80/tcp ", "protocol \"tcp \""),
            ("127.0.0.1:80", "host port \"127.0.0.1\""),
            ("127.0.0:80:80", "host address \"127.0.0\""),
            ("127.0.0.01:80:80", "host address \"127.0.0.01\""),
            ("localhost:80:80", "host address \"localhost\""),
            (":80:80", "host address \"\""),
            ("::1:80:80", "host address \"::1:80:80\""),
            ("1.2.3.4:80:80:80", "host address \"1.2.3.4:80:80:80\""),
            ("[::1]80:80", "host address \"[::1]80:80\""),
            ("[::1:80:80", "host address \"[::1:80:80\""),
            ("[127.0.0.1]:80:80", "host address \"127.0.0.1\""),
            ("[fe80::1%eth0]:80:80", "host address \"fe80::1%eth0\""),
            ("[::1]:80", "host port \"80\""),
            ("[::1]:80:80:80", "host port \"80:80:80\""),
            ("80-70:80-70", "container port \"80-70\""),
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
    fn forms_of_later_are_unsupported_and_say_so() {
        for (text, form) in [
            ("80", "a host port left to be chosen"),
            ("80/udp", "a host port left to be chosen"),
            ("127.0.0.1::80", "a host port left to be chosen"),
            ("[::1]::80", "a host port left to be chosen"),
            ("8000-8010:80-90", "a range of ports"),
            ("8000-8010:80", "a range of ports"),
            ("127.0.0.1:8000-8010:80-90/udp", "a range of ports"),
        ] {
            let error = text.parse::<PortSpec>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{text}");
            assert_eq!(
                error.to_string(),
                format!("port {text:?}: {form} is not supported yet")
            );
        }
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
            let host_port = (ports as u16).max(1);
            let container_port = ((ports >> 16) as u16).max(1);
            let mut spec = PortSpec::new(host_port, container_port).unwrap();
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
                assert!(
                    spec.to_string().starts_with(&text),
                    "{text:?} became {spec}"
                );
            }
        }
    }

    #[test]
    fn port_zero_is_refused_from_code_too() {
        let error = PortSpec::new(0, 80).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("host port \"0\""), "{error}");
    }
}
