//! The walk over all layers at once, the top one first.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, OFlags, RawDir, Statx, linkat};
use rustix::io::Errno;

use super::entry::{Entry, kind};
use super::{Flatten, Flattened, Layer};
use crate::beneath;
use crate::contents::Copied;
use crate::error::{Error, Inner, Result};
use crate::marks::{self, Marks};

/// What is left to do, the last one first.
#[derive(Debug)]
enum Task {
    /// Fill the directory with what these layers have in it.
    Enter { path: PathBuf, layers: Vec<usize> },
    /// Give it the attributes it has in this layer: after all in it, for its times.
    Leave { path: PathBuf, layer: usize },
}

/// What is known of a name in one directory.
#[derive(Debug)]
enum Seen {
    /// Done, or hidden by a whiteout: layers below do not matter.
    Settled,
    /// A directory in these layers.
    Directory(Vec<usize>),
    /// The same, with something else below them, which ends it.
    Closed(Vec<usize>),
}

#[derive(Debug)]
pub(super) struct Merge<'a> {
    layers: &'a [Layer],
    target: &'a Path,
    root: OwnedFd,
    how: Flatten,
    marks: Marks,
    /// Where the first name of a file is that has more, by layer, device and inode.
    first_names: HashMap<(usize, u32, u32, u64), PathBuf>,
    made: Flattened,
}

/// One layer's directory that is being read.
#[derive(Clone, Copy)]
struct Place<'a> {
    layer: usize,
    path: &'a Path,
    from: BorrowedFd<'a>,
    to: BorrowedFd<'a>,
    /// Whether empty files in it can be whiteouts by xattr.
    whiteouts: bool,
}

impl<'a> Merge<'a> {
    pub(super) fn new(
        layers: &'a [Layer],
        target: &'a Path,
        root: OwnedFd,
        how: Flatten,
        marks: Marks,
    ) -> Self {
        Merge {
            layers,
            target,
            root,
            how,
            marks,
            first_names: HashMap::new(),
            made: Flattened::default(),
        }
    }

    pub(super) fn run(mut self) -> Result<Flattened> {
        let path = PathBuf::from(".");
        let layers = (0..self.layers.len()).collect();
        let mut tasks = vec![Task::Enter { path, layers }];
        while let Some(task) = tasks.pop() {
            match task {
                Task::Enter { path, layers } => self.enter(path, &layers, &mut tasks)?,
                Task::Leave { path, layer } => self.leave(&path, layer)?,
            }
        }
        Ok(self.made)
    }

    fn enter(&mut self, path: PathBuf, layers: &[usize], tasks: &mut Vec<Task>) -> Result<()> {
        self.made.directories += 1;
        let to = self.open_target(&path)?;
        let mut seen = HashMap::new();
        for &layer in layers {
            let from = self.open_layer(layer, &path)?;
            let opaque = self.check_marks(layer, &path, from.as_fd())?;
            let place = Place {
                layer,
                path: &path,
                from: from.as_fd(),
                to: to.as_fd(),
                whiteouts: opaque == Some(b'x'),
            };
            self.read(place, &mut seen)?;
            if opaque == Some(b'y') {
                break;
            }
        }
        if let Some(&layer) = layers.first() {
            let path = path.clone();
            tasks.push(Task::Leave { path, layer });
        }
        self.make_directories(&path, to.as_fd(), seen, tasks)
    }

