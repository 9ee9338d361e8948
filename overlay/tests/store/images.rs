//! Images that come and go.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use cofferdam_overlay::{
    Compress, Diff, Digest, ErrorKind, Expected, History, Image, ImageConfig, ImageSource,
    LayerStore, Platform,
};

use crate::world::{World, in_world, tar};

/// An image of two layers, the upper one committed.
fn image(world: &World) -> Image {
    let base = tar(&world.base, &[("a", "base"), ("d/b", "base")]);
    let base = world
        .store
        .apply(None, &base[..], Expected::default())
        .unwrap();
    let upper = world.upper(&base, |root| {
        fs::remove_file(root.join("a")).unwrap();
        fs::write(root.join("new"), "new").unwrap();
    });
    let top = world.store.commit(Some(&base), upper).unwrap();
    world.store.image(Some(&top), &config()).unwrap()
}

fn config() -> ImageConfig {
    let mut config = ImageConfig::default();
    config.env = vec!["PATH=/bin".to_owned()];
    config.entrypoint = vec!["/bin/sh".to_owned(), "-c".to_owned()];
    config.command = vec!["true".to_owned()];
    config.working_dir = Some("/d".to_owned());
    config.user = Some("1:2".to_owned());
    config.labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    let mut empty = History::by("ENV");
    empty.empty_layer = true;
    config.history = vec![History::by("base"), empty, History::by("work")];
    config
}

/// The config without what is only kept.
fn told(config: &ImageConfig) -> String {
    let run = (
        &config.env,
        &config.entrypoint,
        &config.command,
        &config.working_dir,
    );
    format!(
        "{run:?} {:?} {:?} {:?} {:?}",
        config.user, config.labels, config.platform, config.history
    )
}

#[test]
fn an_image_comes_back_as_it_was_exported() {
    in_world(|world| {
        let image = image(world);
        for (name, compress) in [("plain", Compress::None), ("gzip", Compress::Gzip(1))] {
            let layout = world.path(name);
            let manifest = image.export(&layout, "app:1", compress).unwrap();
            let other = LayerStore::open(world.path(&format!("{name}-store"))).unwrap();
            let source = ImageSource::layout(&layout).reference("app:1");
            let imported = other.import(&source).unwrap();
            assert_eq!(told(imported.config()), told(&config()));
            let layer = imported.layer().unwrap();
            assert_eq!(world.read(layer, "new").as_deref(), Some("new"));
            assert_eq!(world.read(layer, "a"), None);
            assert_eq!(world.read(layer, "d/b").as_deref(), Some("base"));
            assert_eq!(other.check().unwrap(), []);

            let again = world.path(&format!("{name}-again"));
            assert_eq!(
                imported.export(&again, "app:1", compress).unwrap(),
                manifest
            );
            let error = image.export(&again, "app:1", compress).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AlreadyExists);
            let unnamed = other.import(&ImageSource::layout(&again)).unwrap();
            assert_eq!(unnamed.id(), imported.id());
            let wrong = ImageSource::layout(&again).reference("app:2");
            assert_eq!(
                other.import(&wrong).unwrap_err().kind(),
                ErrorKind::NotFound
            );
        }
    });
}

#[test]
fn an_image_is_kept_by_a_name_and_collected_without() {
    in_world(|world| {
        let image = image(world);
        let (id, directories) = (image.id(), image.directories());
        image.persist("app").unwrap();
        assert_eq!(world.store.collect().unwrap().layers, []);
        let image = world.store.kept_image("app").unwrap();
        assert_eq!((image.id(), image.directories()), (id, directories));
        assert_eq!(told(image.config()), told(&config()));
        world.store.forget("app").unwrap();
        assert_eq!(world.store.collect().unwrap().images, []);
        image.release().unwrap();
        let collected = world.store.collect().unwrap();
        assert_eq!((collected.images, collected.layers.len()), (vec![id], 2));
    });
}

