//! A layer as it is being made.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::mpsc::Receiver;

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, fchmod, fremovexattr, fstat, linkat, makedev, mknodat,
    openat, readlinkat, symlinkat, syncfs, unlinkat,
};
use rustix::io::Errno;

use super::data;
use super::entry::{Entries, Entry, Kind};
use super::failure::Failure;
use super::ids::Ids;
use super::lower::{Lower, Lowers, reopen, stat_of};
use super::meta::{Failed, Maker, Meta};
use super::names::{Meaning, meaning, parts, unsafe_path};
use super::pax::Time;
use super::pipe::{Piece, Pipe, Sums};
use super::source::Source;
use super::tree::{self, ROOT, Tree};
use super::xattrs::{CAPABILITY, capability, is_acl, is_filtered};
use super::{
    AppliedLayer, Apply, Devices, Durability, Progress, RawWhiteouts, SkippedEntry, SkippedPart,
    acl,
};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::marks::Marks;

/// More would be cycles, or meant to take long.
const SYMLINKS: usize = 40;

/// How much longer than the deepest directory a way over symlinks may be.
const STEPS: usize = 4;

/// Others may put something in the way each time it was taken away.
const ATTEMPTS: usize = 16;

/// How many things that were left out are told one by one.
const SKIPPED: usize = 100;

pub(crate) struct Build<'a> {
    apply: &'a Apply,
    target: &'a Path,
    tree: Tree,
    lowers: Lowers<'a>,
    ids: Ids,
    marks: Marks,
    devices: Devices,
    maker: Maker,
    mode_before: Mode,
    hiding: Hiding,
    spent: Spent,
    skips: Skips,
    skipped_nodes: HashSet<Vec<Vec<u8>>>,
}

/// What the layer hides of those below, by paths without symlinks, and when its markers were made.
#[derive(Default)]
struct Hiding {
    root: bool,
    whiteouts: BTreeMap<Vec<Vec<u8>>, Time>,
    opaque: BTreeMap<Vec<Vec<u8>>, Time>,
}

/// What counts against the limits.
#[derive(Default)]
struct Spent {
    entries: u64,
    made: u64,
    memory: u64,
    copied: u64,
}

#[derive(Default)]
struct Skips {
    list: Vec<SkippedEntry>,
    count: u64,
}

/// Where a path leads.
enum Place {
    /// To a directory of the layer.
    Made(u32),
    /// To where the layer has nothing; layers below may.
    Unmade(Vec<Vec<u8>>),
}

/// What is at a step of a path.
enum Step {
    Made(u32),
    Symlink(Vec<u8>),
    Lower(Lower),
    Nothing,
    File,
}

impl Hiding {
    fn hides(&self, path: &[Vec<u8>]) -> bool {
        let whiteout = |length| self.whiteouts.contains_key(&path[..length]);
        let opaque = |length| self.opaque.contains_key(&path[..length]);
        self.root
            || !self.whiteouts.is_empty() && (1..=path.len()).any(whiteout)
            || !self.opaque.is_empty() && (1..path.len()).any(opaque)
    }
}

impl Skips {
    fn add(&mut self, entry: &[u8], what: SkippedPart) {
        self.count += 1;
        if self.list.len() < SKIPPED {
            let entry = super::path_of(entry);
            self.list.push(SkippedEntry { entry, what });
        }
    }

    fn xattr(&mut self, entry: &[u8], name: &[u8]) {
        self.add(entry, SkippedPart::Xattr(OsString::from_vec(name.to_vec())));
    }

    /// What must not be lost without an error: who may do what with a file.
    fn refused_xattr(&mut self, entry: &[u8], name: &[u8], errno: Errno) -> Result<(), Errno> {
        let needed = name == CAPABILITY || is_acl(name);
        if needed || !matches!(errno, Errno::PERM | Errno::OPNOTSUPP) {
            return Err(errno);
        }
        self.xattr(entry, name);
        Ok(())
    }
}

