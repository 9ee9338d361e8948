//! What a container tells its neighbours of its addresses.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::Duration;

use ipnetwork::IpNetwork;
use rustix::net::netdevice::name_to_index;
use rustix::net::sockopt::ipv6_mtu;

use crate::error::{Error, Result};
use crate::ifname::IfName;
use crate::message::Mac;
use crate::netns::run_in;
use crate::sys;
use crate::sysctl::{self, Later};

/// What says it once, as the last step of an attach.
///
/// The kernel says it, by `arp_notify` and `ndisc_notify`, when a hardware address is set, even to what it is: so no packet
/// socket is needed, whose end would cost more than all the rest of an attach.
#[derive(Debug)]
pub(crate) struct Announcement {
    /// Any socket inside takes the ioctl, from wherever it comes.
    socket: UnixDatagram,
    name: IfName,
    mac: Mac,
    /// What is not written yet.
    settings: Vec<Later>,
    /// For each IPv6 address one that asks for its route.
    ipv6: Vec<(UdpSocket, IpAddr)>,
}

/// When the addresses are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tell {
    /// As the interface goes up, and once more in the end: not every interface can do the latter.
    AsItGoesUp,
    /// In the end alone: a broadcast goes to each container of the network, at 3 us for each, and a bridge may forward the
    /// first one already.
    OnceForwarded,
    /// Never, as nobody knows of another hardware address.
    Nobody,
}

/// The loopback's is 65536, and no other link's can be as large.
const LARGEST_MTU: u32 = 65535;

impl Announcement {
    /// To be called on a thread inside.
    pub(crate) fn open(
        name: &IfName,
        mac: Mac,
        addresses: &[IpNetwork],
        tell: Tell,
    ) -> Result<Self> {
        let has = |of: fn(&IpNetwork) -> bool| addresses.iter().any(of);
        let mut settings = match tell {
            Tell::Nobody => Vec::new(),
            _ => sysctl::announce(name, has(IpNetwork::is_ipv4), has(IpNetwork::is_ipv6))?,
        };
        if tell == Tell::AsItGoesUp {
            settings.drain(..).try_for_each(|later| later.write())?;
        }
        let opened = |error| Error::sys("open a socket", error);
        let socket = UnixDatagram::unbound().map_err(opened)?;
        let ipv6 = addresses.iter().filter(|address| address.is_ipv6());
        let ask = |address: &IpNetwork| Ok((UdpSocket::bind("[::]:0")?, address.ip()));
        Ok(Announcement {
            socket,
            name: name.clone(),
            mac,
            settings,
            ipv6: ipv6.map(ask).collect::<io::Result<_>>().map_err(opened)?,
        })
    }

    /// Leaves this setting to who made it: with `arp_notify` 0 nothing is told.
    pub(crate) fn leave(&mut self, path: &str) {
        self.settings.retain(|later| later.path() != path);
    }

    /// Whether the kernel takes in what is sent to each IPv6 address. It gives an address its route in a work queue, even
    /// without duplicate address detection: on a busy machine after an answer to the first solicitation has come, which is
    /// then lost, and the next one is a second later. A route to itself is one by the loopback.
    pub(crate) fn is_reachable(&self) -> bool {
        self.ipv6.iter().all(|(socket, address)| {
            let connected = socket.connect((*address, 9));
            connected.is_ok() && ipv6_mtu(socket).is_ok_and(|mtu| mtu > LARGEST_MTU)
        })
    }

    /// When the bridge forwards for the interface. Where nobody is told, nothing is sent; but this takes rtnetlink's lock, and so
    /// waits for the kernel's link watch, which may have shown the bridge as running before it gave it its queue.
    pub(crate) fn after_forwarding(&self) -> Result<()> {
        self.settings.iter().try_for_each(Later::write)?;
        match sys::set_hardware_address(self.socket.as_fd(), self.name.as_str(), self.mac) {
            // A link that has its parent's address: no bridge had to learn of it, and it was said as it went up.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => {
                let what = format!("announce the addresses of {}", self.name);
                Err(Error::sys(what, errno))
            }
        }
    }
}

