//! Why a machine refuses user namespaces, in words.

use std::fs;

use rustix::thread::CapabilitySet;

use crate::command::Command;
use crate::error::Error;

/// What administrators switch user namespaces off by: the errnos it shows as, the file, its content then, and what to say.
const SWITCHES: [(&[i32], &str, &str, &str); 3] = [
    (
        &[libc::EPERM, libc::EACCES],
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "the sysctl kernel.apparmor_restrict_unprivileged_userns is 1: AppArmor denies all capabilities in user namespaces \
         of programs without a profile that has \"userns\"",
    ),
    (
        &[libc::EPERM],
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
        "the sysctl kernel.unprivileged_userns_clone is 0: only root may make user namespaces",
    ),
    (
        &[libc::ENOSPC, libc::EUSERS],
        "/proc/sys/user/max_user_namespaces",
        "0",
        "the sysctl user.max_user_namespaces is 0: nobody may make user namespaces",
    ),
];

/// `error`, with what is known of the machine where that can be its cause.
pub(crate) fn explain(command: &Command, error: Error) -> Error {
    if !command.owns_user_namespace() || error.is_of_the_program() {
        return error;
    }
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let privileged = super::is_capable(CapabilitySet::SYS_ADMIN);
    let errno = error.raw_os_error();
    let reason = errno.and_then(|errno| reason(errno, privileged, read));
    match reason {
        Some(reason) => error.with_hint(reason),
        None => error,
    }
}

fn reason(errno: i32, privileged: bool, read: impl Fn(&str) -> String) -> Option<&'static str> {
    // Nothing is denied to those who could do it all without a user namespace, but for their number.
    if privileged && matches!(errno, libc::EPERM | libc::EACCES) {
        return None;
    }
    let mut switches = SWITCHES.iter();
    let set = switches
        .find(|(errnos, path, value, _)| errnos.contains(&errno) && read(path).trim() == *value)?;
    Some(set.3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_named_where_it_can_be_the_cause() {
        let machine = |path: &str| match path {
            "/proc/sys/user/max_user_namespaces" => "0\n".to_owned(),
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns" => "0\n".to_owned(),
            _ => String::new(),
        };
        let said = reason(libc::ENOSPC, true, machine).unwrap();
        assert!(said.contains("user.max_user_namespaces is 0"), "{said}");
        assert_eq!(reason(libc::ENOENT, false, machine), None);
        assert_eq!(reason(libc::EPERM, false, machine), None);
        let ubuntu = |path: &str| String::from(if path.contains("apparmor") { "1\n" } else { "" });
        let said = reason(libc::EACCES, false, ubuntu).unwrap();
        assert!(said.contains("apparmor_restrict_unprivileged_userns is 1"));
        assert_eq!(reason(libc::EACCES, true, ubuntu), None);
        assert_eq!(reason(libc::ENOSPC, false, ubuntu), None);
    }
}
