//! Two containers on a bridge network, with no image and no network of the outside world: `web` serves HTTP, `client`
//! finds it by name; the host reaches it by a published port; a write inside does not reach the host; a limit holds.
//!
//! The root is the machine's own `/` as a read-only layer under a throw-away upper; the programs are this very binary, bound
//! into it. Every line is an observation, made as it is printed. It ends with a count of what is left, by the kernel.
//!
//! It makes a bridge, veth pairs and an nf_tables table in the network namespace it runs in, and a cgroup; it removes them
//! all. Under `cargo run` that namespace is one of its own (see `.cargo/runner`).
#![allow(clippy::print_stdout, reason = "this is what it is for")]

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use cofferdam::{Container, ContainerBuilder, ErrorKind, Mount, Network, Rootfs, Running, Stdio};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const MARK: &str = "/written-by-web";

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().collect();
    let done = match args.get(1).map(String::as_str) {
        Some("serve") => serve(),
        Some("fetch") => fetch(args.get(2).map_or("", String::as_str)),
        Some("eat") => eat(),
        _ => host(),
    };
    if let Err(error) = done {
        eprintln!("quickstart: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn host() -> Result<()> {
    let before = Seen::now()?;
    // A fresh network namespace, such as the runner's, has its loopback down.
    cofferdam::netbridge::loopback_up()?;
    let base = base();
    let id = std::process::id();
    let network = Network::bridge(format!("qs{id}")).create()?;
    println!(
        "network {} is {} on {}",
        network.name(),
        network.gateway(),
        network.bridge_name()
    );

    let port = free_port()?;
    let (web, took) = timed(|| {
        program(&base, "web", "serve")
            .network(&network)
            .alias("www")
            .publish(format!("127.0.0.1:{port}:80").parse()?)
            .start()
            .map_err(Into::into)
    })?;
    println!("web runs as pid {} at {}, {took}", web.pid(), address(&web));

    let (client, took) = timed(|| {
        Ok(program(&base, "client", "fetch")
            .arg("web:80")
            .network(&network)
            .start()?)
    })?;
    println!(
        "client runs as pid {} at {}, {took}",
        client.pid(),
        address(&client)
    );
    let answer = client.output()?;
    println!(
        "client fetched http://web/ by name: {}",
        said(&answer.stdout)?
    );

    println!(
        "the host fetched http://127.0.0.1:{port}/: {}",
        get(&format!("127.0.0.1:{port}"))?
    );
    if Path::new(MARK).exists() {
        return Err(format!("web wrote {MARK}, which reached the host").into());
    }
    println!("web wrote {MARK}, which did not reach the host");

    memory_limit(&base)?;
    refusals(&base, &network, port)?;

    let status = web.stop(Duration::from_secs(5))?;
    println!("web stopped: {status}");
    network.remove()?;
    before.compare(&Seen::now()?)
}

/// A container named `name` that runs this binary with the verb `verb`.
fn program(base: &ContainerBuilder, name: &str, verb: &str) -> ContainerBuilder {
    let myself = std::env::current_exe().unwrap_or_default();
    base.clone()
        .name(name)
        .mount(Mount::bind(myself, "/quickstart").read_only())
        .command("/quickstart")
        .arg(verb)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
}

/// With the machine's `/` for a root. A user namespace may not have that as a layer; there its `/usr` is enough for a program
/// and its libraries, with an `/etc` of its own, because directories of users unknown in it cannot be written.
fn base() -> ContainerBuilder {
    let whole = Container::builder().rootfs(Rootfs::layers(["/"]));
    match whole.clone().name("probe").command("/no/program").start() {
        Err(error) if error.to_string().contains("mount the layers") => {
            println!("not here: / as a layer ({error}); /usr instead");
            Container::builder()
                .rootfs(Rootfs::layers(["/usr"]))
                .tmpfs("/etc")
        }
        _ => whole,
    }
}

fn memory_limit(base: &ContainerBuilder) -> Result<()> {
    let eater = program(base, "eater", "eat")
        .memory_max(32 << 20)
        .pids_max(16)
        .cpus(0.9);
    let mut eater = match eater.start() {
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::PermissionDenied | ErrorKind::Unsupported
            ) =>
        {
            println!("not here: a memory limit ({error})");
            return Ok(());
        }
        other => other?,
    };
    let ate = eater
        .take_stdout()
        .map(BufReader::new)
        .and_then(|out| out.lines().map_while(io::Result::ok).last());
    let status = eater.wait()?;
    let kills = eater.oom_kills()?;
    println!(
        "eater had 32 MiB, ate {}, then: {status}, {kills} killed for lack of memory",
        ate.unwrap_or_default()
    );
    if kills == 0 {
        return Err("the memory limit did not hold".into());
    }
    eater.remove()?;
    Ok(())
}

