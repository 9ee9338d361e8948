//! How large a packet may be.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::Duration;

use cofferdam_netbridge::{Attachment, Bridge, Gateways, NetNs, NetworkGateway};

use super::{Container, ip, name, net, on_a_host, sys};

/// A datagram of `length` bytes of payload, which is not to be fragmented.
fn send(from: &Container, to: &UdpSocket, length: usize) -> std::io::Result<bool> {
    let socket = from.netns.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap()?;
    sys::do_not_fragment(&socket);
    socket.send_to(&vec![7; length], to.local_addr()?)?;
    to.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut buffer = vec![0; 4096];
    Ok(to.recv(&mut buffer)? == length)
}

#[test]
fn the_mtu_is_that_of_the_default_route_and_a_full_packet_passes() {
    const HEADERS: usize = 28;
    on_a_host(|| {
        let builder = Bridge::builder(name("uplink")).address(net("10.9.0.1/24"));
        let uplink = builder.mtu(1420).create().unwrap();
        let mut gateways = Gateways::new();
        let here = NetNs::of_caller().unwrap();
        let route = NetworkGateway::new(name("uplink")).ipv4([10, 9, 0, 254].into());
        gateways.join(&here, "uplink", route).unwrap();

        let builder = Bridge::builder(name("br0")).address(net("10.5.0.1/24"));
        let bridge = builder.create().unwrap();
        assert_eq!(bridge.mtu(), 1420);
        let one = Container::attach(&bridge, Attachment::new(net("10.5.0.2/24")));
        let two = Container::attach(&bridge, Attachment::new(net("10.5.0.3/24")));
        let host = UdpSocket::bind((ip("10.5.0.1"), 0)).unwrap();
        let listen = || UdpSocket::bind((ip("10.5.0.3"), 0)).unwrap();
        for to in [two.netns.run(listen).unwrap(), host] {
            assert!(send(&one, &to, 1420 - HEADERS).unwrap());
            let error = send(&one, &to, 1420 - HEADERS + 1).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE), "{error}");
            assert_ne!(error.kind(), ErrorKind::WouldBlock);
        }
        gateways.leave(&here, "uplink").unwrap();
        uplink.remove().unwrap();
    });
}

/// Whose bridge has a smaller one, for the host's own end of it.
#[test]
fn a_full_packet_passes_between_containers_of_an_internal_network() {
    on_a_host(|| {
        let builder = Bridge::builder(name("br0")).address(net("10.5.0.1/24"));
        let bridge = builder.internal().create().unwrap();
        assert_eq!(bridge.mtu(), 1500);
        let one = Container::attach(&bridge, Attachment::new(net("10.5.0.2/24")));
        let two = Container::attach(&bridge, Attachment::new(net("10.5.0.3/24")));
        let listen = || UdpSocket::bind((ip("10.5.0.3"), 0)).unwrap();
        let to = two.netns.run(listen).unwrap();
        assert!(send(&one, &to, 1472).unwrap());
        assert!(send(&one, &to, 1473).is_err());
    });
}
