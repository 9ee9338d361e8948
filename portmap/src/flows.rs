//! What becomes of flows when ports are published and unpublished.

use std::net::IpAddr;

use crate::conntrack::{Door, Doors, Established, Leading};
use crate::error::Result;
use crate::kernel::during;
use crate::mapping::PortMapping;
use crate::portmap::{Portmap, Shared};
use crate::spec::Protocol;

impl Portmap {
    /// Ends all flows through published ports, also established connections of TCP, and says how many there were. For who unpublishes
    /// a port of a container that lives on and wants its clients cut off: what is unpublished only is closed to new connections.
    ///
    /// The ports need not be published any more. Of a flow that is ended the next packet is dealt with as a first one is; a TCP
    /// connection then gets a RST, or no answer. Flows that lead elsewhere are left alone.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_NET_ADMIN`; `Unsupported` if the kernel has no nf_conntrack_netlink.
    pub fn end_flows<'a>(&self, ports: impl IntoIterator<Item = &'a PortMapping>) -> Result<usize> {
        let ways = (Leading::There, Established::End);
        self.shared.end(ports, ways, "end flows of published ports")
    }

    /// Ends all flows that this address began or answered, and says how many there were: for the address of a container that is gone,
    /// before another gets it. It takes no heed of who made them.
    ///
    /// # Errors
    /// As [`end_flows`](Self::end_flows).
    pub fn end_flows_of(&self, address: IpAddr) -> Result<usize> {
        let doing = format!("end flows of {address}");
        let ended = self.shared.conntrack().end_flows_of(address);
        ended.map_err(during(&doing))
    }
}

impl Shared {
    /// Ends flows that are older than these ports and would go on past them.
    ///
    /// For TCP there is nothing to look for: what was led here before was ended when that port was closed; a connection that
    /// nobody took left no flow, or one that is closed, which the kernel begins anew with the next SYN.
    pub(crate) fn end_stale_flows<'a>(
        &self,
        ports: impl IntoIterator<Item = &'a PortMapping>,
        doing: &str,
    ) -> Result<()> {
        let may_go_on = |port: &&PortMapping| port.protocol() != Protocol::Tcp;
        let mut ports = ports.into_iter().filter(may_go_on).peekable();
        if ports.peek().is_none() {
            return Ok(());
        }
        let ways = (Leading::Elsewhere, Established::Keep);
        self.end(ports, ways, doing).map(drop)
    }

    /// Ends flows through ports that are closed, but for connections that are established.
    pub(crate) fn end_closed_flows<'a>(
        &self,
        ports: impl IntoIterator<Item = &'a PortMapping>,
        doing: &str,
    ) -> Result<()> {
        let ways = (Leading::There, Established::Keep);
        self.end(ports, ways, doing).map(drop)
    }

    fn end<'a>(
        &self,
        ports: impl IntoIterator<Item = &'a PortMapping>,
        (leading, established): (Leading, Established),
        doing: &str,
    ) -> Result<usize> {
        let mut conntrack = self.conntrack();
        if conntrack.is_empty().map_err(during(doing))? {
            return Ok(0);
        }
        let doors = Doors::new(ports.into_iter().map(door), leading, established);
        conntrack.end_flows(&doors).map_err(during(doing))
    }
}

fn door(port: &PortMapping) -> Door {
    Door {
        host_ip: port.host_ip(),
        host_port: port.host_port(),
        protocol: port.protocol(),
        target: port.target(),
    }
}
