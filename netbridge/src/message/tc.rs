//! Traffic control: queueing disciplines and filters.
//!
//! The kinds used are none that netlink-packet-route has options of, so their attributes are written here.

use netlink_packet_core::{DefaultNla, NLM_F_ECHO};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};

use super::{CREATE, Request};
use crate::ifname::IfName;

/// Of the root queueing disciplines made here: what tells them from those of others.
pub(crate) const HANDLE: TcHandle = TcHandle {
    major: 0xc0fd,
    minor: 0,
};
/// Of the ingress queueing discipline, always.
const INGRESS_HANDLE: TcHandle = TcHandle {
    major: 0xffff,
    minor: 0,
};

/// Nanoseconds of a tick of the scheduler's clock (`PSCHED_SHIFT`).
pub(crate) const TICK: u128 = 64;

const TCA_OPTIONS: u16 = 2;

/// A token bucket, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// A second.
    pub(crate) rate: u64,
    pub(crate) burst: u32,
    /// Of the queue before it, with what waits for the burst.
    pub(crate) limit: u32,
}

/// Makes a tbf the root queueing discipline of a link that has none.
pub(crate) fn create_tbf(index: u32, name: &IfName, bucket: Bucket) -> Request {
    let what = format!("limit {name}");
    let message = tbf(index, bucket);
    Request::new(
        what,
        CREATE,
        RouteNetlinkMessage::NewQueueDiscipline(message),
    )
}

/// Changes the tbf that [`create_tbf`] made, with what it has in its queue.
pub(crate) fn change_tbf(index: u32, name: &IfName, bucket: Bucket) -> Request {
    let what = format!("change the limit of {name}");
    let message = tbf(index, bucket);
    Request::new(what, 0, RouteNetlinkMessage::NewQueueDiscipline(message))
}

pub(crate) fn delete_root(index: u32, name: &IfName) -> Request {
    let message = qdisc(index, HANDLE, TcHandle::ROOT);
    let what = format!("delete the limit of {name}");
    Request::new(what, 0, RouteNetlinkMessage::DelQueueDiscipline(message))
}

/// Without the flag to echo it, the answer goes to who listens to changes, but not to who asked.
pub(crate) fn root(index: u32, name: &IfName) -> Request {
    let message = qdisc(index, TcHandle::UNSPEC, TcHandle::ROOT);
    let what = format!("read the limit of {name}");
    Request::new(
        what,
        NLM_F_ECHO,
        RouteNetlinkMessage::GetQueueDiscipline(message),
    )
}

/// What filters of what comes in on a link hang on.
pub(crate) fn create_ingress(index: u32, name: &IfName) -> Request {
    let mut message = qdisc(index, INGRESS_HANDLE, TcHandle::INGRESS);
    message.attributes = vec![TcAttribute::Kind("ingress".to_owned())];
    let what = format!("filter what comes in on {name}");
    Request::new(
        what,
        CREATE,
        RouteNetlinkMessage::NewQueueDiscipline(message),
    )
}

/// Deletes it with all its filters.
pub(crate) fn delete_ingress(index: u32, name: &IfName) -> Request {
    let message = qdisc(index, INGRESS_HANDLE, TcHandle::INGRESS);
    let what = format!("delete the filters of what comes in on {name}");
    Request::new(what, 0, RouteNetlinkMessage::DelQueueDiscipline(message))
}

pub(crate) fn ingress_filters(index: u32, name: &IfName) -> Request {
    let message = qdisc(index, TcHandle::UNSPEC, INGRESS_HANDLE);
    let what = format!("list the filters of what comes in on {name}");
    Request::dump(what, RouteNetlinkMessage::GetTrafficFilter(message))
}

/// Sends all that comes in on a link through another, which gives it back.
pub(crate) fn redirect(index: u32, name: &IfName, to: u32) -> Request {
    const TCA_MIRRED_PARMS: u16 = 2;
    const TC_ACT_STOLEN: u32 = 4;
    const TCA_EGRESS_REDIR: u32 = 1;
    // struct tc_mirred: struct tc_gen (index, capab, action, refcnt, bindcnt), eaction, ifindex.
    let parameters = words(&[0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, to]);
    let options = attribute(TCA_MIRRED_PARMS, &parameters);
    let what = format!("redirect what comes in on {name}");
    filter(what, index, FIRST, "mirred", &options)
}

