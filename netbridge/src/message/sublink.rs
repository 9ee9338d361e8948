//! Links of containers upon one of the host's: macvlan and ipvlan.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoIpVlan, InfoKind, InfoMacVlan, IpVlanFlags, IpVlanMode, LinkAttribute, LinkInfo,
    LinkMessage, MacVlanFlags, MacVlanMacAddressMode, MacVlanMode,
};

use super::{BY_RULE, CREATE, Mac, Request};
use crate::ifname::IfName;
use crate::ipvlan::{IpvlanFlag, IpvlanMode};
use crate::macvlan::MacvlanMode;

/// A macvlan or ipvlan link that is born in a container's network namespace, by one message from that of its parent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sublink<'a> {
    pub(crate) netns: BorrowedFd<'a>,
    pub(crate) name: &'a IfName,
    pub(crate) parent: u32,
    pub(crate) mtu: u32,
    /// None where the kernel gives it the parent's.
    pub(crate) mac: Option<Mac>,
}

/// What sort of link it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    Macvlan(MacvlanOptions),
    Ipvlan(IpvlanMode, IpvlanFlag),
}

impl Sort {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Sort::Macvlan(_) => "macvlan",
            Sort::Ipvlan(..) => "ipvlan",
        }
    }

    fn info(&self) -> Vec<LinkInfo> {
        match self {
            Sort::Macvlan(options) => vec![
                LinkInfo::Kind(InfoKind::MacVlan),
                LinkInfo::Data(InfoData::MacVlan(options.data())),
            ],
            Sort::Ipvlan(mode, flag) => vec![
                LinkInfo::Kind(InfoKind::IpVlan),
                LinkInfo::Data(InfoData::IpVlan(ipvlan_data(*mode, *flag))),
            ],
        }
    }
}

/// What a macvlan link is told as it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MacvlanOptions {
    pub(crate) mode: MacvlanMode,
    /// Of mode passthru: whether the parent takes frames for every address.
    pub(crate) promiscuous: bool,
    pub(crate) bc_queue_len: Option<u32>,
    pub(crate) bc_cutoff: Option<i32>,
}

impl MacvlanOptions {
    pub(crate) fn has_sources(&self) -> bool {
        matches!(self.mode, MacvlanMode::Source(_))
    }

    fn data(&self) -> Vec<InfoMacVlan> {
        let mut data = vec![InfoMacVlan::Mode(kernel_mode(&self.mode))];
        if self.mode == MacvlanMode::Passthru && !self.promiscuous {
            data.push(InfoMacVlan::Flags(MacVlanFlags::NoPromisc));
        }
        if let MacvlanMode::Source(sources) = &self.mode {
            data.extend(source_list(sources));
        }
        data.extend(self.bc_queue_len.map(InfoMacVlan::BcQueueLen));
        data.extend(self.bc_cutoff.map(InfoMacVlan::BcCutoff));
        data
    }
}

fn kernel_mode(mode: &MacvlanMode) -> MacVlanMode {
    match mode {
        MacvlanMode::Bridge => MacVlanMode::Bridge,
        MacvlanMode::Private => MacVlanMode::Private,
        MacvlanMode::Vepa => MacVlanMode::Vepa,
        MacvlanMode::Passthru => MacVlanMode::Passthrough,
        MacvlanMode::Source(_) => MacVlanMode::Source,
    }
}

fn source_list(sources: &[Mac]) -> [InfoMacVlan; 2] {
    let list = sources.iter().copied().map(InfoMacVlan::MacAddr).collect();
    [
        InfoMacVlan::MacAddrMode(MacVlanMacAddressMode::Set),
        InfoMacVlan::MacAddrData(list),
    ]
}

fn ipvlan_data(mode: IpvlanMode, flag: IpvlanFlag) -> Vec<InfoIpVlan> {
    let mode = match mode {
        IpvlanMode::L2 => IpVlanMode::L2,
        IpvlanMode::L3 => IpVlanMode::L3,
        IpvlanMode::L3s => IpVlanMode::L3S,
    };
    let flags = match flag {
        IpvlanFlag::Bridge => IpVlanFlags::empty(),
        IpvlanFlag::Private => IpVlanFlags::Private,
        IpvlanFlag::Vepa => IpVlanFlags::Vepa,
    };
    vec![InfoIpVlan::Mode(mode), InfoIpVlan::Flags(flags)]
}

