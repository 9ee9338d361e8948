//! Containers of an ordinary user: what they can have, and what cannot be had and is told. Such a user is this test binary,
//! started by root with other ids, in a network of the test's own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "the user's way to answer")]

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cofferdam::netbridge::{Attachment, Bridge};
use cofferdam::{
    Container, ContainerBuilder, Error, ErrorKind, IdMap, Network, Reference, Rootfs, Running,
    Stdio as Stream, Volume, Volumes, reap_in,
};
use cofferdam_testkit::{Need, NetNs, Snapshot, have, in_mount_namespace};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::mount::{MountFlags, mount, mount_bind};

const USER: u32 = 65_534;
/// Another, whose processes are counted.
const COUNTED: u32 = 60_011;
const WHAT: &str = "COFFERDAM_ROOTLESS";
const DIR: &str = "COFFERDAM_ROOTLESS_DIR";

/// Not a test of its own: the ordinary user, and what runs in its containers.
#[test]
fn payload() {
    let Ok(what) = std::env::var(WHAT) else {
        return;
    };
    let (verb, rest) = what.split_once(' ').unwrap_or((&what, ""));
    let text = match verb {
        "get" => get(rest),
        "datagram" => datagram(rest),
        "serve" => serve(),
        "sleep" => {
            std::thread::sleep(Duration::from_secs(1000));
            String::new()
        }
        "read" => fs::read_to_string(rest).unwrap_or_else(|error| error.to_string()),
        "reach" => reach(),
        "publish" => publish(),
        "errors" => errors(),
        "wait" => wait(),
        "detach" => detach(),
        "volumes" => volumes(),
        "loop" => loop {
            let web = container("read /etc/hostname").pasta_network();
            println!("{}", output(web.start().unwrap()));
        },
        "missing" | "stranded" => {
            let told = line(container("sleep").pasta_network().start().map(drop));
            assert!(fs::read_dir(dir()).unwrap().next().is_none());
            told
        }
        "reap" => format!("{:?}", reap_in(dir()).unwrap()),
        other => panic!("no payload {other}"),
    };
    println!("<<<{text}>>>");
    std::process::exit(0);
}

fn dir() -> PathBuf {
    std::env::var_os(DIR).unwrap().into()
}

/// A container of the machine's own files, in which this binary does `what`.
fn container(what: &str) -> ContainerBuilder {
    Container::builder()
        .name("web")
        .rootfs(Rootfs::directory("/"))
        .command(std::env::current_exe().unwrap())
        .args(["--exact", "payload", "--nocapture", "--test-threads=1"])
        .env(WHAT, what)
        .stdout(Stream::piped())
        .runtime_dir(dir())
        .id_map(IdMap::current_user())
}

fn output(running: Running) -> String {
    said(&running.output().unwrap().stdout)
}

fn said(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let rest = text.split_once("<<<").map(|(_, rest)| rest);
    let inner = rest.and_then(|rest| rest.rsplit_once(">>>"));
    inner
        .unwrap_or_else(|| panic!("no answer: {text}"))
        .0
        .to_owned()
}

