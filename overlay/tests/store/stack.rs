//! Layers of one image, made side by side: what comes out is what one after the other gives.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use cofferdam_overlay::{Digest, ErrorKind, Expected, LayerRef, LayerStore, Result};
use cofferdam_testkit::turns;

use crate::archive::{Archive, Header, xattr};
use crate::world::{World, in_world, tar};

struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }

    /// Few names, so that layers depend on each other.
    fn path(&mut self) -> String {
        let depth = 1 + self.below(4);
        let names: Vec<_> = (0..depth).map(|_| ["a", "b", "c"][self.below(3)]).collect();
        names.join("/")
    }
}

/// Whatever makes a layer need to know what is below.
fn layer(random: &mut Random, n: usize) -> Vec<u8> {
    let mut archive = Archive::new();
    for _ in 0..2 + random.below(8) {
        let (name, to) = (random.path(), random.path());
        let mode = 0o700 + random.below(64) as u32;
        let time = (1000 * n + random.below(1000)) as u64;
        let directory = Header::new(&name, b'5').mode(mode).mtime(time);
        let (way, last) = name.rsplit_once('/').unwrap_or(("", &name));
        archive = match random.below(24) {
            0..=3 => archive.file(format!("{name}/f"), format!("{n} {}", random.below(100))),
            4..=6 | 14.. => archive.add(directory, ""),
            7 => archive.symlink(&name, format!("/{to}")),
            8 => archive.link(format!("{name}/l"), format!("{to}/f")),
            9 => archive.file(&name, "in the way"),
            10..=12 => archive.file(format!("{way}/.wh.{last}"), ""),
            13 => archive.file(format!("{name}/.wh..wh..opq"), ""),
        };
    }
    archive.end()
}

/// A reader that takes its time, a little at a time.
struct Slow<'a>(&'a [u8], Random);

impl Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.1.below(3) == 0 {
            thread::sleep(Duration::from_micros(self.1.below(300) as u64));
        }
        let most = buffer.len().min(1000);
        self.0.read(&mut buffer[..most])
    }
}

/// All there is to the layers of a store, as they are on the disk, and their records.
fn dump(store: &LayerStore) -> BTreeMap<PathBuf, String> {
    let root = store.path().join("layers");
    let (mut found, mut todo) = (BTreeMap::new(), vec![PathBuf::new()]);
    while let Some(relative) = todo.pop() {
        for entry in fs::read_dir(root.join(&relative)).unwrap() {
            let name = relative.join(entry.unwrap().file_name());
            let path = root.join(&name);
            let stat = path.symlink_metadata().unwrap();
            let mut text = format!("{:o} {}:{}", stat.mode(), stat.uid(), stat.rdev());
            // What is a layer's, and not the store's own; of whiteouts nobody sees it.
            let own = name.components().count() < 2 || name.ends_with("record");
            if !own && stat.mode() != 0o020_000 {
                text += &format!(" {}.{}", stat.mtime(), stat.mtime_nsec());
            }
            text += &format!(" {:?}", xattr(&path, "trusted.overlay.opaque"));
            if stat.is_dir() {
                todo.push(name.clone());
            } else if stat.is_symlink() {
                text += &format!(" {:?}", fs::read_link(&path).unwrap());
            } else if stat.is_file() {
                text += &format!(" x{} {}", stat.nlink(), fs::read_to_string(&path).unwrap());
            }
            found.insert(name, text);
        }
    }
    found
}

fn one_by_one(store: &LayerStore, tars: &[Vec<u8>]) -> Result<Option<LayerRef>> {
    let mut below = None;
    for tar in tars {
        below = Some(store.apply(below.as_ref(), &**tar, Expected::default())?);
    }
    Ok(below)
}

fn side_by_side(store: &LayerStore, tars: &[Vec<u8>], seed: u64) -> Result<Option<LayerRef>> {
    let known = seed % 2 == 0;
    let layers = tars.iter().enumerate().map(|(n, tar)| {
        let expected = match known {
            true => Expected::diff_id(Digest::of(tar)),
            false => Expected::default(),
        };
        (Slow(tar, Random::new(seed + n as u64)), expected)
    });
    store
        .with_threads(2 + seed as usize % 4)
        .apply_all(None, layers)
}

