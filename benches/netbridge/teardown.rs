//! All containers of a bridge at once: by one group of their links; and by the end of their namespaces, until no link is
//! left to see.

use std::time::{Duration, Instant};

use cofferdam::netbridge::{Attachment, Bridge, NetNs, Port, links};

use crate::row;

pub(crate) fn rows(rounds: usize, many: usize) {
    let (mut by_group, mut by_namespaces) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (bridge, containers) = network(many);
        let (namespaces, ports): (Vec<NetNs>, Vec<Port>) = containers.into_iter().unzip();
        let begin = Instant::now();
        bridge.detach_all(ports).unwrap();
        by_group.push(begin.elapsed());
        drop((namespaces, bridge));

        let (bridge, containers) = network(many);
        let begin = Instant::now();
        for (netns, port) in containers {
            port.persist();
            drop(netns);
        }
        while links().unwrap().len() > 2 {
            std::thread::sleep(Duration::from_millis(1));
        }
        by_namespaces.push(begin.elapsed());
        drop(bridge);
    }
    row("teardown/500", "ours", by_group);
    row("teardown/500", "namespaces", by_namespaces);
}

fn network(many: usize) -> (Bridge, Vec<(NetNs, Port)>) {
    let bridge = Bridge::builder("bench4".parse().unwrap());
    let bridge = bridge.address("10.203.0.1/16".parse().unwrap());
    let bridge = bridge.create().unwrap();
    let attach = |n: usize| {
        let netns = NetNs::new().unwrap();
        let address = format!("10.203.{}.{}/16", n / 200 + 1, n % 200 + 1);
        let attachment = Attachment::new(address.parse().unwrap());
        let port = bridge.attach(&netns, attachment).unwrap();
        (netns, port)
    };
    let containers = (0..many).map(attach).collect();
    (bridge, containers)
}
