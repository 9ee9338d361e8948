//! Blobs: compressions, digests, where they end.

use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cofferdam_overlay::{Apply, Compression, Digest, Durability, ErrorKind};
use cofferdam_testkit::{Need, have, refuse_syscall};
use flate2::write::GzEncoder;

use crate::archive::{Archive, directory, in_world, names, read};

/// More than a chunk of the stream, and not all the same.
fn archive() -> Vec<u8> {
    let text: Vec<u8> = (0..150_000_u32)
        .flat_map(|n| (n.wrapping_mul(n) >> 7).to_le_bytes())
        .collect();
    Archive::new()
        .file("a", "text")
        .file("large", &text)
        .file("z", "end")
        .end()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8], options: &[&str]) -> Vec<u8> {
    let mut child = Command::new("zstd")
        .args(["-q", "-c"])
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(bytes).unwrap());
        child.wait_with_output().unwrap().stdout
    })
}

fn check(world: &Path, blob: &[u8], compression: Compression) {
    let tar = archive();
    let layer = fresh(world);
    let applied = Apply::new(&layer)
        .blob(Digest::of(blob))
        .diff_id(Digest::of(&tar))
        .tar(blob)
        .unwrap();
    assert_eq!(applied.compression, compression);
    assert_eq!(
        (applied.blob, applied.blob_bytes),
        (Digest::of(blob), blob.len() as u64)
    );
    assert_eq!(
        (applied.diff_id, applied.tar_bytes),
        (Digest::of(&tar), tar.len() as u64)
    );
    assert_eq!(applied.entries, 3);
    assert_eq!(read(layer.join("z")), "end");
    assert_eq!(fs::metadata(layer.join("large")).unwrap().len(), 600_000);
}

fn fresh(world: &Path) -> PathBuf {
    let count = fs::read_dir(world).unwrap().count();
    directory(world, &format!("layer{count}"))
}

#[test]
fn plain_and_gzip_of_one_and_more_members() {
    in_world(|world| {
        let tar = archive();
        check(world, &tar, Compression::None);
        check(world, &gzip(&tar), Compression::Gzip);
        let members = tar.chunks(70_001).map(gzip).collect::<Vec<_>>().concat();
        check(world, &members, Compression::Gzip);
    });
}

#[test]
fn zstd_of_one_and_more_frames() {
    if !have(&[Need::Program("zstd")]) {
        return;
    }
    in_world(|world| {
        let tar = archive();
        check(world, &zstd(&tar, &["-3"]), Compression::Zstd);
        let frames = tar
            .chunks(70_001)
            .map(|part| zstd(part, &["-1"]))
            .collect::<Vec<_>>();
        let skippable = [&[0x53, 0x2a, 0x4d, 0x18, 5, 0, 0, 0][..], b"hello"].concat();
        check(world, &frames.join(&skippable[..]), Compression::Zstd);
        let leading = [skippable, frames.concat()].concat();
        check(world, &leading, Compression::Zstd);
        // A wrong checksum, which is at the end.
        let mut wrong = zstd(&tar, &["-3", "--check"]);
        *wrong.last_mut().unwrap() ^= 1;
        let layer = fresh(world);
        let error = Apply::new(&layer).tar(&*wrong).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed, "{error}");
        assert_eq!(names(&layer), [""; 0]);
    });
}

#[test]
fn what_follows_the_end_of_the_archive_is_hashed_too() {
    in_world(|world| {
        let tar = [
            Archive::new().file("a", "").end(),
            vec![0; 9000],
            b"garbage".to_vec(),
        ]
        .concat();
        for blob in [tar.clone(), gzip(&tar)] {
            let applied = Apply::new(fresh(world)).tar(&*blob).unwrap();
            assert_eq!(applied.diff_id, Digest::of(&tar));
        }
    });
}

