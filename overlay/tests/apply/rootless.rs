//! The same as root of a user namespace that an ordinary user may make.

use std::env;
use std::fs;
use std::process::Command;

use cofferdam_overlay::{Apply, Marks, SkippedPart, Unmapped};
use cofferdam_testkit::{Need, as_root_of_a_user_namespace, have};

use crate::archive::{Archive, Header, directory, exists, in_world, is_whiteout, names, xattr};

const INSIDE: &str = "COFFERDAM_APPLY_INSIDE";

/// Runs the tests of this binary again in there.
#[test]
fn all_of_it_works_in_a_user_namespace() {
    if !have(&[Need::Namespaces]) || env::var_os(INSIDE).is_some() {
        return;
    }
    let mut tests = Command::new(env::current_exe().unwrap());
    // A skip there is none of the machine's.
    tests.env(INSIDE, "1").env_remove("COFFERDAM_STRICT");
    let output = as_root_of_a_user_namespace(&mut tests).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        text.contains("a_layer_in_a_user_namespace_has_its_marks"),
        "{text}"
    );
}

#[test]
fn a_layer_in_a_user_namespace_has_its_marks() {
    if env::var_os(INSIDE).is_none() {
        return;
    }
    assert_eq!(Marks::detect().unwrap(), Marks::User);
    in_world(|world| {
        let layer = directory(world, "layer");
        let capability = [&[1, 0, 0, 2][..], &[4; 16]].concat();
        let tar = Archive::new()
            .file("d/.wh..wh..opq", "")
            .file(".wh.gone", "")
            .pax(&[
                ("SCHILY.xattr.user.overlay.opaque", b"y"),
                ("SCHILY.xattr.trusted.a", b"b"),
            ])
            .directory("e/")
            .pax(&[("SCHILY.xattr.security.capability", &capability)])
            .file("ping", "")
            .add(Header::new("null", b'3').device(1, 3), "")
            .end();
        let applied = Apply::new(&layer).tar(&*tar).unwrap();
        assert_eq!(xattr(layer.join("d"), "user.overlay.opaque").unwrap(), b"y");
        assert_eq!(xattr(layer.join("e"), "user.overlay.opaque"), None);
        assert_eq!(
            xattr(layer.join("e"), "user.overlay.overlay.opaque").unwrap(),
            b"y"
        );
        assert!(is_whiteout(layer.join("gone")));
        assert!(!exists(layer.join("null")));
        // As the namespace sees it; outside it has the namespace's root in it.
        assert_eq!(
            xattr(layer.join("ping"), "security.capability").unwrap(),
            capability
        );
        let what: Vec<_> = applied
            .skipped
            .iter()
            .map(|skipped| &skipped.what)
            .collect();
        assert_eq!(
            what,
            [
                &SkippedPart::Xattr("trusted.a".into()),
                &SkippedPart::Device
            ]
        );
    });
}

#[test]
fn an_id_that_the_namespace_lacks_is_refused_or_squashed() {
    if env::var_os(INSIDE).is_none() {
        return;
    }
    in_world(|world| {
        let layer = directory(world, "layer");
        let tar = Archive::new()
            .add(Header::new("f", b'0').owner(0, 42), "")
            .end();
        let error = Apply::new(&layer).tar(&*tar).unwrap_err();
        assert_eq!(
            error.to_string(),
            "apply layer: entry f: group 42 is not in the map of ids"
        );
        assert_eq!(names(&layer), [""; 0]);
        Apply::new(&layer)
            .unmapped(Unmapped::Squash { uid: 0, gid: 0 })
            .tar(&*tar)
            .unwrap();
        assert!(fs::metadata(layer.join("f")).is_ok());
    });
}
