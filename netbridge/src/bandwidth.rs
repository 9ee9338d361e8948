//! Limits of how much a container sends and receives.

use std::fmt;

use rustix::io::Errno;

use crate::answer::LinkAnswer;
use crate::answer::tc::{self as answer, BucketAnswer, Filter};
use crate::error::{Error, ErrorKind, Result};
use crate::ifname::IfName;
use crate::link::{LinkGuard, SharedSocket};
use crate::message::tc::{self, Bucket, Priority};
use crate::message::{self, Request, Up};
use crate::netns::NetNs;
use crate::port::Port;
use crate::socket::Socket;
use crate::subnet::hash;

/// What a frame has beside the MTU.
const ETHERNET_HEADER: u32 = 14;

/// The largest a packet is that a veth hands on in one piece, with its header: segmentation is left to whoever sends it
/// on a wire.
const LARGEST_PIECE: u32 = (64 << 10) + ETHERNET_HEADER;

/// How long a packet waits in a queue at most, in milliseconds: as the CNI plugin's.
const LATENCY: u64 = 25;

/// How much goes through in a moment and for how long on average.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Rate {
    bits: u64,
    burst: Option<u32>,
}

impl Rate {
    /// So many bits a second, of frames with their Ethernet header.
    pub fn bits(per_second: u64) -> Self {
        Rate {
            bits: per_second,
            burst: None,
        }
    }

    /// So many bytes can go at once, after a while in which nothing went. Without it, it is what goes in 10 ms (the tick
    /// of the slowest clock, `HZ` 100), but 4 frames at least; where [policed](Egress::Police), what goes in 50 ms, but
    /// 128 KiB at least, for TCP takes a packet that is dropped for a jam.
    pub fn burst(mut self, bytes: u32) -> Self {
        self.burst = Some(bytes);
        self
    }
}

impl Rate {
    /// `least` is the size of a packet, which must get through.
    fn check(self, name: &IfName, least: u32) -> Result<()> {
        let why = if self.bits < 8 {
            "it is less than a byte a second".to_owned()
        } else if self.burst.is_some_and(|burst| burst < least) {
            format!("the burst is smaller than a packet, of up to {least} bytes")
        } else {
            return Ok(());
        };
        Err(Error::invalid(format_args!("limit {name} to {self}"), why))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bit/s", self.bits)?;
        match self.burst {
            Some(burst) => write!(f, " with a burst of {burst} bytes"),
            None => Ok(()),
        }
    }
}

/// How what a container sends is limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Egress {
    /// By [`Ifb`](Egress::Ifb), or where the kernel has none, by [`Police`](Egress::Police): then a burst that is given
    /// must be large enough for that.
    #[default]
    Best,
    /// By a queue: what is too much waits, up to 25 ms. This takes another link for each container, of the kind `ifb`,
    /// through which all it sends goes.
    Ifb,
    /// By dropping what is too much. It takes nothing but a filter, but TCP gets less of the rate.
    Police,
}

/// Limits for the traffic of a container, which are put on the host's end of its veth pair, where the container cannot get
/// at them: cgroup v2 has none for it.
///
/// ```no_run
/// use cofferdam_netbridge::{Bandwidth, Rate};
///
/// # let port: cofferdam_netbridge::Port = unimplemented!();
/// let bandwidth = Bandwidth::new().ingress(Rate::bits(50_000_000)).egress(Rate::bits(10_000_000));
/// let mut shaper = port.limit(&bandwidth)?;
/// println!("{} packets were dropped", shaper.read()?.egress.map_or(0, |limit| limit.drops));
/// shaper.change(&Bandwidth::new().ingress(Rate::bits(100_000_000)))?;   // what it sends has no limit any more
/// # Ok::<(), cofferdam_netbridge::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Bandwidth {
    ingress: Option<Rate>,
    egress: Option<Rate>,
    by: Egress,
}

impl Bandwidth {
    /// No limit.
    pub fn new() -> Self {
        Bandwidth::default()
    }

