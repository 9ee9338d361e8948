//! A reader of layers that shares nothing with the writer: onto a plain directory, as the image specification says.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, lsetxattr, makedev, mknodat,
    utimensat,
};

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: u8,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) link: Vec<u8>,
    pub(crate) modified: (i64, i64),
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) content: Vec<u8>,
}

pub(crate) fn entries(tar: &[u8]) -> Vec<Entry> {
    assert_eq!(tar.len() % 512, 0);
    let (mut at, mut found, mut pax) = (0, Vec::new(), BTreeMap::new());
    while tar[at..at + 512] != [0; 512] {
        let header = &tar[at..at + 512];
        check_sum(header);
        let mut size = octal(&header[124..136]);
        if header[156] != b'x' && pax.contains_key(b"size".as_slice()) {
            size = number(&pax, "size").unwrap();
        }
        let content = &tar[at + 512..at + 512 + size as usize];
        at += 512 + size.next_multiple_of(512) as usize;
        match header[156] {
            b'x' => pax = records(content),
            _ => found.push(entry(header, std::mem::take(&mut pax), content)),
        }
    }
    assert_eq!(tar[at..], [0; 1024], "two blocks end it");
    found
}

fn entry(header: &[u8], mut pax: BTreeMap<Vec<u8>, Vec<u8>>, content: &[u8]) -> Entry {
    let modified = match pax.get(b"mtime".as_slice()) {
        Some(text) => time(std::str::from_utf8(text).unwrap()),
        None => (octal(&header[136..148]) as i64, 0),
    };
    let id = |key, field| number(&pax, key).unwrap_or(octal(field)) as u32;
    let (uid, gid) = (id("uid", &header[108..116]), id("gid", &header[116..124]));
    let mut text = |key: &str, field: &[u8]| {
        let end = field
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(field.len());
        pax.remove(key.as_bytes()).unwrap_or(field[..end].to_vec())
    };
    let (path, link) = (
        text("path", &header[..100]),
        text("linkpath", &header[157..257]),
    );
    let xattrs = pax
        .into_iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(b"SCHILY.xattr.")?.to_vec(), value)));
    Entry {
        path,
        kind: header[156],
        mode: octal(&header[100..108]) as u32,
        uid,
        gid,
        link,
        modified,
        device: (
            octal(&header[329..337]) as u32,
            octal(&header[337..345]) as u32,
        ),
        xattrs: xattrs.collect(),
        content: content.to_vec(),
    }
}

fn check_sum(header: &[u8]) {
    let sum: u64 = (0..512)
        .map(|n| {
            if (148..156).contains(&n) {
                32
            } else {
                u64::from(header[n])
            }
        })
        .sum();
    assert_eq!(octal(&header[148..156]), sum);
    assert_eq!(&header[257..265], b"ustar\x0000");
    assert_eq!(header[265..329], [0; 64], "no names of owners");
}

fn octal(field: &[u8]) -> u64 {
    let text: String = field
        .iter()
        .map(|b| *b as char)
        .filter(char::is_ascii_digit)
        .collect();
    if text.is_empty() {
        0
    } else {
        u64::from_str_radix(&text, 8).unwrap()
    }
}

fn number(pax: &BTreeMap<Vec<u8>, Vec<u8>>, key: &str) -> Option<u64> {
    let text = pax.get(key.as_bytes())?;
    Some(std::str::from_utf8(text).unwrap().parse().unwrap())
}

fn time(text: &str) -> (i64, i64) {
    let (whole, parts) = text.split_once('.').unwrap_or((text, "0"));
    let parts: i64 = format!("{parts:0<9}").parse().unwrap();
    let seconds: i64 = whole.parse().unwrap();
    match whole.starts_with('-') && parts > 0 {
        true => (seconds - 1, 1_000_000_000 - parts),
        false => (seconds, parts),
    }
}

fn records(mut content: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut found = BTreeMap::new();
    while !content.is_empty() {
        let space = content.iter().position(|byte| *byte == b' ').unwrap();
        let length: usize = std::str::from_utf8(&content[..space])
            .unwrap()
            .parse()
            .unwrap();
        let record = &content[space + 1..length];
        assert_eq!(record.last(), Some(&b'\n'));
        let equals = record.iter().position(|byte| *byte == b'=').unwrap();
        let value = &record[equals + 1..record.len() - 1];
        assert!(
            found
                .insert(record[..equals].to_vec(), value.to_vec())
                .is_none()
        );
        content = &content[length..];
    }
    found
}

/// Applies a layer to the tree at `root`.
pub(crate) fn apply(tar: &[u8], root: &Path) {
    let entries = entries(tar);
    for entry in &entries {
        let path = entry.path.strip_suffix(b"/").unwrap_or(&entry.path);
        let path = root.join(OsStr::from_bytes(path));
        let name = path.file_name().unwrap_or_default().as_bytes().to_vec();
        if name == b".wh..wh..opq" {
            for left in fs::read_dir(path.parent().unwrap()).unwrap() {
                remove(&left.unwrap().path());
            }
        } else if let Some(hidden) = name.strip_prefix(b".wh.") {
            let hidden = path.with_file_name(OsStr::from_bytes(hidden));
            assert!(
                hidden.symlink_metadata().is_ok(),
                "a whiteout of nothing: {hidden:?}"
            );
            remove(&hidden);
        } else {
            make(entry, &path, root);
        }
    }
    let directories = entries.iter().filter(|entry| entry.kind == b'5');
    for directory in directories.rev() {
        finish(directory, &root.join(OsStr::from_bytes(&directory.path)));
    }
}

fn remove(path: &Path) {
    let removed = match path.symlink_metadata() {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        _ => fs::remove_file(path),
    };
    if let Err(error) = removed {
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}

fn make(entry: &Entry, path: &Path, root: &Path) {
    let is_directory = path.symlink_metadata().is_ok_and(|found| found.is_dir());
    if !(entry.kind == b'5' && is_directory) {
        remove(path);
    }
    let to = PathBuf::from(OsStr::from_bytes(&entry.link));
    match entry.kind {
        b'0' => fs::write(path, &entry.content).unwrap(),
        b'1' => return fs::hard_link(root.join(to), path).unwrap(),
        b'2' => symlink(to, path).unwrap(),
        b'3' => node(entry, path, FileType::CharacterDevice),
        b'4' => node(entry, path, FileType::BlockDevice),
        b'5' if is_directory => {}
        b'5' => fs::create_dir(path).unwrap(),
        b'6' => node(entry, path, FileType::Fifo),
        kind => panic!("an entry of type {kind}"),
    }
    finish(entry, path);
}

fn node(entry: &Entry, path: &Path, kind: FileType) {
    let device = makedev(entry.device.0, entry.device.1);
    mknodat(CWD, path, kind, Mode::empty(), device).unwrap();
}

fn finish(entry: &Entry, path: &Path) {
    lchown(path, Some(entry.uid), Some(entry.gid)).unwrap();
    if entry.kind != b'2' {
        fs::set_permissions(path, fs::Permissions::from_mode(entry.mode)).unwrap();
    }
    for old in crate::tree::xattrs(path).into_keys() {
        if !entry.xattrs.contains_key(&old) {
            rustix::fs::lremovexattr(path, OsStr::from_bytes(&old)).unwrap();
        }
    }
    for (name, value) in &entry.xattrs {
        lsetxattr(path, OsStr::from_bytes(name), value, XattrFlags::empty()).unwrap();
    }
    let time = Timespec {
        tv_sec: entry.modified.0,
        tv_nsec: entry.modified.1,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}