impl<'a> Build<'a> {
    /// Checks what can be checked, and closes the directory to others.
    pub(crate) fn start(
        apply: &'a Apply,
        root: OwnedFd,
        target: &'a Path,
        lowers: Lowers<'a>,
    ) -> Result<Self> {
        let sys = |op| Error::sys(op, target);
        let marks = apply.marks_in_force()?;
        let ids = apply.ids.clone().with_namespace()?;
        if !is_empty(&root).map_err(sys("list"))? {
            let target = target.to_owned();
            return Err(Failure::NotEmpty { target }.into());
        }
        let before = fstat(&root).map_err(sys("stat"))?;
        fchmod(&root, Mode::RWXU).map_err(sys("chmod"))?;
        // What is made would inherit it. Most filesystems have none there.
        let _none = fremovexattr(&root, "system.posix_acl_default").is_err();
        let devices = match (apply.devices, Marks::detect()?) {
            (Some(devices), _) => devices,
            (None, Marks::User) => Devices::Skip,
            (None, Marks::Trusted) => Devices::Make,
        };
        Ok(Build {
            apply,
            target,
            maker: maker(&root),
            tree: Tree::new(root),
            lowers,
            ids,
            marks,
            devices,
            mode_before: Mode::from_raw_mode(before.st_mode),
            hiding: Hiding::default(),
            spent: Spent::default(),
            skips: Skips::default(),
            skipped_nodes: HashSet::new(),
        })
    }

    /// Applies it all, or nothing.
    pub(crate) fn run(
        mut self,
        pipe: Pipe<'_>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<AppliedLayer> {
        let applied = self.entries(&pipe.tar, progress);
        let sums = pipe.finish();
        let applied = applied
            .and_then(|()| self.verify(&sums))
            .and_then(|()| self.complete());
        if let Err(error) = applied {
            self.undo();
            return Err(error);
        }
        Ok(AppliedLayer {
            blob: sums.blob.0,
            blob_bytes: sums.blob.1,
            diff_id: sums.tar.0,
            tar_bytes: sums.tar.1,
            compression: sums.compression,
            entries: self.spent.entries,
            skipped: self.skips.list,
            skipped_count: self.skips.count,
            opaque_root: self.hiding.root,
        })
    }

    fn entries(&mut self, tar: &Receiver<Piece>, progress: &mut dyn FnMut(Progress)) -> Result<()> {
        const EVERY: u64 = 256 << 10;
        let mut source = Source::new(tar);
        let mut entries = Entries::new(&self.apply.limits);
        let mut told = 0;
        while let Some(entry) = entries.next(&mut source)? {
            self.entry(entry, &mut source)?;
            if source.at / EVERY != told {
                told = source.at / EVERY;
                progress(Progress {
                    entries: self.spent.entries,
                    tar_bytes: source.at,
                });
            }
        }
        source.drain()?;
        progress(Progress {
            entries: self.spent.entries,
            tar_bytes: source.at,
        });
        Ok(())
    }

    fn verify(&self, sums: &Sums) -> Result<()> {
        let same = |what, expected: Option<Digest>, found| match expected {
            Some(expected) if expected != found => Err(Failure::Mismatch {
                what,
                expected,
                found,
            }),
            _ => Ok(()),
        };
        same("the blob", self.apply.blob, sums.blob.0)?;
        same("the diff id", self.apply.diff_id, sums.tar.0)?;
        Ok(())
    }

    /// The directory as it was before; what fails here does not replace the first error.
    pub(crate) fn undo(&mut self) {
        if let Ok(root) = self.tree.fd(ROOT) {
            let _left = tree::empty(&root).is_err();
            let _closed = fchmod(&root, self.mode_before).is_err();
        }
    }

    /// One entry, and all of its bytes in the stream.
    fn entry(&mut self, mut entry: Entry, source: &mut Source<'_>) -> Result<()> {
        self.spent.entries += 1;
        self.count_made()?;
        let path = std::mem::take(&mut entry.path);
        let names = parts(&path, &self.apply.limits)?;
        match names.split_last() {
            None => self.root(&path, &entry)?,
            Some((name, way)) => self.named(&path, way, name, &mut entry, source)?,
        }
        source.skip(entry.stored)?;
        source.skip(entry.padding)?;
        Ok(())
    }

    fn root(&mut self, path: &[u8], entry: &Entry) -> Result<()> {
        if entry.kind != Kind::Directory {
            return Err(unsafe_path(path, "the root as something else than a directory").into());
        }
        let meta = self.meta(path, entry)?;
        self.set_directory(ROOT, meta)
    }

