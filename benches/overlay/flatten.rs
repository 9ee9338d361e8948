//! Stacks made one directory, against cp(1): copied from the overlay of the stack, and linked layer by layer, the lowest first.
//! Both see the same: there are no whiteouts in it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cofferdam_overlay::{Apply, Flatten, Overlay, flatten};

use crate::apply::Corpus;
use crate::{in_world, row};

pub(crate) fn rows(quick: bool) {
    in_world("4g", |world| {
        let (count, part, rounds) = match quick {
            true => (10, 100, 3),
            false => (50, 50, 5),
        };
        // The top one first.
        let layers: Vec<_> = (0..count).map(|n| layer(world, n, part)).collect();
        let id = format!("flatten/{count}-layers");
        copied(&format!("{id}-copy"), world, &layers, rounds);
        linked(&format!("{id}-link"), world, &layers, rounds);
    });
}

/// A part of its files is in all layers, each other's place.
fn layer(world: &Path, n: usize, part: usize) -> PathBuf {
    let (file, layer) = (world.join("layer.tar"), world.join(format!("layer{n}")));
    fs::write(&file, Corpus::of(part, n as u64 + 1).tar).unwrap();
    fs::create_dir(&layer).unwrap();
    Apply::new(&layer).tar(File::open(file).unwrap()).unwrap();
    layer
}

fn copied(id: &str, world: &Path, layers: &[PathBuf], rounds: usize) {
    let [mut ours, mut cp] = [const { Vec::new() }; 2];
    let mount = Overlay::builder(layers).detached().unwrap();
    let merged = world.join("merged");
    fs::create_dir(&merged).unwrap();
    let mut mounted = mount.attach(&merged).unwrap();
    for _ in 0..rounds {
        ours.push(timed(world, |target| {
            flatten(layers, target, Flatten::Copy).unwrap();
        }));
        cp.push(timed(world, |target| run(&["-a"], &merged, target)));
    }
    mounted.unmount().unwrap();
    row(id, "ours", ours);
    row(id, "cp", cp);
}

fn linked(id: &str, world: &Path, layers: &[PathBuf], rounds: usize) {
    let [mut ours, mut cp] = [const { Vec::new() }; 2];
    for _ in 0..rounds {
        ours.push(timed(world, |target| {
            flatten(layers, target, Flatten::HardLink).unwrap();
        }));
        cp.push(timed(world, |target| {
            for layer in layers.iter().rev() {
                run(&["-al", "--remove-destination"], layer, target);
            }
        }));
    }
    row(id, "ours", ours);
    row(id, "cp", cp);
}

fn run(how: &[&str], from: &Path, target: &Path) {
    let mut cp = Command::new("cp");
    cp.args(how).arg(from.join(".")).arg(target);
    assert!(cp.status().unwrap().success());
}

fn timed(world: &Path, work: impl FnOnce(&Path)) -> Duration {
    let target = world.join("target");
    fs::create_dir(&target).unwrap();
    let start = Instant::now();
    work(&target);
    let took = start.elapsed();
    fs::remove_dir_all(target).unwrap();
    took
}
