//! Roots, volumes and secrets of containers on the real kernel. The programs inside are the machine's own shell.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use cofferdam::overlay::{ChangeKind, ImageConfig, LayerStore};
use cofferdam::{
    Container, ContainerBuilder, ErrorKind, Rootfs, Running, Secret, Stdio, User, Volume, Volumes,
};
use cofferdam_testkit::{Need, have, in_mount_namespace};
use rustix::mount::{MountFlags, mount};

/// A tmpfs with a root directory `root` in it, in a mount namespace of its own; and nothing is mounted in there afterwards.
fn in_world(test: impl FnOnce(&Path) + Send) {
    if !have(&[Need::Root, Need::Program("sh"), Need::Filesystem("overlay")]) {
        return;
    }
    in_mount_namespace(|| {
        let world = std::env::temp_dir();
        tmpfs(&world);
        let root = world.join("root");
        for name in ["", "etc", "data/sub", "proc", "sys", "dev", "tmp", "run"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::write(root.join("data/sub/file"), "of the root\n").unwrap();
        chown(root.join("data"), Some(70), Some(71)).unwrap();
        fs::set_permissions(root.join("data"), PermissionsExt::from_mode(0o750)).unwrap();
        let mounts = || fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let before = mounts();
        test(&world);
        assert_eq!(mounts().lines().count(), before.lines().count());
    });
}

fn tmpfs(target: &Path) {
    let options = c"size=256m,mode=0755";
    mount("tmpfs", target, "tmpfs", MountFlags::empty(), options).unwrap();
}

/// A container on `root`, with the machine's programs.
fn container(name: &str, root: Rootfs) -> ContainerBuilder {
    let builder = Container::builder().name(name).rootfs(root);
    let there = ["/usr", "/bin", "/lib", "/lib64"].into_iter();
    there
        .filter(|path| Path::new(path).exists())
        .fold(builder, |builder, path| {
            builder.volume(Volume::bind(path).read_only(), path)
        })
}

fn on(world: &Path) -> ContainerBuilder {
    container("c", Rootfs::layers([world.join("root")]))
}

fn script(builder: ContainerBuilder, script: &str) -> ContainerBuilder {
    let builder = builder.command("/bin/sh").args(["-c", script]);
    builder.stdout(Stdio::piped()).stderr(Stdio::piped())
}

/// What a script says.
fn run(builder: ContainerBuilder, text: &str) -> String {
    let output = script(builder, text).start().unwrap().output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    String::from_utf8(said).unwrap()
}

fn refused(builder: ContainerBuilder) -> cofferdam::Error {
    match builder.start() {
        Ok(running) => panic!("{} was started", running.name()),
        Err(error) => error,
    }
}

fn wait_for(path: &Path) {
    let start = Instant::now();
    while !path.exists() {
        assert!(start.elapsed() < Duration::from_secs(20), "{path:?}");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_named_volume_is_filled_once_and_outlives_containers() {
    in_world(|world| {
        let volumes = Volumes::open(world.join("volumes")).unwrap();
        let data = volumes.volume("data").unwrap();
        assert!(volumes.names().unwrap().is_empty(), "made before a start");
        let with = || on(world).volume(&data, "/data");
        let said = run(
            with(),
            "stat -c '%a %u %g' /data; cat /data/sub/file; echo new > /data/new",
        );
        assert_eq!(said, "750 70 71\nof the root\n");
        assert_eq!(run(with(), "rm -r /data/sub; cat /data/new"), "new\n");
        assert_eq!(run(with(), "ls /data"), "new\n", "filled twice");
        let fresh = volumes.volume("fresh").unwrap().empty();
        assert_eq!(
            run(on(world).volume(fresh, "/data"), "ls -a /data"),
            ".\n..\n"
        );
        assert!(world.join("root/data/sub/file").exists());
        assert_eq!(volumes.names().unwrap(), ["data", "fresh"]);
    });
}

#[test]
fn two_containers_share_a_volume_and_it_stays_while_one_has_it() {
    in_world(|world| {
        let volumes = Volumes::open(world.join("volumes")).unwrap();
        let data = volumes.volume("data").unwrap();
        let wait =
            "echo one > /data/one; until [ -e /data/two ]; do sleep 0.01; done; cat /data/two";
        let one = script(on(world).volume(&data, "/data"), wait)
            .start()
            .unwrap();
        let two = on(world).volume(&data, "/mnt");
        let said = run(
            two,
            "until [ -e /mnt/one ]; do sleep 0.01; done; cat /mnt/one; echo two > /mnt/.two; mv /mnt/.two /mnt/two",
        );
        assert_eq!(said, "one\n");
        let error = volumes.remove("data").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        assert_eq!(one.output().unwrap().stdout, b"two\n");
        volumes.remove("data").unwrap();
        let error = volumes.remove("data").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    });
}

#[test]
fn containers_that_start_at_once_find_a_new_volume_whole() {
    in_world(|world| {
        for n in 0..300 {
            fs::write(world.join(format!("root/data/sub/{n}")), "x").unwrap();
        }
        let volumes = Volumes::open(world.join("volumes")).unwrap();
        let data = volumes.volume("data").unwrap();
        thread::scope(|scope| {
            for _ in 0..4 {
                let with = on(world).volume(&data, "/data");
                scope.spawn(|| assert_eq!(run(with, "ls /data/sub | wc -l").trim(), "301"));
            }
        });
    });
}

#[test]
fn a_target_that_is_a_link_leads_nowhere_but_into_the_root() {
    in_world(|world| {
        fs::create_dir(world.join("victim")).unwrap();
        fs::write(world.join("victim/secret"), "host").unwrap();
        fs::create_dir_all(world.join("source")).unwrap();
        let root = world.join("root");
        symlink(world.join("victim"), root.join("absolute")).unwrap();
        symlink("../../../../victim", root.join("up")).unwrap();
        symlink("/data", root.join("inside")).unwrap();
        let volumes = Volumes::open(world.join("volumes")).unwrap();
        for (n, target) in ["/absolute", "/up", "/inside", "/up/x"].iter().enumerate() {
            let named = volumes.volume(format!("v{n}")).unwrap();
            for volume in [
                named,
                Volume::bind(world.join("source")),
                Volume::tmpfs(1 << 20),
            ] {
                let builder = script(on(world).volume(volume, *target), "ls /absolute/ /up/ 2>&1");
                // Inside there may be no such directory: made there, or refused.
                if let Ok(running) = builder.start() {
                    let said = String::from_utf8(running.output().unwrap().stdout).unwrap();
                    assert!(!said.contains("secret"), "{target}: {said}");
                }
                let left: Vec<_> = fs::read_dir(world.join("victim")).unwrap().collect();
                assert_eq!(left.len(), 1, "{target}");
            }
        }
        let inside = volumes.volume("inside").unwrap();
        assert_eq!(
            run(on(world).volume(inside, "/inside"), "ls /data"),
            "sub\n"
        );
        let error = refused(script(on(world).volume("/", "/proc/self"), ""));
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    });
}

#[test]
fn options_of_a_volume_hold() {
    in_world(|world| {
        let source = world.join("source");
        fs::create_dir_all(source.join("below")).unwrap();
        tmpfs(&source.join("below"));
        fs::write(source.join("program"), "#!/bin/sh\necho ran\n").unwrap();
        fs::set_permissions(source.join("program"), PermissionsExt::from_mode(0o755)).unwrap();
        symlink(&source, world.join("link")).unwrap();
        let write =
            "for f in /data/x /data/below/x; do echo x 2>&1 > $f; done 2>&1 | grep -c Read-only";
        let with = |volume| on(world).volume(volume, "/data");
        assert_eq!(run(with(Volume::bind(&source).read_only()), write), "2\n");
        assert!(!source.join("x").exists());
        let volumes = Volumes::open(world.join("volumes")).unwrap();
        let named = volumes.volume("named").unwrap().read_only();
        let said = run(with(named), "cat /data/sub/file; echo x > /data/x");
        assert!(
            said.starts_with("of the root\n") && said.contains("Read-only"),
            "{said}"
        );
        let said = run(with(Volume::bind(&source).noexec()), "/data/program");
        assert!(said.contains("Permission denied"), "{said}");
        let options = "grep ' /data ' /proc/self/mountinfo | cut -d' ' -f6";
        let said = run(with(Volume::from(&source).nosuid().nodev()), options);
        assert!(said.contains("nosuid,nodev"), "{said}");
        assert_eq!(
            run(with(Volume::bind(world.join("link"))), "ls /data"),
            "below\nprogram\n"
        );
        let error = refused(script(
            with(Volume::bind(world.join("link")).nofollow()),
            "",
        ));
        assert!(error.to_string().contains("ELOOP"), "{error}");
        let small = Volume::tmpfs(64 << 10).mode(0o700);
        let said = run(
            with(small),
            "stat -c %a /data; head -c 200000 /dev/zero > /data/x; wc -c < /data/x",
        );
        // What head says of that is not the same everywhere.
        assert!(
            said.starts_with("700\n") && said.contains("65536\n"),
            "{said}"
        );
        let error = refused(script(with(Volume::bind(&source).mode(0o700)), ""));
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        rustix::mount::unmount(source.join("below"), rustix::mount::UnmountFlags::empty()).unwrap();
    });
}

#[test]
fn a_secret_is_for_whom_it_is_meant_and_nowhere_else() {
    in_world(|world| {
        let secret = Secret::new("password", "hunter2");
        let root = || on(world).secret(secret.clone());
        let user = |builder: ContainerBuilder| builder.user(User::id(1000, 1000));
        let show = "cat /run/secrets/password; stat -c ' %a %u' /run/secrets/password; env";
        let said = run(root(), show);
        assert!(said.starts_with("hunter2 400 0\n"), "{said}");
        assert_eq!(said.matches("hunter2").count(), 1, "{said}");
        let said = run(user(root()), "cat /run/secrets/password");
        assert!(said.contains("Permission denied"), "{said}");
        let meant = user(on(world).secret(secret.clone().owner(1000, 1000)));
        assert_eq!(run(meant, "cat /run/secrets/password"), "hunter2");
        let said = run(root(), "echo x > /run/secrets/password");
        assert!(said.contains("Read-only"), "{said}");

        let closed = container("r", Rootfs::layers([world.join("root")]).read_only());
        let said = run(closed.secret(secret.clone()), "cat /run/secrets/password");
        assert_eq!(said, "hunter2", "in a root that is read-only");

        let builder = script(root(), "sleep 60");
        let bytes = format!("{:?}", b"hunter2".as_slice());
        for shown in [
            format!("{builder:?}"),
            format!("{:?}", builder.clone().build().unwrap()),
        ] {
            assert!(
                !shown.contains("hunter2") && !shown.contains(&bytes),
                "{shown}"
            );
        }
        let running = builder.start().unwrap();
        for change in running.diff().unwrap() {
            let path = change.unwrap().path;
            assert!(!path.to_string_lossy().contains("password"), "{path:?}");
        }
        running.remove().unwrap();
        for name in ["", "a/b", "..", ".x"] {
            let error = refused(script(on(world).secret(Secret::new(name, "")), ""));
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        }
    });
}

/// An image of the root, which runs a script that says who it is.
fn image(world: &Path, store: &LayerStore) -> cofferdam::overlay::Image {
    let base = store.commit(None, world.join("root")).unwrap();
    let mut config = ImageConfig::default();
    config.entrypoint = vec!["/bin/sh".into(), "-c".into()];
    config.command =
        vec!["id -u; pwd; echo $WHAT; echo x > /data/sub/more; rm /data/sub/file".into()];
    config.env = vec!["PATH=/usr/bin:/bin".into(), "WHAT=image".into()];
    config.working_dir = Some("/data".into());
    config.user = Some("70:71".into());
    store.image(Some(&base), &config).unwrap()
}

fn said(running: Running) -> String {
    String::from_utf8(running.output().unwrap().stdout).unwrap()
}

#[test]
fn an_image_runs_as_it_says_unless_the_builder_says_other() {
    in_world(|world| {
        chown(world.join("root/data/sub"), Some(70), None).unwrap();
        let store = LayerStore::open(world.join("layers")).unwrap();
        let rootfs = Rootfs::image(image(world, &store));
        let builder = || container("i", rootfs.clone()).stdout(Stdio::piped());
        assert_eq!(said(builder().start().unwrap()), "70\n/data\nimage\n");
        let own = builder()
            .env("WHAT", "builder")
            .workdir("/")
            .user(User::id(0, 0));
        assert_eq!(said(own.start().unwrap()), "0\n/\nbuilder\n");
        assert_eq!(said(builder().arg("echo args").start().unwrap()), "args\n");
        let command = builder().command("/bin/echo").arg("command");
        assert_eq!(said(command.start().unwrap()), "command\n");
        assert!(
            store.collect().unwrap().layers.is_empty(),
            "in use by the root"
        );
    });
}

#[test]
fn what_a_container_wrote_is_told_and_becomes_a_layer() {
    in_world(|world| {
        let store = LayerStore::open(world.join("layers")).unwrap();
        let rootfs = Rootfs::image(image(world, &store));
        let changes = "echo x > /data/more; rm -r /data/sub; echo . > /grows; touch /done; while :; do sleep 0.01; echo . >> /grows; done";
        let builder = container("writer", rootfs)
            .user(User::id(0, 0))
            .pids_max(64);
        let running = script(builder, changes).start().unwrap();
        let seen = format!("/proc/{}/root/done", running.pid());
        wait_for(Path::new(&seen));
        let changed: Vec<_> = running.diff().unwrap().map(Result::unwrap).collect();
        let has = |path: &str, kind| {
            let found = changed.iter().find(|change| change.path == Path::new(path));
            assert_eq!(
                found.map(|change| change.kind),
                Some(kind),
                "{path}: {changed:?}"
            );
        };
        has("data/more", ChangeKind::Added);
        has("data/sub", ChangeKind::Deleted);
        let image = running.commit_image(&store, "a test").unwrap();
        // It goes on.
        let size = || {
            fs::metadata(format!("/proc/{}/root/grows", running.pid()))
                .unwrap()
                .len()
        };
        let (before, start) = (size(), Instant::now());
        while size() == before {
            assert!(start.elapsed() < Duration::from_secs(20), "still stopped");
        }
        let _live = running.commit_unpaused(&store).unwrap();
        let other = LayerStore::open(world.join("other")).unwrap();
        let error = running.commit(&other).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        running.remove().unwrap();

        assert_eq!(image.config().history.len(), 1);
        let committed =
            container("reader", Rootfs::image(image)).args(["ls /data; ls / | grep done"]);
        let committed = committed.stdout(Stdio::piped()).start().unwrap();
        assert_eq!(said(committed), "more\ndone\n");
    });
}

#[test]
fn a_named_upper_stays_and_is_of_one_container_at_a_time() {
    in_world(|world| {
        for name in ["upper", "work"] {
            fs::create_dir(world.join(name)).unwrap();
        }
        let rootfs = || {
            let root = Rootfs::layers([world.join("root")]);
            root.upperdir(world.join("upper"), world.join("work"))
        };
        let builder = || container("u", rootfs());
        assert_eq!(run(builder(), "echo kept > /kept"), "");
        let running = script(builder(), "cat /kept; sleep 60").start().unwrap();
        let error = refused(script(builder(), ""));
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        running.remove().unwrap();
        assert_eq!(run(builder(), "cat /kept"), "kept\n");
        assert_eq!(fs::metadata(world.join("upper/kept")).unwrap().size(), 5);
        let directory = script(
            container("d", Rootfs::directory(world.join("root"))),
            "sleep 60",
        );
        let directory = directory.start().unwrap();
        let error = directory.diff().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        directory.remove().unwrap();
    });
}