    fn named(
        &mut self,
        path: &[u8],
        way: &[&[u8]],
        name: &[u8],
        entry: &mut Entry,
        source: &mut Source<'_>,
    ) -> Result<()> {
        for meaning in way.iter().map(|name| meaning(name)) {
            match meaning {
                Meaning::Itself => {}
                Meaning::Aufs => {
                    self.skips.add(path, SkippedPart::Aufs);
                    return Ok(());
                }
                _ => return Err(unsafe_path(path, "a whiteout on the way").into()),
            }
        }
        match meaning(name) {
            Meaning::Wrong => return Err(unsafe_path(path, "a whiteout of no name").into()),
            Meaning::Aufs => self.skips.add(path, SkippedPart::Aufs),
            Meaning::Whiteout(name) => self.note_whiteout(path, way, name, entry.mtime)?,
            Meaning::Opaque => self.note_opaque(path, way, entry.mtime)?,
            Meaning::Itself if entry.kind == Kind::Character && entry.device == (0, 0) => {
                match self.apply.raw_whiteouts {
                    RawWhiteouts::Refuse => {
                        return Err(unsafe_path(path, "a character device 0:0").into());
                    }
                    RawWhiteouts::Apply => self.note_whiteout(path, way, name, entry.mtime)?,
                }
            }
            Meaning::Itself => self.add(path, way, name, entry, source)?,
        }
        Ok(())
    }

    fn note_whiteout(&mut self, path: &[u8], way: &[&[u8]], name: &[u8], time: Time) -> Result<()> {
        if let Some(place) = self.resolve(path, way, None)? {
            let mut hidden = self.path_of(place);
            hidden.push(name.to_vec());
            self.remember(path.len() as u64 + 64 * hidden.len() as u64)?;
            self.hiding.whiteouts.insert(hidden, time);
        }
        Ok(())
    }

    fn note_opaque(&mut self, path: &[u8], way: &[&[u8]], time: Time) -> Result<()> {
        match self.resolve(path, way, None)? {
            Some(Place::Made(ROOT)) => self.hiding.root = true,
            Some(place) => {
                let directory = self.path_of(place);
                self.remember(path.len() as u64 + 64 * directory.len() as u64)?;
                self.hiding.opaque.insert(directory, time);
            }
            None => {}
        }
        Ok(())
    }

    fn path_of(&self, place: Place) -> Vec<Vec<u8>> {
        match place {
            Place::Made(id) => self.tree.path(id),
            Place::Unmade(path) => path,
        }
    }

    fn add(
        &mut self,
        path: &[u8],
        way: &[&[u8]],
        name: &[u8],
        entry: &mut Entry,
        source: &mut Source<'_>,
    ) -> Result<()> {
        let parent = match self.resolve(path, way, Some(entry.mtime))? {
            Some(Place::Made(id)) => id,
            _ => return Err(self.wrong(path, "a file where its directory is to be")),
        };
        match entry.kind {
            Kind::Link => self.link(path, parent, name, &entry.link),
            Kind::Directory => {
                let meta = self.meta(path, entry)?;
                let id = self.directory(path, parent, name)?;
                self.set_directory(id, meta)
            }
            Kind::File => {
                let meta = self.meta(path, entry)?;
                let file = self.create(path, parent, name, meta.mode)?;
                data::write_entry(file.as_fd(), entry, source, |failed| {
                    self.failed(path, failed)
                })?;
                self.finish_file(path, &file, &meta)
            }
            _ => {
                let meta = self.meta(path, entry)?;
                let link = std::mem::take(&mut entry.link);
                self.node(
                    path,
                    parent,
                    name,
                    node_kind(entry.kind),
                    entry.device,
                    &link,
                    &meta,
                )
            }
        }
    }

    fn finish_file(&mut self, path: &[u8], file: &OwnedFd, meta: &Meta) -> Result<()> {
        let skips = &mut self.skips;
        let mut on_xattr = |name: &[u8], errno| skips.refused_xattr(path, name, errno);
        meta.set_on_file(file.as_fd(), self.maker, &mut on_xattr)
            .map_err(|failed| self.failed(path, failed))
    }

