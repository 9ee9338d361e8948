use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fs, thread};

use cofferdam_overlay::Apply;
use cofferdam_testkit::turns;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::archive::{Archive, directory, in_world, names};

/// Swaps directories of the layer for symlinks to the victim and back, until told to stop; how often it did.
fn meddle(world: &Path, layer: &Path, stop: &AtomicBool) -> usize {
    let mut swaps = 0;
    while !stop.load(Ordering::Relaxed) {
        for name in ["a", "a/b"] {
            let spare = world.join("spare");
            let swap = || renameat_with(CWD, &spare, CWD, layer.join(name), RenameFlags::EXCHANGE);
            if swap().is_ok() {
                swaps += 1;
                thread::yield_now();
                let _gone = swap().is_ok();
            }
        }
    }
    swaps
}

/// A6: what a path named when it was looked at is something else when it is used.
#[test]
fn directories_swapped_for_symlinks_meanwhile() {
    in_world(|world| {
        // With what is looked for in `a`, so that who follows the symlink finds it.
        let victim = directory(world, "victim");
        let inner = directory(&victim, "b");
        let mut archive = Archive::new();
        for n in 0..20 {
            // More directories than stay open: they are opened again and again.
            for m in 0..8 {
                archive = archive.file(format!("a/b/{n}.{m}/c/f"), "x");
            }
            archive = archive
                .file(format!("a/b/f{n}"), "x")
                .file(format!("a/.wh.{n}"), "");
        }
        let archive = archive.end();
        let (mut applied, mut swaps) = (0, 0);
        for round in 0..turns(300, 20) {
            let layer = directory(world, &format!("layer{round}"));
            std::os::unix::fs::symlink(&victim, world.join("spare")).unwrap();
            let stop = AtomicBool::new(false);
            thread::scope(|scope| {
                let meddler = scope.spawn(|| meddle(world, &layer, &stop));
                applied += usize::from(Apply::new(&layer).tar(&*archive).is_ok());
                stop.store(true, Ordering::Relaxed);
                swaps += meddler.join().unwrap();
            });
            assert_eq!(names(&victim), ["b"]);
            assert_eq!(names(&inner), [""; 0]);
            remove(&layer);
            remove(&world.join("spare"));
        }
        assert!(
            swaps > 20,
            "{swaps} swaps, {applied} applied: the test tests nothing"
        );
    });
}

fn remove(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}
