//! The same ruleset by iptables, for hosts whose rules are managed so.

mod chains;
mod ports;
mod program;
mod saved;

use std::sync::{Mutex, MutexGuard, PoisonError};

use chains::{Chains, Family, Known, Names, difference, render};
pub use program::{Programs, Variant};

use crate::error::{Failure, Inner, Result};
use crate::mapping::PortMapping;
use crate::name::TableName;
use crate::netns::NetNs;
use crate::ruleset::Ruleset;

/// A back end that gives a [`Ruleset`] to iptables: for hosts whose owner wants all rules to be seen and kept there.
///
/// It executes `iptables-restore --noflush` and `ip6tables-restore --noflush`, one each for a change, and none for a family that
/// nothing changes of; and before the first change the `-save` of each, to see what is there. Its chains are its own, named after
/// the table: `<table>-FWD`, `-IN`, `-RAW`, `-PUB`, `-POST`, and with many ports `-PUB-t1F` and the like. One rule in each built-in
/// chain leads to them, as the first; no other rule is touched.
///
/// ```no_run
/// use cofferdam_portmap::{Iptables, NetworkSpec, PortMapping, Protocol, Ruleset};
///
/// let mut ruleset = Ruleset::new("myapp")?;
/// ruleset.network(NetworkSpec::new("br0")?.subnet("10.1.0.0/24".parse()?))?;
/// ruleset.publish(PortMapping::new(Protocol::Tcp, 8080, "10.1.0.2:80".parse()?)?)?;
/// let iptables = Iptables::open("myapp")?;
/// iptables.apply(&ruleset)?;
/// iptables.delete()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # How it differs from nf_tables
/// - Of a change each of iptables' tables is taken whole or not at all, but not all of them at once: guards come before what leads
///   to a container, and go after it.
/// - There are no sets without ipset: rules grow with the networks, and ports are a tree of chains. The first packet of a flow
///   to a published port passes at most some sixty rules instead of two, whatever the number of ports, and a further port
///   rewrites one chain of at most sixteen rules; but each change costs an exec, and `iptables-legacy` copies its whole table.
/// - Nothing refuses a port that somebody else leads elsewhere, and no socket reserves it: the caller does, as
///   [`Portmap`](crate::Portmap) does.
/// - Masquerading goes by subnet: a network without one has none.
/// - It is the declared state that is applied, not a single port. Of two processes that apply to the same table, the later one's
///   is there.
///
/// # Ends
/// [`delete`](Self::delete) removes it all, with a result; dropping the value does the same if it applied anything; after
/// [`persist`](Self::persist) the rules outlive the process.
#[derive(Debug)]
#[must_use = "dropping an Iptables deletes what it applied"]
pub struct Iptables {
    table: TableName,
    names: Names,
    programs: Programs,
    netns: NetNs,
    state: Mutex<State>,
}

/// What this handle knows of the kernel's state, of each family. None: it has to look.
#[derive(Debug, Default)]
struct State {
    known: [Option<Known>; 2],
    armed: bool,
}

impl Iptables {
    /// With the programs that [`Programs::find`] finds, for the calling thread's network namespace. Nothing is executed yet.
    ///
    /// # Errors
    /// `InvalidInput` for a name nft could not spell; `NotFound` without the programs, or if /proc is not mounted.
    pub fn open(table: &str) -> Result<Self> {
        Self::with_programs(table, Programs::find(Variant::Default)?)
    }

    /// The same with these programs.
    ///
    /// # Errors
    /// `InvalidInput` for a name nft could not spell; `NotFound` if /proc is not mounted.
    pub fn with_programs(table: &str, programs: Programs) -> Result<Self> {
        let table = TableName::new(table)?;
        let netns = NetNs::of_this_thread()
            .map_err(|failure| failure.during(format_args!("open chains {table} of iptables")))?;
        Ok(Iptables {
            names: Names::of(&table.to_string()),
            table,
            programs,
            netns,
            state: Mutex::default(),
        })
    }

    /// Makes the chains equal to the ruleset: what has not changed since the last call is not touched. A ruleset without networks
    /// and ports leaves nothing.
    ///
    /// # Errors
    /// `InvalidInput` for a ruleset of another table, or an interface whose name means more to iptables: then nothing was changed.
    /// `PermissionDenied` without `CAP_NET_ADMIN`; `Os` with what iptables said where it refused: of iptables' tables `filter`,
    /// `raw` and `nat`, and of the families, those before the refusal have changed.
    pub fn apply(&self, ruleset: &Ruleset) -> Result<()> {
        let doing = format!("apply chains {} by iptables", self.table);
        if ruleset.table_name() != self.table.as_str() {
            let value = ruleset.table_name().to_owned();
            let (what, reason) = ("table name", "not the one this was opened with");
            return Err(Inner::Input {
                what,
                value,
                reason,
            }
            .into());
        }
        let mut wanted = Vec::new();
        for family in Family::BOTH {
            wanted.push((family, render(ruleset, family, &self.names)?));
        }
        let mut state = self.lock();
        state.armed = true;
        for (family, chains) in wanted {
            self.change(&mut state, family, chains)
                .map_err(|failure| failure.during(&doing))?;
        }
        Ok(())
    }

    /// The same without trust in what the last call left: looks first, and brings back what others flushed. For after the reload of a
    /// firewall.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn reapply(&self, ruleset: &Ruleset) -> Result<()> {
        self.lock().known = Default::default();
        self.apply(ruleset)
    }

    /// Removes the chains and the rules that lead to them, whoever made them. That they are not there is success.
    ///
    /// # Errors
    /// As [`apply`](Self::apply); then some may be left, and it may be called again.
    pub fn delete(&self) -> Result<()> {
        let doing = format!("delete chains {} of iptables", self.table);
        let mut state = self.lock();
        state.known = Default::default();
        for family in Family::BOTH {
            self.change(&mut state, family, Chains::new())
                .map_err(|failure| failure.during(&doing))?;
        }
        state.armed = false;
        Ok(())
    }

    /// The ports that are published there now, as iptables has them.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn list(&self) -> Result<Vec<PortMapping>> {
        let doing = format!("list chains {} of iptables", self.table);
        let mut ports = Vec::new();
        for family in Family::BOTH {
            let text = self.programs.save(&self.netns, family);
            let text = text.map_err(|failure| failure.during(&doing))?;
            ports.extend(saved::ports(&text, &self.names));
        }
        Ok(ports)
    }

    /// Leaves it all in the kernel after the process.
    pub fn persist(self) {
        self.lock().armed = false;
    }

    fn change(
        &self,
        state: &mut State,
        family: Family,
        wanted: Chains,
    ) -> std::result::Result<(), Failure> {
        let known = &mut state.known[family as usize];
        let before = match known.take() {
            Some(before) => before,
            None => Known::read(&self.programs.save(&self.netns, family)?, &self.names),
        };
        let text = difference(family, &self.names, &before, &wanted);
        if !text.is_empty() {
            self.programs.restore(&self.netns, family, &text)?;
        }
        *known = Some(Known::of(family, &self.names, wanted));
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What is known is taken out before a change and put back after it: a panic between leaves nothing wrong.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Iptables {
    fn drop(&mut self) {
        if self.lock().armed {
            let _unused = self.delete().is_ok();
        }
    }
}
