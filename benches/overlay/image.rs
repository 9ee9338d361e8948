//! Images into a store: layers side by side against one after the other, and against umoci(1) and tar(1), which make one
//! directory of all of them.
//!
//! A store that has been imported to is made anew for each round. What it does more than the others is to take and compare all
//! digests, and to keep each layer by itself; umoci compares digests too.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cofferdam_overlay::{Compress, Expected, ImageConfig, ImageSource, LayerStore};

use crate::apply::Corpus;
use crate::{in_world, row};

const LAYERS: usize = 8;

pub(crate) fn rows(quick: bool) {
    in_world("5g", |world| {
        let (part, size, rounds) = match quick {
            true => (80, "6MB", 3),
            false => (8, "64MB", 3),
        };
        let tars = tars(world, part);
        let images = [("-plain", Compress::None), ("", Compress::Gzip(6))];
        for (suffix, compress) in images {
            let layout = image(world, &tars, compress);
            let id = format!("apply/image-{LAYERS}x{size}{suffix}");
            compare(&id, world, &layout, rounds);
        }
        let id = format!("store/import-{LAYERS}x{size}");
        against_tar(&id, world, &tars, rounds);
    });
}

fn tars(world: &Path, part: usize) -> Vec<PathBuf> {
    let tar = |n: usize| {
        let path = world.join(format!("{n}.tar"));
        fs::write(&path, Corpus::of(part, n as u64 + 1).tar).unwrap();
        path
    };
    (0..LAYERS).map(tar).collect()
}

/// As a layout on disk.
fn image(world: &Path, tars: &[PathBuf], compress: Compress) -> PathBuf {
    let layout = world.join("layout");
    if layout.exists() {
        fs::remove_dir_all(&layout).unwrap();
    }
    let store = LayerStore::open(world.join("making")).unwrap();
    let layers = tars
        .iter()
        .map(|tar| (fs::File::open(tar).unwrap(), Expected::default()));
    let top = store.apply_all(None, layers).unwrap();
    let image = store.image(top.as_ref(), &ImageConfig::default()).unwrap();
    image.export(&layout, "latest", compress).unwrap();
    fs::remove_dir_all(world.join("making")).unwrap();
    layout
}

fn compare(id: &str, world: &Path, layout: &Path, rounds: usize) {
    let [mut ours, mut sequential, mut umoci] = [const { Vec::new() }; 3];
    let import = |store: LayerStore| drop(store.import(&ImageSource::layout(layout)).unwrap());
    for _ in 0..rounds {
        ours.push(timed(world, |path| import(LayerStore::open(path).unwrap())));
        sequential.push(timed(world, |path| {
            import(LayerStore::builder(path).threads(1).open().unwrap());
        }));
        umoci.extend(by_umoci(world, layout));
    }
    row(id, "ours", ours);
    row(id, "sequential", sequential);
    told(id, "umoci", umoci);
}

fn by_umoci(world: &Path, layout: &Path) -> Option<Duration> {
    Command::new("umoci").arg("--version").output().ok()?;
    let image = format!("{}:latest", layout.display());
    Some(timed(world, |path| {
        let mut umoci = Command::new("umoci");
        umoci.args(["raw", "unpack", "--image", &image]).arg(path);
        assert!(umoci.output().unwrap().status.success());
    }))
}

/// Plain tars, on each other.
fn against_tar(id: &str, world: &Path, tars: &[PathBuf], rounds: usize) {
    let [mut ours, mut sequential, mut tar] = [const { Vec::new() }; 3];
    let apply = |store: LayerStore| {
        let layers = tars
            .iter()
            .map(|tar| (fs::File::open(tar).unwrap(), Expected::default()));
        drop(store.apply_all(None, layers).unwrap());
    };
    for _ in 0..rounds {
        ours.push(timed(world, |path| apply(LayerStore::open(path).unwrap())));
        sequential.push(timed(world, |path| {
            apply(LayerStore::builder(path).threads(1).open().unwrap());
        }));
        tar.extend(by_tar(world, tars));
    }
    row(id, "ours", ours);
    row(id, "sequential", sequential);
    told(id, "tar", tar);
}

fn by_tar(world: &Path, tars: &[PathBuf]) -> Option<Duration> {
    Command::new("tar").arg("--version").output().ok()?;
    Some(timed(world, |path| {
        fs::create_dir(path).unwrap();
        for file in tars {
            let mut tar = Command::new("tar");
            tar.args(["-xp", "--xattrs", "--numeric-owner", "-f"]);
            assert!(
                tar.arg(file)
                    .arg("-C")
                    .arg(path)
                    .status()
                    .unwrap()
                    .success()
            );
        }
    }))
}

fn told(id: &str, who: &str, samples: Vec<Duration>) {
    match samples.is_empty() {
        true => println!("row {id} {who} absent"),
        false => row(id, who, samples),
    }
}

/// Only the work is timed, not the removal of what it made.
fn timed(world: &Path, work: impl FnOnce(&Path)) -> Duration {
    let target = world.join("target");
    let start = Instant::now();
    work(&target);
    let took = start.elapsed();
    fs::remove_dir_all(target).unwrap();
    took
}
