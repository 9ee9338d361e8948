//! Ends flows: what conntrack remembers goes on to where it was led first, whatever the rules say since.

mod flow;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::IpAddr;

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket as Netlink, SocketAddr as NetlinkAddr};

use crate::answer::value;
use crate::error::{Errno, ErrorKind, Failure, Note};
use flow::{CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, Flow, Verdict, attribute, from_address, to_port};
pub(crate) use flow::{Door, Doors, Established, Leading};

/// Bound to the network namespace it was opened in, whoever uses it later.
#[derive(Debug)]
pub(crate) struct Conntrack {
    table: Table,
    /// To ask which addresses are the host's.
    routes: Link,
}

/// As many flows are remembered of one look at the table. If there are more, the table is looked at again.
const MOST: usize = 8192;
/// More than the kernel puts into one datagram of a dump.
const RECEIVE_BUFFER: usize = 64 << 10;
/// As many deletions are sent in one datagram.
const DELETIONS: usize = 64;

const CT_GET: u16 = 1 << 8 | 1;
const CT_DELETE: u16 = 1 << 8 | 2;
const CT_GET_STATS: u16 = 1 << 8 | 5;
const RTM_GETROUTE: u16 = 26;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const LOOK: &str = "read conntrack's flows";
const DELETE: &str = "delete a flow of conntrack";

impl Conntrack {
    pub(crate) fn open() -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::call("netlink socket for conntrack", &error);
        Ok(Conntrack {
            table: Table(Link::open(NETLINK_NETFILTER).map_err(failed)?),
            routes: Link::open(NETLINK_ROUTE).map_err(failed)?,
        })
    }

    /// Whether the namespace has no flows at all.
    pub(crate) fn is_empty(&mut self) -> Result<bool, Failure> {
        self.table.is_empty()
    }

    /// Ends the flows through these doors that are meant, and returns how many. One look at the table, however many doors there are.
    pub(crate) fn end_flows(&mut self, doors: &Doors) -> Result<usize, Failure> {
        let Conntrack { table, routes } = self;
        let mut local = HashMap::new();
        let mut is_local = |ip| match local.get(&ip) {
            Some(known) => Ok(*known),
            None => {
                let is_local = routes.is_local(ip)?;
                if local.len() < MOST {
                    local.insert(ip, is_local);
                }
                Ok(is_local)
            }
        };
        let mut ended = 0;
        for (family, ipv6) in [(libc::AF_INET, false), (libc::AF_INET6, true)] {
            if !doors.has_family(ipv6) {
                continue;
            }
            let filter = doors.only().map(|(protocol, port)| to_port(protocol, port));
            ended += table.end(family, filter, |flow| match doors.judge(flow) {
                Verdict::Meant => Ok(true),
                Verdict::Other => Ok(false),
                Verdict::MeantIfLocal(ip) => is_local(ip),
            })?;
        }
        Ok(ended)
    }

    /// Ends every flow that this address began or answered, and returns how many.
    pub(crate) fn end_flows_of(&mut self, ip: IpAddr) -> Result<usize, Failure> {
        if self.table.is_empty()? {
            return Ok(0);
        }
        let family = match ip {
            IpAddr::V4(_) => libc::AF_INET,
            IpAddr::V6(_) => libc::AF_INET6,
        };
        let mut ended = 0;
        for direction in [CTA_TUPLE_ORIG, CTA_TUPLE_REPLY] {
            let filter = Some(from_address(direction, ip));
            ended += self.table.end(family, filter, |flow| {
                Ok(flow.original.from.ip() == ip || flow.reply.from.ip() == ip)
            })?;
        }
        Ok(ended)
    }
}

/// The table of flows.
#[derive(Debug)]
struct Table(Link);

impl Table {
    /// Looks and deletes, until a look did not find more than can be remembered.
    fn end(
        &mut self,
        family: i32,
        filter: Option<Vec<u8>>,
        mut is_meant: impl FnMut(&Flow) -> Result<bool, Failure>,
    ) -> Result<usize, Failure> {
        const LOOKS: usize = 1000;
        let mut filter = filter.unwrap_or_default();
        let mut ended = 0;
        for _ in 0..LOOKS {
            let found = match self.look(family, &filter, &mut is_meant) {
                Err(failure) if !filter.is_empty() && is_unknown(&failure) => {
                    filter.clear();
                    continue;
                }
                found => found?,
            };
            ended += found.len();
            self.delete(family, &found)?;
            if found.len() < MOST {
                return Ok(ended);
            }
        }
        Err(Failure::Answer {
            step: LOOK.to_owned(),
            what: "flows of the port come faster than they are ended".to_owned(),
        })
    }

