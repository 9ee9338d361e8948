use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::process::Command;
use std::time::{Duration, Instant};

use cofferdam_overlay::{Apply, ErrorKind, Limits};
use cofferdam_testkit::{Need, have, turns};
use flate2::write::GzEncoder;

use crate::archive::{Archive, Header, directory, in_world, names, tmpfs};
use crate::refused;

const INSIDE: &str = "COFFERDAM_BOMBS_INSIDE";

/// Some bytes, and then others again and again.
struct Endless {
    first: Vec<u8>,
    again: Vec<u8>,
    at: usize,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.first.len() {
            self.first.clone_from(&self.again);
            self.at = 0;
        }
        let count = buffer.len().min(self.first.len() - self.at);
        buffer[..count].copy_from_slice(&self.first[self.at..][..count]);
        self.at += count;
        Ok(count)
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A15, in a process of its own, whose memory is looked at.
#[test]
fn endless_layers_end_at_a_limit_with_little_memory() {
    if !have(&[Need::Namespaces]) || env::var_os(INSIDE).is_some() {
        return;
    }
    let mut inside = Command::new(env::current_exe().unwrap());
    inside
        .args(["--exact", "bombs::endless_layers", "--nocapture"])
        .env(INSIDE, "1");
    let output = inside.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("peak"), "{text}");
}

#[test]
fn endless_layers() {
    if env::var_os(INSIDE).is_none() {
        return;
    }
    in_world(|world| {
        // 1 MiB more than the limit is not there.
        let layer = directory(world, "small");
        tmpfs(&layer, "size=17m");
        let bomb = |first: Vec<u8>, again: Vec<u8>, limits: Limits| {
            let start = Instant::now();
            let error = Apply::new(&layer)
                .limits(limits)
                .tar(Endless {
                    first,
                    again,
                    at: 0,
                })
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error}");
            assert_eq!(names(&layer), [""; 0]);
            assert!(start.elapsed() < Duration::from_secs(60), "{error}");
        };
        let zeros = vec![0; 1 << 20];
        let huge = header_of("f", 8 << 30);
        bomb(gzip(&huge), gzip(&zeros), Limits::default().bytes(16 << 20));
        bomb(huge, zeros.clone(), Limits::default().bytes(16 << 20));
        // Small files, which cost more than their bytes; the later replaces the earlier one, or the next has another name.
        let small = header_of("f", 0);
        let entries = turns(5000, 500) as u64;
        bomb(small.clone(), small, Limits::default().entries(entries));
        let deep: Vec<u8> = (0..2000)
            .flat_map(|n| header_of(&format!("{n}/{}", "d/".repeat(45)), 0))
            .collect();
        bomb(deep.clone(), deep, Limits::default().entries(entries));
        // Directories and whiteouts, which are remembered.
        let whiteouts: Vec<u8> = (0..20_000)
            .flat_map(|n| header_of(&format!(".wh.{n}"), 0))
            .collect();
        bomb(
            whiteouts.clone(),
            whiteouts,
            Limits::default().metadata_bytes(1 << 20),
        );
        // Headers before an entry that never comes.
        let global = Archive::new().extended(b'g', "11 mtime=5\n").end()[..1024].to_vec();
        bomb(global.clone(), global, Limits::default());
        let long = Archive::new().extended(b'L', "a\0").end()[..1024].to_vec();
        bomb(long.clone(), long, Limits::default());
        // Zeros after the end, which are hashed still.
        bomb(
            vec![0; 1024],
            zeros.clone(),
            Limits::default().bytes(8 << 20),
        );
        bomb(gzip(&[0; 1024]), gzip(&zeros), Limits::default());
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap();
        let kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        eprintln!("peak {kib} KiB");
        assert!(kib < 64 << 10, "{peak}");
    });
}

fn header_of(name: &str, size: u64) -> Vec<u8> {
    let pax: &[(&str, &[u8])] = &[("path", name.as_bytes())];
    let kind = if name.ends_with('/') { b'5' } else { b'0' };
    let header = Header::new("f", kind).size(size);
    let archive = if name.len() > 100 {
        Archive::new().pax(pax)
    } else {
        Archive::new()
    };
    let header = if name.len() > 100 {
        header
    } else {
        Header::new(name, kind).size(size)
    };
    let bytes = archive.add(header, "").end();
    bytes[..bytes.len() - 1024].to_vec()
}

#[test]
fn headers_and_holes_of_any_size() {
    in_world(|world| {
        for kind in [b'x', b'g', b'L', b'K'] {
            let archive = Archive::new().add(Header::new("x", kind).size(1 << 30), "");
            assert_eq!(refused(world, archive).kind(), ErrorKind::LimitExceeded);
            let most = [
                0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            ];
            let archive = Archive::new().add(Header::new("x", kind).bytes(124, &most), "");
            assert_eq!(refused(world, archive).kind(), ErrorKind::LimitExceeded);
        }
        let sparse = |size: &'static [u8]| {
            Archive::new()
                .pax(&[("GNU.sparse.size", size), ("GNU.sparse.map", b"")])
                .file("f", "")
        };
        for size in [&b"9223372036854775807"[..], b"18446744073709551615"] {
            assert_eq!(
                refused(world, sparse(size)).kind(),
                ErrorKind::LimitExceeded
            );
        }
        let count = b"4000000000000\n".as_slice();
        let archive = Archive::new()
            .pax(&[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.realsize", b"9"),
            ])
            .file("f", [count, b"0\n".repeat(2_000_000).as_slice()].concat());
        assert_eq!(refused(world, archive).kind(), ErrorKind::LimitExceeded);
        assert_eq!(
            refused(
                world,
                Archive::new().add(Header::new("f", b'0').size(1 << 40), "")
            )
            .kind(),
            ErrorKind::LimitExceeded
        );
    });
}
