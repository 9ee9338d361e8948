//! What a packet filter needs to know to keep a container from sending in another's name.

use std::fmt;
use std::net::IpAddr;

use crate::ifname::IfName;
use crate::mac::Colons;

/// Who may send by a port of a bridge: plain data for whoever filters packets on the bridge.
///
/// [`Port::guard_mac`](crate::Port::guard_mac) has the bridge itself drop frames of foreign hardware addresses. It does not
/// look into them: a container may still claim another's IP address, by ARP, by a neighbour advertisement or in the source of
/// a packet. That takes a table of the family `bridge`, which this crate does not make. In the words of nft(8), with one
/// element of the sets for each sender and address:
///
/// ```text
/// table bridge senders {
///     set macs { type ifname . ether_addr; elements = { "veth0" . 02:42:0a:00:00:02 } }
///     set v4_senders { type ifname . ether_addr . ipv4_addr; elements = { "veth0" . 02:42:0a:00:00:02 . 10.0.0.2 } }
///     set v6_senders { type ifname . ether_addr . ipv6_addr; elements = { "veth0" . 02:42:0a:00:00:02 . fd00::2 } }
///     set guarded { type ifname; elements = { "veth0" } }
///     chain sent {
///         type filter hook prerouting priority -300; policy accept;
///         iifname != @guarded accept
///         iifname . ether saddr != @macs drop
///         ether type arp iifname . arp saddr ether . arp saddr ip != @v4_senders drop
///         ether type ip ip saddr 0.0.0.0 accept
///         ether type ip iifname . ether saddr . ip saddr != @v4_senders drop
///         icmpv6 type nd-neighbor-advert iifname . ether saddr . icmpv6 taddr != @v6_senders drop
///         icmpv6 type nd-router-advert drop
///         ether type ip6 ip6 saddr { ::, fe80::/10 } accept
///         ether type ip6 iifname . ether saddr . ip6 saddr != @v6_senders drop
///     }
/// }
/// ```
///
/// `icmpv6 taddr` is a word of newer versions of nft(8): it is 16 bytes at 8 of the transport header. A container's
/// link-local address belongs into `v6_senders` where neighbours are to reach it by that.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Sender {
    /// The port of the bridge: the host's end.
    pub ifname: IfName,
    /// The hardware address of the container's end.
    pub mac: [u8; 6],
    /// The addresses of the container's end.
    pub addresses: Vec<IpAddr>,
}

impl Sender {
    pub(crate) fn new(ifname: IfName, mac: [u8; 6], addresses: Vec<IpAddr>) -> Self {
        Sender {
            ifname,
            mac,
            addresses,
        }
    }
}

impl fmt::Display for Sender {
    /// `veth0 02:42:0a:00:00:02 10.0.0.2 fd00::2`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.ifname, Colons(self.mac))?;
        self.addresses
            .iter()
            .try_for_each(|address| write!(f, " {address}"))
    }
}
