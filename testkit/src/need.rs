//! What a test needs of the machine, and when its absence is a failure.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use rustix::mount::{FsOpenFlags, fsopen};

/// Something a test cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Need {
    /// Root in the initial user namespace: device nodes, cgroups, ranges of ids.
    Root,
    /// `CAP_SYS_ADMIN` and `CAP_NET_ADMIN` in some user namespace: mounts, links, rulesets of one's own.
    Namespaces,
    /// A cgroup v2 mount whose root offers this controller.
    Cgroup2Controller(&'static str),
    /// A cgroup v1 hierarchy with this controller.
    Cgroup1Controller(&'static str),
    /// A cgroup v2 mount, with or without controllers.
    Cgroup2,
    /// A kernel that knows this filesystem.
    Filesystem(&'static str),
    /// A machine on which an ordinary user may make user namespaces, and has privileges in them.
    UnprivilegedUserNamespaces,
    /// An executable of this name where distributions put them. Its package is in what `.ci/run` installs, not in the VM.
    Program(&'static str),
}

impl Need {
    fn met(self) -> bool {
        match self {
            Need::Root => effective(CAP_SYS_ADMIN) && initial_user_namespace(),
            Need::Namespaces => effective(CAP_SYS_ADMIN) && effective(CAP_NET_ADMIN),
            Need::Cgroup2Controller(name) => cgroup2_mount()
                .and_then(|mount| fs::read_to_string(format!("{mount}/cgroup.controllers")).ok())
                .is_some_and(|line| line.split_whitespace().any(|word| word == name)),
            Need::Cgroup1Controller(name) => mounts().any(|(_, kind, options)| {
                kind == "cgroup" && options.split(',').any(|option| option == name)
            }),
            Need::Cgroup2 => cgroup2_mount().is_some(),
            Need::Filesystem(name) => listed(name) || loadable(name),
            Need::UnprivilegedUserNamespaces => !switched_off(),
            Need::Program(name) => ["/usr/bin", "/bin", "/usr/sbin", "/sbin"]
                .iter()
                .any(|directory| Path::new(directory).join(name).is_file()),
        }
    }

    /// Whether a strict run promised it: always what root has, and in the VM all of cgroup v2.
    fn promised(self) -> bool {
        match self {
            Need::Cgroup2Controller(_) => is_set("COFFERDAM_VM"),
            Need::Cgroup1Controller(_) | Need::UnprivilegedUserNamespaces => false,
            Need::Program(_) => !is_set("COFFERDAM_VM"),
            Need::Root | Need::Namespaces | Need::Cgroup2 | Need::Filesystem(_) => true,
        }
    }
}

/// Whether all `needs` are met; else prints `SKIP` with the test's name and what is missing.
///
/// # Panics
/// With `COFFERDAM_STRICT=1`, where a missing need was promised: a skip there would hide a failure.
pub fn have(needs: &[Need]) -> bool {
    let Some(missing) = needs.iter().find(|need| !need.met()) else {
        return true;
    };
    skip(&format!("{missing:?}"), missing.promised());
    false
}

/// Prints `SKIP` with the test's name and what it needs, for what only the test itself can find out.
///
/// # Panics
/// With `COFFERDAM_STRICT=1`, where it was `promised`: a skip there would hide a failure.
pub fn skip(missing: &str, promised: bool) {
    let test = std::thread::current().name().unwrap_or("main").to_owned();
    assert!(
        !(is_set("COFFERDAM_STRICT") && promised),
        "{test} needs {missing}, which a strict run promises"
    );
    // Not by eprintln!, which the harness hides for a test that passes: a skip is to be seen.
    let line = format!("SKIP {test}: needs {missing}\n");
    io::stderr().write_all(line.as_bytes()).expect("stderr");
}

/// Whether the machine may be an emulated one, which takes a hundred times as long.
#[must_use]
pub fn is_emulated() -> bool {
    env::var_os("COFFERDAM_VM").is_some()
}

/// How many times a test does something that it does `many` times, but `emulated` times where that takes long.
#[must_use]
pub fn turns(many: usize, emulated: usize) -> usize {
    if is_emulated() { emulated } else { many }
}

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;

fn effective(capability: u32) -> bool {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|set| set & (1 << capability) != 0)
}

fn initial_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// By the distributions' own switches, or the kernel's.
fn switched_off() -> bool {
    let is = |path: &str, value| fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
    is(
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
    ) || is("/proc/sys/kernel/unprivileged_userns_clone", "0")
        || is("/proc/sys/user/max_user_namespaces", "0")
}

fn listed(filesystem: &str) -> bool {
    fs::read_to_string("/proc/filesystems")
        .is_ok_and(|list| list.split_whitespace().any(|word| word == filesystem))
}

/// Whether the kernel finds it when it is asked for: a module is not listed before its first use.
fn loadable(filesystem: &str) -> bool {
    fsopen(filesystem, FsOpenFlags::FSOPEN_CLOEXEC).is_ok()
}

fn cgroup2_mount() -> Option<String> {
    mounts()
        .find(|(_, kind, _)| kind == "cgroup2")
        .map(|(target, ..)| target)
}

/// Target, filesystem and options of each mount.
fn mounts() -> impl Iterator<Item = (String, String, String)> {
    let table = fs::read_to_string("/proc/thread-self/mounts").unwrap_or_default();
    let rows: Vec<_> = table
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1).map(str::to_owned);
            Some((fields.next()?, fields.next()?, fields.next()?))
        })
        .collect();
    rows.into_iter()
}

fn is_set(variable: &str) -> bool {
    env::var_os(variable).is_some_and(|value| value == "1")
}
