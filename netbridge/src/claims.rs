//! Addresses of a network that are not free.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Addresses that are not free, and who has each. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims(Arc<Mutex<BTreeMap<IpAddr, Claim>>>);

/// Who has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// A [`Port`](crate::Port).
    Port,
    /// A link that was left to its network namespace.
    Persisted,
}

impl Claims {
    /// Whether it was not there.
    pub(crate) fn insert(&self, address: IpAddr) -> bool {
        match self.lock().entry(address) {
            Entry::Occupied(_) => false,
            Entry::Vacant(free) => {
                free.insert(Claim::Port);
                true
            }
        }
    }

    pub(crate) fn persist(&self, address: IpAddr) {
        self.lock().insert(address, Claim::Persisted);
    }

    /// Who had the address; only one that is persisted is removed.
    pub(crate) fn release(&self, address: IpAddr) -> Option<Claim> {
        let mut claims = self.lock();
        let claim = claims.get(&address).copied();
        if claim == Some(Claim::Persisted) {
            claims.remove(&address);
        }
        claim
    }

    pub(crate) fn remove(&self, address: IpAddr) {
        self.lock().remove(&address);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, Claim>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
