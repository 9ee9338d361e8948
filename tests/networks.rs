//! Networks of containers, with real packets. The containers do nothing by themselves: the tests open sockets in their
//! network namespaces.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use cofferdam::netbridge::{
    Attachment, Bridge, Gateway, Inspect, IpvlanMode, LinkKind, NetNs, Vxlan, links,
};
use cofferdam::{
    Connection, Container, ContainerBuilder, ErrorKind, Network, NetworkKind, PortSpec, Rootfs,
    Running,
};
use cofferdam_testkit::{Need, NetNs as World, have};

const SLEEP: &str = "COFFERDAM_SLEEP";

/// How long no answer comes where none can.
const SILENCE: Duration = Duration::from_millis(400);

/// Not a test of its own: what runs inside.
#[test]
fn payload() {
    if std::env::var_os(SLEEP).is_some() {
        std::thread::sleep(Duration::from_secs(60));
        std::process::exit(0);
    }
}

fn container(name: &str) -> ContainerBuilder {
    let exe = std::env::current_exe().unwrap();
    let initial = fs::read_to_string("/proc/self/uid_map").unwrap();
    let initial = initial.split_whitespace().eq(["0", "0", "4294967295"]);
    let builder = Container::builder()
        .name(name)
        .rootfs(Rootfs::layers([if initial { "/" } else { "/usr" }]))
        .mount(cofferdam::Mount::bind(exe, "/test").read_only())
        .command("/test")
        .args(["--exact", "payload", "--test-threads=1"])
        .env(SLEEP, "");
    // A directory of a user that a user namespace does not know cannot be written in it.
    if initial {
        builder
    } else {
        builder.tmpfs("/etc")
    }
}

/// In a network namespace of the test's own, which is the host; and nothing is left in it.
fn host(work: impl FnOnce() + Send) {
    if !have(&[Need::Namespaces]) {
        return;
    }
    World::new().run(|| {
        let before = left();
        work();
        assert_eq!(left(), before, "links, and whether there is a table");
    });
}

fn left() -> (Vec<String>, bool) {
    let names = links().unwrap().into_iter().map(|link| link.name);
    let table = cofferdam::portmap::Portmap::open("cofferdam").unwrap();
    (names.collect(), table.exists().unwrap())
}

fn inside(container: &Running) -> NetNs {
    let path = format!("/proc/{}/ns/net", container.pid());
    NetNs::from(OwnedFd::from(fs::File::open(path).unwrap()))
}

/// Answers with its name on port 80 of all addresses for as long as the container lives.
fn serve(container: &Running) {
    let name = container.name().to_owned();
    let listener = inside(container).run(|| TcpListener::bind("[::]:80").unwrap());
    let listener = listener.unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _sent = stream.unwrap().write_all(name.as_bytes()).is_ok();
        }
    });
}

fn get(to: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&to, SILENCE).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text).filter(|text| !text.is_empty())
}

fn get_from(container: &Running, to: impl Into<IpAddr>) -> Option<String> {
    let to = SocketAddr::new(to.into(), 80);
    inside(container).run(|| get(to)).unwrap()
}

