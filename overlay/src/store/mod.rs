//! Layers on disk, each once, for all processes of a host.

mod area;
mod builder;
mod chain;
mod check;
mod collect;
mod commit;
mod form;
#[cfg(feature = "images")]
mod image;
mod layer;
mod layers;
mod layout;
mod lease;
mod problem;
mod record;
mod remove;
mod stack;
mod staged;
mod unpack;
mod volumes;

pub use builder::LayerStoreBuilder;
pub use chain::chain_id;
pub use check::{Finding, Flaw};
pub use collect::Collected;
#[cfg(feature = "images")]
pub use image::{Compress, History, Image, ImageConfig, ImageSource, Platform};
pub use layer::LayerRef;
pub use layers::{Expected, LayerStore};
pub use volumes::{VolumeRef, VolumeStore};

pub(crate) use problem::Fault;
