//! Changes as a directory that is a layer.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use cofferdam_overlay::{Committed, ErrorKind, Overlay};
use rustix::fs::{XattrFlags, setxattr};
use rustix::mount::{MountFlags, mount};

use crate::tree::{tree, xattrs};
use crate::world::{World, in_world, root_of, write};

/// What a container may have done.
fn work(world: &World) {
    for name in ["d/kept", "d/gone", "again/old", "e/f/touched"] {
        write(world.lowers[0].join(name), "x");
    }
    world.change(|root| {
        fs::remove_file(root.join("d/gone")).unwrap();
        fs::remove_dir_all(root.join("again")).unwrap();
        write(root.join("again/new"), "shared");
        fs::hard_link(root.join("again/new"), root.join("link")).unwrap();
        write(root.join("suid"), "x");
        fs::set_permissions(root.join("suid"), fs::Permissions::from_mode(0o4755)).unwrap();
        setxattr(root.join("suid"), "trusted.a", b"1", XattrFlags::empty()).unwrap();
        symlink("nowhere", root.join("symlink")).unwrap();
        let holes = fs::File::create(root.join("holes")).unwrap();
        holes.set_len(100 << 20).unwrap();
        std::os::unix::fs::FileExt::write_at(&holes, b"end", 50 << 20).unwrap();
        fs::OpenOptions::new()
            .append(true)
            .open(root.join("e/f/touched"))
            .unwrap();
        fs::create_dir(root.join("empty")).unwrap();
    });
}

fn assert_shows_the_same(world: &World, how: impl Fn(&Path) -> Committed) -> PathBuf {
    work(world);
    let before = {
        let mount = world.mount();
        tree(&root_of(&mount))
    };
    let usage = world.diff().usage().unwrap();
    let layer = world.base.join("layer");
    fs::create_dir(&layer).unwrap();
    let committed = how(&layer);
    assert_eq!(committed.usage.bytes, usage.bytes);
    let mount = Overlay::builder([&layer, &world.lowers[0]])
        .detached()
        .unwrap();
    let after = tree(&root_of(&mount));
    for (path, seen) in &before {
        assert_eq!(after.get(path), Some(seen), "{path:?}");
    }
    assert_eq!(before.len(), after.len());
    layer
}

#[test]
fn a_copied_layer_shows_what_the_upper_did() {
    in_world(1, |world| {
        let old = || tree(&world.upper);
        let layer = assert_shows_the_same(world, |layer| {
            let upper = old();
            let committed = world.diff().commit(layer).unwrap();
            assert_eq!(old(), upper, "the upper is as it was");
            committed
        });
        assert!(fs::metadata(layer.join("holes")).unwrap().blocks() < 100);
        assert_eq!(xattrs(&layer.join("empty")), xattrs(&layer.join("d/..")));
        let marks = xattrs(&layer.join("again"));
        assert_eq!(
            marks.keys().collect::<Vec<_>>(),
            [b"trusted.overlay.opaque"]
        );
        assert!(layer.join("e/f/touched").exists());
    });
}

#[test]
fn a_moved_layer_shows_what_the_upper_did() {
    in_world(1, |world| {
        let inode = |path: &Path| fs::metadata(path.join("holes")).unwrap().ino();
        let layer = assert_shows_the_same(world, |layer| {
            let old = inode(&world.upper);
            let committed = world.diff().commit_moving(layer).unwrap();
            assert_eq!(inode(layer), old);
            committed
        });
        assert_eq!(xattrs(&layer.join("e/f/touched")).len(), 0);
    });
}

#[test]
fn a_layer_on_another_filesystem_is_copied_where_it_was_to_be_moved() {
    in_world(1, |world| {
        let other = world.base.join("other");
        fs::create_dir(&other).unwrap();
        mount("tmpfs", &other, "tmpfs", MountFlags::empty(), c"size=64m").unwrap();
        write(world.upper.join("d/a"), "shared");
        fs::hard_link(world.upper.join("d/a"), world.upper.join("b")).unwrap();
        let committed = world.diff().commit_moving(&other).unwrap();
        assert_eq!((committed.usage.bytes, committed.usage.inodes), (6, 2));
        assert_eq!(tree(&other), tree(&world.upper));
    });
}

#[test]
fn unchanged_files_and_what_they_are_in_are_left_out_on_request() {
    in_world(1, |world| {
        work(world);
        let layer = world.base.join("layer");
        fs::create_dir(&layer).unwrap();
        let committed = world.diff().compare_content().commit(&layer).unwrap();
        assert!(!layer.join("e").exists());
        // again, again/new, d, d/gone, empty, holes, suid, symlink.
        assert_eq!(committed.usage.inodes, 8);
        let bytes = 100 << 20;
        assert_eq!(committed.usage.bytes, bytes + "shared".len() as u64 + 1);
    });
}

#[test]
fn only_an_empty_directory_becomes_a_layer() {
    in_world(1, |world| {
        let error = world.diff().commit(&world.base).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        let error = world.diff().commit(world.base.join("gone")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    });
}

#[test]
fn files_of_the_largest_size_are_counted_and_written_to_no_tar() {
    in_world(0, |world| {
        for name in ["a", "b", "c"] {
            let file = fs::File::create(world.upper.join(name)).unwrap();
            file.set_len(i64::MAX as u64).unwrap();
        }
        let usage = world.diff().usage().unwrap();
        assert_eq!((usage.bytes, usage.inodes), (u64::MAX, 3));
        let layer = world.base.join("layer");
        fs::create_dir(&layer).unwrap();
        assert_eq!(world.diff().commit(&layer).unwrap().usage, usage);
        // It would never end.
        let error = world.diff().write_tar(std::io::sink()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error}");
    });
}

#[test]
fn the_bytes_of_a_tar_are_limited_together() {
    in_world(0, |world| {
        write(world.upper.join("a"), "12345");
        write(world.upper.join("b"), "1234");
        let tar = |limit| world.diff().most_bytes(limit).write_tar(std::io::sink());
        assert_eq!(tar(9).unwrap().entries, 3);
        let error = tar(8).unwrap_err();
        let b = world.upper.join("b");
        assert_eq!(
            error.to_string(),
            format!(
                "write {} to a layer: with its 4 bytes there are more than 8",
                b.display()
            )
        );
    });
}
