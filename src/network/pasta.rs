//! A network namespace of an ordinary user's container, led out by `pasta`: a program that speaks for it by sockets of the
//! host's network, which takes no privilege there.

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cofferdam_dns::{Hosts, ResolvConf};
use cofferdam_namespaces::{Capabilities, Command, Namespaces, Seccomp, Spawned, Stdio};
use cofferdam_portmap::{PortSpec, Protocol};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::builder::{Mode, Plan};
use super::files::Files;
use super::inspect::PublishedPort;
use crate::builder::ContainerBuilder;
use crate::error::{Error, Result, Subject};
use crate::process;
use crate::runtime::{Fact, Facts, Record};

/// Not `PATH`: what it names has the caller's trust for other things than this.
const DIRECTORIES: [&str; 3] = ["/usr/bin", "/bin", "/usr/local/bin"];
/// How long it has to begin.
const BEGIN: Duration = Duration::from_secs(10);
/// As much of what it says as is kept.
const SAID: usize = 4096;

/// The container's address, and what it finds beside it.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
const INTERFACE: &str = "eth0";

impl ContainerBuilder {
    /// Leads its network out by [`pasta`](https://passt.top), for who may make no links on the host: an ordinary user, with an
    /// [`id_map`](Self::id_map). The container has an `eth0` with 10.0.2.100, and its connections are made by a process of
    /// the caller's, with the host's addresses; names are asked of the host's first nameserver. It reaches neither the host's
    /// loopback nor, by a network, other containers. [Published](Self::publish) TCP and UDP ports are that process's too: it
    /// takes those of the host that the caller may have, and the container sees the client's address.
    ///
    /// It takes the program `pasta` (package `passt`) and `/dev/net/tun`. The process ends with the container: with its
    /// handle, or by [`reap`](crate::reap).
    #[doc(alias = "passt")]
    #[doc(alias = "slirp4netns")]
    pub fn pasta_network(mut self) -> Self {
        self.networking.mode = Mode::Pasta;
        self
    }
}

/// All that can be told without the kernel.
pub(super) fn check(subject: &Subject, ports: &[PortSpec]) -> Result<()> {
    for port in ports {
        let reason = if *port.host_ports().end() == 0 {
            "names no port of the host, and pasta chooses none"
        } else if !matches!(port.protocol(), Protocol::Tcp | Protocol::Udp) {
            "is neither tcp nor udp, and pasta leads no other"
        } else {
            continue;
        };
        return Err(Error::invalid(subject, "publish", port, reason));
    }
    Ok(())
}

/// The files by which programs in it find names.
pub(super) fn files(plan: &Plan) -> Files {
    let host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let mut resolv_conf = format!("nameserver {RESOLVER}\n");
    for line in ResolvConf::parse(&host).to_string().lines() {
        if !line.starts_with("nameserver") {
            resolv_conf.push_str(line);
            resolv_conf.push('\n');
        }
    }
    let hosts = Hosts::ipv4_only().host(IpAddr::V4(ADDRESS), [plan.own_name.clone()]);
    let extra = plan.extra_hosts.iter();
    let hosts = extra.fold(hosts, |hosts, extra| hosts.extra(extra, &[]));
    Files {
        resolv_conf,
        hosts: hosts.to_string(),
    }
}

impl Plan {
    /// Whether it is of a user namespace of the container's own.
    pub(crate) fn takes_ids(&self) -> bool {
        matches!(self.mode, Mode::Pasta)
    }

    /// Whether the host has what it takes, before anything is made.
    pub(crate) fn check_host(&self, subject: &Subject) -> Result<()> {
        if !matches!(self.mode, Mode::Pasta) {
            return Ok(());
        }
        if is_root_of_the_host() {
            let reason = "is for who is not root, who has bridge networks";
            return Err(Error::lacks(subject, "pasta_network", reason));
        }
        program(subject)?;
        self.ports
            .iter()
            .try_for_each(|port| can_be_had(subject, port))
    }

