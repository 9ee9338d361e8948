//! Three layers that two containers share: what one writes the other does not see, and becomes a fourth layer.
//!
//! Needs `CAP_SYS_ADMIN`: root, or root of a user namespace, which is what `cargo run` gives an ordinary user. All of it is in a
//! directory below the temporary one, which is removed at the end; no mount is attached anywhere.
#![allow(clippy::print_stdout, reason = "this is what it is for")]

#[path = "common/layers.rs"]
mod common;

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Instant;

use cofferdam::overlay::{ChangeKind, Diff, ErrorKind, Overlay, OverlayMount};

use common::{Result, World, at, mounts, names, nothing_left, same};

fn main() -> Result<()> {
    let mounts = mounts()?;
    let world = World::new("overlay")?;
    let support = Overlay::probe();
    println!("overlayfs by fds: {}, {support:?}", support.native);

    let layers = layers(&world)?;
    let (upper, work) = (world.directory("upper")?, world.directory("work")?);
    let kept = Overlay::builder(&layers).upperdir(&upper, &work);
    let one = mounted("one, which keeps what it writes", &kept)?;
    let two = mounted("two, which does not", &Overlay::builder(&layers).scratch())?;
    copy_on_write(&one, &two)?;
    hide(&one, &two)?;
    in_use(&kept)?;

    let diff = Diff::of(&upper).lower(&layers);
    let fourth = commit(&diff, &world)?;
    drop(one);
    let stack: Vec<_> = [fourth].into_iter().chain(layers).collect();
    look(&Overlay::builder(&stack), &two)?;

    drop(two);
    drop(world);
    nothing_left(&mounts)
}

/// The top one first.
fn layers(world: &World) -> Result<[PathBuf; 3]> {
    for (path, text) in [
        ("base/etc/motd", "base"),
        ("base/cache/old", "1"),
        ("base/cache/older", "2"),
        ("base/bin/tool", "version 1"),
        ("runtime/bin/tool", "version 2"),
        ("app/bin/app", "serve"),
    ] {
        let path = world.0.join(path);
        fs::create_dir_all(path.parent().ok_or("no parent")?)?;
        fs::write(path, text)?;
    }
    Ok(["app", "runtime", "base"].map(|name| world.0.join(name)))
}

fn mounted(who: &str, overlay: &Overlay) -> Result<OverlayMount> {
    let start = Instant::now();
    let mount = overlay.detached()?;
    let took = start.elapsed();
    let effective = mount.effective()?;
    println!(
        "{who}: {} layers by {} in {took:.1?}, volatile: {}",
        effective.layers,
        mount.applied(),
        effective.volatile
    );
    same("layers", &effective.layers, &3)?;
    Ok(mount)
}

fn copy_on_write(one: &OverlayMount, two: &OverlayMount) -> Result<()> {
    fs::write(at(one, "etc/motd"), "written in one")?;
    let (in_one, in_two) = (read(one, "etc/motd")?, read(two, "etc/motd")?);
    println!("/etc/motd in one: {in_one:?}, in two: {in_two:?}");
    same("/etc/motd in one", &in_one.as_str(), &"written in one")?;
    same("/etc/motd in two", &in_two.as_str(), &"base")?;
    same("/bin/tool", &read(one, "bin/tool")?.as_str(), &"version 2")
}

/// A file that is removed, and a directory that is removed and made again.
fn hide(one: &OverlayMount, two: &OverlayMount) -> Result<()> {
    fs::remove_file(at(one, "bin/app"))?;
    fs::remove_dir_all(at(one, "cache"))?;
    fs::create_dir(at(one, "cache"))?;
    fs::write(at(one, "cache/new"), "3")?;
    println!(
        "/cache in one: {:?}, in two: {:?}",
        names(&at(one, "cache"))?,
        names(&at(two, "cache"))?
    );
    same(
        "/cache in one",
        &names(&at(one, "cache"))?,
        &vec!["new".to_owned()],
    )?;
    same("/cache in two", &names(&at(two, "cache"))?.len(), &2)?;
    same("/bin/app in one", &at(one, "bin/app").exists(), &false)?;
    same("/bin/app in two", &at(two, "bin/app").exists(), &true)
}

/// An upper belongs to one mount at a time.
fn in_use(overlay: &Overlay) -> Result<()> {
    match overlay.detached() {
        Err(error) if error.kind() == ErrorKind::Busy => {
            println!("refused, the upper a second time: {error}");
            Ok(())
        }
        Err(error) => Err(error.into()),
        Ok(_) => Err("an upper was mounted twice".into()),
    }
}

fn commit(diff: &Diff, world: &World) -> Result<PathBuf> {
    let mut changes = 0;
    for change in diff.changes()? {
        let change = change?;
        let sign = match change.kind {
            ChangeKind::Added => 'A',
            ChangeKind::Modified => 'C',
            ChangeKind::Deleted => 'D',
        };
        println!("  {sign} /{}", change.path.display());
        changes += 1;
    }
    let written = diff.write_tar(io::sink())?;
    println!(
        "as a layer: {changes} changes, {} bytes, {}",
        written.size, written.diff_id
    );
    let fourth = world.directory("fourth")?;
    diff.commit(&fourth)?;
    Ok(fourth)
}

/// The new stack shows what one wrote; two still does not.
fn look(stack: &Overlay, two: &OverlayMount) -> Result<()> {
    let view = stack.detached()?;
    let refused = fs::write(at(&view, "etc/motd"), "").err();
    println!(
        "a view of four layers: /etc/motd {:?}, /cache {:?}, writing to it: {}",
        read(&view, "etc/motd")?,
        names(&at(&view, "cache"))?,
        refused.map_or_else(|| "done".to_owned(), |error| error.to_string())
    );
    same(
        "/etc/motd in the view",
        &read(&view, "etc/motd")?.as_str(),
        &"written in one",
    )?;
    same(
        "/cache in the view",
        &names(&at(&view, "cache"))?,
        &vec!["new".to_owned()],
    )?;
    same(
        "/bin/app in the view",
        &at(&view, "bin/app").exists(),
        &false,
    )?;
    same(
        "/etc/motd in two",
        &read(two, "etc/motd")?.as_str(),
        &"base",
    )
}

fn read(mount: &OverlayMount, path: &str) -> Result<String> {
    Ok(fs::read_to_string(at(mount, path))?)
}
