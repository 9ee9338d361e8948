//! The others, with all they write below one directory.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::archive::{Archive, tmpfs};
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

/// A daemon of containerd, which ends with the value.
pub(crate) struct Containerd<'a> {
    world: &'a World,
    daemon: Child,
}

impl<'a> Containerd<'a> {
    /// Starts one that keeps all it has in the world, and waits until it answers.
    pub(crate) fn start(world: &'a World) -> Self {
        let config = world.path("containerd.toml");
        let place = |name: &str| world.path(name).display().to_string();
        let text = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \
             \"io.containerd.internal.v1.opt\"]\n[grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            place("containerd"),
            place("containerd-run"),
            place("socket"),
            place("ttrpc"),
        );
        fs::write(&config, text).unwrap();
        let log = fs::File::create(world.path("containerd.log")).unwrap();
        let daemon = Command::new("containerd")
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let containerd = Containerd { world, daemon };
        let start = Instant::now();
        while containerd.run(&["version"]).is_err() {
            let log = || fs::read_to_string(world.path("containerd.log"));
            assert!(start.elapsed() < Duration::from_secs(30), "{:?}", log());
            thread::sleep(Duration::from_millis(10));
        }
        containerd
    }

    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let socket = self.world.path("socket");
        let own = ["--address", socket.to_str().unwrap()];
        run("ctr", &[&own, arguments].concat(), self.world)
    }

    /// Has `work` look at the root directory of the image in `layout`, as its overlayfs snapshotter mounts it. Each has a
    /// `name` of its own.
    pub(crate) fn view<T>(
        &self,
        layout: &Path,
        name: &str,
        work: impl FnOnce(&Path) -> T,
    ) -> Result<T, String> {
        let archive = self.world.path("containerd.tar");
        fs::write(&archive, archived(layout)).unwrap();
        let archive = archive.to_str().unwrap();
        let import = [
            "images",
            "import",
            "--no-unpack",
            "--base-name",
            name,
            archive,
        ];
        self.run(&import)?;
        let (image, target) = (format!("{name}:latest"), self.world.directory("mounted"));
        let target = target.to_str().unwrap();
        self.run(&[
            "images",
            "mount",
            "--snapshotter",
            "overlayfs",
            &image,
            target,
        ])?;
        let seen = work(Path::new(target));
        self.run(&[
            "images",
            "unmount",
            "--rm",
            "--snapshotter",
            "overlayfs",
            target,
        ])?;
        Ok(seen)
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }
}

/// A layout as one file.
fn archived(layout: &Path) -> Vec<u8> {
    let mut archive = Archive::new();
    for name in ["oci-layout", "index.json"] {
        archive = archive.file(name, fs::read(layout.join(name)).unwrap());
    }
    for blob in fs::read_dir(layout.join("blobs/sha256")).unwrap() {
        let blob = blob.unwrap();
        let name = format!("blobs/sha256/{}", blob.file_name().to_str().unwrap());
        archive = archive.file(name, fs::read(blob.path()).unwrap());
    }
    archive.end()
}
