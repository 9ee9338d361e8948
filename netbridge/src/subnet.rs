//! What the kernel says that the calling thread's network namespace uses.

use ipnetwork::IpNetwork;

use crate::answer::{AddressAnswer, Reach, RouteAnswer, parse_all};
use crate::error::Result;
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

    pub(crate) fn of(routes: &[RouteAnswer], addresses: &[AddressAnswer]) -> Self {
        let occupied = addresses
            .iter()
            .fold(Occupied::default(), |occupied, address| {
                let host = IpNetwork::from(address.local.ip());
                occupied
                    .on_link_network(address.subnet)
                    .on_link_network(host)
            });
        routes.iter().fold(occupied, |occupied, route| {
            let destination = route.destination;
            match route.reach {
                Reach::OnLink => occupied.on_link_network(destination),
                Reach::Routed => occupied.routed(destination),
            }
        })
    }
}

pub(crate) fn routes(socket: &mut Socket) -> Result<Vec<RouteAnswer>> {
    parse_all(
        &socket.dump(&message::all_routes(None))?,
        RouteAnswer::parse,
    )
}

pub(crate) fn addresses(socket: &mut Socket) -> Result<Vec<AddressAnswer>> {
    let payloads = socket.dump(&message::all_addresses(None))?;
    parse_all(&payloads, AddressAnswer::parse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_by_a_gateway_count_less_than_those_of_a_link() {
        let route = |destination: &str, reach| RouteAnswer {
            destination: destination.parse().unwrap(),
            reach,
            kind: 1,
            gateway: None,
            table: 254,
            link: Some(2),
            metric: 0,
        };
        let routes = [
            route("0.0.0.0/0", Reach::Routed),
            route("0.0.0.0/1", Reach::OnLink),
            route("128.0.0.0/1", Reach::OnLink),
            route("10.8.0.0/24", Reach::OnLink),
            route("172.16.0.0/12", Reach::Routed),
        ];
        let subnet = "192.168.7.1/24".parse().unwrap();
        let address = AddressAnswer {
            index: 3,
            local: subnet,
            subnet,
            scope: 0,
            flags: 0,
        };
        let net = |text: &str| text.parse().unwrap();
        let expected = Occupied::default()
            .on_link_network(net("192.168.7.1/24"))
            .on_link_network(net("192.168.7.1/32"))
            .on_link_network(net("10.8.0.0/24"))
            .routed(net("172.16.0.0/12"));
        assert_eq!(Occupied::of(&routes, &[address]), expected);
    }
}