/// What the server says, once it listens.
fn get(address: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let tried = TcpStream::connect(address).and_then(|mut stream| {
            // A pasta of 2023 says nothing twice: where its SYN is lost inside, it gives up after 10 s.
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            // And it loses what a server says before its client.
            stream.write_all(b"hello")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        });
        match tried {
            Ok(text) if !text.is_empty() => return text,
            other if Instant::now() > deadline => return format!("{other:?}"),
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn datagram(address: &str) -> String {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    socket.send_to(b"hello", address).unwrap();
    let mut bytes = [0; 64];
    match socket.recv(&mut bytes) {
        Ok(length) => String::from_utf8_lossy(&bytes[..length]).into_owned(),
        Err(error) => error.to_string(),
    }
}

/// Answers at port 80, and ends when it is killed.
fn serve() -> String {
    answer(&TcpListener::bind("0.0.0.0:80").unwrap(), "from inside");
    String::new()
}

fn answer(listener: &TcpListener, text: &str) {
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let _asked = stream.read(&mut [0; 5]).is_ok();
        let _sent = stream.write_all(text.as_bytes()).is_ok();
        let _ended = stream.shutdown(Shutdown::Write).is_ok();
    }
}

/// Out by TCP and UDP, with names; and nothing is left.
fn reach() -> String {
    let once = |what: &str| output(container(what).pasta_network().start().unwrap());
    once("read /etc/hostname");
    let before = Snapshot::take();
    let told = [
        once("get 192.0.2.1:7000"),
        once("datagram 192.0.2.1:7001"),
        once("read /etc/resolv.conf").replace('\n', " "),
        once("read /etc/hosts").replace('\n', " "),
    ];
    before.assert_same("cofferdam-rootless");
    assert!(fs::read_dir(dir()).unwrap().next().is_none());
    told.join("|")
}

fn publish() -> String {
    let before = Snapshot::take();
    let web = container("serve").pasta_network();
    let web = web.publish("192.0.2.2:8080:80".parse().unwrap());
    let web = web.start().unwrap();
    let ports = web.ports();
    assert_eq!((ports.len(), ports[0].host_port), (1, 8080));
    assert_eq!(ports[0].container.to_string(), "10.0.2.100:80");
    assert_eq!(web.address(), Some("10.0.2.100".parse().unwrap()));
    let text = get("192.0.2.2:8080");
    let twice = container("serve").pasta_network();
    let twice = twice.publish("192.0.2.2:8080:80".parse().unwrap());
    let twice = line(twice.start().map(drop));
    drop(web);
    before.assert_same("cofferdam-rootless");
    assert!(fs::read_dir(dir()).unwrap().next().is_none());
    format!("{text}|{twice}")
}

fn line(done: Result<(), Error>) -> String {
    let error = done.expect_err("refused");
    format!("{:?} {error}", error.kind())
}

/// What an ordinary user cannot have, and nothing is left of trying.
fn errors() -> String {
    let before = Snapshot::take();
    let pasta = || container("get nothing").pasta_network();
    let started = |builder: ContainerBuilder| line(builder.start().map(drop));
    let told = [
        line(Network::bridge("app").runtime_dir(dir()).create().map(drop)),
        started(pasta().memory_max(1 << 26)),
        started(pasta().publish("80:80".parse().unwrap())),
        started(container("get nothing").rootfs(Rootfs::layers(["/usr"]))),
        started(container("get nothing").no_network()),
        started(container("get nothing").id_map(IdMap::range(100_000, 5))),
    ];
    before.assert_same("cofferdam-rootless");
    assert!(fs::read_dir(dir()).unwrap().next().is_none());
    told.join("|")
}

/// Says who runs, and waits for its end.
fn wait() -> String {
    let web = container("serve").pasta_network().start().unwrap();
    println!("pid {}", web.pid());
    std::thread::sleep(Duration::from_secs(1000));
    drop(web);
    String::new()
}

fn detach() -> String {
    // Its pipes are closed when it is detached.
    let web = container("serve").stdout(Stream::null()).pasta_network();
    let web = web.publish("192.0.2.2:8080:80".parse().unwrap());
    let web = web.start().unwrap();
    let pid = web.pid();
    let text = web.detach().unwrap().to_string();
    assert_eq!(get("192.0.2.2:8080"), "from inside");
    assert_eq!(pastas_of(pid), 1);
    let web = Running::attach(&text.parse::<Reference>().unwrap()).unwrap();
    web.remove().unwrap();
    format!("{} pastas", pastas_of(pid))
}

/// A named volume that outlives its container, memory and more programs; an idmapped bind mount is for root.
fn volumes() -> String {
    let volumes = Volumes::open(dir().join("volumes")).unwrap();
    let with = |what: &str| {
        let web = container(what).rootfs(Rootfs::directory("/").read_only());
        web.volume(volumes.volume("data").unwrap().empty(), "/mnt")
            .tmpfs("/opt")
    };
    let web = with("sleep").start().unwrap();
    let sh = |script: &str| {
        let status = web.exec("sh").args(["-c", script]).status().unwrap();
        assert!(status.success(), "{script}: {status}");
    };
    sh("echo kept > /mnt/file && echo x > /opt/file && ! echo x > /srv/file");
    web.remove().unwrap();
    let kept = output(with("read /mnt/file").start().unwrap());
    let filled = container("sleep").volume(volumes.volume("filled").unwrap(), "/mnt");
    let filled = line(filled.start().map(drop));
    volumes.remove("data").unwrap();
    fs::remove_dir_all(dir().join("volumes")).unwrap();
    let bind = Volume::bind(dir()).idmapped(IdMap::current_user());
    let idmapped = container("read /mnt/file").volume(bind, "/mnt");
    let idmapped = line(idmapped.start().map(drop));
    format!("{}|{filled}|{idmapped}", kept.trim())
}

/// Processes that lead the network of this one.
fn pastas_of(pid: u32) -> usize {
    let mark = format!("/proc/{pid}/ns/net");
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|one| fs::read(one.path().join("cmdline")).ok());
    let is_it = |line: &Vec<u8>| {
        line.split(|byte| *byte == 0)
            .any(|part| part == mark.as_bytes())
    };
    lines.filter(is_it).count()
}

