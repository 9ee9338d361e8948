//! What an upper directory changes, found through overlays that the kernel mounted.
#![allow(
    clippy::unwrap_used,
    reason = "clippy sees only functions marked as tests"
)]

mod apply;
mod changes;
mod commit;
mod hostile;
mod layer;
mod random;
#[path = "../rootless/mod.rs"]
mod rootless;
mod tree;
mod world;
