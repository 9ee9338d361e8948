//! Two containers with hardware addresses of their own on the network of a machine: who reaches whom in which mode. They
//! never reach the machine itself, nor it them. Then what is refused.
//!
//! Needs `CAP_NET_ADMIN` and `CAP_SYS_ADMIN`: root, or root of a user namespace, which is what `cargo run` gives an ordinary
//! user. The machine and its network are made for this in network namespaces of their own; nothing on the host changes.
#![allow(clippy::print_stdout, reason = "this is what it is for")]

use std::error::Error;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use cofferdam::netbridge::{
    Attachment, Bridge, ErrorKind, Gateway, IfName, LinkKind, Macvlan, MacvlanMode, NetNs, Sublink,
    links,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const ROUTER: &str = "192.168.7.1";
const MACHINE: &str = "192.168.7.2";
const ONE: &str = "192.168.7.11";
const TWO: &str = "192.168.7.12";

/// For how long no packet comes, where none can.
const SILENCE: Duration = Duration::from_millis(300);

fn main() -> Result<()> {
    LinkKind::Macvlan.available()?;
    let before = link_names()?;
    let machine = NetNs::new()?;
    let router = NetNs::new()?;
    let parent: IfName = "lan0".parse()?;
    // A bridge is as good a parent as a network card is, and a cable to a router can be put in.
    let builder = Bridge::builder(parent.clone()).address(subnet(MACHINE).parse()?);
    let lan = machine.run(|| builder.create())??;
    let cable = Attachment::new(subnet(ROUTER).parse()?).gateway(Gateway::None);
    let cable = lan.attach(&router, cable)?;

    let others = Others {
        machine: socket(&machine, MACHINE)?,
        router: socket(&router, ROUTER)?,
    };
    println!("a machine at {MACHINE} with the link {parent}, a router at {ROUTER}\n");
    println!("mode      one-two  one-router  one-machine  machine-one");
    mode(
        &machine,
        &parent,
        MacvlanMode::Bridge,
        [true, true],
        &others,
    )?;
    mode(
        &machine,
        &parent,
        MacvlanMode::Private,
        [false, true],
        &others,
    )?;
    mode(&machine, &parent, MacvlanMode::Vepa, [false, true], &others)?;
    let only_router = MacvlanMode::Source(vec![cable.mac()]);
    mode(&machine, &parent, only_router, [false, true], &others)?;
    passthru(&machine, &parent)?;
    refusals(&machine, &parent)?;

    cable.remove()?;
    lan.remove()?;
    expect(
        link_names()? == before,
        "the links of the host are as before",
    )
}

struct Others {
    machine: UdpSocket,
    router: UdpSocket,
}

/// Attaches two containers in a mode, and sees whether the packets go where they should: from one to two, to the router.
fn mode(
    machine: &NetNs,
    parent: &IfName,
    mode: MacvlanMode,
    expected: [bool; 2],
    others: &Others,
) -> Result<()> {
    let title = format!("{mode:?}").to_lowercase();
    let title = title.split('(').next().unwrap_or_default().to_owned();
    let builder = Macvlan::builder(parent.clone()).mode(mode);
    let network = machine.run(|| builder.create())??;
    let (one, first, took) = container(&network, ONE)?;
    let (two, second, _) = container(&network, TWO)?;
    let (here, there) = (socket(&one, ONE)?, socket(&two, TWO)?);
    let reached = [
        reaches(&here, &there)?,
        reaches(&here, &others.router)?,
        reaches(&here, &others.machine)?,
        reaches(&others.machine, &here)?,
    ];
    let [a, b, c, d] = reached.map(|yes| if yes { "yes" } else { "-" });
    println!("{title:<9} {a:<8} {b:<11} {c:<12} {d:<11}  attached in {took:.1?}");
    let expected = [expected[0], expected[1], false, false];
    expect(reached == expected, &format!("{title}: as it should be"))?;
    second.remove()?;
    first.remove()?;
    Ok(())
}

/// The parent is one container's alone, and so is its hardware address.
fn passthru(machine: &NetNs, parent: &IfName) -> Result<()> {
    let builder = Macvlan::builder(parent.clone()).mode(MacvlanMode::Passthru);
    let network = machine.run(|| builder.create())??;
    let (_netns, link, _) = container(&network, ONE)?;
    println!("\npassthru: {:02x?}, that of {parent}", link.mac());
    let second = network.attach(NetNs::new()?, Attachment::new(subnet(TWO).parse()?));
    refused(second, ErrorKind::InvalidInput)?;
    link.remove()?;
    Ok(())
}

fn refusals(machine: &NetNs, parent: &IfName) -> Result<()> {
    let none = Macvlan::builder("none0".parse::<IfName>()?);
    refused(machine.run(|| none.create())?, ErrorKind::NotFound)?;
    let large = Macvlan::builder(parent.clone()).mtu(65_000);
    refused(machine.run(|| large.create())?, ErrorKind::InvalidInput)
}

fn container(network: &Macvlan, address: &str) -> Result<(NetNs, Sublink, Duration)> {
    let netns = NetNs::new()?;
    let attachment = Attachment::new(subnet(address).parse()?);
    let start = Instant::now();
    let link = network.attach(&netns, attachment)?;
    Ok((netns, link, start.elapsed()))
}

fn subnet(address: &str) -> String {
    format!("{address}/24")
}

fn socket(netns: &NetNs, address: &str) -> Result<UdpSocket> {
    let socket = netns.run(|| UdpSocket::bind((address, 0)))??;
    socket.set_read_timeout(Some(SILENCE))?;
    Ok(socket)
}

/// Whether a packet comes there, and an answer back.
fn reaches(from: &UdpSocket, to: &UdpSocket) -> Result<bool> {
    let mut buffer = [0; 16];
    if from.send_to(b"ping", to.local_addr()?).is_err() {
        return Ok(false);
    }
    let wanted = from.local_addr()?;
    let deadline = Instant::now() + SILENCE;
    while Instant::now() < deadline {
        // What comes of an earlier container, which waited for an answer to ARP, is none.
        match to.recv_from(&mut buffer) {
            Ok((_, peer)) if peer == wanted => {
                to.send_to(b"pong", peer)?;
                return Ok(from.recv_from(&mut buffer).is_ok());
            }
            _ => {}
        }
    }
    Ok(false)
}

fn refused<T>(
    done: std::result::Result<T, cofferdam::netbridge::Error>,
    kind: ErrorKind,
) -> Result<()> {
    match done {
        Err(error) if error.kind() == kind => {
            println!("refused: {error}");
            Ok(())
        }
        Err(error) => Err(error.into()),
        Ok(_) => Err("what should be refused was done".into()),
    }
}

fn link_names() -> Result<Vec<String>> {
    Ok(links()?.into_iter().map(|link| link.name).collect())
}

fn expect(holds: bool, what: &str) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(format!("not so: {what}").into())
}
