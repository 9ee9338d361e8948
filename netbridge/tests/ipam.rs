//! The stores, one as the other; and that of several processes, some of which are killed.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_netbridge::ipam::{
    Family, Ipam, LeaseRequest, Network, NetworkSpec, Occupied, Pool, Pools, Subnet,
};
use cofferdam_netbridge::{Bridge, ErrorKind, IpNetwork};
use cofferdam_testkit::{Need, have, turns};

/// A directory of a tmpfs where there is one, gone at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let shm = Path::new("/dev/shm");
        let parent = match shm.is_dir() {
            true => shm.to_owned(),
            false => std::env::temp_dir(),
        };
        let path = parent.join(format!("cofferdam-ipam-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn dual(v4: &str, v6: &str) -> NetworkSpec {
    NetworkSpec::new().subnet(net(v4)).subnet(net(v6))
}

fn lease(ipam: &Ipam, network: &str, owner: &str) -> Vec<String> {
    let lease = ipam.lease(network, &LeaseRequest::new(owner)).unwrap();
    lease.addresses.iter().map(ToString::to_string).collect()
}

fn leases(network: &Network) -> BTreeMap<IpAddr, String> {
    let leases = network.leases();
    leases
        .map(|(address, owner)| (address, owner.to_owned()))
        .collect()
}

/// Both stores, and a place for the one of them.
fn each_store(name: &str, test: impl Fn(&Ipam)) {
    test(&Ipam::in_memory());
    let scratch = Scratch::new(name);
    test(&Ipam::open(scratch.0.join("store")).unwrap());
}

#[test]
fn a_lease_is_of_both_families_or_of_none() {
    each_store("dual", |ipam| {
        ipam.create("app", &dual("10.0.0.0/29", "fd00::/126"))
            .unwrap();
        assert_eq!(lease(ipam, "app", "a"), ["10.0.0.2/29", "fd00::2/126"]);
        assert_eq!(lease(ipam, "app", "b"), ["10.0.0.3/29", "fd00::3/126"]);
        let before = leases(&ipam.network("app").unwrap());

        // No IPv6 address is left: then the IPv4 one is not taken either.
        let error = ipam.lease("app", &LeaseRequest::new("c")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        assert_eq!(
            error.to_string(),
            "take an address of fd00::/126: all 2 are handed out, and 1 reserved"
        );
        assert_eq!(leases(&ipam.network("app").unwrap()), before);

        let only = LeaseRequest::new("c").without(Family::V6);
        let given = ipam.lease("app", &only).unwrap();
        assert_eq!(given.addresses, [net("10.0.0.4/29")]);
        assert_eq!(given.gateways, [ip("10.0.0.1")]);
        assert_eq!(given.address(Family::V6), None);
        let nothing = only.without(Family::V4);
        let error = ipam.lease("app", &nothing).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn an_address_that_is_asked_for_is_given_or_refused() {
    each_store("static", |ipam| {
        ipam.create("app", &dual("10.0.0.0/24", "fd00::/64"))
            .unwrap();
        let want = |owner: &str, address| LeaseRequest::new(owner).address(ip(address));
        let given = ipam.lease("app", &want("a", "10.0.0.77")).unwrap();
        assert_eq!(given.addresses, [net("10.0.0.77/24"), net("fd00::2/64")]);
        assert_eq!(given.gateway(Family::V6), Some(ip("fd00::1")));

        let before = leases(&ipam.network("app").unwrap());
        for (address, kind) in [
            ("10.0.0.77", ErrorKind::AlreadyExists),
            ("10.0.0.1", ErrorKind::AlreadyExists),
            ("fd00::1", ErrorKind::AlreadyExists),
            ("10.0.0.255", ErrorKind::InvalidInput),
            ("fd00:0:0:1::5", ErrorKind::InvalidInput),
        ] {
            let error = ipam.lease("app", &want("b", address)).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
        }
        let both = want("b", "fd00::9").address(ip("10.0.0.77"));
        assert!(ipam.lease("app", &both).is_err());
        assert_eq!(leases(&ipam.network("app").unwrap()), before);
        for owner in ["", "a b", "a\nb", "ä"] {
            let error = ipam.lease("app", &LeaseRequest::new(owner)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{owner:?}");
        }
    });
}

#[test]
fn what_is_gone_is_released_without_an_error() {
    each_store("release", |ipam| {
        for name in ["app", "db"] {
            let spec = NetworkSpec::new().pick(Family::V4, Pools::default());
            ipam.create(name, &spec).unwrap();
        }
        lease(ipam, "app", "a");
        lease(ipam, "db", "b");
        lease(ipam, "db", "a");
        let released = ipam.release_owner("a").unwrap();
        let networks: Vec<_> = released.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(networks, ["app", "db"]);
        assert_eq!(ipam.release_owner("a").unwrap(), []);
        let db = ipam.network("db").unwrap();
        let (address, owner) = db.leases().next().unwrap();
        assert_eq!((owner, db.owner(address)), ("b", Some("b")));
        assert!(ipam.release("db", address).unwrap());
        assert!(!ipam.release("db", address).unwrap());
        assert!(!ipam.release("db", ip("::1")).unwrap());
        assert!(ipam.remove("db").unwrap());
        assert!(!ipam.remove("db").unwrap());
        assert!(!ipam.release("db", address).unwrap());
        assert_eq!(ipam.network("db").unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(ipam.networks().unwrap().len(), 1);
    });
}

#[test]
fn an_address_that_came_back_is_not_given_at_once() {
    each_store("turn", |ipam| {
        let subnet = Subnet::new(net("10.0.0.0/24")).range(net("10.0.0.8/30"));
        ipam.create("app", &NetworkSpec::new().subnet(subnet))
            .unwrap();
        for expected in [
            "10.0.0.8/24",
            "10.0.0.9/24",
            "10.0.0.10/24",
            "10.0.0.11/24",
            "10.0.0.8/24",
        ] {
            assert_eq!(lease(ipam, "app", "a"), [expected]);
            ipam.release_owner("a").unwrap();
        }
    });
}

#[test]
fn networks_do_not_overlap() {
    each_store("overlap", |ipam| {
        ipam.create("app", &dual("10.0.0.0/24", "fd00::/64"))
            .unwrap();
        for (name, spec) in [
            ("app", dual("10.0.1.0/24", "fd01::/64")),
            ("db", dual("10.0.0.128/25", "fd01::/64")),
            ("db", dual("10.0.1.0/24", "fd00::/60")),
        ] {
            let error = ipam.create(name, &spec).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
        }
        for name in ["", "a/b", "..", ".a", "a b", "-a", &"a".repeat(64)] {
            let error = ipam
                .create(name, &dual("10.0.1.0/24", "fd01::/64"))
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name:?}");
        }
        for spec in [
            NetworkSpec::new(),
            dual("10.0.1.0/24", "10.0.2.0/24"),
            NetworkSpec::new().subnet(Subnet::new(net("10.0.1.0/24")).gateway(ip("10.0.2.1"))),
        ] {
            let error = ipam.create("db", &spec).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        }
        let pools = Pools::new([Pool::new(net("10.0.0.0/23"), 24).unwrap()]);
        let pick = |occupied| {
            NetworkSpec::new()
                .pick(Family::V4, pools.clone())
                .avoiding(occupied)
        };
        let taken = Occupied::default().on_link_network(net("10.0.1.7/32"));
        let error = ipam.create("db", &pick(taken)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
        let db = ipam.create("db", &pick(Occupied::default())).unwrap();
        assert_eq!(db.gateway(Family::V4), Some(net("10.0.1.1/24")));
        assert_eq!(ipam.networks().unwrap().len(), 2);
    });
}

#[test]
fn what_the_host_has_of_either_family_is_not_picked() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    cofferdam_testkit::NetNs::new().run(|| {
        let bridge = Bridge::builder("br0".parse().unwrap())
            .address(net("10.8.0.1/24"))
            .address(net("fd00:5::1/64"))
            .create()
            .unwrap();
        let occupied = Occupied::of_caller().unwrap();
        for (network, used) in [
            ("10.8.0.128/25", true),
            ("10.8.1.0/24", false),
            ("fd00:5::/48", true),
            ("fd00:5:0:1::/64", false),
        ] {
            assert_eq!(occupied.overlaps(net(network)), used, "{network}");
        }
        let pool = |base, prefix| Pool::new(net(base), prefix).unwrap();
        let pools = Pools::new([pool("10.8.0.0/23", 24), pool("fd00:5::/63", 64)]);
        for name in ["a", "b", "c", "d"] {
            assert_eq!(pools.pick(name).unwrap(), net("10.8.1.0/24"));
            assert_eq!(pools.pick6(name).unwrap(), net("fd00:5:0:1::/64"));
        }
        bridge.remove().unwrap();
    });
}

#[test]
fn three_hundred_networks_of_three_thousand_leases_are_quick() {
    let scratch = Scratch::new("many");
    let ipam = Ipam::open(&scratch.0).unwrap();
    let (networks, each) = (turns(300, 30), 10);
    let pools = Pools::default().pool(Pool::ula("host"));
    let spec = NetworkSpec::new()
        .pick(Family::V4, pools.clone())
        .pick(Family::V6, pools);
    let start = Instant::now();
    for n in 0..networks {
        ipam.create(&format!("net{n}"), &spec).unwrap();
    }
    let created = start.elapsed();
    let start = Instant::now();
    for n in 0..networks * each {
        lease(
            &ipam,
            &format!("net{}", n % networks),
            &format!("container-{n}"),
        );
    }
    let leased = start.elapsed();
    let start = Instant::now();
    assert_eq!(ipam.release_owner("container-7").unwrap().len(), 2);
    let owner = start.elapsed();
    let all = ipam.networks().unwrap();
    let subnets: BTreeSet<_> = all
        .iter()
        .flat_map(|n| n.subnets().map(Subnet::network))
        .collect();
    assert_eq!(subnets.len(), 2 * networks);
    let leases: usize = all.iter().map(|network| network.leases().count()).sum();
    assert_eq!(leases, 2 * networks * each - 2);
    let micros = |time: Duration, count: usize| time.as_micros() / count as u128;
    eprintln!(
        "{networks} networks {} us each, {} leases {} us each, release of an owner {} us",
        micros(created, networks),
        networks * each,
        micros(leased, networks * each),
        owner.as_micros(),
    );
}

#[test]
fn what_another_changed_is_seen_though_it_was_read_before() {
    let scratch = Scratch::new("seen");
    let (one, other) = (Ipam::open(&scratch.0), Ipam::open(&scratch.0));
    let (one, other) = (one.unwrap(), other.unwrap());
    let spec = |subnet: &str| NetworkSpec::new().subnet(net(subnet));
    one.create("app", &spec("10.0.0.0/24")).unwrap();
    // Long enough for files to be remembered.
    thread::sleep(Duration::from_millis(60));
    one.create("db", &spec("10.0.1.0/24")).unwrap();
    assert!(other.remove("app").unwrap());
    other.create("app", &spec("10.0.2.0/24")).unwrap();
    let error = one.create("new", &spec("10.0.2.0/25")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    one.create("new", &spec("10.0.0.0/24")).unwrap();
    thread::sleep(Duration::from_millis(60));
    assert!(one.create("last", &spec("10.0.2.0/25")).is_err());
    // Nor is a file remembered that somebody broke.
    fs::write(scratch.0.join("new.net"), "").unwrap();
    let error = one.create("last", &spec("10.0.9.0/24")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed, "{error}");
}

#[test]
fn a_file_that_is_not_whole_is_malformed_and_stays_as_it_is() {
    let scratch = Scratch::new("torn");
    let ipam = Ipam::open(&scratch.0).unwrap();
    ipam.create("app", &dual("10.0.0.0/24", "fd00::/64"))
        .unwrap();
    ipam.create("db", &dual("10.0.1.0/24", "fd01::/64"))
        .unwrap();
    lease(&ipam, "app", "a");
    lease(&ipam, "db", "a");
    let file = scratch.0.join("app.net");
    let whole = fs::read(&file).unwrap();
    let torn = [
        &whole[..whole.len() / 2],
        b"",
        b"#!/bin/sh\n",
        &[0xff, 0xfe],
    ];
    for bytes in torn {
        fs::write(&file, bytes).unwrap();
        let request = LeaseRequest::new("b");
        for error in [
            ipam.lease("app", &request).unwrap_err(),
            ipam.network("app").unwrap_err(),
            ipam.networks().unwrap_err(),
            ipam.create("new", &dual("10.0.2.0/24", "fd02::/64"))
                .unwrap_err(),
            ipam.release("app", ip("10.0.0.2")).unwrap_err(),
            ipam.release_owner("a").unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Malformed, "{error}");
            assert!(error.to_string().contains("app.net: "), "{error}");
        }
        assert_eq!(fs::read(&file).unwrap(), bytes);
        // Those of the other network were released all the same.
        assert_eq!(ipam.network("db").unwrap().leases().count(), 0);
        lease(&ipam, "db", "a");
    }
    // A file of another network, under this name.
    fs::copy(scratch.0.join("db.net"), &file).unwrap();
    assert_eq!(
        ipam.network("app").unwrap_err().kind(),
        ErrorKind::Malformed
    );
    fs::write(&file, whole).unwrap();
    assert_eq!(ipam.network("app").unwrap().leases().count(), 2);
}

#[test]
fn nothing_is_followed_out_of_the_directory() {
    let scratch = Scratch::new("links");
    let store = scratch.0.join("store");
    let ipam = Ipam::open(&store).unwrap();
    let victim = scratch.0.join("victim");
    fs::write(&victim, "precious").unwrap();
    for name in ["lock", "fresh", "app.net"] {
        let link = store.join(name);
        let _gone = fs::remove_file(&link);
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        assert!(
            ipam.create("app", &dual("10.0.0.0/24", "fd00::/64"))
                .is_err(),
            "{name}"
        );
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        fs::remove_file(&link).unwrap();
    }
    ipam.create("app", &dual("10.0.0.0/24", "fd00::/64"))
        .unwrap();
    // It is the directory that was opened that is used, whatever has its name now.
    let moved = scratch.0.join("moved");
    fs::rename(&store, &moved).unwrap();
    lease(&ipam, "app", "a");
    assert!(!store.exists());
    assert!(
        fs::read_to_string(moved.join("app.net"))
            .unwrap()
            .contains("lease 10.0.0.2 a")
    );
}

#[test]
fn threads_and_processes_share_a_directory() {
    let scratch = Scratch::new("shared");
    let ipam = Ipam::open(&scratch.0).unwrap();
    ipam.create("app", &dual("10.0.0.0/16", "fd00::/64"))
        .unwrap();
    let each = turns(25, 6);
    let mut children: Vec<_> = (0..3)
        .map(|n| Worker::start(&scratch.0, n, each as u32))
        .collect();

    let by_threads: Vec<String> = thread::scope(|scope| {
        let work = |n| {
            let ipam = &ipam;
            move || -> Vec<String> {
                let leases = (0..each).map(|m| lease(ipam, "app", &format!("thread-{n}-{m}")));
                leases.flatten().collect()
            }
        };
        let running: Vec<_> = (0..3).map(|n| scope.spawn(work(n))).collect();
        let done = running.into_iter().map(|thread| thread.join().unwrap());
        done.flatten().collect()
    });
    let distinct: BTreeSet<_> = by_threads.iter().collect();
    assert_eq!(distinct.len(), 2 * 3 * each);
    let kept: usize = children.iter_mut().map(|child| child.finish().len()).sum();
    let network = ipam.network("app").unwrap();
    assert_eq!(network.leases().count(), 2 * 3 * each + 2 * kept);
}

#[test]
fn a_holder_of_the_lock_that_is_killed_frees_it() {
    let scratch = Scratch::new("holder");
    let ipam = Ipam::open(&scratch.0).unwrap();
    ipam.create("app", &dual("10.0.0.0/16", "fd00::/64"))
        .unwrap();
    let mut holder = re_executed("hold", &scratch.0);
    let mut said = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap() == "held"));
    let start = Instant::now();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| lease(&ipam, "app", "a"));
        thread::sleep(Duration::from_millis(100));
        assert!(!waiting.is_finished());
        holder.kill().unwrap();
        assert_eq!(waiting.join().unwrap().len(), 2);
    });
    assert!(start.elapsed() < Duration::from_secs(5));
    holder.wait().unwrap();
    // A lock file that is deleted is no lock that two have.
    fs::remove_file(scratch.0.join("lock")).unwrap();
    lease(&ipam, "app", "b");
}

#[test]
fn no_lease_is_lost_or_doubled_by_processes_that_are_killed() {
    let scratch = Scratch::new("killed");
    let ipam = Ipam::open(&scratch.0).unwrap();
    ipam.create("app", &dual("10.0.0.0/24", "fd00::/64"))
        .unwrap();
    let mut seed = 7_u64;
    for round in 0..turns(16, 2) as u32 {
        let mut workers: Vec<_> = (0..2)
            .map(|n| Worker::start(&scratch.0, round * 2 + n, u32::MAX))
            .collect();
        for worker in &mut workers {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            worker.wait_for_a_lease();
            thread::sleep(Duration::from_micros((seed >> 33) % 5_000));
            worker.kill();
        }
        let kept = leases(&ipam.network("app").unwrap());
        for worker in workers {
            worker.check(&kept);
        }
        for owner in kept.values() {
            ipam.release_owner(owner).unwrap();
        }
        assert_eq!(ipam.network("app").unwrap().leases().count(), 0);
    }
    assert_eq!(ipam.networks().unwrap().len(), 1);
}

/// This binary again, which leases and releases until it is killed, and says before and after what it does.
struct Worker {
    child: Child,
    lines: Vec<String>,
    number: u32,
}

impl Worker {
    fn start(directory: &Path, number: u32, turns: u32) -> Self {
        let child = re_executed(&format!("work {number} {turns}"), directory);
        Worker {
            child,
            lines: Vec::new(),
            number,
        }
    }

    fn wait_for_a_lease(&mut self) {
        let stdout = self.child.stdout.as_mut().unwrap();
        let mut byte = [0];
        let mut line = String::new();
        while stdout.read(&mut byte).unwrap() == 1 {
            if byte[0] != b'\n' {
                line.push(byte[0].into());
                continue;
            }
            self.lines.push(std::mem::take(&mut line));
            if self.lines.last().unwrap().starts_with("leased") {
                return;
            }
        }
        panic!("it ended: {:?}", self.lines);
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.finish();
    }

    /// What it says that it has, when it is over.
    fn finish(&mut self) -> BTreeMap<String, Vec<IpAddr>> {
        let stdout = self.child.stdout.take().unwrap();
        self.lines
            .extend(BufReader::new(stdout).lines().map(Result::unwrap));
        self.child.wait().unwrap();
        self.told()
    }

    fn told(&self) -> BTreeMap<String, Vec<IpAddr>> {
        let mut has = BTreeMap::new();
        for line in &self.lines {
            let words: Vec<_> = line.split(' ').collect();
            match words[0] {
                "leased" => drop(has.insert(
                    words[1].to_owned(),
                    words[2..].iter().map(|address| ip(address)).collect(),
                )),
                "released" => drop(has.remove(words[1])),
                _ => {}
            }
        }
        has
    }

    /// The store has what it told, but for the one thing it was about to do.
    fn check(&self, kept: &BTreeMap<IpAddr, String>) {
        let mut told = self.told();
        let mine = |owner: &&String| owner.starts_with(&format!("w{}-", self.number));
        let mut found: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        for (address, owner) in kept.iter().filter(|(_, owner)| mine(owner)) {
            found.entry(owner.clone()).or_default().push(*address);
        }
        let last = self.lines.last().unwrap();
        if let Some(owner) = last.strip_prefix("leasing ") {
            let addresses = found.remove(owner);
            assert!(addresses.is_none_or(|addresses| addresses.len() == 2));
        }
        if let Some(owner) = last.strip_prefix("releasing ") {
            let told = told.remove(owner);
            let found = found.remove(owner);
            assert!(found.is_none() || found == told, "{found:?} {told:?}");
        }
        assert_eq!(found, told, "{last}");
    }
}

fn re_executed(job: &str, directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "in_a_child", "--nocapture", "--test-threads=1"])
        .env("COFFERDAM_IPAM_JOB", job)
        .env("COFFERDAM_IPAM_DIRECTORY", directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn in_a_child() {
    let Ok(job) = std::env::var("COFFERDAM_IPAM_JOB") else {
        return;
    };
    let directory = PathBuf::from(std::env::var_os("COFFERDAM_IPAM_DIRECTORY").unwrap());
    let words: Vec<_> = job.split(' ').collect();
    match words[..] {
        ["hold"] => hold(&directory),
        ["work", number, turns] => work(&directory, number, turns.parse().unwrap()),
        _ => panic!("{job}"),
    }
    // The harness has nothing more to say on what is a report.
    std::process::exit(0);
}

fn hold(directory: &Path) {
    let lock = fs::OpenOptions::new()
        .write(true)
        .open(directory.join("lock"))
        .unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    say("\nheld");
    thread::sleep(Duration::from_secs(60));
}

fn work(directory: &Path, number: &str, turns: u32) {
    let ipam = Ipam::open(directory).unwrap();
    say("");
    for turn in 0..turns {
        let owner = format!("w{number}-{turn}");
        say(&format!("leasing {owner}"));
        let addresses = lease(&ipam, "app", &owner);
        let bare: Vec<_> = addresses
            .iter()
            .map(|a| a.split('/').next().unwrap())
            .collect();
        say(&format!("leased {owner} {}", bare.join(" ")));
        if turn % 4 != 0 || turn >= 160 {
            say(&format!("releasing {owner}"));
            ipam.release_owner(&owner).unwrap();
            say(&format!("released {owner}"));
        }
    }
}

/// In one write, which is whole or not there.
fn say(line: &str) {
    std::io::stdout()
        .write_all(format!("{line}\n").as_bytes())
        .unwrap();
    std::io::stdout().flush().unwrap();
}