/// How often and how fast an [`Announcer`] repeats itself. Three times, a second apart, where nothing is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it does nothing until an Announcer has it"]
pub struct Announce {
    count: u8,
    interval: Duration,
}

impl Announce {
    /// This many times.
    pub fn times(count: u8) -> Self {
        Announce {
            count,
            ..Announce::default()
        }
    }

    /// This far apart.
    pub fn every(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }
}

impl Default for Announce {
    fn default() -> Self {
        Announce {
            count: 3,
            interval: Duration::from_secs(1),
        }
    }
}

/// Tells the neighbours of a container whose hardware address its addresses have: gratuitous ARP, as a request and as a
/// reply, for there are hosts that believe only the one or the other, and unsolicited neighbour advertisements with the
/// override flag.
///
/// [`Bridge::attach`](crate::Bridge::attach) has the kernel say it once when the bridge forwards, where a neighbour may know
/// another; none that runs Linux misses it. This is for repeating it: where frames may be lost, as on a network that goes on
/// beyond this host.
///
/// It starts no thread: whoever has a clock calls [`send`](Announcer::send) when it is time, or
/// [`send_all`](Announcer::send_all) on a thread of their own. It holds a packet socket inside the container's network
/// namespace, which does not end before this is dropped; and closing a packet socket takes the kernel 8 to 16 ms.
#[derive(Debug)]
#[must_use = "an Announcer says nothing until it is told to"]
pub struct Announcer {
    socket: OwnedFd,
    index: u32,
    frames: Vec<Vec<u8>>,
    left: u8,
    interval: Duration,
}

impl Announcer {
    /// Opens a packet socket in `netns`, on a thread that is thrown away, for the interface of this name there, as
    /// [`Port::ifname`](crate::Port::ifname) and [`Sublink::ifname`](crate::Sublink::ifname) tell it.
    ///
    /// # Errors
    /// `NotFound` without the interface; `PermissionDenied` without `CAP_NET_RAW` over the namespace or `CAP_SYS_ADMIN` to enter it; `Unsupported` where
    /// the kernel has no packet sockets.
    #[doc(alias = "AF_PACKET")]
    pub fn open(
        netns: impl AsFd,
        ifname: &IfName,
        mac: [u8; 6],
        addresses: &[IpAddr],
        announce: Announce,
    ) -> Result<Self> {
        let (socket, index) = run_in(netns.as_fd(), || {
            let socket =
                sys::packet_socket().map_err(|errno| Error::sys("open a packet socket", errno))?;
            let index = name_to_index(&socket, ifname.as_str())
                .map_err(|errno| Error::sys(format!("find link {ifname}"), errno))?;
            Ok((socket, index))
        })??;
        Ok(Announcer {
            socket,
            index,
            frames: frames(mac, addresses),
            left: announce.count,
            interval: announce.interval,
        })
    }

    /// Sends everything once, and returns after how long to do so again; `None` when it was the last time, or all was
    /// said before.
    ///
    /// # Errors
    /// `NotFound` where the interface is gone; `Os` with `ENETDOWN` where it is down, `ENOBUFS` where its queue is full.
    pub fn send(&mut self) -> Result<Option<Duration>> {
        let Some(left) = self.left.checked_sub(1) else {
            return Ok(None);
        };
        self.left = left;
        for frame in &self.frames {
            sys::send_frame(self.socket.as_fd(), self.index, frame)
                .map_err(|errno| Error::sys("announce an address", errno))?;
        }
        Ok((left > 0).then_some(self.interval))
    }

    /// Sends all there is to send, sleeping in between, on the calling thread.
    ///
    /// # Errors
    /// As [`send`](Announcer::send).
    pub fn send_all(mut self) -> Result<()> {
        while let Some(interval) = self.send()? {
            thread::sleep(interval);
        }
        Ok(())
    }
}