    /// The handles of the flows that are meant, `MOST` at most.
    fn look(
        &mut self,
        family: i32,
        filter: &[u8],
        is_meant: &mut impl FnMut(&Flow) -> Result<bool, Failure>,
    ) -> Result<Vec<Vec<u8>>, Failure> {
        let mut found = Vec::new();
        let mut outcome = Ok(());
        let request = self
            .0
            .message(CT_GET, NLM_F_DUMP, &family_header(family), filter);
        self.0.exchange(LOOK, &request, |answer| match answer {
            // A dump has to be read to its end: else it would answer the next request.
            Answer::Message(_) if found.len() >= MOST || outcome.is_err() => {}
            Answer::Message(bytes) => {
                let Some(flow) = bytes.get(FAMILY_HEADER..).and_then(Flow::read) else {
                    return;
                };
                match is_meant(&flow) {
                    Ok(true) => found.push(flow.handle),
                    Ok(false) => {}
                    Err(failure) => outcome = Err(failure),
                }
            }
            Answer::Error(errno) => outcome = Err(refused(LOOK, errno)),
        })?;
        outcome.map(|()| found)
    }

    /// Gone already is success.
    fn delete(&mut self, family: i32, flows: &[Vec<u8>]) -> Result<(), Failure> {
        for some in flows.chunks(DELETIONS) {
            let mut requests = Vec::new();
            for handle in some {
                requests.extend(self.0.message(CT_DELETE, 0, &family_header(family), handle));
            }
            let mut outcome = Ok(());
            self.0.exchange(DELETE, &requests, |answer| match answer {
                Answer::Error(errno) if errno != libc::ENOENT => {
                    outcome = Err(refused(DELETE, errno));
                }
                _ => {}
            })?;
            outcome?;
        }
        Ok(())
    }

    /// Whether the namespace has no flows at all. That is cheap to know, where looking is not: all namespaces share one table.
    fn is_empty(&mut self) -> Result<bool, Failure> {
        const STEP: &str = "count conntrack's flows";
        const CTA_STATS_GLOBAL_ENTRIES: u16 = 1;
        let header = family_header(libc::AF_UNSPEC);
        let request = self.0.message(CT_GET_STATS, 0, &header, &[]);
        let (mut count, mut outcome) = (None, Ok(()));
        self.0.exchange(STEP, &request, |answer| match answer {
            Answer::Message(bytes) => {
                let attributes = bytes.get(FAMILY_HEADER..).unwrap_or_default();
                count = value(attributes, CTA_STATS_GLOBAL_ENTRIES)
                    .and_then(|value| value.first_chunk())
                    .map(|value| u32::from_be_bytes(*value));
            }
            Answer::Error(errno) => outcome = Err(refused(STEP, errno)),
        })?;
        outcome.map(|()| count == Some(0))
    }
}

/// A netlink socket.
pub(crate) struct Link {
    socket: Netlink,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Link {
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Netlink::new(protocol)?;
        socket.bind(&NetlinkAddr::new(0, 0))?;
        socket.connect(&NetlinkAddr::new(0, 0))?;
        socket.set_cap_ack(true)?;
        Ok(Link {
            socket,
            sequence: 0,
            buffer: vec![0; RECEIVE_BUFFER],
        })
    }

    /// Whether it is an address of the host, by the route to it: as `fib daddr type local` sees it.
    fn is_local(&mut self, ip: IpAddr) -> Result<bool, Failure> {
        const RTA_DST: u16 = 1;
        const RTN_LOCAL: u8 = 2;
        const RTM_TYPE: usize = 7;
        let (family, address) = match ip {
            IpAddr::V4(ip) => (libc::AF_INET, ip.octets().to_vec()),
            IpAddr::V6(ip) => (libc::AF_INET6, ip.octets().to_vec()),
        };
        let mut header = [0; 12];
        header[0] = family as u8;
        header[1] = (address.len() * 8) as u8;
        let request = self.message(RTM_GETROUTE, 0, &header, &attribute(RTA_DST, &address));
        let mut is_local = false;
        self.exchange("look up a route", &request, |answer| match answer {
            Answer::Message(bytes) => is_local = bytes.get(RTM_TYPE) == Some(&RTN_LOCAL),
            // No way there: not the host.
            Answer::Error(_) => {}
        })?;
        Ok(is_local)
    }

