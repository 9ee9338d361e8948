//! What the kernel says that the calling thread's network namespace uses.

use std::fmt;

use ipnetwork::{IpNetwork, Ipv4Network};

use crate::answer::{AddressAnswer, Reach, RouteAnswer};
use crate::error::{Error, ErrorKind, Result};
use crate::ipam::Family;
use crate::message;
use crate::socket::Socket;

pub(crate) use crate::ipam::{Occupied, Pools, hash, start_of};

/// The longest prefix that has room for a gateway and a container beside its network and broadcast address.
pub(crate) const SMALLEST: u8 = 30;

impl Occupied {
    /// The addresses and routes of the calling thread's network namespace, by a dump of each.
    ///
    /// Addresses count beside routes: a link that is down has no route for its subnet.
    ///
    /// # Errors
    /// `Busy` where they change so fast that no dump is whole; else as the kernel says.
    pub fn of_caller() -> Result<Self> {
        Occupied::read(&mut Socket::open()?)
    }

    /// Reads the addresses and routes of the socket's network namespace.
    pub(crate) fn read(socket: &mut Socket) -> Result<Self> {
        Ok(Occupied::of(&routes(socket)?, &addresses(socket)?))
    }

    fn of(routes: &[RouteAnswer], addresses: &[AddressAnswer]) -> Self {
        let occupied = addresses
            .iter()
            .fold(Occupied::default(), |occupied, address| {
                occupied.on_link_network(address.subnet.into())
            });
        routes.iter().fold(occupied, |occupied, route| {
            let destination = route.destination.into();
            match route.reach {
                Reach::OnLink => occupied.on_link_network(destination),
                Reach::Routed => occupied.routed(destination),
            }
        })
    }
}

impl Pools {
    /// The first IPv4 subnet from `start` on, round the pools, that nothing occupies.
    pub(crate) fn free(&self, occupied: &Occupied, start: u64) -> Result<Ipv4Network> {
        let subnet = self.free_of(Family::V4, occupied, start)?;
        v4(subnet, "pick a subnet")
    }
}

pub(crate) fn routes(socket: &mut Socket) -> Result<Vec<RouteAnswer>> {
    let payloads = socket.dump(&message::all_routes())?;
    payloads
        .iter()
        .filter_map(|payload| RouteAnswer::parse(payload).transpose())
        .collect()
}

pub(crate) fn addresses(socket: &mut Socket) -> Result<Vec<AddressAnswer>> {
    let payloads = socket.dump(&message::all_addresses())?;
    payloads
        .iter()
        .filter_map(|payload| AddressAnswer::parse(payload).transpose())
        .collect()
}

/// This crate is IPv4 only for now. `what` says what the network is for.
pub(crate) fn v4(network: IpNetwork, what: impl fmt::Display) -> Result<Ipv4Network> {
    match network {
        IpNetwork::V4(network) => Ok(network),
        IpNetwork::V6(_) => Err(Error::plain(
            ErrorKind::Unsupported,
            what,
            "IPv6 is not supported yet",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_by_a_gateway_count_less_than_those_of_a_link() {
        let route = |destination: &str, reach| RouteAnswer {
            destination: destination.parse().unwrap(),
            reach,
            link: Some(2),
            metric: 0,
            main: true,
        };
        let routes = [
            route("0.0.0.0/0", Reach::Routed),
            route("0.0.0.0/1", Reach::OnLink),
            route("128.0.0.0/1", Reach::OnLink),
            route("10.8.0.0/24", Reach::OnLink),
            route("172.16.0.0/12", Reach::Routed),
        ];
        let address = AddressAnswer {
            index: 3,
            subnet: "192.168.7.1/24".parse().unwrap(),
        };
        let net = |text: &str| text.parse().unwrap();
        let expected = Occupied::default()
            .on_link_network(net("192.168.7.1/24"))
            .on_link_network(net("10.8.0.0/24"))
            .routed(net("172.16.0.0/12"));
        assert_eq!(Occupied::of(&routes, &[address]), expected);
    }
}
