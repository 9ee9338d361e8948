//! Frames as they are, made and read by hand: not by the code under test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use cofferdam_netbridge::NetNs;

use crate::sys;

pub(crate) type Mac = [u8; 6];

pub(crate) const BROADCAST: Mac = [0xff; 6];

/// Longer than anything here takes, so that a test that works never waits for it.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// How long nothing must come.
pub(crate) const QUIET: Duration = Duration::from_millis(150);

/// A packet socket on a link.
pub(crate) struct Wire {
    socket: OwnedFd,
}

impl Wire {
    /// On a link of the calling thread's namespace.
    pub(crate) fn here(link: &str) -> Self {
        let index = sys::index(link);
        assert_ne!(index, 0, "no {link}");
        let socket = sys::packet_socket(index).unwrap();
        Wire { socket }
    }

    pub(crate) fn inside(netns: &NetNs, link: &str) -> Self {
        netns.run(|| Wire::here(link)).unwrap()
    }

    pub(crate) fn mac(&self) -> Mac {
        sys::mac(self.socket.as_fd())
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        sys::send(self.socket.as_fd(), frame).unwrap();
    }

    /// Forgets what came until now.
    pub(crate) fn drain(&self) {
        while sys::receive(self.socket.as_fd(), Duration::ZERO).is_some() {}
    }

    /// The first frame within `time` that comes in and is one of those.
    pub(crate) fn incoming(&self, time: Duration, of: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        self.first(time, |goes_out, frame| !goes_out && of(frame))
    }

    /// The first frame within `time` that comes in or goes out and is one of those.
    pub(crate) fn either(&self, time: Duration, of: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        self.first(time, |_, frame| of(frame))
    }

    fn first(&self, time: Duration, of: impl Fn(bool, &[u8]) -> bool) -> Option<Vec<u8>> {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let (goes_out, frame) = sys::receive(self.socket.as_fd(), left)?;
            if of(goes_out, &frame) {
                return Some(frame);
            }
        }
    }
}

pub(crate) fn is_ipv6(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x86, 0xdd])
}

/// Whether the frame carries these bytes at its end, but for padding.
pub(crate) fn carries(payload: &'static [u8]) -> impl Fn(&[u8]) -> bool {
    move |frame| frame.windows(payload.len()).any(|part| part == payload)
}

fn ethernet(to: Mac, from: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from[..], &kind.to_be_bytes(), payload].concat()
}

/// A frame of a kind nobody listens to.
pub(crate) fn marker(to: Mac, from: Mac, payload: &[u8]) -> Vec<u8> {
    ethernet(to, from, 0x88b5, payload)
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// A UDP packet to port 7000, from 7001.
pub(crate) fn udp(to: (Mac, IpAddr), from: (Mac, IpAddr), payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    let mut udp = [
        7001_u16.to_be_bytes(),
        7000_u16.to_be_bytes(),
        length.to_be_bytes(),
        [0, 0],
    ]
    .concat();
    udp.extend(payload);
    match (to.1, from.1) {
        (IpAddr::V4(target), IpAddr::V4(source)) => {
            let total = (20 + length).to_be_bytes();
            let mut ip = vec![0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 17, 0, 0];
            ip.extend(source.octets());
            ip.extend(target.octets());
            let sum = checksum(&ip);
            ip[10..12].copy_from_slice(&sum);
            ip.extend(udp);
            ethernet(to.0, from.0, 0x0800, &ip)
        }
        (IpAddr::V6(target), IpAddr::V6(source)) => {
            let packet = ipv6(source, target, 17, udp, 6);
            ethernet(to.0, from.0, 0x86dd, &packet)
        }
        _ => panic!("of two families"),
    }
}

fn ipv6(from: Ipv6Addr, to: Ipv6Addr, kind: u8, mut payload: Vec<u8>, sum_at: usize) -> Vec<u8> {
    let length = payload.len() as u16;
    let mut pseudo = [from.octets(), to.octets()].concat();
    pseudo.extend([0, 0]);
    pseudo.extend(length.to_be_bytes());
    pseudo.extend([0, 0, 0, kind]);
    pseudo.extend(&payload);
    let sum = checksum(&pseudo);
    payload[sum_at..sum_at + 2].copy_from_slice(&sum);
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([kind, 255]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    packet
}

/// A router advertisement: a default route by the sender, and a prefix to make addresses of.
pub(crate) fn router_advertisement(from: Mac, prefix: Ipv6Addr) -> Vec<u8> {
    let source = "fe80::bad".parse().unwrap();
    let all_nodes = "ff02::1".parse().unwrap();
    let mut message = vec![134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    message.extend([1, 1]);
    message.extend(from);
    message.extend([3, 4, 64, 0xc0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    message.extend(prefix.octets());
    let packet = ipv6(source, all_nodes, 58, message, 2);
    ethernet([0x33, 0x33, 0, 0, 0, 1], from, 0x86dd, &packet)
}

#[derive(Clone, Copy)]
pub(crate) enum Arp {
    Request = 1,
    Reply = 2,
}

/// Says that `address` is at `mac`.
pub(crate) fn arp(form: Arp, to: Mac, mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, form as u8];
    arp.extend(mac);
    arp.extend(address.octets());
    arp.extend(to);
    arp.extend(address.octets());
    ethernet(to, mac, 0x0806, &arp)
}

/// Whether it is a gratuitous ARP of this form for `address` at `mac`.
pub(crate) fn is_gratuitous(form: Arp, mac: Mac, address: Ipv4Addr) -> impl Fn(&[u8]) -> bool {
    move |frame| {
        frame.get(12..14) == Some(&[8, 6])
            && frame.get(20..22) == Some(&[0, form as u8])
            && frame.get(22..28) == Some(&mac)
            && frame.get(28..32) == Some(&address.octets())
            && frame.get(38..42) == Some(&address.octets())
    }
}

/// Whether it is an unsolicited neighbour advertisement for `address` with the override flag.
pub(crate) fn is_advertised(address: Ipv6Addr) -> impl Fn(&[u8]) -> bool {
    move |frame| {
        is_ipv6(frame)
            && frame.get(54) == Some(&136)
            && frame.get(58).is_some_and(|flags| flags & 0x60 == 0x20)
            && frame.get(62..78) == Some(&address.octets())
    }
}

/// A UDP socket on port 7000 of every address, in `netns`.
pub(crate) fn listener(netns: &NetNs) -> UdpSocket {
    netns
        .run(|| UdpSocket::bind("[::]:7000").or_else(|_| UdpSocket::bind("0.0.0.0:7000")))
        .unwrap()
        .unwrap()
}

/// Whether the payload comes within `time`.
pub(crate) fn hears(socket: &UdpSocket, time: Duration, payload: &[u8]) -> bool {
    let end = Instant::now() + time;
    let mut buffer = [0; 2048];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        socket.set_read_timeout(Some(left)).unwrap();
        match socket.recv(&mut buffer) {
            Ok(length) if &buffer[..length] == payload => return true,
            _ => {}
        }
    }
}

/// Has the kernel send a UDP packet to port 7000 of `to`, from inside. A refusal is the packet's loss.
pub(crate) fn say(netns: &NetNs, to: IpAddr, payload: &[u8]) -> bool {
    netns
        .run(|| {
            let any: IpAddr = match to {
                IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let socket = UdpSocket::bind((any, 0)).unwrap();
            socket.send_to(payload, (to, 7000)).is_ok()
        })
        .unwrap()
}