    /// For what the container receives, by a tbf(8) on the host's end.
    #[doc(alias = "tbf")]
    pub fn ingress(mut self, rate: Rate) -> Self {
        self.ingress = Some(rate);
        self
    }

    /// For what the container sends.
    pub fn egress(mut self, rate: Rate) -> Self {
        self.egress = Some(rate);
        self
    }

    /// How what the container sends is limited.
    #[doc(alias = "ifb")]
    #[doc(alias = "police")]
    pub fn egress_by(mut self, by: Egress) -> Self {
        self.by = by;
        self
    }

    /// Puts the limits on a link of the calling thread's network namespace: the host's end of a veth pair that was
    /// [persisted](Port::persist), or was made elsewhere. [`Port::limit`] does it for a port.
    ///
    /// # Errors
    /// `NotFound` without such a link; `InvalidInput` for a rate of less than 8 bits a second, and a burst that is smaller
    /// than a frame (where policed, than 64 KiB: segments come in pieces of that size, and would all be dropped), both
    /// before anything is changed; `AlreadyExists` where the link has a limit; `Unsupported` where the kernel lacks what is
    /// needed, with its name; `PermissionDenied` without `CAP_NET_ADMIN`. A failure leaves nothing behind.
    pub fn apply(&self, link: &IfName) -> Result<Shaper> {
        self.apply_to(SharedSocket::open()?, link)
    }

    /// Reads the limits of a link of the calling thread's network namespace, whoever set them: of those of others, only what
    /// this crate would have set.
    ///
    /// # Errors
    /// `NotFound` without such a link.
    pub fn of(link: &IfName) -> Result<Shaping> {
        let mut socket = Socket::open()?;
        let index = find(&mut socket, link)?.index;
        read(&mut socket, link, index)
    }

    /// Removes the limits that a [`Shaper`] left which was [persisted](Shaper::persist), or whose process was killed. No
    /// limit, and no such link, is a success.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_NET_ADMIN`.
    pub fn clear(link: &IfName) -> Result<()> {
        let mut socket = Socket::open()?;
        let cleared = match find(&mut socket, link) {
            Ok(found) => clear_all(&mut socket, link, found.index),
            Err(error) => gone(Err(error)),
        };
        let ifb = message::delete_link(0, &ifb_name(link));
        cleared.and(gone(socket.ask_one(ifb).map(drop)))
    }

    /// Tries what the kernel has, in a network namespace that is thrown away.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_SYS_ADMIN` and `CAP_NET_ADMIN`.
    pub fn probe() -> Result<BandwidthSupport> {
        NetNs::new()?.run(|| {
            let lo: IfName = "lo".parse()?;
            let some = Rate::bits(1_000_000).burst(1 << 20);
            let has = |bandwidth: Bandwidth| match bandwidth.apply(&lo) {
                Ok(shaper) => shaper.remove().map(|()| true),
                Err(error) if error.kind() == ErrorKind::Unsupported => Ok(false),
                Err(error) => Err(error),
            };
            let egress = Bandwidth::new().egress(some);
            Ok(BandwidthSupport {
                tbf: has(Bandwidth::new().ingress(some))?,
                ifb: has(egress.egress_by(Egress::Ifb))?,
                police: has(egress.egress_by(Egress::Police))?,
            })
        })?
    }

    fn apply_to(&self, socket: SharedSocket, name: &IfName) -> Result<Shaper> {
        let link = find(&mut socket.lock(), name)?;
        self.check(name, link.mtu)?;
        let mut shaper = Shaper {
            socket,
            name: name.clone(),
            index: link.index,
            mtu: link.mtu,
            ingress: false,
            egress: None,
            armed: true,
        };
        shaper.set_ingress(self.ingress)?;
        shaper.set_egress(self.egress, self.by)?;
        Ok(shaper)
    }

    fn check(&self, name: &IfName, mtu: u32) -> Result<()> {
        let piece = match self.by {
            Egress::Police => LARGEST_PIECE,
            Egress::Best | Egress::Ifb => frame(mtu),
        };
        let rates = [(self.ingress, frame(mtu)), (self.egress, piece)];
        rates
            .into_iter()
            .filter_map(|(rate, least)| Some((rate?, least)))
            .try_for_each(|(rate, least)| rate.check(name, least))
    }
}

