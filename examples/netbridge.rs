//! A network and two containers on it, as far as the network is concerned: a bridge with IPv4 and IPv6, two network
//! namespaces, real packets both ways, and a second network connected and disconnected while the first works on.
//!
//! `cargo run --example netbridge`, as root. It works in a network namespace of its own, prints what it sees, exits
//! non-zero where that is not as it should be, and leaves nothing.
#![allow(clippy::print_stdout, reason = "this is what it is for")]

use std::error::Error;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use cofferdam::netbridge::{
    Addresses, Attachment, Bridge, Gateway, Inspect, IpNetwork, NetNs, links,
};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    let outcome = NetNs::new()
        .map_err(Into::into)
        .and_then(|world| world.run(show)?);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netbridge: {error}");
            ExitCode::FAILURE
        }
    }
}

fn show() -> Result<()> {
    let front = Bridge::builder("front0".parse()?)
        .address("10.30.0.1/24".parse()?)
        .address("fd00:30::1/64".parse()?)
        .create()?;
    println!(
        "bridge front0: {}, MTU {}",
        list(front.addresses()),
        front.mtu()
    );

    let (web, db) = (NetNs::new()?, NetNs::new()?);
    let mut addresses = Addresses::new("10.30.0.1/24".parse()?)?;
    let mut attach = |netns: &NetNs, v6: &str| -> Result<_> {
        let attachment = Attachment::new(addresses.allocate()?).address(v6.parse()?);
        Ok(front.attach(netns, attachment)?)
    };
    let (web_port, db_port) = (
        attach(&web, "fd00:30::2/64")?,
        attach(&db, "fd00:30::3/64")?,
    );
    for (name, port) in [("web", &web_port), ("db", &db_port)] {
        let (ifname, messages) = (port.ifname(), port.messages());
        let addresses = list(port.addresses());
        println!("{name}: {ifname} {addresses}, {messages} netlink messages");
    }
    for (from, to) in [("10.30.0.2", "10.30.0.3"), ("fd00:30::2", "fd00:30::3")] {
        exchange("web and db", &web, from.parse()?, &db, to.parse()?)?;
    }

    second_network(&web, &db)?;
    exchange(
        "web and db",
        &web,
        "10.30.0.2".parse()?,
        &db,
        "10.30.0.3".parse()?,
    )?;

    let counters = Inspect::here()?.link(web_port.name())?.counters;
    let (received, sent) = (counters.rx_packets, counters.tx_packets);
    println!("port of web: {received} packets received, {sent} sent");
    ensure(received >= 3 && sent >= 3, "too few packets were counted")?;

    front.detach_all([web_port, db_port])?;
    front.remove()?;
    let left: Vec<String> = links()?.into_iter().map(|link| link.name).collect();
    println!("left: {}", left.join(", "));
    ensure(left == ["lo"], "a link is left")
}

/// An internal network, at run time.
fn second_network(web: &NetNs, db: &NetNs) -> Result<()> {
    let back = Bridge::builder("back0".parse()?).unaddressed().create()?;
    let attachment = |address: &str| -> Result<_> {
        Ok(Attachment::new(address.parse()?).gateway(Gateway::None))
    };
    let one = back.attach(web, attachment("10.31.0.2/24")?)?;
    let two = back.attach(db, attachment("10.31.0.3/24")?)?;
    let ifnames = [one.ifname().as_str(), two.ifname().as_str()];
    println!(
        "connected to back0, without a gateway: {}",
        ifnames.join(" and ")
    );
    ensure(ifnames == ["eth1"; 2], "not named by rule")?;
    exchange(
        "by back0",
        web,
        "10.31.0.2".parse()?,
        db,
        "10.31.0.3".parse()?,
    )?;
    one.remove()?;
    two.remove()?;
    back.remove()?;
    let left = web.run(links)??;
    ensure(left.iter().all(|link| link.name != "eth1"), "eth1 is left")?;
    println!("disconnected from back0");
    Ok(())
}

/// A datagram each way.
fn exchange(who: &str, one: &NetNs, from: IpAddr, two: &NetNs, to: IpAddr) -> Result<()> {
    let bind = |netns: &NetNs, address: IpAddr| -> Result<UdpSocket> {
        let socket = netns.run(|| UdpSocket::bind(SocketAddr::new(address, 0)))??;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(socket)
    };
    let (one, two) = (bind(one, from)?, bind(two, to)?);
    let mut buffer = [0; 16];
    let begin = Instant::now();
    one.send_to(b"ping", two.local_addr()?)?;
    let (length, peer) = two.recv_from(&mut buffer)?;
    ensure(
        buffer[..length] == *b"ping" && peer.ip() == from,
        "another datagram came",
    )?;
    two.send_to(b"pong", peer)?;
    let (length, _) = one.recv_from(&mut buffer)?;
    ensure(buffer[..length] == *b"pong", "another datagram came back")?;
    println!("{who}: {from} to {to} and back in {:?}", begin.elapsed());
    Ok(())
}

fn list(addresses: &[IpNetwork]) -> String {
    let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    all.join(" and ")
}

fn ensure(holds: bool, otherwise: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}