/// The network outside, with a server; the user's own, which leads there; a directory of the user's; and its `/dev/net/tun`.
struct World {
    _outside: NetNs,
    _bridge: Bridge,
    user: NetNs,
    id: u32,
    dir: PathBuf,
}

impl World {
    fn new(name: &str, id: u32) -> Self {
        let (outside, user) = (NetNs::new(), NetNs::new());
        let bridge = outside.run(|| {
            let bridge = Bridge::builder("outside".parse().unwrap());
            let bridge = bridge
                .address("192.0.2.1/24".parse().unwrap())
                .create()
                .unwrap();
            let address = Attachment::new("192.0.2.2/24".parse().unwrap());
            // Its default route leads to the bridge.
            let port = bridge.attach(user.as_fd(), address).unwrap();
            port.persist();
            let listener = TcpListener::bind("192.0.2.1:7000").unwrap();
            std::thread::spawn(move || answer(&listener, "from outside"));
            let socket = UdpSocket::bind("192.0.2.1:7001").unwrap();
            std::thread::spawn(move || {
                let mut bytes = [0; 64];
                while let Ok((length, from)) = socket.recv_from(&mut bytes) {
                    let _sent = socket.send_to(&bytes[..length], from).is_ok();
                }
            });
            bridge
        });
        let dir = format!("cofferdam-rootless-{name}-{}", std::process::id());
        let dir = Path::new("/dev/shm").join(dir);
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, Permissions::from_mode(0o700)).unwrap();
        chown(&dir, Some(id), Some(id)).unwrap();
        World {
            _outside: outside,
            _bridge: bridge,
            user,
            id,
            dir,
        }
    }

    /// The ordinary user, who does `what`.
    fn start(&self, what: &str) -> Child {
        let nowhere = NetNs::new();
        let network = if what == "stranded" {
            &nowhere
        } else {
            &self.user
        };
        network.run(|| {
            in_mount_namespace(|| {
                fs::create_dir_all("/dev/net").unwrap();
                mount("tun", "/dev/net", "tmpfs", MountFlags::empty(), c"mode=755").unwrap();
                let mode = Mode::from_raw_mode(0o666);
                let device = makedev(10, 200);
                mknodat(CWD, "/dev/net/tun", FileType::CharacterDevice, mode, device).unwrap();
                fs::set_permissions("/dev/net/tun", Permissions::from_mode(0o666)).unwrap();
                if what == "missing" {
                    mount_bind("/dev/null", "/usr/bin/pasta").unwrap();
                }
                let mut command = Command::new(std::env::current_exe().unwrap());
                command.args(["--exact", "payload", "--nocapture", "--test-threads=1"]);
                command.env(WHAT, what).env(DIR, &self.dir);
                command.uid(self.id).gid(self.id).stdout(Stdio::piped());
                command.spawn().unwrap()
            })
        })
    }

    fn tell(&self, what: &str) -> String {
        said(&self.start(what).wait_with_output().unwrap().stdout)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let removed = fs::remove_dir(&self.dir);
        assert!(
            removed.is_ok() || std::thread::panicking(),
            "{:?}",
            self.dir
        );
    }
}

fn world(name: &str) -> Option<World> {
    world_of(name, USER)
}

fn world_of(name: &str, id: u32) -> Option<World> {
    let needs = [
        Need::Root,
        Need::UnprivilegedUserNamespaces,
        Need::Program("pasta"),
    ];
    have(&needs).then(|| World::new(name, id))
}

#[test]
fn pasta_leads_out_and_nothing_is_left() {
    let Some(world) = world("reach") else { return };
    let told = world.tell("reach");
    let told: Vec<_> = told.split('|').collect();
    assert_eq!(told[..2], ["from outside", "hello"]);
    assert!(told[2].starts_with("nameserver 10.0.2.3 "), "{}", told[2]);
    assert!(told[3].contains("10.0.2.100\tweb"), "{}", told[3]);
}