/// What the kernel has, as [`Bandwidth::probe`] found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BandwidthSupport {
    /// `sch_tbf`: limits of what a container receives.
    pub tbf: bool,
    /// [`Egress::Ifb`]: `ifb`, `sch_ingress`, `cls_u32`, `act_mirred`, and `sch_tbf`.
    pub ifb: bool,
    /// [`Egress::Police`]: `sch_ingress`, `cls_u32` and `act_police`.
    pub police: bool,
}

/// The limits of a link, as the kernel tells them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shaping {
    /// Of what the container receives.
    pub ingress: Option<Limit>,
    /// Of what the container sends.
    pub egress: Option<Limit>,
    /// How the latter is done; never [`Egress::Best`] where there is one.
    pub by: Egress,
}

/// A limit and what it did, as the kernel tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limit {
    /// In bits a second.
    pub bits: u64,
    /// In bytes; up to a part in a thousand off what was asked for, as the kernel keeps it as a time.
    pub burst: u64,
    /// The bytes that wait at most, with those of the burst; none where [policed](Egress::Police).
    pub queue: Option<u32>,
    /// Bytes that came: where policed, those that were dropped count.
    pub bytes: u64,
    /// Packets that came, of the same. What was segmented after it was sent counts once.
    pub packets: u64,
    /// Packets that were dropped.
    pub drops: u64,
    /// Bytes that wait now.
    pub backlog: u32,
}

impl From<BucketAnswer> for Limit {
    fn from(answer: BucketAnswer) -> Self {
        Limit {
            bits: answer.rate.saturating_mul(8),
            burst: answer.burst,
            queue: answer.limit,
            bytes: answer.sent,
            packets: answer.packets,
            drops: answer.drops,
            backlog: answer.backlog,
        }
    }
}

/// The limits of a link. Dropping it removes them, and with them the `ifb` link where there is one; [`Shaper::remove`]
/// tells how that went.
///
/// The limits end with the link. The `ifb` link does not: it is this value's, or [`Bandwidth::clear`] removes it. Its name is
/// `ifb` and 10 hexadecimal digits of a hash of the link's name.
#[derive(Debug)]
#[must_use = "dropping a Shaper removes the limits"]
pub struct Shaper {
    socket: SharedSocket,
    name: IfName,
    index: u32,
    mtu: u32,
    ingress: bool,
    egress: Option<By>,
    armed: bool,
}

/// What limits what a container sends.
#[derive(Debug)]
enum By {
    Ifb(LinkGuard),
    Police(Priority),
}

impl Shaper {
    /// Other limits, while traffic goes on. What waits in a queue stays in it; a limit that is new or gone, or done in
    /// another way, is set up or taken down.
    ///
    /// # Errors
    /// As [`Bandwidth::apply`], `InvalidInput` before anything is changed. Each direction has its old limit, its new one, or
    /// none.
    pub fn change(&mut self, bandwidth: &Bandwidth) -> Result<()> {
        bandwidth.check(&self.name, self.mtu)?;
        let stays_policed =
            bandwidth.by == Egress::Best && matches!(self.egress, Some(By::Police(_)));
        if let Some(rate) = bandwidth.egress.filter(|_| stays_policed) {
            rate.check(&self.name, LARGEST_PIECE)?;
        }
        self.set_ingress(bandwidth.ingress)?;
        self.set_egress(bandwidth.egress, bandwidth.by)
    }

    /// What the kernel says that the limits are, and what they did.
    ///
    /// # Errors
    /// `NotFound` where the link is gone.
    pub fn read(&self) -> Result<Shaping> {
        read(&mut self.socket.lock(), &self.name, self.index)
    }

    /// Removes the limits, and the `ifb` link. A link that is gone is a success.
    ///
    /// # Errors
    /// `PermissionDenied` where `CAP_NET_ADMIN` was lost. All is tried; the first failure is told.
    pub fn remove(mut self) -> Result<()> {
        self.armed = false;
        self.clear()
    }

