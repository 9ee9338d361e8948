//! A container as its programs see it: a network namespace, and a resolv.conf and nsswitch.conf of its own.
#![expect(
    clippy::unwrap_used,
    reason = "a fixture that cannot do its work has failed the test"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cofferdam_dns::{Endpoint, ResolvConf, Scope, Server, Service, SharedZone, Zone};
use cofferdam_testkit::{Need, NetNs, have, is_emulated, skip};

use crate::common::{A, Container, Upstream, reply_code, reply_with, start};

const UPSTREAM: &str = "127.0.0.1:5300";
/// What each client is run by: the files are bound over the machine's in a mount namespace that ends with it.
const AS_CONTAINER: &str = "mount --bind \"$1/resolv.conf\" /etc/resolv.conf && \
    { [ ! -e /etc/nsswitch.conf ] || mount --bind \"$1/nsswitch.conf\" /etc/nsswitch.conf; } && \
    shift && exec \"$@\"";

/// Fields drop in this order.
pub(crate) struct World {
    pub(crate) upstream: Upstream,
    _endpoint: Endpoint,
    _server: Server,
    _host: NetNs,
    container: Container,
    etc: PathBuf,
}

/// What a client made of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) lines: Vec<String>,
    pub(crate) took: Duration,
}

impl World {
    /// Names of the network `app`, seen through `scope`; an upstream that knows outside.example.
    pub(crate) fn new(scope: impl FnOnce(Scope) -> Scope) -> Self {
        World::with(&ResolvConf::new(), scope)
    }

    /// The same, for a user with `wishes`.
    pub(crate) fn with(wishes: &ResolvConf, scope: impl FnOnce(Scope) -> Scope) -> Self {
        let host = NetNs::new();
        let upstream = Upstream::new(&host, UPSTREAM, |query| vec![outside(query)]);
        let server = start(&host, &[UPSTREAM]);
        let container = Container::new();
        let endpoint = container.serve(&server, scope(Scope::from(&zone())));
        static WORLDS: AtomicUsize = AtomicUsize::new(0);
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let etc = built(&format!("etc-{number}"));
        fs::create_dir_all(&etc).unwrap();
        fs::write(etc.join("resolv.conf"), wishes.for_container().to_string()).unwrap();
        fs::write(etc.join("nsswitch.conf"), "hosts: dns\n").unwrap();
        World {
            upstream,
            _endpoint: endpoint,
            _server: server,
            _host: host,
            container,
            etc,
        }
    }

    /// The lines that a program prints, run as if in the container.
    pub(crate) fn run(&self, program: impl AsRef<Path>, arguments: &[&str]) -> Made {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", AS_CONTAINER, "sh"]);
        command.arg(&self.etc).arg(program.as_ref()).args(arguments);
        let started = Instant::now();
        let Output { stdout, stderr, .. } = self.container.netns.run(|| command.output().unwrap());
        let errors = String::from_utf8(stderr).unwrap();
        assert_eq!(errors, "", "{command:?}");
        Made {
            lines: String::from_utf8(stdout)
                .unwrap()
                .lines()
                .map(str::to_owned)
                .collect(),
            took: started.elapsed(),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let removed = fs::remove_dir_all(&self.etc);
        assert!(removed.is_ok() || std::thread::panicking());
    }
}

/// A C library, as a program that looks names up with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    Glibc,
    Musl,
    Cares,
}

impl Client {
    /// Those that are here.
    pub(crate) fn all() -> Vec<Client> {
        let there = [Client::Glibc, Client::Musl, Client::Cares].into_iter();
        there.filter(|client| client.is_here()).collect()
    }

    /// Its answers for `name`: `any`, `4` or `6` is the family.
    pub(crate) fn look_up(self, world: &World, family: &str, name: &str) -> Made {
        static BUILT: [OnceLock<PathBuf>; 3] = [const { OnceLock::new() }; 3];
        let program = BUILT[self as usize].get_or_init(|| match self {
            Client::Glibc => compile("gcc", "lookup", &[]),
            Client::Musl => compile("musl-gcc", "lookup", &["-static"]),
            Client::Cares => compile("gcc", "cares", &["-lcares"]),
        });
        world.run(program, &[family, name])
    }

    fn is_here(self) -> bool {
        match self {
            Client::Glibc => have(&[Need::Program("gcc")]),
            Client::Musl => have(&[Need::Program("musl-gcc")]),
            Client::Cares => {
                let is_here = Path::new("/usr/include/ares.h").exists();
                if !is_here {
                    skip("libc-ares-dev", !is_emulated());
                }
                is_here && have(&[Need::Program("gcc")])
            }
        }
    }
}

/// A program of tests/data.
pub(crate) fn compile(compiler: &str, source: &str, arguments: &[&str]) -> PathBuf {
    let program = built(&format!("{compiler}-{source}"));
    let source = format!("{}/tests/data/{source}.c", env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(compiler);
    command.arg("-o").arg(&program).arg(source).args(arguments);
    assert!(command.status().unwrap().success());
    program
}

fn built(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()))
}

fn zone() -> SharedZone {
    let mut zone = Zone::new();
    zone.set_domain("app".parse().unwrap());
    for (name, address) in [
        ("db", "10.89.0.2"),
        ("redis", "10.89.0.2"),
        ("dual", "10.89.0.3"),
        ("dual", "fd00::3"),
        ("six", "fd00::6"),
        ("web", "10.89.0.4"),
        ("web", "10.89.0.5"),
        ("web", "10.89.0.6"),
    ] {
        zone.insert(name.parse().unwrap(), address.parse().unwrap());
    }
    for last in 0..100 {
        let address = [10, 89, 1, last].into();
        zone.insert("many".parse().unwrap(), address);
    }
    let http = Service::new("db".parse().unwrap(), 8080)
        .priority(1)
        .weight(2);
    zone.insert_service("_http._tcp.db".parse().unwrap(), http);
    zone.into()
}

/// Outside there is one name, which has an IPv4 address.
fn outside(query: &[u8]) -> Vec<u8> {
    let name = &query[12..];
    match name
        .to_ascii_lowercase()
        .strip_prefix(b"\x07outside\x07example\0")
    {
        Some([0, kind, ..]) if u16::from(*kind) == A => reply_with(query, [192, 0, 2, 1]),
        Some(_) => reply_code(query, 0),
        None => reply_code(query, 3),
    }
}
