//! Subnets and addresses for networks: pools, three hundred networks, leases of both families, what is refused, and two
//! processes at one store, one of which is killed.
//!
//! Needs no privilege: only the host's addresses and routes are read. All of it is in a directory below the temporary one (in
//! memory, where there is one), which is removed at the end.
#![allow(clippy::print_stdout, reason = "this is what it is for")]

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use cofferdam::netbridge::ErrorKind;
use cofferdam::netbridge::ipam::{
    Family, Ipam, LeaseRequest, NetworkSpec, Occupied, Pool, Pools, Subnet,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const NETWORKS: usize = 300;
const LEASES: usize = 500;

fn main() -> Result<()> {
    if let Some(directory) = std::env::args_os().nth(1) {
        return lease_until_killed(Path::new(&directory));
    }
    let world = World::new()?;
    let ipam = Ipam::open(&world.0)?;
    networks(&ipam)?;
    leases(&ipam)?;
    exhaustion(&ipam)?;
    two_processes(&ipam, &world)?;
    let path = world.0.clone();
    drop(world);
    println!("left behind: {}", path.exists());
    same("the directory is there", &path.exists(), &false)
}

/// Subnets that overlap nothing of this host, and none of each other.
fn networks(ipam: &Ipam) -> Result<()> {
    let resolv_conf = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let occupied = Occupied::of_caller()?.nameservers(&resolv_conf);
    let host = Pool::ula_of_machine().unwrap_or_else(|_none| Pool::ula("an id that is kept"));
    println!("this host's IPv6 networks are of {}", host.base());
    let pools = Pools::default().pool(host);
    let spec = NetworkSpec::new()
        .pick(Family::V4, pools.clone())
        .pick(Family::V6, pools)
        .avoiding(occupied.clone());
    let start = Instant::now();
    for n in 0..NETWORKS {
        ipam.create(&format!("net{n}"), &spec)?;
    }
    println!("{NETWORKS} networks in {:.0?}", start.elapsed());
    let networks = ipam.networks()?;
    let subnets = networks.iter().flat_map(|network| network.subnets());
    let subnets: BTreeSet<_> = subnets.map(Subnet::network).collect();
    same("subnets", &subnets.len(), &(2 * NETWORKS))?;
    let free = subnets.iter().all(|&subnet| !occupied.overlaps(subnet));
    same("subnets are free on this host", &free, &true)
}

/// An address of each family at once, one that was asked for, and one that somebody else has.
fn leases(ipam: &Ipam) -> Result<()> {
    let start = Instant::now();
    for n in 0..LEASES {
        let request = LeaseRequest::new(format!("container-{n}"));
        ipam.lease(&format!("net{}", n % NETWORKS), &request)?;
    }
    let each = start.elapsed() / u32::try_from(LEASES)?;
    println!("{LEASES} leases, {each:.1?} each");

    let v4 = Subnet::new("10.77.0.0/16".parse()?)
        .range("10.77.5.0/24".parse()?)
        .aux("printer", "10.77.5.1".parse()?);
    let v6 = Subnet::new("fd77::/64".parse()?);
    ipam.create("office", &NetworkSpec::new().subnet(v4).subnet(v6))?;
    let lease = ipam.lease("office", &LeaseRequest::new("web"))?;
    println!(
        "web has {:?} by {:?}",
        texts(&lease.addresses),
        lease.gateways
    );
    same(
        "web's",
        &texts(&lease.addresses),
        &texts(["10.77.5.0/16", "fd77::2/64"]),
    )?;

    let wanted: IpAddr = "10.77.0.53".parse()?;
    let lease = ipam.lease("office", &LeaseRequest::new("dns").address(wanted))?;
    println!(
        "dns asked for {wanted} and has {:?}",
        texts(&lease.addresses)
    );
    for taken in ["10.77.0.53", "10.77.0.1", "10.77.5.1"] {
        let request = LeaseRequest::new("other").address(taken.parse()?);
        refused(ipam.lease("office", &request), ErrorKind::AlreadyExists)?;
    }
    let released = ipam.release_owner("web")?;
    let again = ipam.release_owner("web")?;
    println!(
        "released {} addresses of web, then {}",
        released.len(),
        again.len()
    );
    let next = ipam.lease("office", &LeaseRequest::new("next"))?;
    println!(
        "they are not given again at once: {:?}",
        texts(&next.addresses)
    );
    same(
        "next's",
        &texts(&next.addresses),
        &texts(["10.77.5.2/16", "fd77::4/64"]),
    )
}

/// All of both families or none, and what is full is named.
fn exhaustion(ipam: &Ipam) -> Result<()> {
    let spec = NetworkSpec::new()
        .subnet(Subnet::new("10.78.0.0/29".parse()?))
        .subnet(Subnet::new("fd78::/64".parse()?));
    ipam.create("small", &spec)?;
    for n in 0..5 {
        ipam.lease("small", &LeaseRequest::new(format!("c{n}")))?;
    }
    refused(
        ipam.lease("small", &LeaseRequest::new("c5")),
        ErrorKind::Exhausted,
    )?;
    let leases = ipam.network("small")?.leases().count();
    same("leases of both families", &leases, &10)?;
    let pools = Pools::new([Pool::new("10.78.0.0/28".parse()?, 29)?]);
    let spec = NetworkSpec::new().pick(Family::V4, pools);
    ipam.create("smaller", &spec)?;
    refused(ipam.create("smallest", &spec), ErrorKind::Exhausted)
}

/// This program again, twice at one network. One is killed while it is at it.
fn two_processes(ipam: &Ipam, world: &World) -> Result<()> {
    let mut one = Other::start(world)?;
    let mut two = Other::start(world)?;
    let told: usize = [one.leased(40)?, two.leased(40)?].iter().sum();
    one.0.kill()?;
    let told = told + one.rest()?;
    let more = two.leased(40)?;
    two.0.kill()?;
    let told = told + more + two.rest()?;
    let network = ipam.network("office")?;
    let kept = network
        .leases()
        .filter(|(_, owner)| owner.starts_with("process-"));
    let kept = kept.count() / 2;
    println!("two processes told of {told} leases before they were killed; there are {kept}");
    // The last of each may be there though it was not told of any more.
    same(
        "leases that were told of are there",
        &(told..=told + 2).contains(&kept),
        &true,
    )?;
    ipam.lease("office", &LeaseRequest::new("after"))?;
    Ok(())
}

struct Other(Child, BufReader<std::process::ChildStdout>);

impl Other {
    fn start(world: &World) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(&world.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("no stdout")?;
        Ok(Other(child, BufReader::new(stdout)))
    }

    fn leased(&mut self, count: usize) -> Result<usize> {
        for _ in 0..count {
            let mut line = String::new();
            if self.1.read_line(&mut line)? == 0 {
                return Err("it ended".into());
            }
        }
        Ok(count)
    }

    /// What it told before it was killed.
    fn rest(&mut self) -> Result<usize> {
        self.0.wait()?;
        let mut text = String::new();
        let rest = std::io::Read::read_to_string(&mut self.1, &mut text);
        rest?;
        Ok(text.matches('\n').count())
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ended = self.0.kill().and_then(|()| self.0.wait()).is_ok();
    }
}

fn lease_until_killed(directory: &Path) -> Result<()> {
    let ipam = Ipam::open(directory)?;
    for n in 0..100 {
        let owner = format!("process-{}-{n}", std::process::id());
        let lease = ipam.lease("office", &LeaseRequest::new(owner))?;
        println!("{:?}", texts(&lease.addresses));
    }
    // Ends with who started it, if it is not killed before.
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}

/// A directory, removed when dropped.
struct World(PathBuf);

impl World {
    fn new() -> Result<Self> {
        let memory = Path::new("/dev/shm");
        let parent = match memory.is_dir() {
            true => memory.to_owned(),
            false => std::env::temp_dir(),
        };
        let path = parent.join(format!("cofferdam-ipam-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(World(path))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _removed = fs::remove_dir_all(&self.0).is_ok();
    }
}

fn texts<T: ToString>(values: impl IntoIterator<Item = T>) -> Vec<String> {
    values.into_iter().map(|value| value.to_string()).collect()
}

fn refused<T>(done: cofferdam::netbridge::Result<T>, kind: ErrorKind) -> Result<()> {
    let Err(error) = done else {
        return Err(format!("not refused as {kind:?}").into());
    };
    println!("refused: {error}");
    same("its kind", &error.kind(), &kind)
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, expected: &T) -> Result<()> {
    match found == expected {
        true => Ok(()),
        false => Err(format!("{what}: {found:?}, not {expected:?}").into()),
    }
}
