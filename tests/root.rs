//! Containers on the real kernel, through the facade alone. The programs inside are this test binary itself.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "the payload's way to answer")]

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant};

use cofferdam::cgroups::{Hierarchy, Mode};
use cofferdam::{Container, ContainerBuilder, ErrorKind, Mount, Network, Rootfs, Running, Stdio};
use cofferdam_testkit::{Need, NetNs, have};

const PAYLOAD: &str = "COFFERDAM_PAYLOAD";

/// Not a test of its own: what runs inside.
#[test]
fn payload() {
    let Ok(what) = std::env::var(PAYLOAD) else {
        return;
    };
    let (verb, rest) = what.split_once(' ').unwrap_or((&what, ""));
    let text = match verb {
        "serve" => serve(rest),
        "get" => get(rest).unwrap_or_else(|error| error),
        "read" => fs::read_to_string(rest).unwrap_or_else(|error| error.to_string()),
        "write" => fs::write(rest, "inside").map_or_else(|e| e.to_string(), |()| "done".into()),
        "eat" => {
            let mut eaten = Vec::new();
            eaten.resize_with(256, || vec![1u8; 1 << 20]);
            format!("ate {} MiB", std::hint::black_box(eaten).len())
        }
        "sleep" => {
            std::thread::sleep(Duration::from_secs(60));
            String::new()
        }
        other => format!("no payload {other}"),
    };
    println!("<<<{text}>>>");
    std::process::exit(0);
}

/// Answers every connection with its name.
fn serve(name: &str) -> String {
    let listener = TcpListener::bind("0.0.0.0:80").unwrap();
    for stream in listener.incoming() {
        let _sent = stream.unwrap().write_all(name.as_bytes()).is_ok();
    }
    String::new()
}

