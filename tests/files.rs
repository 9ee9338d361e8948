//! The files by which programs find names, while networks come and go.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cofferdam::{
    Capabilities, Container, ContainerBuilder, Mount, Network, Rootfs, Running, Volume,
};
use cofferdam_testkit::{Need, NetNs, have};

/// In a network namespace of the test's own, which is the host.
fn host(work: impl FnOnce(&Network, &Network) + Send) {
    if !have(&[Need::Root, Need::Namespaces]) {
        return;
    }
    NetNs::new().run(|| {
        let network = |name: &str, subnet: &str| {
            let builder = Network::bridge(name).subnet(subnet.parse().unwrap());
            builder.create().unwrap()
        };
        let (near, far) = (
            network("near", "10.1.0.0/24"),
            network("far", "10.2.0.0/24"),
        );
        work(&near, &far);
        near.remove().unwrap();
        far.remove().unwrap();
    });
}

/// With a root of its own that has a shell, and a program that does nothing.
fn container(name: &str) -> ContainerBuilder {
    let builder = Container::builder().name(name);
    let builder = builder.rootfs(Rootfs::layers(["/"])).tmpfs("/work");
    builder.command("sleep").arg("60")
}

fn open(container: &Running, path: &str) -> File {
    File::open(format!("/proc/{}/root{path}", container.pid())).unwrap()
}

fn read(container: &Running, path: &str) -> String {
    let mut text = String::new();
    open(container, path).read_to_string(&mut text).unwrap();
    text
}

/// Has the container do something that takes the right to mount.
fn inside(container: &Running, script: &str) {
    let output = container.exec("sh").args(["-ec", script]);
    let output = output.capabilities(Capabilities::ALL).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{script}: {said}");
}

#[test]
fn hosts_follow_the_networks_in_place() {
    host(|near, far| {
        let web = container("web").network(near).start().unwrap();
        let before = read(&web, "/etc/hosts");
        assert!(before.contains("10.1.0.2\tweb\n"), "{before}");
        assert!(!before.contains("10.2."), "{before}");
        let mut held = open(&web, "/etc/hosts");
        let inode = held.metadata().unwrap().ino();

        web.connect(far).unwrap();
        let both = read(&web, "/etc/hosts");
        assert!(both.contains("10.1.0.2\tweb\n") && both.contains("10.2.0.2\tweb\n"));
        assert_eq!(open(&web, "/etc/hosts").metadata().unwrap().ino(), inode);
        let mut seen = String::new();
        held.rewind().unwrap();
        held.read_to_string(&mut seen).unwrap();
        assert_eq!(seen, both, "who has it open sees it too");

        web.disconnect(far).unwrap();
        assert_eq!(
            read(&web, "/etc/hosts"),
            before,
            "and nothing is left at its end"
        );
        web.disconnect(near).unwrap();
        assert!(!read(&web, "/etc/hosts").contains("web"));
        web.connect(near).unwrap();
        assert!(read(&web, "/etc/hosts").contains("\tweb\n"));
        web.remove().unwrap();
    });
}

#[test]
fn the_resolver_is_named_once_there_is_one() {
    host(|near, _| {
        let late = container("late").no_network().start().unwrap();
        assert!(!read(&late, "/etc/resolv.conf").contains("127.0.0.11"));
        late.connect(near).unwrap();
        let conf = read(&late, "/etc/resolv.conf");
        assert!(conf.contains("nameserver 127.0.0.11\n"), "{conf}");
        late.remove().unwrap();
    });
}

#[test]
fn what_the_caller_mounts_or_the_program_writes_stays() {
    host(|near, far| {
        let mine = Mount::file("/etc/hosts", "192.0.2.1 mine\n");
        let mine = container("mine").mount(mine).network(near).start().unwrap();
        mine.connect(far).unwrap();
        assert_eq!(read(&mine, "/etc/hosts"), "192.0.2.1 mine\n");
        mine.remove().unwrap();

        let own = container("own").network(near).start().unwrap();
        inside(&own, "echo 192.0.2.1 own >> /etc/hosts");
        let text = read(&own, "/etc/hosts");
        own.connect(far).unwrap();
        assert_eq!(read(&own, "/etc/hosts"), text);
        own.remove().unwrap();
    });
}

/// A directory of the host in memory, gone with the test.
struct Dir(std::path::PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        let _removed = fs::remove_dir_all(&self.0).is_ok();
    }
}

#[test]
fn nothing_that_a_container_puts_in_their_place_is_written_or_waited_for() {
    host(|near, far| {
        let dir = Dir(Path::new("/dev/shm").join(format!("files-{}", std::process::id())));
        fs::create_dir(&dir.0).unwrap();
        let bait = dir.0.join("bait");
        let unmounted = "umount /etc/hosts; rm -f /etc/hosts";
        for (what, script) in [
            ("nothing", unmounted.to_owned()),
            ("a pipe", format!("{unmounted}; mkfifo /etc/hosts")),
            (
                "a link",
                format!("{unmounted}; ln -s /bait/bait /etc/hosts"),
            ),
            (
                "the bait itself",
                "mount --bind /bait/bait /etc/hosts".to_owned(),
            ),
            ("a copy", format!("{unmounted}; cp /bait/bait /etc/hosts")),
            (
                "a directory",
                "mount -t tmpfs none /etc; cp /bait/bait /etc/hosts".to_owned(),
            ),
        ] {
            let shared = Volume::bind(&dir.0).read_only();
            let web = container("web").network(near).volume(shared, "/bait");
            let web = web.start().unwrap();
            // The very text that would be written over.
            let text = read(&web, "/etc/hosts");
            fs::write(&bait, &text).unwrap();
            inside(&web, &script);
            web.connect(far)
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            web.disconnect(far)
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            web.connect(far)
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(fs::read_to_string(&bait).unwrap(), text, "{what}");
            if what.starts_with("a copy") || what == "a directory" {
                assert_eq!(read(&web, "/etc/hosts"), text, "{what}");
            }
            web.remove().unwrap();
        }
    });
}