    /// Leaves them, until the link or the network namespace ends, or [`Bandwidth::clear`]. Returns the name of the link.
    pub fn persist(mut self) -> IfName {
        self.armed = false;
        if let Some(By::Ifb(ifb)) = self.egress.take() {
            let _name = ifb.persist();
        }
        self.name.clone()
    }

    /// The name of the link that has the limits.
    #[must_use]
    pub fn name(&self) -> &IfName {
        &self.name
    }

    fn set_ingress(&mut self, rate: Option<Rate>) -> Result<()> {
        let Some(rate) = rate else {
            if std::mem::take(&mut self.ingress) {
                return clear(
                    &mut self.socket.lock(),
                    &self.name,
                    self.index,
                    Direction::Ingress,
                );
            }
            return Ok(());
        };
        let bucket = shaped(rate, self.mtu);
        let request = match self.ingress {
            true => tc::change_tbf(self.index, &self.name, bucket),
            false => tc::create_tbf(self.index, &self.name, bucket),
        };
        self.ask(request, "sch_tbf")?;
        self.ingress = true;
        Ok(())
    }

    fn set_egress(&mut self, rate: Option<Rate>, by: Egress) -> Result<()> {
        let Some(rate) = rate else {
            return self.clear_egress();
        };
        match (&self.egress, by) {
            (Some(By::Ifb(ifb)), Egress::Ifb | Egress::Best) => {
                let bucket = shaped(rate, self.mtu);
                self.ask(tc::change_tbf(ifb.index(), ifb.name(), bucket), "sch_tbf")
            }
            (Some(By::Police(old)), Egress::Police | Egress::Best) => {
                self.change_police(rate, *old)
            }
            (Some(_), _) => {
                self.clear_egress()?;
                self.set_egress(Some(rate), by)
            }
            (None, Egress::Ifb) => self.create_ifb(rate),
            (None, Egress::Police) => self.create_police(rate),
            (None, Egress::Best) => match self.create_ifb(rate) {
                Err(error) if error.kind() == ErrorKind::Unsupported => {
                    rate.check(&self.name, LARGEST_PIECE)?;
                    self.create_police(rate)
                }
                done => done,
            },
        }
    }

    /// The ifb first, whole and up: what is redirected to a link that is down is lost.
    fn create_ifb(&mut self, rate: Rate) -> Result<()> {
        let name = ifb_name(&self.name);
        self.ask(tc::create_ifb(&name, self.mtu), "ifb")?;
        let mut ifb = LinkGuard::new(self.socket.clone(), name.clone());
        let answer = self.socket.lock().ask_one(message::link_named(&name))?;
        ifb.found(&answer)?;
        let bucket = shaped(rate, self.mtu);
        self.ask(tc::create_tbf(ifb.index(), &name, bucket), "sch_tbf")?;
        let up = message::set_up(ifb.index(), name.as_str(), Up::default());
        self.ask(up, "ifb")?;
        let redirect = tc::redirect(self.index, &self.name, ifb.index());
        self.filter(redirect, "cls_u32 or act_mirred")?;
        self.egress = Some(By::Ifb(ifb));
        Ok(())
    }

    fn create_police(&mut self, rate: Rate) -> Result<()> {
        let request = tc::police(self.index, &self.name, policed(rate), tc::FIRST);
        self.filter(request, "cls_u32 or act_police")?;
        self.egress = Some(By::Police(tc::FIRST));
        Ok(())
    }

    /// The filter with the ingress queueing discipline that it hangs on, or neither.
    fn filter(&self, filter: Request, feature: &str) -> Result<()> {
        let ingress = tc::create_ingress(self.index, &self.name);
        self.ask(ingress, "sch_ingress")?;
        let filtered = self.ask(filter, feature);
        if filtered.is_err() {
            let undo = tc::delete_ingress(self.index, &self.name);
            let _first_error_counts = self.ask(undo, feature).is_ok();
        }
        filtered
    }

