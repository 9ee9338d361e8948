//! A named volume that two containers share and that outlives them, a secret, and memory that is full.
//!
//! Needs root. All of it is in a directory below the temporary one, which is removed at the end; the containers have the machine's
//! own programs, mounted read-only.
#![allow(clippy::print_stdout, reason = "this is what it is for")]

use std::error::Error;
use std::fs;
use std::path::Path;

use cofferdam::{Container, ContainerBuilder, Rootfs, Secret, Stdio, User, Volume, Volumes};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let world = std::env::temp_dir().join(format!("cofferdam-volumes-{}", std::process::id()));
    fs::create_dir(&world)?;
    let before = mounts()?;
    let shown = show(&world);
    fs::remove_dir_all(&world)?;
    shown?;
    let left = mounts()?.saturating_sub(before);
    println!("left behind: {left} mounts");
    same("mounts left behind", left, 0)
}

fn show(world: &Path) -> Result<()> {
    let data = world.join("layer/data");
    fs::create_dir_all(&data)?;
    fs::write(data.join("from the layer"), "")?;
    let volumes = Volumes::open(world.join("volumes"))?;
    let volume = volumes.volume("data")?;

    // The first container makes it, and fills it with what its root has there.
    let writer =
        container(world, "writer", "echo kept > /data/file; read line").volume(&volume, "/data");
    let mut writer = writer.stdin(Stdio::piped()).start()?;
    let reader = || {
        container(
            world,
            "reader",
            "until [ -s /data/file ]; do :; done; ls /data; cat /data/file",
        )
    };
    let shared = said(reader().volume(&volume, "/data"))?;
    println!("while another writes: {shared:?}");
    same(
        "what is shared",
        shared.as_str(),
        "file\nfrom the layer\nkept\n",
    )?;
    let busy = volumes.remove("data").err().ok_or("removed while in use")?;
    println!("{busy}");
    drop(writer.take_stdin());
    writer.wait()?;
    writer.remove()?;
    let later = said(reader().volume(volume.read_only(), "/data"))?;
    same("what is there later", later, shared)?;
    volumes.remove("data")?;
    println!("volumes: {:?}", volumes.names()?);

    let secret = Secret::new("password", "hunter2");
    let show = || container(world, "app", "cat /run/secrets/password 2>&1").secret(secret.clone());
    let (root, user) = (said(show())?, said(show().user(User::id(1000, 1000)))?);
    println!("a secret, for root {root:?}, for others {user:?}");
    same("the secret", root.as_str(), "hunter2")?;
    same("whether others have it", user.contains("hunter2"), false)?;

    let fill = "head -c 1000000 /dev/zero > /small/file; wc -c < /small/file";
    let small = container(world, "small", fill).volume(Volume::tmpfs(64 << 10), "/small");
    let bytes = said(small)?;
    println!("of 1000000 bytes in 64 KiB of memory: {}", bytes.trim());
    same("what fits", bytes.trim(), "65536")
}

/// A container on a root of a few directories, with the machine's own programs as volumes.
fn container(world: &Path, name: &str, script: &str) -> ContainerBuilder {
    let programs = ["/usr", "/bin", "/lib", "/lib64"].into_iter();
    let builder = Container::builder()
        .name(name)
        .rootfs(Rootfs::layers([world.join("layer")]))
        .command("/bin/sh")
        .args(["-c", script])
        .stdout(Stdio::piped());
    let there = programs.filter(|path| Path::new(path).exists());
    there.fold(builder, |builder, path| {
        builder.volume(Volume::bind(path).read_only(), path)
    })
}

fn said(builder: ContainerBuilder) -> Result<String> {
    Ok(String::from_utf8(builder.start()?.output()?.stdout)?)
}

fn mounts() -> Result<usize> {
    Ok(fs::read_to_string("/proc/self/mountinfo")?.lines().count())
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(format!("{what}: {found:?}, not {expected:?}").into())
}
