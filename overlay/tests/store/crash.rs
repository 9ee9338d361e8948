//! Processes killed at any time.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_overlay::{Digest, Expected, LayerStore};
use cofferdam_testkit::turns;

use crate::world::{World, in_world, tar};

const VARIABLE: &str = "COFFERDAM_KILLED_STORE";

/// In the mount namespace of the calling thread.
fn worker(world: &World) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::works_until_it_is_killed", "--nocapture"])
        .env(VARIABLE, world.path("store"))
        .stdout(Stdio::null())
        .stderr(fs::File::create(world.path("stderr")).unwrap())
        .spawn()
        .unwrap()
}

/// Run by the test below: applies, one by one or side by side, commits and collects, round and round.
#[test]
fn works_until_it_is_killed() {
    let Some(path) = std::env::var_os(VARIABLE) else {
        return;
    };
    let base = Path::new(&path).parent().unwrap().to_owned();
    let [first, second] =
        ["first.tar", "second.tar"].map(|name| fs::read(base.join(name)).unwrap());
    // The process' id is as good as dice.
    for round in std::process::id().. {
        let store = LayerStore::open(&path).unwrap();
        let expected = Expected::diff_id(Digest::of(&second));
        let top = match round % 2 {
            0 => {
                let below = store.apply(None, &first[..], Expected::default()).unwrap();
                store.apply(Some(&below), &second[..], expected).unwrap()
            }
            _ => {
                let layers = [(&first[..], Expected::default()), (&second[..], expected)];
                let store = store.with_threads(2);
                store.apply_all(None, layers).unwrap().unwrap()
            }
        };
        drop(store.commit(Some(&top), base.join("changes")).unwrap());
        assert_eq!(store.collect().unwrap().layers.len(), 1);
        top.persist("kept").unwrap();
        store.forget("kept").unwrap();
        assert_eq!(store.collect().unwrap().layers.len(), 2);
    }
}

#[test]
fn a_process_killed_at_any_time_leaves_a_whole_store() {
    in_world(|world| {
        prepare(world);
        let (mut dice, mut found) = (88_172_645_463_325_252_u64, Found::default());
        let window = first_layer(world) * 6;
        let start = Instant::now();
        // Fewer where the machine is slow.
        for _ in (0..turns(200, 12)).take_while(|_| start.elapsed() < Duration::from_secs(60)) {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            let mut child = worker(world);
            wait_for_work(world, &mut child);
            thread::sleep(window.mul_f64((dice % 1000) as f64 / 1000.0));
            assert!(child.try_wait().unwrap().is_none(), "{}", said(world));
            child.kill().unwrap();
            child.wait().unwrap();
            found.look(world);
            assert_whole(world);
        }
        // Else it was never killed at work.
        assert!(
            found.staged > 0 && found.leased > 0 && found.layers > 0,
            "{found:?}"
        );
        for area in ["layers", "staging", "leases", "locks", "pins", "images"] {
            assert_eq!(world.names(area), [""; 0], "{area}");
        }
    });
}

fn prepare(world: &World) {
    let file = |n: usize| (format!("{}/{n}", n % 7), "x".repeat(n * 100));
    let files: Vec<_> = (0..60).map(file).collect();
    let files: Vec<_> = files
        .iter()
        .map(|(name, text)| (&**name, &**text))
        .collect();
    fs::write(world.path("first.tar"), tar(&world.base, &files)).unwrap();
    fs::write(world.path("second.tar"), tar(&world.base, &files[..30])).unwrap();
    for n in 0..30 {
        let path = world.path("changes").join(format!("{n}/file"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "changed").unwrap();
    }
}

/// Why it ended before it was killed.
fn said(world: &World) -> String {
    fs::read_to_string(world.path("stderr")).unwrap()
}

/// How long one takes to make a layer: a round makes three.
fn first_layer(world: &World) -> Duration {
    let mut child = worker(world);
    wait_for_work(world, &mut child);
    let start = Instant::now();
    while world.names("layers").is_empty() {
        assert!(start.elapsed() < Duration::from_secs(60), "it makes none");
    }
    let taken = start.elapsed();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_whole(world);
    taken.max(Duration::from_millis(5))
}

/// A process takes long to start.
fn wait_for_work(world: &World, child: &mut Child) {
    let start = Instant::now();
    while world.names("staging").is_empty() && world.names("leases").is_empty() {
        assert!(start.elapsed() < Duration::from_secs(60), "it does nothing");
        assert!(child.try_wait().unwrap().is_none(), "{}", said(world));
        thread::yield_now();
    }
}

/// How often something was there that a killed process left.
#[derive(Debug, Default)]
struct Found {
    staged: u32,
    leased: u32,
    layers: u32,
}

impl Found {
    fn look(&mut self, world: &World) {
        self.staged += u32::from(!world.names("staging").is_empty());
        self.leased += u32::from(!world.names("leases").is_empty());
        self.layers += u32::from(!world.names("layers").is_empty());
    }
}

/// Opening it cleans up, each layer in it is whole, and all of them can be collected.
fn assert_whole(world: &World) {
    let store = LayerStore::open(world.path("store")).unwrap();
    assert_eq!(world.names("staging"), [""; 0]);
    assert_eq!(world.names("leases"), [""; 0]);
    assert_eq!(store.check().unwrap(), []);
    store.forget("kept").unwrap();
    store.collect().unwrap();
    assert_eq!(world.names("layers"), [""; 0]);
}
