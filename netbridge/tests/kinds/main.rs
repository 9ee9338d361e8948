//! The kinds of networks other than the plain bridge, with real packets, each test in network namespaces of its own.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod ipvlan;
#[path = "../kernel/mod.rs"]
#[allow(dead_code, reason = "another test uses the rest")]
mod kernel;
mod lower;
mod macvlan;
mod mode;
mod support;
mod vxlan;
