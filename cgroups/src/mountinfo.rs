//! Which hierarchies are mounted where, and where in them this thread is; pure.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::controller::{Controller, Version};
use crate::error::{Error, Result};

/// One mount of a cgroup hierarchy, from `/proc/<pid>/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mounted {
    pub(crate) id: u64,
    pub(crate) version: Version,
    /// Of v1 the controllers that this crate knows.
    pub(crate) controllers: Vec<Controller>,
    /// Major and minor number: the same for every mount of one hierarchy.
    pub(crate) device: (u32, u32),
    /// The cgroup that is this mount's top directory. Begins with `/..` if it lies outside of the cgroup namespace.
    pub(crate) root: PathBuf,
    pub(crate) target: PathBuf,
}

/// Where a thread is in one hierarchy: a line of `/proc/<pid>/cgroup`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Membership {
    /// Empty in the line of v2.
    controllers: Vec<String>,
    path: PathBuf,
}

impl Mounted {
    /// Where under the mount the thread with these memberships is, if that can be seen through this mount.
    pub(crate) fn own(&self, memberships: &[Membership]) -> Option<PathBuf> {
        let membership = memberships.iter().find(|membership| match self.version {
            Version::V2 => membership.controllers.is_empty(),
            Version::V1 => self.controllers.iter().any(|ours| {
                membership
                    .controllers
                    .iter()
                    .any(|name| name == ours.v1_name())
            }),
        })?;
        let below = membership.path.strip_prefix(&self.root).ok()?;
        let outside = below.components().any(|part| part.as_os_str() == "..");
        (!outside).then(|| below.to_owned())
    }
}

impl Membership {
    /// The path, if it is that of the v2 hierarchy.
    pub(crate) fn in_v2(&self) -> Option<&Path> {
        self.controllers.is_empty().then_some(&self.path)
    }
}

/// The cgroup mounts in the text of a `mountinfo`.
pub(crate) fn mounts(path: &Path, text: &[u8]) -> Result<Vec<Mounted>> {
    let mut found = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        if line.is_empty() {
            continue;
        }
        let mounted = mount(line).ok_or_else(|| Error::parse(path, line))?;
        found.extend(mounted);
    }
    Ok(found)
}

/// The lines of a `/proc/<pid>/cgroup`.
pub(crate) fn memberships(path: &Path, text: &[u8]) -> Result<Vec<Membership>> {
    text.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| membership(line).ok_or_else(|| Error::parse(path, line)))
        .collect()
}

/// `None` is a line that is no mountinfo; `Some(None)` a mount of something else.
fn mount(line: &[u8]) -> Option<Option<Mounted>> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let _parent = fields.next()?;
    let device = device(fields.next()?)?;
    let root = unescape(fields.next()?);
    let target = unescape(fields.next()?);
    fields.find(|field| *field == b"-")?;
    let (kind, _source, options) = (fields.next()?, fields.next()?, fields.next()?);
    let version = match kind {
        b"cgroup" => Version::V1,
        b"cgroup2" => Version::V2,
        _ => return Some(None),
    };
    let controllers = match version {
        Version::V1 => controllers(options),
        Version::V2 => Vec::new(),
    };
    Some(Some(Mounted {
        id,
        version,
        controllers,
        device,
        root,
        target,
    }))
}

fn membership(line: &[u8]) -> Option<Membership> {
    let mut fields = line.splitn(3, |byte| *byte == b':');
    let _hierarchy = fields.next()?;
    let controllers = fields.next()?.split(|byte| *byte == b',');
    let path = fields.next().filter(|path| path.starts_with(b"/"))?;
    Some(Membership {
        controllers: controllers
            .filter(|name| !name.is_empty())
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect(),
        path: PathBuf::from(OsString::from_vec(path.to_vec())),
    })
}

