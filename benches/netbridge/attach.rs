//! The first container of a bridge, and the five hundredth.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cofferdam::netbridge::{Addresses, Attachment, Bridge, NetNs, Port};
use tokio::runtime::Runtime;

use crate::floor::Floor;
use crate::{count_row, in_turns};

/// A bridge and the containers on it that nobody measures.
struct Network {
    bridge: Arc<Bridge>,
    addresses: Addresses,
    others: Vec<(NetNs, Port)>,
}

impl Network {
    fn new(name: &str, others: usize) -> Self {
        let subnet = "10.200.0.1/16".parse().unwrap();
        let bridge = Bridge::builder(name.parse().unwrap()).address(subnet);
        let mut network = Network {
            bridge: Arc::new(bridge.create().unwrap()),
            addresses: Addresses::new(subnet).unwrap(),
            others: Vec::new(),
        };
        for _ in 0..others {
            let (netns, attachment) = network.next();
            let port = network.bridge.attach(&netns, attachment).unwrap();
            network.others.push((netns, port));
        }
        network
    }

    fn next(&mut self) -> (NetNs, Attachment) {
        let address = self.addresses.allocate().unwrap();
        (NetNs::new().unwrap(), Attachment::new(address))
    }

    fn ours(&mut self) -> (Duration, u32) {
        let (netns, attachment) = self.next();
        let begin = Instant::now();
        let port = self.bridge.attach(&netns, attachment).unwrap();
        let took = begin.elapsed();
        let messages = port.messages();
        port.remove().unwrap();
        (took, messages)
    }

    /// By a task of the runtime, as an embedder's are: from outside, each call is first brought to a worker and back.
    fn tokio(&mut self, runtime: &Runtime) -> Duration {
        let (netns, attachment) = self.next();
        let bridge = Arc::clone(&self.bridge);
        let once = async move {
            let begin = Instant::now();
            let port = bridge.attach_async(&netns, attachment).await.unwrap();
            let took = begin.elapsed();
            port.remove_async().await.unwrap();
            took
        };
        runtime.block_on(runtime.spawn(once)).unwrap()
    }

    fn floor(&mut self) -> Duration {
        let (netns, _attachment) = self.next();
        let mut floor = Floor::new(self.bridge.index(), &netns);
        let begin = Instant::now();
        floor.attach(&netns);
        let took = begin.elapsed();
        floor.detach();
        took
    }

    fn remove(mut self) {
        let ports = self.others.drain(..).map(|(_netns, port)| port);
        self.bridge.detach_all(ports).unwrap();
        Arc::into_inner(self.bridge).unwrap().remove().unwrap();
    }
}

pub(crate) fn rows(rounds: usize, many: usize) {
    let runtime = Runtime::new().unwrap();
    let empty = std::cell::RefCell::new(Network::new("bench0", 0));
    let full = std::cell::RefCell::new(Network::new("bench1", many - 1));
    let mut messages = Vec::new();
    in_turns(
        rounds,
        &mut [
            ("attach/1st", "ours", &mut || {
                let (took, sent) = empty.borrow_mut().ours();
                messages.push(sent);
                took
            }),
            ("attach/1st", "floor", &mut || empty.borrow_mut().floor()),
            ("attach/500th", "ours", &mut || full.borrow_mut().ours().0),
            ("attach/500th", "floor", &mut || full.borrow_mut().floor()),
            ("attach/tokio", "ours", &mut || {
                empty.borrow_mut().tokio(&runtime)
            }),
        ],
    );
    count_row("attach/messages", "ours", messages);
    full.into_inner().remove();
    empty.into_inner().remove();
}