#[test]
fn pasta_leads_ports_in_that_are_free() {
    let Some(world) = world("publish") else {
        return;
    };
    let told = world.tell("publish");
    let (text, twice) = told.split_once('|').unwrap();
    assert_eq!(text, "from inside");
    assert!(
        twice.starts_with("Busy container web: publish: "),
        "{twice}"
    );
    assert!(twice.contains("192.0.2.2:8080:80"), "{twice}");
}

#[test]
fn a_killed_users_pasta_is_reaped_and_a_detached_ones_found_again() {
    let Some(world) = world("killed") else { return };
    let mut user = world.start("wait");
    let lines = BufReader::new(user.stdout.take().unwrap()).lines();
    let pid = lines.map(Result::unwrap).find_map(|line| {
        let (_, pid) = line.split_once("pid ")?;
        pid.parse::<u32>().ok()
    });
    let pid = pid.unwrap();
    assert_eq!(pastas_of(pid), 1);
    user.kill().unwrap();
    user.wait().unwrap();
    let told = world.tell("reap");
    assert!(
        told.contains("Pasta {") && told.contains("failed: []"),
        "{told}"
    );
    assert_eq!(pastas_of(pid), 0);
    assert_eq!(world.tell("detach"), "0 pastas");
}

#[test]
fn a_user_that_is_killed_at_any_moment_leaves_no_process() {
    let Some(world) = world_of("any", COUNTED) else {
        return;
    };
    for turn in 0..15 {
        let mut user = world.start("loop");
        std::thread::sleep(Duration::from_millis(20 + 13 * turn));
        user.kill().unwrap();
        user.wait().unwrap();
        let told = world.tell("reap");
        assert!(told.contains("failed: []"), "{told}");
        let deadline = Instant::now() + Duration::from_secs(5);
        while !processes_of(COUNTED).is_empty() {
            assert!(Instant::now() < deadline, "{:?}", processes_of(COUNTED));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Names of those that are no zombies.
fn processes_of(user: u32) -> Vec<String> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let statuses = all.filter_map(|one| fs::read_to_string(one.path().join("status")).ok());
    let mark = format!("Uid:\t{user}\t");
    statuses
        .filter(|status| status.contains(&mark) && !status.contains("State:\tZ"))
        .filter_map(|status| status.lines().next().map(str::to_owned))
        .collect()
}

#[test]
fn volumes_of_an_ordinary_user() {
    let Some(world) = world("volumes") else {
        return;
    };
    let told = world.tell("volumes");
    let told: Vec<_> = told.split('|').collect();
    assert_eq!(told[0], "kept");
    // What a layer hides from such a user would come to light.
    let begin = "PermissionDenied container web: fill a volume: ";
    assert!(told[1].starts_with(begin), "{}", told[1]);
    let begin = "PermissionDenied container web: start the program: ";
    assert!(told[2].starts_with(begin), "{}", told[2]);
}

#[test]
fn what_an_ordinary_user_cannot_have_is_told() {
    let Some(world) = world("errors") else { return };
    let told = world.tell("errors");
    let told: Vec<_> = told.split('|').collect();
    let begins = [
        "PermissionDenied network app: ",
        "PermissionDenied container web: create the cgroup: ",
        "PermissionDenied container web: publish: 80:80",
        "PermissionDenied container web: mount the layers: ",
        "PermissionDenied container web: make a network namespace: ",
        "PermissionDenied container web: start the program: ",
    ];
    for (line, begin) in told.iter().zip(begins) {
        assert!(line.starts_with(begin), "{line:?} for {begin:?}");
        println!("{line}");
    }
    assert_eq!(told.len(), begins.len());
}

#[test]
fn a_missing_pasta_is_named() {
    let Some(world) = world("missing") else {
        return;
    };
    assert_eq!(
        world.tell("missing"),
        "Unsupported container web: pasta_network: there is no program pasta in /usr/bin, /bin or /usr/local/bin; its \
         package is passt"
    );
}

#[test]
fn what_pasta_says_as_it_ends_is_told() {
    let Some(world) = world("stranded") else {
        return;
    };
    let told = world.tell("stranded");
    let begin = "Os container web: start pasta: pasta ended: ";
    assert!(
        told.starts_with(begin) && told.len() > begin.len(),
        "{told}"
    );
    println!("{told}");
}

#[test]
fn root_is_told_to_make_a_bridge() {
    if !have(&[Need::Root]) {
        return;
    }
    let web = Container::builder().command("true").pasta_network();
    let error = web.id_map(IdMap::current_user()).start().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(
        error
            .to_string()
            .contains("pasta_network: is for who is not root"),
        "{error}"
    );
}
