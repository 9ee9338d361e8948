//! netavark, where it is installed: a whole setup of a container's network with its ports, which is what it can do.

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cofferdam_testkit::NetNs;

const PLACES: [&str; 2] = ["/usr/lib/podman/netavark", "/usr/libexec/podman/netavark"];

pub(crate) fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|directory| directory.join("netavark"));
    let mut places = PLACES.iter().map(PathBuf::from).chain(on_path);
    places.find(|program| program.is_file())
}

/// A container's network namespace on a host of its own.
pub(crate) struct Container<'a> {
    netavark: &'a PathBuf,
    host: &'a NetNs,
    netns: NetNs,
    config: String,
}

impl<'a> Container<'a> {
    /// The `number`th container, with so many UDP ports from `first` on.
    pub(crate) fn new(
        netavark: &'a PathBuf,
        host: &'a NetNs,
        number: u8,
        first: u16,
        ports: u16,
    ) -> Self {
        let mapping = |port: u16| {
            format!(
                r#"{{"host_ip":"","container_port":{port},"host_port":{port},"range":1,"protocol":"udp"}}"#
            )
        };
        let ports: Vec<_> = (first..first + ports).map(mapping).collect();
        let address = 2 + number;
        let config = format!(
            r#"{{"container_id":"{number:064}","container_name":"c{number}","port_mappings":[{}],
            "networks":{{"bench":{{"static_ips":["10.9.0.{address}"],"interface_name":"eth0"}}}},
            "network_info":{{"bench":{{"name":"bench","id":"{:064}","driver":"bridge","network_interface":"bench0",
            "subnets":[{{"subnet":"10.9.0.0/24","gateway":"10.9.0.1"}}],"ipv6_enabled":false,"internal":false,
            "dns_enabled":false,"ipam_options":{{"driver":"host-local"}},"created":"2023-01-01T00:00:00Z"}}}}}}"#,
            ports.join(","),
            7
        );
        Container {
            netavark,
            host,
            netns: NetNs::new(),
            config,
        }
    }

    /// Runs `netavark setup` or `teardown`. None if it failed.
    pub(crate) fn run(&self, verb: &str) -> Option<Duration> {
        let netns = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.netns.as_fd().as_raw_fd()
        );
        self.host.run(|| {
            let start = Instant::now();
            let mut child = Command::new(self.netavark)
                .arg("--config")
                .arg(std::env::temp_dir())
                .args([verb, &netns])
                .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .ok()?;
            child.stdin.take()?.write_all(self.config.as_bytes()).ok()?;
            child.wait().ok()?.success().then(|| start.elapsed())
        })
    }
}