fn device(field: &[u8]) -> Option<(u32, u32)> {
    let (major, minor) = std::str::from_utf8(field).ok()?.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn controllers(options: &[u8]) -> Vec<Controller> {
    options
        .split(|byte| *byte == b',')
        .filter_map(|option| std::str::from_utf8(option).ok())
        .filter_map(Controller::from_name)
        .collect()
}

/// Decodes `\040` and the like, in which mountinfo writes space, tab, newline and backslash.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let decoded = (first == b'\\').then(|| octal(tail)).flatten();
        bytes.push(decoded.unwrap_or(first));
        rest = if decoded.is_some() { &tail[3..] } else { tail };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

fn octal(digits: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(digits.get(..3)?).ok()?;
    u8::from_str_radix(digits, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    const HYBRID: &[u8] = include_bytes!("../tests/data/mountinfo-hybrid");
    const UNIFIED: &[u8] = include_bytes!("../tests/data/mountinfo-unified");
    const V1: &[u8] = include_bytes!("../tests/data/mountinfo-v1");
    const NAMESPACE: &[u8] = include_bytes!("../tests/data/mountinfo-namespace");
    const ESCAPES: &[u8] = include_bytes!("../tests/data/mountinfo-escapes");

    fn all(text: &[u8]) -> Vec<Mounted> {
        mounts(Path::new("mountinfo"), text).unwrap()
    }

    fn of(text: &[u8]) -> Vec<Membership> {
        memberships(Path::new("cgroup"), text).unwrap()
    }

    fn with(mounts: &[Mounted], controller: Controller) -> &Mounted {
        mounts
            .iter()
            .find(|mount| mount.controllers.contains(&controller))
            .unwrap()
    }

    #[test]
    fn a_unified_machine_has_one_mount() {
        let mounts = all(UNIFIED);
        assert_eq!(mounts.len(), 1);
        assert_eq!(mounts[0].version, Version::V2);
        assert_eq!(mounts[0].target, Path::new("/sys/fs/cgroup"));
        let own = mounts[0].own(&of(include_bytes!("../tests/data/cgroup-unified")));
        assert_eq!(own.as_deref(), Some(Path::new("")));
    }

    #[test]
    fn a_hybrid_machine_has_both_kinds_and_a_place_in_each() {
        let mounts = all(HYBRID);
        let memberships = of(include_bytes!("../tests/data/cgroup-hybrid"));
        let memory = with(&mounts, Controller::Memory);
        assert_eq!(memory.version, Version::V1);
        assert_eq!(memory.target, Path::new("/sys/fs/cgroup/memory"));
        assert_eq!((memory.id, memory.device), (35, (0, 32)));
        let own = memory.own(&memberships);
        assert_eq!(
            own.as_deref(),
            Some(Path::new("user.slice/session-1.scope"))
        );
        let cpu = with(&mounts, Controller::Cpu);
        assert_eq!(cpu.target, Path::new("/sys/fs/cgroup/cpu"));
        assert_eq!(cpu.own(&memberships).as_deref(), Some(Path::new("")));
        let unified: Vec<_> = mounts.iter().filter(|m| m.version == Version::V2).collect();
        assert_eq!(unified.len(), 1);
        assert_eq!(unified[0].target, Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(unified[0].own(&memberships).as_deref(), Some(Path::new("")));
    }

    #[test]
    fn a_v1_machine_has_no_place_in_v2() {
        let mounts = all(V1);
        assert!(mounts.iter().all(|mount| mount.version == Version::V1));
        let memberships = of(include_bytes!("../tests/data/cgroup-v1"));
        assert!(with(&mounts, Controller::Pids).own(&memberships).is_some());
        assert_eq!(all(UNIFIED)[0].own(&memberships), None);
    }

    #[test]
    fn a_mount_from_outside_the_cgroup_namespace_does_not_show_the_own_cgroup() {
        let mounts = all(NAMESPACE);
        let memberships = of(include_bytes!("../tests/data/cgroup-namespace"));
        let memory = with(&mounts, Controller::Memory);
        assert_eq!(memory.root, Path::new("/../.."));
        assert_eq!(memory.own(&memberships), None);
        let pids = with(&mounts, Controller::Pids);
        assert_eq!(pids.own(&memberships).as_deref(), Some(Path::new("")));
    }

    #[test]
    fn the_own_path_is_taken_below_the_root_of_the_mount() {
        let line =
            b"600 599 0:26 /docker/abc /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate\n";
        let mounts = all(line);
        for (text, own) in [
            (&b"0::/docker/abc\n"[..], Some("")),
            (b"0::/docker/abc/inner:x\n", Some("inner:x")),
            (b"0::/docker/abcd\n", None),
            (b"0::/\n", None),
            (b"0::/docker/abc/../../x\n", None),
        ] {
            assert_eq!(mounts[0].own(&of(text)).as_deref(), own.map(Path::new));
        }
    }

    #[test]
    fn octal_escapes_are_decoded() {
        let mounts = all(ESCAPES);
        assert_eq!(mounts[1].target, Path::new("/tmp/cg esc/a\\b"));
        assert_eq!(mounts[1].device, mounts[0].device);
        assert_eq!(unescape(b"a\\04"), Path::new("a\\04"));
        assert_eq!(unescape(b"a\\999b"), Path::new("a\\999b"));
        assert_eq!(unescape(b"\\011\\012"), Path::new("\t\n"));
    }

    #[test]
    fn co_mounted_controllers_share_a_hierarchy() {
        let line = b"30 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:12 - cgroup cgroup rw,cpu,cpuacct,pids";
        let mounts = all(line);
        assert_eq!(
            mounts[0].controllers,
            [Controller::Cpu, Controller::Cpuacct, Controller::Pids]
        );
        let memberships = of(b"4:cpu,cpuacct,pids:/a\n1:name=systemd:/b\n0::/c\n");
        assert_eq!(mounts[0].own(&memberships).as_deref(), Some(Path::new("a")));
    }

    #[test]
    fn a_line_that_is_no_mountinfo_is_named() {
        for line in [
            &b"rubbish"[..],
            b"1 2 x:y / / rw - cgroup2 c rw",
            b"1 2 0:1 / / rw",
        ] {
            let error = mounts(Path::new("mountinfo"), line).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Malformed);
        }
        for line in [&b"0:"[..], b"0::", b"0::relative"] {
            assert!(memberships(Path::new("cgroup"), line).is_err());
        }
    }
}
