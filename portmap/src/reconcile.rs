//! The kernel's state made equal to what is declared, whatever others or a crash did to it.

use std::collections::BTreeMap;
use std::fmt;

use crate::element::Element;
use crate::error::{Failure, Inner, Result};
use crate::inspect::Damage;
use crate::kernel::{Attempt, Kernel, Takeover, during, foreign_table};
use crate::layout::{Chain, Set};
use crate::ruleset::{Ruleset, taken};
use crate::socket::FoundTable;
use crate::wire::{self, Change};

/// What [`Portmap::reconcile`](crate::Portmap::reconcile) and [`Portmap::reapply`](crate::Portmap::reapply) had to change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Repaired {
    /// What was done to the table as a whole.
    pub table: TableRepair,
    /// Chains whose rules somebody had changed.
    pub chains: usize,
    /// Elements of sets and maps that were missing or led elsewhere: a port is one, a network has several.
    pub added: usize,
    /// Elements that were too many or led elsewhere.
    pub removed: usize,
}

impl Repaired {
    /// Whether everything was as it should be.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Repaired::default()
    }
}

/// What was done to the table as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TableRepair {
    /// Nothing: where something was changed, elements or rules were.
    #[default]
    Kept,
    /// It was not there.
    Created,
    /// A set or a chain was missing or changed, or the table had no owner and was to have one: another was put in its place, in the
    /// same transaction.
    Replaced,
    /// Nothing is declared.
    Deleted,
}

/// Elements by what the kernel tells them apart by.
type Elements = BTreeMap<(Set, Vec<u8>), Element>;

fn by_place(elements: impl IntoIterator<Item = Element>) -> Elements {
    let place = |element: &Element| (element.set, element.key.clone());
    elements
        .into_iter()
        .map(|element| (place(&element), element))
        .collect()
}

impl Kernel {
    /// Makes the table exactly this.
    pub(crate) fn reconcile(
        &mut self,
        declared: &Ruleset,
        doing: impl fmt::Display + Copy,
    ) -> Result<Repaired> {
        let wanted = by_place(declared.elements());
        let repaired = self.repair(doing, |_| Ok(wanted.clone()))?;
        self.declared = declared.clone();
        Ok(repaired)
    }

    /// Brings back what this handle declared, and leaves what is there besides.
    pub(crate) fn reapply(&mut self, doing: impl fmt::Display + Copy) -> Result<Repaired> {
        let (table, declared) = (self.table.clone(), self.declared.clone());
        self.repair(doing, |there| {
            let there = there.values().cloned().collect();
            let (mut ruleset, strays) = Ruleset::read(table.clone(), there);
            merge(&mut ruleset, &declared, doing)?;
            Ok(by_place(strays.into_iter().chain(ruleset.elements())))
        })
    }

    fn repair(
        &mut self,
        doing: impl fmt::Display + Copy,
        wanted: impl Fn(&Elements) -> Result<Elements>,
    ) -> Result<Repaired> {
        let mut repaired = Repaired::default();
        self.transact(doing, |kernel, generation| {
            let Some(found) = kernel.socket.table(&kernel.table).map_err(during(doing))? else {
                let wanted = wanted(&Elements::new())?;
                repaired = Repaired::default();
                return Ok(kernel.create(generation, &wanted, &mut repaired));
            };
            kernel.refuse_owned(found, doing)?;
            let damage = Damage::of(&mut kernel.socket, &kernel.table).map_err(during(doing))?;
            let there = kernel.what_is_there(found).map_err(during(doing))?;
            let plan = Plan {
                found,
                damage,
                wanted: wanted(&there)?,
                there,
            };
            let (changes, what) = plan.compile(kernel);
            repaired = what;
            Ok(match changes.is_empty() {
                true => Attempt::Done,
                false => kernel.commit(generation, &changes),
            })
        })?;
        self.forget();
        Ok(repaired)
    }

