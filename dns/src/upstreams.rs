//! Which servers are asked for names of elsewhere.

use std::fs;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags};

use crate::resolv_conf::NAMESERVERS_MAX;
use crate::{Error, LISTEN, ResolvConf, Result};

/// The port of every nameserver of a resolv.conf(5).
const PORT: u16 = 53;
/// As much of a file is read.
const FILE_MAX: u64 = 64 * 1024;

/// Servers that are asked for names of elsewhere, best first: of a whole [`Server`](crate::Server), of a network or of a
/// single container. Clones are the same servers; what is [`set`](Self::set) holds for all who use them.
///
/// ```
/// use cofferdam_dns::{Scope, SharedZone, Upstreams};
///
/// let app = SharedZone::default();
/// let filtered = Upstreams::new(vec!["192.0.2.53:53".parse()?])?;
/// let scope = Scope::from(&app).upstreams(&filtered);
/// filtered.set(vec!["192.0.2.54:53".parse()?])?; // queries that come from now on
/// # drop(scope);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Upstreams(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    current: Mutex<Vec<SocketAddr>>,
    /// Goes up with each change, after it.
    version: AtomicU64,
    netns: Option<OwnedFd>,
    file: Option<Mutex<Followed>>,
}

/// A file and what it was like when it was read last.
#[derive(Debug)]
struct Followed {
    path: PathBuf,
    seen: Option<Stamp>,
}

/// What changes of a file that is written or replaced: device, inode, size, time.
type Stamp = (u64, u64, u64, i64, i64);

impl Upstreams {
    /// These servers, at most three, asked from the network namespace in which the [`Server`](crate::Server) was started.
    /// None are fine: then queries fail.
    ///
    /// # Errors
    /// `InvalidInput` for more than three, or one without address or port.
    pub fn new(addresses: Vec<SocketAddr>) -> Result<Self> {
        let addresses = checked(addresses, false)?;
        Ok(Upstreams::of(addresses, None, None))
    }

    /// These servers, asked from inside another network namespace, such as that of the container: what it cannot reach
    /// is not reached for it either. The namespace lives at least as long as this.
    ///
    /// Sockets there are opened by setns(2) on threads that are thrown away, which needs `CAP_SYS_ADMIN` over the
    /// namespace and in the caller's own; without it queries fail.
    ///
    /// # Errors
    /// `InvalidInput` for more than three, or one without address or port, or 127.0.0.11, which is this resolver.
    pub fn new_in(netns: OwnedFd, addresses: Vec<SocketAddr>) -> Result<Self> {
        let addresses = checked(addresses, true)?;
        Ok(Upstreams::of(addresses, Some(netns), None))
    }

    /// The nameservers of a resolv.conf(5), such as the host's, without 127.0.0.11: that would be this server itself. The
    /// file is looked at again while queries are forwarded, at most once a second, and read where it was written or
    /// replaced. Where it cannot be read, what it said last holds; at first, nothing.
    #[must_use]
    pub fn follow(resolv_conf: impl Into<PathBuf>) -> Self {
        let path = resolv_conf.into();
        let file = Mutex::new(Followed { path, seen: None });
        let upstreams = Upstreams::of(Vec::new(), None, Some(file));
        upstreams.look();
        upstreams
    }

    /// Replaces the servers. One that was there before keeps its health and sockets; queries at one that is gone go to
    /// the others.
    ///
    /// # Errors
    /// As of the call that made it, [`Upstreams::new`] or [`Upstreams::new_in`].
    pub fn set(&self, addresses: Vec<SocketAddr>) -> Result<()> {
        let in_netns = self.0.netns.is_some();
        self.put(checked(addresses, in_netns)?);
        Ok(())
    }

