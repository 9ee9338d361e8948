//! An image of layers: imported, run, changed by what runs in it, and written again with the change as a layer on top.
//!
//! `image [LAYOUT [TARGET]]`: `LAYOUT` is a directory in OCI image layout with one image, such as `skopeo copy docker://debian
//! oci:LAYOUT:latest` or umoci writes; without it, or for `-`, a small one is made of this very program. Where the image has a
//! `/bin/sh` that runs, else what the image's config says. `TARGET` gets the changed image as another layout; without it that
//! one is removed like all else.
//!
//! Needs `CAP_SYS_ADMIN`: root, or root of a user namespace, which is what `cargo run` gives an ordinary user. All of it is in a
//! directory below the temporary one, which is removed at the end; no mount is attached outside of the container.
#![allow(clippy::print_stdout, reason = "this is what it is for")]

#[path = "common/layers.rs"]
mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use cofferdam::namespaces::{Command, RootFs, Stdio};
use cofferdam::overlay::{
    Compress, Diff, History, Image, ImageConfig, ImageSource, LayerRef, LayerStore, Overlay,
};

use common::{Result, World, at, mounts, names, nothing_left, same};

const SCRIPT: &str = "echo changed > /changed; rm -rf /replaced; mkdir /replaced; echo inside > /replaced/new; \
     grep PRETTY /etc/os-release; echo \"inside: $(ls /)\"";

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if arguments
        .first()
        .is_some_and(|first| first == Path::new("inside"))
    {
        return inside();
    }
    let given = arguments.first().filter(|path| *path != Path::new("-"));
    let mounts = mounts()?;
    let world = World::new("image")?;
    let layout = match given {
        Some(layout) => layout.clone(),
        None => made(&world)?,
    };
    let target = arguments.get(1).cloned();
    let target = target.unwrap_or_else(|| world.0.join("changed"));

    let store = LayerStore::open(world.directory("store")?)?;
    let image = imported(&store, &layout)?;
    let upper = run(&world, &image)?;
    let changed = committed(&store, &image, &upper)?;
    exported(&world, &changed, &target)?;

    drop((image, changed));
    let collected = store.collect()?;
    println!(
        "nothing holds them: {} layers collected",
        collected.layers.len()
    );
    drop(world);
    nothing_left(&mounts)
}

/// What a container does where there is no shell.
fn inside() -> Result<()> {
    fs::write("/changed", "changed\n")?;
    fs::remove_dir_all("/replaced")?;
    fs::create_dir("/replaced")?;
    fs::write("/replaced/new", "inside\n")?;
    println!("inside: {:?}", names(Path::new("/"))?);
    Ok(())
}

fn imported(store: &LayerStore, layout: &Path) -> Result<Image> {
    let start = Instant::now();
    let image = store.import(&ImageSource::layout(layout))?;
    let took = start.elapsed();
    println!("imported {} in {took:.1?}", image.id());
    for directory in image.directories() {
        println!("  {}", directory.display());
    }
    let again = store.import(&ImageSource::layout(layout))?;
    println!(
        "again: the same layers, {}",
        again.directories() == image.directories()
    );
    Ok(image)
}

/// Runs a container on the image, and returns where its writes are.
fn run(world: &World, image: &Image) -> Result<PathBuf> {
    let (upper, work) = (world.directory("upper")?, world.directory("work")?);
    let overlay = Overlay::builder(image.directories()).upperdir(&upper, &work);
    let mount = overlay.detached()?;
    let config = image.config();
    let mut run = config.entrypoint.iter().chain(&config.command);
    let has_shell = at(&mount, "bin/sh").exists();
    let command = if has_shell {
        Command::new("/bin/sh").args(["-c", SCRIPT])
    } else {
        let program = run
            .next()
            .ok_or("the image has no /bin/sh, and says not what to run")?;
        Command::new(program).args(run)
    };
    let mut command = command
        .root(RootFs::mount(mount.into_fd()))
        .stdout(Stdio::piped());
    for variable in &config.env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        command = command.env(name, value);
    }
    let start = Instant::now();
    let output = command.spawn()?.output()?;
    print!("{}", String::from_utf8_lossy(&output.stdout));
    println!("it ran for {:.1?}: {}", start.elapsed(), output.status);
    same("its end", &output.status.success(), &true)?;
    Ok(upper)
}