    #[expect(clippy::too_many_arguments, reason = "all that a node is")]
    fn node(
        &mut self,
        path: &[u8],
        parent: u32,
        name: &[u8],
        kind: FileType,
        device: (u32, u32),
        link: &[u8],
        meta: &Meta,
    ) -> Result<()> {
        if matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) {
            match self.devices {
                Devices::Make => {}
                Devices::Skip => {
                    self.skips.add(path, SkippedPart::Device);
                    let mut skipped = self.tree.path(parent);
                    skipped.push(name.to_vec());
                    self.remember(path.len() as u64 + 64 * skipped.len() as u64)?;
                    self.skipped_nodes.insert(skipped);
                    return Ok(());
                }
                Devices::Refuse => return Err(self.wrong(path, "it is a device")),
            }
        }
        let mode = Mode::from_raw_mode(meta.mode & 0o777);
        let (op, device) = match kind {
            FileType::Symlink => ("symlink", 0),
            _ => ("mknod", makedev(device.0, device.1)),
        };
        let directory = self.make_at(path, parent, name, op, |directory| {
            match kind {
                FileType::Symlink => symlinkat(link, directory, name)?,
                _ => mknodat(directory, name, kind, mode, device)?,
            }
            Ok(directory.clone())
        })?;
        let skips = &mut self.skips;
        let mut on_xattr = |name: &[u8], errno| skips.refused_xattr(path, name, errno);
        meta.set_on_name((*directory).as_fd(), name, kind, self.maker, &mut on_xattr)
            .map_err(|failed| self.failed(path, failed))
    }

    fn create(&mut self, path: &[u8], parent: u32, name: &[u8], mode: u32) -> Result<OwnedFd> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode & 0o777);
        self.make_at(path, parent, name, "create", |directory| {
            openat(directory, name, flags, mode)
        })
    }

    /// Has `make` make `name`, and takes away what has that name.
    fn make_at<T>(
        &mut self,
        path: &[u8],
        parent: u32,
        name: &[u8],
        op: &'static str,
        make: impl Fn(&Rc<OwnedFd>) -> Result<T, Errno>,
    ) -> Result<T> {
        for _ in 0..ATTEMPTS {
            let directory = self
                .tree
                .fd(parent)
                .map_err(|errno| self.failed(path, ("open the directory of", errno)))?;
            match make(&directory) {
                Err(Errno::EXIST) => self.take_away(path, parent, name)?,
                made => return made.map_err(|errno| self.failed(path, (op, errno))),
            }
        }
        Err(self.failed(path, (op, Errno::EXIST)))
    }

    /// A later entry takes the place of what is there.
    fn take_away(&mut self, path: &[u8], parent: u32, name: &[u8]) -> Result<()> {
        let done = match self.tree.child(parent, name) {
            Some(id) => self.tree.remove(id),
            None => match self.tree.fd(parent) {
                Ok(directory) => unlinkat(directory, name, AtFlags::empty()),
                Err(errno) => Err(errno),
            },
        };
        match done {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.failed(path, ("remove", errno))),
        }
    }

    /// The directory `name`, made if it is not there. In the place of a file of this layer it hides those below, as that did.
    fn directory(&mut self, path: &[u8], parent: u32, name: &[u8]) -> Result<u32> {
        if let Some(id) = self.tree.child(parent, name) {
            return Ok(id);
        }
        let mut opaque = false;
        for _ in 0..ATTEMPTS {
            match self.make_directory(path, parent, name)? {
                Some(id) => {
                    self.tree.directory_mut(id).opaque = opaque;
                    return Ok(id);
                }
                None => self.take_away(path, parent, name)?,
            }
            opaque = true;
        }
        Err(self.failed(path, ("mkdir", Errno::EXIST)))
    }

    /// None where something has that name.
    fn make_directory(&mut self, path: &[u8], parent: u32, name: &[u8]) -> Result<Option<u32>> {
        let limit = self.apply.limits.depth;
        if self.tree.directory(parent).depth >= limit {
            let what = "directories inside each other";
            return Err(Failure::Limit {
                what,
                limit: limit as u64,
            }
            .into());
        }
        self.remember(name.len() as u64 * 2 + 200)?;
        match self.tree.make(parent, name) {
            Ok(id) => Ok(Some(id)),
            Err(Errno::EXIST) => Ok(None),
            Err(errno) => Err(self.failed(path, ("mkdir", errno))),
        }
    }

    fn set_directory(&mut self, id: u32, meta: Meta) -> Result<()> {
        self.remember(meta.bytes())?;
        let directory = self.tree.directory_mut(id);
        directory.meta = meta;
        directory.implied = false;
        Ok(())
    }

    fn link(&mut self, path: &[u8], parent: u32, name: &[u8], to: &[u8]) -> Result<()> {
        let names = parts(to, &self.apply.limits)?;
        let Some((last, way)) = names.split_last() else {
            return Err(self.wrong(path, "a hard link to the root"));
        };
        let missing = "a hard link to what is not there";
        let (id, last) = match self.resolve(path, way, None)? {
            None => return Err(self.wrong(path, missing)),
            Some(place) => match self.linked(path, place, last)? {
                Some(found) => found,
                None => {
                    self.skips.add(path, SkippedPart::Device);
                    return Ok(());
                }
            },
        };
        if self.tree.child(id, &last).is_some() {
            return Err(self.wrong(path, "a hard link to a directory"));
        }
        if self.takes_the_place_of(parent, name, id) {
            return Err(self.wrong(path, "a hard link to what it takes the place of"));
        }
        let from = self
            .tree
            .fd(id)
            .map_err(|errno| self.failed(path, ("open the target's directory of", errno)))?;
        if (id, last.as_slice()) == (parent, name) {
            return Ok(());
        }
        self.make_at(path, parent, name, "link", |directory| {
            linkat(&from, last.as_slice(), directory, name, AtFlags::empty())
        })
    }

    /// Whether `name` in `parent` is the directory `id` or one above it.
    fn takes_the_place_of(&mut self, parent: u32, name: &[u8], id: u32) -> bool {
        if self.tree.child(parent, name).is_none() {
            return false;
        }
        let mut place = self.path_of(Place::Made(parent));
        place.push(name.to_vec());
        self.path_of(Place::Made(id)).starts_with(&place)
    }

    /// The target of a hard link as a name in a directory of this layer; none for a device that was left out.
    fn linked(&mut self, path: &[u8], place: Place, last: &[u8]) -> Result<Option<(u32, Vec<u8>)>> {
        if let Place::Made(id) = place {
            let there = self
                .tree
                .fd(id)
                .and_then(|directory| stat_of(directory, last));
            if there
                .map_err(|errno| self.failed(path, ("stat the target of", errno)))?
                .is_some()
            {
                return Ok(Some((id, last.to_vec())));
            }
        }
        let mut target = self.path_of(place);
        target.push(last.to_vec());
        if self.skipped_nodes.contains(&target) {
            return Ok(None);
        }
        let lower = match self.hiding.hides(&target) {
            true => None,
            false => self.lowers.find(&target)?,
        };
        match lower {
            Some(lower) => self.copy_up(path, &target, &lower),
            None if self.lowers.known() => {
                Err(self.wrong(path, "a hard link to what is not there"))
            }
            None => Err(self.wrong(
                path,
                "a hard link to what is not in this layer, and those below are not told",
            )),
        }
    }

    /// Copies what a layer below holds at `target` into this one.
    fn copy_up(
        &mut self,
        path: &[u8],
        target: &[Vec<u8>],
        lower: &Lower,
    ) -> Result<Option<(u32, Vec<u8>)>> {
        let Some((last, way)) = target.split_last() else {
            return Ok(None);
        };
        self.count_made()?;
        let meta = Meta::of_lower(lower, self.marks).map_err(|failed| self.failed(path, failed))?;
        let Some(parent) = self.imply(path, way, meta.mtime)? else {
            return Err(self.wrong(path, "a hard link to what is not there"));
        };
        let shown = target.join(&b'/');
        match lower.kind() {
            FileType::RegularFile => self.copy_file(&shown, parent, last, lower, &meta)?,
            FileType::Directory => return Err(self.wrong(path, "a hard link to a directory")),
            kind @ (FileType::Symlink
            | FileType::Fifo
            | FileType::CharacterDevice
            | FileType::BlockDevice) => {
                let link = match kind {
                    FileType::Symlink => lower
                        .target()
                        .map_err(|errno| self.failed(&shown, ("readlink", errno)))?,
                    _ => Vec::new(),
                };
                let device = (
                    rustix::fs::major(lower.stat.st_rdev),
                    rustix::fs::minor(lower.stat.st_rdev),
                );
                self.node(&shown, parent, last, kind, device, &link, &meta)?;
                if self.skipped_nodes.contains(target) {
                    return Ok(None);
                }
            }
            _ => return Err(self.wrong(path, "a hard link to what no layer can hold")),
        }
        Ok(Some((parent, last.clone())))
    }

    fn copy_file(
        &mut self,
        path: &[u8],
        parent: u32,
        name: &[u8],
        lower: &Lower,
        meta: &Meta,
    ) -> Result<()> {
        let size = u64::try_from(lower.stat.st_size).unwrap_or(0);
        let (file_limit, limit) = (self.apply.limits.file_bytes, self.apply.limits.bytes);
        self.spent.copied = self.spent.copied.saturating_add(size);
        if size > file_limit {
            return Err(Failure::Limit {
                what: "bytes of one file",
                limit: file_limit,
            }
            .into());
        }
        if self.spent.copied > limit {
            return Err(Failure::Limit {
                what: "bytes copied from layers below",
                limit,
            }
            .into());
        }
        let from =
            reopen(lower).map_err(|errno| self.failed(path, ("open in lower layer", errno)))?;
        let file = self.create(path, parent, name, meta.mode)?;
        data::copy(from.as_fd(), file.as_fd(), size)
            .map_err(|errno| self.failed(path, ("copy from lower layer", errno)))?;
        self.finish_file(path, &file, meta)
    }

    /// Where the directories of `way` lead, making those that are missing if there is a time for `making` them. None where
    /// a file is in the way.
    fn resolve(
        &mut self,
        path: &[u8],
        way: &[&[u8]],
        making: Option<Time>,
    ) -> Result<Option<Place>> {
        let (id, steps) = self.tree.walk(way);
        let mut here = Place::Made(id);
        let mut todo: Vec<Vec<u8>> = way[steps..]
            .iter()
            .rev()
            .map(|name| name.to_vec())
            .collect();
        let (mut symlinks, mut steps) = (0, 0);
        while let Some(name) = todo.pop() {
            steps += 1;
            if steps > STEPS * self.apply.limits.depth {
                return Err(unsafe_path(path, "symlinks make its way too long").into());
            }
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    here = self.above(here);
                    continue;
                }
                _ => {}
            }
            here = match (self.step(path, &here, &name)?, here, making) {
                (Step::Made(id), ..) => Place::Made(id),
                (Step::Symlink(target), here, _) => {
                    symlinks += 1;
                    if symlinks > SYMLINKS {
                        return Err(unsafe_path(path, "too many symlinks on the way").into());
                    }
                    todo.extend(target.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec));
                    if target.starts_with(b"/") {
                        Place::Made(ROOT)
                    } else {
                        here
                    }
                }
                (Step::File, ..) => return Ok(None),
                (Step::Lower(lower), Place::Made(parent), Some(_)) => {
                    let meta = Meta::of_lower(&lower, self.marks)
                        .map_err(|failed| self.failed(path, failed))?;
                    Place::Made(self.implied(path, parent, &name, meta)?)
                }
                (Step::Nothing, Place::Made(parent), Some(time)) => {
                    let meta = self.plain(path, time)?;
                    Place::Made(self.implied(path, parent, &name, meta)?)
                }
                (_, here, _) => {
                    let mut path = self.path_of(here);
                    path.push(name);
                    Place::Unmade(path)
                }
            };
        }
        Ok(Some(here))
    }

    fn above(&mut self, place: Place) -> Place {
        match place {
            Place::Made(id) => Place::Made(self.tree.directory(id).parent),
            Place::Unmade(mut path) => {
                path.pop();
                match self.tree.walk(&path) {
                    (id, steps) if steps == path.len() => Place::Made(id),
                    _ => Place::Unmade(path),
                }
            }
        }
    }

    fn step(&mut self, path: &[u8], here: &Place, name: &[u8]) -> Result<Step> {
        let mut below = match here {
            Place::Made(id) => {
                if let Some(child) = self.tree.child(*id, name) {
                    return Ok(Step::Made(child));
                }
                match self
                    .step_in_layer(*id, name)
                    .map_err(|errno| self.failed(path, ("look up the directory of", errno)))?
                {
                    Some(step) => return Ok(step),
                    None => self.tree.path(*id),
                }
            }
            Place::Unmade(path) => path.clone(),
        };
        below.push(name.to_vec());
        if self.hiding.hides(&below) {
            return Ok(Step::Nothing);
        }
        Ok(match self.lowers.find(&below)? {
            Some(lower) if lower.is_directory() => Step::Lower(lower),
            Some(lower) if lower.kind() == FileType::Symlink => Step::Symlink(
                lower
                    .target()
                    .map_err(|errno| self.failed(path, ("readlink on the way to", errno)))?,
            ),
            _ => Step::Nothing,
        })
    }

    /// What is no directory of the layer, or what is there since others meddle.
    fn step_in_layer(&mut self, id: u32, name: &[u8]) -> Result<Option<Step>, Errno> {
        let directory = self.tree.fd(id)?;
        let Some(stat) = stat_of(&directory, name)? else {
            return Ok(None);
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                let target = readlinkat(directory, name, Vec::new())?.into_bytes();
                Ok(Some(Step::Symlink(target)))
            }
            FileType::Directory => Err(Errno::STALE),
            _ => Ok(Some(Step::File)),
        }
    }

    /// The directory at a path without symlinks, made as far as it is missing. None where a file is in the way.
    fn imply(&mut self, path: &[u8], way: &[Vec<u8>], time: Time) -> Result<Option<u32>> {
        let (mut id, steps) = self.tree.walk(way);
        for at in steps..way.len() {
            let name = &way[at];
            let there = self
                .tree
                .fd(id)
                .and_then(|directory| stat_of(directory, name));
            if there
                .map_err(|errno| self.failed(path, ("stat in", errno)))?
                .is_some()
            {
                return Ok(None);
            }
            let lower = match self.hiding.hides(&way[..=at]) {
                true => None,
                false => self.lowers.find(&way[..=at])?,
            };
            let meta = match lower.filter(Lower::is_directory) {
                Some(lower) => Meta::of_lower(&lower, self.marks)
                    .map_err(|failed| self.failed(path, failed))?,
                None => self.plain(path, time)?,
            };
            id = self.implied(path, id, name, meta)?;
        }
        Ok(Some(id))
    }

    fn implied(&mut self, path: &[u8], parent: u32, name: &[u8], meta: Meta) -> Result<u32> {
        self.count_made()?;
        self.remember(meta.bytes())?;
        let made = self.make_directory(path, parent, name)?;
        let id = made.ok_or_else(|| self.failed(path, ("mkdir on the way to", Errno::EXIST)))?;
        self.tree.directory_mut(id).meta = meta;
        Ok(id)
    }

    /// Of a directory that nothing is known of.
    fn plain(&self, path: &[u8], mtime: Time) -> Result<Meta> {
        Ok(Meta {
            mode: 0o755,
            uid: self.ids.user(0, path)?,
            gid: self.ids.group(0, path)?,
            mtime,
            xattrs: Vec::new(),
        })
    }

    fn meta(&mut self, path: &[u8], entry: &Entry) -> Result<Meta> {
        let mut xattrs = Vec::new();
        for (name, value) in &entry.xattrs {
            let in_namespace = self.marks == Marks::User && name.starts_with(b"trusted.");
            if is_filtered(name) || in_namespace {
                self.skips.xattr(path, name);
                continue;
            }
            let value = if name == CAPABILITY {
                capability(value, self.ids.shifted_root()).map_err(|why| self.wrong(path, why))?
            } else if is_acl(name) {
                acl::mapped(value, |user, id| match user {
                    true => self.ids.user(id, path),
                    false => self.ids.group(id, path),
                })?
            } else {
                value.clone()
            };
            xattrs.push((self.marks.stored(name).into_owned(), value));
        }
        Ok(Meta {
            mode: entry.mode,
            uid: self.ids.user(entry.uid, path)?,
            gid: self.ids.group(entry.gid, path)?,
            mtime: entry.mtime,
            xattrs,
        })
    }

    /// When all entries are there: what they hide, and what is set on directories last.
    fn complete(&mut self) -> Result<()> {
        for (path, time) in self.hiding.opaque.clone() {
            if let Some(id) = self.imply(&path.join(&b'/'), &path, time)? {
                self.tree.directory_mut(id).opaque = true;
            }
        }
        for (path, time) in self.hiding.whiteouts.clone() {
            self.white_out(&path, time)?;
        }
        self.imply_root()?;
        // Backwards: a directory comes after the one it is in, whose times it would change.
        for id in (0..self.tree.count()).rev() {
            self.complete_directory(id)?;
        }
        if self.apply.durability == Durability::Syncfs {
            let root = self
                .tree
                .fd(ROOT)
                .map_err(|errno| self.failed(b"", ("open", errno)))?;
            syncfs(root).map_err(|errno| self.failed(b"", ("syncfs", errno)))?;
        }
        Ok(())
    }

    /// In the order of paths, so that what is in a directory that is hidden itself comes after it.
    fn white_out(&mut self, path: &[Vec<u8>], time: Time) -> Result<()> {
        let Some((name, way)) = path.split_last() else {
            return Ok(());
        };
        let shown = path.join(&b'/');
        let (id, steps) = self.tree.walk(way);
        if self.is_below_opaque(id) {
            return Ok(());
        }
        if steps == way.len() {
            if let Some(child) = self.tree.child(id, name) {
                return self.make_anew(&shown, child, time);
            }
        }
        // Now that all is there, only what is below itself tells whether there is anything to hide.
        if self.hiding.root || self.lowers.known() && self.lowers.find(path)?.is_none() {
            return Ok(());
        }
        let Some(parent) = self.imply(&shown, way, time)? else {
            return Ok(());
        };
        let directory = self
            .tree
            .fd(parent)
            .map_err(|errno| self.failed(&shown, ("open the directory of", errno)))?;
        match mknodat(
            directory,
            name.as_slice(),
            FileType::CharacterDevice,
            Mode::empty(),
            0,
        ) {
            // A file of this layer hides it as well.
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(self.failed(&shown, ("make whiteout", errno))),
        }
    }

    fn is_below_opaque(&self, mut id: u32) -> bool {
        while id != ROOT {
            if self.tree.directory(id).opaque {
                return true;
            }
            id = self.tree.directory(id).parent;
        }
        false
    }

    /// A directory that is whited out, and is made again.
    fn make_anew(&mut self, path: &[u8], id: u32, time: Time) -> Result<()> {
        self.tree.directory_mut(id).opaque = true;
        for id in self.tree.below(id) {
            if self.tree.directory(id).implied {
                self.tree.directory_mut(id).meta = self.plain(path, time)?;
            }
        }
        Ok(())
    }

    fn imply_root(&mut self) -> Result<()> {
        if self.tree.directory(ROOT).implied {
            let meta = match self.lowers.root()? {
                Some(lower) => {
                    Meta::of_lower(&lower, self.marks).map_err(|failed| self.failed(b"", failed))?
                }
                None => self.plain(b"/", Time::default())?,
            };
            self.tree.directory_mut(ROOT).meta = meta;
        }
        Ok(())
    }

    fn complete_directory(&mut self, id: u32) -> Result<()> {
        if self.tree.directory(id).removed {
            return Ok(());
        }
        let opaque = self.tree.directory(id).opaque && self.hides_something(id)?;
        let fd = self.tree.fd(id);
        let meta = std::mem::take(&mut self.tree.directory_mut(id).meta);
        let path = || self.tree.path(id).join(&b'/');
        let fd = fd.map_err(|errno| self.failed(&path(), ("open", errno)))?;
        let skips = &mut self.skips;
        let mut on_xattr = |name: &[u8], errno| skips.refused_xattr(&path(), name, errno);
        meta.set_on_directory(
            (*fd).as_fd(),
            self.maker,
            opaque.then_some(self.marks),
            &mut on_xattr,
        )
        .map_err(|failed| Error::sys(failed.0, &super::shown_in(self.target, &path()))(failed.1))
    }

    fn hides_something(&self, id: u32) -> Result<bool> {
        if !self.lowers.known() {
            return Ok(true);
        }
        let lower = self.lowers.find(&self.tree.path(id))?;
        Ok(lower.is_some_and(|lower| lower.is_directory()))
    }

    fn count_made(&mut self) -> Result<()> {
        self.spent.made += 1;
        let limit = self.apply.limits.entries;
        if self.spent.made > limit {
            return Err(Failure::Limit {
                what: "entries",
                limit,
            }
            .into());
        }
        Ok(())
    }

    fn remember(&mut self, bytes: u64) -> Result<()> {
        self.spent.memory += bytes;
        let limit = self.apply.limits.metadata_bytes;
        if self.spent.memory > limit {
            let what = "bytes of metadata of directories and whiteouts";
            return Err(Failure::Limit { what, limit }.into());
        }
        Ok(())
    }

    fn failed(&self, path: &[u8], (op, errno): Failed) -> Error {
        Error::sys(op, &super::shown_in(self.target, path))(errno)
    }

    fn wrong(&self, path: &[u8], why: &str) -> Error {
        let entry = super::path_of(path);
        Failure::Entry {
            entry,
            why: why.to_owned(),
        }
        .into()
    }
}

fn node_kind(kind: Kind) -> FileType {
    match kind {
        Kind::Symlink => FileType::Symlink,
        Kind::Character => FileType::CharacterDevice,
        Kind::Block => FileType::BlockDevice,
        Kind::Fifo => FileType::Fifo,
        Kind::Directory => FileType::Directory,
        Kind::File | Kind::Link => FileType::RegularFile,
    }
}

fn is_empty(directory: &OwnedFd) -> Result<bool, Errno> {
    let mut listing = Dir::read_from(directory)?;
    while let Some(entry) = listing.read().transpose()? {
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Asks the kernel with a file that has no name; where there is none, everything is set on each file.
fn maker(root: &OwnedFd) -> Maker {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let found = openat(root, ".", flags, Mode::RUSR).and_then(fstat);
    let (uid, gid) = found.map_or((u32::MAX, u32::MAX), |stat| (stat.st_uid, stat.st_gid));
    Maker {
        uid,
        gid,
        umask: umask().unwrap_or(0o777),
    }
}

/// Read, since the only call that tells it changes it, for all threads.
fn umask() -> Option<u32> {
    let status = fs::read_to_string("/proc/thread-self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(line.trim(), 8).ok()
}
