//! Embedders that are killed at any moment.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cofferdam::cgroups::Hierarchy;
use cofferdam::netbridge::{
    Bridge, Dummy, IfName, IpvlanMode, LinkKind, Vlan, VlanId, Vxlan, delete_link,
};
use cofferdam::portmap::Portmap;
use cofferdam::{Network, NetworkBuilder, Removed, reap_in};
use cofferdam_testkit::{Need, NetNs, have, turns};

use crate::{Dir, UNTIL_TOLD, runs, shell};

const EMBEDDER: &str = "COFFERDAM_EMBEDDER";
const PART: &str = "COFFERDAM_EMBEDDER_PART";
/// A link of the test's that embedders make others upon.
const CABLE: &str = "cable0";

/// Not a test of its own: what is killed. It makes, uses and removes things until then.
#[test]
fn embedder() {
    let Some(dir) = std::env::var_os(EMBEDDER) else {
        return;
    };
    let dir = Path::new(&dir);
    let part = std::env::var(PART).unwrap();
    if part == "all links, and no more" {
        let _all: Vec<Network> = networks(dir).into_iter().map(create).collect();
        println!("here");
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    println!("here");
    match part.as_str() {
        "containers" => containers(dir),
        "links" => links_of_networks(dir),
        part => panic!("{part}"),
    }
}

fn create(network: NetworkBuilder) -> Network {
    network.create().unwrap()
}

/// One of each kind that this kernel has whose links are made with it.
fn networks(dir: &Path) -> Vec<NetworkBuilder> {
    let mut networks = vec![wide("wide", "vx-k", 7), wide("wide-2", "vx-k-2", 9)];
    if LinkKind::Dummy.available().is_ok() && LinkKind::Macvlan.available().is_ok() {
        let dummy = Dummy::builder("dummy-k".parse().unwrap());
        networks.push(Network::macvlan("mac", dummy));
    }
    if LinkKind::Vlan.available().is_ok() && LinkKind::Ipvlan.available().is_ok() {
        let vlan = Vlan::builder(CABLE.parse().unwrap(), VlanId::new(7).unwrap());
        networks.push(Network::ipvlan("ipv", vlan, IpvlanMode::L2));
    }
    let numbered = networks.into_iter().zip(1..);
    let each = numbered.map(|(network, number)| {
        let subnet = format!("10.99.{number}.0/24").parse().unwrap();
        network.subnet(subnet).runtime_dir(dir)
    });
    each.collect()
}

/// One that is joined to others elsewhere.
fn wide(name: &str, link: &str, vni: u32) -> NetworkBuilder {
    let vxlan = Vxlan::builder(link.parse().unwrap(), vni).mtu(1450);
    Network::bridge(name).vxlan(vxlan)
}

fn links_of_networks(dir: &Path) {
    let all = networks(dir);
    for network in all.iter().cycle() {
        create(network.clone()).remove().unwrap();
    }
}

fn containers(dir: &Path) {
    loop {
        let network = Network::bridge("k").runtime_dir(dir).create().unwrap();
        for port in [9001, 9002] {
            let web = shell("k", UNTIL_TOLD).runtime_dir(dir).network(&network);
            let web = web
                .publish(format!("{port}:80").parse().unwrap())
                .pids_max(50);
            let web = web.start().unwrap();
            let other = shell("other", "sleep 60").runtime_dir(dir).start().unwrap();
            assert!(web.exec("true").status().unwrap().success());
            other.remove().unwrap();
            web.stop(Duration::from_secs(5)).unwrap();
        }
        network.remove().unwrap();
    }
}

/// This binary again, as an embedder, in the network namespace of the calling thread.
fn start_embedder(dir: &Dir, part: &str) -> Child {
    let exe = std::env::current_exe().unwrap();
    let mut child = Command::new(exe)
        .args([
            "--exact",
            "killed::embedder",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(EMBEDDER, &dir.0)
        .env(PART, part)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(
        lines.any(|line| line.unwrap().contains("here")),
        "it has come so far"
    );
    child
}

/// A reproducible sequence that looks random.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % bound
    }
}

/// The pids in them, as text.
fn processes_in(cgroups: &[std::path::PathBuf]) -> Vec<String> {
    let procs = cgroups.iter().map(|path| path.join("cgroup.procs"));
    procs
        .filter_map(|path| fs::read_to_string(path).ok())
        .collect()
}

#[test]
fn one_reap_removes_all_that_a_killed_embedder_left_and_nothing_of_a_living_one() {
    if !have(&[Need::Root, Need::Namespaces]) {
        return;
    }
    NetNs::new().run(|| {
        let dir = Dir::new("killed");
        let living_network = Network::bridge("l").runtime_dir(&dir.0).create().unwrap();
        let living = shell("living", UNTIL_TOLD)
            .runtime_dir(&dir.0)
            .network(&living_network)
            .publish("9000:80".parse().unwrap());
        let living = living.start().unwrap();
        let living_wide = wide("living-wide", "vx-l", 8).runtime_dir(&dir.0);
        let living_wide = living_wide.create().unwrap();
        let cable = cable();
        let rules = || {
            Portmap::open("cofferdam")
                .unwrap()
                .list()
                .unwrap()
                .to_string()
        };
        let (records, links_before, rules_before) = (dir.records(), links(), rules());
        let mut random = Random(u64::from(std::process::id()));
        let mut found = 0;
        for turn in 0..turns(200, 20) {
            let (part, longest) = match turn % 4 {
                3 => ("links", 120_000),
                _ => ("containers", 30_000),
            };
            let mut embedder = start_embedder(&dir, part);
            let slower = if cofferdam_testkit::is_emulated() {
                20
            } else {
                1
            };
            let pause = random.below(longest) * slower;
            std::thread::sleep(Duration::from_micros(pause));
            embedder.kill().unwrap();
            embedder.wait().unwrap();

            let reaped = reap_in(&dir.0).unwrap();
            assert!(reaped.failed.is_empty(), "turn {turn}: {:?}", reaped.failed);
            found += reaped.removed.len();
            let mut left = dir.records();
            left.retain(|record| !records.contains(record));
            assert!(left.is_empty(), "turn {turn}: {left:?}");
            let ours = format!("cofferdam-{}-", embedder.id());
            let cgroups = Hierarchy::detect().unwrap().find(&ours).unwrap();
            assert!(
                cgroups.is_empty(),
                "turn {turn}: {cgroups:?} {:?}",
                processes_in(&cgroups)
            );
            // The kernel takes network namespaces that nobody has apart in its own time, and their links with them.
            for _ in 0..200 {
                if links() == links_before {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            assert_eq!(links(), links_before, "turn {turn}");
            assert_eq!(rules(), rules_before, "turn {turn}");
            assert!(children_of_nobody(&dir).is_empty(), "turn {turn}");
        }
        assert!(
            found > turns(200, 20),
            "{found}: it was killed while it had something"
        );
        assert!(runs(living.pid()));
        assert!(living.exec("true").status().unwrap().success());
        living.remove().unwrap();
        living_network.remove().unwrap();
        living_wide.remove().unwrap();
        cable.map(Dummy::remove).transpose().unwrap();
    });
}

#[test]
fn links_of_networks_are_reaped_and_none_that_another_made() {
    if !have(&[Need::Root, Need::Namespaces]) {
        return;
    }
    NetNs::new().run(|| {
        let dir = Dir::new("links");
        let cable = cable();
        let before = links();
        let mut embedder = start_embedder(&dir, "all links, and no more");
        let made: Vec<String> = links();
        let made = made.into_iter().filter(|name| !before.contains(name));
        let mut made: Vec<String> = made.collect();
        assert!(reap_in(&dir.0).unwrap().removed.is_empty(), "it lives");
        embedder.kill().unwrap();
        embedder.wait().unwrap();

        // Somebody else took a name of its for something else.
        let name: IfName = "vx-k".parse().unwrap();
        delete_link(&name).unwrap();
        let other = Bridge::builder(name).unaddressed().create().unwrap();
        let reaped = reap_in(&dir.0).unwrap();
        assert!(reaped.failed.is_empty(), "{:?}", reaped.failed);
        let name_of = |removed: &Removed| match removed {
            Removed::Bridge(name) | Removed::Link(name) => Some(name.clone()),
            _ => None,
        };
        let mut removed: Vec<String> = reaped.removed.iter().filter_map(name_of).collect();
        made.retain(|name| name != "vx-k");
        if cofferdam_testkit::is_emulated() {
            // That kernel has all kinds.
            assert!(made.contains(&"dummy-k".to_owned()), "{made:?}");
            assert!(made.contains(&format!("{CABLE}.7")), "{made:?}");
        }
        made.sort();
        removed.sort();
        assert_eq!(removed, made);
        other.remove().unwrap();
        assert_eq!(links(), before);
        cable.map(Dummy::remove).transpose().unwrap();
    });
}

fn links() -> Vec<String> {
    let links = cofferdam::netbridge::links().unwrap();
    links.into_iter().map(|link| link.name).collect()
}

/// Where the kernel has that.
fn cable() -> Option<Dummy> {
    LinkKind::Dummy.available().ok()?;
    let cable = Dummy::builder(CABLE.parse().unwrap());
    Some(cable.create().unwrap())
}

/// What an embedder left running: the stub of a program that was being started has an embedder's environment still.
fn children_of_nobody(dir: &Dir) -> Vec<u32> {
    let mark = dir.0.as_os_str().as_encoded_bytes();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        runs(*pid) && environment.windows(mark.len()).any(|window| window == mark)
    })
    .collect()
}
