//! The resolver inside every container: names, aliases and addresses of two networks, who sees which, and where other names
//! go. All is asked from inside the containers, by packets made here, and printed as `dig +short` would.
//!
//! A container is a network namespace here, and so is the host with the server that is asked for other names: nothing on the
//! machine changes, and nothing is left. It takes root, for network namespaces.
#![allow(clippy::print_stdout, reason = "this is what it is for")]

#[path = "dns/packet.rs"]
mod packet;

use std::collections::BTreeSet;
use std::error::Error;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_dns::{
    Endpoint, LISTEN, ResolvConf, Scope, Server, Service, SharedZone, Upstreams, Zone, bind_in,
};
use cofferdam_netbridge::NetNs;
use packet::{A, AAAA, PTR, SRV};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Who knows the names of elsewhere, on the host's loopback.
const UPSTREAM: &str = "127.0.0.1:5353";

/// A container: a network namespace with a resolver on 127.0.0.11.
struct Container {
    name: &'static str,
    netns: NetNs,
    endpoint: Endpoint,
}

fn main() -> Result<()> {
    let host = NetNs::new()?;
    let forwarded = upstream(&host)?;
    let builder = Server::builder().upstreams(&Upstreams::new(vec![UPSTREAM.parse()?])?);
    let server = host.run(|| builder.start())??;
    let (front, back) = (SharedZone::new(front()?), SharedZone::new(back()?));

    let web = Container::start("web", &server, Scope::from(&front))?;
    let api = Container::start("api", &server, Scope::new().zone(&front).zone(&back))?;
    let db = Container::start("db", &server, Scope::from(&back).internal())?;
    println!(
        "resolv.conf of each: {}",
        one_line(&ResolvConf::new().for_container())
    );

    names(&web)?;
    networks(&web, &api, &db)?;
    let seen = forwarded.load(Ordering::Relaxed);
    expect(
        seen == 3,
        &format!("the upstream was asked {seen} times, for names of elsewhere alone"),
    )?;
    turns(&web)?;
    tcp(&web)?;
    change(&web, &front)?;
    upstream_gone(&web)?;

    for container in [web, api, db] {
        println!("{}: {:?}", container.name, container.endpoint.counters());
        container.endpoint.remove()?;
    }
    server.stop()?;
    Ok(())
}

/// The network `front`: web with an alias, api, and a service of three.
fn front() -> Result<Zone> {
    let mut zone = Zone::new();
    zone.set_domain("front".parse()?);
    for (name, address) in [
        ("web", "10.89.0.2"),
        ("www", "10.89.0.2"),
        ("api", "10.89.0.3"),
        ("api", "fd00:89::3"),
        ("shop", "10.89.0.4"),
        ("shop", "10.89.0.5"),
        ("shop", "10.89.0.6"),
    ] {
        zone.insert(name.parse()?, address.parse()?);
    }
    let http = Service::new("api".parse()?, 8080).priority(10).weight(5);
    zone.insert_service("_http._tcp.api".parse()?, http);
    Ok(zone)
}

/// The network `back`: api and db.
fn back() -> Result<Zone> {
    let mut zone = Zone::new();
    zone.set_domain("back".parse()?);
    zone.insert("api".parse()?, "10.89.1.3".parse()?);
    zone.insert("db".parse()?, "10.89.1.2".parse()?);
    Ok(zone)
}

fn names(web: &Container) -> Result<()> {
    web.says("api", A, &["10.89.0.3"])?;
    web.says("API.Front", A, &["10.89.0.3"])?;
    web.says("www", A, &["10.89.0.2"])?;
    web.says("api", AAAA, &["fd00:89::3"])?;
    // It has no IPv6 address, which denies nothing of its IPv4 one.
    web.says("web", AAAA, &["NODATA"])?;
    web.says("nobody.front", A, &["NXDOMAIN"])?;
    web.says("2.0.89.10.in-addr.arpa", PTR, &["web.front.", "www.front."])?;
    web.says("_http._tcp.api.front", SRV, &["10 5 8080 api."])
}

/// Each sees its own networks; a name of another is one of elsewhere, and an internal network has no elsewhere.
fn networks(web: &Container, api: &Container, db: &Container) -> Result<()> {
    api.says("db", A, &["10.89.1.2"])?;
    api.says("web", A, &["10.89.0.2"])?;
    web.says("db", A, &["NXDOMAIN"])?;
    db.says("api", A, &["10.89.1.3"])?;
    db.says("web", A, &["NXDOMAIN"])?;
    web.says("site.example", A, &["192.0.2.80"])?;
    api.says("site.example", A, &["192.0.2.80"])?;
    db.says("site.example", A, &["NXDOMAIN"])
}

