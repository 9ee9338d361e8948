//! The example of images, between images that others wrote and others that read its own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cofferdam_testkit::{Need, have, in_mount_namespace};
use rustix::mount::{MountFlags, mount};

/// What it prints.
fn run(program: impl AsRef<OsStr>, arguments: &[&str], directory: &Path) -> String {
    let output = Command::new(&program)
        .args(arguments)
        .current_dir(directory)
        .env("TMPDIR", directory)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {said}", program.as_ref());
    String::from_utf8(output.stdout).unwrap()
}

/// Where cargo builds it, beside the directory of this test.
fn example() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join("examples/image");
    let why = "cargo builds it with all tests, or by `cargo build --example image`";
    assert!(path.exists(), "{}: {why}", path.display());
    path
}

#[test]
fn an_image_goes_to_others_and_back() {
    let needs = [Need::Program("skopeo"), Need::Program("umoci")];
    if !have(&[&[Need::Root, Need::Filesystem("overlay")], &needs[..]].concat()) {
        return;
    }
    in_mount_namespace(|| {
        let world = std::env::temp_dir();
        // Skopeo keeps notes of what it copies in the second.
        for directory in [&*world, Path::new("/var/lib")] {
            // Unoptimised, the example is 130 MB, and there are several copies of it at a time.
            let options = c"size=4g,mode=0755";
            mount("tmpfs", directory, "tmpfs", MountFlags::empty(), options).unwrap();
        }
        let program = example();
        let said = run(&program, &["-", "first"], &world);
        assert!(said.contains("left behind: 0 mounts"), "{said}");
        read_by_umoci(&world, "first", "changed");
        copied_by_skopeo(&world, "first", "second");

        // Written by umoci, with a layer of its own.
        run("umoci", &["unpack", "--image", "second", "bundle"], &world);
        fs::write(world.join("bundle/rootfs/by umoci"), "").unwrap();
        run("umoci", &["repack", "--image", "second", "bundle"], &world);
        let said = run(&program, &["second", "third"], &world);
        assert!(said.contains("by umoci"), "{said}");
        read_by_umoci(&world, "third", "by umoci");
        copied_by_skopeo(&world, "third", "fourth");
        let left = fs::read_dir(&world).unwrap();
        let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["bundle", "first", "fourth", "second", "third"]);
    });
}

fn read_by_umoci(world: &Path, image: &str, file: &str) {
    run("umoci", &["raw", "unpack", "--image", image, "root"], world);
    let root = world.join("root");
    assert!(root.join(file).is_file());
    assert!(root.join("image").is_file());
    let mut names = fs::read_dir(root.join("replaced")).unwrap();
    assert_eq!(names.next().unwrap().unwrap().file_name(), "new");
    assert!(names.next().is_none());
    fs::remove_dir_all(root).unwrap();
}

/// All digests and sizes are compared as it copies.
fn copied_by_skopeo(world: &Path, image: &str, target: &str) {
    let (image, policy) = (format!("oci:{image}:latest"), "--insecure-policy");
    let said = run("skopeo", &["inspect", &image], world);
    assert!(said.contains("\"Os\": \"linux\""), "{said}");
    run("skopeo", &["copy", policy, &image, "dir:copy"], world);
    assert!(world.join("copy/manifest.json").is_file());
    fs::remove_dir_all(world.join("copy")).unwrap();
    let target = format!("oci:{target}:latest");
    run("skopeo", &["copy", policy, &image, &target], world);
}
