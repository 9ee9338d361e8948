//! Two machines with a bridge and a container each, joined by VXLAN: the containers talk as if they were on one bridge. Who
//! is where each machine is told, entry by entry; nothing is flooded and nothing is learnt. Then how much goes through, with
//! what goes between the machines directly beside it, and a container that moves to the other machine.
//!
//! Needs `CAP_NET_ADMIN` and `CAP_SYS_ADMIN`: root, or root of a user namespace, which is what `cargo run` gives an ordinary
//! user. The machines and the network between them are network namespaces made for this; nothing on the host changes.
#![allow(clippy::print_stdout, reason = "this is what it is for")]

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam::netbridge::{Attachment, Bridge, Fdb, Gateway, LinkKind, NetNs, Port, Vxlan, links};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const VNI: u32 = 7042;
const DEADLINE: Duration = Duration::from_secs(10);

fn main() -> Result<()> {
    LinkKind::Vxlan.available()?;
    let before = link_names()?;
    let between = NetNs::new()?;
    let wire = Bridge::builder("wire0".parse()?).address("192.0.2.254/24".parse()?);
    let wire = between.run(|| wire.create())??;
    let one = Machine::new(&wire, "192.0.2.1")?;
    let two = Machine::new(&wire, "192.0.2.2")?;
    println!(
        "two machines, 192.0.2.1 and 192.0.2.2, VNI {VNI}, MTU {}\n",
        one.vxlan.mtu()
    );

    let web = Guest::new(&one, "10.42.0.11")?;
    let db = Guest::new(&two, "10.42.0.12")?;
    one.learns_of(&db, &two)?;
    two.learns_of(&web, &one)?;
    for entry in one.vxlan.fdb()? {
        println!(
            "192.0.2.1 was told: {:02x?} is at {}",
            entry.fdb.mac, entry.fdb.vtep
        );
        expect(!entry.learned, "nothing was learnt")?;
    }
    println!(
        "web says {:?} to db, 10.42.0.12, and db answers",
        talk(&web.netns, &db.netns, db.ip)?
    );

    let direct = throughput(&one.netns, &two.netns, two.ip)?;
    let through = throughput(&web.netns, &db.netns, db.ip)?;
    println!("\nTCP between the machines:   {direct:>7.2} Gbit/s");
    println!("TCP between the containers: {through:>7.2} Gbit/s\n");

    // It comes up on the other machine with its address, and web's machine is told.
    db.port.remove()?;
    let db = Guest::new(&one, "10.42.0.12")?;
    one.vxlan.remove_fdb(Fdb::new(db.port.mac(), two.ip))?;
    one.vxlan.remove_neighbour(db.ip)?;
    println!(
        "db moved to web's machine, and web says {:?}",
        talk(&web.netns, &db.netns, db.ip)?
    );

    drop((web, db, one, two));
    wire.remove()?;
    expect(
        link_names()? == before,
        "the links of the host are as before",
    )
}

/// A machine: a namespace with eth0 on the wire, a bridge for containers, and the VXLAN link between.
struct Machine {
    ip: IpAddr,
    vxlan: Vxlan,
    bridge: Bridge,
    netns: NetNs,
    _cable: Port,
}

impl Machine {
    fn new(wire: &Bridge, address: &str) -> Result<Self> {
        let netns = NetNs::new()?;
        let cable = Attachment::new(format!("{address}/24").parse()?).gateway(Gateway::None);
        let cable = wire.attach(&netns, cable)?;
        let ip = address.parse()?;
        let vxlan = Vxlan::builder("vx0".parse()?, VNI)
            .local(ip)
            .dev("eth0".parse()?)
            .no_learning()
            .proxy();
        let bridge = Bridge::builder("app0".parse()?)
            .address("10.42.0.1/24".parse()?)
            .mtu(wire.mtu() - vxlan.overhead());
        let bridge = netns.run(|| bridge.create())??;
        Ok(Machine {
            ip,
            vxlan: vxlan.create_on(&bridge)?,
            bridge,
            netns,
            _cable: cable,
        })
    }

    /// What a store that all machines share would tell this one.
    fn learns_of(&self, guest: &Guest, at: &Machine) -> Result<()> {
        let mac = guest.port.mac();
        self.vxlan.add_fdb(Fdb::new(mac, at.ip))?;
        self.vxlan.add_neighbour(guest.ip, mac)?;
        Ok(())
    }
}

struct Guest {
    ip: IpAddr,
    port: Port,
    netns: NetNs,
}

impl Guest {
    fn new(machine: &Machine, address: &str) -> Result<Self> {
        let netns = NetNs::new()?;
        let attachment = Attachment::new(format!("{address}/24").parse()?);
        Ok(Guest {
            ip: address.parse()?,
            port: machine.bridge.attach(&netns, attachment)?,
            netns,
        })
    }
}

/// A connection from one namespace to another.
fn connect(from: &NetNs, to: &NetNs, ip: IpAddr) -> Result<(TcpStream, TcpStream)> {
    let listener = to.run(|| TcpListener::bind((ip, 0)))??;
    let address = listener.local_addr()?;
    let near = from.run(|| TcpStream::connect_timeout(&address, DEADLINE))??;
    let (far, _) = listener.accept()?;
    for end in [&near, &far] {
        end.set_read_timeout(Some(DEADLINE))?;
        end.set_write_timeout(Some(DEADLINE))?;
    }
    Ok((near, far))
}

fn talk(from: &NetNs, to: &NetNs, ip: IpAddr) -> Result<String> {
    let (mut near, mut far) = connect(from, to, ip)?;
    let mut buffer = [0; 5];
    near.write_all(b"hello")?;
    far.read_exact(&mut buffer)?;
    far.write_all(&buffer)?;
    near.read_exact(&mut buffer)?;
    Ok(String::from_utf8(buffer.to_vec())?)
}

/// What one connection carries in a second, in Gbit/s.
fn throughput(from: &NetNs, to: &NetNs, ip: IpAddr) -> Result<f64> {
    let (mut near, mut far) = connect(from, to, ip)?;
    let reader = thread::spawn(move || {
        let mut buffer = vec![0; 256 << 10];
        let mut total = 0_u64;
        while let Ok(length @ 1..) = far.read(&mut buffer) {
            total += length as u64;
        }
        total
    });
    let block = vec![0; 256 << 10];
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(1) {
        near.write_all(&block)?;
    }
    drop(near);
    let total = reader.join().map_err(|_panic| "the reader panicked")?;
    expect(total > 0, "something goes through")?;
    Ok(total as f64 * 8.0 / start.elapsed().as_secs_f64() / 1e9)
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