/// Of three addresses each is first in its turn.
fn turns(web: &Container) -> Result<()> {
    let mut first = BTreeSet::new();
    for _ in 0..3 {
        let addresses = web.ask("shop", A)?;
        println!("web: shop A -> {}", addresses.join(" "));
        expect(addresses.len() == 3, "all three are told")?;
        first.extend(addresses.into_iter().next());
    }
    expect(first.len() == 3, "each of the three was first once")
}

fn tcp(web: &Container) -> Result<()> {
    let mut stream = web.netns.run(|| TcpStream::connect(LISTEN))??;
    let query = packet::query("web", A);
    stream.write_all(&(query.len() as u16).to_be_bytes())?;
    stream.write_all(&query)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut reply)?;
    let said = packet::read(&reply).ok_or("a broken reply")?;
    println!("web: web A over TCP -> {}", said.join(" "));
    expect(said == ["10.89.0.2"], "the same over TCP")
}

/// A container that ends takes its names with it, at once.
fn change(web: &Container, front: &SharedZone) -> Result<()> {
    front.update(|zone| zone.remove_address(Ipv4Addr::new(10, 89, 0, 5).into()));
    let mut left = web.ask("shop", A)?;
    left.sort();
    println!("web: shop A -> {}, one less", left.join(" "));
    expect(left == ["10.89.0.4", "10.89.0.6"], "it is gone")
}

/// Where no upstream is, a name of elsewhere fails at once, and those of the network do not notice.
fn upstream_gone(web: &Container) -> Result<()> {
    let nowhere = Upstreams::new(vec!["127.0.0.1:1".parse()?])?;
    let mut zone = Zone::new();
    zone.insert("web".parse()?, "10.89.0.2".parse()?);
    let scope = Scope::from(&SharedZone::new(zone)).upstreams(&nowhere);
    web.endpoint.set_scope(scope)?;
    let start = Instant::now();
    web.says("site.example", A, &["SERVFAIL"])?;
    println!("after {:.1?}", start.elapsed());
    web.says("web", A, &["10.89.0.2"])
}

impl Container {
    fn start(name: &'static str, server: &Server, scope: Scope) -> Result<Self> {
        let netns = NetNs::new()?;
        let (udp, tcp) = bind_in(&netns, LISTEN)?;
        let endpoint = server.serve(udp, tcp, scope)?;
        Ok(Container {
            name,
            netns,
            endpoint,
        })
    }

    fn ask(&self, name: &str, kind: u16) -> Result<Vec<String>> {
        let socket = self.netns.run(|| UdpSocket::bind("127.0.0.1:0"))??;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.send_to(&packet::query(name, kind), LISTEN)?;
        let mut reply = [0; 512];
        let length = socket.recv(&mut reply)?;
        packet::read(&reply[..length]).ok_or_else(|| "a broken reply".into())
    }

    /// Asks, prints the answer, and fails if it is another.
    fn says(&self, name: &str, kind: u16, expected: &[&str]) -> Result<()> {
        let said = self.ask(name, kind)?;
        let kinds = [(A, "A"), (AAAA, "AAAA"), (PTR, "PTR"), (SRV, "SRV")];
        let kind = kinds.iter().find(|(number, _)| *number == kind);
        let kind = kind.map_or("?", |(_, name)| name);
        println!("{}: {name} {kind} -> {}", self.name, said.join(" "));
        expect(said == expected, &format!("{expected:?} was to be said"))
    }
}

/// A server on the host that knows one name. It ends with the example.
fn upstream(host: &NetNs) -> Result<Arc<AtomicUsize>> {
    let address: SocketAddr = UPSTREAM.parse()?;
    let socket = host.run(|| UdpSocket::bind(address))??;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            count.fetch_add(1, Ordering::Relaxed);
            let query = &buffer[..length];
            let mut reply = packet::reply(query, Ipv4Addr::new(192, 0, 2, 80));
            if !query[12..].starts_with(b"\x04site\x07example\0") {
                reply = query.to_vec();
                reply[2..4].copy_from_slice(&[0x81, 0x83]);
            }
            if socket.send_to(&reply, peer).is_err() {
                return;
            }
        }
    });
    Ok(asked)
}

fn one_line(conf: &ResolvConf) -> String {
    conf.to_string().trim_end().replace('\n', "; ")
}

fn expect(is_so: bool, what: &str) -> Result<()> {
    if is_so { Ok(()) } else { Err(what.into()) }
}
