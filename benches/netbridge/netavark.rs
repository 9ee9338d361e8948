//! One more container on a bridge that is there: by netavark without DNS and without a packet filter, which is the least
//! it does, and by us. The namespace is there already.

use std::io::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cofferdam::netbridge::{Attachment, Bridge, NetNs};

use crate::in_turns;

const PROGRAM: &str = "/usr/lib/podman/netavark";
const ID: &str = "53ce4390f2adb1681eb1a90ec8b48c49c015e0a8d336c197637e7f65e365fa9e";

pub(crate) fn rows(rounds: usize) {
    let bridge = Bridge::builder("bench2".parse().unwrap());
    let bridge = bridge.address("10.201.0.1/16".parse().unwrap());
    let bridge = bridge.create().unwrap();
    let mut ours = || {
        let netns = NetNs::new().unwrap();
        let attachment = Attachment::new("10.201.0.2/16".parse().unwrap());
        let begin = Instant::now();
        let port = bridge.attach(&netns, attachment).unwrap();
        let took = begin.elapsed();
        port.remove().unwrap();
        took
    };
    if !Path::new(PROGRAM).exists() {
        in_turns(rounds, &mut [("attach/setup", "ours", &mut ours)]);
        println!("row attach/setup netavark absent");
        return;
    }
    let peer = Netavark::new();
    let first = NetNs::new().unwrap();
    peer.run("setup", &first, 2);
    let mut theirs = || {
        let netns = NetNs::new().unwrap();
        let took = peer.run("setup", &netns, 3);
        peer.run("teardown", &netns, 3);
        took
    };
    let sides: &mut [crate::Side<'_>] = &mut [
        ("attach/setup", "ours", &mut ours),
        ("attach/setup", "netavark", &mut theirs),
    ];
    in_turns(rounds, sides);
    peer.run("teardown", &first, 2);
    std::fs::remove_dir_all(&peer.config).unwrap();
}

struct Netavark {
    config: String,
}

impl Netavark {
    fn new() -> Self {
        let config = format!("/dev/shm/cofferdam-bench-{}", std::process::id());
        std::fs::create_dir(&config).unwrap();
        Netavark { config }
    }

    fn run(&self, what: &str, netns: &NetNs, host: u8) -> Duration {
        let path = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            netns.as_fd().as_raw_fd()
        );
        let json = json(host);
        let begin = Instant::now();
        let mut child = Command::new(PROGRAM)
            .args(["--config", &self.config, what, &path])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(json.as_bytes()).unwrap();
        drop(stdin);
        assert!(child.wait().unwrap().success(), "netavark {what}");
        begin.elapsed()
    }
}

fn json(host: u8) -> String {
    format!(
        r#"{{"container_id":"bench{host}","container_name":"bench{host}",
        "networks":{{"bench":{{"interface_name":"eth0","static_ips":["10.202.0.{host}"]}}}},
        "network_info":{{"bench":{{"dns_enabled":false,"driver":"bridge","id":"{ID}","internal":true,
        "ipv6_enabled":false,"name":"bench","network_interface":"bench3",
        "subnets":[{{"gateway":"10.202.0.1","subnet":"10.202.0.0/16"}}],
        "ipam_options":{{"driver":"host-local"}}}}}}}}"#
    )
}
