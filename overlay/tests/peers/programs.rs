//! The others, with all they write below one directory.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::archive::tmpfs;
use crate::world::World;

/// What it prints.
///
/// # Errors
/// What it says where it fails.
pub(crate) fn run(
    program: &str,
    arguments: &[impl AsRef<OsStr>],
    world: &World,
) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(world.path(""))
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", world.directory("home"))
        .env("TMPDIR", world.directory("temporary"))
        .output()
        .unwrap();
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {}", said.trim()))
}

/// The name of an image in a layout, as all of them write it.
pub(crate) fn named(layout: &Path) -> String {
    format!("{}:latest", layout.display())
}

/// Unpacks the image of `layout` by umoci, and returns the root directory.
pub(crate) fn umoci(world: &World, layout: &Path, name: &str) -> Result<PathBuf, String> {
    let target = world.path(name);
    let image = named(layout);
    let arguments = [
        OsStr::new("raw"),
        "unpack".as_ref(),
        "--image".as_ref(),
        image.as_ref(),
        target.as_ref(),
    ];
    run("umoci", &arguments, world).map(|_printed| target)
}

/// Has what skopeo and buildah note of all images, wherever their stores are, end with the test's mount namespace.
pub(crate) fn forget_notes() {
    for directory in ["/var/lib", "/run"] {
        tmpfs(Path::new(directory), "size=16m,mode=0755");
    }
}

/// A store of containers/storage.
pub(crate) struct Buildah<'a> {
    world: &'a World,
    driver: &'static str,
}

impl<'a> Buildah<'a> {
    pub(crate) fn new(world: &'a World, driver: &'static str) -> Self {
        let policy = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
        fs::write(world.path("policy"), policy).unwrap();
        Buildah { world, driver }
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let (root, run_root) = (self.world.path("buildah"), self.world.path("buildah-run"));
        let own = [
            "--root",
            root.to_str().unwrap(),
            "--runroot",
            run_root.to_str().unwrap(),
            "--storage-driver",
            self.driver,
        ];
        run("buildah", &[&own, arguments].concat(), self.world)
    }

    /// Has `work` look at the root directory of a container of the image in `layout`.
    pub(crate) fn view<T>(
        &self,
        layout: &Path,
        work: impl FnOnce(&Path) -> T,
    ) -> Result<T, String> {
        let image = format!("oci:{}", named(layout));
        let policy = self.world.path("policy");
        let policy = policy.to_str().unwrap();
        let container = self.run(&["from", "--signature-policy", policy, &image])?;
        let root = self.run(&["mount", &container])?;
        let seen = work(Path::new(&root));
        self.run(&["umount", &container])?;
        self.run(&["rm", &container])?;
        self.run(&["rmi", "--all", "--force"])?;
        Ok(seen)
    }
}
