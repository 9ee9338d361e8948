//! Images: layers with what is to be run in them.

mod archive;
mod config;
mod export;
mod import;
mod json;
mod source;

use std::path::PathBuf;

pub use config::{History, ImageConfig, Platform};
pub use export::Compress;
pub use source::ImageSource;

use super::layer::LayerRef;
use super::layers::LayerStore;
use super::lease::{Held, Lease};
use crate::digest::Digest;
use crate::error::Result;

/// An image of a store. It and its layers stay as long as this value: no process collects them.
#[derive(Debug)]
#[must_use = "dropping the Image gives it and its layers up to be collected"]
pub struct Image {
    store: LayerStore,
    id: Digest,
    config: ImageConfig,
    layer: Option<LayerRef>,
    /// Of the config.
    lease: Lease,
}

impl Image {
    /// The sha256 of its config.
    #[must_use]
    pub fn id(&self) -> Digest {
        self.id
    }

    /// What is to be run in it, and how it came to be.
    #[must_use]
    pub fn config(&self) -> &ImageConfig {
        &self.config
    }

    /// Its top layer; None of an image without layers.
    #[must_use]
    pub fn layer(&self) -> Option<&LayerRef> {
        self.layer.as_ref()
    }

    /// The directories to be stacked, the top one first: for [`Overlay::builder`](crate::Overlay::builder). Nobody may write to
    /// them.
    #[must_use]
    pub fn directories(&self) -> Vec<PathBuf> {
        self.layer
            .as_ref()
            .map(LayerRef::directories)
            .unwrap_or_default()
    }

    /// Gives it up to be collected, as dropping it does, and tells how that went.
    ///
    /// # Errors
    /// As unlink(2) of the leases says; then the next [`LayerStore::collect`] removes them.
    pub fn release(self) -> Result<()> {
        self.lease.release()?;
        self.layer.map_or(Ok(()), LayerRef::release)
    }

    /// Keeps it by a name, for [`LayerStore::kept_image`], until [`LayerStore::forget`]. It is on disk when the call returns.
    ///
    /// # Errors
    /// `AlreadyExists` where something is kept by that name, `InvalidInput` for other characters than letters, digits and
    /// `._-:@/`.
    pub fn persist(self, name: &str) -> Result<()> {
        let held = Held {
            layer: self.layer.as_ref().map(LayerRef::chain_id),
            image: Some(self.id),
        };
        held.pin(&self.store.layout, name)
    }
}

impl LayerStore {
    /// Makes an image of a layer, and those below it, of this store: its config is written with their diff ids.
    ///
    /// # Errors
    /// `InvalidInput` for a layer of another store; others as the kernel says.
    pub fn image(&self, layer: Option<&LayerRef>, config: &ImageConfig) -> Result<Image> {
        let chain = self.own(layer)?;
        let diff_ids = layer.map(LayerRef::diff_ids).unwrap_or_default();
        self.add_image(&config.render(&diff_ids), chain)
    }

    /// The image kept by that name.
    ///
    /// # Errors
    /// `NotFound` where nothing is, or where it is no image; `Malformed` where its config is damaged.
    pub fn kept_image(&self, name: &str) -> Result<Image> {
        let _shared = self.layout.shared()?;
        let held = self.held(name)?;
        let Some(id) = held.image else {
            return Err(self.nothing_kept(name));
        };
        self.take_image(id, held.layer)
    }

    fn add_image(&self, config: &[u8], chain: Option<Digest>) -> Result<Image> {
        let _shared = self.layout.shared()?;
        let (images, id) = (&self.layout.images, Digest::of(config));
        if !images.has(&id.hex())? {
            let staged = super::area::unique();
            self.layout.staging.write(&staged, config)?;
            self.layout.staging.rename(&staged, images, &id.hex())?;
            images.sync()?;
        }
        self.take_image(id, chain)
    }

    /// To be called with the store's lock held.
    fn take_image(&self, id: Digest, chain: Option<Digest>) -> Result<Image> {
        let path = self.layout.images.path().join(id.hex());
        let bytes = self
            .layout
            .images
            .read(&id.hex(), json::LIMIT)?
            .unwrap_or_default();
        json::check_digest(&path, &bytes, id)?;
        let config = ImageConfig::parse(&path, &bytes)?;
        let held = Held {
            layer: chain,
            image: Some(id),
        };
        let layer = chain.map(|chain| LayerRef::take(&self.layout, chain, Some(id)));
        Ok(Image {
            store: self.clone(),
            id,
            config,
            layer: layer.transpose()?,
            lease: Lease::take(&self.layout, held)?,
        })
    }
}
