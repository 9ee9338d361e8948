//! Layers on disk, each once, for all processes of a host.

mod area;
mod chain;
mod check;
mod collect;
mod commit;
#[cfg(feature = "images")]
mod image;
mod layer;
mod layers;
mod layout;
mod lease;
mod problem;
mod record;
mod remove;
mod staged;
mod unpack;

pub use chain::chain_id;
pub use check::{Finding, Flaw};
pub use collect::Collected;
#[cfg(feature = "images")]
pub use image::{Compress, History, Image, ImageConfig, ImageSource, Platform};
pub use layer::LayerRef;
pub use layers::{Expected, LayerStore};

pub(crate) use problem::Fault;