/// The priority of a filter: the lower goes first.
pub(crate) type Priority = u16;
/// A police filter is changed by one of the other priority, after which the first is deleted.
pub(crate) const FIRST: Priority = 1;
pub(crate) const SECOND: Priority = 2;

/// Drops what comes in on a link and does not fit the bucket. There is no queue.
pub(crate) fn police(index: u32, name: &IfName, bucket: Bucket, priority: Priority) -> Request {
    const TCA_POLICE_TBF: u16 = 1;
    const TCA_POLICE_RATE: u16 = 2;
    const TCA_POLICE_RATE64: u16 = 8;
    const TC_ACT_SHOT: u32 = 2;
    let ticks = u128::from(bucket.burst) * 1_000_000_000 / u128::from(bucket.rate.max(1)) / TICK;
    let ticks = u32::try_from(ticks).unwrap_or(u32::MAX);
    // struct tc_police: index, action, limit, burst, mtu, rate, peakrate, refcnt, bindcnt, capab.
    let parameters = [
        words(&[0, TC_ACT_SHOT, 0, ticks, u32::MAX]),
        rate_spec(bucket.rate),
        vec![0; 12],
        words(&[0; 3]),
    ];
    let options = [
        attribute(TCA_POLICE_TBF, &parameters.concat()),
        // The kernel wants a table, and does not look into it where the rate says what the link layer is.
        attribute(TCA_POLICE_RATE, &[0; 1024]),
        attribute(TCA_POLICE_RATE64, &bucket.rate.to_ne_bytes()),
    ];
    let what = format!("police what comes in on {name}");
    filter(what, index, priority, "police", &options.concat())
}

pub(crate) fn delete_filter(index: u32, name: &IfName, priority: Priority) -> Request {
    let message = filter_message(index, priority);
    let what = format!("delete a filter of {name}");
    Request::new(what, 0, RouteNetlinkMessage::DelTrafficFilter(message))
}

pub(crate) fn create_ifb(name: &IfName, mtu: u32) -> Request {
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(name.to_string()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::NumTxQueues(1),
        LinkAttribute::NumRxQueues(1),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Ifb)]),
    ];
    let message = RouteNetlinkMessage::NewLink(link);
    Request::new(format!("create ifb {name}"), CREATE, message)
}

fn tbf(index: u32, bucket: Bucket) -> TcMessage {
    const TCA_TBF_PARMS: u16 = 1;
    const TCA_TBF_RATE64: u16 = 4;
    const TCA_TBF_BURST: u16 = 6;
    // struct tc_tbf_qopt: rate, peakrate, limit, buffer, mtu. The burst is said in bytes, not by `buffer`.
    let parameters = [
        rate_spec(bucket.rate),
        vec![0; 12],
        words(&[bucket.limit, 0, 0]),
    ];
    let options = [
        attribute(TCA_TBF_PARMS, &parameters.concat()),
        attribute(TCA_TBF_RATE64, &bucket.rate.to_ne_bytes()),
        attribute(TCA_TBF_BURST, &bucket.burst.to_ne_bytes()),
    ];
    let mut message = qdisc(index, HANDLE, TcHandle::ROOT);
    message.attributes = vec![
        TcAttribute::Kind("tbf".to_owned()),
        TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, options.concat())),
    ];
    message
}

