//! Containers that die with their embedder.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cofferdam::{ErrorKind, Network, Stdio as Stream, reap_in};
use cofferdam_testkit::{Need, NetNs, have};

use crate::{Dir, UNTIL_TOLD, runs, shell};

const EMBEDDER: &str = "COFFERDAM_LIFELINE";

/// Not a test of its own: the embedder. It starts a container on a thread that ends, enters it, and waits to be killed.
#[test]
fn embedder() {
    let Some(dir) = std::env::var_os(EMBEDDER) else {
        return;
    };
    let network = Network::bridge("k").runtime_dir(&dir).create().unwrap();
    let builder = shell("k", UNTIL_TOLD).runtime_dir(&dir).network(&network);
    let builder = builder.stdout(Stream::inherit()).die_with_embedder(true);
    let web = std::thread::scope(|scope| scope.spawn(|| builder.start().unwrap()).join());
    let web = web.unwrap();
    let other = web.exec("sleep").arg("1000").stdout(Stream::inherit());
    let other = other.spawn().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert!(web.exec("true").status().unwrap().success());
    println!("here");
    std::thread::sleep(Duration::from_secs(1000));
    drop(other);
}

/// This binary again, in the network namespace of the calling thread.
fn start_embedder(dir: &Dir) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let command = command.args(["--exact", "lifeline::embedder", "--nocapture"]);
    let command = command.args(["--test-threads=1"]).env(EMBEDDER, &dir.0);
    command.stdout(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_killed_embedder_takes_its_containers_along_and_the_rest_is_for_reap() {
    if !have(&[Need::Root, Need::Namespaces]) {
        return;
    }
    NetNs::new().run(|| {
        let dir = Dir::new("lifeline");
        let living = shell("living", UNTIL_TOLD).runtime_dir(&dir.0);
        let living = living.die_with_embedder(true).start().unwrap();
        let mut embedder = start_embedder(&dir);
        let mut lines = BufReader::new(embedder.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("here") {
            line.clear();
            assert!(lines.read_line(&mut line).unwrap() > 0, "it says nothing");
        }
        embedder.kill().unwrap();
        // All of its processes have its standard output: they are dead when that ends.
        let start = Instant::now();
        let (end, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            lines.read_to_end(&mut Vec::new()).unwrap();
            let _heard = end.send(start.elapsed()).is_ok();
        });
        let took = ended.recv_timeout(Duration::from_secs(30));
        let took = took.unwrap_or(Duration::MAX);
        println!("dead {took:?} after SIGKILL of the embedder");
        embedder.wait().unwrap();
        assert!(dir.records().len() > 1, "records are left to be found");
        let reaped = reap_in(&dir.0).unwrap();
        assert!(took < Duration::from_secs(5), "{took:?}");
        assert!(reaped.failed.is_empty(), "{:?}", reaped.failed);
        let text: Vec<_> = reaped.removed.iter().map(ToString::to_string).collect();
        assert!(
            text.iter().any(|line| line.starts_with("bridge ")),
            "{text:?}"
        );
        assert_eq!(dir.records().len(), 1);
        assert!(runs(living.pid()), "those of another embedder live");
        living.remove().unwrap();
    });
}

#[test]
fn it_cannot_be_detached_and_forwards_signals() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let dir = Dir::new("mortal");
    let mortal = || {
        let web = shell("web", UNTIL_TOLD).runtime_dir(&dir.0);
        web.die_with_embedder(true).start().unwrap()
    };
    let web = mortal();
    let pid = web.pid();
    let error = web.detach().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(
        error.to_string(),
        "container web: detach \"web\": is to die with this process"
    );
    assert!(!runs(pid) && dir.records().is_empty());
    // Its init takes the signal whether the program is ready for it or not.
    let script = format!("trap 'exit 7' TERM; echo here; {UNTIL_TOLD}");
    let web = shell("web", &script)
        .runtime_dir(&dir.0)
        .die_with_embedder(true);
    let mut web = web.stdout(Stream::piped()).start().unwrap();
    web.take_stdout().unwrap().read_exact(&mut [0; 4]).unwrap();
    assert_eq!(web.stop(Duration::from_secs(10)).unwrap().code(), Some(7));
}
