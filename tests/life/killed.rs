//! Embedders that are killed at any moment.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cofferdam::cgroups::Hierarchy;
use cofferdam::portmap::Portmap;
use cofferdam::{Network, reap_in};
use cofferdam_testkit::{Need, NetNs, have, turns};

use crate::{Dir, UNTIL_TOLD, runs, shell};

const EMBEDDER: &str = "COFFERDAM_EMBEDDER";

/// Not a test of its own: what is killed. It starts, uses and stops containers until then.
#[test]
fn embedder() {
    let Some(dir) = std::env::var_os(EMBEDDER) else {
        return;
    };
    println!("here");
    loop {
        let network = Network::bridge("k").runtime_dir(&dir).create().unwrap();
        for port in [9001, 9002] {
            let web = shell("k", UNTIL_TOLD).runtime_dir(&dir).network(&network);
            let web = web
                .publish(format!("{port}:80").parse().unwrap())
                .pids_max(50);
            let web = web.start().unwrap();
            let other = shell("other", "sleep 60")
                .runtime_dir(&dir)
                .start()
                .unwrap();
            assert!(web.exec("true").status().unwrap().success());
            other.remove().unwrap();
            web.stop(Duration::from_secs(5)).unwrap();
        }
        network.remove().unwrap();
    }
}

/// This binary again, as an embedder, in the network namespace of the calling thread.
fn start_embedder(dir: &Dir) -> Child {
    let exe = std::env::current_exe().unwrap();
    let mut child = Command::new(exe)
        .args([
            "--exact",
            "killed::embedder",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(EMBEDDER, &dir.0)
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
        let links = || {
            let links = cofferdam::netbridge::links().unwrap();
            links.into_iter().map(|link| link.name).collect::<Vec<_>>()
        };
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
            let mut embedder = start_embedder(&dir);
            let pause = random.below(30_000)
                * if cofferdam_testkit::is_emulated() {
                    20
                } else {
                    1
                };
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
    });
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
