//! The directories of the layer as far as they are made, and their fds.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, mkdirat, unlinkat};
use rustix::io::Errno;

use super::lower::open_directory;
use super::meta::Meta;

/// The layer itself.
pub(crate) const ROOT: u32 = 0;

/// Open directories at a time: few of what a process may have, and enough for archives, which go by directories.
const OPEN: usize = 48;

/// A directory that exists in the layer.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) parent: u32,
    pub(crate) name: Box<[u8]>,
    pub(crate) depth: usize,
    pub(crate) meta: Meta,
    /// There is no entry for it, only for what is in it.
    pub(crate) implied: bool,
    pub(crate) opaque: bool,
    pub(crate) removed: bool,
    children: Vec<u32>,
    fd: Option<Rc<OwnedFd>>,
}

#[derive(Debug)]
pub(crate) struct Tree {
    directories: Vec<Directory>,
    /// By the parent's number and the name.
    by_name: HashMap<Box<[u8]>, u32>,
    key: Vec<u8>,
    open: VecDeque<u32>,
    root: Rc<OwnedFd>,
}

impl Tree {
    pub(crate) fn new(root: OwnedFd) -> Self {
        let root = Rc::new(root);
        let directory = Directory {
            parent: ROOT,
            name: Box::default(),
            depth: 0,
            meta: Meta::default(),
            implied: true,
            opaque: false,
            removed: false,
            children: Vec::new(),
            fd: Some(root.clone()),
        };
        Tree {
            directories: vec![directory],
            by_name: HashMap::new(),
            key: Vec::new(),
            open: VecDeque::new(),
            root,
        }
    }

    /// All there ever were, parents before what is in them.
    pub(crate) fn count(&self) -> u32 {
        // Each counts as an entry, of which there are fewer than that: see `make`.
        u32::try_from(self.directories.len()).unwrap_or(u32::MAX)
    }

    pub(crate) fn directory(&self, id: u32) -> &Directory {
        &self.directories[id as usize]
    }

    pub(crate) fn directory_mut(&mut self, id: u32) -> &mut Directory {
        &mut self.directories[id as usize]
    }

    pub(crate) fn child(&mut self, parent: u32, name: &[u8]) -> Option<u32> {
        self.set_key(parent, name);
        self.by_name.get(self.key.as_slice()).copied()
    }

    /// The directory at `path`, as far as each step is one of the layer: the last that is, and how many steps that took.
    pub(crate) fn walk<N: AsRef<[u8]>>(&mut self, path: &[N]) -> (u32, usize) {
        let mut id = ROOT;
        for (steps, name) in path.iter().enumerate() {
            match self.child(id, name.as_ref()) {
                Some(child) => id = child,
                None => return (id, steps),
            }
        }
        (id, path.len())
    }

    pub(crate) fn path(&self, mut id: u32) -> Vec<Vec<u8>> {
        let mut path = Vec::new();
        while id != ROOT {
            path.push(self.directory(id).name.to_vec());
            id = self.directory(id).parent;
        }
        path.reverse();
        path
    }

    /// Its fd, opened beneath the root without following a symlink: what others do to the layer meanwhile makes it fail.
    pub(crate) fn fd(&mut self, id: u32) -> Result<Rc<OwnedFd>, Errno> {
        if let Some(fd) = &self.directory(id).fd {
            return Ok(fd.clone());
        }
        let parent = self.directory(id).parent;
        let fd = match &self.directory(parent).fd {
            Some(parent) => open_directory(parent, &self.directory(id).name)?,
            None => self.open_by_path(id)?,
        };
        let fd = Rc::new(fd);
        self.directory_mut(id).fd = Some(fd.clone());
        self.open.push_back(id);
        if self.open.len() > OPEN {
            if let Some(oldest) = self.open.pop_front() {
                self.directory_mut(oldest).fd = None;
            }
        }
        Ok(fd)
    }

