//! The namespaces of the fixtures, read back from the kernel.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fs;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::thread;

use cofferdam_testkit::{Need, NetNs, have, in_mount_namespace};
use rustix::mount::{MountFlags, mount};

fn namespace(kind: &str) -> PathBuf {
    fs::read_link(format!("/proc/thread-self/ns/{kind}")).unwrap()
}

#[test]
fn a_network_namespace_has_its_loopback_up_and_nothing_else() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let net = NetNs::new();
    net.run(|| {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender
            .send_to(b"here", receiver.local_addr().unwrap())
            .unwrap();
        assert_eq!(receiver.recv(&mut [0; 8]).unwrap(), 4);
        let links = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        assert_eq!(
            links.lines().filter(|line| line.contains(':')).count(),
            1,
            "{links}"
        );
    });
}

#[test]
fn work_in_a_network_namespace_leaves_the_caller_in_its_own() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let before = namespace("net");
    let (one, other) = (NetNs::new(), NetNs::new());
    let inside = one.run(|| namespace("net"));
    assert_eq!(namespace("net"), before);
    assert_ne!(inside, before);
    assert_eq!(one.run(|| namespace("net")), inside);
    assert_ne!(other.run(|| namespace("net")), inside);

    let listener = one.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let address = listener.local_addr().unwrap();
    one.run(|| TcpStream::connect(address).unwrap());
    let refused = other.run(|| TcpStream::connect(address).unwrap_err());
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_socket_keeps_its_network_namespace() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let net = NetNs::new();
    let socket = net.run(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    drop(net);
    // Its loopback is still up, though nobody else is in there.
    socket.send_to(b"me", socket.local_addr().unwrap()).unwrap();
    assert_eq!(socket.recv(&mut [0; 8]).unwrap(), 2);
}

#[test]
fn a_panic_inside_reaches_the_test_under_its_name() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let name = thread::current().name().map(str::to_owned);
    let net = NetNs::new();
    assert_eq!(
        net.run(|| thread::current().name().map(str::to_owned)),
        name
    );
    let panic = catch_unwind(|| in_mount_namespace(|| panic!("on purpose"))).unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"on purpose"));
}

#[test]
fn a_mount_inside_reaches_nobody_else() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let directory = std::env::temp_dir().join(format!("cofferdam-testkit-{}", std::process::id()));
    fs::create_dir(&directory).unwrap();
    let before = namespace("mnt");
    in_mount_namespace(|| {
        assert_ne!(namespace("mnt"), before);
        mount("tmpfs", &directory, "tmpfs", MountFlags::empty(), None).unwrap();
        fs::write(directory.join("inside"), "").unwrap();
    });
    assert_eq!(namespace("mnt"), before);
    // Empty again: the file was in the mount.
    fs::remove_dir(&directory).unwrap();
}
