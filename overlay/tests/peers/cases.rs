//! Layers that readers disagree on: what each makes of them, as the table in `Apply`'s documentation says.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cofferdam_overlay::{Expected, LayerRef, LayerStore, Result};
use cofferdam_testkit::Need;

use crate::archive::{Archive, Header, xattr};
use crate::layout;
use crate::programs::{Buildah, Containerd, forget_notes, umoci};
use crate::world::{in_world, view};

/// What is seen at the watched paths: `none`, a file's text, `dir[names]`, and what of mode, owner, time and links is not
/// that of the archive's entries. A `ghost` is listed and not there.
struct Case {
    name: &'static str,
    layers: Vec<Archive>,
    watch: &'static [&'static str],
    ours: &'static str,
    /// None is the same as ours.
    umoci: Option<&'static str>,
    buildah: Option<&'static str>,
    containerd: Option<&'static str>,
}

const REFUSED: &str = "refused";

fn seen(root: &Path, watch: &[&str]) -> String {
    let all: Vec<_> = watch
        .iter()
        .map(|path| format!("{path}: {}", what_is(&root.join(path))))
        .collect();
    all.join("; ")
}

fn what_is(path: &Path) -> String {
    let Ok(found) = path.symlink_metadata() else {
        let names = names(path.parent().unwrap());
        let name = path.file_name().unwrap().to_str().unwrap();
        let listed = names.iter().any(|listed| listed == name);
        return if listed { "ghost" } else { "none" }.to_owned();
    };
    let (mut text, usual) = if found.is_dir() {
        (format!("dir[{}]", names(path).join(" ")), 0o755)
    } else if found.is_symlink() {
        let target = fs::read_link(path).unwrap();
        (format!("-> {}", target.display()), 0o777)
    } else if found.is_file() {
        (format!("{:?}", fs::read_to_string(path).unwrap()), 0o644)
    } else {
        let (major, minor) = (found.rdev() >> 8, found.rdev() & 255);
        (format!("device {major}:{minor}"), 0o644)
    };
    if found.mode() & 0o7777 != usual {
        text += &format!(" {:o}", found.mode() & 0o7777);
    }
    if (found.uid(), found.gid()) != (0, 0) {
        text += &format!(" {}:{}", found.uid(), found.gid());
    }
    match found.mtime() {
        1000 => {}
        time if time < 1_000_000 => text += &format!(" @{time}"),
        _ => text += " @now",
    }
    if let Some(value) = xattr(path, "trusted.a") {
        text += &format!(" a={}", String::from_utf8_lossy(&value));
    }
    if !found.is_dir() && found.nlink() > 1 {
        text += &format!(" x{}", found.nlink());
    }
    text
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Every entry below has a root, whose metadata is not the question but where it is.
fn base() -> Archive {
    Archive::new().directory("./")
}

fn top() -> Archive {
    Archive::new()
}

fn cases() -> Vec<Case> {
    let private = |name: &str| Header::new(name, b'5').mode(0o700).owner(5, 6);
    vec![
        Case {
            name: "a whiteout in a base layer",
            layers: vec![base().directory("d/").file("d/.wh.x", "")],
            watch: &["d", "d/x"],
            ours: "d: dir[]; d/x: none",
            umoci: None,
            buildah: Some("d: dir[x]; d/x: ghost"),
            containerd: None,
        },
        Case {
            name: "a whiteout before the file of that name",
            layers: vec![
                base().file("f", "old"),
                top().file(".wh.f", "").file("f", "new"),
            ],
            watch: &["f"],
            ours: r#"f: "new""#,
            umoci: None,
            buildah: None,
            containerd: None,
        },
        Case {
            name: "a whiteout after the file of that name",
            layers: vec![
                base().file("f", "old"),
                top().file("f", "new").file(".wh.f", ""),
            ],
            watch: &["f"],
            ours: r#"f: "new""#,
            umoci: None,
            buildah: Some(REFUSED),
            containerd: Some(REFUSED),
        },
        Case {
            name: "a whiteout of a directory, and in it too",
            layers: vec![
                base().directory("d/").file("d/x", "").file("d/y", ""),
                top().file(".wh.d", "").file("d/.wh.x", ""),
            ],
            watch: &["d"],
            ours: "d: none",
            umoci: None,
            buildah: None,
            containerd: Some(REFUSED),
        },
        Case {
            name: "a whiteout of a directory, then a file in it",
            layers: vec![
                base().directory("d/").file("d/x", ""),
                top().file(".wh.d", "").file("d/new", ""),
            ],
            watch: &["d"],
            ours: "d: dir[new]",
            umoci: Some("d: dir[new] @now"),
            buildah: Some(REFUSED),
            containerd: Some(REFUSED),
        },
        Case {
            name: "a whiteout of a directory, then the directory",
            layers: vec![
                base().directory("d/").file("d/x", ""),
                top().file(".wh.d", "").directory("d/").file("d/new", ""),
            ],
            watch: &["d"],
            ours: "d: dir[new]",
            umoci: None,
            buildah: Some("d: dir[new x]"),
            containerd: Some("d: dir[new x]"),
        },
        Case {
            name: "opaque, first in its directory",
            layers: vec![
                base().directory("d/").file("d/x", ""),
                top()
                    .directory("d/")
                    .file("d/.wh..wh..opq", "")
                    .file("d/new", ""),
            ],
            watch: &["d"],
            ours: "d: dir[new]",
            umoci: None,
            buildah: None,
            containerd: None,
        },
        Case {
            name: "opaque, last in its directory",
            layers: vec![
                base().directory("d/").file("d/x", ""),
                top()
                    .directory("d/")
                    .file("d/new", "")
                    .file("d/.wh..wh..opq", ""),
            ],
            watch: &["d"],
            ours: "d: dir[new]",
            umoci: None,
            buildah: None,
            containerd: None,
        },
        Case {
            name: "an opaque root",
            layers: vec![
                base().file("a", ""),
                top().file(".wh..wh..opq", "").file("b", ""),
            ],
            watch: &["a", "b"],
            ours: r#"a: none; b: """#,
            umoci: None,
            buildah: Some(r#"a: ""; b: """#),
            containerd: Some(r#"a: ""; b: """#),
        },
        Case {
            name: "a directory in the place of a file",
            layers: vec![
                base().file("f", ""),
                top().directory("f/").file("f/new", ""),
            ],
            watch: &["f"],
            ours: "f: dir[new]",
            umoci: None,
            buildah: None,
            containerd: None,
        },
        Case {
            name: "a file in the place of a directory",
            layers: vec![
                base().directory("d/").file("d/x", ""),
                top().file("d", "new"),
            ],
            watch: &["d"],
            ours: r#"d: "new""#,
            umoci: None,
            buildah: None,
            containerd: None,
        },
        Case {
            name: "a symlink on the way, of the layer below",
            layers: vec![
                base()
                    .directory("usr/")
                    .directory("usr/lib/")
                    .symlink("lib", "usr/lib"),
                top().file("lib/new", ""),
            ],
            watch: &["lib", "usr/lib/new"],
            ours: r#"lib: -> usr/lib; usr/lib/new: """#,
            umoci: None,
            buildah: Some("lib: dir[new] @now; usr/lib/new: none"),
            containerd: Some("lib: dir[new] @now; usr/lib/new: none"),
        },
        Case {
            name: "an absolute symlink on the way, of the same layer",
            layers: vec![
                base().directory("real/"),
                top().symlink("ln", "/real").file("ln/new", ""),
            ],
            watch: &["ln", "real/new"],
            ours: r#"ln: -> /real; real/new: """#,
            umoci: None,
            buildah: Some(REFUSED),
            containerd: None,
        },
        Case {
            name: "a whiteout through a symlink",
            layers: vec![
                base()
                    .directory("real/")
                    .file("real/x", "")
                    .symlink("ln", "real"),
                top().file("ln/.wh.x", ""),
            ],
            watch: &["ln", "ln/x", "real/x"],
            ours: "ln: -> real; ln/x: none; real/x: none",
            umoci: None,
            buildah: Some(r#"ln: dir[x] @now; ln/x: ghost; real/x: """#),
            containerd: Some(r#"ln: dir[x] @now; ln/x: ghost; real/x: """#),
        },
        Case {
            name: "a directory without an entry",
            layers: vec![
                base().add(private("d/"), "").file("d/x", ""),
                top().file("d/new", ""),
            ],
            watch: &["d"],
            ours: "d: dir[new x] 700 5:6",
            umoci: None,
            buildah: Some("d: dir[new x] @now"),
            containerd: Some("d: dir[new x] 700 5:6 @now"),
        },
        Case {
            name: "the root's own entry",
            layers: vec![
                Archive::new().add(Header::new("./", b'5').mode(0o711).owner(3, 0), ""),
                top().file("new", ""),
            ],
            watch: &["."],
            ours: ".: dir[new] 711 3:0",
            umoci: None,
            buildah: Some(".: dir[new] 555 @now"),
            containerd: Some(".: dir[new] @now"),
        },
        Case {
            name: "a hard link to a file of the layer below",
            layers: vec![base().file("f", "text"), top().link("l", "f")],
            watch: &["f", "l"],
            ours: r#"f: "text" x2; l: "text" x2"#,
            umoci: None,
            buildah: Some(REFUSED),
            containerd: Some(REFUSED),
        },
        Case {
            name: "the same path twice",
            layers: vec![base().file("f", "first").file("f", "last")],
            watch: &["f"],
            ours: r#"f: "last""#,
            umoci: None,
            buildah: Some(REFUSED),
            containerd: None,
        },
        Case {
            name: "a path that leads out",
            layers: vec![base().file("../x", "")],
            watch: &["x"],
            ours: REFUSED,
            umoci: Some(r#"x: """#),
            buildah: Some(r#"x: """#),
            containerd: Some(r#"x: """#),
        },
        Case {
            name: "an absolute path",
            layers: vec![base().file("/x", "")],
            watch: &["x"],
            ours: r#"x: """#,
            umoci: None,
            buildah: None,
            containerd: None,
        },
        Case {
            name: "a character device 0:0",
            layers: vec![
                base().file("f", ""),
                top().add(Header::new("f", b'3').device(0, 0), ""),
            ],
            watch: &["f"],
            ours: REFUSED,
            umoci: Some("f: device 0:0"),
            buildah: Some("f: none"),
            containerd: Some("f: none"),
        },
        Case {
            name: "an xattr that is overlayfs's mark of an opaque directory",
            layers: vec![
                base().directory("d/").file("d/x", ""),
                top()
                    .pax(&[("SCHILY.xattr.trusted.overlay.opaque", b"y")])
                    .directory("d/")
                    .file("d/new", ""),
            ],
            watch: &["d"],
            ours: "d: dir[new x]",
            umoci: None,
            buildah: Some("d: dir[new]"),
            containerd: None,
        },
        Case {
            name: "an xattr that is overlayfs's note of another directory",
            layers: vec![
                base().directory("d/").file("d/x", ""),
                top()
                    .pax(&[("SCHILY.xattr.trusted.overlay.redirect", b"/d")])
                    .directory("m/"),
            ],
            watch: &["m"],
            ours: "m: dir[]",
            umoci: None,
            buildah: Some("m: dir[x]"),
            containerd: None,
        },
        Case {
            name: "notes of AUFS",
            layers: vec![
                base()
                    .directory(".wh..wh.plnk/")
                    .file(".wh..wh.plnk/1", "")
                    .file(".wh..wh.aufs", ""),
            ],
            watch: &["."],
            ours: ".: dir[]",
            umoci: Some(".: dir[.wh..wh.plnk] @now"),
            buildah: Some(".: dir[.wh..wh.plnk] 555 @now"),
            containerd: Some(".: dir[.wh..wh.plnk] @now"),
        },
        Case {
            name: "a whiteout of no name",
            layers: vec![
                base().directory("d/").file("d/x", ""),
                top().file("d/.wh.", ""),
            ],
            watch: &["d"],
            ours: REFUSED,
            umoci: None,
            buildah: None,
            containerd: None,
        },
        Case {
            name: "a whiteout of the directory above",
            layers: vec![
                base().directory("d/").file("d/x", ""),
                top().file("d/.wh...", ""),
            ],
            watch: &["d"],
            ours: REFUSED,
            umoci: None,
            buildah: None,
            containerd: None,
        },
        Case {
            name: "a hard link out",
            layers: vec![base().file("x", "").link("l", "../../x")],
            watch: &["l"],
            ours: REFUSED,
            umoci: Some(r#"l: "" x2"#),
            buildah: Some(r#"l: "" x2"#),
            containerd: Some(r#"l: "" x2"#),
        },
        Case {
            name: "a whiteout of what is not there",
            layers: vec![base().directory("d/"), top().file("d/.wh.x", "")],
            watch: &["d", "d/x"],
            ours: "d: dir[]; d/x: none",
            umoci: None,
            buildah: Some("d: dir[] @now; d/x: none"),
            containerd: Some("d: dir[] @now; d/x: none"),
        },
        Case {
            name: "a whiteout in an opaque directory",
            layers: vec![
                base().directory("d/").file("d/x", ""),
                top()
                    .directory("d/")
                    .file("d/.wh..wh..opq", "")
                    .file("d/.wh.x", ""),
            ],
            watch: &["d", "d/x"],
            ours: "d: dir[]; d/x: none",
            umoci: None,
            buildah: Some("d: dir[x]; d/x: ghost"),
            containerd: Some("d: dir[x]; d/x: ghost"),
        },
        Case {
            name: "a whiteout on the way",
            layers: vec![
                base().directory("d/").file("d/x", ""),
                top().file(".wh.d/y", ""),
            ],
            watch: &["d"],
            ours: REFUSED,
            umoci: Some("d: dir[x]"),
            buildah: Some("d: dir[x]"),
            containerd: Some("d: dir[x]"),
        },
        Case {
            name: "a file on the way",
            layers: vec![base().file("f", "old"), top().file("f/new", "")],
            watch: &["f"],
            ours: "f: dir[new]",
            umoci: Some(REFUSED),
            buildah: Some("f: dir[new] @now"),
            containerd: Some("f: dir[new] @now"),
        },
        Case {
            name: "a file on the way, of the same layer",
            layers: vec![base().file("f", "old").file("f/new", "")],
            watch: &["f"],
            ours: REFUSED,
            umoci: None,
            buildah: None,
            containerd: None,
        },
        Case {
            name: "a symlink to nowhere on the way",
            layers: vec![base().symlink("ln", "nowhere"), top().file("ln/new", "")],
            watch: &["ln", "nowhere"],
            ours: "ln: -> nowhere; nowhere: dir[new]",
            umoci: Some("ln: -> nowhere; nowhere: dir[new] @now"),
            buildah: Some("ln: dir[new] @now; nowhere: none"),
            containerd: Some("ln: dir[new] @now; nowhere: none"),
        },
        Case {
            name: "a symlink in the place of a directory",
            layers: vec![
                base().directory("d/").file("d/x", "").directory("e/"),
                top().symlink("d", "e"),
            ],
            watch: &["d"],
            ours: "d: -> e",
            umoci: None,
            buildah: None,
            containerd: None,
        },
        Case {
            name: "a directory in the place of a symlink",
            layers: vec![
                base().directory("e/").file("e/x", "").symlink("d", "e"),
                top().directory("d/").file("d/new", ""),
            ],
            watch: &["d", "e"],
            ours: "d: dir[new]; e: dir[x]",
            umoci: None,
            buildah: None,
            containerd: None,
        },
        Case {
            name: "an opaque directory through a symlink",
            layers: vec![
                base().directory("e/").file("e/x", "").symlink("ln", "e"),
                top().file("ln/.wh..wh..opq", "").file("ln/new", ""),
            ],
            watch: &["ln", "e"],
            ours: "ln: -> e; e: dir[new]",
            umoci: None,
            buildah: Some("ln: dir[new] @now; e: dir[x]"),
            containerd: Some("ln: dir[new] @now; e: dir[x]"),
        },
        Case {
            name: "a hard link to what is whited out",
            layers: vec![
                base().file("f", "text"),
                top().file(".wh.f", "").link("l", "f"),
            ],
            watch: &["f", "l"],
            ours: REFUSED,
            umoci: None,
            buildah: Some("f: none; l: none"),
            containerd: Some("f: none; l: none"),
        },
        Case {
            name: "a hard link before its file",
            layers: vec![base().link("l", "f").file("f", "text")],
            watch: &["f", "l"],
            ours: REFUSED,
            umoci: None,
            buildah: None,
            containerd: None,
        },
        Case {
            name: "a hard link to a file that comes twice",
            layers: vec![base().file("f", "first").link("l", "f").file("f", "last")],
            watch: &["f", "l"],
            ours: r#"f: "last"; l: "first""#,
            umoci: None,
            buildah: Some(REFUSED),
            containerd: None,
        },
        Case {
            name: "a hard link to a file that is below too",
            layers: vec![
                base().file("f", "old"),
                top().file("f", "new").link("l", "f"),
            ],
            watch: &["f", "l"],
            ours: r#"f: "new" x2; l: "new" x2"#,
            umoci: None,
            buildah: None,
            containerd: None,
        },
        Case {
            name: "a hard link through a symlink",
            layers: vec![
                base()
                    .directory("d/")
                    .file("d/f", "text")
                    .symlink("ln", "/d")
                    .link("l", "ln/f"),
            ],
            watch: &["d/f", "l"],
            ours: r#"d/f: "text" x2; l: "text" x2"#,
            umoci: None,
            buildah: None,
            containerd: None,
        },
        Case {
            name: "a directory's entry without the xattr it has below",
            layers: vec![
                base()
                    .pax(&[("SCHILY.xattr.trusted.a", b"1")])
                    .directory("d/"),
                top().directory("d/").file("d/new", ""),
            ],
            watch: &["d"],
            ours: "d: dir[new]",
            umoci: None,
            buildah: None,
            containerd: None,
        },
        Case {
            name: "an xattr of a symlink",
            layers: vec![
                base()
                    .pax(&[("SCHILY.xattr.trusted.a", b"1")])
                    .symlink("ln", "d"),
            ],
            watch: &["ln"],
            ours: "ln: -> d a=1",
            umoci: None,
            buildah: None,
            containerd: Some("ln: -> d"),
        },
        Case {
            name: "a time before 1970",
            layers: vec![base().pax(&[("mtime", b"-5.25")]).file("f", "")],
            watch: &["f"],
            ours: r#"f: "" @-6"#,
            umoci: None,
            buildah: Some(r#"f: "" @0"#),
            containerd: Some(r#"f: "" @0"#),
        },
        Case {
            name: "a file whose name ends in a slash",
            layers: vec![base().file("f/", "")],
            watch: &["f"],
            ours: REFUSED,
            umoci: Some(r#"f: """#),
            buildah: Some(r#"f: """#),
            containerd: Some(r#"f: """#),
        },
        Case {
            name: "an opaque directory that is nowhere else",
            layers: vec![base().file("f", ""), top().file("d/.wh..wh..opq", "")],
            watch: &["d"],
            ours: "d: dir[]",
            umoci: Some("d: none"),
            buildah: Some("d: dir[] @now"),
            containerd: Some("d: dir[] @now"),
        },
        Case {
            name: "a whiteout of a directory after what is in it",
            layers: vec![
                base().add(private("d/"), "").file("d/x", ""),
                top().file("d/new", "").file(".wh.d", ""),
            ],
            watch: &["d"],
            ours: "d: dir[new]",
            umoci: Some("d: dir[new] 700 5:6 @now"),
            buildah: Some(REFUSED),
            containerd: Some(REFUSED),
        },
    ]
}

/// Compares all cases at once: one difference tells of the others.
fn check(by: impl Fn(&Case) -> (String, &'static str)) {
    let wrong: Vec<_> = cases()
        .iter()
        .filter_map(|case| {
            let (found, expected) = by(case);
            let line = format!("{}\n  found    {found}\n  expected {expected}", case.name);
            (found != expected).then_some(line)
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn applied(store: &LayerStore, case: &Case) -> Result<LayerRef> {
    let mut below = None;
    for layer in &case.layers {
        let tar = layer.clone().end();
        below = Some(store.apply(below.as_ref(), &*tar, Expected::default())?);
    }
    Ok(below.unwrap())
}

#[test]
fn ours_is_as_documented() {
    in_world(&[], |world| {
        let store = world.store("store");
        check(|case| {
            let found = match applied(&store, case) {
                Ok(layer) => view(&layer, |root| seen(root, case.watch)),
                Err(_) => REFUSED.to_owned(),
            };
            (found, case.ours)
        });
        assert_eq!(store.check().unwrap(), []);
    });
}

#[test]
fn the_table_has_a_row_for_each_difference() {
    let table = include_str!("../../src/apply/others.md");
    let rows = table.lines().filter(|line| line.starts_with("| ")).skip(1);
    let mut told: BTreeMap<_, _> = rows
        .map(|row| {
            let columns: Vec<_> = row.split('|').map(str::trim).collect();
            (columns[1], [columns[3], columns[4], columns[5]])
        })
        .collect();
    for case in cases() {
        let row = told.remove(case.name);
        let differs = [case.umoci, case.buildah, case.containerd].map(|theirs| theirs.is_some());
        assert_eq!(row.is_some(), differs != [false; 3], "{}", case.name);
        if let Some(row) = row {
            // "The same, without" something that need not be seen.
            for (says, differs) in row.into_iter().zip(differs) {
                assert!(
                    differs != says.starts_with("the same") || says.contains(','),
                    "{}",
                    case.name
                );
            }
        }
    }
    assert_eq!(told.into_keys().collect::<Vec<_>>(), [""; 0]);
}

/// The image in a directory of its own.
fn written(target: &Path, case: &Case) {
    if target.exists() {
        fs::remove_dir_all(target).unwrap();
    }
    let layers: Vec<_> = case.layers.iter().cloned().map(Archive::end).collect();
    layout::write(target, &layers);
}

#[test]
fn umoci_is_as_documented() {
    in_world(&[Need::Program("umoci")], |world| {
        let image = world.path("image");
        check(|case| {
            written(&image, case);
            let found = match umoci(world, &image, "unpacked") {
                Ok(root) => seen(&root, case.watch),
                Err(_) => REFUSED.to_owned(),
            };
            let unpacked = world.path("unpacked");
            if unpacked.exists() {
                fs::remove_dir_all(unpacked).unwrap();
            }
            (found, case.umoci.unwrap_or(case.ours))
        });
    });
}

#[test]
fn buildah_is_as_documented() {
    in_world(&[Need::Program("buildah")], |world| {
        let image = world.path("image");
        forget_notes();
        let buildah = Buildah::new(world, "overlay");
        check(|case| {
            written(&image, case);
            let found = match buildah.view(&image, |root| seen(root, case.watch)) {
                Ok(found) => found,
                Err(_) => REFUSED.to_owned(),
            };
            (found, case.buildah.unwrap_or(case.ours))
        });
    });
}

#[test]
fn containerd_is_as_documented() {
    let programs = [Need::Program("containerd"), Need::Program("ctr")];
    in_world(&programs, |world| {
        let image = world.path("image");
        forget_notes();
        let containerd = Containerd::start(world);
        let count = Cell::new(0);
        check(|case| {
            written(&image, case);
            count.set(count.get() + 1);
            let name = format!("example.test/{}", count.get());
            let found = match containerd.view(&image, &name, |root| seen(root, case.watch)) {
                Ok(found) => found,
                Err(_) => REFUSED.to_owned(),
            };
            (found, case.containerd.unwrap_or(case.ours))
        });
    });
}