    /// Starts the program, in a network that leads out where it is to.
    pub(crate) fn spawn(
        &self,
        command: &Command,
        record: &Record,
        subject: &Subject,
    ) -> Result<(Spawned, Option<Pasta>)> {
        let failed = || subject.failed::<cofferdam_namespaces::Error>("start the program");
        if !matches!(self.mode, Mode::Pasta) {
            return Ok((command.spawn().map_err(failed())?, None));
        }
        let (mut pasta, mut why) = (None, None);
        let spawned = command.spawn_prepared(|pid| {
            // That of a way that was refused has nothing to lead any more.
            pasta = None;
            match Pasta::start(pid, &self.ports, record, subject) {
                Ok(started) => pasta = Some(started),
                Err(error) => why = Some(error),
            }
            match why {
                None => Ok(()),
                Some(_) => Err(io::ErrorKind::Other.into()),
            }
        });
        match (spawned, why) {
            (_, Some(error)) => Err(error),
            (spawned, None) => Ok((spawned.map_err(failed())?, pasta)),
        }
    }
}

/// The process that leads a container's network out. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Pasta {
    process: Spawned,
    ports: Vec<PortSpec>,
}

impl Pasta {
    /// Has the network namespace of the process `pid`, which waits in it, led out. Returns when it is.
    fn start(pid: u32, ports: &[PortSpec], record: &Record, subject: &Subject) -> Result<Self> {
        let io = || subject.failed::<io::Error>("start pasta");
        let started = process::started(&pid.to_string()).map_err(io())?;
        record
            .add(&Fact::Pasta { pid, started })
            .map_err(subject.failed("write down what is made"))?;
        let (ready, pidfile) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| io()(e.into()))?;
        let log = log().map_err(io())?;
        let command = command(program(subject)?, pid, ports, pidfile, &log);
        let process = command.map_err(io())?.spawn();
        let pasta = Pasta {
            process: process.map_err(subject.failed("start pasta"))?,
            ports: ports.to_vec(),
        };
        match until_ready(&mut File::from(ready)).map_err(io())? {
            true => Ok(pasta),
            false => Err(io()(io::Error::other(last_words(&log)))),
        }
    }

    /// That which was started for a container by who does not have it any more.
    pub(crate) fn of(facts: &Facts) -> Option<Self> {
        let (pid, started) = facts.pasta?;
        if process::started(&pid.to_string()).is_ok_and(|other| other != started) {
            // Another has its number, and perhaps a pasta of its own.
            return None;
        }
        let processes = fs::read_dir("/proc").ok()?.flatten();
        let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let (pasta, since): (u32, u64) = pids.find_map(|one: u32| {
            let since = process::started(&one.to_string()).ok()?;
            let arguments = fs::read(format!("/proc/{one}/cmdline")).ok()?;
            let status = fs::read_to_string(format!("/proc/{one}/status")).ok()?;
            let user = rustix::process::geteuid().as_raw();
            let is_it = since >= started && leads(&arguments, pid) && is_ours(&status, user);
            is_it.then_some((one, since))
        })?;
        Some(Pasta {
            process: Spawned::adopt(pasta, since).ok()?,
            ports: Vec::new(),
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Of every container that has one.
    pub(crate) fn address() -> IpAddr {
        ADDRESS.into()
    }

    pub(super) fn ports(&self) -> Vec<PublishedPort> {
        let each = self.ports.iter().flat_map(|spec| {
            let pairs = spec.host_ports().zip(spec.container_ports());
            pairs.map(|(host_port, inside)| PublishedPort {
                host_ip: spec.host_ip(),
                host_port,
                container: SocketAddr::new(Self::address(), inside),
                protocol: spec.protocol().to_string(),
                proxied: true,
            })
        });
        each.collect()
    }

    /// Lets it live on without this handle.
    pub(crate) fn keep(&mut self) {
        self.process.keep();
    }

    /// Ends it.
    pub(crate) fn remove(self, subject: &Subject, time: Duration) -> Result<()> {
        let killed = self.process.kill();
        killed.map_err(subject.failed("end pasta"))?;
        // Whoever takes its status, it has ended.
        let _ended = self.process.wait_timeout(time).is_ok();
        Ok(())
    }
}

/// Not that of a user namespace.
fn is_root_of_the_host() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let all = map.split_whitespace().eq(["0", "0", "4294967295"]);
    all && rustix::process::geteuid().is_root()
}

fn program(subject: &Subject) -> Result<PathBuf> {
    let all = DIRECTORIES.map(|directory| Path::new(directory).join("pasta"));
    let found = all.into_iter().find(|path| path.is_file());
    let reason =
        "there is no program pasta in /usr/bin, /bin or /usr/local/bin; its package is passt";
    found.ok_or_else(|| Error::lacks(subject, "pasta_network", reason))
}

/// Whether the caller may have these ports of the host, and nobody else has them.
fn can_be_had(subject: &Subject, spec: &PortSpec) -> Result<()> {
    let ip = spec.host_ip().unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    for port in spec.host_ports() {
        let address = SocketAddr::new(ip, port);
        let bound = match spec.protocol() {
            Protocol::Udp => UdpSocket::bind(address).map(drop),
            _ => TcpListener::bind(address).map(drop),
        };
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{spec}: {error}"));
        bound.map_err(|error| subject.failed("publish")(named(error)))?;
    }
    Ok(())
}

/// With all that the caller may, and as it is: it drops its rights itself.
fn command(
    program: PathBuf,
    pid: u32,
    ports: &[PortSpec],
    pidfile: OwnedFd,
    log: &File,
) -> io::Result<Command> {
    Ok(Command::new(program)
        .args(arguments(pid, ports))
        .namespaces(Namespaces::none())
        .seccomp(Seccomp::unconfined())
        .capabilities(Capabilities::ALL)
        .allow_new_privileges()
        .stdout(Stdio::from(pidfile))
        .stderr(Stdio::from(log.try_clone()?)))
}

fn arguments(pid: u32, ports: &[PortSpec]) -> Vec<String> {
    let fixed = "--foreground --quiet --config-net --no-map-gw --tcp-ns none --udp-ns none --pid /proc/self/fd/1";
    let mut arguments: Vec<String> = fixed.split(' ').map(str::to_owned).collect();
    let mut option = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
    option("--ns-ifname", INTERFACE.to_owned());
    option("--address", ADDRESS.to_string());
    option("--netmask", "24".to_owned());
    option("--gateway", GATEWAY.to_string());
    option("--dns-forward", RESOLVER.to_string());
    for (name, protocol) in [
        ("--tcp-ports", Protocol::Tcp),
        ("--udp-ports", Protocol::Udp),
    ] {
        let mut any = false;
        for port in ports.iter().filter(|port| port.protocol() == protocol) {
            any = true;
            option(name, forward(port));
        }
        if !any {
            option(name, "none".to_owned());
        }
    }
    option("--userns", format!("/proc/{pid}/ns/user"));
    option("--netns", netns(pid));
    arguments
}

fn netns(pid: u32) -> String {
    format!("/proc/{pid}/ns/net")
}

/// As its option says it: `192.0.2.1/8080-8089:80-89`.
fn forward(port: &PortSpec) -> String {
    let range = |ports: std::ops::RangeInclusive<u16>| match (ports.start(), ports.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    };
    let ports = format!(
        "{}:{}",
        range(port.host_ports()),
        range(port.container_ports())
    );
    match port.host_ip() {
        Some(ip) => format!("{ip}/{ports}"),
        None => ports,
    }
}

/// Whether these arguments, each with a NUL after it, are of a pasta for the process `pid`.
fn leads(arguments: &[u8], pid: u32) -> bool {
    let mut arguments = arguments.split(|&byte| byte == 0);
    let first = arguments.next().unwrap_or_default();
    let of_it = netns(pid).into_bytes();
    first.ends_with(b"pasta") && arguments.any(|argument| argument == of_it)
}

/// Whether a process with this status is the user's and in no pid namespace below: others may name themselves as they like, also
/// those in containers.
fn is_ours(status: &str, user: u32) -> bool {
    let words = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|line| line.split_whitespace().collect::<Vec<_>>())
    };
    let of_user = words("Uid:").is_some_and(|ids| ids.first() == Some(&&*user.to_string()));
    of_user && words("NSpid:").is_some_and(|pids| pids.len() == 1)
}