    pub(crate) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        header: &[u8],
        attributes: &[u8],
    ) -> Vec<u8> {
        const NLMSGHDR: usize = 16;
        self.sequence = self.sequence.wrapping_add(1);
        let length = (NLMSGHDR + header.len() + attributes.len()) as u32;
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        bytes.extend(self.sequence.to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend(header);
        bytes.extend(attributes);
        bytes
    }

    fn exchange(
        &mut self,
        step: &str,
        request: &[u8],
        each: impl FnMut(Answer<'_>),
    ) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::call(step, &error);
        self.exchange_raw(request, each).map_err(failed)
    }

    /// Sends, and receives all there is to receive: the kernel answers within send() and continues a dump within recv(), so that
    /// nothing is ever waited for.
    pub(crate) fn exchange_raw(
        &mut self,
        request: &[u8],
        mut each: impl FnMut(Answer<'_>),
    ) -> io::Result<()> {
        self.socket.send(request, 0)?;
        loop {
            let received = self
                .socket
                .recv(&mut &mut self.buffer[..], libc::MSG_DONTWAIT);
            match received {
                Ok(length) => for_each_message(&self.buffer[..length], &mut each),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

pub(crate) enum Answer<'a> {
    /// What stands behind nlmsghdr.
    Message(&'a [u8]),
    Error(i32),
}

fn for_each_message(mut datagram: &[u8], each: &mut impl FnMut(Answer<'_>)) {
    const HEADER: usize = 16;
    const NLMSG_ERROR: u16 = 2;
    const NLMSG_MIN_TYPE: u16 = 16;
    while let Some((length, rest)) = datagram.split_first_chunk() {
        let length = u32::from_ne_bytes(*length) as usize;
        let (Some(payload), Some([low, high])) = (datagram.get(HEADER..length), rest.first_chunk())
        else {
            return;
        };
        match u16::from_ne_bytes([*low, *high]) {
            NLMSG_ERROR => match payload.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
                Some(0) | None => {}
                Some(code) => each(Answer::Error(code.saturating_neg())),
            },
            kind if kind >= NLMSG_MIN_TYPE => each(Answer::Message(payload)),
            _ => {}
        }
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
}

/// Length of nfgenmsg.
const FAMILY_HEADER: usize = 4;

/// nfgenmsg.
fn family_header(family: i32) -> [u8; FAMILY_HEADER] {
    [family as u8, 0, 0, 0]
}

/// The kernel does not know a part of the filter.
fn is_unknown(failure: &Failure) -> bool {
    matches!(failure.errno(), Some(libc::EOPNOTSUPP | libc::EINVAL))
}

fn refused(step: &str, errno: i32) -> Failure {
    let (kind, note) = match errno {
        libc::EPERM => (
            ErrorKind::PermissionDenied,
            Note::Ours(
                "CAP_NET_ADMIN in the user namespace that owns the network namespace is missing",
            ),
        ),
        libc::EINVAL | libc::EOPNOTSUPP => (
            ErrorKind::Unsupported,
            Note::Ours("the kernel has no nf_conntrack_netlink, or may not load it"),
        ),
        _ => (Errno(errno).kind(), Note::None),
    };
    Failure::Os {
        step: step.to_owned(),
        errno: Errno(errno),
        note,
        kind,
    }
}

#[cfg(test)]
mod tests {
    use super::flow::nested;
    use super::*;
    use cofferdam_testkit::{Need, NetNs, have};

    #[test]
    fn the_kernel_takes_the_filters() {
        if !have(&[Need::Namespaces]) {
            return;
        }
        let mut conntrack = NetNs::new().run(|| Conntrack::open().unwrap());
        let filters = |four: &str, six: &str| {
            let from = |direction, ip: &str| from_address(direction, ip.parse().unwrap());
            [
                (libc::AF_INET, to_port(17, 53)),
                (libc::AF_INET6, to_port(6, 80)),
                (libc::AF_INET, from(CTA_TUPLE_ORIG, four)),
                (libc::AF_INET6, from(CTA_TUPLE_REPLY, six)),
            ]
        };
        for (family, filter) in filters("192.0.2.1", "2001:db8::1") {
            let table = &mut conntrack.table;
            let found = table
                .look(family, &filter, &mut |_: &Flow| Ok(true))
                .unwrap();
            assert!(found.is_empty());
        }
        // CTA_FILTER with flags no kernel has.
        let wrong = nested(25, &[attribute(1, &[0xff; 4])]);
        let look = conntrack
            .table
            .look(libc::AF_INET, &wrong, &mut |_: &Flow| Ok(true));
        assert!(is_unknown(&look.unwrap_err()));
        assert_eq!(
            conntrack
                .table
                .end(libc::AF_INET, Some(wrong), |_| Ok(true))
                .unwrap(),
            0
        );
    }
}