fn committed(store: &LayerStore, image: &Image, upper: &Path) -> Result<Image> {
    let diff = Diff::of(upper).lower(image.directories());
    for change in diff.changes()? {
        let change = change?;
        println!("  {:?} /{}", change.kind, change.path.display());
    }
    let top = store.commit(image.layer(), upper)?;
    println!("committed as {}", top.diff_id());
    let mut config = image.config().clone();
    config.history.push(History::by("a container"));
    Ok(store.image(Some(&top), &config)?)
}

/// Into `target`, and from there into another store.
fn exported(world: &World, image: &Image, target: &Path) -> Result<()> {
    let manifest = image.export(target, "latest", Compress::Gzip(6))?;
    println!("exported to {}: {manifest}", target.display());
    let store = LayerStore::open(world.directory("another store")?)?;
    let image = store.import(&ImageSource::layout(target))?;
    let layer = image.layer().ok_or("no layers")?;
    let mount = Overlay::builder(layer.directories()).detached()?;
    let changed = fs::read_to_string(at(&mount, "changed"))?;
    let replaced = names(&at(&mount, "replaced"))?;
    println!("read back: /changed {changed:?}, /replaced {replaced:?}");
    same("/changed", &changed.as_str(), &"changed\n")?;
    same("/replaced", &replaced, &vec!["new".to_owned()])
}

/// An image of this program, with the libraries it is linked with, in a layer, and some files in another.
fn made(world: &World) -> Result<PathBuf> {
    let store = LayerStore::open(world.directory("the maker's store")?)?;
    let tree = world.directory("base")?;
    for directory in ["dev", "proc", "sys", "tmp"] {
        fs::create_dir(tree.join(directory))?;
    }
    let program = std::env::current_exe()?;
    for file in linked(&program)? {
        put(&tree, &file, &file)?;
    }
    put(&tree, &program, Path::new("/image"))?;
    let base = store.commit_moving(None, &tree)?;
    let top = second(world, &store, &base)?;
    let mut config = ImageConfig::default();
    config.entrypoint = vec!["/image".to_owned()];
    config.command = vec!["inside".to_owned()];
    config.env = vec!["PATH=/".to_owned()];
    config.history = ["the program", "some files"].map(History::by).into();
    let layout = world.0.join("layout");
    let image = store.image(Some(&top), &config)?;
    let manifest = image.export(&layout, "latest", Compress::None)?;
    println!("made an image of this program: {manifest}");
    Ok(layout)
}

fn second(world: &World, store: &LayerStore, base: &LayerRef) -> Result<LayerRef> {
    let tree = world.directory("second")?;
    fs::create_dir(tree.join("replaced"))?;
    fs::write(tree.join("replaced/old"), "old\n")?;
    Ok(store.commit_moving(Some(base), &tree)?)
}

fn put(tree: &Path, file: &Path, name: &Path) -> Result<()> {
    let target = tree.join(name.strip_prefix("/")?);
    fs::create_dir_all(target.parent().ok_or("no parent")?)?;
    fs::copy(file, target)?;
    Ok(())
}

/// The files mapped into this process, and its ELF interpreter by the name that the kernel looks for.
fn linked(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let mapped = maps
        .lines()
        .filter_map(|line| line.find('/').map(|at| &line[at..]));
    let mut files: BTreeSet<_> = mapped.map(PathBuf::from).collect();
    files.remove(program);
    files.extend(interpreter(&fs::read(program)?));
    Ok(files)
}

/// None of a static program.
fn interpreter(elf: &[u8]) -> Option<PathBuf> {
    const PT_INTERP: u64 = 3;
    let number = |at: usize, size: usize| {
        let bytes = elf.get(at..at + size)?;
        let digits = bytes.iter().rev().map(|byte| u64::from(*byte));
        Some(digits.fold(0, |number, byte| number << 8 | byte))
    };
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    let mut headers = (0..count).filter_map(|n| usize::try_from(table + n * size).ok());
    let header = headers.find(|at| number(*at, 4) == Some(PT_INTERP))?;
    let start = usize::try_from(number(header + 8, 8)?).ok()?;
    let end = start + usize::try_from(number(header + 32, 8)?).ok()?;
    let name = elf.get(start..end)?.strip_suffix(&[0])?;
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(name)))
}
