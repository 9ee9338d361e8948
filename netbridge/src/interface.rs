//! An interface inside a container, whatever kind it is.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use ipnetwork::IpNetwork;

use crate::announce::{Announcement, Tell};
use crate::answer::LinkAnswer;
use crate::error::Result;
use crate::ifname::IfName;
use crate::interface_sysctl::InterfaceSysctl;
use crate::message::{self, Mac, Request, Up, mac_of};
use crate::route::Route;
use crate::socket::Socket;
use crate::sysctl::{self, Ipv6};
use crate::transport::{Transport, ask_all, ask_one};

/// The pauses between the questions whether a new link is operational: 0.3 s in all.
const PAUSES: [Duration; 6] = [
    Duration::from_micros(200),
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(20),
    Duration::from_millis(80),
    Duration::from_millis(200),
];

/// What an interface gets once it is there. A plain value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) mac: Mac,
    pub(crate) addresses: Vec<IpNetwork>,
    /// The default ones among them.
    pub(crate) routes: Vec<Route>,
    /// Beside those that every interface has.
    pub(crate) sysctls: Vec<InterfaceSysctl>,
    pub(crate) tell: Tell,
}

/// An interface that is configured, and the conversation in its namespace.
#[derive(Debug)]
pub(crate) struct Inside<T> {
    pub(crate) name: IfName,
    pub(crate) transport: T,
    pub(crate) announcement: Announcement,
}

/// What the thread that is thrown away brings back.
#[derive(Debug)]
struct Entered {
    name: IfName,
    socket: Socket,
    announcement: Announcement,
}

impl Interface {
    /// Configures the interface at `index` of `netns` and sets it up: sysctls, addresses, routes.
    pub(crate) async fn configure<T: Transport>(
        &self,
        host: &T,
        netns: BorrowedFd<'_>,
        index: u32,
    ) -> Result<Inside<T>> {
        let interface = self.clone();
        let enter = move || interface.enter(index);
        let entered = host.enter(netns, enter).await?;
        let transport = host.over(entered.socket)?;
        ask_all(&transport, &self.requests(index, &entered.name)).await?;
        Ok(Inside {
            name: entered.name,
            transport,
            announcement: entered.announcement,
        })
    }

    /// What has to be done on a thread inside: all that goes by `/proc/sys`, and the sockets.
    fn enter(&self, index: u32) -> Result<Entered> {
        let socket = Socket::open()?;
        let name = socket.name_of(index)?;
        sysctl::ipv6(&name, self.ipv6())?;
        let mut announcement = Announcement::open(&name, self.mac, &self.addresses, self.tell)?;
        for sysctl in &self.sysctls {
            sysctl::set(&name, sysctl)?;
            announcement.leave(&sysctl.path(&name));
        }
        Ok(Entered {
            name,
            socket,
            announcement,
        })
    }

    /// Whether each of its addresses has the hardware address that is derived of it. Without any, it is not known which it will
    /// have.
    pub(crate) fn has_derived_mac(&self) -> bool {
        let derived = |address: &IpNetwork| mac_of(address.ip()) == self.mac;
        !self.addresses.is_empty() && self.addresses.iter().all(derived)
    }

    /// An interface has IPv6 where it has an address of it.
    pub(crate) fn ipv6(&self) -> Ipv6 {
        match self.addresses.iter().any(IpNetwork::is_ipv6) {
            true => Ipv6::On,
            false => Ipv6::Off,
        }
    }

    /// The kernel gives an IPv6 address its route only where the link is up.
    pub(crate) fn requests(&self, index: u32, name: &IfName) -> Vec<Request> {
        let add = |address: &IpNetwork| message::add_address(index, name, *address);
        let (ipv4, ipv6): (Vec<_>, Vec<_>) = self.addresses.iter().partition(|a| a.is_ipv4());
        let mut requests: Vec<Request> = ipv4.into_iter().map(add).collect();
        requests.push(message::set_up(index, name.as_str(), Up::default()));
        requests.extend(ipv6.into_iter().map(add));
        requests.extend(
            self.routes
                .iter()
                .map(|route| message::add_route(index, name, route)),
        );
        requests
    }
}

/// The waits of one attach, until both ends and the bridge are operational.
///
/// A carrier that came says little: the kernel lets the link have its queue when its link watch gets to it, and until
/// then drops what is sent. An ARP request or its answer that is lost costs the container a second. Since Linux 6.8,
/// reading a link has it watched at once; older kernels do it when they have time.
///
/// A bridge that is down never forwards: then this gives up when the pauses are used up, without an error.
#[derive(Debug)]
pub(crate) struct Pauses(std::array::IntoIter<Duration, 6>);

impl Pauses {
    pub(crate) fn new() -> Self {
        Pauses(PAUSES.into_iter())
    }

    /// Looks until it is `ready`, without asking the kernel's rtnetlink.
    pub(crate) async fn until_seen<T: Transport>(&mut self, on: &T, ready: impl Fn() -> bool) {
        while !ready() {
            match self.0.next() {
                Some(pause) => on.pause(pause).await,
                None => return,
            }
        }
    }

    /// Reads the link at `index` until it is `ready`.
    pub(crate) async fn until<T: Transport>(
        &mut self,
        on: &T,
        index: u32,
        ready: fn(&LinkAnswer) -> bool,
    ) -> Result<()> {
        loop {
            let answer = ask_one(on, message::link_at(index)).await?;
            if ready(&LinkAnswer::parse(&answer)?) {
                return Ok(());
            }
            match self.0.next() {
                Some(pause) => on.pause(pause).await,
                None => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_ipv6_come_when_the_link_is_up_and_routes_last() {
        let interface = Interface {
            mac: [2; 6],
            addresses: vec![
                "fd00::2/64".parse().unwrap(),
                "10.0.0.2/24".parse().unwrap(),
            ],
            routes: vec![Route::default_via([10, 0, 0, 1].into())],
            sysctls: Vec::new(),
            tell: Tell::OnceForwarded,
        };
        let requests = interface.requests(3, &IfName::derived("eth0".to_owned()));
        let said: Vec<&str> = requests
            .iter()
            .map(|request| request.what.as_str())
            .collect();
        let expected = [
            "add address 10.0.0.2/24 to eth0",
            "set eth0 up",
            "add address fd00::2/64 to eth0",
            "add default route via 10.0.0.1 on eth0",
        ];
        assert_eq!(said, expected);
        assert_eq!(interface.ipv6(), Ipv6::On);
    }
}
