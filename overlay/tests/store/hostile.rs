//! Images that somebody prepared.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use cofferdam_overlay::{Compress, Expected, ImageConfig, ImageSource};

use crate::images::archive;
use crate::world::{World, in_world, tar};

/// A layout of one image, and its blobs: the layer, the config and the manifest.
fn layout(world: &World) -> (PathBuf, [PathBuf; 3]) {
    let path = world.path("layout");
    if path.exists() {
        fs::remove_dir_all(&path).unwrap();
    }
    let layer = tar(&world.base, &[("file", "content")]);
    let layer = world
        .store
        .apply(None, &layer[..], Expected::default())
        .unwrap();
    let image = world
        .store
        .image(Some(&layer), &ImageConfig::default())
        .unwrap();
    let manifest = image.export(&path, "a", Compress::None).unwrap();
    let blob = |digest: &str| path.join("blobs/sha256").join(&digest[7..]);
    let read = fs::read_to_string(blob(&manifest.to_string())).unwrap();
    let read: serde_json::Value = serde_json::from_str(&read).unwrap();
    let config = blob(read["config"]["digest"].as_str().unwrap());
    let layer = blob(read["layers"][0]["digest"].as_str().unwrap());
    let manifest = blob(&manifest.to_string());
    (path, [layer, config, manifest])
}

/// The error of importing it once `change` was done to it; nothing of it is left.
fn refused(world: &World, change: impl FnOnce(&Path, &[PathBuf; 3])) -> String {
    let (path, blobs) = layout(world);
    change(&path, &blobs);
    world.store.collect().unwrap();
    let error = world.store.import(&ImageSource::layout(&path)).unwrap_err();
    assert_eq!(world.names("staging"), [""; 0]);
    assert_eq!(world.names("leases"), [""; 0]);
    error.to_string()
}

fn replace(path: &Path, what: &str, with: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(what), "{text}");
    fs::write(path, text.replace(what, with)).unwrap();
}

#[test]
fn blobs_that_are_not_what_they_are_named_are_refused() {
    in_world(|world| {
        // In the file of the layer, and what nobody minds in the JSON of the others.
        let texts = ["content", "\"layers\"", "\"schemaVersion\""];
        for (n, text) in texts.into_iter().enumerate() {
            let error = refused(world, |_, blobs| {
                let mut bytes = fs::read(&blobs[n]).unwrap();
                let text = text.as_bytes();
                let mut windows = bytes.windows(text.len());
                let at = windows.position(|window| window == text).unwrap();
                bytes[at + text.len() - 2] ^= 1;
                fs::write(&blobs[n], bytes).unwrap();
            });
            let digests = ["the blob is", "its sha256 is", "its sha256 is"];
            assert!(error.contains(digests[n]), "{n}: {error}");
            let error = refused(world, |_, blobs| {
                let mut bytes = fs::read(&blobs[n]).unwrap();
                bytes.push(b' ');
                fs::write(&blobs[n], bytes).unwrap();
            });
            assert!(error.contains("bytes, but"), "{n}: {error}");
        }
    });
}

#[test]
fn digests_are_no_paths() {
    in_world(|world| {
        for bad in ["sha256:../../../etc/passwd", "../x", "sha512:00", ""] {
            let error = refused(world, |path, blobs| {
                let name = blobs[2].file_name().unwrap().to_str().unwrap();
                replace(&path.join("index.json"), &format!("sha256:{name}"), bad);
            });
            assert!(error.contains("is no digest"), "{error}");
        }
    });
}

#[test]
fn symlinks_of_a_layout_are_not_followed() {
    in_world(|world| {
        for n in 0..3 {
            let error = refused(world, |_, blobs| {
                let elsewhere = world.path("elsewhere");
                fs::rename(&blobs[n], &elsewhere).unwrap();
                symlink(elsewhere, &blobs[n]).unwrap();
            });
            assert!(error.contains("ELOOP"), "{error}");
        }
    });
}

#[test]
fn documents_are_bounded_and_of_the_right_shape() {
    in_world(|world| {
        let with = |name: &str, text: String| {
            refused(world, |path, _| fs::write(path.join(name), text).unwrap())
        };
        let index = |text: String| with("index.json", text);
        assert!(index(" ".repeat((4 << 20) + 1)).contains("over 4194304 bytes"));
        assert!(index("[".repeat(100_000)).contains("recursion limit"));
        assert!(index("{}".to_owned()).contains("no \"config\""));
        assert!(index(r#"{"manifests":[]}"#.to_owned()).contains("no image of any name"));
        assert!(with("oci-layout", "{}".to_owned()).contains("imageLayoutVersion"));
        let error = refused(world, |path, _| {
            let text = fs::read_to_string(path.join("index.json")).unwrap();
            let mut index: serde_json::Value = serde_json::from_str(&text).unwrap();
            let one = index["manifests"][0].clone();
            index["manifests"] = vec![one.clone(), one].into();
            fs::write(path.join("index.json"), index.to_string()).unwrap();
        });
        assert!(error.contains("several images"), "{error}");
    });
}

#[test]
fn archives_are_checked_too() {
    in_world(|world| {
        let refused = |change: &dyn Fn(&Path)| {
            archive(world, "bad.tar", change);
            let source = ImageSource::archive(world.path("bad.tar"));
            let error = world.store.import(&source).unwrap_err();
            assert_eq!(world.names("staging"), [""; 0]);
            error.to_string()
        };
        let config = |tree: &Path| {
            let mut files = fs::read_dir(tree).unwrap().map(|file| file.unwrap().path());
            files
                .find(|path| path.file_name().unwrap().len() == 69)
                .unwrap()
        };
        let error = refused(&|tree| replace(&config(tree), "amd64", "amd65"));
        assert!(error.contains("sha256"), "{error}");
        refused(&|tree| fs::write(tree.join("x/layer.tar"), "no tar").unwrap());
        for name in ["../../etc/passwd", "/etc/passwd", "x/gone.tar"] {
            let error = refused(&|tree| replace(&tree.join("manifest.json"), "x/link.tar", name));
            assert!(error.contains("it has no file"), "{error}");
        }
        let error = refused(&|tree| {
            fs::remove_file(tree.join("x/link.tar")).unwrap();
            symlink("link.tar", tree.join("x/link.tar")).unwrap();
        });
        assert!(error.contains("it has no file"), "{error}");
        // Few bytes for a member each, but long ones.
        let error = refused(&|tree| {
            let deep: PathBuf = std::iter::repeat_n("d".repeat(250), 15).collect();
            fs::create_dir_all(tree.join(&deep)).unwrap();
            for n in 0..5000 {
                fs::write(tree.join(&deep).join(format!("{n}")), "").unwrap();
            }
        });
        assert!(error.contains("bytes of names"), "{error}");
        archive(world, "bad.tar", |_| {});
        let whole = fs::read(world.path("bad.tar")).unwrap();
        fs::write(world.path("cut.tar"), &whole[..whole.len() / 2]).unwrap();
        fs::write(world.path("text.tar"), "x".repeat(1024)).unwrap();
        for name in ["cut.tar", "text.tar"] {
            world
                .store
                .import(&ImageSource::archive(world.path(name)))
                .unwrap_err();
        }
    });
}