    fn create(&mut self, generation: u32, wanted: &Elements, repaired: &mut Repaired) -> Attempt {
        if wanted.is_empty() {
            return Attempt::Done;
        }
        repaired.table = TableRepair::Created;
        repaired.added = wanted.len();
        let elements: Vec<_> = wanted.values().cloned().collect();
        let changes = wire::create(&self.table, self.flags(), &elements);
        self.commit(generation, &changes)
    }

    /// The elements of the sets that are there. A table without most of them that does not say it is ours is not.
    fn what_is_there(&mut self, found: FoundTable) -> std::result::Result<Elements, Failure> {
        let mut elements = Vec::new();
        for set in Set::ALL {
            match self.socket.elements(&self.table, set) {
                Ok(of_set) => elements.extend(of_set),
                Err(failure) if failure.errno() != Some(libc::ENOENT) => return Err(failure),
                Err(_missing) if found.is_tagged => {}
                Err(failure) => return Err(foreign_table(failure)),
            }
        }
        Ok(by_place(elements))
    }
}

/// What is to become of a table that is there.
struct Plan {
    found: FoundTable,
    damage: Damage,
    there: Elements,
    wanted: Elements,
}

impl Plan {
    fn compile(&self, kernel: &Kernel) -> (Vec<Change>, Repaired) {
        let (added, removed) = self.difference();
        let mut repaired = Repaired {
            added: added.len(),
            removed: removed.len(),
            ..Repaired::default()
        };
        if self.wanted.is_empty() {
            repaired.table = TableRepair::Deleted;
            return (wire::delete_table(&kernel.table), repaired);
        }
        let mut changes = Vec::new();
        let chains: &[&Chain] = match (&self.damage, kernel.takeover(self.found)) {
            (_, Takeover::Replace) | (Damage::Table, _) => return self.replace(kernel, repaired),
            _ if self.found.flags & DORMANT != 0 => return self.replace(kernel, repaired),
            (Damage::Rules(chains), Takeover::Flags(change)) => {
                changes.push(change);
                chains
            }
            (Damage::Rules(chains), Takeover::NotNeeded) => chains,
        };
        repaired.chains = chains.len();
        for chain in chains {
            changes.extend(wire::restore_chain(&kernel.table, chain));
        }
        changes.extend(wire::delete_elements(&kernel.table, &removed));
        changes.extend(wire::add_elements(&kernel.table, &added));
        (changes, repaired)
    }

    fn replace(&self, kernel: &Kernel, mut repaired: Repaired) -> (Vec<Change>, Repaired) {
        repaired.table = TableRepair::Replaced;
        let elements: Vec<_> = self.wanted.values().cloned().collect();
        (kernel.replace(&elements), repaired)
    }

    /// What has to be added and removed; what leads elsewhere is in both.
    fn difference(&self) -> (Vec<Element>, Vec<Element>) {
        let missing = |one: &Elements, of: &Elements| {
            let differs = one
                .iter()
                .filter(|(place, element)| of.get(*place) != Some(*element));
            differs.map(|(_, element)| element.clone()).collect()
        };
        (
            missing(&self.wanted, &self.there),
            missing(&self.there, &self.wanted),
        )
    }
}

/// `NFT_TABLE_F_DORMANT`: none of the table's chains is called.
const DORMANT: u32 = 1;

/// Adds what is declared to what is there. A network of the same owner is made what it should be; a port that leads elsewhere is
/// somebody else's by now.
fn merge(there: &mut Ruleset, declared: &Ruleset, doing: impl fmt::Display) -> Result<()> {
    for network in declared.networks() {
        let same = there.network_of(&network.bridge);
        if same.is_some_and(|same| same.owner() == network.owner()) {
            there.remove_network(network.bridge());
        }
        if let Some(by) = there.network_conflict(network) {
            let doing = format!("{doing}: network of bridge {}", network.bridge());
            return Err(Inner::Taken { doing, by }.into());
        }
        there.insert_network(network.clone());
    }
    for port in declared.ports() {
        match there.port_conflict(port) {
            None => there.insert_port(port.clone()),
            Some(same) if same == port => {}
            Some(other) => return Err(taken(format!("{doing}: {port}"), other)),
        }
    }
    Ok(())
}
