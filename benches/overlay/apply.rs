//! A layer like that of a distribution, plain and as gzip, against tar(1), bsdtar(1) and the bare system calls.
//!
//! The floor makes the same files from memory: it reads, inflates and hashes nothing. The others read a file; ours takes
//! both digests as well.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use cofferdam_overlay::Apply;
use flate2::Compression;
use flate2::write::GzEncoder;
use rustix::fs::{CWD, Mode, OFlags, Timespec, Timestamps, futimens, mkdirat, openat, symlinkat};

use crate::{in_world, row};

pub(crate) fn rows(quick: bool) {
    in_world("3g", |world| {
        let (corpus, name, rounds) = match quick {
            true => (Corpus::new(10), "50MB", 2),
            false => (Corpus::new(1), "500MB", 5),
        };
        fs::write(world.join("layer.tar"), &corpus.tar).unwrap();
        let gzip = File::create(world.join("layer.tar.gz")).unwrap();
        let mut encoder = GzEncoder::new(gzip, Compression::new(6));
        encoder.write_all(&corpus.tar).unwrap();
        encoder.finish().unwrap();
        for (suffix, file) in [("", "layer.tar"), ("-gz", "layer.tar.gz")] {
            let file = world.join(file);
            compare(
                &format!("apply/{name}{suffix}"),
                world,
                &file,
                &corpus,
                rounds,
            );
        }
    });
}

fn compare(id: &str, world: &Path, file: &Path, corpus: &Corpus, rounds: usize) {
    let target = world.join("target");
    let [mut ours, mut floor, mut tar, mut bsdtar] = [const { Vec::new() }; 4];
    for _ in 0..rounds {
        ours.push(timed(&target, || {
            drop(Apply::new(&target).tar(File::open(file).unwrap()).unwrap())
        }));
        floor.push(timed(&target, || corpus.make(&target)));
        tar.extend(run(
            "tar",
            &["-xp", "--xattrs", "--numeric-owner"],
            file,
            &target,
        ));
        bsdtar.extend(run(
            "bsdtar",
            &["-xp", "--xattrs", "--acls", "--numeric-owner"],
            file,
            &target,
        ));
    }
    row(id, "ours", ours);
    row(id, "floor", floor);
    for (who, samples) in [("tar", tar), ("bsdtar", bsdtar)] {
        match samples.is_empty() {
            true => println!("row {id} {who} absent"),
            false => row(id, who, samples),
        }
    }
}

/// Only the work is timed, not the directory's making and removal.
fn timed(target: &Path, work: impl FnOnce()) -> Duration {
    fs::create_dir(target).unwrap();
    let start = Instant::now();
    work();
    let took = start.elapsed();
    fs::remove_dir_all(target).unwrap();
    took
}

fn run(program: &str, arguments: &[&str], file: &Path, target: &Path) -> Option<Duration> {
    Command::new(program).arg("--version").output().ok()?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .arg("-f")
        .arg(file)
        .arg("-C")
        .arg(target);
    Some(timed(target, || {
        assert!(command.status().unwrap().success())
    }))
}

/// 27,000 files, 16,000 of them of up to 4 KiB, in 3,000 directories, and 1,000 symlinks: 530 MB. The same each time.
pub(crate) struct Corpus {
    pub(crate) tar: Vec<u8>,
    directories: Vec<String>,
    /// Directory, name, and where in the tar the data is.
    files: Vec<(usize, String, std::ops::Range<usize>)>,
    symlinks: Vec<(usize, String)>,
}

impl Corpus {
    fn new(part: usize) -> Self {
        Corpus::of(part, 1)
    }

    /// One part of it, with contents that are another seed's.
    pub(crate) fn of(part: usize, seed: u64) -> Self {
        let mut random = Random(0x2545_f491_4f6c_dd1d_u64.wrapping_mul(2 * seed - 1));
        let words: Vec<Vec<u8>> = (0..4096).map(|_| random.word()).collect();
        let mut corpus = Corpus {
            tar: Vec::new(),
            directories: Vec::new(),
            files: Vec::new(),
            symlinks: Vec::new(),
        };
        for n in 0..3000 / part {
            let name = match n % 30 {
                0 => format!("usr/{n}"),
                _ => format!("usr/{}/share{n}", n - n % 30),
            };
            if n == 0 {
                corpus.directory("usr".to_owned());
            }
            corpus.directory(name);
            let directory = corpus.directories.len() - 1;
            for file in 0..9 {
                // 16 of 27 are small; of the rest most are some ten KiB, and a few are large.
                let size = match (n * 9 + file) % 27 {
                    0..16 => random.below(4096),
                    16..26 => 4096 + random.below(40 << 10),
                    _ => 64 << 10 | random.below(350 << 10),
                };
                corpus.file(directory, format!("file{file}"), size, &words, &mut random);
            }
            if n % 3 == 0 {
                corpus.symlink(directory);
            }
        }
        corpus.tar.resize(corpus.tar.len() + 1024, 0);
        corpus
    }