pub(crate) fn create_sublink(sublink: Sublink<'_>, sort: &Sort, what: String) -> Request {
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::NetNsFd(sublink.netns.as_raw_fd()),
        LinkAttribute::IfName(sublink.name.to_string()),
        LinkAttribute::Link(sublink.parent),
        LinkAttribute::Mtu(sublink.mtu),
    ];
    let mac = sublink.mac.map(|mac| LinkAttribute::Address(mac.to_vec()));
    link.attributes.extend(mac);
    link.attributes.push(LinkAttribute::LinkInfo(sort.info()));
    let message = RouteNetlinkMessage::NewLink(link);
    Request::new(what, CREATE, message)
}

/// Replaces the list of senders a macvlan link of mode source takes frames of.
pub(crate) fn set_sources(index: u32, name: &IfName, sources: &[Mac]) -> Request {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes = vec![LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::MacVlan),
        LinkInfo::Data(InfoData::MacVlan(source_list(sources).to_vec())),
    ])];
    let message = RouteNetlinkMessage::NewLink(link);
    Request::new(format!("set the sources of {name}"), 0, message)
}

/// Gives a link its name; the first `ethN` that is free where none is given.
pub(crate) fn rename(index: u32, name: Option<&IfName>) -> Request {
    let mut link = LinkMessage::default();
    link.header.index = index;
    let name = name.map_or(BY_RULE, IfName::as_str);
    link.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    let message = RouteNetlinkMessage::SetLink(link);
    Request::new(format!("name link {index} {name}"), 0, message)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;
    use crate::message::tests::round_trip;

    fn options(mode: MacvlanMode) -> MacvlanOptions {
        MacvlanOptions {
            mode,
            promiscuous: false,
            bc_queue_len: None,
            bc_cutoff: None,
        }
    }

    fn every_sort() -> Vec<Sort> {
        let mut sorts = Vec::new();
        for mode in [
            MacvlanMode::Bridge,
            MacvlanMode::Private,
            MacvlanMode::Vepa,
            MacvlanMode::Passthru,
            MacvlanMode::Source(vec![[2; 6], [4; 6]]),
        ] {
            let bc = MacvlanOptions {
                bc_queue_len: Some(2000),
                bc_cutoff: Some(-1),
                ..options(mode.clone())
            };
            sorts.extend([Sort::Macvlan(options(mode)), Sort::Macvlan(bc)]);
        }
        for mode in [IpvlanMode::L2, IpvlanMode::L3, IpvlanMode::L3s] {
            for flag in [IpvlanFlag::Bridge, IpvlanFlag::Private, IpvlanFlag::Vepa] {
                sorts.push(Sort::Ipvlan(mode, flag));
            }
        }
        sorts
    }

    #[test]
    fn the_bytes_of_a_request_are_the_request() {
        let file = File::open("/dev/null").unwrap();
        let name: IfName = "eth0".parse().unwrap();
        let sublink = Sublink {
            netns: file.as_fd(),
            name: &name,
            parent: 3,
            mtu: 1400,
            mac: Some([2; 6]),
        };
        for sort in every_sort() {
            round_trip(&create_sublink(sublink, &sort, "create".to_owned()));
        }
        round_trip(&set_sources(7, &name, &[[2; 6]]));
        round_trip(&rename(7, Some(&name)));
    }

    #[test]
    fn the_parent_is_promiscuous_only_where_asked_for() {
        let quiet = options(MacvlanMode::Passthru);
        let flags = InfoMacVlan::Flags(MacVlanFlags::NoPromisc);
        assert!(quiet.data().contains(&flags));
        let loud = MacvlanOptions {
            promiscuous: true,
            ..quiet
        };
        assert!(!loud.data().contains(&flags));
    }

    #[test]
    fn one_message_makes_the_link_in_the_container() {
        let file = File::open("/dev/null").unwrap();
        let name: IfName = "mv0".parse().unwrap();
        let sublink = Sublink {
            netns: file.as_fd(),
            name: &name,
            parent: 3,
            mtu: 1400,
            mac: None,
        };
        let sort = Sort::Ipvlan(IpvlanMode::L3s, IpvlanFlag::Vepa);
        let request = create_sublink(sublink, &sort, "create".to_owned());
        let text = format!("{:?}", request.message);
        let fd = format!("NetNsFd({})", file.as_raw_fd());
        for part in [fd.as_str(), "Link(3)", "Mtu(1400)", "Mode(L3S)", "Vepa"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("Address("), "{text}");
    }
}
