//! What gets through and what does not, with real packets, each test in network namespaces of its own.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod announcing;
mod filtering;
mod gateways;
mod internal;
mod ipv6;
mod links;
mod settings;
mod spoofing;
mod sys;
mod wire;

use std::net::IpAddr;

use cofferdam_netbridge::{Attachment, Bridge, IfName, IpNetwork, NetNs, Port};
use cofferdam_testkit::{Need, have};

use wire::{Mac, Wire};

/// Runs `work` in a network namespace of its own, which is the host of the test.
fn on_a_host(work: impl FnOnce() + Send) {
    if have(&[Need::Namespaces]) {
        cofferdam_testkit::NetNs::new().run(work);
    }
}

fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn bridge(named: &str, address: &str) -> Bridge {
    let builder = Bridge::builder(name(named)).address(net(address));
    builder.create().unwrap()
}

fn set(path: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{path}"), value)
        .unwrap_or_else(|error| panic!("{path}: {error}"));
}

fn read(path: &str) -> String {
    let path = format!("/proc/sys/net/{path}");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.trim_end().to_owned()
}

/// A container: its namespace and its port, which ends with the host of the test.
struct Container {
    netns: NetNs,
    port: Option<Port>,
}

/// To delete links one by one takes the kernel longer than most tests.
impl Drop for Container {
    fn drop(&mut self) {
        self.port.take().map(Port::persist);
    }
}

impl Container {
    fn attach(bridge: &Bridge, attachment: Attachment) -> Self {
        let netns = NetNs::new().unwrap();
        let port = Some(bridge.attach(&netns, attachment).unwrap());
        Container { netns, port }
    }

    fn new(bridge: &Bridge, address: &str) -> Self {
        Container::attach(bridge, Attachment::new(net(address)))
    }

    fn wire(&self) -> Wire {
        Wire::inside(&self.netns, "eth0")
    }

    fn port(&self) -> &Port {
        self.port.as_ref().unwrap()
    }

    fn mac(&self) -> Mac {
        self.port().mac()
    }
}
