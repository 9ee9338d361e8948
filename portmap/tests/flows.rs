//! What becomes of flows that are under way when ports are published and unpublished, by real packets.

#![expect(
    clippy::unwrap_used,
    reason = "fixtures panic where they cannot do their work"
)]

#[expect(dead_code, reason = "the other tests use the rest")]
mod world;

use std::io::{ErrorKind as IoErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_portmap::{
    NetworkSpec, Owner, PortMapping, PortSpec, Portmap, Protocol, Proxy, Reserve,
};
use cofferdam_testkit::{Need, NetNs, have, turns};
use world::{BridgedPackets, HOST, MATE, NEIGHBOUR, WEB, World, add_address};

const TABLE: &str = "cofferdam";
const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(200);

fn spec(text: &str) -> PortSpec {
    text.parse().unwrap()
}

/// A host with two services on addresses of their own and a handle on its table.
struct Host {
    netns: NetNs,
    portmap: Portmap,
    /// Where clients go.
    front: IpAddr,
    services: [Service; 2],
}

struct Service {
    ip: IpAddr,
    udp: UdpSocket,
}

impl Host {
    fn of_each_family() -> [Host; 2] {
        [
            Host::new(["10.9.0.1", "10.9.0.2", "10.9.0.3"]),
            Host::new(["fd00:9::1", "fd00:9::2", "fd00:9::3"]),
        ]
    }

    fn new(addresses: [&str; 3]) -> Self {
        let netns = NetNs::new();
        let [front, one, other] = addresses.map(|ip| ip.parse::<IpAddr>().unwrap());
        for ip in [front, one, other] {
            add_address(&netns, "lo", ip);
        }
        let service = |ip| Service {
            ip,
            udp: netns.run(|| UdpSocket::bind((ip, 53))).unwrap(),
        };
        Host {
            front,
            services: [service(one), service(other)],
            portmap: netns.run(|| Portmap::open(TABLE)).unwrap(),
            netns,
        }
    }

    /// A client that speaks to a port of the host.
    fn client(&self, port: u16) -> UdpSocket {
        let client = self.netns.run(|| UdpSocket::bind((self.front, 0))).unwrap();
        client.connect((self.front, port)).unwrap();
        client
    }

    /// Which of the services hears the client's next datagram.
    fn hears(&self, client: &UdpSocket) -> Option<usize> {
        // The first call may tell of an earlier datagram that nobody took.
        let _refused = client.send(b"hello?").or_else(|_| client.send(b"hello?"));
        let deadline = Instant::now() + SHORT;
        while Instant::now() < deadline {
            for (at, service) in self.services.iter().enumerate() {
                service.udp.set_nonblocking(true).unwrap();
                if service.udp.recv(&mut [0; 16]).is_ok() {
                    return Some(at);
                }
            }
            thread::sleep(Duration::from_millis(1));
        }
        None
    }
}

#[test]
fn the_next_packet_of_a_client_reaches_the_container_that_has_taken_over_the_port() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    for host in Host::of_each_family() {
        let [one, other] = host.services.each_ref().map(|service| service.ip);
        let front = match host.front {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        for text in ["5353:53/udp".to_owned(), format!("{front}:5353:53/udp")] {
            let client = host.client(5353);
            assert_eq!(host.hears(&client), None, "{text}");
            // It has spoken before anything was published.
            let published = host.portmap.publish(&spec(&text), one).unwrap();
            assert_eq!(host.hears(&client), Some(0), "{text}");
            published.remove().unwrap();
            assert_eq!(host.hears(&client), None, "{text}: closed");
            let published = host.portmap.publish(&spec(&text), other).unwrap();
            assert_eq!(host.hears(&client), Some(1), "{text}");
            drop(published);
            assert_eq!(host.hears(&client), None, "{text}: dropped");
            // As after a crash: nobody took the first one back.
            host.portmap.publish(&spec(&text), one).unwrap().persist();
            assert_eq!(host.hears(&client), Some(0));
            host.portmap.delete_table().unwrap();
            let _published = host.portmap.publish(&spec(&text), other).unwrap();
            assert_eq!(host.hears(&client), Some(1), "{text}: after a crash");
        }
    }
}

#[test]
fn flows_of_other_ports_to_the_same_container_port_go_on() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    for host in Host::of_each_family() {
        let [one, other] = host.services.each_ref().map(|service| service.ip);
        let both = [spec("5353:53/udp"), spec("5454:53/udp")]
            .map(|spec| PortMapping::of_spec(&spec, one).unwrap());
        host.portmap.publish_all(both.clone()).unwrap().persist();
        let clients = [host.client(5353), host.client(5454)];
        for client in &clients {
            assert_eq!(host.hears(client), Some(0));
        }
        // Without the table only conntrack still leads them.
        host.portmap.delete_table().unwrap();
        let _published = host.portmap.publish(&spec("5353:53/udp"), other).unwrap();
        assert_eq!(host.hears(&clients[0]), Some(1));
        assert_eq!(host.hears(&clients[1]), Some(0), "a flow of another port");
        assert_eq!(host.portmap.end_flows(&both[..1]).unwrap(), 0);
        assert_eq!(host.portmap.end_flows(&both[1..]).unwrap(), 1);
        assert_eq!(host.hears(&clients[1]), None);
    }
}

