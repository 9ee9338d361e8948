//! Answers that no kernel gives: each is read or refused, and nothing panics.

use super::*;
use crate::bridge_options::BridgeOptions;
use crate::ipam::random::Random;
use crate::message::vxlan::FdbAnswer;
use crate::port_flags::PortFlags;
use crate::port_vlans::PortVlans;

fn or_malformed<T>(read: Result<T>) {
    assert!(read.map_or_else(|error| error.kind() == ErrorKind::Malformed, |_| true));
}

/// Everything that reads what came from the kernel.
fn read(bytes: &[u8]) {
    or_malformed(LinkAnswer::parse(bytes));
    or_malformed(AddressAnswer::parse(bytes));
    or_malformed(RouteAnswer::parse(bytes));
    std::hint::black_box(FdbAnswer::parse(bytes));
    or_malformed(crate::inspect::link(bytes));
    or_malformed(crate::inspect::neighbour(bytes));
    or_malformed(crate::gateway::default_route(bytes));
    or_malformed(tc::tbf(bytes));
    or_malformed(tc::filter(bytes));
    or_malformed(PortFlags::parse(bytes));
    or_malformed(PortVlans::parse(bytes));
    or_malformed(BridgeOptions::parse(bytes));
    for flags in [0, NLM_F_ACK_TLVS, NLM_F_ACK_TLVS | NLM_F_CAPPED] {
        let message = Message {
            kind: NLMSG_ERROR,
            flags,
            sequence: 1,
            payload: bytes,
        };
        or_malformed(Ack::of_error(&message));
        std::hint::black_box(Ack::of_done(&message));
    }
    if let Ok(messages) = messages(bytes) {
        assert!(messages.len() <= bytes.len() / HEADER);
    }
}

/// A header and attributes in attributes, of lengths that are right but for some.
fn made_up(random: &mut Random) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..random.below(24))
        .map(|_| random.below(4) as u8)
        .collect();
    for _ in 0..random.below(12) {
        let length = match random.below(8) {
            0 => random.below(1 << 16),
            _ => 4 + random.below(40),
        };
        bytes.extend((length as u16).to_ne_bytes());
        bytes.extend((random.below(50) as u16).to_ne_bytes());
        bytes
            .extend((0..random.below(12)).map(|_| [0, 1, 8, 0xff, 0x80][random.below(5) as usize]));
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

#[test]
fn nothing_that_comes_in_makes_a_panic() {
    for seed in 0..cofferdam_testkit::turns(4000, 400) {
        read(&made_up(&mut Random::new(seed as u64)));
    }
    for length in 0..64 {
        for byte in [0, 1, 0x7f, 0x80, 0xff] {
            read(&vec![byte; length]);
        }
    }
    // The errno whose negative there is none of, and a request that is said to be longer than memory.
    let worst = [i32::MIN.to_ne_bytes(), [0xff; 4]].concat();
    read(&worst);
}
