//! The names of a network and who has them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::Service;
use crate::name::{Key, Name, reverse};
use crate::wire::NAME_MAX;

/// Seconds a client may keep an answer, unless [`Zone::set_ttl`] says otherwise: containers come back elsewhere soon.
const TTL: u32 = 5;

/// The names of a network: names to addresses, and addresses back to names.
///
/// A clone costs one reference count; changing a zone that has clones copies its index first, so what was cloned stays
/// as it was. Many changes are best made in one [`SharedZone::update`](crate::SharedZone::update).
///
/// ```
/// use cofferdam_dns::Zone;
///
/// let mut zone = Zone::new();
/// zone.insert("db".parse()?, "10.89.0.2".parse()?);
/// zone.insert("db".parse()?, "fd00::2".parse()?);
/// assert_eq!(zone.addresses(&"DB".parse()?).count(), 2);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Zone {
    nodes: Arc<HashMap<Key, Arc<Node>>>,
    /// How many nodes are below a name: it exists, though it may have nothing of its own.
    above: Arc<HashMap<Key, u32>>,
    domain: Option<Domain>,
    ttl: u32,
}

/// The domain under which all names of a zone are known as well.
#[derive(Clone, Debug)]
struct Domain {
    name: Name,
    key: Key,
}

/// What a zone says of a name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Found<'z> {
    Node(&'z Node),
    /// It exists and has nothing.
    Nothing,
    /// It is in the zone's domain, and there is none.
    NoSuchName,
    /// It is of elsewhere.
    Foreign,
}

/// What is known of one name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Node {
    pub(crate) v4: Vec<Ipv4Addr>,
    pub(crate) v6: Vec<Ipv6Addr>,
    /// Of a reverse name: who has the address.
    pub(crate) names: Vec<Name>,
    pub(crate) services: Vec<Service>,
    /// One turn per family: a client that asks for both at once would otherwise always see the same half.
    pub(crate) turn_v4: Turn,
    pub(crate) turn_v6: Turn,
}

/// Whose turn it is to be first. The one thing an answer changes.
#[derive(Debug, Default)]
pub(crate) struct Turn(AtomicU32);

impl Zone {
    /// A zone without names.
    #[must_use]
    pub fn new() -> Self {
        Zone {
            nodes: Arc::default(),
            above: Arc::default(),
            domain: None,
            ttl: TTL,
        }
    }

    /// Gives `name` one more address, and the address one more name. An IPv4-mapped IPv6 address counts as IPv4.
    ///
    /// Returns whether that is new.
    pub fn insert(&mut self, name: Name, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let added = self.edit(name.key(), |node| match address {
            IpAddr::V4(address) => push_new(&mut node.v4, address),
            IpAddr::V6(address) => push_new(&mut node.v6, address),
        });
        added && self.edit(reverse(address), |node| push_new(&mut node.names, name))
    }

    /// Takes one address from `name`. A name without addresses is gone. Returns whether it was there.
    pub fn remove(&mut self, name: &Name, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let there = self.edit(name.key(), |node| match address {
            IpAddr::V4(address) => take(&mut node.v4, &address),
            IpAddr::V6(address) => take(&mut node.v6, &address),
        });
        there && self.edit(reverse(address), |node| take(&mut node.names, name))
    }

    /// Takes `name` out with all its addresses and services. Returns whether it was there.
    pub fn remove_name(&mut self, name: &Name) -> bool {
        let addresses: Vec<_> = self.addresses(name).collect();
        for address in &addresses {
            self.remove(name, *address);
        }
        let had_services = self.node(&name.key()).is_some();
        if had_services {
            self.edit(name.key(), |node| {
                node.services.clear();
                true
            });
        }
        had_services || !addresses.is_empty()
    }

    /// Gives `name`, such as `_http._tcp.web`, one more service, which an SRV query finds, along with the addresses of its
    /// target. Returns whether that is new.
    pub fn insert_service(&mut self, name: Name, service: Service) -> bool {
        self.edit(name.key(), |node| push_new(&mut node.services, service))
    }

    /// Takes one service from `name`. Returns whether it was there.
    pub fn remove_service(&mut self, name: &Name, service: &Service) -> bool {
        self.edit(name.key(), |node| take(&mut node.services, service))
    }

    /// Makes every name known under `domain` as well: `db` also as `db.app`, which is what a reverse lookup gives then.
    ///
    /// A name of the domain that is not there is answered with NXDOMAIN. All other names that are not there are of
    /// elsewhere: a bare `db` may still be an upstream's.
    pub fn set_domain(&mut self, domain: Name) {
        let key = domain.key();
        self.domain = Some(Domain { name: domain, key });
    }

