//! Modules of the VM's kernel.

use std::process::Command;

use crate::need::is_emulated;

/// Loads a module of the VM's kernel, which is ours. On another machine it does nothing: that one's kernel stays as it is.
///
/// # Panics
/// If it cannot: the VM's kernel has what the suite's tests need.
pub fn load_module(name: &str) {
    if is_emulated() {
        let done = Command::new("modprobe").arg(name).output();
        let done = done.expect("modprobe of the VM");
        assert!(done.status.success(), "modprobe {name}: {done:?}");
    }
}
