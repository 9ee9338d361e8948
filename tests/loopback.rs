//! Published ports at every address of the host: what rules lead there, and what a proxy does beside them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cofferdam::netbridge::{Bridge, NetNs};
use cofferdam::{
    Container, ContainerBuilder, ErrorKind, Network, NetworkBuilder, PortSpec, Rootfs, Running,
};
use cofferdam_testkit::{Need, NetNs as World, have};

const SOON: Duration = Duration::from_millis(500);

/// Of a link of the host's own.
const HOST: [&str; 2] = ["192.0.2.7/24", "2001:db8::7/64"];

/// In a network namespace of the test's own, which is the host, with a link that has addresses.
fn host(work: impl FnOnce() + Send) {
    /// One at a time: threads and descriptors are counted.
    static ONE: Mutex<()> = Mutex::new(());
    if !have(&[Need::Root, Need::Namespaces]) {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    World::new().run(|| {
        let link = Bridge::builder("lan0".parse().unwrap());
        let link = HOST
            .iter()
            .fold(link, |link, address| link.address(address.parse().unwrap()));
        let link = link.create().unwrap();
        work();
        link.remove().unwrap();
    });
}

fn container(name: &str, network: &Network) -> ContainerBuilder {
    let builder = Container::builder()
        .name(name)
        .rootfs(Rootfs::layers(["/"]));
    builder.network(network).command("sleep").arg("60")
}

fn port(text: &str) -> PortSpec {
    text.parse().unwrap()
}

/// Every client of TCP gets its name, and of UDP what it sent, on port 80.
fn serve(container: &Running) {
    let name = container.name().to_owned();
    let netns = fs::File::open(format!("/proc/{}/ns/net", container.pid())).unwrap();
    let netns = NetNs::from(OwnedFd::from(netns));
    let (tcp, udp) = netns
        .run(|| {
            let tcp = TcpListener::bind("[::]:80").unwrap();
            (tcp, UdpSocket::bind("[::]:80").unwrap())
        })
        .unwrap();
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let _sent = stream.unwrap().write_all(name.as_bytes()).is_ok();
        }
    });
    std::thread::spawn(move || {
        let mut datagram = [0; 64];
        while let Ok((length, from)) = udp.recv_from(&mut datagram) {
            let _sent = udp.send_to(&datagram[..length], from).is_ok();
        }
    });
}

fn get(ip: &str, port: u16) -> Option<String> {
    let to = SocketAddr::new(ip.parse().unwrap(), port);
    let mut stream = TcpStream::connect_timeout(&to, SOON).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text).filter(|text| !text.is_empty())
}

fn echoes(ip: &str, port: u16) -> bool {
    let to = SocketAddr::new(ip.parse().unwrap(), port);
    let any: IpAddr = if to.is_ipv4() {
        [0; 4].into()
    } else {
        [0u16; 8].into()
    };
    let client = UdpSocket::bind((any, 0)).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    client.send_to(b"x", to).unwrap();
    client.recv(&mut [0]).is_ok()
}

/// Of the loopback and of a link, of both families.
const EVERYWHERE: [&str; 4] = ["127.0.0.1", "192.0.2.7", "::1", "2001:db8::7"];

fn networks() -> [NetworkBuilder; 3] {
    let (four, six) = (
        "10.1.0.0/24".parse().unwrap(),
        "fd00:1::/64".parse().unwrap(),
    );
    [
        Network::bridge("four").subnet(four),
        Network::bridge("both").subnet(four).subnet(six),
        Network::bridge("six").subnet(six),
    ]
}

fn threads_and_fds() -> (usize, usize) {
    let count = |path| fs::read_dir(path).unwrap().count();
    (count("/proc/self/task"), count("/proc/self/fd"))
}