    fn directory(&mut self, name: String) {
        self.header(&format!("{name}/"), b'5', 0, "");
        self.directories.push(name);
    }

    fn symlink(&mut self, directory: usize) {
        let path = format!("{}/link", self.directories[directory]);
        self.header(&path, b'2', 0, "file0");
        self.symlinks.push((directory, "link".to_owned()));
    }

    fn file(
        &mut self,
        directory: usize,
        name: String,
        size: usize,
        words: &[Vec<u8>],
        random: &mut Random,
    ) {
        let path = format!("{}/{name}", self.directories[directory]);
        self.header(&path, b'0', size, "");
        let start = self.tar.len();
        while self.tar.len() < start + size {
            self.tar
                .extend_from_slice(&words[random.below(words.len()) & random.below(words.len())]);
        }
        self.tar.truncate(start + size);
        self.files.push((directory, name, start..start + size));
        self.tar.resize(self.tar.len().next_multiple_of(512), 0);
    }

    /// With a PAX header for the nanoseconds before it, as tar(1) writes it.
    fn header(&mut self, path: &str, kind: u8, size: usize, link: &str) {
        let record = "30 mtime=1700000000.123456789\n";
        self.block("PaxHeaders/x", b'x', record.len(), "");
        self.tar.extend_from_slice(record.as_bytes());
        self.tar.resize(self.tar.len().next_multiple_of(512), 0);
        self.block(path, kind, size, link);
    }

    fn block(&mut self, path: &str, kind: u8, size: usize, link: &str) {
        let mut block = [0; 512];
        let mode = if kind == b'5' { 0o755 } else { 0o644 };
        let fields = [
            (0, path.to_owned()),
            (100, format!("{mode:07o}\x000000000\x000000000")),
            (124, format!("{size:011o}\014524563200")),
            (148, " ".repeat(8)),
            (157, link.to_owned()),
            (257, "ustar\x0000".to_owned()),
        ];
        block[156] = kind;
        for (at, text) in fields {
            block[at..at + text.len()].copy_from_slice(text.as_bytes());
        }
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.tar.extend_from_slice(&block);
    }

    /// The system calls without which there are no such files.
    fn make(&self, target: &Path) {
        let time = Timespec {
            tv_sec: 1_700_000_000,
            tv_nsec: 123_456_789,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        let root = open(CWD, target);
        for directory in &self.directories {
            mkdirat(&root, directory.as_str(), Mode::from_raw_mode(0o755)).unwrap();
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut here: Option<(usize, OwnedFd)> = None;
        for (directory, name, data) in &self.files {
            if here.as_ref().is_none_or(|(open, _)| open != directory) {
                here = Some((
                    *directory,
                    open(&root, Path::new(&self.directories[*directory])),
                ));
            }
            let parent = &here.as_ref().unwrap().1;
            let file = openat(parent, name.as_str(), flags, Mode::from_raw_mode(0o644)).unwrap();
            for part in self.tar[data.clone()].chunks(256 << 10) {
                rustix::io::write(&file, part).unwrap();
            }
            futimens(&file, &times).unwrap();
        }
        for (directory, name) in &self.symlinks {
            let path = format!("{}/{name}", self.directories[*directory]);
            symlinkat("file0", &root, path.as_str()).unwrap();
        }
        for directory in &self.directories {
            futimens(open(&root, Path::new(directory)), &times).unwrap();
        }
    }
}

fn open(at: impl std::os::fd::AsFd, path: &Path) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(at, path, flags, Mode::empty()).unwrap()
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn word(&mut self) -> Vec<u8> {
        (0..2 + self.below(12)).map(|_| self.next() as u8).collect()
    }
}
