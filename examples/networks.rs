//! Two networks, and containers that come and go between them: names and aliases, a published port that follows, a default
//! route that moves, and an internal network that nothing leaves. Every line is an observation, made as it is printed.
//!
//! Needs root, or root of a user namespace. The programs are this very binary, bound into the machine's own root as a read-only
//! layer. It makes bridges, veth pairs and an nf_tables table in the network namespace it runs in, and removes them; under
//! `cargo run` that namespace is one of its own (see `.cargo/runner`).
#![allow(clippy::print_stdout, reason = "this is what it is for")]

use std::error::Error;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use cofferdam::{Connection, Container, ContainerBuilder, Mount, Network, Rootfs, Stdio};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().collect();
    let done = match (args.get(1).map(String::as_str), args.get(2)) {
        (Some("serve"), Some(name)) => serve(name),
        (Some("fetch"), Some(host)) => fetch(host),
        _ => host(),
    };
    if let Err(error) = done {
        eprintln!("networks: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn host() -> Result<()> {
    // A fresh network namespace, such as the runner's, has its loopback down.
    cofferdam::netbridge::loopback_up()?;
    let before = left()?;
    let base = base();
    let name = |network: &str| format!("{network}{}", std::process::id());
    let back = Network::bridge(name("back")).internal().create()?;
    let front = Network::bridge(name("front")).create()?;
    for network in [&back, &front] {
        let info = network.inspect();
        println!(
            "{}: {} on {}, internal: {}",
            info.name, info.subnets[0], info.link, info.internal
        );
    }

    let db = program(&base, "db", ["serve", "db"])
        .network(&back)
        .start()?;
    let web = program(&base, "web", ["serve", "web"])
        .network(&back)
        .alias("www");
    let web = web.start()?;
    see(&base, &back, "db", true)?;
    see(&base, &front, "db", false)?;
    let refused = web.publish(&"127.0.0.1:0:80".parse()?);
    println!(
        "refused: {}",
        refused
            .err()
            .ok_or("a port of an internal network was published")?
    );

    web.connect(Connection::to(&front).alias("api"))?;
    println!("web is connected to {}", front.name());
    for alias in ["web", "www", "api"] {
        see(&base, &front, alias, true)?;
    }
    see(&base, &back, "api", false)?;
    let port = web.publish(&"127.0.0.1:0:80".parse()?)?[0].host_port;
    let address = format!("127.0.0.1:{port}");
    println!("the host at {address}: {}", get(&address)?);
    let routes = web.default_routes();
    check(
        routes[0].0 == front.name(),
        "its default route is by the network that has one",
    )?;

    web.disconnect(&back)?;
    println!("web has left {}", back.name());
    see(&base, &back, "web", false)?;
    see(&base, &front, "web", true)?;
    web.disconnect(&front)?;
    check(
        web.ports().is_empty(),
        "without a network no port leads to it",
    )?;
    web.connect(&front)?;
    check(
        web.ports()[0].host_port == port,
        "its port comes back with a network",
    )?;
    println!("the host at {address} again: {}", get(&address)?);

    web.remove()?;
    db.remove()?;
    front.remove()?;
    back.remove()?;
    check(left()? == before, "the links and tables are as before")?;
    println!("nothing is left");
    Ok(())
}

/// Whether a new container of the network finds another by name.
fn see(base: &ContainerBuilder, network: &Network, name: &str, expected: bool) -> Result<()> {
    let client = program(base, "client", ["fetch", name])
        .network(network)
        .start()?;
    let output = client.output()?;
    let said = String::from_utf8(output.stdout)?;
    println!(
        "a client in {} asks {name}: {}",
        network.name(),
        said.trim_end()
    );
    check(output.status.success() == expected, "as it should be")
}

fn check(holds: bool, what: &str) -> Result<()> {
    match holds {
        true => Ok(()),
        false => Err(format!("not so: {what}").into()),
    }
}

/// Inside: answers every connection with its name.
fn serve(name: &str) -> Result<()> {
    let listener = TcpListener::bind("0.0.0.0:80")?;
    for stream in listener.incoming() {
        stream?.write_all(format!("this is {name}").as_bytes())?;
    }
    Ok(())
}

/// Inside: what the server of that name says.
fn fetch(host: &str) -> Result<()> {
    let said = match (host, 80).to_socket_addrs() {
        Ok(_) => get(&format!("{host}:80")),
        Err(error) => Err(error.into()),
    };
    match said {
        Ok(text) => println!("{text}"),
        Err(error) => {
            println!("no answer ({error})");
            return Err(error);
        }
    }
    Ok(())
}

fn get(address: &str) -> Result<String> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match TcpStream::connect(address) {
            Ok(mut stream) => {
                let mut text = String::new();
                stream.read_to_string(&mut text)?;
                return Ok(text);
            }
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn program(base: &ContainerBuilder, name: &str, args: [&str; 2]) -> ContainerBuilder {
    let myself = std::env::current_exe().unwrap_or_default();
    base.clone()
        .name(name)
        .mount(Mount::bind(myself, "/networks").read_only())
        .command("/networks")
        .args(args)
        .stdout(Stdio::piped())
}

/// With the machine's `/` for a root; in a user namespace, which may not have that as a layer, its `/usr`.
fn base() -> ContainerBuilder {
    let whole = Container::builder().rootfs(Rootfs::layers(["/"]));
    match whole.clone().name("probe").command("/no/program").start() {
        Err(error) if error.to_string().contains("mount the layers") => Container::builder()
            .rootfs(Rootfs::layers(["/usr"]))
            .tmpfs("/etc"),
        _ => whole,
    }
}

fn left() -> Result<(Vec<String>, bool)> {
    let links = cofferdam::netbridge::links()?.into_iter();
    let tables = cofferdam::portmap::Portmap::open("cofferdam")?.exists()?;
    Ok((links.map(|link| link.name).collect(), tables))
}
