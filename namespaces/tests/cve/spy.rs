//! A container looks at whoever enters it, or starts beside it, before the program runs.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use cofferdam_namespaces::{
    Capabilities, Capability, Command, Mount, Namespace, Namespaces, RootFs, Spawned,
};
use cofferdam_testkit::{Need, have};

use crate::support::{Scratch, rooted, turns};

/// What it is called by a process that is still to become a program, and nothing else is.
const STUB: &str = "cofferdam-stub";

/// The payload: looks, for ever, at `what` of every process but its own. What it finds of a stub's goes to `/mnt/seen`, what
/// capabilities each process has to `/mnt/glances`.
pub(crate) fn spy(what: &str) -> ! {
    let [mut seen, mut glances] =
        ["/mnt/seen", "/mnt/glances"].map(|path| File::create(path).unwrap());
    loop {
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            if name == "1" || !name.bytes().all(|byte| byte.is_ascii_digit()) {
                continue;
            }
            // Once in a write, so that a line is whole or not there.
            let status = fs::read_to_string(format!("/proc/{name}/status")).unwrap_or_default();
            let field = |key| status.lines().find_map(|line| line.strip_prefix(key));
            if let (Some(name), Some(set)) = (field("Name:\t"), field("CapPrm:\t")) {
                glances
                    .write_all(format!("{name} {set}\n").as_bytes())
                    .unwrap();
            }
            for file in what.split(' ') {
                let found = look(&format!("/proc/{name}/{file}"));
                // The program may have taken the stub's place by then, and is anybody's to look at.
                let exe = fs::read_link(format!("/proc/{name}/exe")).unwrap_or_default();
                if let (Some(found), true) = (found, exe.to_string_lossy().contains(STUB)) {
                    seen.write_all(format!("{file} {found}\n").as_bytes())
                        .unwrap();
                }
            }
        }
    }
}

fn look(path: &str) -> Option<String> {
    if let Ok(target) = fs::read_link(path) {
        return Some(target.display().to_string());
    }
    let mut file = File::open(path).ok()?;
    let mut bytes = [0; 16];
    // Nothing is mapped at the start of mem: to be let in is enough.
    let read = file.read(&mut bytes).unwrap_or(0);
    Some(String::from_utf8_lossy(&bytes[..read]).into_owned())
}

/// A container with the spy, and the directory that is its `/mnt`.
struct Watched {
    target: Spawned,
    notes: Scratch,
}

impl Watched {
    /// As root of the container.
    fn new(name: &str, what: &str, capabilities: Capabilities) -> Self {
        let notes = Scratch::new(name);
        let command = rooted(&format!("spy {what}"))
            .capabilities(capabilities)
            .mount(Mount::bind(&notes.0, "/mnt"));
        let target = command.spawn().unwrap();
        Watched { target, notes }
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.notes.0.join(name)).unwrap_or_default()
    }

    /// How often the spy has looked at a process before it was a program.
    fn glances(&self) -> usize {
        let glances = self.read("glances");
        glances
            .lines()
            .filter(|line| !line.starts_with("true "))
            .count()
    }

    /// Has programs enter, however fast or slow the machine, until the spy has had its chances.
    fn enter_often(&self) {
        let enough = turns(500, 20);
        let start = Instant::now();
        while self.glances() < enough {
            let late = start.elapsed() > Duration::from_secs(200);
            assert!(!late, "{} glances", self.glances());
            let entered = Command::new("/bin/true").enter(&self.target);
            for mut child in [entered.unwrap(), self.beside().spawn().unwrap()] {
                child.wait().unwrap();
            }
        }
    }

    /// A container of its own but for the processes, which makes all of its root where the spy can see it.
    fn beside(&self) -> Command {
        let pids = File::open(format!("/proc/{}/ns/pid", self.target.pid())).unwrap();
        Command::new("/bin/true")
            .root(RootFs::directory("/"))
            .mount(Mount::tmpfs("/mnt", 4096))
            .namespaces(Namespaces::default().join(Namespace::Pid, pids.into()))
    }
}

#[test]
fn cve_2016_9962_a_container_cannot_look_into_who_enters() {
    if !have(&[Need::Root]) {
        return;
    }
    let watched = Watched::new("memory", "exe maps mem auxv", Capabilities::default());
    watched.enter_often();
    assert_eq!(watched.read("seen"), "");
}

#[test]
fn directories_and_fds_of_who_is_starting_are_out_of_reach() {
    if !have(&[Need::Root]) {
        return;
    }
    let what = "root cwd environ fd/0 fd/1 fd/2 fd/3 fd/4 fd/5 fd/6 ns/mnt";
    let watched = Watched::new("directories", what, Capabilities::default());
    watched.enter_often();
    assert_eq!(watched.read("seen"), "");
}

/// One that may trace can: but what it finds has no more rights than the program will have.
#[test]
fn who_enters_never_has_more_capabilities_than_its_program() {
    if !have(&[Need::Root]) {
        return;
    }
    let more = Capabilities::default().with(Capability::CAP_SYS_PTRACE);
    let watched = Watched::new("capabilities", "exe", more);
    let start = Instant::now();
    while watched.read("seen").is_empty() || watched.glances() < 10 {
        assert!(start.elapsed() < Duration::from_secs(200), "it cannot look");
        let mut child = Command::new("/bin/true").enter(&watched.target).unwrap();
        child.wait().unwrap();
    }
    let glances = watched.read("glances");
    for line in glances.lines() {
        let known = ["00000000a80425fb", "00000000a80c25fb"];
        assert!(known.iter().any(|set| line.ends_with(set)), "{line}");
    }
}
