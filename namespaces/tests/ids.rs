//! Ids: maps of user namespaces, by root and by an ordinary user, and users by name.
//!
//! An ordinary user is this test binary, started by root with other ids, in a mount namespace whose `/etc/passwd`,
//! `/etc/group`, `/etc/subuid` and `/etc/subgid` are the test's own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cofferdam_namespaces::{Command, Error, ErrorKind, IdMap, Namespace, Namespaces, RootFs, User};
use cofferdam_testkit::{
    Need, as_root_of_a_user_namespace, have, ignore_children, in_mount_namespace,
};
use rustix::process::{DumpableBehavior, WaitOptions, set_dumpable_behavior, wait};
use support::{
    DOCKER, ONLY_PAYLOAD, PAYLOAD, Scratch, answer, answered, caller, common, field, inside,
    output, refused, rooted,
};

/// The ordinary user, and the ids that are delegated to it.
const UID: u32 = 12_345;
const GID: u32 = 12_346;
const PASSWD: &str =
    "root:x:0:0::/:\nordinary:x:12345:12346::/:\napp:x:1000:1001::/:\nfar:x:70000:1::/:\n";
const GROUP: &str =
    "root:x:0:\nstaff:x:50:app\nvideo:x:44:other,app,far\nordinary:x:12346:\nbeyond:x:90000:far\n";
const SUBUID: &str = "other:1:5\nordinary:100000:1000\n12345:3000000000:500\n";
const SUBGID: &str = "12346:7:7\nordinary:200000:65536\n";

/// Not a test of its own: what runs inside, and ordinary users who start it.
#[test]
fn payload() {
    answer(|verb, rest| {
        Ok(match verb {
            "gid" => rustix::process::getegid().as_raw().to_string(),
            "setgroups" => format!(
                "{:?}",
                rustix::thread::set_thread_groups(&[]).map_err(|error| error.kind())
            ),
            "start" => start(rest, Ok(IdMap::current_user())),
            "delegated" => start(rest, IdMap::subordinate()),
            "ignores" => {
                ignore_children();
                start(rest, IdMap::subordinate())
            }
            "reaps" => {
                std::thread::spawn(|| {
                    loop {
                        let _stolen = wait(WaitOptions::empty()).is_ok();
                    }
                });
                start(rest, IdMap::subordinate())
            }
            "undelegated" => {
                let ids = IdMap::subordinate();
                start(
                    rest,
                    ids.map(|ids| ids.uid(5000, 100_999, 1).uid(5001, 400_000, 2)),
                )
            }
            "greedy" => start(rest, Ok(IdMap::range(400_000, 2))),
            "secret" => {
                set_dumpable_behavior(DumpableBehavior::NotDumpable).unwrap();
                start(rest, Ok(IdMap::current_user()))
            }
            "secrets" => {
                set_dumpable_behavior(DumpableBehavior::NotDumpable).unwrap();
                start(rest, IdMap::subordinate())
            }
            "hurried" => {
                let begin = Instant::now();
                let hurried = inside(rest).id_map(IdMap::subordinate().unwrap());
                let error = refused(hurried.start_deadline(Duration::from_millis(300)));
                let took = begin.elapsed();
                assert!(took < Duration::from_secs(30), "{took:?}");
                let children = fs::read_to_string("/proc/thread-self/children").unwrap();
                format!("{:?} {error} [{children}]", error.kind())
            }
            "none" => {
                fs::write("/proc/sys/user/max_user_namespaces", "0").unwrap();
                start("read /proc/self/uid_map", Ok(IdMap::current_user()))
            }
            "become" => {
                let map = IdMap::subordinate().unwrap();
                let child = rooted("sleep")
                    .id_map(map)
                    .user(rest.parse().unwrap())
                    .spawn();
                let child = child.unwrap_or_else(|error| panic!("{error}"));
                fs::read_to_string(format!("/proc/{}/status", child.pid())).unwrap()
            }
            _ => return common(verb, rest),
        })
    });
}

/// What `what` printed with these ids, or why it did not run. Its status may be lost.
fn start(what: &str, ids: Result<IdMap, Error>) -> String {
    match ids.and_then(|ids| rooted(what).id_map(ids).spawn()) {
        Ok(mut child) => {
            let mut output = Vec::new();
            child
                .stdout
                .take()
                .unwrap()
                .read_to_end(&mut output)
                .unwrap();
            answered(&output)
        }
        Err(error) => format!("{:?}: {error}", error.kind()),
    }
}