#[test]
fn a_stream_without_its_last_blocks_is_whole_and_an_empty_one_too() {
    in_world(|world| {
        let tar = Archive::new().file("a", "").end();
        for end in [0, 512, 1024, 1536] {
            let applied = Apply::new(fresh(world)).tar(&tar[..end]).unwrap();
            assert_eq!(applied.entries, u64::from(end > 0));
        }
    });
}

#[test]
fn other_compressions_are_named() {
    in_world(|world| {
        for (magic, name) in [(&b"\xfd7zXZ\0"[..], "xz"), (b"BZh91AY&SY", "bzip2")] {
            let error = Apply::new(fresh(world))
                .tar([magic, &[0; 600]].concat().as_slice())
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains(name));
        }
    });
}

/// Gives a byte at a time, is interrupted, and fails in the end if it is to.
struct Slow<'a>(&'a [u8], u8, Option<io::Error>);

impl Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 = self.1.wrapping_add(1);
        match (self.1 % 3, self.0) {
            (0, _) => Err(io::ErrorKind::Interrupted.into()),
            (_, []) => self.2.take().map_or(Ok(0), Err),
            (_, [first, rest @ ..]) => {
                buffer[0] = *first;
                self.0 = rest;
                Ok(1)
            }
        }
    }
}

#[test]
fn a_slow_reader_is_read_to_its_end_and_its_error_is_told() {
    in_world(|world| {
        let tar = Archive::new().file("a", "text").end();
        for blob in [tar.clone(), gzip(&tar)] {
            let applied = Apply::new(fresh(world)).tar(Slow(&blob, 0, None)).unwrap();
            assert_eq!(applied.diff_id, Digest::of(&tar));
            let layer = fresh(world);
            let broken = io::Error::from_raw_os_error(32);
            let error = Apply::new(&layer)
                .tar(Slow(&blob, 0, Some(broken)))
                .unwrap_err();
            assert_eq!(error.raw_os_error(), Some(32), "{error}");
            assert_eq!(names(&layer), [""; 0]);
        }
    });
}

#[test]
fn a_reader_that_panics_passes_its_panic_on() {
    in_world(|world| {
        struct Panics;
        impl Read for Panics {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                panic!("on purpose");
            }
        }
        let layer = fresh(world);
        let panic = std::panic::catch_unwind(|| Apply::new(&layer).tar(Panics)).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"on purpose"));
    });
}

#[test]
fn progress_is_told_to_the_end() {
    in_world(|world| {
        let tar = archive();
        let mut told = Vec::new();
        Apply::new(fresh(world))
            .tar_with(&*tar, |progress| told.push(progress))
            .unwrap();
        let last = told.last().unwrap();
        assert_eq!((last.entries, last.tar_bytes), (3, tar.len() as u64));
        assert!(told.is_sorted_by_key(|progress| progress.tar_bytes));
    });
}

#[test]
fn a_directory_may_be_an_fd_and_the_layer_durable() {
    in_world(|world| {
        let layer = fresh(world);
        let flags = rustix::fs::OFlags::PATH;
        let fd: OwnedFd = rustix::fs::open(&layer, flags, rustix::fs::Mode::empty()).unwrap();
        let apply = Apply::at(fd).durability(Durability::Syncfs);
        apply
            .clone()
            .tar(&*Archive::new().file("a", "text").end())
            .unwrap();
        assert_eq!(read(layer.join("a")), "text");
        let error = apply.tar(io::empty()).unwrap_err();
        assert!(
            error.to_string().contains(layer.to_str().unwrap()),
            "{error}"
        );
    });
}

#[test]
fn without_a_thread_the_directory_is_as_it_was() {
    in_world(|world| {
        let target = directory(world, "target");
        fs::set_permissions(&target, Permissions::from_mode(0o711)).unwrap();
        let tar = Archive::new().file("f", "").end();
        refuse_syscall(libc::SYS_clone3);
        refuse_syscall(libc::SYS_clone);
        let error = Apply::new(&target).tar(&*tar).unwrap_err();
        assert!(error.to_string().contains("thread"), "{error}");
        let mode = target.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o711);
        assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
    });
}
