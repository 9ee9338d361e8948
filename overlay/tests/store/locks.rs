//! Who waits for whom.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_overlay::{Digest, ErrorKind, Expected, LayerStore};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use crate::world::{in_world, tar};

/// Does `first` when it is read, and then is what `inner` is.
struct Meanwhile<F: FnMut(), R> {
    first: F,
    inner: R,
}

impl<F: FnMut(), R: Read> Read for Meanwhile<F, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (self.first)();
        self.inner.read(buffer)
    }
}

/// Copies of all fds of this process that are of files below `path`, as a process forked without execve(2) has them.
fn forked(path: &Path) -> Vec<OwnedFd> {
    let own = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let fds = fs::read_dir("/proc/self/fd").unwrap();
    let numbers = fds.filter_map(|entry| {
        let entry = entry.ok()?;
        let of = fs::read_link(entry.path()).ok()?;
        of.starts_with(path)
            .then(|| entry.file_name().to_str()?.parse().ok())?
    });
    numbers
        .filter_map(|number| pidfd_getfd(&own, number, PidfdGetfdFlags::empty()).ok())
        .collect()
}

#[test]
fn what_a_forked_process_has_open_locks_nothing() {
    in_world(|world| {
        let layer = tar(&world.base, &[("a", "b")]);
        let mut copies = Vec::new();
        let reader = Meanwhile {
            first: || copies.append(&mut forked(&world.path("store"))),
            inner: &layer[..],
        };
        let expected = Expected::diff_id(Digest::of(&layer));
        let made = world.store.apply(None, reader, expected).unwrap();
        assert!(copies.len() > 3, "{copies:?}");
        drop(made);
        let other = LayerStore::open(world.path("store")).unwrap();
        assert_eq!(other.collect().unwrap().layers, [Digest::of(&layer)]);
        drop(other.apply(None, &layer[..], expected).unwrap());
        drop(copies);
    });
}

#[test]
fn no_layer_appears_while_others_collect() {
    in_world(|world| {
        let layer = tar(&world.base, &[("a", "b")]);
        let lock = File::open(world.path("store/lock")).unwrap();
        let reader = Meanwhile {
            first: || flock(&lock, FlockOperation::LockExclusive).unwrap(),
            inner: &layer[..],
        };
        thread::scope(|scope| {
            // Known by its diff id: it is looked for before it is read, and not again.
            let expected = Expected::diff_id(Digest::of(&layer));
            let apply = move || world.store.apply(None, reader, expected);
            let applied = scope.spawn(apply);
            wait_until_one_waits();
            assert_eq!(world.names("layers"), [""; 0]);
            assert_eq!(world.names("leases"), [""; 0]);
            flock(&lock, FlockOperation::Unlock).unwrap();
            let _made = applied.join().unwrap().unwrap();
            assert_eq!(world.names("layers").len(), 1);
        });
    });
}

/// For a flock, as the kernel tells: `1: -> FLOCK ADVISORY READ 123 ...`.
fn wait_until_one_waits() {
    let own = format!(" {} ", std::process::id());
    let start = Instant::now();
    loop {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        let mut lines = locks.lines();
        if lines.any(|line| line.contains("-> FLOCK  ADVISORY  READ") && line.contains(&own)) {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "none waits");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn layers_of_another_store_are_refused() {
    in_world(|world| {
        let layer = tar(&world.base, &[("a", "b")]);
        let other = LayerStore::open(world.path("other")).unwrap();
        let there = other.apply(None, &layer[..], Expected::default()).unwrap();
        let again = tar(&world.base, &[("c", "d")]);
        let refused = |error: cofferdam_overlay::Error| {
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            assert!(error.to_string().contains("of another"), "{error}");
        };
        let store = &world.store;
        refused(
            store
                .apply(Some(&there), &again[..], Expected::default())
                .unwrap_err(),
        );
        fs::create_dir(world.path("upper")).unwrap();
        refused(store.commit(Some(&there), world.path("upper")).unwrap_err());
        #[cfg(feature = "images")]
        refused(
            store
                .image(Some(&there), &cofferdam_overlay::ImageConfig::default())
                .unwrap_err(),
        );
        for area in ["layers", "staging", "leases"] {
            assert_eq!(world.names(area), [""; 0], "{area}");
        }
        // Opened twice it is the same store still.
        let same = LayerStore::open(world.path("other")).unwrap();
        let _made = same
            .apply(Some(&there), &again[..], Expected::default())
            .unwrap();
    });
}
