//! What the threads share: a root to run in, volumes, a store of layers, networks, and containers.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use cofferdam::overlay::{LayerRef, LayerStore};
use cofferdam::{Container, Network, Reference, Rootfs, Running, Volumes, reap_in};

use super::tally::{Tally, lock};

/// Programs from which all others are made.
const PROGRAMS: [&str; 2] = ["/bin/sh", "/bin/sleep"];
/// One of these loads them.
const LOADERS: [&str; 4] = [
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/ld-musl-x86_64.so.1",
    "/lib/ld-musl-aarch64.so.1",
];
const PLACES: [&str; 8] = ["dev", "proc", "sys", "etc", "tmp", "data", "extra", "run"];

pub(super) struct World {
    dir: PathBuf,
    pub(super) store: LayerStore,
    /// The root again, as a layer of the store.
    pub(super) base: Arc<LayerRef>,
    pub(super) volumes: Volumes,
    pub(super) networks: Mutex<Vec<Network>>,
    members: Mutex<Vec<Arc<Member>>>,
    pub(super) detached: Mutex<Vec<Reference>>,
    last: AtomicU64,
}

/// A container that any thread may work on.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) running: Running,
    /// The code it ends with by itself or when it is told to end, where that is known.
    pub(super) code: Option<i32>,
    /// Nothing of its network is this process's, so that it can be detached.
    pub(super) alone: bool,
    /// What it writes to is a throw-away upper over layers of the store.
    pub(super) layered: bool,
}

impl World {
    pub(super) fn new() -> Result<Self, String> {
        let memory = Path::new("/dev/shm");
        let parent = match memory.is_dir() {
            true => memory.to_owned(),
            false => std::env::temp_dir(),
        };
        let dir = parent.join(format!("cofferdam-soak-{}", std::process::id()));
        let layer = fs::create_dir_all(dir.join("layer/data"));
        let layer = layer.and_then(|()| fs::write(dir.join("layer/data/first"), "above it"));
        layer.map_err(|error| format!("make a layer: {error}"))?;
        make_root(&dir.join("root")).map_err(|error| format!("make a root: {error}"))?;
        let told = |error: cofferdam::overlay::Error| error.to_string();
        let store = LayerStore::open(dir.join("store")).map_err(told)?;
        let base = store.commit(None, dir.join("root")).map_err(told)?;
        let volumes = Volumes::open(dir.join("volumes")).map_err(|error| error.to_string())?;
        Ok(World {
            store,
            base: Arc::new(base),
            volumes,
            networks: Mutex::default(),
            members: Mutex::default(),
            detached: Mutex::default(),
            last: AtomicU64::new(0),
            dir,
        })
    }

    pub(super) fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// To be put on top of the root.
    pub(super) fn layer(&self) -> PathBuf {
        self.dir.join("layer")
    }

    pub(super) fn runtime(&self) -> PathBuf {
        self.dir.join("runtime")
    }

    /// Directories for an upper that is named, of which there are few.
    pub(super) fn upper(&self, number: u64) -> std::io::Result<[PathBuf; 2]> {
        let both = ["upper", "work"].map(|name| self.dir.join(format!("{name}-{number}")));
        both.iter().try_for_each(fs::create_dir_all)?;
        Ok(both)
    }