/// What the server at `address` says, waiting for it to listen.
fn get(address: &str) -> Result<String, String> {
    let deadline = Instant::now() + Duration::from_secs(3);
    loop {
        match connect(address) {
            Ok(mut stream) => {
                let mut text = String::new();
                return match stream.read_to_string(&mut text) {
                    Ok(_) => Ok(text),
                    Err(error) => Err(error.to_string()),
                };
            }
            Err(error) if Instant::now() > deadline => return Err(error.to_string()),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn connect(address: &str) -> std::io::Result<TcpStream> {
    let first = address
        .to_socket_addrs()?
        .next()
        .ok_or(std::io::ErrorKind::NotFound)?;
    TcpStream::connect_timeout(&first, Duration::from_secs(1))
}

/// A container that runs `what` in a root of the machine's own files.
fn container(name: &str, what: &str) -> ContainerBuilder {
    let exe = std::env::current_exe().unwrap();
    let builder = Container::builder()
        .name(name)
        .rootfs(rootfs())
        .mount(Mount::bind(exe, "/test").read_only())
        .command("/test")
        .args(["--exact", "payload", "--nocapture", "--test-threads=1"])
        .env(PAYLOAD, what)
        .stdout(Stdio::piped());
    // A directory of a user that a user namespace does not know cannot be written in it.
    if in_initial_user_namespace() {
        builder
    } else {
        builder.tmpfs("/etc")
    }
}

/// `/`, or in a user namespace, where it may not be a layer, `/usr`.
fn rootfs() -> Rootfs {
    Rootfs::layers([if in_initial_user_namespace() {
        "/"
    } else {
        "/usr"
    }])
}

fn in_initial_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

fn output(running: Running) -> String {
    let output = running.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let text = text
        .split_once("<<<")
        .and_then(|(_, rest)| rest.rsplit_once(">>>"));
    text.unwrap_or_else(|| panic!("no output, {}", output.status))
        .0
        .to_owned()
}

fn refused(builder: ContainerBuilder) -> cofferdam::Error {
    match builder.start() {
        Ok(running) => panic!("{} was started", running.name()),
        Err(error) => error,
    }
}

/// Links and tables in this thread's network namespace.
fn links_and_tables() -> (Vec<String>, bool) {
    let links = cofferdam::netbridge::links().unwrap();
    let links = links.iter().map(|link| link.name.clone()).collect();
    let tables = cofferdam::portmap::Portmap::open("cofferdam")
        .unwrap()
        .exists()
        .unwrap();
    (links, tables)
}

#[test]
fn containers_find_each_other_by_name_and_alias_and_other_networks_by_neither() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    NetNs::new().run(|| {
        let (front, back) = (
            Network::bridge("front").create().unwrap(),
            Network::bridge("back").create().unwrap(),
        );
        let web = container("web", "serve hello")
            .network(&front)
            .alias("www")
            .start()
            .unwrap();
        for name in ["web", "www"] {
            let client = container("client", &format!("get {name}:80")).network(&front);
            assert_eq!(output(client.start().unwrap()), "hello", "by {name}");
        }
        let hosts = output(
            container("c", "read /etc/hosts")
                .network(&front)
                .start()
                .unwrap(),
        );
        assert!(hosts.contains("\tc\n"), "{hosts}");
        let other = container("other", "get web:80")
            .network(&back)
            .start()
            .unwrap();
        assert!(!output(other).contains("hello"));
        let by_address = container("other", &format!("get {}:80", web.address().unwrap()));
        assert!(!output(by_address.network(&back).start().unwrap()).contains("hello"));
        web.remove().unwrap();
        front.remove().unwrap();
        back.remove().unwrap();
    });
}

#[test]
fn a_published_port_is_reached_from_the_host_and_free_after() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    NetNs::new().run(|| {
        let before = links_and_tables();
        let network = Network::bridge("ports").create().unwrap();
        let web = container("web", "serve published").network(&network);
        let web = web.publish("8080:80".parse().unwrap()).start().unwrap();
        assert_eq!(get("127.0.0.1:8080").unwrap(), "published");
        assert_eq!(
            get(&format!("{}:8080", network.gateway().ip())).unwrap(),
            "published"
        );

        let app = || container("app", "serve x").network(&network);
        let error = refused(app().publish("127.0.0.1:8080:80".parse().unwrap()));
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
        let listener = TcpListener::bind("127.0.0.1:8081").unwrap();
        let error = refused(app().publish("127.0.0.1:8081:80".parse().unwrap()));
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        drop(listener);

        drop(web);
        let _free = TcpListener::bind("127.0.0.1:8080").unwrap();
        network.remove().unwrap();
        assert_eq!(links_and_tables(), before);
    });
}

#[test]
fn a_start_that_fails_leaves_nothing_and_names_the_item() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    NetNs::new().run(|| {
        let network = Network::bridge("fails").create().unwrap();
        let before = links_and_tables();
        let app = || container("app", "serve x").network(&network);
        let cases = [
            (app().command("/no/such"), ErrorKind::NotFound, "/no/such"),
            (
                app().rootfs(Rootfs::layers(["/no/such"])),
                ErrorKind::NotFound,
                "/no/such",
            ),
            (
                app().rootfs(Rootfs::directory("/dev/null")),
                ErrorKind::InvalidInput,
                "/dev/null",
            ),
            (
                app().volume("/no/such", "/data"),
                ErrorKind::NotFound,
                "/no/such",
            ),
            (
                app().volume("/tmp", "/proc/x"),
                ErrorKind::InvalidInput,
                "/proc/x",
            ),
            (app().memory_max(1), ErrorKind::InvalidInput, "memory_max"),
            (app().cpus(f64::NAN), ErrorKind::InvalidInput, "NaN"),
            (app().name("a/b"), ErrorKind::InvalidInput, "a/b"),
        ];
        for (builder, kind, item) in cases {
            let error = refused(builder.publish("8090:80".parse().unwrap()));
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(item), "{error}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
        assert_eq!(links_and_tables(), before);
        let _free = TcpListener::bind("0.0.0.0:8090").unwrap();
    });
}

#[test]
fn a_write_inside_stays_inside_and_a_read_only_root_refuses_it() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let mark = format!("/cofferdam-mark-{}", std::process::id());
    let write = || container("writer", &format!("write {mark}"));
    assert_eq!(output(write().start().unwrap()), "done");
    assert!(!Path::new(&mark).exists());
    let refused = output(write().rootfs(rootfs().read_only()).start().unwrap());
    assert!(refused.starts_with("Read-only"), "{refused}");
    let inside = container("writer", "write /tmp/x")
        .rootfs(rootfs().read_only())
        .tmpfs("/tmp");
    assert_eq!(output(inside.start().unwrap()), "done");
}