    /// There is no moment without a filter: the first in order takes all, until it is deleted.
    fn change_police(&mut self, rate: Rate, old: Priority) -> Result<()> {
        let new = tc::FIRST + tc::SECOND - old;
        let request = tc::police(self.index, &self.name, policed(rate), new);
        self.ask(request, "act_police")?;
        self.egress = Some(By::Police(new));
        let delete = tc::delete_filter(self.index, &self.name, old);
        self.ask(delete, "act_police")
    }

    /// The filter goes before the ifb it leads to.
    fn clear_egress(&mut self) -> Result<()> {
        let Some(by) = self.egress.take() else {
            return Ok(());
        };
        let mut socket = self.socket.lock();
        let cleared = clear(&mut socket, &self.name, self.index, Direction::Egress);
        drop(socket);
        match by {
            By::Ifb(ifb) => cleared.and(ifb.remove()),
            By::Police(_) => cleared,
        }
    }

    fn clear(&mut self) -> Result<()> {
        let egress = self.clear_egress();
        egress.and(self.set_ingress(None))
    }

    fn ask(&self, request: Request, feature: &str) -> Result<()> {
        let what = request.what.clone();
        let done = self.socket.lock().ask_one(request).map(drop);
        done.map_err(|error| unsupported(error, &what, feature))
    }
}

impl Drop for Shaper {
    fn drop(&mut self) {
        if self.armed {
            let _unused = self.clear().is_ok();
        }
    }
}

impl Port {
    /// Puts limits on the host's end of the veth pair, as [`Bandwidth::apply`] does, in the network namespace of the bridge.
    ///
    /// # Errors
    /// As [`Bandwidth::apply`].
    pub fn limit(&self, bandwidth: &Bandwidth) -> Result<Shaper> {
        bandwidth.apply_to(self.socket().clone(), self.name())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Ingress,
    Egress,
}

/// But for filters of others.
fn clear_all(socket: &mut Socket, name: &IfName, index: u32) -> Result<()> {
    let egress = match read(socket, name, index)?.egress {
        Some(_) => clear(socket, name, index, Direction::Egress),
        None => Ok(()),
    };
    egress.and(clear(socket, name, index, Direction::Ingress))
}

/// What is gone is removed: of a link that is gone, all is.
fn clear(socket: &mut Socket, name: &IfName, index: u32, direction: Direction) -> Result<()> {
    let request = match direction {
        Direction::Ingress => match root(socket, name, index) {
            Ok(Some(_)) => tc::delete_root(index, name),
            other => return gone(other.map(drop)),
        },
        Direction::Egress => tc::delete_ingress(index, name),
    };
    gone(socket.ask_one(request).map(drop))
}

/// `EINVAL` is for queueing disciplines what `ENOENT` is.
fn gone(done: Result<()>) -> Result<()> {
    match done {
        Err(error)
            if error.kind() == ErrorKind::NotFound
                || error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) =>
        {
            Ok(())
        }
        done => done,
    }
}

fn find(socket: &mut Socket, name: &IfName) -> Result<LinkAnswer> {
    LinkAnswer::parse(&socket.ask_one(message::link_named(name))?)
}

fn read(socket: &mut Socket, name: &IfName, index: u32) -> Result<Shaping> {
    let ingress = root(socket, name, index)?.map(Limit::from);
    let mut shaping = Shaping {
        ingress,
        ..Shaping::default()
    };
    for payload in socket.dump(&tc::ingress_filters(index, name))? {
        match answer::filter(&payload)? {
            Filter::Redirect(to) => {
                shaping.egress = root(socket, name, to)?.map(Limit::from);
                shaping.by = Egress::Ifb;
            }
            Filter::Police(bucket) => {
                shaping.egress = Some(bucket.into());
                shaping.by = Egress::Police;
            }
            Filter::Other => {}
        }
    }
    Ok(shaping)
}