    /// Takes `address` from all names that have it: the end of a container. Returns whether there were any.
    pub fn remove_address(&mut self, address: IpAddr) -> bool {
        let names: Vec<_> = self.names(address).cloned().collect();
        names
            .iter()
            .filter(|name| self.remove(name, address))
            .count()
            > 0
    }

    /// Sets how many seconds a client may keep an answer. Initially 5.
    pub fn set_ttl(&mut self, seconds: u32) {
        self.ttl = seconds;
    }

    /// The addresses of `name`, IPv4 first, in the order they came.
    pub fn addresses(&self, name: &Name) -> impl Iterator<Item = IpAddr> + '_ {
        let node = self.nodes.get(&*name.key());
        let v4 = node.into_iter().flat_map(|node| &node.v4);
        let v6 = node.into_iter().flat_map(|node| &node.v6);
        v4.map(|&address| address.into())
            .chain(v6.map(|&address| address.into()))
    }

    /// The names of `address`, in the order they came.
    pub fn names(&self, address: IpAddr) -> impl Iterator<Item = &Name> + '_ {
        let node = self.nodes.get(&*reverse(address.to_canonical()));
        node.into_iter().flat_map(|node| &node.names)
    }

    /// Whether there is no name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// What is known of the name with this key, or of the same less the zone's domain.
    pub(crate) fn find(&self, key: &[u8]) -> Found<'_> {
        match (self.find_bare(key), self.without_domain(key)) {
            (Found::Foreign, Some(prefix)) => self.find_inside(prefix),
            (found, _) => found,
        }
    }

    /// The domain by which its names end for others, if it has one.
    pub(crate) fn domain(&self) -> Option<&Name> {
        self.domain.as_ref().map(|domain| &domain.name)
    }

    pub(crate) fn node(&self, key: &[u8]) -> Option<&Node> {
        self.nodes.get(key).map(|node| &**node)
    }

    fn find_bare(&self, key: &[u8]) -> Found<'_> {
        match self.node(key) {
            Some(node) => Found::Node(node),
            None if self.above.contains_key(key) => Found::Nothing,
            None => Found::Foreign,
        }
    }

    fn find_inside(&self, prefix: &[u8]) -> Found<'_> {
        if prefix.is_empty() {
            return Found::Nothing;
        }
        let mut bare = [0; NAME_MAX];
        // With the root, for which the domain had at least one byte.
        bare[..prefix.len()].copy_from_slice(prefix);
        match self.find_bare(&bare[..=prefix.len()]) {
            Found::Foreign => Found::NoSuchName,
            found => found,
        }
    }

    /// The labels before the domain's, if they are followed by it and nothing else.
    fn without_domain<'k>(&self, key: &'k [u8]) -> Option<&'k [u8]> {
        let domain = &*self.domain.as_ref()?.key;
        let mut rest = key;
        while rest.len() > domain.len() {
            rest = rest.get(1 + usize::from(rest[0])..)?;
        }
        (rest == domain).then(|| &key[..key.len() - rest.len()])
    }

    pub(crate) fn ttl(&self) -> u32 {
        self.ttl
    }

    /// Changes one node, which comes into being for it and goes when it is empty.
    fn edit(&mut self, key: Key, change: impl FnOnce(&mut Node) -> bool) -> bool {
        let nodes = Arc::make_mut(&mut self.nodes);
        let count = nodes.len();
        let node = Arc::make_mut(nodes.entry(Arc::clone(&key)).or_default());
        let changed = change(node);
        let is_new = nodes.len() > count;
        let node_is_empty = nodes.get(&key).is_some_and(|node| node.is_empty());
        if node_is_empty {
            nodes.remove(&key);
        }
        match (is_new, node_is_empty) {
            (true, false) => self.count_above(&key, 1),
            (false, true) => self.count_above(&key, -1),
            _ => {}
        }
        changed
    }

    /// Counts a node that came or went at the names above it, but for the root and names of addresses: of them there are
    /// others elsewhere.
    fn count_above(&mut self, key: &[u8], change: i32) {
        let mut parent = key;
        while let Some(next) = parent.get(1 + usize::from(parent[0])..) {
            parent = next;
            if parent.len() <= 1 || parent.ends_with(b"\x04arpa\0") {
                return;
            }
            let above = Arc::make_mut(&mut self.above);
            let count = above.entry(parent.into()).or_default();
            *count = count.saturating_add_signed(change);
            if *count == 0 {
                above.remove(parent);
            }
        }
    }
}

impl Default for Zone {
    fn default() -> Self {
        Zone::new()
    }
}

impl Node {
    fn is_empty(&self) -> bool {
        let has_addresses = !(self.v4.is_empty() && self.v6.is_empty());
        !has_addresses && self.names.is_empty() && self.services.is_empty()
    }
}