/// One that takes every packet of every protocol, and does `action` with it. By u32, which every kernel with filters has.
fn filter(what: String, index: u32, priority: Priority, action: &str, options: &[u8]) -> Request {
    const TCA_U32_SEL: u16 = 5;
    const TCA_U32_ACT: u16 = 7;
    const TCA_ACT_KIND: u16 = 1;
    const TCA_ACT_OPTIONS: u16 = 2;
    const TC_U32_TERMINAL: u8 = 1;
    // struct tc_u32_sel with one key: whatever is at the beginning, under a mask of nothing.
    let (keys, key) = (1, [0; 16]);
    let mut selector = vec![TC_U32_TERMINAL, 0, keys, 0];
    selector.resize(16, 0);
    selector.extend(key);
    let action = [
        attribute(TCA_ACT_KIND, &[action.as_bytes(), b"\0"].concat()),
        attribute(TCA_ACT_OPTIONS, options),
    ];
    let first = attribute(1, &action.concat());
    let options = [
        attribute(TCA_U32_SEL, &selector),
        attribute(TCA_U32_ACT, &first),
    ];
    let mut message = filter_message(index, priority);
    message.attributes = vec![
        TcAttribute::Kind("u32".to_owned()),
        TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, options.concat())),
    ];
    Request::new(what, CREATE, RouteNetlinkMessage::NewTrafficFilter(message))
}

fn filter_message(index: u32, priority: Priority) -> TcMessage {
    const ETH_P_ALL: u16 = 3;
    let mut message = qdisc(index, TcHandle::UNSPEC, INGRESS_HANDLE);
    message.header.info = (u32::from(priority) << 16) | u32::from(ETH_P_ALL.to_be());
    message
}

fn qdisc(index: u32, handle: TcHandle, parent: TcHandle) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = i32::from_ne_bytes(index.to_ne_bytes());
    message.header.handle = handle;
    message.header.parent = parent;
    message
}

/// struct tc_ratespec, of Ethernet: cell_log, linklayer, overhead, cell_align, mpu, rate.
fn rate_spec(rate: u64) -> Vec<u8> {
    const CELL_LOG: u8 = 3;
    const TC_LINKLAYER_ETHERNET: u8 = 1;
    let mut spec = vec![CELL_LOG, TC_LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0];
    let rate = u32::try_from(rate).unwrap_or(u32::MAX);
    spec.extend(rate.to_ne_bytes());
    spec
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// An attribute with its padding. What is written here is at most some kilobytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> IfName {
        "veth0".parse().unwrap()
    }

    const BUCKET: Bucket = Bucket {
        rate: 1_250_000,
        burst: 12_500,
        limit: 43_750,
    };

    #[test]
    fn a_tbf_is_what_tc_would_send() {
        if cfg!(target_endian = "big") {
            return;
        }
        let bytes = create_tbf(7, &name(), BUCKET).render(1);
        let expected: &[u8] = &[
            7, 0, 0, 0, 0, 0, 0xfd, 0xc0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0,
            0, // link, handle, parent
            8, 0, 1, 0, b't', b'b', b'f', 0, // kind
            64, 0, 2, 0, // options
            40, 0, 1, 0, // parameters
            3, 1, 0, 0, 0, 0, 0, 0, 0xd0, 0x12, 0x13, 0, // the rate
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // no peak rate
            0xe6, 0xaa, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // the queue
            12, 0, 4, 0, 0xd0, 0x12, 0x13, 0, 0, 0, 0, 0, // the rate again
            8, 0, 6, 0, 0xd4, 0x30, 0, 0, // the burst
        ];
        assert_eq!(bytes[20..], *expected);
    }

    #[test]
    fn a_police_action_is_of_the_size_the_kernel_wants() {
        let bytes = police(7, &name(), BUCKET, SECOND).render(1);
        // The message's and tc's headers, "u32", options, selector, actions, the first, "police", options, three of them.
        let expected = 36 + 8 + 4 + (4 + 32) + 4 + 4 + 12 + 4 + (4 + 56) + 1028 + 12;
        assert_eq!(bytes.len(), expected);
        let ticks = 10_000_000 / 64_u32; // 10 ms
        let found = bytes.windows(4).any(|word| word == ticks.to_ne_bytes());
        assert!(found);
        let info = u32::from_ne_bytes(*bytes[32..].first_chunk().unwrap());
        assert_eq!(info, (2 << 16) | u32::from(3_u16.to_be()));
    }

    #[test]
    fn rates_above_four_gigabytes_a_second_are_said_whole() {
        let bucket = Bucket {
            rate: 5_000_000_000,
            ..BUCKET
        };
        let bytes = create_tbf(7, &name(), bucket).render(1);
        let whole = 5_000_000_000_u64.to_ne_bytes();
        assert!(bytes.windows(8).any(|word| word == whole));
    }
}