    /// What no other has had.
    pub(super) fn number(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn container(&self, name: &str) -> cofferdam::ContainerBuilder {
        let builder = Container::builder().name(name).runtime_dir(self.runtime());
        builder.rootfs(Rootfs::layers([self.root()]))
    }

    pub(super) fn containers(&self) -> usize {
        lock(&self.members).len()
    }

    pub(super) fn add(&self, member: Member) {
        lock(&self.members).push(Arc::new(member));
    }

    /// One that others may have too.
    pub(super) fn share(&self, at: u64) -> Option<Arc<Member>> {
        let members = lock(&self.members);
        members.get(index(at, members.len())?).cloned()
    }

    /// One that nobody finds any more, though some may have it yet.
    pub(super) fn take(&self, at: u64) -> Option<Arc<Member>> {
        let mut members = lock(&self.members);
        let at = index(at, members.len())?;
        Some(members.swap_remove(at))
    }

    pub(super) fn network(&self, at: u64) -> Option<Network> {
        let networks = lock(&self.networks);
        networks.get(index(at, networks.len())?).cloned()
    }

    /// The programs alone, in a hurry. What else there is ends with this process, or is for `reap_in`.
    pub(super) fn kill(&self) {
        for member in lock(&self.members).iter() {
            let _tried = member.running.kill().is_ok();
        }
    }

    /// All of it, when the threads have ended.
    pub(super) fn remove(self, tally: &Tally) {
        for member in std::mem::take(&mut *lock(&self.members)) {
            let member = Arc::into_inner(member);
            match member.map(|member| member.running.remove()) {
                Some(removed) => drop(tally.check("remove", removed)),
                None => tally.fail("somebody still has a container"),
            }
        }
        for reference in std::mem::take(&mut *lock(&self.detached)) {
            let attached = tally.check("attach", Running::attach(&reference));
            let removed = attached.map(Running::remove);
            removed.and_then(|removed| tally.check("remove", removed));
        }
        for network in std::mem::take(&mut *lock(&self.networks)) {
            tally.check("remove network at the end", network.remove());
        }
        for name in tally
            .check("list volumes", self.volumes.names())
            .into_iter()
            .flatten()
        {
            tally.check("remove volume at the end", self.volumes.remove(&name));
        }
        if let Some(reaped) = tally.check("reap", reap_in(self.runtime())) {
            tally.expect(reaped.failed.is_empty(), || format!("{reaped:?}"));
        }
        let left = fs::read_dir(self.runtime()).into_iter().flatten().flatten();
        let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
        tally.expect(left.is_empty(), || format!("records are left: {left:?}"));
        self.unpack(tally);
    }

    fn unpack(self, tally: &Tally) {
        let World {
            dir, store, base, ..
        } = self;
        let told = |what, error: String| tally.fail(format!("{what}: {error}"));
        match Arc::into_inner(base).map(LayerRef::release) {
            Some(Ok(())) => {}
            Some(Err(error)) => told("release the base", error.to_string()),
            None => told("release the base", "somebody has it".to_owned()),
        }
        if let Err(error) = store.collect() {
            told("collect", error.to_string());
        }
        match store.check() {
            Ok(findings) => tally.expect(findings.is_empty(), || format!("{findings:?}")),
            Err(error) => told("check the store", error.to_string()),
        }
        if let Err(error) = fs::remove_dir_all(&dir) {
            told("remove the directory", error.to_string());
        }
    }
}

fn index(at: u64, len: usize) -> Option<usize> {
    usize::try_from(at.checked_rem(len as u64)?).ok()
}

/// A shell, what it is linked to, and places for mounts.
fn make_root(root: &Path) -> std::io::Result<()> {
    for place in PLACES {
        fs::create_dir_all(root.join(place))?;
    }
    fs::write(root.join("data/first"), "of the root")?;
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n")?;
    // Where it is read-only, places for files have to be there.
    for file in ["resolv.conf", "hosts", "hostname", "told"] {
        fs::write(root.join("etc").join(file), "")?;
    }
    fs::create_dir_all(root.join("run/secrets"))?;
    let maps = maps_of_a_shell()?;
    let mapped = maps.lines().filter_map(|line| line.split_once('/'));
    let libraries = mapped.map(|(_, path)| format!("/{path}"));
    let libraries = libraries.filter(|path| path.contains(".so"));
    let programs = PROGRAMS
        .iter()
        .chain(&LOADERS)
        .map(|path| (*path).to_owned());
    for path in programs.chain(libraries) {
        let inside = root.join(path.trim_start_matches('/'));
        if Path::new(&path).exists() && !inside.exists() {
            fs::create_dir_all(inside.parent().unwrap_or(root))?;
            fs::copy(path, inside)?;
        }
    }
    Ok(())
}

/// What a shell is linked to, as it runs.
fn maps_of_a_shell() -> std::io::Result<String> {
    let mut shell = Command::new(PROGRAMS[0])
        .args(["-c", "echo; read end"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut newline = [0];
    let runs = shell
        .stdout
        .as_mut()
        .map(|out| out.read_exact(&mut newline));
    let maps = runs.unwrap_or(Ok(())).and_then(|()| {
        let path = format!("/proc/{}/maps", shell.id());
        fs::read_to_string(path)
    });
    drop(shell.stdin.take());
    shell.wait()?;
    maps
}
