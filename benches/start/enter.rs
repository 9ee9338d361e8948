//! How long it takes to start a program in a running container, in seven namespaces, to its execve(2).

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

use cofferdam_namespaces::{Command, IdMap, RootFs, Spawned};

pub(crate) fn rows(rounds: usize, root: &Path) {
    let target = container(root);
    let command = Command::new("/bin/true");
    let ours = || {
        let start = Instant::now();
        let mut child = command.enter(&target).unwrap();
        let took = start.elapsed();
        assert!(child.wait().unwrap().success());
        took
    };
    let filter = super::sys::Filter::docker_default();
    let floor = || super::sys::enter(target.as_fd(), c"/bin/true", &filter);
    let id = "exec/7ns";
    let sides: [super::Side<'_>; 2] = [(id, "ours", &ours), (id, "floor", &floor)];
    super::in_turns(rounds, &sides);
}

/// One with a user namespace, whose program waits for ever.
fn container(root: &Path) -> Spawned {
    Command::new("/bin/pause")
        .root(RootFs::directory(root))
        .id_map(IdMap::range(100_000, 65_536))
        .spawn()
        .unwrap_or_else(|error| panic!("{error}"))
}
