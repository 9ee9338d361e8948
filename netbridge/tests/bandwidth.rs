//! Limits, with real traffic, on the real kernel.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_netbridge::{
    Attachment, Bandwidth, Bridge, Egress, ErrorKind, IfName, NetNs, Port, Rate, links,
};
use cofferdam_testkit::{Need, have, is_emulated, skip, turns};

const NEEDS: &[Need] = &[Need::Namespaces];
const MEGABIT: u64 = 1_000_000;

/// A container at a bridge, whose host is a network namespace of its own.
struct World {
    bridge: Bridge,
    netns: NetNs,
    port: Port,
}

fn in_a_world(work: impl FnOnce(&World) + Send) {
    if !have(NEEDS) {
        return;
    }
    cofferdam_testkit::NetNs::new().run(|| {
        let before = link_names();
        let bridge = Bridge::builder(name("br0")).address("10.5.0.1/24".parse().unwrap());
        let bridge = bridge.create().unwrap();
        let netns = NetNs::new().unwrap();
        let attachment = Attachment::new("10.5.0.2/24".parse().unwrap());
        let port = bridge.attach(&netns, attachment).unwrap();
        let world = World {
            bridge,
            netns,
            port,
        };
        work(&world);
        let World { bridge, port, .. } = world;
        port.remove().unwrap();
        bridge.remove().unwrap();
        assert_eq!(link_names(), before);
    });
}

fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

fn link_names() -> BTreeSet<String> {
    links().unwrap().into_iter().map(|link| link.name).collect()
}

/// Police is a module that not every kernel has. One with all modules, as in the VM, must.
fn has_police() -> bool {
    if !have(NEEDS) {
        return false;
    }
    let support = Bandwidth::probe().unwrap();
    assert!(support.tbf && support.ifb, "{support:?}");
    if !support.police {
        let in_vm = std::env::var_os("COFFERDAM_VM").is_some();
        skip("act_police", in_vm);
    }
    support.police
}

/// Which way the traffic goes, as the container sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

/// The sending and the receiving end of what `socket` makes, at both addresses.
fn ends<T: Send>(world: &World, way: Way, socket: impl Fn(&str) -> T + Sync) -> (T, T) {
    let inside = world.netns.run(|| socket("10.5.0.2:0")).unwrap();
    let outside = socket("10.5.0.1:0");
    match way {
        Way::In => (outside, inside),
        Way::Out => (inside, outside),
    }
}

/// Sends datagrams of 60 Mbit/s, and returns the bits of frames a second that arrive once the burst is used up.
fn flood(world: &World, way: Way) -> f64 {
    const FRAME: usize = 1500 + 14;
    let (sender, receiver) = ends(world, way, |address| UdpSocket::bind(address).unwrap());
    receiver
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    let to = receiver.local_addr().unwrap();
    let (warm, all) = (Duration::from_millis(300), Duration::from_millis(1000));
    thread::scope(|scope| {
        scope.spawn(move || {
            let start = Instant::now();
            let payload = [7; 1500 - 28];
            let mut sent = 0_u32;
            while start.elapsed() < all + Duration::from_millis(100) {
                // ENOBUFS, where the queue is full.
                let _dropped = sender.send_to(&payload, to).is_err();
                sent += 1;
                let due = Duration::from_secs_f64(f64::from(sent) * FRAME as f64 * 8.0 / 60e6);
                thread::sleep(due.saturating_sub(start.elapsed()));
            }
        });
        let start = Instant::now();
        let mut bytes = 0;
        while start.elapsed() < all {
            receiver.recv(&mut [0; 2000]).unwrap();
            bytes += if start.elapsed() > warm { FRAME } else { 0 };
        }
        bytes as f64 * 8.0 / (start.elapsed() - warm).as_secs_f64()
    })
}

/// What the container receives and what it sends, at once.
fn both(world: &World) -> (f64, f64) {
    thread::scope(|scope| {
        let received = scope.spawn(|| flood(world, Way::In));
        let sent = flood(world, Way::Out);
        (received.join().unwrap(), sent)
    })
}