#[test]
fn flows_that_pass_through_the_host_are_nobodys_business() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let world = World::new(BridgedPackets::Unseen);
    let portmap = world.host.run(|| Portmap::open(TABLE)).unwrap();
    let subnet = "10.1.0.0/24".parse().unwrap();
    let network = NetworkSpec::new("br0").unwrap().subnet(subnet);
    portmap.network(network).unwrap().persist();
    let outside = world.neighbour.run(|| UdpSocket::bind((NEIGHBOUR, 53)));
    let (outside, inside) = (
        outside.unwrap(),
        world.web.run(|| UdpSocket::bind((WEB, 0))).unwrap(),
    );
    outside.set_read_timeout(Some(LONG)).unwrap();
    let seen = || {
        inside.send_to(b"hello?", (NEIGHBOUR, 53)).unwrap();
        outside.recv_from(&mut [0; 16]).unwrap().1.ip()
    };
    assert_eq!(seen(), IpAddr::from(HOST));
    // Masqueraded by conntrack only.
    portmap.delete_table().unwrap();
    let _published = portmap.publish(&spec("53:53/udp"), MATE.into()).unwrap();
    assert_eq!(seen(), IpAddr::from(HOST));
    assert!(portmap.end_flows_of(WEB.into()).unwrap() >= 1);
    assert_eq!(seen(), IpAddr::from(WEB), "ended by address");
}

#[test]
fn an_established_connection_outlives_the_port_until_it_is_ended() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    for host in Host::of_each_family() {
        let ip = host.services[0].ip;
        let listener = host.netns.run(|| TcpListener::bind((ip, 80))).unwrap();
        // The last removal takes the table with it, and then nothing is led any more.
        let _table = host.portmap.publish(&spec("9:9"), ip).unwrap();
        let published = host.portmap.publish(&spec("8080:80"), ip).unwrap();
        let ports = published.ports().to_vec();
        let to = (host.front, 8080);
        let mut client = host.netns.run(|| TcpStream::connect(to)).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        published.remove().unwrap();
        client.set_read_timeout(Some(LONG)).unwrap();
        for _ in 0..2 {
            server.write_all(b"hello").unwrap();
            client.read_exact(&mut [0; 5]).unwrap();
            client.write_all(b"hello").unwrap();
            server.read_exact(&mut [0; 5]).unwrap();
        }
        let gone = host.netns.run(|| TcpStream::connect(to)).unwrap_err();
        assert_eq!(gone.kind(), IoErrorKind::ConnectionRefused);
        assert_eq!(host.portmap.end_flows(&ports).unwrap(), 1);
        client.write_all(b"hello").unwrap();
        let cut = client.read(&mut [0; 5]);
        assert_eq!(cut.unwrap_err().kind(), IoErrorKind::ConnectionReset);
    }
}

#[test]
fn a_client_that_dials_while_its_container_is_replaced_reaches_the_new_one() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let world = World::new(BridgedPackets::Unseen);
    let portmap = world.host.run(|| Portmap::open(TABLE)).unwrap();
    let listener = world.web.run(|| TcpListener::bind((WEB, 80))).unwrap();
    // Nobody has this address: SYN after SYN goes nowhere.
    let dead = portmap.publish(&spec("8080:80"), [10, 1, 0, 77].into());
    let dead = dead.unwrap();
    let to = SocketAddr::from((HOST, 8080));
    thread::scope(|scope| {
        let dialling = scope.spawn(|| {
            let dial = || TcpStream::connect_timeout(&to, 2 * LONG);
            world.neighbour.run(dial)
        });
        thread::sleep(SHORT);
        dead.remove().unwrap();
        let _published = portmap.publish(&spec("8080:80"), WEB.into()).unwrap();
        // Not one that comes after: this very SYN is sent again.
        let connected = dialling.join().unwrap();
        connected.unwrap();
        listener.accept().unwrap();
    });
}

#[test]
fn more_flows_than_are_remembered_at_once_are_all_ended() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let [host, _] = Host::of_each_family();
    let many = turns(20_000, 9_000);
    let published = host
        .portmap
        .publish(&spec("5353:53/udp"), host.services[0].ip)
        .unwrap();
    let _kept = host
        .portmap
        .publish(&spec("5454:53/udp"), host.services[0].ip)
        .unwrap();
    let kept = host.client(5454);
    assert_eq!(host.hears(&kept), Some(0));
    host.netns.run(|| {
        for at in 0..many {
            let from = SocketAddr::new(host.front, 10_000 + at as u16);
            let client = UdpSocket::bind(from).unwrap();
            client.send_to(b"x", (host.front, 5353)).unwrap();
        }
    });
    let ports = published.ports().to_vec();
    assert_eq!(host.portmap.end_flows(&ports).unwrap(), many);
    assert_eq!(host.portmap.end_flows(&ports).unwrap(), 0);
    assert_eq!(host.portmap.end_flows_of(host.services[0].ip).unwrap(), 1);
}

