//! What no rule leads to a container of a port that is published on all addresses: `::1`, and the addresses of the host of a
//! family that the container has none of. Sockets of this process answer there, as Docker's userland proxy does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use cofferdam_portmap::{PortSpec, Protocol, Proxied, Published};

use super::Network;
use crate::error::{Result, Subject};

/// Is there where the kernel has IPv6.
const IPV6: &str = "/proc/thread-self/net/if_inet6";

/// Answers there, at the ports that rules lead to `targets`, in the network namespace of the network. `ports` name their ports of
/// the host, and all have the same address there.
pub(super) fn beside(
    subject: &Subject,
    ports: &[PortSpec],
    network: &Network,
    published: &Published,
    targets: &[IpAddr],
) -> Result<Vec<Proxied>> {
    let gaps = Gaps::of(ports.first().and_then(PortSpec::host_ip), targets);
    let is_sctp = |port: &PortSpec| port.protocol() == Protocol::Sctp;
    let Some(to) = targets.first().filter(|_| gaps != Gaps::default()) else {
        return Ok(Vec::new());
    };
    if !network.0.options.proxy || ports.iter().any(is_sctp) {
        return Ok(Vec::new());
    }
    let proxy = network.proxy(subject)?;
    let failed = || subject.failed("publish beside the rules");
    let mut proxied = Vec::new();
    if gaps.loopback {
        proxied.push(proxy.assist(published).map_err(failed())?);
    }
    let family = gaps.family;
    if let Some(all) = family.filter(|ip| ip.is_ipv4() || Path::new(IPV6).exists()) {
        for port in ports {
            let led = proxy.publish(&port.with_host_ip(all), *to);
            proxied.push(led.map_err(failed())?);
        }
    }
    Ok(proxied)
}

/// Where the rules lead nothing.
#[derive(Debug, Default, PartialEq, Eq)]
struct Gaps {
    /// At `::1`, where the sockets are bound that keep the port.
    loopback: bool,
    /// At all addresses of a family.
    family: Option<IpAddr>,
}

impl Gaps {
    fn of(host_ip: Option<IpAddr>, targets: &[IpAddr]) -> Self {
        let has_ipv6 = targets.iter().any(IpAddr::is_ipv6);
        let family = match (targets.iter().any(IpAddr::is_ipv4), has_ipv6) {
            (true, false) => Some(Ipv6Addr::UNSPECIFIED.into()),
            (false, true) => Some(Ipv4Addr::UNSPECIFIED.into()),
            _ => None,
        };
        let all = IpAddr::from(Ipv6Addr::UNSPECIFIED);
        Gaps {
            loopback: has_ipv6 && host_ip.is_none_or(|ip| ip == all),
            family: family.filter(|_| host_ip.is_none()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rules_leave_out_depends_on_the_families_of_both_sides() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let (four, six) = (ip("10.0.0.2"), ip("fd00::2"));
        let gaps = |host: Option<&str>, targets: &[IpAddr]| {
            let gaps = Gaps::of(host.map(ip), targets);
            (gaps.loopback, gaps.family)
        };
        assert_eq!(gaps(None, &[four]), (false, Some(ip("::"))));
        assert_eq!(gaps(None, &[six]), (true, Some(ip("0.0.0.0"))));
        assert_eq!(gaps(None, &[four, six]), (true, None));
        assert_eq!(gaps(Some("::"), &[four, six]), (true, None));
        for host in ["0.0.0.0", "127.0.0.1", "192.0.2.1", "fd00::1"] {
            assert_eq!(gaps(Some(host), &[four, six]), (false, None), "{host}");
        }
    }
}
