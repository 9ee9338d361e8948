//! Changes as they are told one by one.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use cofferdam_overlay::{ChangeKind, Diff, ErrorKind, FileKind, Marks, Overlay};
use rustix::fs::{XattrFlags, setxattr};

use crate::rootless::{is_there, runs_there, takes_user_marks};
use crate::world::{in_world, in_world_of, root_of, write};

#[test]
fn nothing_written_is_no_change() {
    in_world(1, |world| {
        write(world.lowers[0].join("a/file"), "x");
        world.change(|root| fs::read(root.join("a/file")).unwrap());
        assert_eq!(world.changes(), [""; 0]);
        let (tar, written) = world.tar();
        assert_eq!((tar, written.entries), (vec![0; 1024], 0));
    });
}

#[test]
fn added_modified_and_deleted_files_are_told_apart() {
    in_world(2, |world| {
        write(world.lowers[0].join("d/top"), "x");
        write(world.lowers[1].join("d/bottom"), "x");
        write(world.lowers[1].join("d/gone"), "x");
        world.change(|root| {
            fs::write(root.join("d/top"), "y").unwrap();
            fs::write(root.join("d/bottom"), "y").unwrap();
            fs::write(root.join("d/new"), "y").unwrap();
            fs::remove_file(root.join("d/gone")).unwrap();
        });
        let changes = ["M d", "M d/bottom", "D d/gone", "A d/new", "M d/top"];
        assert_eq!(world.changes(), changes);
        let tar = ["./", "d/", "d/bottom", "d/.wh.gone", "d/new", "d/top"];
        assert_eq!(world.entries(), tar);
    });
}

#[test]
fn a_directory_that_was_only_passed_through_is_in_the_tar_but_no_change() {
    in_world(1, |world| {
        write(world.lowers[0].join("a/b/file"), "x");
        world.change(|root| fs::write(root.join("a/b/file"), "y").unwrap());
        assert_eq!(world.changes(), ["M a/b/file"]);
        assert_eq!(world.entries(), ["./", "a/", "a/b/", "a/b/file"]);
    });
}

#[test]
fn what_the_upper_made_and_removed_again_is_no_change() {
    in_world(1, |world| {
        world.change(|root| {
            fs::write(root.join("a"), "").unwrap();
            fs::remove_file(root.join("a")).unwrap();
        });
        // Made by hand: the kernel leaves no whiteout of what no layer has.
        let hidden = world.upper.join("b");
        whiteout(&hidden);
        assert_eq!(world.changes(), [""; 0]);
        write(world.lowers[0].join("b"), "");
        assert_eq!(world.changes(), ["D b"]);
    });
}

#[test]
fn a_new_directory_is_not_opaque_where_there_is_nothing_to_hide() {
    in_world(1, |world| {
        fs::create_dir(world.lowers[0].join("empty")).unwrap();
        write(world.lowers[0].join("file"), "");
        world.change(|root| {
            fs::create_dir(root.join("new")).unwrap();
            fs::remove_dir(root.join("empty")).unwrap();
            fs::create_dir(root.join("empty")).unwrap();
            fs::remove_file(root.join("file")).unwrap();
            fs::create_dir(root.join("file")).unwrap();
        });
        assert_eq!(world.changes(), ["M empty", "M file", "A new"]);
        assert_eq!(world.entries(), ["./", "empty/", "file/", "new/"]);
    });
}

#[test]
fn a_directory_made_again_hides_what_the_layers_have() {
    in_world(3, |world| {
        write(world.lowers[0].join("other"), "");
        write(world.lowers[2].join("d/e/old"), "");
        write(world.lowers[1].join("d/e/both"), "");
        world.change(|root| {
            fs::remove_dir_all(root.join("d")).unwrap();
            fs::create_dir_all(root.join("d/e")).unwrap();
            fs::write(root.join("d/e/both"), "new").unwrap();
        });
        assert_eq!(world.changes(), ["M! d", "A d/e", "A d/e/both"]);
        let tar = ["./", "d/", "d/.wh..wh..opq", "d/e/", "d/e/both"];
        assert_eq!(world.entries(), tar);
    });
}

#[test]
fn whiteouts_and_opaque_directories_of_layers_are_seen_through() {
    in_world(3, |world| {
        let [top, middle, bottom] = [0, 1, 2].map(|n| &world.lowers[n]);
        for path in ["hidden", "opaque/old", "replaced/old", "seen/old"] {
            write(bottom.join(path), "");
        }
        whiteout(&middle.join("hidden"));
        for name in ["opaque", "seen"] {
            fs::create_dir(middle.join(name)).unwrap();
        }
        opaque(&middle.join("opaque"));
        write(top.join("replaced"), "a file now");
        world.change(|root| {
            for path in ["hidden", "opaque/old", "seen/old"] {
                fs::write(root.join(path), "new").unwrap();
            }
            fs::remove_file(root.join("replaced")).unwrap();
            fs::create_dir(root.join("replaced")).unwrap();
            fs::write(root.join("replaced/old"), "new").unwrap();
        });
        let changes = [
            "A hidden",
            "M opaque",
            "A opaque/old",
            "M replaced",
            "A replaced/old",
            "M seen/old",
        ];
        assert_eq!(world.changes(), changes);
    });
}

#[test]
fn a_change_of_type_is_one_change() {
    in_world(1, |world| {
        write(world.lowers[0].join("directory/file"), "");
        write(world.lowers[0].join("file"), "");
        symlink("file", world.lowers[0].join("link")).unwrap();
        world.change(|root| {
            fs::remove_dir_all(root.join("directory")).unwrap();
            fs::write(root.join("directory"), "").unwrap();
            fs::remove_file(root.join("file")).unwrap();
            symlink("x", root.join("file")).unwrap();
            fs::remove_file(root.join("link")).unwrap();
            fs::create_dir(root.join("link")).unwrap();
        });
        assert_eq!(world.changes(), ["M directory", "M file", "M link"]);
    });
}

