//! Stores of layers, and what is left of them when processes are killed.
#![allow(
    clippy::unwrap_used,
    reason = "clippy sees only functions marked as tests"
)]

#[path = "../archive/mod.rs"]
mod archive;
mod crash;
mod form;
#[cfg(feature = "images")]
mod hostile;
#[cfg(feature = "images")]
mod images;
mod layers;
mod locks;
#[path = "../rootless/mod.rs"]
mod rootless;
mod stack;
mod world;