/// Bits of TCP's payload a second, of one connection whose sender writes all it can.
fn tcp(world: &World, way: Way) -> f64 {
    let listener = TcpListener::bind("10.5.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let inside = world
        .netns
        .run(|| TcpStream::connect(address).unwrap())
        .unwrap();
    let outside = listener.accept().unwrap().0;
    let (mut sender, mut receiver) = match way {
        Way::In => (outside, inside),
        Way::Out => (inside, outside),
    };
    let timeout = Some(Duration::from_secs(10));
    receiver.set_read_timeout(timeout).unwrap();
    sender.set_write_timeout(timeout).unwrap();
    thread::scope(|scope| {
        // Ends when the receiver is gone.
        scope.spawn(move || while sender.write_all(&[7; 16 << 10]).is_ok() {});
        let mut buffer = vec![0; 64 << 10];
        let (start, mut bytes) = (Instant::now(), 0);
        while start.elapsed() < Duration::from_millis(800) {
            bytes += receiver.read(&mut buffer).unwrap();
        }
        let rate = bytes as f64 * 8.0 / start.elapsed().as_secs_f64();
        drop(receiver);
        rate
    })
}

fn assert_about(measured: f64, megabits: f64) {
    let ratio = measured / (megabits * MEGABIT as f64);
    // A machine that is busy, or emulated, sends less at times, a third of it on a busy host, but never more.
    let least = if is_emulated() { 0.2 } else { 0.7 };
    assert!(
        (least..1.15).contains(&ratio),
        "{ratio} of {megabits} Mbit/s"
    );
}

#[test]
fn both_directions_go_at_the_rate_that_was_asked_for() {
    in_a_world(|world| {
        // An emulated CPU may not get 20 Mbit/s through: then a quarter of it.
        let (down, up) = (turns(20, 5) as u64, turns(8, 2) as u64);
        let bandwidth = Bandwidth::new()
            .ingress(Rate::bits(down * MEGABIT))
            .egress(Rate::bits(up * MEGABIT));
        let mut shaper = world.port.limit(&bandwidth).unwrap();
        let (received, sent) = both(world);
        eprintln!(
            "{:.2} of {down} and {:.2} of {up} Mbit/s",
            received / 1e6,
            sent / 1e6
        );
        assert_about(received, down as f64);
        assert_about(sent, up as f64);

        let shaping = shaper.read().unwrap();
        let (ingress, egress) = (shaping.ingress.unwrap(), shaping.egress.unwrap());
        assert_eq!((ingress.bits, egress.bits), (down * MEGABIT, up * MEGABIT));
        assert_eq!(shaping.by, Egress::Ifb);
        for (limit, bits) in [(&ingress, down * MEGABIT), (&egress, up * MEGABIT)] {
            assert!(limit.drops > 0 && limit.bytes * 8 > bits / 2, "{limit:?}");
        }
        assert!(
            ingress.burst.abs_diff(down * MEGABIT / 800) < 25,
            "{ingress:?}"
        );
        assert_eq!(Bandwidth::of(world.port.name()).unwrap().by, Egress::Ifb);

        let more = bandwidth
            .ingress(Rate::bits(2 * down * MEGABIT))
            .egress(Rate::bits(2 * up * MEGABIT));
        shaper.change(&more).unwrap();
        let (received, sent) = both(world);
        eprintln!(
            "{:.2} of {} and {:.2} of {} Mbit/s",
            received / 1e6,
            2 * down,
            sent / 1e6,
            2 * up
        );
        assert_about(received, (2 * down) as f64);
        assert_about(sent, (2 * up) as f64);
        // Changed in place: what was counted before is still there.
        assert!(shaper.read().unwrap().egress.unwrap().bytes > egress.bytes);

        // TCP has headers, and what it makes of a queue that is full.
        let (received, sent) = (tcp(world, Way::In), tcp(world, Way::Out));
        eprintln!("{:.2} and {:.2} Mbit/s by TCP", received / 1e6, sent / 1e6);
        let least = if is_emulated() { 0.2 } else { 0.7 };
        for (measured, megabits) in [(received, 2 * down), (sent, 2 * up)] {
            let ratio = measured / (megabits * MEGABIT) as f64;
            assert!((least..1.15).contains(&ratio), "{ratio} of {megabits}");
        }

        shaper.remove().unwrap();
        assert_eq!(
            Bandwidth::of(world.port.name()).unwrap(),
            Default::default()
        );
        let (received, sent) = both(world);
        let least = if is_emulated() { 5e6 } else { 42e6 };
        assert!(received.min(sent) > least, "{received} {sent}");
    });
}

#[test]
fn one_direction_leaves_the_other_alone_and_goes_away() {
    in_a_world(|world| {
        let before = link_names();
        let ingress = Bandwidth::new().ingress(Rate::bits(10 * MEGABIT));
        let egress = Bandwidth::new().egress(Rate::bits(10 * MEGABIT));
        let mut shaper = world.port.limit(&ingress).unwrap();
        assert_eq!(link_names(), before);
        let read = |shaper: &cofferdam_netbridge::Shaper| {
            let shaping = shaper.read().unwrap();
            (shaping.ingress.is_some(), shaping.egress.is_some())
        };
        assert_eq!(read(&shaper), (true, false));
        shaper.change(&egress).unwrap();
        assert_eq!(read(&shaper), (false, true));
        assert_eq!(link_names().len(), before.len() + 1);
        let (received, sent) = both(world);
        assert_about(sent, 10.0);
        assert!(received > 20e6, "{received}");
        shaper.change(&Bandwidth::new()).unwrap();
        assert_eq!(read(&shaper), (false, false));
        assert_eq!(link_names(), before);
        shaper.change(&egress).unwrap();
        drop(shaper);
        assert_eq!(link_names(), before);
        assert_eq!(
            Bandwidth::of(world.port.name()).unwrap(),
            Default::default()
        );
    });
}

#[test]
fn what_is_policed_is_dropped_at_the_rate_that_was_asked_for() {
    if !has_police() {
        return;
    }
    in_a_world(|world| {
        let limit = |megabits| {
            Bandwidth::new()
                .egress(Rate::bits(megabits * MEGABIT))
                .egress_by(Egress::Police)
        };
        let before = link_names();
        let mut shaper = world.port.limit(&limit(8)).unwrap();
        assert_eq!(link_names(), before);
        for megabits in [8, 16, 4] {
            shaper.change(&limit(megabits)).unwrap();
            let measured = flood(world, Way::Out);
            eprintln!("{:.2} of {megabits} Mbit/s", measured / 1e6);
            assert_about(measured, megabits as f64);
            let shaping = shaper.read().unwrap();
            let egress = shaping.egress.unwrap();
            assert_eq!(
                (egress.bits, shaping.by),
                (megabits * MEGABIT, Egress::Police)
            );
            assert_eq!(egress.queue, None);
            assert!(
                egress.drops > 0 && egress.burst.abs_diff(128 << 10) < 200,
                "{egress:?}"
            );
        }
        // From one way to the other, and back.
        shaper.change(&limit(4).egress_by(Egress::Ifb)).unwrap();
        assert_eq!(shaper.read().unwrap().by, Egress::Ifb);
        shaper.change(&limit(4)).unwrap();
        assert_eq!(shaper.read().unwrap().by, Egress::Police);
        // What would be enough for a queue drops every segment here.
        let small = Bandwidth::new().egress(Rate::bits(MEGABIT).burst(2000));
        let error = shaper.change(&small).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert_eq!(shaper.read().unwrap().egress.unwrap().bits, 4 * MEGABIT);
        assert_eq!(link_names(), before);
        shaper.remove().unwrap();
        assert_eq!(
            Bandwidth::of(world.port.name()).unwrap(),
            Default::default()
        );
    });
}

#[test]
fn what_the_kernel_does_not_have_is_unsupported_and_leaves_nothing() {
    if !have(NEEDS) {
        return;
    }
    let support = Bandwidth::probe().unwrap();
    in_a_world(|world| {
        let before = link_names();
        let bandwidth = Bandwidth::new()
            .ingress(Rate::bits(MEGABIT))
            .egress(Rate::bits(MEGABIT))
            .egress_by(Egress::Police);
        match world.port.limit(&bandwidth) {
            Ok(shaper) => {
                assert!(support.police);
                shaper.remove().unwrap();
            }
            Err(error) => {
                assert!(!support.police);
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                assert!(error.to_string().contains("act_police"), "{error}");
            }
        }
        assert_eq!(
            Bandwidth::of(world.port.name()).unwrap(),
            Default::default()
        );
        assert_eq!(link_names(), before);
    });
}

#[test]
fn what_cannot_be_is_refused_before_anything_changes() {
    in_a_world(|world| {
        let before = link_names();
        let good = Rate::bits(MEGABIT);
        for bad in [
            Bandwidth::new().ingress(good).egress(Rate::bits(0)),
            Bandwidth::new().egress(good).ingress(Rate::bits(7)),
            Bandwidth::new().ingress(good).egress(good.burst(1513)),
        ] {
            let error = world.port.limit(&bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            assert_eq!(
                Bandwidth::of(world.port.name()).unwrap(),
                Default::default()
            );
        }
        let mut shaper = world.port.limit(&Bandwidth::new().ingress(good)).unwrap();
        let again = world
            .port
            .limit(&Bandwidth::new().ingress(good))
            .unwrap_err();
        assert_eq!(again.kind(), ErrorKind::AlreadyExists, "{again}");
        let bad = Bandwidth::new().egress(good).ingress(Rate::bits(0));
        assert!(shaper.change(&bad).is_err());
        let shaping = shaper.read().unwrap();
        assert_eq!(shaping.ingress.unwrap().bits, MEGABIT);
        assert_eq!((shaping.egress, link_names()), (None, before));
        let error = Bandwidth::of(&name("nosuch0")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    });
}

#[test]
fn limits_that_were_left_are_found_and_removed() {
    in_a_world(|world| {
        let before = link_names();
        let bandwidth = Bandwidth::new()
            .ingress(Rate::bits(10 * MEGABIT).burst(20_000))
            .egress(Rate::bits(5 * MEGABIT));
        let left = world.port.limit(&bandwidth).unwrap().persist();
        let shaping = Bandwidth::of(&left).unwrap();
        assert_eq!(shaping.egress.unwrap().bits, 5 * MEGABIT);
        assert!(shaping.ingress.unwrap().burst.abs_diff(20_000) < 20);
        assert_eq!(
            world.port.limit(&bandwidth).unwrap_err().kind(),
            ErrorKind::AlreadyExists
        );
        for _ in 0..2 {
            Bandwidth::clear(&left).unwrap();
            assert_eq!(Bandwidth::of(&left).unwrap(), Default::default());
            assert_eq!(link_names(), before);
        }
        // What another process left whose link is gone: the ifb.
        let netns = NetNs::new().unwrap();
        let attachment = Attachment::new("10.5.0.3/24".parse().unwrap());
        let port = world.bridge.attach(&netns, attachment).unwrap();
        let left = port.limit(&bandwidth).unwrap().persist();
        port.remove().unwrap();
        assert_eq!(link_names().len(), before.len() + 1);
        Bandwidth::clear(&left).unwrap();
        assert_eq!(link_names(), before);
    });
}

#[test]
fn a_link_that_is_gone_has_no_limits_to_remove() {
    in_a_world(|world| {
        let before = link_names();
        let netns = NetNs::new().unwrap();
        let attachment = Attachment::new("10.5.0.3/24".parse().unwrap());
        let port = world.bridge.attach(&netns, attachment).unwrap();
        let bandwidth = Bandwidth::new()
            .ingress(Rate::bits(10 * MEGABIT))
            .egress(Rate::bits(5 * MEGABIT));
        let shaper = port.limit(&bandwidth).unwrap();
        port.remove().unwrap();
        assert_eq!(shaper.read().unwrap_err().kind(), ErrorKind::NotFound);
        shaper.remove().unwrap();
        assert_eq!(link_names(), before);
    });
}
