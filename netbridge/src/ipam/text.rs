//! A network as text: a line for each thing, and a sum of all lines before it.
//!
//! ```text
//! cofferdam-ipam 1
//! network app
//! subnet 172.20.7.0/24
//! range 172.20.7.128/25
//! gateway 172.20.7.1
//! aux printer 172.20.7.130
//! last 172.20.7.132
//! lease 172.20.7.132 container-7
//! sum 5d1f1ba9cf1d5e42
//! ```

use std::fmt::Write;
use std::net::IpAddr;
use std::str::FromStr;

use ipnetwork::IpNetwork;

use super::addresses::Addresses;
use super::hash::hash;
use super::name::check_name;
use super::network::Network;
use super::subnet::Subnet;
use crate::error::Result;

const FIRST_LINE: &str = "cofferdam-ipam 1";

pub(super) fn render(network: &Network) -> String {
    let mut text = format!("{FIRST_LINE}\nnetwork {}\n", network.name());
    for addresses in network.allocators() {
        render_subnet(&mut text, addresses);
    }
    for (address, owner) in network.leases() {
        line(&mut text, format_args!("lease {address} {owner}"));
    }
    let sum = hash(text.bytes());
    line(&mut text, format_args!("sum {sum:016x}"));
    text
}

fn render_subnet(text: &mut String, addresses: &Addresses) {
    let subnet = addresses.config();
    line(text, format_args!("subnet {}", subnet.network()));
    if let Some(range) = subnet.range {
        line(text, format_args!("range {range}"));
    }
    if let Some(gateway) = subnet.gateway_address() {
        line(text, format_args!("gateway {gateway}"));
    }
    for (name, address) in &subnet.aux {
        line(text, format_args!("aux {name} {address}"));
    }
    if let Some(last) = addresses.last() {
        line(text, format_args!("last {last}"));
    }
}

fn line(text: &mut String, words: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _always = writeln!(text, "{words}").is_ok();
}

/// The network of a text, or why the text is not one.
pub(super) fn parse(text: &str) -> std::result::Result<Network, String> {
    let (body, name) = opened(text)?;
    let mut parsed = Parsed::default();
    for (at, line) in body.lines().enumerate().skip(2) {
        let read = parsed.line(line);
        read.map_err(|why| format!("line {}: {why}", at + 1))?;
    }
    parsed.network(name)
}

/// What is before the sum, which is right, and the name.
fn opened(text: &str) -> std::result::Result<(&str, &str), String> {
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    if first != FIRST_LINE {
        return Err(format!("it does not begin with {FIRST_LINE:?}"));
    }
    let end = text.rfind("sum ").ok_or("it has no sum: it is torn")?;
    let (body, last) = text.split_at(end);
    if !body.ends_with('\n') || last != format!("sum {:016x}\n", hash(body.bytes())) {
        return Err("its sum is wrong: it is torn, or was edited".to_owned());
    }
    let name = lines.next().and_then(|line| line.strip_prefix("network "));
    let name = name.ok_or("its second line is not of the network")?;
    check_name("network", name).map_err(|error| error.to_string())?;
    Ok((body, name))
}

#[derive(Default)]
struct Parsed<'a> {
    subnets: Vec<Subnet>,
    last: Vec<IpAddr>,
    leases: Vec<(IpAddr, &'a str)>,
}

impl<'a> Parsed<'a> {
    fn line(&mut self, line: &'a str) -> std::result::Result<(), String> {
        let (key, rest) = line.split_once(' ').ok_or("it has one word")?;
        match key {
            "subnet" => {
                let subnet = Subnet::new(value::<IpNetwork>(rest)?).without_gateway();
                self.subnets.push(subnet);
            }
            "range" => {
                let range = value(rest)?;
                self.change(|subnet| subnet.range(range))?;
            }
            "gateway" => {
                let gateway = value(rest)?;
                self.change(|subnet| subnet.gateway(gateway))?;
            }
            "aux" => {
                let (name, address) = rest.split_once(' ').ok_or("it has two words")?;
                let address = value(address)?;
                self.change(|subnet| subnet.aux(name, address))?;
            }
            "last" => self.last.push(value(rest)?),
            "lease" => {
                let (address, owner) = rest.split_once(' ').ok_or("it has two words")?;
                self.leases.push((value(address)?, owner));
            }
            _ => return Err(format!("{key:?} is unknown")),
        }
        Ok(())
    }

    /// Changes the subnet that was begun last.
    fn change(&mut self, how: impl FnOnce(Subnet) -> Subnet) -> std::result::Result<(), String> {
        let subnet = self.subnets.pop().ok_or("it is before any subnet")?;
        self.subnets.push(how(subnet));
        Ok(())
    }

