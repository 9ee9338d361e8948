//! The verbs of `Running`.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use cofferdam::cgroups::{Hierarchy, Mode};
use cofferdam::{ErrorKind, Event, Limits, Network, Stdio, User};
use cofferdam_testkit::{Need, NetNs, have};

use crate::{UNTIL_TOLD, shell};

const SOON: Duration = Duration::from_secs(10);

fn controller(name: &'static str) -> Need {
    match Hierarchy::detect().map(|hierarchy| hierarchy.mode()) {
        Ok(Mode::Unified) => Need::Cgroup2Controller(name),
        _ => Need::Cgroup1Controller(name),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

#[test]
fn exec_has_what_the_container_has_and_what_it_is_told() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let web = shell("web", UNTIL_TOLD)
        .env("FROM", "container")
        .workdir("/");
    let web = web.start().unwrap();
    let exec = |script: &str| web.exec("sh").args(["-c", script]);

    let output = exec("echo $FROM $MINE; pwd; echo err >&2; exit 3");
    let output = output.env("MINE", "exec").workdir("/dev").output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(text(&output.stdout), "container exec\n/dev");
    assert_eq!(text(&output.stderr), "err");
    assert_eq!(exec("exit 5").status().unwrap().code(), Some(5));

    let mut cat = exec("read line; echo got $line");
    cat = cat.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut cat = cat.spawn().unwrap();
    cat.take_stdin().unwrap().write_all(b"this\n").unwrap();
    assert_eq!(text(&cat.output().unwrap().stdout), "got this");

    let mut tty = exec("test -t 0 && test -t 1 && echo on a terminal");
    tty = tty.terminal(24, 80);
    let mut tty = tty.spawn().unwrap();
    let mut shown = Vec::new();
    let mut terminal = tty.take_terminal().unwrap();
    terminal.read_to_end(&mut shown).unwrap();
    assert!(text(&shown).contains("on a terminal"), "{}", text(&shown));
    assert!(tty.wait().unwrap().success());

    let error = web.exec("/no/such").output().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().starts_with("container web: "), "{error}");

    let sleeper = exec("sleep 60").spawn().unwrap();
    let pid = sleeper.pid();
    drop(sleeper);
    assert!(!crate::runs(pid), "dropped is killed");
    assert_eq!(web.stop(SOON).unwrap().code(), Some(7));
}

#[test]
fn exec_runs_as_the_user_it_is_told() {
    if !have(&[Need::Root]) {
        return;
    }
    let web = shell("web", UNTIL_TOLD).user(User::id(1234, 1234)).start();
    let web = web.unwrap();
    let who = |exec: cofferdam::Exec<'_>| {
        let exec = exec.args([
            "-c",
            "while read k v r; do [ $k = Uid: ] && echo $v; done < /proc/self/status",
        ]);
        text(&exec.output().unwrap().stdout)
    };
    assert_eq!(who(web.exec("sh")), "1234", "the container's");
    assert_eq!(who(web.exec("sh").user(User::id(7, 7))), "7");
    drop(web);
}

