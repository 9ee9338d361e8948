//! What a new network has to know of the others, without reading all their leases again.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use ipnetwork::IpNetwork;
use rustix::fs::Stat;

use super::network::Network;
use super::span::{Family, Span};
use super::subnet::Subnet;

/// The name of a network, and its subnets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outline {
    pub(super) name: String,
    pub(super) subnets: Vec<IpNetwork>,
}

impl Outline {
    pub(super) fn of(network: &Network) -> Self {
        Outline {
            name: network.name().to_owned(),
            subnets: network.subnets().map(Subnet::network).collect(),
        }
    }

    pub(super) fn overlaps(&self, network: IpNetwork) -> bool {
        let of_family = |other: &&IpNetwork| Family::of(other.ip()) == Family::of(network.ip());
        let mut others = self.subnets.iter().filter(of_family);
        others.any(|other| Span::of(*other).overlaps(Span::of(network)))
    }
}

/// How old a file has to be when it is read, to be told from all later ones: the clock of the file system may tick only every
/// 10 ms, and one that comes after it in the same tick may have its inode.
const SETTLED: Duration = Duration::from_millis(50);

/// The outlines of files that were read, each for as long as its file is that one.
#[derive(Debug, Default)]
pub(super) struct Outlines(BTreeMap<String, (Version, Outline)>);

impl Outlines {
    /// Forgets all but these, which are in order.
    pub(super) fn keep(&mut self, names: &[String]) {
        let known = |name: &String| names.binary_search(name).is_ok();
        self.0.retain(|name, _| known(name));
    }

    pub(super) fn find(&self, name: &str, version: &Version) -> Option<&Outline> {
        let (of, outline) = self.0.get(name)?;
        (of == version).then_some(outline)
    }

    /// What was read of a file that was this version before.
    pub(super) fn put(&mut self, version: Version, outline: &Outline, now: SystemTime) {
        if version.is_settled(now) {
            let name = outline.name.clone();
            self.0.insert(name, (version, outline.clone()));
        }
    }
}

/// A file as it is at one time: whatever is written to it or put in its place has another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    device: u64,
    inode: u64,
    size: i64,
    changed: Duration,
}

impl Version {
    pub(super) fn of(stat: &Stat) -> Self {
        let seconds = u64::try_from(stat.st_ctime).unwrap_or(u64::MAX / 2);
        let nanos = u32::try_from(stat.st_ctime_nsec).unwrap_or_default();
        Version {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size,
            changed: Duration::new(seconds, nanos),
        }
    }

    /// A clock that was set back makes no file settled.
    fn is_settled(&self, now: SystemTime) -> bool {
        let now = now.duration_since(SystemTime::UNIX_EPOCH);
        now.is_ok_and(|now| self.changed.saturating_add(SETTLED) <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outline(name: &str) -> Outline {
        Outline {
            name: name.to_owned(),
            subnets: vec!["10.0.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()],
        }
    }

    fn version(changed: Duration) -> Version {
        Version {
            device: 1,
            inode: 2,
            size: 3,
            changed,
        }
    }

    #[test]
    fn a_file_is_known_by_its_version_once_it_is_settled() {
        let (mut outlines, at) = (Outlines::default(), Duration::from_secs(100));
        let now = |millis| SystemTime::UNIX_EPOCH + at + Duration::from_millis(millis);
        outlines.put(version(at), &outline("a"), now(49));
        assert_eq!(outlines.find("a", &version(at)), None);
        outlines.put(version(at), &outline("a"), now(50));
        assert_eq!(outlines.find("a", &version(at)), Some(&outline("a")));
        let other = Version {
            inode: 3,
            ..version(at)
        };
        for other in [other, version(at + Duration::from_nanos(1))] {
            assert_eq!(outlines.find("a", &other), None);
        }
        // In the future, where the clock was set back.
        outlines.put(other, &outline("a"), now(0) - at);
        assert_eq!(outlines.find("a", &other), None);
        outlines.keep(&["b".to_owned()]);
        assert_eq!(outlines.find("a", &version(at)), None);
    }

    #[test]
    fn an_outline_overlaps_in_its_own_family() {
        let outline = outline("a");
        for (network, overlaps) in [
            ("10.0.0.128/25", true),
            ("10.0.1.0/24", false),
            ("fd00::/48", true),
            ("::/96", false),
        ] {
            let network = network.parse().unwrap();
            assert_eq!(outline.overlaps(network), overlaps, "{network}");
        }
    }
}