#[test]
fn a_port_without_an_address_answers_at_every_address_of_both_families() {
    host(|| {
        for network in networks() {
            let network = network.create().unwrap();
            let web = container("web", &network).publish(port("8080:80"));
            let web = web.publish(port("8080:80/udp")).start().unwrap();
            serve(&web);
            for ip in EVERYWHERE {
                let name = network.name();
                assert_eq!(get(ip, 8080).as_deref(), Some("web"), "{name}: {ip}");
                assert!(echoes(ip, 8080), "{name}: {ip}");
            }
            assert!(web.ports().iter().all(|port| !port.proxied));
            web.remove().unwrap();
            for ip in EVERYWHERE {
                let _tcp = TcpListener::bind((ip, 8080)).unwrap();
                let _udp = UdpSocket::bind((ip, 8080)).unwrap();
            }
            network.remove().unwrap();
        }
    });
}

#[test]
fn a_port_with_an_address_answers_there_alone() {
    host(|| {
        for network in networks() {
            let network = network.create().unwrap();
            for only in EVERYWHERE {
                let ip: IpAddr = only.parse().unwrap();
                let spec = port("8080:80").with_host_ip(ip);
                let web = container("web", &network).publish(spec).start().unwrap();
                serve(&web);
                for ip in EVERYWHERE {
                    let answer = (ip == only).then_some("web");
                    let name = network.name();
                    assert_eq!(get(ip, 8080).as_deref(), answer, "{name}: {only}, {ip}");
                }
                web.remove().unwrap();
            }
            network.remove().unwrap();
        }
    });
}

#[test]
fn without_the_proxy_rules_lead_what_they_can() {
    host(|| {
        let [four, ..] = networks();
        let network = four.without_proxy().create().unwrap();
        let web = container("web", &network).publish(port("8080:80"));
        let web = web.publish(port("[::1]:8081:80")).start().unwrap();
        serve(&web);
        let answers = EVERYWHERE.map(|ip| get(ip, 8080).is_some());
        assert_eq!(answers, [true, true, false, false]);
        assert_eq!(get("::1", 8081).as_deref(), Some("web"), "it is asked for");
        web.remove().unwrap();
        network.remove().unwrap();
    });
}

#[test]
fn a_process_that_has_the_port_in_the_other_family_is_told_of_or_avoided() {
    host(|| {
        let [four, ..] = networks();
        let network = four.create().unwrap();
        let taken = TcpListener::bind("[::1]:8080").unwrap();
        let web = container("web", &network);
        let error = web.clone().publish(port("8080:80")).start().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        assert!(error.to_string().contains("[::]:8080"), "{error}");
        // All of it was taken back.
        let _free = TcpListener::bind("127.0.0.1:8080").unwrap();
        drop(_free);

        let web = web.publish(port("8080-8081:80")).start().unwrap();
        serve(&web);
        assert_eq!(web.ports()[0].host_port, 8081);
        assert_eq!(get("::1", 8081).as_deref(), Some("web"));
        drop(taken);
        web.remove().unwrap();
        network.remove().unwrap();
    });
}

#[test]
fn the_proxy_follows_the_container_and_leaves_nothing() {
    host(|| {
        let [four, _, six] = networks();
        let before = threads_and_fds();
        let (four, six) = (four.create().unwrap(), six.create().unwrap());
        let web = container("web", &four).publish(port("8080:80"));
        let web = web.start().unwrap();
        serve(&web);
        assert_eq!(get("::1", 8080).as_deref(), Some("web"));
        web.connect(&six).unwrap();
        web.disconnect(&four).unwrap();
        for ip in EVERYWHERE {
            assert_eq!(get(ip, 8080).as_deref(), Some("web"), "{ip}");
        }
        web.disconnect(&six).unwrap();
        for ip in EVERYWHERE {
            assert_eq!(get(ip, 8080), None, "{ip}");
        }
        web.remove().unwrap();
        four.remove().unwrap();
        six.remove().unwrap();
        let after = threads_and_fds();
        // Two threads and two sockets are of the servers inside.
        assert!(
            after.0 <= before.0 + 2 && after.1 <= before.1 + 2,
            "{before:?} {after:?}"
        );
    });
}
