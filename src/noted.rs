//! Links of networks that are written down before they are made.

use std::io;
use std::path::Path;

use crate::process::namespace;
use crate::runtime::{Fact, NotedLink, Record};

/// A record that goes when it is dropped, declared after what it speaks of.
#[derive(Debug)]
pub(crate) struct Noted(Option<Record>);

impl Noted {
    /// That links of these kinds and names are about to be made in the network namespace of the calling thread. One that is there
    /// already is not: making it fails.
    pub(crate) fn links(
        dir: Option<&Path>,
        network: &str,
        made: &[(&str, String)],
    ) -> io::Result<Self> {
        let there = cofferdam_netbridge::links()?;
        let is_there = |name: &str| there.iter().any(|link| link.name == name);
        let netns = namespace("net")?;
        let links = made.iter().filter(|(_, name)| !is_there(name));
        let links = links.map(|(kind, name)| {
            Fact::Link(NotedLink {
                kind: (*kind).to_owned(),
                name: name.clone(),
                netns: netns.clone(),
            })
        });
        let mut facts = vec![Fact::Name(network.to_owned())];
        facts.extend(links);
        if facts.len() == 1 {
            return Ok(Noted(None));
        }
        let record = Record::create(dir, network, |_| facts.clone());
        record.map(|record| Noted(Some(record)))
    }

    /// Leaves it for [`reap`](crate::reap).
    pub(crate) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        if let Some(record) = self.0.take() {
            let _gone = record.remove().is_ok();
        }
    }
}