#[test]
fn a_rename_is_a_deletion_and_an_addition() {
    in_world(1, |world| {
        write(world.lowers[0].join("a"), "x");
        world.change(|root| fs::rename(root.join("a"), root.join("b")).unwrap());
        assert_eq!(world.changes(), ["D a", "A b"]);
    });
}

#[test]
fn changes_of_metadata_and_xattrs_alone_are_changes() {
    in_world(1, |world| {
        for name in ["mode/file", "xattr/file"] {
            write(world.lowers[0].join(name), "x");
        }
        world.change(|root| {
            let private = fs::Permissions::from_mode(0o700);
            fs::set_permissions(root.join("mode"), private.clone()).unwrap();
            fs::set_permissions(root.join("mode/file"), private.clone()).unwrap();
            for name in ["xattr", "xattr/file"] {
                setxattr(root.join(name), "trusted.a", b"1", XattrFlags::empty()).unwrap();
            }
            fs::set_permissions(root, private).unwrap();
        });
        let changes = ["M ", "M mode", "M mode/file", "M xattr", "M xattr/file"];
        assert_eq!(world.changes(), changes);
    });
}

#[test]
fn files_opened_but_not_changed_are_left_out_on_request() {
    in_world(2, |world| {
        for name in ["a", "b", "c", "d/same"] {
            write(world.lowers[1].join(name), "same");
        }
        let open = |path: &Path| fs::OpenOptions::new().append(true).open(path).unwrap();
        let old = fs::metadata(world.lowers[1].join("b"))
            .unwrap()
            .modified()
            .unwrap();
        world.change(|root| {
            drop(open(&root.join("a")));
            drop(open(&root.join("d/same")));
            fs::write(root.join("b"), "SAME").unwrap();
            open(&root.join("b")).set_modified(old).unwrap();
            setxattr(root.join("c"), "trusted.a", b"1", XattrFlags::empty()).unwrap();
        });
        assert_eq!(world.changes(), ["M a", "M b", "M c", "M d/same"]);
        let compared = world.diff().compare_content();
        let paths: Vec<_> = compared
            .changes()
            .unwrap()
            .map(|c| c.unwrap().path)
            .collect();
        assert_eq!(paths, [Path::new("b"), Path::new("c")]);
    });
}

#[test]
fn without_layers_all_is_new() {
    in_world(1, |world| {
        world.change(|root| write(root.join("a/b"), "text"));
        let changes: Vec<_> = Diff::of(&world.upper)
            .changes()
            .unwrap()
            .flatten()
            .collect();
        assert!(
            changes
                .iter()
                .all(|change| change.kind == ChangeKind::Added && !change.opaque)
        );
        let metadata = changes[1].metadata.unwrap();
        assert_eq!(
            (changes[1].path.as_path(), metadata.size),
            (Path::new("a/b"), 4)
        );
        assert_eq!(metadata.kind, FileKind::Regular);
    });
}

#[test]
fn uppers_of_redirect_dir_and_metacopy_are_refused_by_name() {
    in_world(1, |world| {
        let refused = |mark: &str, path: &str| {
            let path = world.upper.join(path);
            setxattr(&path, mark, b"/elsewhere", XattrFlags::empty()).unwrap();
            let error = world
                .diff()
                .changes()
                .and_then(Iterator::collect::<Result<Vec<_>, _>>);
            let error = error.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            rustix::fs::removexattr(&path, mark).unwrap();
            error.to_string()
        };
        fs::create_dir(world.upper.join("d")).unwrap();
        let error = refused("trusted.overlay.redirect", "d");
        assert_eq!(
            error,
            format!(
                "diff {}: trusted.overlay.redirect is on it, so that its content is elsewhere (it was mounted with redirect_dir)",
                world.upper.join("d").display()
            )
        );
        fs::File::create(world.upper.join("d/f"))
            .unwrap()
            .set_len(10)
            .unwrap();
        let error = refused("trusted.overlay.metacopy", "d/f");
        assert!(error.contains("/d/f: trusted.overlay.metacopy"), "{error}");
    });
}

/// Runs the rootless half as root of a user namespace with one id.
#[test]
fn marks_of_a_user_namespace_are_found_there() {
    runs_there("changes::rootless");
}

#[test]
fn rootless() {
    if !is_there() {
        return;
    }
    in_world_of(1, |world| {
        let lower = &world.lowers[0];
        write(lower.join("d/old"), "");
        write(lower.join("gone"), "");
        if !takes_user_marks(lower) {
            return;
        }
        world.change(|root| {
            fs::remove_dir_all(root.join("d")).unwrap();
            write(root.join("d/new"), "");
            fs::remove_file(root.join("gone")).unwrap();
        });
        // The xattr on the layer is not on the upper.
        assert_eq!(world.changes(), ["M ", "M! d", "A d/new", "D gone"]);
        let layer = world.base.join("layer");
        fs::create_dir(&layer).unwrap();
        world.diff().commit(&layer).unwrap();
        let mount = Overlay::builder([&layer, lower]).detached().unwrap();
        let merged = root_of(&mount);
        assert!(merged.join("d/new").exists() && !merged.join("d/old").exists());
        assert!(!merged.join("gone").exists());
        let error = world.diff().marks(Marks::Trusted).changes().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    });
}

pub(crate) fn whiteout(path: &Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
}

pub(crate) fn opaque(path: &Path) {
    setxattr(path, "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
}