/// What 127.0.0.11 says inside: the code, and the IPv4 addresses.
fn ask(container: &Running, name: &str) -> (u8, Vec<IpAddr>) {
    let socket = inside(container).run(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    let socket = socket.unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let mut query = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    socket.send_to(&query, "127.0.0.11:53").unwrap();
    let mut answer = [0; 1500];
    let length = socket.recv(&mut answer).unwrap();
    let records = answer[query.len()..length].chunks_exact(16);
    let count = usize::from(answer[7]);
    let addresses = records.take(count).map(|record| {
        let octets: [u8; 4] = record[12..].try_into().unwrap();
        IpAddr::V4(Ipv4Addr::from(octets))
    });
    (answer[3] & 15, addresses.collect())
}

fn port(text: &str) -> PortSpec {
    text.parse().unwrap()
}

fn net(text: &str) -> cofferdam::IpNetwork {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn localhost(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn address_in(container: &Running, network: &str) -> IpAddr {
    let endpoints = container.networks();
    let endpoint = endpoints.iter().find(|e| e.network == network).unwrap();
    endpoint.addresses[0].ip()
}

fn refused(builder: ContainerBuilder) -> String {
    match builder.start() {
        Ok(running) => panic!("{} was started", running.name()),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            error.to_string()
        }
    }
}

fn interfaces(container: &Running) -> Vec<String> {
    let links = inside(container).run(|| links().unwrap()).unwrap();
    let mut names: Vec<_> = links.into_iter().map(|link| link.name).collect();
    names.sort();
    names
}

#[test]
fn connect_and_disconnect_move_names_routes_and_ports() {
    host(|| {
        let (back, front) = (
            Network::bridge("back").create().unwrap(),
            Network::bridge("front").create().unwrap(),
        );
        let web = container("web").network(&back).alias("www");
        let web = web.publish(port("8080:80")).start().unwrap();
        let client = container("client").network(&front).start().unwrap();
        serve(&web);
        let old = address_in(&web, "back");
        assert_eq!(get(localhost(8080)).as_deref(), Some("web"));
        assert!(ask(&client, "web").1.is_empty(), "networks are apart");
        assert_eq!(get_from(&client, old), None);

        let connection = Connection::to(&front).alias("api").gateway_priority(1);
        web.connect(connection).unwrap();
        assert_eq!(interfaces(&web), ["eth0", "eth1", "lo"]);
        let new = address_in(&web, "front");
        for name in ["web", "www", "api", "web.front", "API.Front"] {
            assert_eq!(ask(&client, name), (0, vec![new]), "{name}");
        }
        assert_eq!(ask(&web, "client.front").1.len(), 1);
        assert_eq!(web.default_routes()[0].0, "front");
        assert_eq!(web.ports()[0].container, SocketAddr::new(new, 80));
        assert_eq!(get(localhost(8080)).as_deref(), Some("web"));
        assert_eq!(get_from(&client, new).as_deref(), Some("web"));
        let twice = web.connect(&front).unwrap_err();
        assert_eq!(twice.kind(), ErrorKind::InvalidInput, "{twice}");

        web.disconnect(&front).unwrap();
        assert!(ask(&client, "web").1.is_empty());
        assert!(ask(&web, "client").1.is_empty());
        assert_eq!(web.default_routes()[0].0, "back");
        assert_eq!(web.address(), Some(old));
        assert_eq!(get(localhost(8080)).as_deref(), Some("web"));

        web.disconnect(&back).unwrap();
        assert_eq!(interfaces(&web), ["lo"]);
        assert!(web.ports().is_empty() && web.default_routes().is_empty());
        back.remove().unwrap();
        web.connect(&front).unwrap();
        assert_eq!(interfaces(&web), ["eth0", "lo"]);
        assert_eq!(
            web.ports()[0].host_port,
            8080,
            "a port comes back with a way to it"
        );
        assert_eq!(get(localhost(8080)).as_deref(), Some("web"));
        web.remove().unwrap();
        client.remove().unwrap();
        front.remove().unwrap();
    });
}

#[test]
fn an_internal_network_has_no_way_out_not_even_by_names() {
    host(|| {
        let network = Network::bridge("vault").internal().create().unwrap();
        let open = Network::bridge("open").create().unwrap();
        assert!(!network.subnets()[0].contains(open.gateway().ip()));
        let db = container("db").network(&network).start().unwrap();
        let app = container("app").network(&network).start().unwrap();
        serve(&db);
        assert_eq!(get_from(&app, db.address().unwrap()).as_deref(), Some("db"));
        assert_eq!(ask(&app, "db").1, [db.address().unwrap()]);
        assert_eq!(
            ask(&app, "example.com"),
            (3, vec![]),
            "NXDOMAIN, not forwarded"
        );
        assert!(app.default_routes().is_empty());
        assert_eq!(get_from(&app, open.gateway().ip()), None);
        assert_eq!(
            get(SocketAddr::new(db.address().unwrap(), 80)),
            None,
            "nor the host"
        );
        let error = refused(container("x").network(&network).publish(port("80:80")));
        assert!(
            error.contains("none of its networks takes published ports"),
            "{error}"
        );
        let error = db.publish(&port("80:80")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        // With a second network it has a way out, and so do its ports.
        db.connect(&open).unwrap();
        db.publish(&port("8081:80")).unwrap();
        assert_eq!(get(localhost(8081)).as_deref(), Some("db"));
        for container in [db, app] {
            container.remove().unwrap();
        }
        open.remove().unwrap();
        network.remove().unwrap();
    });
}

#[test]
fn addresses_are_those_asked_for() {
    host(|| {
        let network = Network::bridge("fixed")
            .subnet(net("10.9.0.0/16"))
            .subnet(net("fd00:9::/64"))
            .gateway(net("10.9.0.254/16"))
            .ip_range(net("10.9.7.0/24"))
            .mtu(1400)
            .create()
            .unwrap();
        let mac = [2, 0, 0, 0, 0, 9];
        let connection = Connection::to(&network)
            .address(ip("10.9.1.1"))
            .address(ip("fd00:9::7"))
            .ifname("lan0")
            .mac(mac);
        let one = container("one")
            .network(connection.clone())
            .start()
            .unwrap();
        let two = container("two").network(&network).start().unwrap();
        let info = &one.networks()[0];
        assert_eq!(info.addresses, [net("10.9.1.1/16"), net("fd00:9::7/64")]);
        assert_eq!(
            (&*info.interface, &*info.mac),
            ("lan0", "02:00:00:00:00:09")
        );
        let mut seen = Inspect::of(inside(&one)).unwrap();
        let link = seen.link(&"lan0".parse().unwrap()).unwrap();
        assert_eq!((link.mac, link.mtu), (Some(mac), 1400));
        assert!(net("10.9.7.0/24").contains(two.address().unwrap()));
        assert_eq!(two.default_routes().len(), 2);
        assert_eq!(two.default_routes()[0].1, ip("10.9.0.254"));
        serve(&one);
        assert_eq!(get_from(&two, ip("fd00:9::7")).as_deref(), Some("one"));

        let error = container("three").network(connection).start().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
        let elsewhere = Connection::to(&network).address(ip("10.8.0.1"));
        refused(container("three").network(elsewhere));
        let info = network.inspect();
        assert_eq!(
            (info.kind, info.mtu, info.dns),
            (NetworkKind::Bridge, 1400, true)
        );
        let names: Vec<_> = info.endpoints.iter().map(|e| &*e.container).collect();
        assert_eq!(names, ["one", "two"]);
        one.remove().unwrap();
        assert_eq!(network.inspect().endpoints.len(), 1);
        two.remove().unwrap();
        network.remove().unwrap();
    });
}

#[test]
fn containers_without_icc_reach_each_other_by_published_ports_alone() {
    host(|| {
        let network = Network::bridge("apart").without_icc().create().unwrap();
        let web = container("web").network(&network).publish(port("8080:80"));
        let web = web.start().unwrap();
        let other = container("other").network(&network).start().unwrap();
        serve(&web);
        assert_eq!(get_from(&other, web.address().unwrap()), None);
        assert_eq!(get(localhost(8080)).as_deref(), Some("web"));
        web.remove().unwrap();
        other.remove().unwrap();
        network.remove().unwrap();
    });
}

#[test]
fn ports_of_every_spelling_are_led_and_told() {
    host(|| {
        let network = Network::bridge("ports").create().unwrap();
        let web = container("web")
            .network(&network)
            .publish(port("9000-9001:80-81"))
            .publish(port("[::1]:9100:80"))
            .expose(port("80"))
            .expose(port("443"))
            .expose(port("53/udp"))
            .publish_all()
            .start()
            .unwrap();
        serve(&web);
        let ports = web.ports();
        let told: Vec<_> = ports.iter().map(|p| (p.host_port, p.proxied)).collect();
        assert_eq!(told[..3], [(9000, false), (9001, false), (9100, true)]);
        let udp = ports.iter().find(|p| p.protocol == "udp").unwrap();
        assert!(udp.host_port > 0 && udp.container.port() == 53);
        let free = ports.iter().find(|p| p.container.port() == 443).unwrap();
        assert!(free.host_port > 0 && free.host_ip.is_none());
        // What is published already is not published twice.
        assert_eq!(ports.len(), 5, "{ports:?}");
        for to in [localhost(9000), "[::1]:9100".parse().unwrap()] {
            assert_eq!(get(to).as_deref(), Some("web"), "{to}");
        }

        let chosen = web.publish(&port("127.0.0.1::80")).unwrap();
        assert_eq!(chosen.len(), 1);
        assert_eq!(get(localhost(chosen[0].host_port)).as_deref(), Some("web"));
        let error = web.publish(&port("9000:80")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
        web.unpublish(&port("9000-9001:80-81")).unwrap();
        assert_eq!(get(localhost(9000)), None);
        let error = web.unpublish(&port("9000-9001:80-81")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        let _free = TcpListener::bind("0.0.0.0:9000").unwrap();
        web.remove().unwrap();
        assert_eq!(get("[::1]:9100".parse().unwrap()), None);
        network.remove().unwrap();
    });
}

#[test]
fn the_hosts_network_and_another_containers_take_no_ports() {
    host(|| {
        let network = Network::bridge("own").create().unwrap();
        let host = || container("host").host_network();
        let error = refused(host().publish(port("80:80")));
        assert!(
            error.contains("what it listens on is the host's"),
            "{error}"
        );
        assert!(refused(host().network(&network)).contains("beside the host's"));
        let inner = host().start().unwrap();
        assert_eq!(interfaces(&inner), ["br-own", "lo"]);
        assert!(inner.networks().is_empty());
        assert_eq!(
            inner.connect(&network).unwrap_err().kind(),
            ErrorKind::InvalidInput
        );

        let web = container("web").network(&network).start().unwrap();
        let side = container("side").network_of(&web).start().unwrap();
        serve(&side);
        assert_eq!(
            get(SocketAddr::new(web.address().unwrap(), 80)).as_deref(),
            Some("side")
        );
        assert_eq!(ask(&side, "web").1, [web.address().unwrap()]);
        let read = |c: &Running| fs::read_to_string(format!("/proc/{}/root/etc/hosts", c.pid()));
        assert_eq!(read(&side).unwrap(), read(&web).unwrap());
        assert!(
            refused(container("x").network_of(&web).publish(port("80:80"))).contains("that one")
        );
        let lone = container("lone").start().unwrap();
        assert!(refused(container("x").network_of(&lone)).contains("without a network"));
        for container in [inner, side, web, lone] {
            container.remove().unwrap();
        }
        network.remove().unwrap();
    });
}

#[test]
fn one_that_began_with_no_network_can_be_connected() {
    host(|| {
        let network = Network::bridge("later").create().unwrap();
        let late = container("late").no_network().start().unwrap();
        assert_eq!(interfaces(&late), ["lo"]);
        let read = |name: &str| fs::read_to_string(format!("/proc/{}/root/etc/{name}", late.pid()));
        assert!(!read("hosts").unwrap().contains("late"));
        late.connect(&network).unwrap();
        let hosts = read("hosts").unwrap();
        assert!(hosts.contains("\tlate\n"), "{hosts}");
        let conf = read("resolv.conf").unwrap();
        assert!(conf.contains("nameserver 127.0.0.11\n"), "{conf}");
        late.publish(&port("8080:80")).unwrap();
        serve(&late);
        assert_eq!(get(localhost(8080)).as_deref(), Some("late"));
        assert_eq!(ask(&late, "late").1, [late.address().unwrap()]);
        late.remove().unwrap();
        network.remove().unwrap();
    });
}

#[test]
fn files_have_what_was_asked_for_and_are_its_own() {
    host(|| {
        let network = Network::bridge("files").create().unwrap();
        let plain = Network::bridge("plain").without_dns().create().unwrap();
        let upstreams = vec!["192.0.2.53:53".parse().unwrap()];
        let upstreams = cofferdam::dns::Upstreams::new(upstreams).unwrap();
        let one = container("one")
            .network(&network)
            .extra_host("db:10.0.0.2".parse().unwrap())
            .extra_host("host.internal:host-gateway".parse().unwrap())
            .dns_search("example.com")
            .dns_option("timeout:1")
            .start()
            .unwrap();
        let two = container("two")
            .network(&plain)
            .dns(&upstreams)
            .start()
            .unwrap();
        let read = |c: &Running, file| {
            fs::read_to_string(format!("/proc/{}/root/etc/{file}", c.pid())).unwrap()
        };
        let gateway = network.gateway().ip();
        let hosts = read(&one, "hosts");
        assert!(hosts.contains("10.0.0.2\tdb\n"), "{hosts}");
        assert!(
            hosts.contains(&format!("{gateway}\thost.internal\n")),
            "{hosts}"
        );
        assert_eq!(ask(&one, "host.internal").1, [gateway]);
        assert_eq!(
            read(&one, "resolv.conf"),
            "nameserver 127.0.0.11\nsearch example.com\noptions timeout:1 ndots:0\n"
        );
        assert_eq!(read(&one, "hostname"), "one\n");
        assert!(read(&two, "resolv.conf").starts_with("nameserver 192.0.2.53\n"));
        fs::write(format!("/proc/{}/root/etc/hosts", one.pid()), "mine").unwrap();
        assert_ne!(fs::read_to_string("/etc/hosts").unwrap(), "mine");
        for container in [one, two] {
            container.remove().unwrap();
        }
        network.remove().unwrap();
        plain.remove().unwrap();
    });
}

/// A machine's network, with a router on it.
fn lan(name: &str) -> (Bridge, NetNs, cofferdam::netbridge::Port) {
    let bridge = Bridge::builder(name.parse().unwrap());
    let bridge = bridge.address(net("192.168.7.2/24")).create().unwrap();
    let router = NetNs::new().unwrap();
    let cable = Attachment::new(net("192.168.7.1/24")).gateway(Gateway::None);
    let cable = bridge.attach(&router, cable).unwrap();
    (bridge, router, cable)
}

/// Whether a datagram gets from one to the other.
fn reaches(from: &NetNs, to: &NetNs, address: IpAddr) -> bool {
    let receiver = to.run(|| UdpSocket::bind((address, 7)).unwrap()).unwrap();
    receiver.set_read_timeout(Some(SILENCE)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(2);
    while Instant::now() < deadline {
        let _sent = from
            .run(|| {
                UdpSocket::bind("0.0.0.0:0")
                    .unwrap()
                    .send_to(b"x", (address, 7))
            })
            .unwrap();
        if receiver.recv(&mut [0; 8]).is_ok() {
            return true;
        }
    }
    false
}

#[test]
fn macvlan_and_ipvlan_containers_are_on_the_network_of_the_host() {
    host(|| {
        let (bridge, router, cable) = lan("lan0");
        let mut networks = Vec::new();
        for kind in [LinkKind::Macvlan, LinkKind::Ipvlan] {
            if kind.available().is_err() {
                continue;
            }
            let builder = match kind {
                LinkKind::Macvlan => Network::macvlan("mac", bridge.name().clone()),
                _ => Network::ipvlan("ipv", bridge.name().clone(), IpvlanMode::L2),
            };
            networks.push(builder.subnet(net("192.168.7.0/24")));
        }
        for builder in networks {
            let network = builder.ip_range(net("192.168.7.64/27")).create().unwrap();
            let one = container("one").network(&network).start().unwrap();
            let two = container("two").network(&network).start().unwrap();
            let (a, b) = (inside(&one), inside(&two));
            assert!(reaches(&a, &b, two.address().unwrap()));
            assert!(reaches(&a, &router, ip("192.168.7.1")));
            assert_eq!(ask(&one, "two").1, [two.address().unwrap()]);
            assert_eq!(one.default_routes()[0].1, ip("192.168.7.1"));
            let error = refused(container("x").network(&network).publish(port("80:80")));
            assert!(error.contains("none of its networks takes"), "{error}");
            one.remove().unwrap();
            two.remove().unwrap();
            drop((a, b));
            network.remove().unwrap();
        }
        cable.remove().unwrap();
        bridge.remove().unwrap();
    });
}

#[test]
fn vxlan_joins_the_networks_of_two_hosts() {
    host(|| {
        if LinkKind::Vxlan.available().is_err() {
            return;
        }
        let (bridge, other, cable) = lan("lan1");
        let make = |here: &str, there: &str, range: &str| {
            let vxlan = Vxlan::builder("vx0".parse().unwrap(), 42);
            let vxlan = vxlan.local(ip(here)).remote(ip(there));
            let network = Network::bridge("wide").subnet(net("10.42.0.0/24"));
            network.ip_range(net(range)).vxlan(vxlan).create().unwrap()
        };
        let near = make("192.168.7.2", "192.168.7.1", "10.42.0.32/28");
        let far = other.run(|| make("192.168.7.1", "192.168.7.2", "10.42.0.64/28"));
        let far = far.unwrap();
        assert_eq!(near.inspect().kind, NetworkKind::Vxlan);
        assert_eq!(near.inspect().mtu, 1450);
        let one = container("one").network(&near).start().unwrap();
        let two = container("two").network(&far);
        let two = other.run(|| two.start().unwrap()).unwrap();
        assert!(reaches(
            &inside(&one),
            &inside(&two),
            two.address().unwrap()
        ));
        one.remove().unwrap();
        two.remove().unwrap();
        near.remove().unwrap();
        far.remove().unwrap();
        cable.remove().unwrap();
        bridge.remove().unwrap();
    });
}
