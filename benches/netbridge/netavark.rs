//! One more container on a bridge that is there: by netavark without DNS, as it does it for an ordinary network, and for an
//! internal one, which is the least it does: without a packet filter; and by us, who leave that to another crate. The namespace is
//! there already.

use std::io::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cofferdam::netbridge::{Attachment, Bridge, NetNs};

use crate::in_turns;

const PROGRAM: &str = "/usr/lib/podman/netavark";
/// But for the first digit.
const ID: &str = "3ce4390f2adb1681eb1a90ec8b48c49c015e0a8d336c197637e7f65e365fa9e";

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
    let (ordinary, internal) = (Netavark::new(false), Netavark::new(true));
    let sides: &mut [crate::Side<'_>] = &mut [
        ("attach/setup", "ours", &mut ours),
        ("attach/setup", "netavark", &mut || ordinary.attach()),
        ("attach/setup", "netavark-internal", &mut || {
            internal.attach()
        }),
    ];
    in_turns(rounds, sides);
}

/// A network with one container on it already.
struct Netavark {
    config: String,
    internal: bool,
    first: NetNs,
}

impl Netavark {
    fn new(internal: bool) -> Self {
        let config = format!("/dev/shm/cofferdam-bench-{}-{internal}", std::process::id());
        std::fs::create_dir(&config).unwrap();
        let first = NetNs::new().unwrap();
        let network = Netavark {
            config,
            internal,
            first,
        };
        network.run("setup", &network.first, 2);
        network
    }

    fn attach(&self) -> Duration {
        let netns = NetNs::new().unwrap();
        let took = self.run("setup", &netns, 3);
        self.run("teardown", &netns, 3);
        took
    }

    fn run(&self, what: &str, netns: &NetNs, host: u8) -> Duration {
        let path = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            netns.as_fd().as_raw_fd()
        );
        let json = json(host, self.internal);
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

impl Drop for Netavark {
    fn drop(&mut self) {
        self.run("teardown", &self.first, 2);
        std::fs::remove_dir_all(&self.config).unwrap();
    }
}

fn json(host: u8, internal: bool) -> String {
    let (number, net) = if internal { (3, 202) } else { (4, 203) };
    format!(
        r#"{{"container_id":"bench{host}","container_name":"bench{host}",
        "networks":{{"bench":{{"interface_name":"eth0","static_ips":["10.{net}.0.{host}"]}}}},
        "network_info":{{"bench":{{"dns_enabled":false,"driver":"bridge","id":"{number}{ID}","internal":{internal},
        "ipv6_enabled":false,"name":"bench","network_interface":"bench{number}",
        "subnets":[{{"gateway":"10.{net}.0.1","subnet":"10.{net}.0.0/16"}}],
        "ipam_options":{{"driver":"host-local"}}}}}}}}"#
    )
}