    /// A path may be longer than the kernel takes at once.
    fn open_by_path(&self, id: u32) -> Result<OwnedFd, Errno> {
        let path = self.path(id);
        let joined = path.join(&b'/');
        if joined.len() < 4000 {
            return open_directory(&self.root, &joined);
        }
        let mut fd: Option<OwnedFd> = None;
        for names in path.chunks(15) {
            let from = fd.as_ref().unwrap_or(&self.root);
            fd = Some(open_directory(from, &names.join(&b'/'))?);
        }
        fd.ok_or(Errno::NOENT)
    }

    /// Makes a directory that only its owner can enter: its mode is set when all is done.
    pub(crate) fn make(&mut self, parent: u32, name: &[u8]) -> Result<u32, Errno> {
        let id = u32::try_from(self.directories.len()).map_err(|_too_many| Errno::NFILE)?;
        mkdirat(self.fd(parent)?, name, Mode::RWXU)?;
        let depth = self.directory(parent).depth + 1;
        self.directories.push(Directory {
            parent,
            name: name.into(),
            depth,
            meta: Meta::default(),
            implied: true,
            opaque: false,
            removed: false,
            children: Vec::new(),
            fd: None,
        });
        self.directory_mut(parent).children.push(id);
        self.set_key(parent, name);
        self.by_name.insert(self.key.as_slice().into(), id);
        Ok(id)
    }

    /// Removes a directory and all in it.
    pub(crate) fn remove(&mut self, id: u32) -> Result<(), Errno> {
        let parent = self.directory(id).parent;
        let name = self.directory(id).name.clone();
        let fd = self.fd(parent)?;
        remove_all(&fd, &name)?;
        self.forget(id);
        Ok(())
    }

    fn forget(&mut self, id: u32) {
        let mut gone = vec![id];
        while let Some(id) = gone.pop() {
            let directory = self.directory_mut(id);
            directory.removed = true;
            directory.meta = Meta::default();
            gone.append(&mut directory.children);
            let name = std::mem::take(&mut directory.name);
            let parent = directory.parent;
            if directory.fd.take().is_some() {
                self.open.retain(|open| *open != id);
            }
            self.set_key(parent, &name);
            if self.by_name.get(self.key.as_slice()) == Some(&id) {
                self.by_name.remove(self.key.as_slice());
            }
        }
    }

    /// It and all directories in it.
    pub(crate) fn below(&self, id: u32) -> Vec<u32> {
        let mut all = vec![id];
        let mut next = 0;
        while let Some(id) = all.get(next) {
            all.extend_from_slice(&self.directory(*id).children);
            next += 1;
        }
        all.retain(|id| !self.directory(*id).removed);
        all
    }

    fn set_key(&mut self, parent: u32, name: &[u8]) {
        self.key.clear();
        self.key.extend_from_slice(&parent.to_ne_bytes());
        self.key.extend_from_slice(name);
    }
}

/// Removes all that is in a directory.
pub(crate) fn empty(directory: impl AsFd) -> Result<(), Errno> {
    let mut levels: Vec<(Dir, Vec<u8>)> = vec![(Dir::read_from(directory)?, Vec::new())];
    // Not by recursion: how deep it goes is the layer's choice.
    while let Some((listing, _)) = levels.last_mut() {
        let Some(entry) = listing.read().transpose()? else {
            let name = levels.pop().map(|(_, name)| name).unwrap_or_default();
            if let Some((above, _)) = levels.last() {
                unlinkat(above.fd()?, name.as_slice(), AtFlags::REMOVEDIR)?;
            }
            continue;
        };
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        match entry.file_type() {
            FileType::Directory => {
                let name = name.to_vec();
                let below = open_directory(listing.fd()?, &name)?;
                levels.push((Dir::new(below)?, name));
            }
            FileType::Unknown => match unlinkat(listing.fd()?, name, AtFlags::empty()) {
                Err(Errno::ISDIR) => {
                    let name = name.to_vec();
                    let below = open_directory(listing.fd()?, &name)?;
                    levels.push((Dir::new(below)?, name));
                }
                done => done?,
            },
            _ => unlinkat(listing.fd()?, name, AtFlags::empty())?,
        }
    }
    Ok(())
}

fn remove_all(parent: impl AsFd, name: &[u8]) -> Result<(), Errno> {
    empty(open_directory(&parent, name)?)?;
    unlinkat(parent, name, AtFlags::REMOVEDIR)
}
