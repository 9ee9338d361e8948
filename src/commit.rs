//! What a container wrote, as changes and as a layer.

use std::time::Duration;

use cofferdam_overlay::{Changes, History, Image, LayerRef, LayerStore};

use crate::error::{Error, Result};
use crate::rootfs::Written;
use crate::running::Running;

/// How long the processes of a container have to stop.
const PAUSE: Duration = Duration::from_secs(10);

/// # What it changed of its layers
impl Running {
    /// What it changed of its layers, one by one, as `docker diff` tells it. Places that something is mounted on are among
    /// them where its layers had none.
    ///
    /// # Errors
    /// `InvalidInput` for a root that is no stack of layers, else as [`Diff::changes`](cofferdam_overlay::Diff::changes), also of
    /// each item.
    pub fn diff(&self) -> Result<Changes> {
        let changes = self.written()?.diff().changes();
        changes.map_err(self.subject.failed("compare with the layers"))
    }

    /// Copies what it changed into a layer of `store`, on top of the layers it runs on, which have to be of that store. Its
    /// processes are stopped meanwhile, so that files are as of one moment, and go on afterwards. Volumes are not part of it.
    ///
    /// # Errors
    /// `InvalidInput` for a root of no store's, or where it has no cgroup to be stopped in: one with limits has. `Busy` where it
    /// does not stop. Else as [`LayerStore::commit`].
    pub fn commit(&self, store: &LayerStore) -> Result<LayerRef> {
        self.paused(|| self.commit_unpaused(store))
    }

    /// The same without stopping it: what it writes meanwhile is in the layer as it was before or after, or is an error.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub fn commit_unpaused(&self, store: &LayerStore) -> Result<LayerRef> {
        let written = self.written()?;
        let Some(base) = written.base.layer() else {
            return Err(self.invalid("commit", "its layers are of no store"));
        };
        let layer = store.commit(Some(base), written.path());
        layer.map_err(self.subject.failed("commit"))
    }

    /// An image of [`commit`](Self::commit)'s layer: that of the image it runs on with one more line of history, which says what
    /// made it.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub fn commit_image(&self, store: &LayerStore, by: impl Into<String>) -> Result<Image> {
        let layer = self.commit(store)?;
        let config = self.written()?.base.config();
        let mut config = config.cloned().unwrap_or_default();
        config.history.push(History::by(by));
        let image = store.image(Some(&layer), &config);
        image.map_err(self.subject.failed("make an image"))
    }

    fn written(&self) -> Result<&Written> {
        let none = || self.invalid("rootfs", "is no stack of layers");
        self.written_upper().ok_or_else(none)
    }

    fn paused<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.try_wait()?.is_some() {
            return work();
        }
        let Some(cgroup) = self.cgroup() else {
            return Err(self.invalid("commit", "it has no cgroup to be stopped in"));
        };
        let failed = || self.subject.failed("stop its processes");
        let _turn = self.freezer();
        if cgroup.is_frozen().map_err(failed())? {
            return work();
        }
        cgroup.freeze(PAUSE).map_err(failed())?;
        let done = work();
        let resumed = cgroup.thaw().map_err(self.subject.failed("let it go on"));
        done.and_then(|done| resumed.map(|()| done))
    }

    fn invalid(&self, item: &'static str, reason: &'static str) -> Error {
        Error::invalid(&self.subject, item, self.name(), reason)
    }
}