/// Whether all could be read.
fn compared(world: &World, seed: u64) -> bool {
    let mut random = Random::new(seed);
    let tars: Vec<_> = (0..2 + random.below(6))
        .map(|n| layer(&mut random, n))
        .collect();
    let open = |name| LayerStore::open(world.path(name)).unwrap();
    let (one, other) = (open("one"), open("other"));
    let (expected, found) = (one_by_one(&one, &tars), side_by_side(&other, &tars, seed));
    match (&expected, &found) {
        (Ok(expected), Ok(found)) => {
            let name = |layer: &Option<LayerRef>| layer.as_ref().map(LayerRef::chain_id);
            assert_eq!(name(expected), name(found), "seed {seed}");
        }
        (Err(expected), Err(found)) => {
            assert_eq!(
                expected.kind(),
                found.kind(),
                "seed {seed}: {expected}, {found}"
            );
            let entry = |error: &cofferdam_overlay::Error| {
                let text = error.to_string();
                text.split_once("entry").map(|(_, entry)| entry.to_owned())
            };
            assert_eq!(entry(expected), entry(found), "seed {seed}");
        }
        _ => panic!("seed {seed}: {expected:?}, {found:?}"),
    }
    let (expected_files, files) = (dump(&one), dump(&other));
    for (name, text) in &expected_files {
        assert_eq!(
            files.get(name),
            Some(text),
            "seed {seed}: {}",
            name.display()
        );
    }
    assert_eq!(files.len(), expected_files.len(), "seed {seed}");
    assert_eq!(other.check().unwrap(), [], "seed {seed}");
    let whole = found.is_ok();
    drop((expected, found));
    for area in ["staging", "leases"] {
        let left = fs::read_dir(world.path("other").join(area)).unwrap();
        assert_eq!(left.count(), 0, "seed {seed}: {area}");
    }
    for name in ["one", "other"] {
        fs::remove_dir_all(world.path(name)).unwrap();
    }
    whole
}

#[test]
fn layers_side_by_side_are_what_they_are_one_by_one() {
    in_world(|world| {
        let rounds = turns(150, 20);
        let whole = (1..=rounds)
            .filter(|seed| compared(world, *seed as u64))
            .count();
        // Some of both.
        assert!(whole > 2 && whole < rounds as usize, "{whole} of {rounds}");
    });
}

/// Reads what it is told to, when it is told to.
struct Told {
    wait: Option<Receiver<()>>,
    bytes: io::Cursor<Vec<u8>>,
    /// Told when it is read, and gone with it.
    read: Option<Sender<()>>,
}

impl Told {
    fn new(bytes: Vec<u8>) -> Self {
        Told {
            wait: None,
            bytes: io::Cursor::new(bytes),
            read: None,
        }
    }
}

impl Read for Told {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(wait) = self.wait.take() {
            // Until it is sent to, or the other reader is gone.
            let _gone = wait.recv().is_err();
        }
        if let Some(read) = &self.read {
            let _gone = read.send(()).is_err();
        }
        self.bytes.read(buffer)
    }
}

#[test]
fn the_error_is_that_of_the_lowest_layer_whichever_failed_first() {
    in_world(|world| {
        let good = tar(&world.base, &[("a", "base")]);
        let (gone, wait) = channel();
        let mut late = Told::new(b"the lower one is no tar".repeat(100));
        late.wait = Some(wait);
        let mut early = Told::new(Archive::new().file("../x", "").end());
        early.read = Some(gone);
        let layers = [Told::new(good.clone()), late, early].map(|read| (read, Expected::default()));
        let store = world.store.with_threads(3);
        let error = store.apply_all(None, layers).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed, "{error}");
        // What is below it was made, is in use by nobody, and nothing else is left.
        assert_eq!(world.names("layers"), [Digest::of(&good).hex()]);
        for area in ["staging", "leases"] {
            assert_eq!(world.names(area), [""; 0], "{area}");
        }
    });
}

