//! Ports of a host that lead to containers: two services on the same container port, a conflict that is refused, a container that
//! reaches itself by the host, both families by one call, UDP, a port for the host alone that a neighbour does not reach by a
//! forged packet either, five hundred ports in one transaction, and all of it back after the table was deleted.
//!
//! The host, its LAN, a neighbour there and two containers are network namespaces of its own, wired with bridges; every line is
//! what real packets did. Needs `CAP_SYS_ADMIN` and `CAP_NET_ADMIN`: root, or root of a user namespace, which is what `cargo run`
//! gives an ordinary user. Nothing of the machine's network is touched; the namespaces end with the process.
#![allow(clippy::print_stdout, reason = "this is what it is for")]

use std::error::Error;
use std::fs;
use std::io::{ErrorKind as IoErrorKind, Read, Write};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket,
};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam::netbridge::{self, Attachment, Bridge, NetNs, Port};
use cofferdam::portmap::{ErrorKind, NetworkSpec, Owner, PortMapping, Portmap, Protocol, Ruleset};
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const WEB: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const API: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 3);
const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const NEIGHBOUR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1);
const WEB6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2);
const API6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 3);

fn main() -> Result<()> {
    let world = World::new()?;
    let portmap = world.host.run(|| Portmap::open("example"))??;
    let network = portmap.network(network()?)?;

    two_services(&world, &portmap)?;
    refused(&world, &portmap)?;
    by_both_families(&world, &portmap)?;
    for_the_host_alone(&world, &portmap)?;
    by_udp(&world, &portmap)?;
    many(&world, &portmap)?;

    network.remove()?;
    println!("left behind: the table {}", there(portmap.exists()?));
    same("a table left behind", &portmap.exists()?, &false)
}

fn network() -> Result<NetworkSpec> {
    let network = NetworkSpec::new("br0")?.subnet("10.1.0.0/24".parse()?);
    Ok(network.subnet("fd00:1::/64".parse()?))
}

fn two_services(world: &World, portmap: &Portmap) -> Result<()> {
    let web = portmap.publish(&"8080:80".parse()?, WEB.into())?;
    let api = portmap.publish(&"8081:80".parse()?, API.into())?;
    for published in web.ports().iter().chain(api.ports()) {
        println!("published {published}");
    }
    for (port, who) in [(8080, "web"), (8081, "api")] {
        let answer = ask(&world.neighbour, HOST, port)?;
        println!("the neighbour asks {HOST}:{port}: {answer:?}");
        same("answer", &answer, &Some(format!("{who} sees {NEIGHBOUR}")))?;
    }
    let straight = ask(&world.neighbour, WEB, 80)?;
    println!("the neighbour asks {WEB}:80 past the host: {straight:?}");
    same("answer", &straight, &None)?;

    let hairpin = ask(&world.web, HOST, 8080)?;
    println!("web asks {HOST}:8080, which is itself: {hairpin:?}");
    same("answer", &hairpin, &Some(format!("web sees {GATEWAY}")))?;

    web.remove()?;
    let gone = ask(&world.neighbour, HOST, 8080)?;
    println!("the neighbour asks {HOST}:8080, unpublished: {gone:?}");
    same("answer", &gone, &None)
}

fn refused(world: &World, portmap: &Portmap) -> Result<()> {
    let _web = portmap.publish(&"8080:80".parse()?, WEB.into())?;
    match portmap.publish(&"8080:80".parse()?, API.into()) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => println!("refused: {error}"),
        other => return Err(format!("not refused: {other:?}").into()),
    }
    let taken = world.host.run(|| TcpListener::bind("0.0.0.0:8080"))?;
    println!(
        "a process of the host binds 8080: {:?}",
        taken.as_ref().err()
    );
    same("taken", &taken.is_err(), &true)?;
    let _listener = world.host.run(|| TcpListener::bind("0.0.0.0:8082"))??;
    match portmap.publish(&"8082:80".parse()?, API.into()) {
        Err(error) if error.kind() == ErrorKind::Busy => println!("refused: {error}"),
        other => return Err(format!("not refused: {other:?}").into()),
    }
    Ok(())
}

fn by_both_families(world: &World, portmap: &Portmap) -> Result<()> {
    let published = portmap.publish_to(&"80".parse()?, &[API.into(), API6.into()])?;
    let port = published.ports()[0].host_port();
    println!("chosen for {API} and {API6}: {port}");
    for (host, seen) in [
        (IpAddr::V4(HOST), IpAddr::V4(NEIGHBOUR)),
        (HOST6.into(), NEIGHBOUR6.into()),
    ] {
        let answer = ask(&world.neighbour, host, port)?;
        println!(
            "the neighbour asks {}: {answer:?}",
            SocketAddr::new(host, port)
        );
        same("answer", &answer, &Some(format!("api sees {seen}")))?;
    }
    let straight = ask(&world.neighbour, API6, 80)?;
    println!("the neighbour asks [{API6}]:80 past the host: {straight:?}");
    same("answer", &straight, &None)
}