#[test]
fn a_paused_container_stands_still_and_goes_on() {
    if !have(&[Need::Namespaces, Need::Root]) {
        return;
    }
    let mut web = shell("web", "while :; do echo x; sleep 0.01; done");
    web = web.stdout(Stdio::piped());
    let mut web = web.start().unwrap();
    let mut out = web.take_stdout().unwrap();
    let mut events = web.events().unwrap();
    web.pause().unwrap();
    assert!(web.is_paused().unwrap());
    assert_eq!(events.next(SOON).unwrap(), Some(Event::Paused));
    assert_eq!(events.next(Duration::ZERO).unwrap(), None);
    let error = web.exec("true").status().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");

    // What is in the pipe was written before.
    let reader = std::thread::spawn(move || {
        let mut bytes = [0; 1 << 16];
        let mut last = Instant::now();
        while out.read(&mut bytes).unwrap() > 0 {
            last = Instant::now();
        }
        last
    });
    std::thread::sleep(Duration::from_millis(100));
    let resumed = Instant::now();
    web.resume().unwrap();
    assert!(!web.is_paused().unwrap());
    assert_eq!(events.next(SOON).unwrap(), Some(Event::Resumed));
    std::thread::sleep(Duration::from_millis(100));
    web.pause().unwrap();
    // Killed all the same.
    web.kill().unwrap();
    let exited = loop {
        match events.next(SOON).unwrap().unwrap() {
            Event::Exited(status) => break status,
            other => assert!(matches!(other, Event::Paused | Event::Resumed), "{other:?}"),
        }
    };
    assert_eq!(exited.signal(), Some(9));
    assert_eq!(events.next(SOON).unwrap(), None, "at once");
    assert!(reader.join().unwrap() > resumed, "it went on");
    assert_eq!(web.wait().unwrap().signal(), Some(9));
    assert_eq!(web.pause().unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn stop_resumes_what_is_paused_and_sends_the_signal_it_is_told() {
    if !have(&[Need::Namespaces, Need::Root]) {
        return;
    }
    let script = "trap 'exit 9' USR1; trap 'exit 7' TERM; while :; do sleep 0.02; done";
    let web = shell("web", script).start().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    web.pause().unwrap();
    assert_eq!(web.stop_with(10, SOON).unwrap().code(), Some(9));
}

#[test]
fn top_and_stats_tell_what_runs_and_what_went_through() {
    if !have(&[Need::Namespaces, Need::Root]) {
        return;
    }
    NetNs::new().run(|| {
        let network = Network::bridge("stats").create().unwrap();
        let web = shell("web", UNTIL_TOLD).network(&network).start().unwrap();
        let sleeper = web.exec("sleep").arg("60").spawn().unwrap();
        let top = web.top().unwrap();
        let named = |pid: u32| top.iter().find(|process| process.pid == pid).unwrap();
        assert_eq!(named(web.pid()).command, "sh");
        assert_eq!(named(sleeper.pid()).command, "sleep");

        let before = web.stats().unwrap();
        let busy =
            "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; echo > /dev/udp/x 2>/dev/null; true";
        assert!(
            web.exec("sh")
                .args(["-c", busy])
                .status()
                .unwrap()
                .success()
        );
        let after = web.stats().unwrap();
        let used = |stats: &cofferdam::Stats| stats.usage.cpu.unwrap().usage;
        assert!(used(&after) > used(&before));
        assert!(after.uptime > before.uptime);
        let links: Vec<_> = after.links.iter().map(|link| link.name.as_str()).collect();
        assert_eq!(links, ["eth0"]);
        drop(sleeper);
        web.remove().unwrap();
        network.remove().unwrap();
    });
}

#[test]
fn limits_are_changed_while_it_runs_and_hitting_them_is_told() {
    if !have(&[Need::Root, controller("pids")]) {
        return;
    }
    let web = shell("web", UNTIL_TOLD).pids_max(64).start().unwrap();
    let mut events = web.events().unwrap();
    let fork = || {
        web.exec("sh")
            .args(["-c", "for i in 1 2 3 4 5 6 7 8; do sleep 0.2 & done; wait"])
    };
    assert!(fork().output().unwrap().stderr.is_empty());
    web.update(&Limits::new().pids_max(8)).unwrap();
    let output = fork().output().unwrap();
    assert!(!output.stderr.is_empty(), "{output:?}");
    let event = events.next(SOON).unwrap();
    assert!(matches!(event, Some(Event::PidsLimited(1..))), "{event:?}");
    let error = web.update(&Limits::new().memory_max(1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    drop(events);
    web.remove().unwrap();
}

#[test]
fn an_out_of_memory_kill_is_told_before_the_end() {
    if !have(&[Need::Root, controller("memory")]) {
        return;
    }
    let eater = "sleep 0.3; x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done";
    let web = shell("web", eater).memory_max(16 << 20).start().unwrap();
    let mut events = web.events().unwrap();
    let event = events.next(Duration::from_secs(30)).unwrap();
    assert!(matches!(event, Some(Event::OomKilled(1..))), "{event:?}");
    let event = events.next(SOON).unwrap();
    assert!(matches!(event, Some(Event::Exited(_))), "{event:?}");
    assert!(web.oom_kills().unwrap() > 0);
}

#[test]
fn events_and_running_are_fds_for_an_event_loop() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let web = shell("web", "read line").stdin(Stdio::piped());
    let mut web = web.start().unwrap();
    let stdin = web.take_stdin();
    let mut events = web.events().unwrap();
    let ready = |fd: std::os::fd::BorrowedFd<'_>| {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: 200_000_000,
        };
        poll(
            &mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)],
            Some(&timeout),
        )
        .unwrap()
            == 1
    };
    assert!(!ready(events.as_fd()) && !ready(web.as_fd()));
    drop(stdin);
    assert!(ready(events.as_fd()) && ready(web.as_fd()));
    let status = web.wait_timeout(SOON).unwrap().unwrap();
    assert_eq!(events.next(SOON).unwrap(), Some(Event::Exited(status)));
    assert_eq!(
        web.exec("sh").status().unwrap_err().kind(),
        ErrorKind::NotFound
    );
}
