//! What nobody uses, taken away.

use std::collections::BTreeSet;

use super::area::unique;
use super::layer::chain_of;
use super::layers::LayerStore;
use super::layout::Layout;
use super::lease::Held;
use super::record::Record;
use super::remove::remove;
use crate::digest::Digest;
use crate::error::Result;
use crate::lock::Locked;

/// What was removed from a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Collected {
    /// The chain ids of layers.
    pub layers: Vec<Digest>,
    /// The ids of images.
    pub images: Vec<Digest>,
    /// How many things that killed processes had been making or using were found.
    pub leftovers: u64,
}

impl LayerStore {
    /// Removes layers and images that no living process uses and that are not kept by a name, nor below such a layer.
    ///
    /// Others wait for it only while it looks; removing is done aside. What is in use or being made is never touched.
    ///
    /// # Errors
    /// `Malformed` for a lease or a record that cannot be read: what it might hold is not known, and nothing is removed.
    pub fn collect(&self) -> Result<Collected> {
        let layout = &*self.layout;
        let mut collected = Collected::default();
        let mut garbage = Garbage::default();
        {
            let _exclusive = layout.exclusive()?;
            collected.leftovers = leftovers(layout, &mut garbage)?;
            let live = Live::find(layout)?;
            collected.layers = unused_layers(layout, &live, &mut garbage)?;
            collected.images = unused_images(layout, &live)?;
            free_locks(layout)?;
        }
        garbage.remove(layout)?;
        Ok(collected)
    }
}

/// Names in staging, with the locks of the first of them: so that others leave these alone, but with few fds. Who removes
/// the same as another finds it gone, at worst.
#[derive(Default)]
struct Garbage {
    names: Vec<String>,
    locks: Vec<Locked>,
}

impl Garbage {
    const MOST_LOCKS: usize = 64;

    fn add(&mut self, name: String, lock: Locked) {
        self.names.push(name);
        if self.locks.len() < Garbage::MOST_LOCKS {
            self.locks.push(lock);
        }
    }

    fn remove(self, layout: &Layout) -> Result<()> {
        for name in self.names {
            remove(&layout.staging, &name)?;
        }
        Ok(())
    }
}

/// Removes what killed processes left.
pub(super) fn sweep(layout: &Layout) -> Result<()> {
    let mut garbage = Garbage::default();
    {
        let _exclusive = layout.exclusive()?;
        leftovers(layout, &mut garbage)?;
    }
    garbage.remove(layout)
}

fn leftovers(layout: &Layout, garbage: &mut Garbage) -> Result<u64> {
    let mut count = 0;
    for name in layout.staging.names()? {
        if let Some(lock) = layout.staging.try_lock(&name)? {
            garbage.add(name, lock);
            count += 1;
        }
    }
    for name in layout.leases.names()? {
        if layout.leases.try_lock(&name)?.is_some() {
            layout.leases.unlink(&name)?;
            count += 1;
        }
    }
    Ok(count)
}

/// What is held by leases and names, with what is below.
struct Live {
    layers: BTreeSet<Digest>,
    images: BTreeSet<Digest>,
}

impl Live {
    fn find(layout: &Layout) -> Result<Self> {
        let mut live = Live {
            layers: BTreeSet::new(),
            images: BTreeSet::new(),
        };
        for area in [&layout.leases, &layout.pins] {
            for name in area.names()? {
                if let Some(held) = Held::read(area, &name)? {
                    live.add(layout, held)?;
                }
            }
        }
        Ok(live)
    }

    fn add(&mut self, layout: &Layout, held: Held) -> Result<()> {
        self.images.extend(held.image);
        let Some(chain) = held.layer else {
            return Ok(());
        };
        if !self.layers.contains(&chain) && layout.layers.has(&chain.hex())? {
            let records = chain_of(layout, chain)?;
            self.layers.extend(records.iter().map(Record::chain));
        }
        Ok(())
    }
}

/// Moves them to staging, at which they are gone for others: the upper ones first, so that a crash between leaves none
/// without those below it.
fn unused_layers(layout: &Layout, live: &Live, garbage: &mut Garbage) -> Result<Vec<Digest>> {
    let mut unused = Vec::new();
    for name in layout.layers.names()? {
        if let Ok(chain) = format!("sha256:{name}").parse::<Digest>() {
            if !live.layers.contains(&chain) {
                // One that cannot be read goes first.
                let depth = chain_of(layout, chain).map_or(usize::MAX, |records| records.len());
                unused.push((depth, chain));
            }
        }
    }
    unused.sort_unstable_by(|one, other| other.cmp(one));
    let mut moved = Vec::new();
    for (_, chain) in unused {
        let name = chain.hex();
        // None has it: who makes a layer takes its lock in staging, and leases it before the store's lock is free.
        let Some(lock) = layout.layers.try_lock(&name)? else {
            continue;
        };
        let trash = unique();
        layout.layers.rename(&name, &layout.staging, &trash)?;
        garbage.add(trash, lock);
        moved.push(chain);
    }
    Ok(moved)
}

fn unused_images(layout: &Layout, live: &Live) -> Result<Vec<Digest>> {
    let mut unused = Vec::new();
    for name in layout.images.names()? {
        let Ok(id) = format!("sha256:{name}").parse() else {
            continue;
        };
        if !live.images.contains(&id) {
            layout.images.unlink(&name)?;
            unused.push(id);
        }
    }
    Ok(unused)
}

/// A lock of a layer that nobody makes: [`lock`](super::area::Area::lock) finds out if it is removed under it.
fn free_locks(layout: &Layout) -> Result<()> {
    for name in layout.locks.names()? {
        if let Some(_lock) = layout.locks.try_lock(&name)? {
            layout.locks.unlink(&name)?;
        }
    }
    Ok(())
}
