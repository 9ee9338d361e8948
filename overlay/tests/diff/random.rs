//! Whatever is done in an overlay, its diff does the same.

use std::fs;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cofferdam_overlay::{Apply, Diff, Overlay};
use cofferdam_testkit::turns;
use rustix::fs::{XattrFlags, setxattr};

use crate::layer::assert_gives_the_merged_tree;
use crate::tree::tree;
use crate::world::{World, in_world, root_of};

/// A generator of the xorshift family: its seed tells all.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }

    /// One of a few paths, so that operations meet.
    fn path(&mut self) -> PathBuf {
        let depth = 1 + self.roll(3);
        (0..depth)
            .map(|_| ["a", "b", "c", "d"][self.roll(4)])
            .collect()
    }
}

fn operate(dice: &mut Dice, root: &Path) {
    let (path, other) = (root.join(dice.path()), root.join(dice.path()));
    // Some cannot be done, which is well.
    let _done = match dice.roll(13) {
        0..=2 => fs::create_dir_all(&path).is_ok(),
        3..=5 => fs::write(&path, format!("{}", dice.roll(1000))).is_ok(),
        6 => fs::remove_dir_all(&path).is_ok(),
        7 => fs::remove_file(&path).is_ok(),
        8 => fs::rename(&path, &other).is_ok(),
        9 => fs::hard_link(&path, &other).is_ok(),
        10 => symlink(dice.path(), &path).is_ok(),
        11 => {
            let mode = 0o700 | dice.roll(0o100) as u32;
            !path.is_symlink()
                && fs::set_permissions(&path, fs::Permissions::from_mode(mode)).is_ok()
        }
        _ => {
            let value = [dice.roll(256) as u8];
            let set = !path.is_symlink()
                && setxattr(&path, "trusted.x", &value, XattrFlags::empty()).is_ok();
            set || lchown(&path, Some(dice.roll(3) as u32), None).is_ok()
        }
    };
}

#[test]
fn a_diff_applied_to_the_layer_gives_what_the_overlay_shows() {
    in_world(1, |world| {
        let start = Instant::now();
        // Fewer where the machine is slow.
        for seed in (1..=turns(150, 20)).take_while(|_| start.elapsed() < Duration::from_secs(30)) {
            let seed = seed as u64;
            let mut dice = Dice(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15));
            for _ in 0..40 {
                operate(&mut dice, &world.lowers[0]);
            }
            unlink_links(&world.lowers[0]);
            for _ in 0..3 {
                world.change(|root| (0..15).for_each(|_| operate(&mut dice, root)));
            }
            assert_gives_the_merged_tree(world, &format!("seed {seed}"));
            assert_layers_show_the_merged_tree(world, seed);
            empty(&world.lowers[0]);
            empty(&world.upper);
        }
    });
}

/// Whether the changes, committed, moved or applied from their tar, do on the layer what the upper did.
fn assert_layers_show_the_merged_tree(world: &World, seed: u64) {
    let shown = |overlay: Overlay| tree(&root_of(&overlay.detached().unwrap()));
    let merged = tree(&root_of(&world.mount()));
    let lower = &world.lowers[0];
    let made = |how: &str, make: &dyn Fn(&Path)| {
        let layer = world.base.join("layer");
        fs::create_dir(&layer).unwrap();
        make(&layer);
        let found = shown(Overlay::builder([&layer, lower]));
        for (path, seen) in &merged {
            assert_eq!(found.get(path), Some(seen), "seed {seed}, {how}: {path:?}");
        }
        assert_eq!(found.len(), merged.len(), "seed {seed}, {how}");
        fs::remove_dir_all(layer).unwrap();
    };
    let tar = world.tar().0;
    made("applied", &|layer| {
        Apply::new(layer).lower([lower]).tar(&tar[..]).unwrap();
    });
    made("committed", &|layer| {
        world.diff().commit(layer).unwrap();
        let mut again = Vec::new();
        Diff::of(layer)
            .lower([lower])
            .write_tar(&mut again)
            .unwrap();
        assert!(
            tar == again,
            "seed {seed}: the tar of the commit is another"
        );
    });
    made("moved", &|layer| {
        world.diff().commit_moving(layer).unwrap();
    });
}

/// A layer's hard links are broken by overlayfs when one of them is changed, and the tar says so; but applied to a copy of
/// the layer those that were not changed share their metadata still.
fn unlink_links(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let found = path.symlink_metadata().unwrap();
        if found.is_dir() {
            unlink_links(&path);
        } else if std::os::unix::fs::MetadataExt::nlink(&found) > 1 {
            fs::remove_file(path).unwrap();
        }
    }
}

fn empty(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.symlink_metadata().unwrap().is_dir() {
            true => fs::remove_dir_all(path).unwrap(),
            false => fs::remove_file(path).unwrap(),
        }
    }
}