/// The tbf of a link: none where it has another queueing discipline, or that of no name, which cannot be read.
fn root(socket: &mut Socket, name: &IfName, index: u32) -> Result<Option<BucketAnswer>> {
    match socket.ask_one(tc::root(index, name)) {
        Ok(payload) => answer::tbf(&payload),
        Err(error) => {
            let nameless = [Errno::NOENT, Errno::INVAL].map(|errno| Some(errno.raw_os_error()));
            match nameless.contains(&error.raw_os_error()) {
                true => Ok(None),
                false => Err(error),
            }
        }
    }
}

/// For a kind that the kernel does not know, it says `ENOENT`.
fn unsupported(error: Error, what: &str, feature: &str) -> Error {
    if error.raw_os_error() != Some(Errno::NOENT.raw_os_error())
        && error.kind() != ErrorKind::Unsupported
    {
        return error;
    }
    let why = format!("the kernel has no {feature}");
    Error::plain(ErrorKind::Unsupported, what, why)
}

fn ifb_name(link: &IfName) -> IfName {
    let digits = hash(link.as_str().bytes()) >> 24;
    IfName::derived(format!("ifb{digits:010x}"))
}

fn frame(mtu: u32) -> u32 {
    mtu.saturating_add(ETHERNET_HEADER)
}

/// A bucket before which packets wait.
fn shaped(rate: Rate, mtu: u32) -> Bucket {
    let bytes = rate.bits / 8;
    let least = frame(mtu).saturating_mul(4);
    let burst = rate.burst.unwrap_or(small(bytes / 100).max(least));
    let waiting = small((bytes / 1000).saturating_mul(LATENCY)).max(least);
    Bucket {
        rate: bytes,
        burst,
        limit: burst.saturating_add(waiting),
    }
}

/// A bucket that drops what does not fit.
fn policed(rate: Rate) -> Bucket {
    let bytes = rate.bits / 8;
    Bucket {
        rate: bytes,
        burst: rate.burst.unwrap_or(small(bytes / 20).max(128 << 10)),
        limit: 0,
    }
}

fn small(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_of_ten_milliseconds_and_never_less_than_four_frames() {
        let of = |bits| {
            let bucket = shaped(Rate::bits(bits), 1500);
            (bucket.rate, bucket.burst, bucket.limit)
        };
        assert_eq!(of(1_000_000_000), (125_000_000, 1_250_000, 4_375_000));
        assert_eq!(of(100_000), (12_500, 6056, 12_112));
        assert_eq!(of(u64::MAX), (u64::MAX / 8, u32::MAX, u32::MAX));
        let given = shaped(Rate::bits(8_000_000).burst(2000), 1500);
        assert_eq!((given.burst, given.limit), (2000, 27_000));
        assert_eq!(policed(Rate::bits(1_000_000)).burst, 128 << 10);
        assert_eq!(policed(Rate::bits(1_000_000_000)).burst, 6_250_000);
    }

    #[test]
    fn rates_that_let_nothing_through_are_refused() {
        let name: IfName = "veth0".parse().unwrap();
        let (zero, small) = (Rate::bits(7), Rate::bits(1_000_000).burst(1513));
        let enough = Rate::bits(8).burst(1514);
        let new = Bandwidth::new;
        for (bandwidth, why) in [
            (
                new().ingress(zero),
                "limit veth0 to 7 bit/s: it is less than a byte a second",
            ),
            (new().egress(zero), "less than a byte"),
            (
                new().ingress(small),
                "limit veth0 to 1000000 bit/s with a burst of 1513 bytes: the burst is",
            ),
            (new().egress(small), "of up to 1514 bytes"),
            (
                new().egress(enough).egress_by(Egress::Police),
                "of up to 65550 bytes",
            ),
        ] {
            let error = bandwidth.check(&name, 1500).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(why), "{error}");
        }
        new()
            .ingress(enough)
            .egress(enough)
            .check(&name, 1500)
            .unwrap();
    }

    #[test]
    fn the_ifb_of_a_link_has_a_name_of_its_own() {
        let ifb = |name: &str| ifb_name(&name.parse().unwrap());
        assert_eq!(ifb("veth0123456789"), ifb("veth0123456789"));
        assert_ne!(ifb("veth0123456789"), ifb("veth0123456788"));
    }
}