/// A file in memory for what goes wrong, in which there is no room for more: writing it never waits, and never ends who writes.
fn log() -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // The flag is of 6.3, and EINVAL before.
    let file = match memfd_create("cofferdam-pasta", flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => memfd_create("cofferdam-pasta", flags),
        made => made,
    }?;
    ftruncate(&file, SAID as u64)?;
    fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK)?;
    Ok(file.into())
}

/// Its pid says that all is set up, and is there in one write; its end without that says that it is not.
fn until_ready(pidfile: &mut File) -> io::Result<bool> {
    let deadline = Instant::now() + BEGIN;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).ok();
        let mut fds = [PollFd::new(pidfile, PollFlags::IN)];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(pidfile.read(&mut [0; 16])? > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// On one line, without what it says of the log that it does not find.
fn last_words(log: &File) -> String {
    let mut said = [0; SAID];
    let length = log.read_at(&mut said, 0).unwrap_or_default();
    let said = String::from_utf8_lossy(&said[..length]);
    let lines = said.trim_end_matches('\0').lines().map(str::trim);
    let telling = lines.filter(|line| !line.is_empty() && !line.contains("to syslog"));
    format!("pasta ended: {}", telling.collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn ports_become_its_options() {
        let ports: Vec<PortSpec> = ["8080:80", "192.0.2.1:9000-9002:90-92/udp", "81"]
            .into_iter()
            .map(|port| port.parse().unwrap())
            .collect();
        let line = arguments(7, &ports[..2]).join(" ");
        assert_eq!(
            line,
            "--foreground --quiet --config-net --no-map-gw --tcp-ns none --udp-ns none --pid \
             /proc/self/fd/1 --ns-ifname eth0 --address 10.0.2.100 --netmask 24 --gateway 10.0.2.2 \
             --dns-forward 10.0.2.3 --tcp-ports 8080:80 --udp-ports 192.0.2.1/9000-9002:90-92 \
             --userns /proc/7/ns/user --netns /proc/7/ns/net"
        );
        let subject = Subject::container("web");
        assert!(check(&subject, &ports[..2]).is_ok());
        let error = check(&subject, &ports).unwrap_err().to_string();
        assert!(error.contains("pasta chooses none"), "{error}");
        let sctp = ["1:1/sctp".parse().unwrap()];
        assert!(
            check(&subject, &sctp)
                .unwrap_err()
                .to_string()
                .contains("neither tcp nor udp")
        );
    }

    #[test]
    fn its_process_is_known_by_whom_it_leads_and_what_it_says_is_kept() {
        let line = b"/usr/bin/pasta\0--netns\0/proc/12/ns/net\0";
        assert!(leads(line, 12) && !leads(line, 1) && !leads(b"cat\0/proc/12/ns/net\0", 12));
        assert!(is_ours("Uid:\t7\t7\t7\t7\nNSpid:\t12\n", 7));
        assert!(!is_ours("Uid:\t7\t7\t7\t7\nNSpid:\t12\t3\n", 7));
        assert!(!is_ours("Uid:\t77\t7\t7\t7\nNSpid:\t12\n", 7));
        let mut log = log().unwrap();
        log.write_all(b"Failed to send 46 bytes to syslog\nno\nway\n")
            .unwrap();
        assert_eq!(last_words(&log), "pasta ended: no; way");
        // More than there is room for does not wait.
        assert!(log.write_all(&[b'x'; SAID]).is_err());
    }
}