#[test]
fn layers_above_one_that_failed_are_not_read_on() {
    in_world(|world| {
        let bad = tar(&world.base, &[("a", "base")])[..700].to_vec();
        let endless = Archive::new().file("f", vec![0; 64 << 20]).end();
        let begun = Arc::new(Mutex::new(0));
        let count = Arc::clone(&begun);
        let layers = (0..50).map(move |n| {
            *count.lock().unwrap() += 1;
            let bytes = if n == 0 { bad.clone() } else { endless.clone() };
            (Told::new(bytes), Expected::default())
        });
        let store = world.store.with_threads(2);
        let error = store.apply_all(None, layers).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed, "{error}");
        assert!(*begun.lock().unwrap() <= 3, "{begun:?}");
        for area in ["layers", "staging", "leases"] {
            assert_eq!(world.names(area), [""; 0], "{area}");
        }
    });
}

/// A reader that panics.
struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        panic!("a broken reader");
    }
}

#[test]
fn a_panic_is_passed_on_and_leaves_nothing() {
    in_world(|world| {
        let good = tar(&world.base, &[("a", "base")]);
        for at in 0..3 {
            let layers = (0..3).map(|n| -> (Box<dyn Read + Send>, _) {
                let bytes = io::Cursor::new(good.clone());
                match n == at {
                    true => (Box::new(Broken), Expected::default()),
                    false => (Box::new(bytes), Expected::default()),
                }
            });
            let apply = || world.store.with_threads(3).apply_all(None, layers);
            catch_unwind(AssertUnwindSafe(apply)).unwrap_err();
            for area in ["staging", "leases"] {
                assert_eq!(world.names(area), [""; 0], "{area}");
            }
            world.store.collect().unwrap();
            assert_eq!(world.names("layers"), [""; 0]);
        }
    });
}

#[test]
fn of_no_layers_there_is_no_top() {
    in_world(|world| {
        let none: [(&[u8], Expected); 0] = [];
        assert!(world.store.apply_all(None, none).unwrap().is_none());
        let base = tar(&world.base, &[("a", "base")]);
        let below = world
            .store
            .apply(None, &base[..], Expected::default())
            .unwrap();
        let again = [(&base[..], Expected::default())];
        let top = world
            .store
            .with_threads(0)
            .apply_all(Some(&below), again)
            .unwrap();
        assert_eq!(top.unwrap().diff_ids(), [Digest::of(&base); 2]);
    });
}

#[test]
fn processes_that_make_the_same_stack_at_once_make_one() {
    in_world(|world| {
        for n in 0..6 {
            let file = format!("d/{n}/file");
            fs::write(
                world.path(&format!("{n}.tar")),
                tar(&world.base, &[(&*file, "")]),
            )
            .unwrap();
        }
        let child = |n: u32| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command
                .args(["--exact", "stack::makes_a_stack", "--nocapture"])
                .env("COFFERDAM_STACK", world.path("store"))
                .env("COFFERDAM_STACK_THREADS", (n + 1).to_string());
            command.spawn().unwrap()
        };
        for mut child in [0, 1, 2, 3].map(child) {
            assert!(child.wait().unwrap().success());
        }
        world.store.collect().unwrap();
        for area in ["layers", "staging", "leases", "locks"] {
            assert_eq!(world.names(area), [""; 0], "{area}");
        }
    });
}

/// Run by the test above.
#[test]
fn makes_a_stack() {
    let Some(path) = std::env::var_os("COFFERDAM_STACK") else {
        return;
    };
    let threads = std::env::var("COFFERDAM_STACK_THREADS").unwrap();
    let base = Path::new(&path).parent().unwrap().to_owned();
    let tars: Vec<_> = (0..6)
        .map(|n| fs::read(base.join(format!("{n}.tar"))).unwrap())
        .collect();
    let store = LayerStore::open(&path)
        .unwrap()
        .with_threads(threads.parse().unwrap());
    for round in 0..turns(40, 5) as usize {
        // Those above one that is not known beforehand are not either.
        let layers = tars
            .iter()
            .enumerate()
            .map(|(n, tar)| match n == round % 8 {
                true => (&tar[..], Expected::default()),
                false => (&tar[..], Expected::diff_id(Digest::of(tar))),
            });
        let top = store.apply_all(None, layers).unwrap().unwrap();
        store.collect().unwrap();
        assert!(top.directories().iter().all(|directory| directory.exists()));
        drop(top);
        store.collect().unwrap();
    }
}
