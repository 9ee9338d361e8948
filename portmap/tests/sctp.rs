//! SCTP, where the kernel has it: real associations, and ports that are kept off host processes.

#![expect(
    clippy::unwrap_used,
    reason = "fixtures panic where they cannot do their work"
)]

#[allow(dead_code, reason = "other tests share it")]
mod world;

use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::path::Path;

use cofferdam_portmap::{ErrorKind, NetworkSpec, Portmap};
use cofferdam_testkit::{Need, NetNs, have, is_emulated, load_module, skip};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, accept, bind, connect, ipproto,
    listen, recv, send, socket_with,
};
use world::{BridgedPackets, HOST, WEB, World};

/// Whether the kernel has SCTP, which it must be asked for so that it does not load it.
fn ready() -> bool {
    if !have(&[Need::Namespaces]) {
        return false;
    }
    load_module("sctp");
    let there = Path::new("/proc/thread-self/net/sctp").exists();
    if !there {
        skip("the module sctp", is_emulated());
    }
    there
}

/// A socket without waits.
fn socket(netns: &NetNs) -> OwnedFd {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (family, kind) = (AddressFamily::INET, SocketType::STREAM);
    let socket = netns.run(|| socket_with(family, kind, flags, Some(ipproto::SCTP)));
    socket.unwrap()
}

fn any(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new([0, 0, 0, 0].into(), port)
}

fn ready_for(socket: &OwnedFd, flags: PollFlags) -> bool {
    let time = Timespec {
        tv_sec: 30,
        tv_nsec: 0,
    };
    poll(&mut [PollFd::new(socket, flags)], Some(&time)).unwrap() > 0
}

#[test]
fn an_association_is_led_to_the_container() {
    if !ready() {
        return;
    }
    let world = World::new(BridgedPackets::Unseen);
    let portmap = world.host.run(|| Portmap::open("cofferdam")).unwrap();
    let network = NetworkSpec::new("br0").unwrap();
    let network = network.subnet("10.1.0.0/24".parse().unwrap());
    let _network = portmap.network(network).unwrap();
    let server = socket(&world.web);
    bind(&server, &any(80)).unwrap();
    listen(&server, 8).unwrap();
    let published = portmap.publish(&"8080:80/sctp".parse().unwrap(), WEB.into());
    let _published = published.unwrap();
    let client = socket(&world.neighbour);
    let connecting = connect(&client, &SocketAddrV4::new(HOST, 8080));
    assert!(matches!(connecting, Ok(()) | Err(Errno::INPROGRESS)));
    assert!(ready_for(&server, PollFlags::IN), "no association came");
    let accepted = accept(&server).unwrap();
    assert!(ready_for(&client, PollFlags::OUT));
    send(&client, b"hello", SendFlags::empty()).unwrap();
    assert!(ready_for(&accepted, PollFlags::IN));
    let mut heard = [0; 8];
    let (length, _) = recv(&accepted, &mut heard, RecvFlags::empty()).unwrap();
    assert_eq!(&heard[..length], b"hello");
}

#[test]
fn a_port_is_kept_from_processes_of_the_host_and_not_taken_from_one() {
    if !ready() {
        return;
    }
    let host = NetNs::new();
    let portmap = host.run(|| Portmap::open("cofferdam")).unwrap();
    let publish = || portmap.publish(&"132:80/sctp".parse().unwrap(), WEB.into());
    let published = publish().unwrap();
    let binds = || bind(socket(&host), &any(132));
    assert_eq!(binds(), Err(Errno::ADDRINUSE));
    published.remove().unwrap();
    assert_eq!(binds(), Ok(()));
    let theirs = socket(&host);
    bind(&theirs, &any(132)).unwrap();
    let error = publish().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert!(error.to_string().contains("132/sctp"), "{error}");
}
