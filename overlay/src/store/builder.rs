//! How a store is opened.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::available_parallelism;

use super::form::{Asked, Form};
use super::layers::LayerStore;
use super::layout::Layout;
use crate::apply::{Devices, Limits, RawWhiteouts, Unmapped};
use crate::diff::IdRange;
use crate::error::Result;
use crate::marks::Marks;

/// More than so many at once gain little, and each takes memory and fds.
const MOST_THREADS: usize = 4;

/// What a [`LayerStore`] is opened with: a description, nothing is done yet.
///
/// A layer is named by its tar, and is there once. So what makes other files of the same tar, which is owners, marks and what
/// becomes of devices and of character devices 0:0, is the same for all layers of a store: it is written down when the store is
/// made, and [`open`](LayerStoreBuilder::open) refuses a store that was made otherwise. Layers for containers with other ids are
/// in another store, or stay as they are in this one and are mounted by [`Overlay::idmap`](crate::Overlay::idmap).
///
/// [`limits`](LayerStoreBuilder::limits) and [`threads`](LayerStoreBuilder::threads) are of the opened value, and not of the store on
/// disk: others that open it have their own, and a layer that is there is given whatever it would have cost.
///
/// ```no_run
/// use cofferdam_overlay::{Devices, LayerStore, Limits};
///
/// # fn main() -> cofferdam_overlay::Result<()> {
/// let store = LayerStore::builder("/var/lib/app/shifted")
///     .map_users(0, 100_000, 65_536)
///     .map_groups(0, 100_000, 65_536)
///     .devices(Devices::Refuse)
///     .limits(Limits::default().bytes(4 << 30))
///     .open()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is opened before `open`"]
pub struct LayerStoreBuilder {
    path: PathBuf,
    asked: Asked,
    limits: Limits,
    threads: usize,
}

impl LayerStoreBuilder {
    pub(super) fn new(path: &Path) -> Self {
        let cores = available_parallelism().map_or(1, NonZeroUsize::get);
        LayerStoreBuilder {
            path: path.to_owned(),
            asked: Asked::default(),
            limits: Limits::default(),
            threads: cores.min(MOST_THREADS),
        }
    }

    /// Has `count` users of layers, from `inside` on, be `outside` and so on on the disk, as
    /// [`Apply::map_users`](crate::Apply::map_users). Uppers that are committed are mapped back. Of the store.
    pub fn map_users(mut self, inside: u32, outside: u32, count: u32) -> Self {
        self.asked.users.push(range(inside, outside, count));
        self
    }

    /// The same for groups.
    pub fn map_groups(mut self, inside: u32, outside: u32, count: u32) -> Self {
        self.asked.groups.push(range(inside, outside, count));
        self
    }

    /// What becomes of users and groups outside of these ranges; by default layers with such are refused. What is squashed is
    /// not mapped back: an upper that has a copy of such a file cannot be committed, unless the id is of a range too. Of the
    /// store.
    pub fn unmapped(mut self, unmapped: Unmapped) -> Self {
        self.asked.unmapped = unmapped;
        self
    }

    /// Where layers have their marks, and uppers that are committed; by default where [`Marks::detect`] says. Of the store.
    pub fn marks(mut self, marks: Marks) -> Self {
        self.asked.marks = Some(marks);
        self
    }

    /// What becomes of devices in layers; by default they are made, but skipped where marks are [`Marks::User`]. Of the store.
    pub fn devices(mut self, devices: Devices) -> Self {
        self.asked.devices = Some(devices);
        self
    }

    /// What becomes of character devices 0:0 in layers; by default layers with one are refused. Of the store.
    pub fn raw_whiteouts(mut self, raw_whiteouts: RawWhiteouts) -> Self {
        self.asked.raw_whiteouts = raw_whiteouts;
        self
    }

    /// What a layer may cost that is unpacked: see also [`LayerStore::with_limits`].
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// How many layers of one image are unpacked side by side: see [`LayerStore::with_threads`]. By default as many as there are
    /// cores, and at most 4.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Opens the store, or makes one, mode 700, where there is nothing or an empty directory. What killed processes left behind
    /// is removed.
    ///
    /// # Errors
    /// `InvalidInput` for a directory that is something else, and for ranges of ids that overlap on either side, are empty or go
    /// past the last; `Unsupported` for a layout of another version, a store whose layers are of another form than asked for,
    /// or [`Marks::Trusted`] in a user namespace; `PermissionDenied` for one that is another user's or that others may enter; others
    /// as the kernel says.
    pub fn open(&self) -> Result<LayerStore> {
        let form = Form::new(&self.asked)?;
        let layout = Arc::new(Layout::open(&self.path, form)?);
        super::collect::sweep(&layout)?;
        Ok(LayerStore {
            layout,
            limits: self.limits.clone(),
            threads: self.threads,
        })
    }
}

fn range(inside: u32, outside: u32, count: u32) -> IdRange {
    IdRange {
        inside,
        outside,
        count,
    }
}
