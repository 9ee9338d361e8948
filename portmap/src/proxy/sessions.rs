//! Clients of UDP ports: each has a socket of its own to the target, so that what comes back is known to be for it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Who speaks, to which address of which port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Client {
    pub(super) forward: u64,
    pub(super) from: SocketAddr,
    pub(super) to: Option<IpAddr>,
}

/// A client that has spoken lately.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) socket: OwnedFd,
    pub(super) last: Instant,
}

/// All of them, by number and by client.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    by_id: HashMap<u64, Session>,
    by_client: HashMap<Client, u64>,
}

impl Sessions {
    pub(super) fn of(&mut self, client: &Client) -> Option<&mut Session> {
        self.by_id.get_mut(self.by_client.get(client)?)
    }

    pub(super) fn by_id(&mut self, id: u64) -> Option<&mut Session> {
        self.by_id.get_mut(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn add(&mut self, id: u64, session: Session) {
        self.by_client.insert(session.client, id);
        self.by_id.insert(id, session);
    }

    pub(super) fn remove(&mut self, id: u64) {
        if let Some(session) = self.by_id.remove(&id) {
            self.by_client.remove(&session.client);
        }
    }

    /// Makes room by ending the one that has been silent longest.
    pub(super) fn remove_oldest(&mut self) {
        let oldest = self.by_id.iter().min_by_key(|(_, session)| session.last);
        if let Some(id) = oldest.map(|(id, _)| *id) {
            self.remove(id);
        }
    }

    pub(super) fn remove_of(&mut self, forward: u64) {
        self.retain(|session| session.client.forward != forward);
    }

    pub(super) fn remove_silent(&mut self, idle: Duration, now: Instant) {
        self.retain(|session| now.saturating_duration_since(session.last) < idle);
    }

    fn retain(&mut self, keep: impl Fn(&Session) -> bool) {
        let by_client = &mut self.by_client;
        self.by_id.retain(|_, session| {
            let kept = keep(session);
            if !kept {
                by_client.remove(&session.client);
            }
            kept
        });
    }
}
