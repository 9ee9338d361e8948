//! Networks come and go, and containers between them.

use std::path::Path;
use std::sync::Arc;

use cofferdam::{Connection, Network, PortSpec};

use super::tally::lock;
use super::worker::Worker;
use super::world::Member;

/// There are no more at a time, but those that containers alone still have.
const MOST: usize = 4;

impl Worker<'_> {
    fn networked(&mut self) -> Option<Arc<Member>> {
        let at = self.random.below(1000);
        self.world.share(at).filter(|member| !member.alone)
    }

    pub(super) fn create_network(&mut self) {
        if lock(&self.world.networks).len() >= MOST {
            return;
        }
        let name = format!("n{}", self.world.number());
        let mut builder = Network::bridge(name).runtime_dir(self.world.runtime());
        match self.random.below(8) {
            0 => builder = builder.internal(),
            // What is picked is decided by the name of the machine, which not every one has.
            1 if Path::new("/etc/machine-id").exists() => builder = builder.ipv6(),
            2 => builder = builder.without_dns(),
            3 => builder = builder.without_icc().guard_mac(),
            4 => builder = builder.without_masquerade(),
            _ => {}
        }
        if let Some(network) = self.tally.check("create network", builder.create()) {
            lock(&self.world.networks).push(network);
        }
    }

    pub(super) fn remove_network(&mut self) {
        let at = self.random.below(1000);
        let network = {
            let mut networks = lock(&self.world.networks);
            let Some(at) = at.checked_rem(networks.len() as u64) else {
                return;
            };
            networks.swap_remove(usize::try_from(at).unwrap_or_default())
        };
        // Where containers have it, it ends with the last of them.
        self.tally.check("remove network", network.remove());
    }

    pub(super) fn connect(&mut self) {
        let (Some(member), Some(network)) = (self.networked(), self.any()) else {
            return;
        };
        let mut connection = Connection::to(&network);
        if self.random.chance(30) {
            connection = connection.alias("late").gateway_priority(1);
        }
        self.tally
            .check("connect", member.running.connect(connection));
    }

    pub(super) fn disconnect(&mut self) {
        if let (Some(member), Some(network)) = (self.networked(), self.any()) {
            self.tally
                .check("disconnect", member.running.disconnect(&network));
        }
    }

    fn any(&mut self) -> Option<Network> {
        let at = self.random.below(1000);
        self.world.network(at)
    }

    /// Chosen, or one of a few that several want.
    pub(super) fn port(&mut self) -> PortSpec {
        let host = match self.random.chance(60) {
            true => 0,
            false => 20_000 + self.random.below(16),
        };
        let text = match self.random.below(6) {
            0 => format!("127.0.0.1:{host}:80"),
            1 => format!("{host}:53/udp"),
            2 => format!("[::1]:{host}:80"),
            3 => format!("{host}:80/tcp"),
            4 => "127.0.0.1:21000-21003:80-83".to_owned(),
            _ => format!("0.0.0.0:{host}:8080"),
        };
        match text.parse() {
            Ok(port) => port,
            Err(error) => unreachable!("{text}: {error}"),
        }
    }

    pub(super) fn publish(&mut self) {
        let port = self.port();
        let Some(member) = self.networked() else {
            return;
        };
        if let Some(ports) = self.tally.check("publish", member.running.publish(&port)) {
            let right = !ports.is_empty() && ports.iter().all(|port| port.host_port != 0);
            self.tally
                .expect(right, || format!("publish {port}: {ports:?}"));
            if self.random.chance(60) {
                self.tally
                    .check("unpublish", member.running.unpublish(&port));
            }
        }
    }

    pub(super) fn unpublish(&mut self) {
        let port = self.port();
        if let Some(member) = self.networked() {
            self.tally
                .check("unpublish", member.running.unpublish(&port));
        }
    }

    pub(super) fn inspect(&mut self) {
        if let Some(network) = self.any() {
            let info = network.inspect();
            let right = info.name == network.name() && !info.subnets.is_empty();
            self.tally.expect(right, || format!("inspect: {info:?}"));
        }
        let at = self.random.below(1000);
        if let Some(member) = self.world.share(at) {
            let running = &member.running;
            let _told = (running.ports(), running.default_routes(), running.queries());
            let addresses: Vec<_> = running
                .networks()
                .into_iter()
                .map(|n| n.addresses)
                .collect();
            let right = addresses.iter().all(|addresses| !addresses.is_empty());
            self.tally
                .expect(right, || format!("networks: {addresses:?}"));
        }
    }
}