    /// The servers as they are now.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.current().clone()
    }

    /// Reads the file again if it has changed. Nothing happens where there is none.
    pub(crate) fn look(&self) {
        let Some(file) = &self.0.file else {
            return;
        };
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(text) = file.text_if_changed() {
            drop(file);
            self.put(of_resolv_conf(&text));
        }
    }

    pub(crate) fn none() -> Self {
        Upstreams::of(Vec::new(), None, None)
    }

    pub(crate) fn version(&self) -> u64 {
        self.0.version.load(Ordering::Acquire)
    }

    pub(crate) fn netns(&self) -> Option<BorrowedFd<'_>> {
        self.0.netns.as_ref().map(AsFd::as_fd)
    }

    pub(crate) fn is(&self, other: &Upstreams) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn of(
        addresses: Vec<SocketAddr>,
        netns: Option<OwnedFd>,
        file: Option<Mutex<Followed>>,
    ) -> Self {
        Upstreams(Arc::new(Shared {
            current: Mutex::new(addresses),
            version: AtomicU64::new(0),
            netns,
            file,
        }))
    }

    fn put(&self, addresses: Vec<SocketAddr>) {
        *self.current() = addresses;
        self.0.version.fetch_add(1, Ordering::Release);
    }

    fn current(&self) -> MutexGuard<'_, Vec<SocketAddr>> {
        let current = self.0.current.lock();
        current.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Followed {
    fn text_if_changed(&mut self) -> Option<String> {
        let stamp = stamp(&self.path);
        if stamp.is_none() || stamp == self.seen {
            return None;
        }
        let mut bytes = Vec::new();
        // It may be a FIFO by now, which is not to be waited for.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let file = fs::File::from(rustix::fs::open(&self.path, flags, Mode::empty()).ok()?);
        file.take(FILE_MAX).read_to_end(&mut bytes).ok()?;
        self.seen = stamp;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let about = fs::metadata(path).ok().filter(|about| about.is_file())?;
    let (seconds, nanoseconds) = (about.ctime(), about.ctime_nsec());
    Some((about.dev(), about.ino(), about.size(), seconds, nanoseconds))
}

/// The nameservers of a resolv.conf(5), but for ourselves.
pub(crate) fn of_resolv_conf(text: &str) -> Vec<SocketAddr> {
    let conf = ResolvConf::parse(text);
    let all = conf.nameservers().iter().map(IpAddr::to_canonical);
    let others = all.filter(|&ip| ip != LISTEN.ip());
    let addresses = others.map(|ip| SocketAddr::new(ip, PORT));
    addresses
        .filter(|address| fault(*address).is_none())
        .collect()
}

/// The addresses as they are used, an IPv4-mapped one as IPv4. In a container's namespace, 127.0.0.11 is this resolver.
fn checked(mut addresses: Vec<SocketAddr>, in_netns: bool) -> Result<Vec<SocketAddr>> {
    for (index, address) in addresses.iter_mut().enumerate() {
        if let IpAddr::V4(mapped) = address.ip().to_canonical() {
            address.set_ip(mapped.into());
        }
        if index >= NAMESERVERS_MAX {
            return Err(Error::upstream(*address, "is one more than three"));
        }
        if let Some(fault) = fault(*address) {
            return Err(Error::upstream(*address, fault));
        }
        if in_netns && address.ip() == LISTEN.ip() {
            return Err(Error::upstream(*address, "is this resolver itself"));
        }
    }
    Ok(addresses)
}

fn fault(address: SocketAddr) -> Option<&'static str> {
    let ip: IpAddr = address.ip();
    let is_nowhere = address.port() == 0 || ip.is_unspecified() || ip.is_multicast();
    is_nowhere.then_some("is no address of a server")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn servers_are_checked_on_entry() {
        for bad in ["0.0.0.0:53", "[::]:53", "192.0.2.1:0", "224.0.0.251:5353"] {
            let error = Upstreams::new(addresses(&[bad])).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bad}");
        }
        assert!(Upstreams::new(addresses(&["192.0.2.1:53"; 4])).is_err());
        let upstreams = Upstreams::new(addresses(&["192.0.2.1:53"])).unwrap();
        assert!(upstreams.set(addresses(&["192.0.2.1:0"])).is_err());
        assert_eq!(upstreams.addresses(), addresses(&["192.0.2.1:53"]));
        let netns = fs::File::open("/proc/thread-self/ns/net").unwrap();
        let error = Upstreams::new_in(netns.into(), addresses(&["127.0.0.11:53"])).unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"upstream "127.0.0.11:53": is this resolver itself"#
        );
    }

    #[test]
    fn what_is_set_is_checked_as_what_is_new() {
        let netns = fs::File::open("/proc/thread-self/ns/net").unwrap();
        let upstreams = Upstreams::new_in(netns.into(), Vec::new()).unwrap();
        for own in ["127.0.0.11:53", "[::ffff:127.0.0.11]:53"] {
            assert!(upstreams.set(addresses(&[own])).is_err(), "{own}");
        }
        upstreams
            .set(addresses(&["[::ffff:192.0.2.1]:53"]))
            .unwrap();
        assert_eq!(upstreams.addresses(), addresses(&["192.0.2.1:53"]));
        assert!(Upstreams::new(addresses(&["[::ffff:0.0.0.0]:53"])).is_err());
        let conf = "nameserver ::ffff:127.0.0.11\nnameserver ::ffff:192.0.2.1\n";
        assert_eq!(of_resolv_conf(conf), addresses(&["192.0.2.1:53"]));
    }

    #[test]
    fn a_file_is_read_again_when_it_has_changed() {
        let path = std::env::temp_dir().join(format!("cofferdam-dns-{}", std::process::id()));
        let upstreams = Upstreams::follow(&path);
        assert_eq!(upstreams.addresses(), []);
        fs::write(
            &path,
            "nameserver 127.0.0.11\nnameserver 192.0.2.1\nnameserver ::\n",
        )
        .unwrap();
        upstreams.look();
        let version = upstreams.version();
        assert_eq!(upstreams.addresses(), addresses(&["192.0.2.1:53"]));
        upstreams.look();
        assert_eq!(upstreams.version(), version);
        // Replaced by one of the same size.
        let other = path.with_extension("new");
        fs::write(
            &other,
            "nameserver 127.0.0.11\nnameserver 192.0.2.2\nnameserver ::\n",
        )
        .unwrap();
        fs::rename(&other, &path).unwrap();
        upstreams.look();
        assert_eq!(upstreams.addresses(), addresses(&["192.0.2.2:53"]));
        fs::remove_file(&path).unwrap();
        upstreams.look();
        assert_eq!(upstreams.addresses(), addresses(&["192.0.2.2:53"]));
    }
}
