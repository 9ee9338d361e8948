//! The store itself.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FlockOperation;

use super::Fault;
use super::builder::LayerStoreBuilder;
use super::chain::chain_id;
use super::layer::LayerRef;
use super::layout::Layout;
use super::lease::{Held, pin_name};
use super::record::Record;
use super::staged::Staged;
use super::unpack::Parent;
use crate::apply::Limits;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::lock::Locked;

/// A directory of layers, each of them there once, that any number of processes use at the same time.
///
/// A layer is named by its chain id: what its directory holds depends on those below it too, of which it takes metadata of
/// directories it does not mention. It appears by one rename(2) when all of it is on disk (syncfs(2)), so that a crash at any
/// time leaves no half of one. What a killed process was making is found by its lock, which is free then, and removed by
/// [`open`](LayerStore::open) and [`collect`](LayerStore::collect).
///
/// ```no_run
/// use std::fs::File;
///
/// use cofferdam_overlay::{Expected, LayerStore, Overlay};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = LayerStore::open("/var/lib/app/layers")?;
/// let base = store.apply(None, File::open("debian.tar.gz")?, Expected::default())?;
/// let app = store.apply(Some(&base), File::open("app.tar.gz")?, Expected::default())?;
/// let root = Overlay::builder(app.directories()).scratch().detached()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct LayerStore {
    pub(super) layout: Arc<Layout>,
    pub(super) limits: Limits,
    pub(super) threads: usize,
}

/// What a layer must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Expected {
    /// The sha256 of its tar. Where it is known, a layer that is there is not read at all.
    pub diff_id: Option<Digest>,
    /// The sha256 of the tar as it is read, compressed or not.
    pub blob: Option<Digest>,
}

impl Expected {
    /// A layer of this diff id.
    #[must_use]
    pub fn diff_id(diff_id: Digest) -> Self {
        Expected {
            diff_id: Some(diff_id),
            blob: None,
        }
    }

    /// And of this blob.
    #[must_use]
    pub fn blob(mut self, blob: Digest) -> Self {
        self.blob = Some(blob);
        self
    }
}

impl LayerStore {
    /// Opens the store at `path`, or makes one, with nothing asked for: [`LayerStoreBuilder::open`].
    ///
    /// # Errors
    /// As [`LayerStoreBuilder::open`]: `Unsupported` among them for a store of another user namespace, where layers have other
    /// [`Marks`](crate::Marks) than outside.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        LayerStore::builder(path).open()
    }

    /// Describes a store at `path` that is to be opened, or made.
    pub fn builder(path: impl AsRef<Path>) -> LayerStoreBuilder {
        LayerStoreBuilder::new(path.as_ref())
    }

    /// The same store, where what is unpacked may cost this.
    #[must_use]
    pub fn with_limits(&self, limits: Limits) -> Self {
        let mut store = self.clone();
        store.limits = limits;
        store
    }

    /// The same store, where so many layers of one image are unpacked side by side, by as many threads, the caller's among them; 0 is
    /// 1, and 64 are the most. For each there are two more threads, which read, inflate and hash, up to 12 MiB of buffers, about
    /// 90 fds, and the memory that [`Limits::metadata_bytes`] allows. All of them end before the call returns.
    #[must_use]
    pub fn with_threads(&self, threads: usize) -> Self {
        let mut store = self.clone();
        store.threads = threads;
        store
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.layout.root.path()
    }

    /// The layer of that chain id.
    ///
    /// # Errors
    /// `NotFound`; `Malformed` where its record cannot be read.
    pub fn layer(&self, chain_id: Digest) -> Result<LayerRef> {
        let _shared = self.layout.shared()?;
        LayerRef::take(&self.layout, chain_id, None)
    }

    /// Applies the tar that `reader` gives, as [`Apply`](crate::Apply) does, on `parent`. Where it is there already, that one is
    /// given; where another process is making it, this waits for that.
    ///
    /// # Errors
    /// As [`Apply::tar`](crate::Apply::tar), and `InvalidInput` for a parent of another store; the store is as before then.
    ///
    /// # Panics
    /// If `reader` does.
    pub fn apply(
        &self,
        parent: Option<&LayerRef>,
        reader: impl Read + Send,
        expected: Expected,
    ) -> Result<LayerRef> {
        let parent = Parent {
            chain: self.own(parent)?,
            directories: parent.map(LayerRef::directories).unwrap_or_default(),
        };
        let known = expected
            .diff_id
            .map(|diff_id| chain_id(parent.chain, diff_id));
        self.make(known, &|| Ok(parent.clone()), reader, expected)
    }

    /// What is kept by that name.
    ///
    /// # Errors
    /// `NotFound` where nothing is, or where it is no layer.
    pub fn kept(&self, name: &str) -> Result<LayerRef> {
        let _shared = self.layout.shared()?;
        match self.held(name)?.layer {
            Some(chain) => LayerRef::take(&self.layout, chain, None),
            None => Err(self.nothing_kept(name)),
        }
    }

    /// Keeps it no more. What nobody uses is removed by the next [`collect`](LayerStore::collect).
    ///
    /// # Errors
    /// `InvalidInput` for what is no name. Nothing there is success.
    pub fn forget(&self, name: &str) -> Result<()> {
        let file = pin_name(name)?;
        self.layout.pins.unlink(&file)?;
        self.layout.pins.sync()
    }

    /// The names by which something is kept, sorted.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn names(&self) -> Result<Vec<String>> {
        let names = self.layout.pins.names()?;
        Ok(names.iter().map(|name| name.replace('+', "/")).collect())
    }

    pub(super) fn held(&self, name: &str) -> Result<Held> {
        let held = Held::read(&self.layout.pins, &pin_name(name)?)?;
        held.ok_or_else(|| self.nothing_kept(name))
    }

    pub(super) fn nothing_kept(&self, name: &str) -> Error {
        let (path, name) = (self.path().to_owned(), name.to_owned());
        Fault::NoPin { path, name }.into()
    }

    /// The chain id of a layer that is to be built on, which must be one of this store.
    pub(super) fn own(&self, layer: Option<&LayerRef>) -> Result<Option<Digest>> {
        let Some(layer) = layer else { return Ok(None) };
        let chain = layer.chain_id();
        if self.layout.is(layer.layout())? {
            return Ok(Some(chain));
        }
        let path = self.path().to_owned();
        Err(Fault::ForeignLayer { path, chain }.into())
    }

    /// Held by who makes that layer.
    pub(super) fn making(&self, chain: Digest) -> Result<Locked> {
        let exclusive = FlockOperation::LockExclusive;
        self.layout.locks.lock(&chain.hex(), exclusive)
    }

    pub(super) fn find(&self, chain: Digest) -> Result<Option<LayerRef>> {
        let _shared = self.layout.shared()?;
        match self.layout.layers.has(&chain.hex())? {
            true => LayerRef::take(&self.layout, chain, None).map(Some),
            false => Ok(None),
        }
    }

    /// Whoever is first with it makes it; what was made in vain goes.
    pub(super) fn publish_first(&self, staged: Staged, record: &Record) -> Result<LayerRef> {
        let _making = self.making(record.chain())?;
        match self.find(record.chain())? {
            Some(found) => Ok(found),
            None => self.publish(staged, record),
        }
    }

    /// Nothing is collected between its appearing and its lease.
    pub(super) fn publish(&self, staged: Staged, record: &Record) -> Result<LayerRef> {
        staged.seal(record)?;
        let _shared = self.layout.shared()?;
        staged.publish(record.chain())?;
        LayerRef::take(&self.layout, record.chain(), None)
    }
}
