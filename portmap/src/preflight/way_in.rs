//! Rules of ours in a chain of somebody else's, and the guard that takes them back.

use super::conversation::{Conversation, Place, owned};
use super::rule::{Rule, Side, accept, comment};
use super::{ForeignHook, Hook, HookSource};
use crate::error::{Error, Failure, Inner, Result};
use crate::name::{IfName, TableName};
use crate::netns::NetNs;

/// How often a change is tried when others change the ruleset between our look and our change.
const TRIES: u32 = 1000;

/// Two rules in a chain of somebody else's, that let through what comes from a bridge and what goes to it.
///
/// Dropping it removes them, and nothing else: a rule of the same handle that does not have our comment is another's, made after a
/// reload of the firewall. Drop tries a bounded number of times if others change the ruleset; what it cannot remove stays, and has
/// a comment that tells whose it is.
#[derive(Debug)]
#[must_use = "dropping a WayIn removes its rules"]
pub struct WayIn {
    netns: NetNs,
    place: Place,
    rules: [OurRule; 2],
    armed: bool,
}

#[derive(Clone, Debug)]
struct OurRule {
    comment: String,
    message: Vec<u8>,
}

impl ForeignHook {
    /// Puts two rules before all others of this chain: what comes from the bridge is accepted there, and what goes to it. What of
    /// that is dropped is then up to the other chains of the hook: those of table inet `own_table`, which must be there, since
    /// nothing else keeps outsiders from the containers' unpublished ports. The chain's packets are counted.
    ///
    /// Rules of this table, bridge and chain that are there already are taken over: a killed process left them.
    ///
    /// It is for chains of nf_tables at hook forward, also those that iptables-nft made. A firewall that reloads may wipe the rules;
    /// whoever listens for that calls [`WayIn::reapply`]. Called from the network namespace the hook was found in.
    ///
    /// # Errors
    /// `InvalidInput` for names that cannot be; `Unsupported` for a chain of another hook or of legacy ip_tables, which only
    /// iptables-legacy can change; `PermissionDenied` without `CAP_NET_ADMIN`, or if the table has an owner, such as newer
    /// firewalld: there the bridge goes into a trusted zone; `NotFound` if the chain is gone; `Busy` if others kept changing the
    /// ruleset.
    pub fn let_in(&self, own_table: &str, bridge: &str) -> Result<WayIn> {
        let (table, bridge) = (TableName::new(own_table)?, IfName::new(bridge)?);
        let doing = format!("let {} through {self}", bridge.as_str());
        let unsupported = |what| -> Error {
            let doing = doing.clone();
            Inner::NoWayIn { doing, what }.into()
        };
        if self.hook != Hook::Forward {
            return Err(unsupported("a hook other than forward"));
        }
        if self.source == HookSource::IpTables {
            return Err(unsupported("a chain of iptables-legacy"));
        }
        let rules = [Side::In, Side::Out].map(|side| {
            let comment = comment(&table, &bridge, side);
            let message = accept(&bridge, side, &comment);
            OurRule { comment, message }
        });
        let place = Place {
            family: self.family,
            table: self.table.clone(),
            chain: self.chain.clone(),
        };
        let netns = NetNs::of_this_thread().map_err(|failure| failure.during(&doing))?;
        let way_in = WayIn {
            netns,
            place,
            rules,
            armed: true,
        };
        way_in.insert().map_err(|failure| failure.during(&doing))?;
        Ok(way_in)
    }
}

impl WayIn {
    /// Puts the rules back where a reload of the firewall wiped them. Those that are there stay.
    ///
    /// # Errors
    /// As [`ForeignHook::let_in`].
    pub fn reapply(&self) -> Result<()> {
        self.insert()
            .map_err(|failure| failure.during(self.doing("reapply")))
    }

    /// Removes the rules. Gone already is success.
    ///
    /// # Errors
    /// As [`ForeignHook::let_in`]; then they stay.
    pub fn remove(mut self) -> Result<()> {
        self.armed = false;
        self.delete()
            .map_err(|failure| failure.during(self.doing("remove")))
    }

    /// Leaves the rules after the process; a later [`ForeignHook::let_in`] takes them over.
    pub fn persist(mut self) {
        self.armed = false;
    }

    fn doing(&self, verb: &str) -> String {
        let Place {
            family,
            table,
            chain,
        } = &self.place;
        format!("{verb} our rules in table {family} {table}, chain {chain}")
    }

    fn insert(&self) -> std::result::Result<(), Failure> {
        self.change(|conversation, generation, there| {
            let missing: Vec<_> = self
                .rules
                .iter()
                .zip(there)
                .filter(|(_, there)| there.is_empty())
                .map(|(rule, _)| rule.message.clone())
                .collect();
            match missing.is_empty() {
                true => Ok(()),
                false => conversation
                    .insert(generation, &self.place, &missing)
                    .map(|_made| ())
                    .map_err(owned),
            }
        })
    }

    fn delete(&self) -> std::result::Result<(), Failure> {
        let deleted = self.change(|conversation, generation, there| {
            let handles = there.concat();
            match handles.is_empty() {
                true => Ok(()),
                false => conversation.delete(generation, &self.place, &handles),
            }
        });
        match deleted {
            // The table or the chain is gone, and the rules with it.
            Err(failure) if failure.errno() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }

    /// Looks for the rules and changes something, until nobody changed anything in between.
    fn change(
        &self,
        mut attempt: impl FnMut(
            &mut Conversation,
            u32,
            &[Vec<u64>; 2],
        ) -> std::result::Result<(), Failure>,
    ) -> std::result::Result<(), Failure> {
        let entered = self.netns.run(|| Ok(Conversation::open()));
        let enter = |error| Failure::call("enter the network namespace", &error);
        let mut conversation = entered.map_err(enter)??;
        let mut last = Ok(());
        for _ in 0..TRIES {
            let generation = conversation.generation()?;
            let there = self.there(&mut conversation)?;
            last = attempt(&mut conversation, generation, &there);
            match &last {
                Err(failure) if failure.errno() == Some(libc::ERESTART) => std::thread::yield_now(),
                _ => return last,
            }
        }
        last.map_err(|failure| failure.of_kind(crate::ErrorKind::Busy))
    }

    /// The handles of each rule of ours in the chain.
    fn there(
        &self,
        conversation: &mut Conversation,
    ) -> std::result::Result<[Vec<u64>; 2], Failure> {
        let Place {
            family,
            table,
            chain,
        } = &self.place;
        let answers = conversation.rules(*family, table, chain)?;
        Ok([0, 1].map(|index: usize| {
            let rules = answers
                .iter()
                .filter_map(|answer| Rule::read(answer.attributes()));
            let ours = rules.filter(|rule| rule.has_comment(&self.rules[index].comment));
            ours.filter_map(|rule| rule.handle()).collect()
        }))
    }
}

impl Drop for WayIn {
    fn drop(&mut self) {
        if self.armed {
            let _unused = self.delete().is_ok();
        }
    }
}
