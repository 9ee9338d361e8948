//! Stores whose layers are not as their tars are.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use cofferdam_overlay::{
    Apply, Devices, ErrorKind, Expected, LayerRef, LayerStore, LayerStoreBuilder, Limits, Marks,
    RawWhiteouts, Unmapped,
};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, getxattr, makedev, mknodat, setxattr};

use crate::archive::{Archive, Header, is_opaque, is_whiteout, xattr};
use crate::rootless::takes_user_marks;
use crate::world::{World, in_world};

/// As of containers of a user namespace.
fn shifted(world: &World) -> LayerStoreBuilder {
    LayerStore::builder(world.path("shifted"))
        .map_users(0, 100_000, 1000)
        .map_groups(0, 200_000, 1000)
}

fn base() -> Vec<u8> {
    let acl: &[u8] = b"user::rw-,user:7:r--,group::r--,mask::r--,other::---";
    Archive::new()
        .add(Header::new("d/", b'5').owner(5, 6), "")
        .pax(&[("SCHILY.acl.access", acl)])
        .add(Header::new("d/f", b'0').owner(7, 8).size(4), "text")
        .end()
}

fn owner(path: impl AsRef<Path>) -> (u32, u32) {
    let found = path.as_ref().symlink_metadata().unwrap();
    (found.uid(), found.gid())
}

fn tree(layer: &LayerRef) -> std::path::PathBuf {
    layer.directories().swap_remove(0)
}

#[test]
fn a_shifted_store_has_shifted_layers_of_the_same_names() {
    in_world(|world| {
        let store = shifted(world).open().unwrap();
        let plain = world
            .store
            .apply(None, &base()[..], Expected::default())
            .unwrap();
        let layer = store.apply(None, &base()[..], Expected::default()).unwrap();
        assert_eq!(layer.chain_id(), plain.chain_id());
        assert_eq!(owner(tree(&plain).join("d/f")), (7, 8));
        assert_eq!(owner(tree(&layer).join("d/f")), (100_007, 200_008));
        assert_eq!(owner(tree(&layer).join("d")), (100_005, 200_006));
        // A directory nobody mentions is of the container's root.
        assert_eq!(owner(tree(&layer)), (100_000, 200_000));

        // What containers of both did is one layer, ACL and all.
        let commit = |store: &LayerStore, below: &LayerRef, ids: (u32, u32)| {
            let upper = world.upper(below, |root| {
                chown(root, Some(ids.0), Some(ids.1)).unwrap();
                fs::write(root.join("d/new"), "new").unwrap();
                let path = root.join("d/new");
                chown(&path, Some(ids.0 + 7), Some(ids.1 + 8)).unwrap();
                let acl = xattr(tree(below).join("d/f"), "system.posix_acl_access").unwrap();
                setxattr(&path, "system.posix_acl_access", &acl, XattrFlags::empty()).unwrap();
                let time = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
                let file = fs::File::open(&path).unwrap();
                file.set_times(time).unwrap();
                for directory in [root, &root.join("d")] {
                    let directory = fs::File::open(directory).unwrap();
                    directory.set_times(time).unwrap();
                }
            });
            store.commit(Some(below), upper).unwrap()
        };
        let ours = commit(&store, &layer, (100_000, 200_000));
        let theirs = commit(&world.store, &plain, (0, 0));
        assert_eq!(owner(tree(&ours).join("d/new")), (100_007, 200_008));
        assert_eq!(owner(tree(&theirs).join("d/new")), (7, 8));
        assert_eq!(ours.diff_id(), theirs.diff_id());
        assert_eq!(store.check().unwrap(), []);
    });
}

#[test]
fn ids_without_a_place_are_refused_or_squashed() {
    in_world(|world| {
        let far = Archive::new()
            .add(Header::new("f", b'0').owner(5000, 0), "")
            .end();
        let store = shifted(world).open().unwrap();
        let error = store
            .apply(None, &far[..], Expected::default())
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        let squash = Unmapped::Squash { uid: 9, gid: 10 };
        let squashed = LayerStore::builder(world.path("squashed"))
            .map_users(0, 100_000, 1000)
            .unmapped(squash)
            .open()
            .unwrap();
        let layer = squashed.apply(None, &far[..], Expected::default()).unwrap();
        assert_eq!(owner(tree(&layer).join("f")).0, 9);
        // It has no id to go back to.
        let upper = world.path("changes");
        fs::create_dir(&upper).unwrap();
        fs::write(upper.join("f"), "changed").unwrap();
        chown(upper.join("f"), Some(9), None).unwrap();
        let error = squashed.commit(Some(&layer), &upper).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    });
}

