//! Programs in a user namespace of their own.

use std::process::Command;

use crate::sys;

/// Has `command` run as root of a user and a mount namespace of its own, in which no other id exists.
pub fn as_root_of_a_user_namespace(command: &mut Command) -> &mut Command {
    let id = rustix::process::geteuid().as_raw();
    sys::enter_user_namespace(command, format!("0 {id} 1"))
}