fn frames(mac: Mac, addresses: &[IpAddr]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for address in addresses {
        match *address {
            IpAddr::V4(address) => {
                frames.push(gratuitous_arp(mac, address, Arp::Request));
                frames.push(gratuitous_arp(mac, address, Arp::Reply));
            }
            IpAddr::V6(address) => frames.push(unsolicited_advertisement(mac, address)),
        }
    }
    frames
}

/// RFC 5944, 4.6 has both forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arp {
    Request = 1,
    Reply = 2,
}

fn gratuitous_arp(mac: Mac, address: Ipv4Addr, form: Arp) -> Vec<u8> {
    const BROADCAST: Mac = [0xff; 6];
    let target = match form {
        Arp::Request => [0; 6],
        Arp::Reply => mac,
    };
    let mut frame = ethernet(BROADCAST, mac, [0x08, 0x06]);
    frame.extend([0, 1, 8, 0, 6, 4, 0, form as u8]);
    frame.extend(mac);
    frame.extend(address.octets());
    frame.extend(target);
    frame.extend(address.octets());
    frame
}

/// RFC 4861, 7.2.6: to all nodes, with the override flag.
fn unsolicited_advertisement(mac: Mac, address: Ipv6Addr) -> Vec<u8> {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    const ICMPV6: u8 = 58;
    const OVERRIDE: u8 = 0x20;
    let mut message = vec![136, 0, 0, 0, OVERRIDE, 0, 0, 0];
    message.extend(address.octets());
    message.extend([2, 1]); // the sender's hardware address, in units of 8 bytes
    message.extend(mac);
    let length = message.len() as u8;
    let mut pseudo = [address.octets(), ALL_NODES.octets()].concat();
    pseudo.extend([0, 0, 0, length, 0, 0, 0, ICMPV6]);
    pseudo.extend(&message);
    let [high, low] = checksum(&pseudo).to_be_bytes();
    message[2] = high;
    message[3] = low;

    let mut frame = ethernet([0x33, 0x33, 0, 0, 0, 1], mac, [0x86, 0xdd]);
    frame.extend([0x60, 0, 0, 0, 0, length, ICMPV6, 255]);
    frame.extend(address.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

fn ethernet(to: Mac, from: Mac, kind: [u8; 2]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(86);
    frame.extend(to);
    frame.extend(from);
    frame.extend(kind);
    frame
}

/// RFC 1071, of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|pair| match *pair {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0x42, 10, 0, 0, 2];

    #[test]
    fn arp_says_it_in_both_forms() {
        let address = Ipv4Addr::new(10, 0, 0, 2);
        let request = gratuitous_arp(MAC, address, Arp::Request);
        let expected = [
            255, 255, 255, 255, 255, 255, 2, 0x42, 10, 0, 0, 2, 8, 6, // Ethernet
            0, 1, 8, 0, 6, 4, 0, 1, // request
            2, 0x42, 10, 0, 0, 2, 10, 0, 0, 2, // sender
            0, 0, 0, 0, 0, 0, 10, 0, 0, 2, // target
        ];
        assert_eq!(request, expected);
        let reply = gratuitous_arp(MAC, address, Arp::Reply);
        assert_eq!(reply[20..22], [0, 2]);
        assert_eq!(reply[32..38], MAC);
    }

    #[test]
    fn the_checksum_of_an_advertisement_is_right() {
        let address: Ipv6Addr = "fd00::2".parse().unwrap();
        let frame = unsolicited_advertisement(MAC, address);
        assert_eq!(frame.len(), 86);
        assert_eq!(frame[14 + 7], 255, "the hop limit");
        // A packet with its checksum in place sums up to nothing.
        let mut pseudo = frame[14 + 8..14 + 40].to_vec();
        pseudo.extend([0, 0, 0, 32, 0, 0, 0, 58]);
        pseudo.extend(&frame[54..]);
        assert_eq!(checksum(&pseudo), 0);
        assert_ne!(frame[56..58], [0, 0]);
    }

    #[test]
    fn every_address_is_announced() {
        let addresses = ["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let lengths: Vec<usize> = frames(MAC, &addresses).iter().map(Vec::len).collect();
        assert_eq!(lengths, [42, 42, 86]);
    }
}
