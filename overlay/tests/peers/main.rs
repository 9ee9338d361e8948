//! The same images by us and by others: umoci, skopeo, buildah, containerd and GNU tar.
#![allow(
    clippy::unwrap_used,
    reason = "clippy sees only functions marked as tests"
)]

#[path = "../archive/mod.rs"]
mod archive;
mod cases;
mod corpus;
mod equal;
mod layout;
mod programs;
mod random;
mod tree;
mod world;