/// A store is what it was made: another form of the same layers would be given to who asked for this one.
#[test]
fn a_store_of_another_form_is_refused() {
    in_world(|world| {
        let at = |name: &str| LayerStore::builder(world.path(name));
        type Ask = fn(LayerStoreBuilder) -> LayerStoreBuilder;
        let forms: [Ask; 7] = [
            |store| store,
            |store| store.map_users(0, 100_000, 1000),
            |store| store.map_groups(0, 100_000, 1000),
            |store| store.unmapped(Unmapped::Squash { uid: 1, gid: 2 }),
            |store| store.marks(Marks::User),
            |store| store.devices(Devices::Refuse),
            |store| store.raw_whiteouts(RawWhiteouts::Apply),
        ];
        for (n, form) in forms.iter().enumerate() {
            let name = format!("form{n}");
            form(at(&name)).open().unwrap();
            for (other, asked) in forms.iter().enumerate() {
                let opened = asked(at(&name)).open();
                match other == n {
                    true => drop(opened.unwrap()),
                    false => assert_eq!(opened.unwrap_err().kind(), ErrorKind::Unsupported),
                }
            }
            // What is of the value is no form.
            let limited = form(at(&name))
                .limits(Limits::default().entries(1))
                .threads(7);
            limited.open().unwrap();
        }
        let error = LayerStore::open(world.path("form1")).unwrap_err();
        assert!(error.to_string().contains("users 0 100000 1000"), "{error}");
        let overlapping = at("none").map_users(0, 10, 5).map_users(7, 14, 1).open();
        assert_eq!(overlapping.unwrap_err().kind(), ErrorKind::InvalidInput);
        assert!(!world.path("none").exists());
    });
}

#[test]
fn devices_are_as_the_store_has_them() {
    in_world(|world| {
        let null = Header::new("null", b'3').device(1, 3);
        let tar = Archive::new().add(null, "").file("f", "").end();
        let open = |devices, name: &str| {
            let store = LayerStore::builder(world.path(name)).devices(devices);
            store
                .open()
                .unwrap()
                .apply(None, &tar[..], Expected::default())
        };
        let refused = open(Devices::Refuse, "refuse").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Malformed, "{refused}");
        let skipped = open(Devices::Skip, "skip").unwrap();
        assert!(!tree(&skipped).join("null").exists());
        let made = open(Devices::Make, "make").unwrap();
        assert_eq!(
            tree(&made).join("null").metadata().unwrap().rdev(),
            makedev(1, 3)
        );
    });
}

#[test]
fn marks_are_where_the_store_has_them() {
    in_world(|world| {
        if !takes_user_marks(&world.base) {
            return;
        }
        let store = LayerStore::builder(world.path("user"))
            .marks(Marks::User)
            .open()
            .unwrap();
        let base = Archive::new()
            .directory("d/")
            .file("d/f", "")
            .file("g", "")
            .end();
        let below = store.apply(None, &base[..], Expected::default()).unwrap();
        let top = Archive::new()
            .directory("d/")
            .file("d/.wh..wh..opq", "")
            .file(".wh.g", "")
            .end();
        let layer = store
            .apply(Some(&below), &top[..], Expected::default())
            .unwrap();
        let marked = |mark: &str| getxattr(tree(&layer).join("d"), mark, &mut [0; 1]) == Ok(1);
        assert!(marked("user.overlay.opaque") && !marked("trusted.overlay.opaque"));
        assert!(is_whiteout(tree(&layer).join("g")));

        // An upper of a container that mounted it with `userxattr`.
        let upper = world.path("changes");
        fs::create_dir_all(upper.join("d")).unwrap();
        setxattr(
            upper.join("d"),
            "user.overlay.opaque",
            b"y",
            XattrFlags::empty(),
        )
        .unwrap();
        mknodat(
            CWD,
            upper.join("g"),
            FileType::CharacterDevice,
            Mode::empty(),
            0,
        )
        .unwrap();
        let committed = store.commit(Some(&below), &upper).unwrap();
        assert!(is_opaque(tree(&committed).join("d")));
        assert_eq!(committed.usage().inodes, 2);
        assert_eq!(store.check().unwrap(), []);
    });
}

#[test]
fn limits_are_of_who_unpacks() {
    in_world(|world| {
        let tar = Archive::new().file("a", "").file("b", "").end();
        let small = world.store.with_limits(Limits::default().entries(1));
        let refused = small
            .apply(None, &tar[..], Expected::default())
            .unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::LimitExceeded, "{refused}");
        let layers = [(&tar[..], Expected::default())];
        let refused = small.apply_all(None, layers).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::LimitExceeded, "{refused}");
        let there = world
            .store
            .apply(None, &tar[..], Expected::default())
            .unwrap();
        // It costs nothing any more.
        let expected = Expected::diff_id(there.diff_id());
        drop(small.apply(None, std::io::empty(), expected).unwrap());
        // Those of a layer by itself.
        let target = world.path("target");
        fs::create_dir(&target).unwrap();
        let apply = Apply::new(&target).limits(Limits::default().entries(1));
        assert_eq!(
            apply.tar(&tar[..]).unwrap_err().kind(),
            ErrorKind::LimitExceeded
        );
    });
}