/// Bad input is an error that names the item, before anything is left on the host.
fn refusals(base: &ContainerBuilder, network: &Network, taken: u16) -> Result<()> {
    let app = || program(base, "bad", "serve").network(network);
    refused(
        "an unknown program",
        app().command("/no/such/program").start(),
    )?;
    refused(
        "a root that is no directory",
        app().rootfs(Rootfs::layers(["/etc/passwd"])).start(),
    )?;
    let port = format!("127.0.0.1:{taken}:80").parse()?;
    refused("a port that is taken", app().publish(port).start())?;
    refused("a limit no machine can apply", app().memory_max(0).start())?;
    refused(
        "a malformed port",
        "80:eighty".parse::<cofferdam::PortSpec>(),
    )
}

fn refused<T, E: Error>(what: &str, outcome: std::result::Result<T, E>) -> Result<()> {
    let Err(error) = outcome else {
        return Err(format!("accepted, though {what}").into());
    };
    println!("refused, {what}: {error}");
    Ok(())
}

/// Inside `web`.
fn serve() -> Result<()> {
    fs::write(MARK, "web was here")?;
    let listener = TcpListener::bind("0.0.0.0:80")?;
    for stream in listener.incoming() {
        let mut stream = stream?;
        let headers = BufReader::new(&stream).lines().map_while(io::Result::ok);
        let _last = headers.take_while(|line| !line.is_empty()).last();
        let body = format!("hello from pid {} on {}", std::process::id(), hostname());
        let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes())?;
    }
    Ok(())
}

/// Inside `client`.
fn fetch(host: &str) -> Result<()> {
    println!("{}", get(host)?);
    Ok(())
}

/// Inside `eater`: touches more and more memory.
fn eat() -> Result<()> {
    let mut eaten = Vec::new();
    for mebibytes in 1..=256 {
        eaten.push(vec![mebibytes as u8; 1 << 20]);
        println!("{mebibytes} MiB");
        io::stdout().flush()?;
    }
    drop(eaten);
    Ok(())
}

/// The body of `http://host/`, tried until the server listens.
fn get(host: &str) -> Result<String> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut stream = loop {
        match TcpStream::connect(host) {
            Ok(stream) => break stream,
            Err(error) if Instant::now() > deadline => {
                return Err(format!("connect {host}: {error}").into());
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    stream.write_all(format!("GET / HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned());
    body.ok_or_else(|| format!("no HTTP answer: {answer:?}").into())
}

fn hostname() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .unwrap_or_default()
        .trim_end()
        .to_owned()
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn address(container: &Running) -> String {
    container
        .address()
        .map_or_else(String::new, |address| address.to_string())
}

fn said(output: &[u8]) -> Result<&str> {
    match std::str::from_utf8(output)?.trim_end() {
        "" => Err("it said nothing".into()),
        text => Ok(text),
    }
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, String)> {
    let start = Instant::now();
    let done = work()?;
    Ok((
        done,
        format!("started in {:.2} ms", start.elapsed().as_secs_f64() * 1e3),
    ))
}

/// What the kernel shows of this process's world.
struct Seen {
    mounts: BTreeSet<String>,
    links: BTreeSet<String>,
    tables: usize,
    cgroups: BTreeSet<String>,
    processes: BTreeSet<String>,
}

impl Seen {
    fn now() -> Result<Self> {
        let lines = |path: &str| -> Result<BTreeSet<String>> {
            Ok(fs::read_to_string(path)?
                .lines()
                .map(str::to_owned)
                .collect())
        };
        let links = lines("/proc/thread-self/net/dev")?;
        let links = links
            .iter()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, _)| name.trim().to_owned());
        let mut processes = BTreeSet::new();
        for task in fs::read_dir("/proc/self/task")? {
            let children = fs::read_to_string(task?.path().join("children"))?;
            processes.extend(children.split_whitespace().map(str::to_owned));
        }
        // Ours have this process's number in their names; others may come and go.
        let ours = format!("cofferdam-{}-", std::process::id());
        let cgroups = match cofferdam::cgroups::Hierarchy::detect() {
            Ok(hierarchy) => hierarchy
                .find(&ours)?
                .iter()
                .map(|path| path.display().to_string())
                .collect(),
            Err(_) => BTreeSet::new(),
        };
        let tables = cofferdam::portmap::Portmap::open("cofferdam")?
            .exists()?
            .into();
        Ok(Seen {
            mounts: lines("/proc/thread-self/mountinfo")?,
            links: links.collect(),
            tables,
            cgroups,
            processes,
        })
    }

    /// The last line: what is there now and was not before.
    fn compare(&self, now: &Self) -> Result<()> {
        let new =
            |before: &BTreeSet<String>, now: &BTreeSet<String>| now.difference(before).count();
        let (mounts, links) = (new(&self.mounts, &now.mounts), new(&self.links, &now.links));
        let tables = now.tables.saturating_sub(self.tables);
        let (cgroups, processes) = (
            new(&self.cgroups, &now.cgroups),
            new(&self.processes, &now.processes),
        );
        println!(
            "left behind: {mounts} mounts, {links} links, {tables} tables, {cgroups} cgroups, {processes} processes"
        );
        if mounts + links + tables + cgroups + processes > 0 {
            return Err("something is left".into());
        }
        Ok(())
    }
}