impl Turn {
    /// The index of the one to begin with, of `len`; the next call gives the next.
    pub(crate) fn next(&self, len: usize) -> usize {
        match len {
            0 | 1 => 0,
            _ => self.0.fetch_add(1, Ordering::Relaxed) as usize % len,
        }
    }
}

impl Clone for Turn {
    fn clone(&self) -> Self {
        Turn(AtomicU32::new(self.0.load(Ordering::Relaxed)))
    }
}

fn push_new<T: PartialEq>(list: &mut Vec<T>, item: T) -> bool {
    let new = !list.contains(&item);
    if new {
        list.push(item);
    }
    new
}

fn take<T: PartialEq>(list: &mut Vec<T>, item: &T) -> bool {
    let found = list.iter().position(|other| other == item);
    found.map(|index| list.remove(index)).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_inserted_is_found_both_ways() {
        let mut zone = Zone::new();
        assert!(zone.insert(name("Db"), address("10.0.0.2")));
        assert!(!zone.insert(name("dB"), address("10.0.0.2")));
        assert!(zone.insert(name("redis"), address("::ffff:10.0.0.2")));
        assert!(zone.insert(name("db"), address("fd00::2")));
        let found: Vec<_> = zone.addresses(&name("DB")).collect();
        assert_eq!(found, [address("10.0.0.2"), address("fd00::2")]);
        let names: Vec<_> = zone.names(address("10.0.0.2")).map(Name::as_str).collect();
        assert_eq!(names, ["Db", "redis"]);
    }

    #[test]
    fn removal_leaves_nothing_behind() {
        let mut zone = Zone::new();
        zone.insert(name("db"), address("10.0.0.2"));
        zone.insert(name("db"), address("fd00::2"));
        zone.insert(name("alias"), address("10.0.0.2"));
        assert!(!zone.remove(&name("db"), address("10.0.0.3")));
        assert!(zone.remove_address(address("10.0.0.2")));
        assert!(!zone.remove_address(address("10.0.0.2")));
        assert_eq!(zone.addresses(&name("alias")).count(), 0);
        assert_eq!(zone.addresses(&name("db")).count(), 1);
        assert!(zone.remove_name(&name("DB")));
        assert!(!zone.remove_name(&name("DB")));
        assert!(zone.is_empty());
    }

    #[test]
    fn names_are_found_with_and_without_the_domain() {
        let mut zone = Zone::new();
        zone.insert(name("db"), address("10.0.0.2"));
        zone.insert(name("a.b.web"), address("10.0.0.3"));
        zone.insert_service(name("_http._tcp.db"), Service::new(name("db"), 80));
        let find = |zone: &Zone, text: &str| match zone.find(&name(text).key()) {
            Found::Node(_) => "node",
            Found::Nothing => "nothing",
            Found::NoSuchName => "no such name",
            Found::Foreign => "foreign",
        };
        assert_eq!(find(&zone, "db.app"), "foreign");
        zone.set_domain(name("App"));
        for (text, expected) in [
            ("db", "node"),
            ("db.app", "node"),
            ("DB.APP", "node"),
            ("_http._tcp.db.app", "node"),
            ("_tcp.db.app", "nothing"),
            ("_tcp.db", "nothing"),
            ("b.web.app", "nothing"),
            ("app", "nothing"),
            ("xdb.app", "no such name"),
            ("db.db.app", "no such name"),
            ("xapp", "foreign"),
            ("db.xapp", "foreign"),
            ("app.app.app", "no such name"),
            ("nobody", "foreign"),
        ] {
            assert_eq!(find(&zone, text), expected, "{text}");
        }
        let longest = format!(
            "{}.{}.{}.{}.app",
            "a".repeat(63),
            "b".repeat(63),
            "c".repeat(63),
            "d".repeat(57)
        );
        assert_eq!(find(&zone, &longest), "no such name");
        assert!(zone.remove_name(&name("a.b.web")));
        assert!(zone.remove_name(&name("_http._tcp.db")));
        assert_eq!(find(&zone, "b.web"), "foreign");
        assert_eq!(find(&zone, "_tcp.db.app"), "no such name");
        assert_eq!((zone.nodes.len(), zone.above.len()), (2, 0));
    }

    #[test]
    fn a_clone_keeps_what_it_had() {
        let mut zone = Zone::new();
        zone.insert(name("db"), address("10.0.0.2"));
        let before = zone.clone();
        zone.insert(name("db"), address("10.0.0.3"));
        zone.insert(name("web"), address("10.0.0.4"));
        assert_eq!(before.addresses(&name("db")).count(), 1);
        assert_eq!(before.addresses(&name("web")).count(), 0);
    }
}