#[test]
fn limits_hold() {
    let controller = match Hierarchy::detect().map(|hierarchy| hierarchy.mode()) {
        Ok(Mode::Unified) => Need::Cgroup2Controller("memory"),
        _ => Need::Cgroup1Controller("memory"),
    };
    if !have(&[Need::Root, controller]) {
        return;
    }
    let limited = || {
        container("eater", "eat")
            .memory_max(32 << 20)
            .pids_max(32)
            .cpus(0.9)
    };
    let mut eater = limited().start().unwrap();
    assert_eq!(eater.wait().unwrap().signal(), Some(9));
    assert!(eater.oom_kills().unwrap() > 0);
    eater.remove().unwrap();
    let sleeper = limited().env(PAYLOAD, "sleep").start().unwrap();
    sleeper.kill().unwrap();
    assert_eq!(sleeper.remove().unwrap().signal(), Some(9));
    let ours = format!("cofferdam-{}-", std::process::id());
    let mut left = Hierarchy::detect().unwrap().find(&ours).unwrap();
    // Other tests have containers too.
    left.retain(|path| path.to_string_lossy().ends_with("-eater"));
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn stop_does_not_wait_for_a_program_that_cannot_hear_it() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let sleeper = container("sleeper", "sleep").start().unwrap();
    let before = Instant::now();
    let status = sleeper.stop(Duration::from_secs(30)).unwrap();
    assert_eq!(status.signal(), Some(9));
    assert!(before.elapsed() < Duration::from_secs(10));
}

#[test]
fn stop_lets_a_program_that_has_just_started_go_in_its_own_way() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    // A shell, because it can handle a signal; the machines of the suite have one.
    let script = "trap 'exit 7' TERM; while :; do sleep 0.01; done";
    let shell = Container::builder()
        .name("shell")
        .rootfs(rootfs())
        .command("sh")
        .args(["-c", script]);
    let shell = shell.start();
    let status = shell.unwrap().stop(Duration::from_secs(20)).unwrap();
    assert_eq!(status.code(), Some(7), "{status}");
}

#[test]
fn name_and_address_of_a_container_end_with_it() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    NetNs::new().run(|| {
        // Room for five containers at a time.
        let network = Network::bridge("small");
        let network = network
            .gateway("10.9.8.1/29".parse().unwrap())
            .create()
            .unwrap();
        for _ in 0..12 {
            let web = container("web", "serve gone")
                .network(&network)
                .start()
                .unwrap();
            web.remove().unwrap();
        }
        let client = container("client", "get web:80")
            .network(&network)
            .start()
            .unwrap();
        let said = output(client);
        assert!(
            said.contains("lookup") || said.contains("resolution"),
            "{said}"
        );
        network.remove().unwrap();
    });
}

#[test]
fn what_the_caller_mounts_is_not_covered() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    NetNs::new().run(|| {
        let network = Network::bridge("files").create().unwrap();
        let mine = container("mine", "read /etc/hosts").network(&network);
        let mine = mine.mount(Mount::file("/etc/hosts", "192.0.2.1 mine\n"));
        assert_eq!(output(mine.start().unwrap()), "192.0.2.1 mine\n");
        let rootless = Container::builder().network(&network).command("/bin/true");
        assert_eq!(
            rootless.build().unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
    });
}

#[test]
fn a_network_in_use_is_not_removed() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    NetNs::new().run(|| {
        let before = links_and_tables();
        let network = Network::bridge("used").create().unwrap();
        let error = Network::bridge("used").create().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
        let sleeper = container("sleeper", "sleep")
            .network(&network)
            .start()
            .unwrap();
        let error = network.clone().remove().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        assert_eq!(
            error.to_string(),
            "network used: containers or other handles still have it"
        );
        drop(network);
        sleeper.remove().unwrap();
        assert_eq!(
            links_and_tables(),
            before,
            "the last container's end was the network's"
        );
    });
}

#[test]
fn containers_start_from_many_threads_on_one_network() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    NetNs::new().run(|| {
        let before = links_and_tables();
        let network = Network::bridge("many").create().unwrap();
        let web = container("web", "serve many")
            .network(&network)
            .start()
            .unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4u16 {
                let network = &network;
                scope.spawn(move || {
                    for turn in 0..5 {
                        let name = format!("client-{thread}-{turn}");
                        let port = format!("{}:80", 9000 + 10 * thread + turn).parse().unwrap();
                        let client = container(&name, "get web:80")
                            .network(network)
                            .publish(port);
                        assert_eq!(output(client.start().unwrap()), "many");
                    }
                });
            }
        });
        web.remove().unwrap();
        network.remove().unwrap();
        assert_eq!(links_and_tables(), before);
    });
}