    /// The names of one layer's directory. They are read with a buffer, not gathered.
    fn read(&mut self, place: Place<'_>, seen: &mut HashMap<CString, Seen>) -> Result<()> {
        let mut buffer = [MaybeUninit::uninit(); 8192];
        let mut entries = RawDir::new(place.from, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|errno| self.failed("getdents", place, c"", errno))?;
            let name = entry.file_name();
            if name == c"." || name == c".." || matches!(seen.get(name), Some(Seen::Settled)) {
                continue;
            }
            self.look_at(place, name, seen)?;
        }
        Ok(())
    }

    fn look_at(
        &mut self,
        place: Place<'_>,
        name: &CStr,
        seen: &mut HashMap<CString, Seen>,
    ) -> Result<()> {
        let entry = Entry {
            directory: place.from,
            name,
        };
        let found = entry
            .stat()
            .map_err(|errno| self.failed("statx", place, name, errno))?;
        let is_directory = kind(&found) == FileType::Directory;
        match seen.get_mut(name) {
            Some(Seen::Directory(layers)) if is_directory => layers.push(place.layer),
            Some(Seen::Directory(layers)) => {
                let layers = std::mem::take(layers);
                seen.insert(name.to_owned(), Seen::Closed(layers));
            }
            Some(_) => {}
            None if is_directory => {
                seen.insert(name.to_owned(), Seen::Directory(vec![place.layer]));
            }
            None => {
                if !self.hides(place, &entry, &found)? {
                    self.put(place, &entry, &found)?;
                }
                seen.insert(name.to_owned(), Seen::Settled);
            }
        }
        Ok(())
    }

    fn hides(&self, place: Place<'_>, entry: &Entry<'_>, found: &Statx) -> Result<bool> {
        if marks::is_whiteout(kind(found), found.stx_rdev_major, found.stx_rdev_minor) {
            return Ok(true);
        }
        if !place.whiteouts || kind(found) != FileType::RegularFile || found.stx_size != 0 {
            return Ok(false);
        }
        let mark = entry.mark(self.marks.whiteout());
        let mark = mark.map_err(|errno| self.failed("getxattr", place, entry.name, errno))?;
        Ok(mark.is_some())
    }

    /// Makes a file that is no directory.
    fn put(&mut self, place: Place<'_>, entry: &Entry<'_>, found: &Statx) -> Result<()> {
        let name = entry.name;
        if kind(found) == FileType::RegularFile {
            let mark = entry.mark(self.marks.metacopy());
            let mark = mark.map_err(|errno| self.failed("getxattr", place, name, errno))?;
            if mark.is_some() {
                return Err(self.redirected(place.layer, &below(place.path, name), "metacopy"));
            }
        }
        self.made.files += 1;
        if self.link(place, entry, found)? {
            self.made.linked += 1;
            return Ok(());
        }
        let to = Entry {
            directory: place.to,
            name,
        };
        match entry.copy_to(&to, found, self.marks) {
            Ok(Copied::Cloned) => self.made.cloned += 1,
            Ok(Copied::Bytes(bytes)) => self.made.bytes += bytes,
            Err(errno) => return Err(self.failed("copy", place, name, errno)),
        }
        Ok(())
    }

    /// Whether it could be made a further name, of the layer's file or of a copy made before.
    fn link(&mut self, place: Place<'_>, entry: &Entry<'_>, found: &Statx) -> Result<bool> {
        let name = entry.name;
        let none = AtFlags::empty();
        if self.how == Flatten::HardLink {
            linkat(place.from, name, place.to, name, none)
                .map_err(|errno| self.failed("link", place, name, errno))?;
            return Ok(true);
        }
        if found.stx_nlink < 2 {
            return Ok(false);
        }
        let device = (found.stx_dev_major, found.stx_dev_minor);
        let key = (place.layer, device.0, device.1, found.stx_ino);
        let Some(first) = self.first_names.get(&key) else {
            self.first_names.insert(key, below(place.path, name));
            return Ok(false);
        };
        let (parent, last) = (first.parent(), first.file_name());
        let parent = parent.filter(|path| !path.as_os_str().is_empty());
        let parent = self.open_target(parent.unwrap_or(Path::new(".")))?;
        linkat(parent, last.unwrap_or_default(), place.to, name, none)
            .map_err(|errno| self.failed("link", place, name, errno))?;
        Ok(true)
    }

    fn make_directories(
        &self,
        path: &Path,
        to: BorrowedFd<'_>,
        seen: HashMap<CString, Seen>,
        tasks: &mut Vec<Task>,
    ) -> Result<()> {
        for (name, seen) in seen {
            let (Seen::Directory(layers) | Seen::Closed(layers)) = seen else {
                continue;
            };
            let path = below(path, &name);
            let entry = Entry {
                directory: to,
                name: &name,
            };
            entry
                .make_directory()
                .map_err(Error::sys("mkdir", &self.target.join(&path)))?;
            tasks.push(Task::Enter { path, layers });
        }
        Ok(())
    }

    fn leave(&self, path: &Path, layer: usize) -> Result<()> {
        let (from, to) = (self.open_layer(layer, path)?, self.open_target(path)?);
        let here = |directory| Entry {
            directory,
            name: c".",
        };
        let (from, to) = (here(from.as_fd()), here(to.as_fd()));
        from.stat()
            .and_then(|found| from.copy_attributes_to(&to, &found, self.marks))
            .map_err(Error::sys("set attributes of", &self.target.join(path)))
    }

    /// What a directory says of those below it: the letter of its opaque mark.
    fn check_marks(&self, layer: usize, path: &Path, from: BorrowedFd<'_>) -> Result<Option<u8>> {
        let here = Entry {
            directory: from,
            name: c".",
        };
        let shown = self.layers[layer].path.join(path);
        let mark = |name| here.mark(name).map_err(Error::sys("getxattr", &shown));
        if mark(self.marks.redirect())?.is_some() {
            return Err(self.redirected(layer, path, "redirect"));
        }
        let opaque = mark(self.marks.opaque())?;
        Ok(opaque.and_then(|value| match value[..] {
            [letter] => Some(letter),
            _ => None,
        }))
    }

    fn open_layer(&self, layer: usize, path: &Path) -> Result<OwnedFd> {
        let layer = &self.layers[layer];
        beneath::open(&layer.root, path, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(Error::sys("open", &layer.path.join(path)))
    }

    fn open_target(&self, path: &Path) -> Result<OwnedFd> {
        beneath::open(&self.root, path, OFlags::PATH | OFlags::DIRECTORY)
            .map_err(Error::sys("open", &self.target.join(path)))
    }

    fn failed(&self, op: &'static str, place: Place<'_>, name: &CStr, errno: Errno) -> Error {
        let path = below(place.path, name);
        Error::sys(op, &self.layers[place.layer].path.join(path))(errno)
    }

    fn redirected(&self, layer: usize, path: &Path, mark: &'static str) -> Error {
        Error::from(Inner::RedirectedLayer {
            path: path.to_owned(),
            layer: self.layers[layer].path.clone(),
            mark,
        })
    }
}

/// A path below a layer's root, which is itself not in it.
fn below(path: &Path, name: &CStr) -> PathBuf {
    let name = OsStr::from_bytes(name.to_bytes());
    match path == Path::new(".") {
        true => name.into(),
        false => path.join(name),
    }
}
