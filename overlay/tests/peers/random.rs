//! Containers that do anything to their files, layer upon layer: what the last one sees is what others unpack.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use cofferdam_overlay::{
    Compress, ErrorKind, Expected, ImageConfig, ImageSource, LayerRef, LayerStore,
};
use cofferdam_testkit::Need;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, lsetxattr, mknodat, utimensat,
};

use crate::archive::{Archive, Header};
use crate::layout;
use crate::programs::umoci;
use crate::tree::{Tree, same, tree};
use crate::world::{World, in_world, view};

/// Of each kind; seeds are told where they fail.
const ROUNDS: u64 = 30;

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    /// Few names, so that the same is met again and again.
    fn path(&mut self) -> PathBuf {
        let depth = 1 + self.below(4);
        (0..depth).map(|_| self.one(&["a", "b", "c"])).collect()
    }
}

/// Does one thing to the tree at `root`. What cannot be done is not.
fn act(root: &Path, random: &mut Random) -> std::io::Result<()> {
    let (path, other) = (root.join(random.path()), root.join(random.path()));
    // To open a fifo is to wait.
    let fifo = fs::metadata(&path).is_ok_and(|found| found.file_type().is_fifo());
    match random.below(16) {
        2 | 3 | 10 if fifo => Ok(()),
        0 | 1 => fs::create_dir_all(&path),
        2 | 3 => fs::write(&path, vec![b'x'; random.below(9000)]),
        4 if path.is_dir() => fs::remove_dir_all(&path),
        4 | 5 => fs::remove_file(&path),
        6 if path.is_dir() => {
            fs::remove_dir_all(&path)?;
            fs::create_dir(&path)?;
            fs::write(path.join(random.one(&["a", "b", "c"])), "anew")
        }
        6 => fs::create_dir(&path),
        7 => fs::rename(&path, &other),
        8 => fs::hard_link(&path, &other),
        9 => symlink(random.path(), &path),
        10 => fs::OpenOptions::new().append(true).open(&path).map(drop),
        11 => {
            fs::symlink_metadata(&path)?;
            let owner = Some(random.below(3) as u32);
            lchown(&path, owner, Some(4_000_000))
        }
        12 if path.is_symlink() => Ok(()),
        12 => fs::set_permissions(
            &path,
            fs::Permissions::from_mode(random.below(0o10000) as u32),
        ),
        13 => {
            let key = random.one(&["user.a", "trusted.b", "trusted.overlay.opaque"]);
            let value = [b'y'; 3];
            Ok(lsetxattr(&path, key, &value, XattrFlags::empty())?)
        }
        14 => {
            let time = Timespec {
                tv_sec: random.below(1 << 33) as i64,
                tv_nsec: random.below(1_000_000_000) as i64,
            };
            let times = Timestamps {
                last_access: time,
                last_modification: time,
            };
            Ok(utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
        }
        _ => Ok(mknodat(
            CWD,
            &path,
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )?),
    }
}

/// A container's changes as a layer, which shows what the container saw.
fn lived(
    world: &World,
    store: &LayerStore,
    below: Option<&LayerRef>,
    random: &mut Random,
) -> LayerRef {
    let mut seen = Tree::new();
    let empty = world.directory("empty");
    let below_directories = below.map_or_else(|| vec![empty], LayerRef::directories);
    let upper = world.upper(&below_directories, |root| {
        let done = (0..60).filter(|_| act(root, random).is_ok()).count();
        assert!(done > 0);
        seen = tree(root);
    });
    let moving = random.below(2) == 0;
    let layer = match moving {
        true => store.commit_moving(below, &upper),
        false => store.commit(below, &upper),
    };
    let layer = layer.unwrap();
    same("the layer, and the container", &view(&layer, tree), &seen);
    for name in ["upper", "work"].map(OsString::from) {
        let path = world.path(&name);
        if path.exists() {
            fs::remove_dir_all(path).unwrap();
        }
    }
    layer
}

fn round(world: &World, seed: u64) {
    eprintln!("seed {seed}");
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let store = world.store("store");
    let mut layer = None;
    for _ in 0..1 + random.below(5) {
        layer = Some(lived(world, &store, layer.as_ref(), &mut random));
    }
    let layer = layer.unwrap();
    let image = store.image(Some(&layer), &ImageConfig::default()).unwrap();
    let layout = world.path("layout");
    image.export(&layout, "latest", Compress::None).unwrap();
    let seen = view(&layer, tree);
    let other = world.store("other");
    let again = other.import(&ImageSource::layout(&layout)).unwrap();
    assert_eq!(again.layer().unwrap().chain_id(), layer.chain_id());
    same(
        "imported, and exported",
        &view(again.layer().unwrap(), tree),
        &seen,
    );
    let theirs = umoci(world, &layout, "theirs").unwrap();
    same("umoci's, and ours", &tree(&theirs), &by_umoci(seen));
    assert_eq!(store.check().unwrap(), []);
    assert_eq!(other.check().unwrap(), []);
    drop((image, layer, again));
    for name in ["store", "other", "layout", "theirs"] {
        fs::remove_dir_all(world.path(name)).unwrap();
    }
}

/// It leaves out xattrs that overlayfs shows by the names of its own.
fn by_umoci(mut ours: Tree) -> Tree {
    for line in ours.values_mut() {
        *line = line.replace(" trusted.overlay.opaque=[121, 121, 121]", "");
    }
    ours
}

#[test]
fn what_containers_did_is_what_others_unpack() {
    in_world(&[Need::Program("umoci")], |world| {
        (1..=ROUNDS).for_each(|seed| round(world, seed));
    });
}

/// Entries of few names, such as umoci and we read alike; the rest is in the table of `Apply`.
fn layer(random: &mut Random) -> Vec<u8> {
    let mut archive = Archive::new();
    for _ in 0..random.below(3) {
        let path = random.path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let mark = path.with_file_name(format!(".wh.{name}"));
        archive = archive.file(mark.to_str().unwrap(), "");
    }
    for _ in 0..1 + random.below(7) {
        let (path, other) = (random.path(), random.path());
        let (name, to) = (path.to_str().unwrap(), other.to_str().unwrap());
        let directory = Header::new(name, b'5').mode(0o700 + random.below(64) as u32);
        archive = match random.below(12) {
            0..=3 => archive.file(name, random.below(100).to_string()),
            4..=8 => archive.add(directory, ""),
            9 => archive.symlink(name, to),
            10 => archive.link(name, to),
            _ => archive
                .add(directory, "")
                .file(format!("{name}/.wh..wh..opq"), ""),
        };
    }
    archive.end()
}

/// Without the times of directories, and without the root.
fn untimed(mut tree: Tree) -> Tree {
    tree.remove(Path::new(""));
    for line in tree.values_mut().filter(|line| line.starts_with('4')) {
        let words = line.split(' ').enumerate();
        let kept: Vec<_> = words
            .filter(|(n, _)| *n != 2)
            .map(|(_, word)| word)
            .collect();
        *line = kept.join(" ");
    }
    tree
}

fn applied(store: &LayerStore, tars: &[Vec<u8>]) -> cofferdam_overlay::Result<LayerRef> {
    let mut below = None;
    for tar in tars {
        below = Some(store.apply(below.as_ref(), &**tar, Expected::default())?);
    }
    Ok(below.unwrap())
}

/// Whether both could read the layers.
fn compared(world: &World, seed: u64) -> bool {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let tars: Vec<_> = (0..2 + random.below(3))
        .map(|_| layer(&mut random))
        .collect();
    let layout = world.path("layout");
    layout::write(&layout, &tars);
    let theirs = umoci(world, &layout, "theirs");
    let store = world.store("store");
    let ours = applied(&store, &tars);
    match (&ours, &theirs) {
        (Ok(ours), Ok(theirs)) => {
            let (ours, theirs) = (untimed(view(ours, tree)), untimed(tree(theirs)));
            same(&format!("seed {seed}: ours, and umoci's"), &ours, &theirs);
        }
        (Err(error), Err(_)) => {
            let kinds = [ErrorKind::Malformed, ErrorKind::UnsafePath];
            assert!(kinds.contains(&error.kind()), "seed {seed}: {error}");
        }
        // A file on the way.
        (Ok(_), Err(said)) => assert!(said.contains("not a directory"), "{seed}: {said}"),
        (Err(error), Ok(_)) => panic!("seed {seed}: {error}"),
    }
    let both = ours.is_ok() && theirs.is_ok();
    drop(ours);
    for name in ["store", "layout", "theirs"].map(|name| world.path(name)) {
        if name.exists() {
            fs::remove_dir_all(name).unwrap();
        }
    }
    both
}

#[test]
fn layers_at_random_are_read_as_umoci_reads_them() {
    in_world(&[Need::Program("umoci")], |world| {
        let read = (1..=ROUNDS * 4)
            .filter(|seed| compared(world, *seed))
            .count();
        assert!(read > 20, "{read}");
    });
}