/// Writes what docker save writes, of one layer, after `change` to its files.
pub(crate) fn archive(world: &World, name: &str, change: impl FnOnce(&Path)) -> Digest {
    let layer = tar(&world.base, &[("file", "content")]);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":["/file"],"Odd":1}},
        "rootfs":{{"type":"layers","diff_ids":["{}"]}},"odd":[true]}}"#,
        Digest::of(&layer)
    );
    let id = Digest::of(&config);
    let tree = world.path("archive");
    fs::create_dir_all(tree.join("x")).unwrap();
    fs::write(tree.join(format!("{}.json", id.hex())), config).unwrap();
    fs::write(tree.join("x/layer.tar"), layer).unwrap();
    std::os::unix::fs::symlink("../x/layer.tar", tree.join("x/link.tar")).unwrap();
    let manifest = format!(
        r#"[{{"Config":"{}.json","RepoTags":["a:1","b:1"],"Layers":["x/link.tar"]}}]"#,
        id.hex()
    );
    fs::write(tree.join("manifest.json"), manifest).unwrap();
    change(&tree);
    let mut file = fs::File::create(world.path(name)).unwrap();
    Diff::of(&tree).write_tar(&mut file).unwrap();
    fs::remove_dir_all(tree).unwrap();
    id
}

#[test]
fn an_archive_of_docker_is_imported_as_it_is() {
    in_world(|world| {
        let id = archive(world, "image.tar", |_| {});
        let source = ImageSource::archive(world.path("image.tar"));
        for source in [source.clone(), source.clone().reference("b:1")] {
            let image = world.store.import(&source).unwrap();
            assert_eq!(image.id(), id);
            assert_eq!(image.config().command, ["/file"]);
            assert_eq!(
                world.read(image.layer().unwrap(), "file").as_deref(),
                Some("content")
            );
        }
        let error = world.store.import(&source.reference("c:1")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    });
}

#[test]
fn what_is_not_known_of_a_config_is_exported_too() {
    in_world(|world| {
        archive(world, "image.tar", |_| {});
        let source = ImageSource::archive(world.path("image.tar"));
        let image = world.store.import(&source).unwrap();
        image
            .export(world.path("layout"), "a", Compress::None)
            .unwrap();
        let blobs = fs::read_dir(world.path("layout/blobs/sha256")).unwrap();
        let odd = blobs.filter(|blob| {
            let bytes = fs::read(blob.as_ref().unwrap().path()).unwrap();
            let text = String::from_utf8_lossy(&bytes);
            text.contains(r#""odd":[true]"#) && text.contains(r#""Odd":1"#)
        });
        assert_eq!(odd.count(), 1);
    });
}

#[test]
fn of_images_for_several_platforms_the_right_one_is_taken() {
    in_world(|world| {
        let image = image(world);
        let layout = world.path("layout");
        image.export(&layout, "app", Compress::None).unwrap();
        let index = fs::read_to_string(layout.join("index.json")).unwrap();
        let mut index: serde_json::Value = serde_json::from_str(&index).unwrap();
        let ours = index["manifests"][0].clone();
        let for_platform = |name: &str| {
            let mut descriptor = ours.clone();
            descriptor["platform"] = serde_json::json!({"os": "linux", "architecture": name});
            if name != "s390x" {
                descriptor["digest"] = Digest::of("gone").to_string().into();
            }
            descriptor
        };
        let list = ["mips", "s390x"].map(for_platform);
        let inner = serde_json::json!({"schemaVersion": 2, "manifests": list}).to_string();
        let (digest, size) = (Digest::of(&inner), inner.len());
        fs::write(layout.join("blobs/sha256").join(digest.hex()), &inner).unwrap();
        index["manifests"] = serde_json::json!([{"digest": digest.to_string(), "size": size}]);
        fs::write(layout.join("index.json"), index.to_string()).unwrap();

        let source = ImageSource::layout(&layout);
        let import = |name: &str| {
            let source = source.clone().platform(Platform::linux(name));
            world.store.import(&source)
        };
        let imported = import("s390x").unwrap();
        assert_eq!(imported.directories(), image.directories());
        assert_eq!(import("arm64").unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(import("mips").unwrap_err().kind(), ErrorKind::NotFound);
    });
}