    fn network(self, name: &str) -> std::result::Result<Network, String> {
        let build = || -> Result<Network> {
            let mut network = Network::new(name.to_owned(), self.subnets)?;
            for last in self.last {
                network.restore_last(last)?;
            }
            for (address, owner) in self.leases {
                network.restore(address, owner)?;
            }
            Ok(network)
        };
        build().map_err(|error| error.to_string())
    }
}

fn value<T: FromStr>(text: &str) -> std::result::Result<T, String> {
    text.parse()
        .map_err(|_error| format!("{text:?} cannot be read"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipam::{LeaseRequest, random::Random};

    fn network() -> Network {
        let v4 = Subnet::new("172.20.7.0/24".parse().unwrap())
            .range("172.20.7.128/25".parse().unwrap())
            .aux("printer", "172.20.7.130".parse().unwrap());
        let v6 = Subnet::new("fd00:1::/64".parse().unwrap()).without_gateway();
        let mut network = Network::new("app".to_owned(), vec![v6, v4]).unwrap();
        for n in 0..3 {
            let request = LeaseRequest::new(format!("container-{n}"));
            network.lease(&request).unwrap();
        }
        assert!(network.release("172.20.7.128".parse().unwrap()).unwrap());
        network
    }

    #[test]
    fn a_network_is_text_and_back() {
        let text = render(&network());
        let expected = "cofferdam-ipam 1\nnetwork app\n\
             subnet 172.20.7.0/24\nrange 172.20.7.128/25\ngateway 172.20.7.1\n\
             aux printer 172.20.7.130\nlast 172.20.7.131\n\
             subnet fd00:1::/64\nlast fd00:1::3\n\
             lease 172.20.7.129 container-1\nlease 172.20.7.131 container-2\n\
             lease fd00:1::1 container-0\nlease fd00:1::2 container-1\nlease fd00:1::3 container-2\n";
        assert_eq!(
            text.strip_suffix(&text[text.len() - 21..]).unwrap(),
            expected
        );
        let mut again = parse(&text).unwrap();
        assert_eq!(render(&again), text);
        let lease = again.lease(&LeaseRequest::new("next")).unwrap();
        let addresses: Vec<_> = lease.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["172.20.7.132/24", "fd00:1::4/64"]);
    }

    #[test]
    fn a_torn_or_changed_text_is_refused() {
        let text = render(&network());
        for end in 0..text.len() {
            assert!(parse(&text[..end]).is_err(), "{end}");
        }
        let mut random = Random::new(1);
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = b' ' + u8::try_from(random.below(95)).unwrap();
            let changed = String::from_utf8(bytes).unwrap();
            assert!(changed == text || parse(&changed).is_err(), "{changed}");
        }
        assert!(parse(&format!("{text}{text}")).is_err());
    }

    #[test]
    fn what_cannot_be_is_refused_though_its_sum_is_right() {
        let signed = |body: &str| {
            let body = format!("cofferdam-ipam 1\nnetwork app\n{body}");
            format!("{body}sum {:016x}\n", hash(body.bytes()))
        };
        assert!(parse(&signed("subnet 10.0.0.0/24\n")).is_ok());
        for (body, why) in [
            ("", "it has no subnet"),
            ("range 10.0.0.0/24\n", "line 3: it is before any subnet"),
            (
                "subnet 10.0.0.0/24\nlease 10.0.1.1 a\n",
                "no address of a host",
            ),
            (
                "subnet 10.0.0.0/24\nlease 10.0.0.1 a\nlease 10.0.0.1 b\n",
                "handed out",
            ),
            (
                "subnet 10.0.0.0/24\nlease 10.0.0.1\n",
                "line 4: it has two words",
            ),
            ("subnet 10.0.0.0/24\nlease 10.0.0.1 a b\n", "owner"),
            ("subnet 10.0.0.0/24\nlast fd00::1\n", "no subnet of IPv6"),
            (
                "subnet 10.0.0.0/24\nsubnet 10.0.1.0/24\n",
                "two subnets of IPv4",
            ),
            (
                "subnet 10.0.0.0/33\n",
                "line 3: \"10.0.0.0/33\" cannot be read",
            ),
            ("subnet 10.0.0.0/24\ncolour red\n", "\"colour\" is unknown"),
        ] {
            let error = parse(&signed(body)).unwrap_err();
            assert!(error.contains(why), "{body}: {error}");
        }
        let next = signed("subnet 10.0.0.0/24\n").replace("ipam 1", "ipam 2");
        assert!(parse(&next).unwrap_err().contains("does not begin"));
    }
}
