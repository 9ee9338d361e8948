//! The same under Tokio, on the real kernel.
#![cfg(feature = "tokio")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::future::Future;
use std::net::UdpSocket;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use cofferdam_netbridge::{Attachment, Bridge, ErrorKind, IfName, IpNetwork, NetNs, links};
use cofferdam_testkit::{Need, have};
use tokio::runtime::{Builder, Runtime};

fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn runtime() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).enable_io().build().unwrap()
}

/// In a network namespace of its own, in a runtime whose threads are there too.
fn in_own_netns(work: impl FnOnce(&Runtime) + Send) {
    if have(&[Need::Namespaces]) {
        cofferdam_testkit::NetNs::new().run(|| work(&runtime()));
    }
}

fn dual() -> Bridge {
    let builder = Bridge::builder(name("br0")).address(net("10.5.0.1/24"));
    builder.address(net("fd00:5::1/64")).create().unwrap()
}

fn attachment() -> Attachment {
    Attachment::new(net("10.5.0.2/24")).address(net("fd00:5::2/64"))
}

fn names() -> Vec<String> {
    links().unwrap().into_iter().map(|link| link.name).collect()
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn what_is_attached_without_blocking_is_the_same() {
    in_own_netns(|runtime| {
        let builder = Bridge::builder(name("br0")).address(net("10.5.0.1/24"));
        let builder = builder.address(net("fd00:5::1/64"));
        let bridge = runtime.block_on(builder.create_async()).unwrap();
        let fewest = |attach: &dyn Fn(&NetNs) -> u32| {
            let one = |_| attach(&NetNs::new().unwrap());
            (0..8).map(one).min().unwrap()
        };
        let blocking = fewest(&|netns| bridge.attach(netns, attachment()).unwrap().messages());
        let ours = fewest(&|netns| {
            let port = runtime.block_on(bridge.attach_async(netns, attachment()));
            let port = port.unwrap();
            let messages = port.messages();
            runtime.block_on(port.remove_async()).unwrap();
            messages
        });
        assert_eq!(ours, blocking);

        let netns = NetNs::new().unwrap();
        let port = runtime
            .block_on(bridge.attach_async(&netns, attachment()))
            .unwrap();
        for (there, here) in [("10.5.0.1", "10.5.0.2"), ("fd00:5::1", "fd00:5::2")] {
            let gateway = UdpSocket::bind((there, 0)).unwrap();
            gateway
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            let socket = netns.run(|| UdpSocket::bind((here, 0)).unwrap()).unwrap();
            socket
                .send_to(b"ping", gateway.local_addr().unwrap())
                .unwrap();
            let (_, from) = gateway.recv_from(&mut [0; 8]).unwrap();
            assert_eq!(from, socket.local_addr().unwrap());
        }
        let error = runtime.block_on(bridge.attach_async(&netns, attachment()));
        assert_eq!(error.unwrap_err().kind(), ErrorKind::AlreadyExists);
        runtime.block_on(bridge.detach_all_async([port])).unwrap();
        runtime.block_on(bridge.remove_async()).unwrap();
        assert_eq!(names(), ["lo"]);
    });
}

#[test]
fn a_refusal_has_the_kernels_words_too() {
    in_own_netns(|runtime| {
        let bridge = dual();
        let netns = NetNs::new().unwrap();
        let gateway = cofferdam_netbridge::Gateway::Address("10.99.0.1".parse().unwrap());
        let nowhere = || attachment().gateway(gateway);
        let blocking = bridge.attach(&netns, nowhere()).unwrap_err().to_string();
        let ours = runtime.block_on(bridge.attach_async(&netns, nowhere()));
        assert_eq!(ours.unwrap_err().to_string(), blocking);
        assert!(
            blocking.ends_with("(Nexthop has invalid gateway)"),
            "{blocking}"
        );
        eventually("the link is gone", || names() == ["lo", "br0"]);
    });
}

#[test]
fn a_future_that_is_dropped_half_way_leaves_nothing() {
    in_own_netns(|runtime| {
        let bridge = dual();
        let netns = NetNs::new().unwrap();
        let _inside = runtime.enter();
        for turn in 0..30 {
            {
                let mut attach = pin!(bridge.attach_async(&netns, attachment()));
                let mut context = Context::from_waker(Waker::noop());
                assert!(attach.as_mut().poll(&mut context).is_pending());
                std::thread::sleep(Duration::from_micros(turn * 100));
            }
            // The address is free when all is undone.
            let attach = || bridge.attach(&netns, attachment());
            eventually("it is undone", || attach().is_ok());
            eventually("the link is gone", || names() == ["lo", "br0"]);
            assert_eq!(netns.run(names).unwrap(), ["lo"]);
        }
        for _ in 0..5 {
            let create = Bridge::builder(name("br1")).create_async();
            let mut create = Box::pin(create);
            let mut context = Context::from_waker(Waker::noop());
            assert!(create.as_mut().poll(&mut context).is_pending());
            drop(create);
            let again = || Bridge::builder(name("br1")).create();
            eventually("the bridge is gone", || again().is_ok());
        }
    });
}

#[test]
fn a_bridge_outlives_the_runtime_it_was_made_in() {
    in_own_netns(|first| {
        let bridge = first
            .block_on(
                Bridge::builder(name("br0"))
                    .address(net("10.5.0.1/24"))
                    .create_async(),
            )
            .unwrap();
        let attachment = || Attachment::new(net("10.5.0.2/24"));
        let netns = NetNs::new().unwrap();
        for _ in 0..2 {
            let second = runtime();
            let elsewhere = NetNs::new().unwrap();
            let port = elsewhere.run(|| second.block_on(bridge.attach_async(&netns, attachment())));
            let port = port.unwrap().unwrap();
            assert!(names().contains(&port.name().to_string()));
            drop(second);
        }
    });
}

#[test]
fn many_tasks_attach_at_once() {
    in_own_netns(|runtime| {
        let bridge = std::sync::Arc::new(
            Bridge::builder(name("br0"))
                .address(net("10.5.0.1/16"))
                .create()
                .unwrap(),
        );
        let attach = |n: usize| {
            let bridge = bridge.clone();
            runtime.spawn(async move {
                let netns = NetNs::new().unwrap();
                let address = net(&format!("10.5.1.{n}/16"));
                let port = bridge.attach_async(&netns, Attachment::new(address)).await;
                (netns, port.unwrap())
            })
        };
        let running: Vec<_> = (1..=40).map(attach).collect();
        let (namespaces, ports): (Vec<_>, Vec<_>) = running
            .into_iter()
            .map(|task| runtime.block_on(task).unwrap())
            .unzip();
        assert_eq!(names().len(), 42);
        bridge.detach_all(ports).unwrap();
        assert_eq!(names().len(), 2);
        drop(namespaces);
    });
}
