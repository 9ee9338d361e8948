//! Uppers that somebody prepared.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_overlay::{Diff, ErrorKind};
use rustix::fs::{CWD, Mode, RenameFlags, XattrFlags, mkdirat, openat, renameat_with, setxattr};

use crate::world::{in_world, write};

#[test]
fn a_symlink_swapped_in_for_a_directory_is_not_followed() {
    in_world(1, |world| {
        let secret = world.base.join("outside");
        write(secret.join("secret"), "do not tell");
        write(world.upper.join("d/inside"), "tell");
        symlink(&secret, world.upper.join("link")).unwrap();
        let stop = AtomicBool::new(false);
        let (d, link) = (world.upper.join("d"), world.upper.join("link"));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    renameat_with(CWD, &d, CWD, &link, RenameFlags::EXCHANGE).unwrap();
                }
            });
            let start = Instant::now();
            // Fewer where the machine is slow.
            for _ in 0..1000 {
                if start.elapsed() > Duration::from_secs(10) {
                    break;
                }
                let mut tar = Vec::new();
                // A swap that is noticed is an error.
                if world.diff().write_tar(&mut tar).is_ok() {
                    let found = tar.windows(11).any(|window| window == b"do not tell");
                    assert!(!found, "it was told");
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
    });
}

#[test]
fn a_layers_symlink_leads_nowhere() {
    in_world(1, |world| {
        write(world.base.join("outside/file"), "");
        symlink(world.base.join("outside"), world.lowers[0].join("d")).unwrap();
        write(world.upper.join("d/file"), "");
        assert_eq!(world.changes(), ["M d", "A d/file"]);
    });
}

#[test]
fn a_fifo_is_not_opened() {
    in_world(1, |world| {
        let mode = Mode::RUSR | Mode::WUSR;
        for root in [&world.upper, &world.lowers[0]] {
            let fifo = root.join("fifo");
            rustix::fs::mknodat(CWD, fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        }
        let diff = world.diff().compare_content();
        assert!(diff.changes().unwrap().all(|change| change.is_ok()));
        diff.write_tar(Vec::new()).unwrap();
    });
}

#[test]
fn a_path_that_is_too_long_is_an_error() {
    in_world(1, |world| {
        let mut directory =
            openat(CWD, &world.upper, rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
        for _ in 0..20 {
            let name = "n".repeat(250);
            mkdirat(&directory, &name, Mode::RWXU).unwrap();
            directory = openat(&directory, &name, rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
        }
        let error = world.diff().write_tar(Vec::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(
            error
                .to_string()
                .ends_with("bytes of path, but 4095 are the most")
        );
    });
}

#[test]
fn too_many_xattrs_are_an_error() {
    in_world(1, |world| {
        let file = world.upper.join("file");
        write(file.clone(), "");
        for n in 0..17 {
            let value = vec![b'x'; 65_536];
            setxattr(&file, format!("trusted.{n}"), &value, XattrFlags::empty()).unwrap();
        }
        let error = world.diff().write_tar(Vec::new()).unwrap_err();
        let expected = format!("diff {}: xattrs of over 1048576 bytes", file.display());
        assert_eq!(error.to_string(), expected);
    });
}

#[test]
fn what_is_no_directory_is_named() {
    in_world(1, |world| {
        write(world.base.join("file"), "");
        let kind = |upper: PathBuf, lower: PathBuf| {
            let error = Diff::of(upper).lower([lower]).changes().unwrap_err();
            (error.kind(), error.to_string())
        };
        let (found, text) = kind(world.base.join("gone"), world.lowers[0].clone());
        assert_eq!(found, ErrorKind::NotFound);
        assert!(text.starts_with("open upper "));
        let (found, text) = kind(world.upper.clone(), world.base.join("file"));
        assert_eq!(found, ErrorKind::InvalidInput);
        assert!(text.starts_with("open layer "));
        fs::remove_file(world.base.join("file")).unwrap();
    });
}