fn for_the_host_alone(world: &World, portmap: &Portmap) -> Result<()> {
    let local = portmap.publish(&"127.0.0.1:9090:80".parse()?, WEB.into())?;
    println!("published {}", local.ports()[0]);
    let inside = ask(&world.host, Ipv4Addr::LOCALHOST, 9090)?;
    println!("the host asks 127.0.0.1:9090: {inside:?}");
    same("answer", &inside, &Some(format!("web sees {GATEWAY}")))?;
    let outside = ask(&world.neighbour, HOST, 9090)?;
    println!("the neighbour asks {HOST}:9090: {outside:?}");
    same("answer", &outside, &None)?;
    no_forged_packet(world, portmap)
}

/// By packets to the host's hardware address that are for 127.0.0.1, as a neighbour may send them.
fn no_forged_packet(world: &World, portmap: &Portmap) -> Result<()> {
    let names = world.web.run(|| UdpSocket::bind("0.0.0.0:53"))??;
    names.set_read_timeout(Some(Duration::from_secs(5)))?;
    let _local = portmap.publish(&"127.0.0.1:5354:53/udp".parse()?, WEB.into())?;
    let _open = portmap.publish(&"5355:53/udp".parse()?, WEB.into())?;
    let loopback = Ipv4Addr::LOCALHOST;
    for (from, to, port, text) in [
        (NEIGHBOUR, loopback, 5354, "for 127.0.0.1"),
        (loopback, HOST, 5355, "from 127.0.0.1"),
        // What shows that such packets arrive if nothing is wrong with them.
        (NEIGHBOUR, HOST, 5355, "honest"),
    ] {
        let packet = datagram(from, SocketAddrV4::new(to, port), text);
        world.neighbour.run(|| {
            let flags = SocketFlags::CLOEXEC;
            let socket = socket_with(
                AddressFamily::INET,
                SocketType::RAW,
                flags,
                Some(ipproto::RAW),
            )?;
            sendto(
                &socket,
                &packet,
                SendFlags::empty(),
                &SocketAddrV4::new(HOST, 0),
            )
        })??;
    }
    let mut heard = [0; 64];
    let length = names.recv(&mut heard)?;
    let heard = String::from_utf8_lossy(&heard[..length]).into_owned();
    println!("of packets for, from and without 127.0.0.1 the first that web hears: {heard:?}");
    same("first heard", &heard.as_str(), &"honest")
}

/// An IPv4 packet with a datagram of UDP. The kernel fills in what is left 0: lengths, number and checksum of the header.
fn datagram(from: Ipv4Addr, to: SocketAddrV4, text: &str) -> Vec<u8> {
    const VERSION_AND_WORDS: u8 = 0x45;
    const HOPS: u8 = 64;
    const UDP: u8 = 17;
    let length = 8 + text.len() as u16;
    let header = [VERSION_AND_WORDS, 0, 0, 0, 0, 0, 0, 0, HOPS, UDP, 0, 0];
    let mut packet = header.to_vec();
    packet.extend(from.octets());
    packet.extend(to.ip().octets());
    for field in [4242, to.port(), length, 0] {
        packet.extend(field.to_be_bytes());
    }
    packet.extend(text.as_bytes());
    packet
}