#[test]
fn a_port_is_chosen_that_is_free_in_the_families_of_the_container() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    for (name, value) in [
        ("ip_local_port_range", "40000 40005"),
        ("ip_local_reserved_ports", "40000"),
    ] {
        netns.run(|| world::sysctl(&format!("ipv4/{name}"), value));
    }
    let portmap = netns.run(|| Portmap::open(TABLE)).unwrap();
    let both: [IpAddr; 2] = ["10.1.0.2", "fd00::2"].map(|ip| ip.parse().unwrap());
    let _their = netns.run(|| TcpListener::bind("[::1]:40001")).unwrap();
    // Published by somebody who holds no socket.
    let unreserved = netns.run(|| Portmap::builder(TABLE).reserve(Reserve::Never).open());
    let unreserved = unreserved.unwrap();
    let _published = unreserved.publish(&spec("40002:80"), both[1]).unwrap();
    let chosen = portmap.publish_to(&spec("80"), &both).unwrap();
    let places: Vec<_> = chosen
        .ports()
        .iter()
        .map(|port| (port.target().ip(), port.host_port()))
        .collect();
    assert_eq!(places, [(both[0], 40003), (both[1], 40003)]);
    // What only the other family has is free for this one.
    let range = portmap.publish(&spec("80-82"), both[0]).unwrap();
    let ports = range.ports().iter().map(PortMapping::host_port);
    assert_eq!(ports.collect::<Vec<_>>(), [40004, 40005, 40001]);
    let last = portmap.publish_to(&spec("40000-40002:80"), &both).unwrap();
    assert_eq!(last.ports()[0].host_port(), 40000);
    let last = portmap.publish(&spec("80"), both[0]).unwrap();
    assert_eq!(last.ports()[0].host_port(), 40002);
    let full = portmap.publish(&spec("80"), both[0]).unwrap_err();
    assert_eq!(full.kind(), cofferdam_portmap::ErrorKind::Exhausted);
    drop(range);
    portmap.publish(&spec("80"), both[0]).unwrap().persist();
    let ranges = portmap.publish(&spec("8000-8002:80-82"), both[0]).unwrap();
    assert_eq!(ranges.ports().len(), 3);
    portmap.unpublish(&spec("8000-8002:80-82")).unwrap();
    portmap.unpublish(&spec("80")).unwrap_err();
}

#[test]
fn ports_are_reserved_by_one_descriptor_each_and_refused_where_there_are_too_few() {
    use rustix::process::{Resource, getrlimit};
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let portmap = netns.run(|| Portmap::open(TABLE)).unwrap();
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let mapping = |at: u32| {
        let (host, container) = ((at % 65_000) as u16 + 1, 80);
        let target = SocketAddr::new([10, 1, 0, 2].into(), container);
        let on = [127, 0, 0, (at / 65_000) as u8 + 1].into();
        PortMapping::new(Protocol::Tcp, host, target)
            .and_then(|port| port.on(on))
            .unwrap()
            .owned_by(Owner::new("web").unwrap())
    };
    if limit < 100_000 {
        let error = portmap.publish_all((0..limit as u32).map(mapping));
        let error = error.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(24), "{error}");
        assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
        assert!(!portmap.exists().unwrap());
    }
}

#[test]
fn what_the_rules_do_not_lead_is_led_by_the_proxy() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let world = World::new(BridgedPackets::Unseen);
    world
        .host
        .run(|| world::sysctl("ipv4/conf/br0/route_localnet", "0"));
    let portmap = world.host.run(|| Portmap::open(TABLE)).unwrap();
    let listener = world.web.run(|| TcpListener::bind((WEB, 80))).unwrap();
    let published = portmap.publish(&spec("8080:80"), WEB.into()).unwrap();
    let reaches = |at: &str, wait| {
        let to: SocketAddr = at.parse().unwrap();
        let dial = || TcpStream::connect_timeout(&to, wait);
        let client = world.host.run(dial).ok()?;
        let (mut server, from) = listener.accept().ok()?;
        server.write_all(b"hello").unwrap();
        drop(server);
        let mut heard = String::new();
        (&client).read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "hello");
        Some(from.ip())
    };
    assert_eq!(reaches("127.0.0.1:8080", SHORT), None);
    assert_eq!(reaches("[::1]:8080", SHORT), None);
    let proxy = world.host.run(|| Proxy::builder().start()).unwrap();
    let assisted = proxy.assist(&published).unwrap();
    let _six = proxy.publish(&spec("[::]:8080:80"), WEB.into()).unwrap();
    assert!(reaches("[::1]:8080", LONG).is_some());
    let by_rule = world.neighbour.run(|| TcpStream::connect((HOST, 8080)));
    assert_eq!(listener.accept().unwrap().1.ip(), IpAddr::from(NEIGHBOUR));
    drop(by_rule);
    assisted.remove().unwrap();
    assert_eq!(reaches("127.0.0.1:8080", SHORT), None);
    published.remove().unwrap();
    proxy.stop().unwrap();
}
