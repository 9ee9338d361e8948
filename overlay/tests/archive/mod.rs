//! Tars, byte by byte, and the world to unpack them in.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test binary takes what it needs; clippy sees only functions marked as tests"
)]

#[path = "../files/mod.rs"]
mod files;

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cofferdam_testkit::{Need, have, in_mount_namespace};
#[allow(unused_imports, reason = "not every test binary uses all of it")]
pub(crate) use files::{directory, names, read, tmpfs};
use rustix::fs::{getxattr, lgetxattr};

/// An archive as it grows. Entries have mode 644, or 755 for directories, user and group 0 and mtime 1000.
#[derive(Clone, Debug, Default)]
pub(crate) struct Archive(Vec<u8>);

/// One header, to be changed before it is added.
#[derive(Clone, Debug)]
pub(crate) struct Header(pub(crate) [u8; 512]);

impl Header {
    pub(crate) fn new(name: impl AsRef<[u8]>, typeflag: u8) -> Self {
        let mut header = Header([0; 512]);
        let name = name.as_ref();
        header.0[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
        header.0[257..265].copy_from_slice(b"ustar\x0000");
        header.0[156] = typeflag;
        let mode = if typeflag == b'5' { 0o755 } else { 0o644 };
        header.mode(mode).owner(0, 0).size(0).mtime(1000)
    }

    pub(crate) fn mode(self, mode: u32) -> Self {
        self.octal(100, 8, mode.into())
    }

    pub(crate) fn owner(self, uid: u32, gid: u32) -> Self {
        self.octal(108, 8, uid.into()).octal(116, 8, gid.into())
    }

    pub(crate) fn size(self, size: u64) -> Self {
        self.octal(124, 12, size)
    }

    pub(crate) fn mtime(self, mtime: u64) -> Self {
        self.octal(136, 12, mtime)
    }

    pub(crate) fn link(mut self, to: impl AsRef<[u8]>) -> Self {
        let to = to.as_ref();
        self.0[157..157 + to.len()].copy_from_slice(to);
        self
    }

    pub(crate) fn device(self, major: u32, minor: u32) -> Self {
        self.octal(329, 8, major.into()).octal(337, 8, minor.into())
    }

    pub(crate) fn bytes(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn octal(mut self, at: usize, width: usize, number: u64) -> Self {
        let text = format!("{number:0width$o}\0", width = width - 1);
        if text.len() <= width {
            self.0[at..at + width].copy_from_slice(text.as_bytes());
        } else {
            self.0[at..at + width].fill(0);
            self.0[at] = 0x80;
            let number = number.to_be_bytes();
            let (start, kept) = if width > 8 {
                (at + width - 8, 0)
            } else {
                (at + 1, 1)
            };
            self.0[start..at + width].copy_from_slice(&number[kept..]);
        }
        self
    }
}

impl Archive {
    pub(crate) fn new() -> Self {
        Archive::default()
    }

    /// A header with its checksum, and a body in whole blocks.
    pub(crate) fn add(mut self, mut header: Header, body: impl AsRef<[u8]>) -> Self {
        header.0[148..156].fill(b' ');
        let sum: u32 = header.0.iter().map(|byte| u32::from(*byte)).sum();
        header.0[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&header.0);
        self.0.extend_from_slice(body.as_ref());
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: impl AsRef<[u8]>, text: impl AsRef<[u8]>) -> Self {
        let size = text.as_ref().len() as u64;
        self.add(Header::new(name, b'0').size(size), text)
    }

    pub(crate) fn directory(self, name: impl AsRef<[u8]>) -> Self {
        self.add(Header::new(name, b'5'), "")
    }

    pub(crate) fn symlink(self, name: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Self {
        self.add(Header::new(name, b'2').link(to), "")
    }

    pub(crate) fn link(self, name: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Self {
        self.add(Header::new(name, b'1').link(to), "")
    }

    pub(crate) fn extended(self, kind: u8, body: impl AsRef<[u8]>) -> Self {
        let size = body.as_ref().len() as u64;
        self.add(Header::new("extended", kind).size(size), body)
    }

    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        self.extended(b'x', records_of(records))
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// With the two blocks at the end.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

pub(crate) fn records_of(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while rest + length.to_string().len() != length {
            length = rest + length.to_string().len();
        }
        body.extend_from_slice(format!("{length} {key}=").as_bytes());
        body.extend_from_slice(value);
        body.push(b'\n');
    }
    body
}

/// Runs `work` in a mount namespace of its own, with an empty tmpfs to work in.
pub(crate) fn in_world(work: impl FnOnce(&Path) + Send) {
    if !have(&[Need::Namespaces]) {
        return;
    }
    in_mount_namespace(|| {
        let world = std::env::temp_dir();
        tmpfs(&world, "size=256m,mode=0755");
        if in_user_namespace() && xattr_is_unsupported(&world) {
            let needs = "user.* xattrs on tmpfs in a user namespace";
            cofferdam_testkit::skip(needs, !cofferdam_testkit::is_emulated());
            return;
        }
        work(&world);
    });
}

fn in_user_namespace() -> bool {
    read("/proc/self/uid_map")
        .split_whitespace()
        .ne(["0", "0", "4294967295"])
}

fn xattr_is_unsupported(directory: &Path) -> bool {
    getxattr(directory, "user.a", &mut [0; 1]) == Err(rustix::io::Errno::OPNOTSUPP)
}

/// An xattr that files of a tmpfs have: before Linux 6.6 it takes no `user.*`, and in a user namespace nobody sets the other.
pub(crate) fn an_xattr() -> &'static str {
    match in_user_namespace() {
        true => "user.a",
        false => "trusted.a",
    }
}

pub(crate) fn exists(path: impl AsRef<Path>) -> bool {
    path.as_ref().symlink_metadata().is_ok()
}

pub(crate) fn is_whiteout(path: impl AsRef<Path>) -> bool {
    path.as_ref()
        .symlink_metadata()
        .is_ok_and(|found| found.mode() & 0o170_000 == 0o020_000 && found.rdev() == 0)
}

pub(crate) fn xattr(path: impl AsRef<Path>, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 4096];
    let length = lgetxattr(path.as_ref(), name, &mut value).ok()?;
    value.truncate(length);
    Some(value)
}

/// In either namespace of marks.
pub(crate) fn is_opaque(path: impl AsRef<Path>) -> bool {
    ["trusted.overlay.opaque", "user.overlay.opaque"]
        .iter()
        .any(|name| getxattr(path.as_ref(), *name, &mut [0; 1]) == Ok(1))
}
