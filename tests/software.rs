//! Debian's own redis, postgresql and nginx, in containers of one network, used by name, with limits, killed and started again.
//!
//! The root is made by `.ci/software` from Debian's archive, which takes a minute, and kept in cargo's directory for tests.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cofferdam::cgroups::{Hierarchy, Mode};
use cofferdam::overlay::{Expected, LayerRef, LayerStore};
use cofferdam::{Container, ContainerBuilder, Mount, Network, Rootfs, Running, Stdio, Volumes};
use cofferdam_testkit::{Need, NetNs, have, in_mount_namespace, is_emulated, skip};
use rustix::mount::{MountFlags, mount};

const HBA: &str = "local all all trust\nhost all all 0.0.0.0/0 trust\n";
const POSTGRES: &str = "d=/etc/postgresql/*/main/postgresql.conf; v=$(echo $d | cut -d/ -f4); \
    exec /usr/lib/postgresql/$v/bin/postgres -D /var/lib/postgresql/$v/main -c config_file=$(echo $d) \
    -c hba_file=/etc/hba.conf -c listen_addresses=* -c ssl=off -c unix_socket_directories=/tmp";

/// Debian as a tar, if it has been made: a test has no way out of its network namespace.
fn debian() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("software.tar");
    path.exists().then_some(path)
}

struct World {
    root: Arc<LayerRef>,
    network: Network,
    volumes: Volumes,
}

impl World {
    fn container(&self, name: &str) -> ContainerBuilder {
        Container::builder()
            .name(name)
            .rootfs(Rootfs::layer(Arc::clone(&self.root)))
            .network(&self.network)
            .memory_max(256 << 20)
            .pids_max(64)
            .cpus(1.0)
    }

    fn redis(&self) -> Running {
        let builder = self.container("redis").user("redis".parse().unwrap());
        let data = self.volumes.volume("redis").unwrap();
        builder
            .volume(data, "/var/lib/redis")
            .command("/usr/bin/redis-server")
            .args(["--bind", "0.0.0.0", "--protected-mode", "no"])
            .args([
                "--dir",
                "/var/lib/redis",
                "--appendonly",
                "yes",
                "--appendfsync",
                "always",
            ])
            .start()
            .unwrap()
    }

    fn postgres(&self) -> Running {
        let builder = self.container("postgres").user("postgres".parse().unwrap());
        let data = self.volumes.volume("postgres").unwrap();
        builder
            .volume(data, "/var/lib/postgresql")
            .mount(Mount::file("/etc/hba.conf", HBA))
            .command("/bin/sh")
            .args(["-c", POSTGRES])
            .start()
            .unwrap()
    }

    fn nginx(&self) -> Running {
        let builder = self.container("nginx").alias("www");
        let builder = builder.command("/usr/sbin/nginx");
        builder.args(["-g", "daemon off;"]).start().unwrap()
    }

    /// What a client says, which may try for half a minute.
    fn client(&self, script: &str) -> String {
        let builder = self.container("client").command("/bin/bash");
        let script = format!(
            "try() {{ for _ in {{1..300}}; do \"$@\" 2>/dev/null && return; sleep 0.1; done; \"$@\"; }}; {script}"
        );
        let running = builder
            .args(["-c", &script])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let output = running.start().unwrap().output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {said}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn sql(&self, statement: &str) -> String {
        let psql = "psql -h postgres -U postgres -d postgres -qAtc";
        self.client(&format!(
            "cd /tmp; try {psql} 'select 1' >/dev/null; {psql} \"{statement}\""
        ))
    }

    fn redis_cli(&self, command: &str) -> String {
        let cli = "redis-cli -h redis";
        self.client(&format!(
            "ping() {{ {cli} ping | grep -q PONG; }}; try ping; {cli} {command}"
        ))
    }
}

#[test]
fn software_as_debian_ships_it_runs_and_its_data_stays() {
    let controller = match Hierarchy::detect().map(|hierarchy| hierarchy.mode()) {
        Ok(Mode::Unified) => Need::Cgroup2Controller("memory"),
        _ => Need::Cgroup1Controller("memory"),
    };
    if !have(&[Need::Root, controller, Need::Filesystem("overlay")]) {
        return;
    }
    let Some(debian) = debian() else {
        // What runs strictly makes it first; the VM has no way to.
        skip("what .ci/software makes", !is_emulated());
        return;
    };
    in_mount_namespace(|| {
        let directory = std::env::temp_dir();
        let options = c"size=3g,mode=0755";
        mount("tmpfs", &directory, "tmpfs", MountFlags::empty(), options).unwrap();
        let store = LayerStore::open(directory.join("layers")).unwrap();
        let root = store.apply(None, File::open(debian).unwrap(), Expected::default());
        let root = Arc::new(root.unwrap());
        let volumes = Volumes::open(directory.join("volumes")).unwrap();
        NetNs::new().run(|| {
            let network = Network::bridge("software").create().unwrap();
            let world = World {
                root,
                network,
                volumes,
            };
            everything(&world);
            world.network.remove().unwrap();
        });
    });
}

fn everything(world: &World) {
    let (redis, postgres, nginx) = (world.redis(), world.postgres(), world.nginx());
    let get = "open() { exec 3<>/dev/tcp/www/80; }; try open; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3";
    let page = world.client(get);
    assert!(
        page.starts_with("HTTP/1.1 200") && page.contains("Welcome to nginx"),
        "{page}"
    );
    assert_eq!(world.redis_cli("set key kept"), "OK");
    world.sql("create table t (v text); insert into t values ('kept')");

    // Without a word of warning, in the middle of writing.
    let writing = format!(
        "{} & {}",
        "while redis-cli -h redis incr n; do :; done >/dev/null 2>&1", "sleep 0.3"
    );
    world.client(&writing);
    for running in [redis, postgres] {
        running.kill().unwrap();
        assert_eq!(running.oom_kills().unwrap(), 0);
        running.remove().unwrap();
    }
    let (redis, postgres) = (world.redis(), world.postgres());
    assert_eq!(world.redis_cli("get key"), "kept");
    assert!(world.redis_cli("get n").parse::<u64>().unwrap() > 0);
    assert_eq!(world.sql("select v from t"), "kept");
    assert_eq!(world.volumes.names().unwrap(), ["postgres", "redis"]);
    for running in [redis, postgres, nginx] {
        let name = running.name().to_owned();
        let status = running.stop(std::time::Duration::from_secs(20)).unwrap();
        assert!(status.success(), "{name}: {status}");
    }
}