fn by_udp(world: &World, portmap: &Portmap) -> Result<()> {
    let names = world.web.run(|| UdpSocket::bind("0.0.0.0:53"))??;
    let published = portmap.publish(&"5353:53/udp".parse()?, WEB.into())?;
    println!("published {}", published.ports()[0]);
    let client = world.neighbour.run(|| UdpSocket::bind("0.0.0.0:0"))??;
    for socket in [&names, &client] {
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    }
    client.connect((HOST, 5353))?;
    client.send(b"?")?;
    let (_, from) = names.recv_from(&mut [0; 16])?;
    names.send_to(b"answer", from)?;
    let mut answer = [0; 16];
    let length = client.recv(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    println!(
        "the neighbour asks {HOST}:5353/udp: {answer:?}, web sees {}",
        from.ip()
    );
    same("client", &from.ip(), &NEIGHBOUR.into())?;
    same("answer", &answer.as_str(), &"answer")
}

fn many(world: &World, portmap: &Portmap) -> Result<()> {
    let owner: Owner = "api".parse()?;
    let target = SocketAddr::new(API.into(), 80);
    let mapping = |port| Ok(PortMapping::new(Protocol::Tcp, port, target)?.owned_by(owner.clone()));
    let ports = (20_000..20_500).map(mapping).collect::<Result<Vec<_>>>()?;
    let start = Instant::now();
    let published = portmap.publish_all(ports)?;
    let (count, took) = (published.ports().len(), start.elapsed());
    println!(
        "published {count} ports in {took:.1?}, the last one answers: {:?}",
        ask(&world.neighbour, HOST, 20_499)?
    );
    portmap.delete_table()?;
    same("flushed", &ask(&world.neighbour, HOST, 20_499)?, &None)?;
    let mut declared = Ruleset::new("example")?;
    declared.network(network()?)?;
    for port in published.ports() {
        declared.publish(port.clone())?;
    }
    let start = Instant::now();
    let repaired = portmap.reconcile(&declared)?;
    println!(
        "the table was deleted; reconcile in {:.1?}: {repaired:?}",
        start.elapsed()
    );
    let answer = ask(&world.neighbour, HOST, 20_499)?;
    same("answer", &answer, &Some(format!("api sees {NEIGHBOUR}")))?;
    let gone = portmap.unpublish_owner(&owner)?;
    println!("unpublished all {} of {owner}", gone.len());
    same("unpublished", &gone.len(), &count)
}

/// A host with a network of containers and a LAN.
struct World {
    host: NetNs,
    neighbour: NetNs,
    web: NetNs,
    _links: Vec<Port>,
    _bridges: Vec<Bridge>,
}

impl World {
    fn new() -> Result<Self> {
        let (host, neighbour) = (NetNs::new()?, NetNs::new()?);
        let (web, api) = (NetNs::new()?, NetNs::new()?);
        let bridge = |name: &str, [v4, v6]: [&str; 2]| -> Result<Bridge> {
            let builder = Bridge::builder(name.parse()?).address(v4.parse()?);
            let builder = builder.address(v6.parse()?).route_localnet().forwarding();
            Ok(host.run(|| builder.create())??)
        };
        let containers = bridge("br0", [&format!("{GATEWAY}/24"), &format!("{GATEWAY6}/64")])?;
        let lan = bridge("lan0", [&format!("{HOST}/24"), &format!("{HOST6}/64")])?;
        host.run(netbridge::enable_forwarding)??;
        host.run(|| fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1"))??;
        let mut links = Vec::new();
        for (bridge, netns, v4, v6) in [
            (&containers, &web, WEB, WEB6),
            (&containers, &api, API, API6),
            (&lan, &neighbour, NEIGHBOUR, NEIGHBOUR6),
        ] {
            let attachment = Attachment::new(format!("{v4}/24").parse()?);
            let attachment = attachment.address(format!("{v6}/64").parse()?);
            links.push(host.run(|| bridge.attach(netns, attachment))??);
        }
        serve(&web, "web")?;
        serve(&api, "api")?;
        Ok(World {
            host,
            neighbour,
            web,
            _links: links,
            _bridges: vec![containers, lan],
        })
    }
}

/// Says on port 80 who it is and whom it sees, as long as the process runs.
fn serve(netns: &NetNs, name: &'static str) -> Result<()> {
    let listener = netns.run(|| TcpListener::bind("[::]:80"))??;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let seen = stream.peer_addr().map(|peer| peer.ip());
            let seen = seen.map_or(Ipv4Addr::UNSPECIFIED.into(), |ip| ip.to_canonical());
            let _gone = write!(stream, "{name} sees {seen}").is_err();
        }
    });
    Ok(())
}

/// What the server there says to a client in that namespace; `None` if the way is closed.
fn ask(client: &NetNs, ip: impl Into<IpAddr>, port: u16) -> Result<Option<String>> {
    let address = SocketAddr::new(ip.into(), port);
    let stream = client.run(|| TcpStream::connect_timeout(&address, Duration::from_millis(500)))?;
    let mut stream = match stream {
        Ok(stream) => stream,
        Err(error) => {
            let closed = [IoErrorKind::TimedOut, IoErrorKind::ConnectionRefused];
            return match closed.contains(&error.kind()) {
                true => Ok(None),
                false => Err(format!("{address}: {error}").into()),
            };
        }
    };
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(Some(answer))
}

fn there(is: bool) -> &'static str {
    if is { "is there" } else { "is gone" }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: &T, wanted: &T) -> Result<()> {
    match got == wanted {
        true => Ok(()),
        false => Err(format!("{what}: {got:?}, not {wanted:?}").into()),
    }
}
