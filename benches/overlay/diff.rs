//! The changes of an upper directory: 7,000 files modified, 2,000 added and 1,000 deleted over 100,000 in 2,000 directories.

use std::ffi::CString;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use cofferdam_overlay::Diff;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RawDir, StatxFlags, fgetxattr, mknodat, openat, statx,
};
use rustix::io::Errno;

use crate::{in_world, row};

/// `diff/10k-of-100k`, the list, and `diff/tar-10k-of-100k`, the tar of it.
pub(crate) fn rows(quick: bool) {
    in_world("1g", |world| {
        let (lower, upper) = (world.join("lower"), world.join("upper"));
        fill(&lower, &upper);
        list(&lower, &upper, if quick { 5 } else { 30 });
        tar(&lower, &upper, if quick { 3 } else { 10 });
    });
}

fn list(lower: &Path, upper: &Path, rounds: usize) {
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let start = Instant::now();
        let changes = Diff::of(upper).lower([lower]).changes().unwrap();
        // And the directories whose time has changed.
        assert!(changes.map(Result::unwrap).count() >= 10_000);
        ours.push(start.elapsed());

        let start = Instant::now();
        assert_eq!(bare(open(CWD, upper), Some(open(CWD, lower))), 12_040);
        floor.push(start.elapsed());
    }
    row("diff/10k-of-100k", "ours", ours);
    row("diff/10k-of-100k", "floor", floor);
}

fn tar(lower: &Path, upper: &Path, rounds: usize) {
    let (mut ours, mut peer) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let start = Instant::now();
        Diff::of(upper)
            .lower([lower])
            .write_tar(io::sink())
            .unwrap();
        ours.push(start.elapsed());

        let start = Instant::now();
        if gnu_tar(upper) {
            peer.push(start.elapsed());
        }
    }
    row("diff/tar-10k-of-100k", "ours", ours);
    match peer.is_empty() {
        true => println!("row diff/tar-10k-of-100k tar absent"),
        false => row("diff/tar-10k-of-100k", "tar", peer),
    }
}

/// All of the upper, without a digest. To a pipe: it reads nothing for `/dev/null`.
fn gnu_tar(upper: &Path) -> bool {
    let child = Command::new("tar")
        .args(["--create", "--xattrs", "--sort=name", "--format=pax", "."])
        .current_dir(upper)
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else { return false };
    io::copy(&mut child.stdout.take().unwrap(), &mut io::sink()).unwrap();
    child.wait().unwrap().success()
}

/// The system calls without which the changes are not known: each directory opened, read and asked whether it is opaque,
/// each name looked for in the upper and in the layer.
fn bare(upper: OwnedFd, lower: Option<OwnedFd>) -> usize {
    let mut buffer = vec![MaybeUninit::uninit(); 1 << 15];
    let mut entries = RawDir::new(&upper, &mut buffer);
    let mut names: Vec<(CString, FileType)> = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry.unwrap();
        if !entry.file_name().to_bytes().starts_with(b".") {
            names.push((entry.file_name().to_owned(), entry.file_type()));
        }
    }
    match fgetxattr(&upper, "trusted.overlay.opaque", &mut [0; 1]) {
        Ok(_) | Err(Errno::NODATA) => {}
        Err(errno) => panic!("{errno}"),
    }
    let mut count = 0;
    for (name, kind) in names {
        let find = |at: &OwnedFd| {
            statx(
                at,
                &name,
                AtFlags::SYMLINK_NOFOLLOW,
                StatxFlags::BASIC_STATS,
            )
            .is_ok()
        };
        assert!(find(&upper));
        let _found = lower.as_ref().is_some_and(find);
        count += 1;
        if kind == FileType::Directory {
            let name = Path::new(std::str::from_utf8(name.to_bytes()).unwrap());
            let below = lower.as_ref().map(|lower| open(lower, name));
            count += bare(open(&upper, name), below);
        }
    }
    count
}

fn open(at: impl std::os::fd::AsFd, path: &Path) -> OwnedFd {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, path, flags, Mode::empty()).unwrap()
}

/// 2,000 directories of 50 files each, of which the upper has some.
fn fill(lower: &Path, upper: &Path) {
    for directory in 0..2000 {
        let name = format!("{}/{directory}", directory % 40);
        let (below, above) = (lower.join(&name), upper.join(&name));
        fs::create_dir_all(&below).unwrap();
        fs::create_dir_all(&above).unwrap();
        for file in 0..50 {
            fs::write(below.join(file.to_string()), "").unwrap();
        }
        // 3.5 modified, 1 added and half a whiteout each.
        for file in 0..3 + directory % 2 {
            fs::write(above.join(file.to_string()), "modified").unwrap();
        }
        fs::write(above.join("new"), "added").unwrap();
        if directory % 2 == 0 {
            let kind = FileType::CharacterDevice;
            mknodat(CWD, above.join("40"), kind, Mode::empty(), 0).unwrap();
        }
    }
}