/// The words of a table of numbers.
fn table(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

fn shell(script: &str, args: &[&OsStr]) {
    let mut command = std::process::Command::new("/bin/sh");
    let status = command.args(["-c", script, "sh"]).args(args).status();
    assert!(status.unwrap().success(), "{script} {args:?}");
}

/// With files to bind over the host's, and this binary where all can execute it.
impl Scratch {
    fn file(&self, name: &str, content: &str, mode: u32) -> PathBuf {
        let path = self.0.join(name);
        // By another process: a child that another test makes meanwhile would hold it open for writing, and what is held so
        // cannot be executed.
        shell(
            "printf %s \"$1\" > \"$2\"",
            &[content.as_ref(), path.as_os_str()],
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    /// Mounts a file with this content on `target`, in the mount namespace of this thread.
    fn bind(&self, target: &str, content: &str, mode: u32) {
        let file = self.file(&target.replace('/', "-"), content, mode);
        rustix::mount::mount_bind(&file, target).unwrap();
    }

    /// Runs `work` where the accounts are the test's own.
    fn with_accounts<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        in_mount_namespace(|| {
            self.bind("/etc/passwd", PASSWD, 0o644);
            self.bind("/etc/group", GROUP, 0o644);
            work()
        })
    }

    /// The same, with delegated ids.
    fn with_delegation<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.with_accounts(|| {
            self.bind("/etc/subuid", SUBUID, 0o644);
            self.bind("/etc/subgid", SUBGID, 0o644);
            work()
        })
    }

    /// What an ordinary user is told who runs the payload.
    fn ordinary(&self, what: &str) -> String {
        let program = self.0.join("program");
        if !program.exists() {
            let this = std::env::current_exe().unwrap();
            shell("cp \"$1\" \"$2\"", &[this.as_os_str(), program.as_os_str()]);
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut command = std::process::Command::new(program);
        command
            .args(ONLY_PAYLOAD)
            .env(PAYLOAD, what)
            .current_dir("/")
            .uid(UID)
            .gid(GID);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{what}: {output:?}");
        answered(&output.stdout)
    }
}

const ORDINARY: [Need; 2] = [Need::Root, Need::UnprivilegedUserNamespaces];
const DELEGATION: [Need; 3] = [
    Need::Root,
    Need::UnprivilegedUserNamespaces,
    Need::Program("newuidmap"),
];

#[test]
fn many_ranges_are_what_the_kernel_has() {
    if !have(&[Need::Root]) {
        return;
    }
    let ranges = [
        (0, 100_000, 10),
        (10, 3_000_000_000, 1),
        (2_147_483_648, 200_000, 2_000),
        (11, 1000, 1),
        (4_294_967_294, 99, 1),
        (500, 4_294_967_000, 294),
        (1000, 300_000, 5),
    ];
    let map = ranges
        .iter()
        .fold(IdMap::new(), |map, &(inside, outside, count)| {
            map.uid(inside, outside, count)
                .gid(inside, outside + 1, count)
        });
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable();
    for (file, shift) in [("uid_map", 0), ("gid_map", 1)] {
        let read = output(rooted(&format!("read /proc/self/{file}")).id_map(map.clone()));
        let expected = sorted
            .iter()
            .map(|(i, o, n)| format!("{i} {} {n}", o + shift));
        assert_eq!(
            table(&read).join(" "),
            expected.collect::<Vec<_>>().join(" ")
        );
    }
    let high = User::id(2_147_483_648, 4_294_967_294).groups([2_147_483_649]);
    let status = output(rooted("read /proc/self/status").id_map(map).user(high));
    assert_eq!(
        field(&status, "Uid"),
        "2147483648 2147483648 2147483648 2147483648"
    );
    assert_eq!(
        field(&status, "Gid"),
        "4294967294 4294967294 4294967294 4294967294"
    );
    assert_eq!(field(&status, "Groups"), "2147483649");
}

#[test]
fn setgroups_is_allowed_with_ranges_and_denied_where_that_was_asked_for() {
    if !have(&[Need::Root]) {
        return;
    }
    let ranges = IdMap::range(200_000, 1000);
    let read = |map: &IdMap, what: &str| output(rooted(what).id_map(map.clone()));
    assert_eq!(read(&ranges, "read /proc/self/setgroups"), "allow\n");
    assert_eq!(read(&ranges, "setgroups"), "Ok(())");
    let denied = ranges.deny_setgroups();
    assert_eq!(read(&denied, "read /proc/self/setgroups"), "deny\n");
    assert_eq!(read(&denied, "setgroups"), "Err(PermissionDenied)");
    // Groups that were asked for are not left out.
    let error = refused(
        rooted("sleep")
            .id_map(denied)
            .user(User::id(5, 5).groups([6])),
    );
    assert!(error.to_string().contains("denies setgroups(2)"), "{error}");
}

#[test]
fn a_map_or_user_that_cannot_be_is_refused_before_anything_is_done() {
    let cases = [
        (rooted("").id_map(IdMap::new()), "has no ids"),
        (
            rooted("").id_map(IdMap::range(5, 0)),
            "uid map \"0 5 0\": is an empty range",
        ),
        (
            rooted("").id_map(IdMap::range(5, 10).gid(9, 90, 1)),
            "gid map \"9 90 1\": overlaps another range inside",
        ),
        (
            rooted("").user(User::id(1, u32::MAX)),
            "user \"1:4294967295\": is no id",
        ),
    ];
    for (command, expected) in cases {
        let error = refused(command.root(RootFs::directory("/nowhere")));
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn a_user_by_name_gets_the_ids_and_groups_of_its_root() {
    if !have(&[Need::Root]) {
        return;
    }
    let scratch = Scratch::new("names");
    let status = |user: &str| {
        let user: User = user.parse().unwrap();
        output(rooted("read /proc/self/status").user(user))
    };
    scratch.with_accounts(|| {
        let app = status("app");
        assert_eq!(field(&app, "Uid"), "1000 1000 1000 1000");
        assert_eq!(field(&app, "Gid"), "1001 1001 1001 1001");
        assert_eq!(field(&app, "Groups"), "44 50");
        assert_eq!(field(&app, "CapPrm"), "0000000000000000");
        assert_eq!(field(&status("1000"), "Groups"), "44 50");
        let other = status("app:video");
        assert_eq!(field(&other, "Gid"), "44 44 44 44");
        assert_eq!(field(&other, "Groups"), "");
        assert_eq!(field(&status("4321"), "Gid"), "0 0 0 0");
        let root = status("root");
        assert_eq!(field(&root, "Uid"), "0 0 0 0");
        assert_eq!(field(&root, "CapPrm"), format!("{DOCKER:016x}"));
        // Without a root of its own it is the host's accounts.
        let bare = inside("read /proc/self/status").namespaces(Namespaces::none());
        let bare = output(bare.user("app".parse().unwrap()));
        assert_eq!(field(&bare, "Groups"), "44 50");
        let chosen = rooted("read /proc/self/status").user(User::id(7, 8).groups([9, 10, 11]));
        assert_eq!(field(&output(chosen), "Groups"), "9 10 11");
    });
}

#[test]
fn names_are_looked_up_in_the_root_and_nowhere_else() {
    if !have(&[Need::Root]) {
        return;
    }
    let scratch = Scratch::new("root");
    fs::create_dir(scratch.0.join("etc")).unwrap();
    scratch.file("etc/passwd", "onlyhere:x:5:5::/:\n", 0o644);
    let command = || Command::new("/nothing").root(RootFs::directory(&scratch.0));
    let error = refused(command().user("onlyhere".parse().unwrap()));
    assert!(
        error.to_string().contains("execve /nothing: ENOENT"),
        "{error}"
    );
    for user in ["root", "5:root", "0x10"] {
        let error = refused(command().user(user.parse().unwrap()));
        assert_eq!(error.kind(), ErrorKind::NotFound, "{user}: {error}");
        assert!(
            error.to_string().contains("of the root: no "),
            "{user}: {error}"
        );
    }
    // The host's, by a link that would lead there from outside of the root.
    fs::remove_file(scratch.0.join("etc/passwd")).unwrap();
    std::os::unix::fs::symlink("/proc/1/root/etc/passwd", scratch.0.join("etc/passwd")).unwrap();
    let error = refused(command().user("root".parse().unwrap()));
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

/// `docker exec --user`: the accounts are those the container has now, not the host's.
#[test]
fn who_enters_is_looked_up_in_the_container() {
    if !have(&[Need::Root]) {
        return;
    }
    let scratch = Scratch::new("enter");
    let container = scratch.with_accounts(|| rooted("sleep").spawn().unwrap());
    let enter = |user: &str| {
        let command = inside("read /proc/self/status").user(user.parse().unwrap());
        command.enter(&container)
    };
    let status = answered(&enter("app").unwrap().output().unwrap().stdout);
    assert_eq!(field(&status, "Uid"), "1000 1000 1000 1000");
    assert_eq!(field(&status, "Groups"), "44 50");
    let error = enter("nobody").unwrap_err();
    assert_eq!(
        error.to_string(),
        "/etc/passwd of the root: no user \"nobody\""
    );
    // A namespace without a process has no root to look into; numbers need none.
    let file = fs::File::open(format!("/proc/{}/ns/mnt", container.pid())).unwrap();
    let mounts = Namespaces::none().join(Namespace::Mount, file.into());
    let bare = inside("gid").namespaces(mounts);
    let error = refused(bare.clone().user("app".parse().unwrap()));
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    assert_eq!(output(bare.user(User::id(7, 8))), "8");
}

#[test]
fn a_user_must_be_in_the_map() {
    if !have(&[Need::Root]) {
        return;
    }
    let scratch = Scratch::new("map");
    scratch.with_accounts(|| {
        let map = IdMap::range(300_000, 80_000);
        let start = |user: &str| rooted("read /proc/self/status").user(user.parse().unwrap());
        let app = output(start("app").id_map(map.clone()));
        assert_eq!(field(&app, "Uid"), "1000 1000 1000 1000");
        assert_eq!(field(&app, "Groups"), "44 50");
        let error = refused(start("far").id_map(map));
        assert!(
            error
                .to_string()
                .contains("has a group that is not in the id map"),
            "{error}"
        );
        let small = IdMap::range(300_000, 1000);
        let error = refused(start("app").id_map(small));
        assert_eq!(error.to_string(), "user \"app\": is not in the id map");
        // Where nobody can have groups, those of a name are left out.
        let single = output(start("root").id_map(IdMap::current_user()));
        assert_eq!(field(&single, "Uid"), "0 0 0 0");
    });
}

/// CVE-2014-8989.
#[test]
fn an_ordinary_user_has_one_id_without_help_and_cannot_drop_groups() {
    if !have(&ORDINARY) {
        return;
    }
    let scratch = Scratch::new("single");
    let read = |what: &str| scratch.ordinary(&format!("start {what}"));
    assert_eq!(table(&read("read /proc/self/uid_map")), ["0", "12345", "1"]);
    assert_eq!(table(&read("read /proc/self/gid_map")), ["0", "12346", "1"]);
    assert_eq!(read("read /proc/self/setgroups"), "deny\n");
    assert_eq!(read("setgroups"), "Err(PermissionDenied)");
}

#[test]
fn an_ordinary_user_uses_the_ids_that_are_delegated_to_it() {
    if !have(&DELEGATION) {
        return;
    }
    let scratch = Scratch::new("delegated");
    scratch.with_delegation(|| {
        for caller in ["delegated", "ignores", "reaps"] {
            let read = |what: &str| scratch.ordinary(&format!("{caller} {what}"));
            let uids = "0 12345 1 1 100000 1000 1001 3000000000 500";
            assert_eq!(
                table(&read("read /proc/self/uid_map")).join(" "),
                uids,
                "{caller}"
            );
            let gids = "0 12346 1 1 200000 65536";
            assert_eq!(
                table(&read("read /proc/self/gid_map")).join(" "),
                gids,
                "{caller}"
            );
        }
        let read = |what: &str| scratch.ordinary(&format!("delegated {what}"));
        assert_eq!(read("read /proc/self/setgroups"), "allow\n");
        assert_eq!(read("setgroups"), "Ok(())");
        let status = scratch.ordinary("become app");
        assert_eq!(field(&status, "Uid"), "100999 100999 100999 100999");
        assert_eq!(field(&status, "Gid"), "201000 201000 201000 201000");
        assert_eq!(field(&status, "Groups"), "200043 200049");
    });
}

#[test]
fn ids_that_are_not_delegated_are_refused_by_newuidmap_in_its_own_words() {
    if !have(&DELEGATION) {
        return;
    }
    let scratch = Scratch::new("undelegated");
    scratch.with_delegation(|| {
        let error = scratch.ordinary("greedy sleep");
        assert!(error.starts_with("PermissionDenied: start /"), "{error}");
        assert!(
            error.contains("newuidmap did not write the id map: newuidmap: "),
            "{error}"
        );
        assert!(error.contains("exit status: 1"), "{error}");
        // Refused by this crate: what is delegated is in the map already.
        let error = scratch.ordinary("undelegated sleep");
        assert!(error.contains("overlaps another range outside"), "{error}");
    });
    scratch.with_accounts(|| {
        scratch.bind("/etc/subuid", "other:1:5\n", 0o644);
        let error = scratch.ordinary("delegated sleep");
        let expected = "NotFound: /etc/subuid: no range for user \"ordinary\" (uid 12345): as root, usermod --add-subuids ";
        assert!(error.starts_with(expected), "{error}");
    });
}

#[test]
fn a_helper_that_is_missing_hangs_or_lies_makes_the_start_fail() {
    if !have(&DELEGATION) {
        return;
    }
    let scratch = Scratch::new("helper");
    scratch.with_delegation(|| {
        let helper = "/usr/bin/newuidmap";
        rustix::mount::mount_bind("/dev/null", helper).unwrap();
        let error = scratch.ordinary("delegated sleep");
        assert!(
            error.starts_with("NotFound: newuidmap: not in /usr/bin, /bin"),
            "{error}"
        );
        assert!(error.contains("package uidmap"), "{error}");

        scratch.bind(helper, "#!/bin/sh\nexec sleep 60\n", 0o755);
        let error = scratch.ordinary("hurried sleep");
        assert!(error.starts_with("TimedOut start /"), "{error}");
        assert!(error.ends_with("[]"), "no child is left: {error}");

        for (script, said) in [
            ("exit 0", "it said nothing"),
            ("echo 'all well' >&2", "all well"),
            (
                "echo no >&2; echo way >&2; exit 3",
                "no; way (exit status: 3)",
            ),
            ("kill -9 $$", "(signal: 9"),
        ] {
            scratch.bind(helper, &format!("#!/bin/sh\n{script}\n"), 0o755);
            let error = scratch.ordinary("delegated sleep");
            assert!(error.starts_with("PermissionDenied: start /"), "{error}");
            assert!(error.contains(said), "{script}: {error}");
            let error = scratch.ordinary("ignores sleep");
            assert!(
                error.starts_with("PermissionDenied: start /"),
                "{script}: {error}"
            );
        }
    });
}

#[test]
fn a_caller_that_is_not_dumpable_is_told_so() {
    if !have(&ORDINARY) {
        return;
    }
    let scratch = Scratch::new("secret");
    let error = scratch.ordinary("secret sleep");
    assert!(error.starts_with("PermissionDenied: start /"), "{error}");
    assert!(
        error.contains("EACCES") && error.contains("not dumpable"),
        "{error}"
    );
    if have(&DELEGATION) {
        let error = scratch.with_delegation(|| scratch.ordinary("secrets sleep"));
        assert!(
            error.contains("EACCES") && error.contains("not dumpable"),
            "{error}"
        );
    }
}

#[test]
fn a_machine_without_user_namespaces_is_named_by_its_switch() {
    if !have(&[Need::Root]) {
        return;
    }
    // In a user namespace of its own the limit is its own.
    let output = as_root_of_a_user_namespace(&mut caller("none"))
        .output()
        .unwrap();
    let error = answered(&output.stdout);
    assert!(error.contains("clone3: ENOSPC"), "{error}");
    assert!(error.contains("user.max_user_namespaces is 0"), "{error}");
}

#[test]
fn root_is_not_given_its_own_id_by_delegation() {
    if !have(&[Need::Root]) {
        return;
    }
    let error = IdMap::subordinate().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("IdMap::range"), "{error}");
}

#[test]
fn who_prepares_finds_the_namespaces_there_and_nothing_begun() {
    if !have(&[Need::Root]) {
        return;
    }
    let mut found = None;
    let mut child = inside("read /proc/self/uid_map")
        .id_map(IdMap::current_user())
        .spawn_prepared(|pid| {
            let link = |kind| fs::read_link(format!("/proc/{pid}/ns/{kind}"));
            let own = fs::read_link("/proc/thread-self/ns/net")?;
            let map = fs::read_to_string(format!("/proc/{pid}/uid_map"))?;
            found = Some((pid, link("net")? != own, map));
            Ok(())
        })
        .unwrap();
    let (pid, differs, map) = found.unwrap();
    assert_eq!((pid, differs), (child.pid(), true));
    let words: Vec<_> = map.split_whitespace().collect();
    assert_eq!(words, ["0", "0", "1"], "the map is written");
    assert!(child.output().unwrap().status.success());

    let mut pid = 0;
    let refused = inside("sleep").id_map(IdMap::current_user());
    let error = refused.spawn_prepared(|waiting| {
        pid = waiting;
        Err(std::io::ErrorKind::NotFound.into())
    });
    assert!(error.unwrap_err().to_string().contains("entity not found"));
    assert!(
        !PathBuf::from(format!("/proc/{pid}")).exists(),
        "it is gone"
    );
    let error = inside("sleep").spawn_prepared(|_| Ok(())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}
