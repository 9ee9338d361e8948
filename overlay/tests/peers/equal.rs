//! What is the same by all of them.

use std::fs;
use std::path::{Path, PathBuf};

use cofferdam_overlay::{Compress, Image, ImageSource, LayerStore};
use cofferdam_testkit::Need;

use crate::corpus;
use crate::layout;
use crate::programs::{Buildah, forget_notes, named, run, umoci};
use crate::tree::{Tree, same, tree};
use crate::world::{World, in_world, view};

const PEERS: [Need; 5] = [
    Need::Program("tar"),
    Need::Program("dpkg-query"),
    Need::Program("umoci"),
    Need::Program("skopeo"),
    Need::Program("buildah"),
];

/// An image of three layers, by GNU tar, umoci and hand, and the tree that GNU tar makes of them.
fn image(world: &World) -> (PathBuf, Tree) {
    let base = corpus::base(world);
    let archive = corpus::tar(world, &base, "base.tar");
    fs::remove_dir_all(base).unwrap();
    let truth = world.directory("truth");
    corpus::extract(world, &archive, &truth);
    let image = world.path("image");
    layout::write(&image, &[fs::read(&archive).unwrap()]);
    fs::remove_file(archive).unwrap();

    repacked(world, &image);
    corpus::upgrade(&truth);

    let second = corpus::second(world);
    let archive = corpus::tar(world, &second, "second.tar");
    let layer = archive.to_str().unwrap();
    let arguments = ["raw", "add-layer", "--image", &named(&image), layer];
    run("umoci", &arguments, world).unwrap();
    corpus::make_room(&truth);
    corpus::extract(world, &archive, &truth);
    let tree = tree(&truth);
    for path in [truth, second] {
        fs::remove_dir_all(path).unwrap();
    }
    (image, tree)
}

/// Adds a layer as umoci finds it.
fn repacked(world: &World, image: &Path) {
    let bundle = world.path("bundle");
    let target = bundle.to_str().unwrap();
    let name = named(image);
    run("umoci", &["unpack", "--image", &name, target], world).unwrap();
    corpus::upgrade(&bundle.join("rootfs"));
    run("umoci", &["repack", "--image", &name, target], world).unwrap();
    fs::remove_dir_all(bundle).unwrap();
}

#[test]
fn trees_are_equal() {
    in_world(&PEERS, |world| {
        let (layout, truth) = image(world);
        forget_notes();
        assert!(truth.len() > 400, "{}", truth.len());
        let store = world.store("store");
        let image = store.import(&ImageSource::layout(&layout)).unwrap();
        let layer = image.layer().unwrap();
        same("ours, and GNU tar's", &view(layer, tree), &truth);
        let theirs = umoci(world, &layout, "unpacked").unwrap();
        same("umoci's, and GNU tar's", &tree(&theirs), &truth);
        fs::remove_dir_all(theirs).unwrap();
        changed(world, &store, &image);
    });
}

/// A container's changes as a layer of an image, which the others read.
fn changed(world: &World, store: &LayerStore, image: &Image) {
    let below = image.layer().unwrap();
    let upper = world.upper(&below.directories(), corpus::container);
    let top = store.commit(Some(below), upper).unwrap();
    let merged = view(&top, tree);
    let image = store.image(Some(&top), image.config()).unwrap();
    let layout = world.path("exported");
    image.export(&layout, "latest", Compress::Gzip(1)).unwrap();
    let theirs = umoci(world, &layout, "unpacked").unwrap();
    same("umoci's, and ours", &tree(&theirs), &merged);
    fs::remove_dir_all(theirs).unwrap();
    read_by_skopeo(world, &layout, &merged);
    let theirs = Buildah::new(world, "vfs").view(&layout, tree).unwrap();
    same("buildah's, and ours", &theirs, &by_buildah(&theirs, merged));
}

/// It copies trees without `trusted.*` xattrs, and the root directory without its time.
fn by_buildah(theirs: &Tree, mut ours: Tree) -> Tree {
    let file = ours.get_mut(Path::new("odd/d/file5")).unwrap();
    assert!(file.contains(" trusted.a=[98]"));
    *file = file.replace(" trusted.a=[98]", "");
    let (root, time) = (ours.get_mut(Path::new("")).unwrap(), |line: &str| {
        line.split(' ').nth(2).unwrap().to_owned()
    });
    *root = root.replace(&time(root), &time(&theirs[Path::new("")]));
    ours
}

/// It checks all digests and sizes as it copies. What it writes is imported again.
fn read_by_skopeo(world: &World, layout: &Path, merged: &Tree) {
    let image = format!("oci:{}", named(layout));
    let said = run("skopeo", &["inspect", &image], world).unwrap();
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["Layers"].as_array().unwrap().len(), 4, "{said}");
    assert_eq!(said["Os"], "linux");
    let copy = |kind: &str, name: &str| {
        let target = world.path(name);
        let to = format!("{kind}:{}", target.display());
        run("skopeo", &["copy", "--insecure-policy", &image, &to], world).unwrap();
        target
    };
    let directory = copy("dir", "directory");
    assert!(directory.join("manifest.json").is_file());
    fs::remove_dir_all(directory).unwrap();
    let archive = copy("docker-archive", "archive.tar");
    let again = copy("oci", "again");
    for (name, source) in [
        ("store2", ImageSource::archive(&archive)),
        ("store3", ImageSource::layout(&again)),
    ] {
        let image = world.store(name).import(&source).unwrap();
        same(name, &view(image.layer().unwrap(), tree), merged);
        drop(image);
        fs::remove_dir_all(world.path(name)).unwrap();
    }
    fs::remove_file(archive).unwrap();
    fs::remove_dir_all(again).unwrap();
}
