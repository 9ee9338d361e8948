//! A zone that several resolvers read while it changes, and what one container may ask.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{Upstreams, Zone};

/// The zone of a network, shared by its containers' resolvers and whoever changes it. Clones are the same zone.
#[derive(Clone, Debug, Default)]
pub struct SharedZone(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Held for as long as a change takes.
    change: Mutex<()>,
    /// Held to put the changed zone in place, or to take a clone of it.
    current: Mutex<Zone>,
    /// Goes up with each change, after it: who has seen it has no reason to look at `current`.
    version: AtomicU64,
}

impl SharedZone {
    /// Shares `zone`.
    #[must_use]
    pub fn new(zone: Zone) -> Self {
        SharedZone(Arc::new(Shared {
            change: Mutex::new(()),
            current: Mutex::new(zone),
            version: AtomicU64::new(0),
        }))
    }

    /// Changes the zone. Resolvers answer from the old one until `change` returns, then from the new one; the index is
    /// copied once a call, so what changes together is best changed in one.
    pub fn update<T>(&self, change: impl FnOnce(&mut Zone) -> T) -> T {
        let _one_at_a_time = self.0.change.lock().unwrap_or_else(PoisonError::into_inner);
        let mut zone = self.load();
        let result = change(&mut zone);
        let old = std::mem::replace(&mut *self.current(), zone);
        self.0.version.fetch_add(1, Ordering::Release);
        drop(old);
        result
    }

    /// The zone as it is now.
    #[must_use]
    pub fn load(&self) -> Zone {
        self.current().clone()
    }

    fn current(&self) -> MutexGuard<'_, Zone> {
        // A zone is replaced whole: a panic elsewhere leaves no half of one.
        let current = self.0.current.lock();
        current.unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes all who read the zone wait, until the guard is dropped.
    #[cfg(test)]
    pub(crate) fn stand_still(&self) -> MutexGuard<'_, Zone> {
        let current = self.current();
        self.0.version.fetch_add(1, Ordering::Release);
        current
    }
}

impl From<Zone> for SharedZone {
    fn from(zone: Zone) -> Self {
        SharedZone::new(zone)
    }
}

/// What one container may ask: the zones of its networks, and whether an upstream gets the rest.
///
/// ```
/// use cofferdam_dns::{Scope, SharedZone};
///
/// let (front, back) = (SharedZone::default(), SharedZone::default());
/// let gateway = Scope::new().zone(&front).zone(&back);
/// let database = Scope::from(&back).internal();
/// # drop((gateway, database));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Scope {
    zones: Vec<SharedZone>,
    upstreams: Option<Upstreams>,
    internal: bool,
}

impl Scope {
    /// No zones yet; all else is forwarded.
    #[must_use]
    pub fn new() -> Self {
        Scope::default()
    }

    /// One more zone. Of a name that several have, the first answers.
    #[must_use]
    pub fn zone(mut self, zone: &SharedZone) -> Self {
        self.zones.push(zone.clone());
        self
    }

    /// Asks these servers for other names, instead of the [`Server`](crate::Server)'s own.
    #[must_use]
    pub fn upstreams(mut self, upstreams: &Upstreams) -> Self {
        self.upstreams = Some(upstreams.clone());
        self
    }

    /// Forwards nothing, for containers on internal networks: a resolver in the host's namespace would be their way
    /// out. What the zones have is all there is: other names do not exist (NXDOMAIN), and without an SOA record no
    /// cache keeps that.
    ///
    /// All clients go on at once from there. REFUSED or SERVFAIL would tell a policy from a fact, but musl takes neither
    /// for an answer and waits for its timeout of 5 seconds, and it and c-ares end their search at them: with a search
    /// domain and `ndots:1` or more in resolv.conf, they would never come to ask for the bare `db`.
    #[must_use]
    pub fn internal(mut self) -> Self {
        self.internal = true;
        self
    }

    pub(crate) fn own_upstreams(&self) -> Option<&Upstreams> {
        self.upstreams.as_ref()
    }

    pub(crate) fn into_view(self) -> View {
        View::new(self)
    }
}

/// A scope as the thread reads it: zones at hand, without a lock for as long as nobody changes them.
#[derive(Debug)]
pub(crate) struct View {
    zones: Vec<(SharedZone, u64, Zone)>,
    internal: bool,
}

impl View {
    fn new(scope: Scope) -> Self {
        let zones = scope.zones.into_iter().map(|shared| {
            let version = shared.0.version.load(Ordering::Acquire);
            let zone = shared.load();
            (shared, version, zone)
        });
        View {
            zones: zones.collect(),
            internal: scope.internal,
        }
    }

    /// Takes over what has changed: all of a change that had returned before this is called.
    pub(crate) fn refresh(&mut self) {
        for (shared, seen, zone) in &mut self.zones {
            let version = shared.0.version.load(Ordering::Acquire);
            if version != *seen {
                // What is loaded may be newer than the version, never older.
                *zone = shared.load();
                *seen = version;
            }
        }
    }

    pub(crate) fn is_internal(&self) -> bool {
        self.internal
    }

    pub(crate) fn zones(&self) -> impl Iterator<Item = &Zone> {
        self.zones.iter().map(|(_, _, zone)| zone)
    }
}

impl From<&SharedZone> for Scope {
    fn from(zone: &SharedZone) -> Self {
        Scope::new().zone(zone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_see_the_old_zone_until_the_change_is_made() {
        let shared = SharedZone::default();
        let seen = shared.update(|zone| {
            zone.insert("db".parse().unwrap(), "10.0.0.2".parse().unwrap());
            shared.load().is_empty()
        });
        assert!(seen);
        assert!(!shared.clone().load().is_empty());
    }

    #[test]
    fn a_view_takes_over_what_has_changed() {
        let (front, back) = (SharedZone::default(), SharedZone::default());
        let mut view = Scope::new().zone(&front).zone(&back).into_view();
        let empty = |view: &View| -> Vec<bool> { view.zones().map(Zone::is_empty).collect() };
        back.update(|zone| zone.insert("db".parse().unwrap(), "10.0.0.2".parse().unwrap()));
        assert_eq!(empty(&view), [true, true]);
        view.refresh();
        assert_eq!(empty(&view), [true, false]);
        back.update(|zone| zone.remove_name(&"db".parse().unwrap()));
        view.refresh();
        assert_eq!(empty(&view), [true, true]);
    }

    #[test]
    fn a_panic_in_a_change_changes_nothing() {
        let shared = SharedZone::default();
        let other = shared.clone();
        let change = move || {
            other.update(|zone| {
                zone.insert("db".parse().unwrap(), "10.0.0.2".parse().unwrap());
                std::panic::resume_unwind(Box::new(()));
            })
        };
        assert!(std::thread::spawn(change).join().is_err());
        assert!(shared.load().is_empty());
        shared.update(|zone| zone.insert("db".parse().unwrap(), "10.0.0.2".parse().unwrap()));
        assert!(!shared.load().is_empty());
    }
}
