//! The back end that executes iptables' programs: what it makes, what it leaves alone, and what it says when they fail.

#![cfg(feature = "iptables")]
#![expect(
    clippy::unwrap_used,
    reason = "fixtures panic where they cannot do their work"
)]

#[allow(dead_code, reason = "shared with the matrix, which has more links")]
#[path = "../matrix/links.rs"]
mod links;

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use cofferdam_portmap::{
    ErrorKind, Iptables, NetworkSpec, Owner, PortMapping, Programs, Protocol, Ruleset, Variant,
};
use cofferdam_testkit::{Need, NetNs, have};
use links::Links;

const TABLE: &str = "app";

const VARIANTS: [(Variant, &str); 2] = [(Variant::Nft, "nft"), (Variant::Legacy, "legacy")];

/// What the tests need; the VM has no programs of iptables.
fn ready() -> bool {
    have(&[
        Need::Namespaces,
        Need::Program("ip6tables-nft-restore"),
        Need::Program("ip6tables-legacy-restore"),
    ])
}

fn port(host_port: u16, target: &str) -> PortMapping {
    PortMapping::new(Protocol::Udp, host_port, target.parse().unwrap()).unwrap()
}

fn ruleset(ports: impl IntoIterator<Item = PortMapping>) -> Ruleset {
    let mut ruleset = Ruleset::new(TABLE).unwrap();
    let network = NetworkSpec::new("br0").unwrap();
    let network = network
        .subnet("10.1.0.0/24".parse().unwrap())
        .subnet("fd00:1::/64".parse().unwrap());
    ruleset.network(network).unwrap();
    for port in ports {
        ruleset.publish(port).unwrap();
    }
    ruleset
}

fn open(host: &NetNs, variant: Variant) -> Iptables {
    let programs = Programs::find(variant).unwrap();
    host.run(|| Iptables::with_programs(TABLE, programs))
        .unwrap()
}

fn run(host: &NetNs, program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(format!("/usr/sbin/{program}"));
    let done = host.run(|| command.args(arguments).output()).unwrap();
    assert!(done.status.success(), "{program} {arguments:?}: {done:?}");
    String::from_utf8(done.stdout).unwrap()
}

/// Chains and rules of both families, without comments and counters.
fn saved(host: &NetNs, variant: &str) -> String {
    let mut text = String::new();
    for family in ["iptables", "ip6tables"] {
        let saved = run(host, &format!("{family}-{variant}-save"), &[]);
        for line in saved.lines().filter(|line| !line.starts_with('#')) {
            text.push_str(line.split(" [").next().unwrap());
            text.push('\n');
        }
    }
    text
}

#[test]
fn rules_of_others_are_as_before_and_ours_are_gone() {
    if !ready() {
        return;
    }
    for (variant, name) in VARIANTS {
        let host = NetNs::new();
        for family in ["iptables", "ip6tables"] {
            let program = format!("{family}-{name}");
            run(&host, &program, &["-w", "-P", "FORWARD", "DROP"]);
            run(&host, &program, &["-w", "-N", "app-OTHER"]);
            let rule = ["-w", "-A", "FORWARD", "-i", "lo", "-j", "app-OTHER"];
            run(&host, &program, &rule);
            // iptables makes its tables when they are first used, and never removes them.
            for table in ["raw", "nat"] {
                run(&host, &program, &["-w", "-t", table, "-N", "another"]);
            }
        }
        let before = saved(&host, name);
        let iptables = open(&host, variant);
        let ports = [port(8080, "10.1.0.2:80"), port(8080, "[fd00:1::2]:80")];
        let all = ruleset(ports.clone());
        iptables.apply(&all).unwrap();
        assert_eq!(iptables.list().unwrap(), ports);
        let applied = saved(&host, name);
        for jump in ["FORWARD -j app-FWD", "INPUT -j app-IN"] {
            let rule = format!("-A {jump}\n");
            assert_eq!(applied.matches(&rule).count(), 2, "{applied}");
        }
        for _ in 0..2 {
            iptables.reapply(&all).unwrap();
        }
        assert_eq!(saved(&host, name), applied);
        iptables.delete().unwrap();
        assert_eq!(saved(&host, name), before, "{name}");
        // By its end too, and by an empty ruleset.
        iptables.apply(&all).unwrap();
        drop(iptables);
        assert_eq!(saved(&host, name), before, "{name}");
        let iptables = open(&host, variant);
        iptables.apply(&all).unwrap();
        iptables.apply(&Ruleset::new(TABLE).unwrap()).unwrap();
        assert_eq!(saved(&host, name), before, "{name}");
    }
}

#[test]
fn what_a_firewall_flushed_or_a_killed_process_left_is_put_right() {
    if !ready() {
        return;
    }
    for (variant, name) in VARIANTS {
        let host = NetNs::new();
        let all = ruleset([port(53, "10.1.0.2:53")]);
        let iptables = open(&host, variant);
        iptables.apply(&all).unwrap();
        let whole = saved(&host, name);
        let program = format!("iptables-{name}");
        for table in ["nat", "filter"] {
            run(&host, &program, &["-w", "-t", table, "-F"]);
            run(&host, &program, &["-w", "-t", table, "-X"]);
        }
        iptables.reapply(&all).unwrap();
        assert_eq!(saved(&host, name), whole, "{name}");
        // Another process takes over, with less to publish: nothing of the first is left.
        iptables.persist();
        let many = (0..300).map(|n| port(1000 + n, "10.1.0.3:80"));
        let other = open(&host, variant);
        other.apply(&ruleset(many)).unwrap();
        other.persist();
        let third = open(&host, variant);
        third.apply(&all).unwrap();
        assert_eq!(saved(&host, name), whole, "{name}");
        third.delete().unwrap();
        assert!(!saved(&host, name).contains("app-"), "{name}");
    }
}

#[test]
fn ports_are_a_tree_and_each_leads_where_it_should() {
    if !ready() {
        return;
    }
    for (variant, name) in VARIANTS {
        let host = NetNs::new();
        let many = 3000;
        // Of all that an owner's name may have, what iptables' files have a meaning for.
        let owner = Owner::new("--web'#!;$(`<|&*").unwrap();
        let at = |number: u16| port(1000 + 7 * number, "10.1.0.2:80").owned_by(owner.clone());
        let iptables = open(&host, variant);
        iptables.apply(&ruleset((0..many).map(at))).unwrap();
        let listed: Vec<_> = iptables.list().unwrap();
        assert_eq!(listed.len(), usize::from(many));
        assert!(listed.iter().all(|port| port.owner() == Some(&owner)));
        // All but one, and back.
        iptables.apply(&ruleset((1..many).map(at))).unwrap();
        let listed = iptables.list().unwrap();
        assert!(!listed.contains(&at(0)), "{name}");
        iptables.apply(&ruleset((0..many).map(at))).unwrap();
        let last = at(many - 1).host_port();
        let here = PortMapping::new(Protocol::Udp, last, "10.1.0.1:80".parse().unwrap()).unwrap();
        iptables
            .apply(&ruleset((0..many - 1).map(at).chain([here])))
            .unwrap();
        let here = "10.1.0.1".parse().unwrap();
        Links::of(&host).address("lo", here, 32);
        assert!(host.run(|| reaches(last)), "{name}: {last}");
    }
}

/// Whether a datagram for 10.1.0.1:`port` is led on to port 80.
fn reaches(port: u16) -> bool {
    let server = UdpSocket::bind("10.1.0.1:80").unwrap();
    let wait = Duration::from_secs(10);
    server.set_read_timeout(Some(wait)).unwrap();
    let client = UdpSocket::bind("10.1.0.1:0").unwrap();
    client.send_to(b"?", ("10.1.0.1", port)).unwrap();
    server.recv(&mut [0; 4]).is_ok()
}

#[test]
fn nothing_is_executed_where_nothing_changes() {
    if !ready() {
        return;
    }
    let host = NetNs::new();
    let programs = Programs4::forwarding();
    let open = || Iptables::with_programs(TABLE, programs.programs());
    let iptables = host.run(open).unwrap();
    let one = ruleset([port(53, "10.1.0.2:53")]);
    iptables.apply(&one).unwrap();
    assert_eq!(programs.calls(), "save4 restore4 save6 restore6 ");
    iptables.apply(&one).unwrap();
    assert_eq!(programs.calls(), "");
    let two = ruleset([port(53, "10.1.0.2:53"), port(54, "10.1.0.2:54")]);
    iptables.apply(&two).unwrap();
    assert_eq!(programs.calls(), "restore4 ");
    iptables.persist();
}

#[test]
fn a_program_that_fails_is_quoted_up_to_a_bound_and_has_no_environment() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = NetNs::new();
    let failure = |script: &str| {
        let programs = Programs4::of(script);
        let open = || Iptables::with_programs(TABLE, programs.programs());
        let iptables = host.run(open).unwrap();
        iptables.apply(&ruleset([])).unwrap_err()
    };
    let error = failure("env >&2; exit 2");
    let text = error.to_string();
    assert!(text.contains("iptables-save: exit status 2: "), "{text}");
    assert!(!text.contains("CARGO") && !text.contains("HOME="), "{text}");
    let error = failure("yes error | head -c 1000000 >&2; kill -9 $$");
    let text = error.to_string();
    assert!(text.contains("ended by signal 9: error; error"), "{text}");
    assert!(text.len() < 4096, "{}", text.len());
    let error = failure("echo 'Permission denied (you must be root)' >&2; exit 4");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
}

#[test]
fn names_that_mean_more_to_iptables_and_programs_that_are_not_there_are_refused() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let error = Programs::in_directory("bin", Variant::Default).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let error = Programs::in_directory("/nowhere", Variant::Default).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let programs = Programs4::of("exit 1");
    let open = || Iptables::with_programs(TABLE, programs.programs());
    let iptables = NetNs::new().run(open).unwrap();
    for name in ["br+", "-j", "!br", "a'b"] {
        let mut ruleset = Ruleset::new(TABLE).unwrap();
        ruleset.network(NetworkSpec::new(name).unwrap()).unwrap();
        let error = iptables.apply(&ruleset).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
    let other = Ruleset::new("other").unwrap();
    let error = iptables.apply(&other).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}

/// Scripts in the place of the four programs, in a directory that goes with the value.
struct Programs4(PathBuf);

impl Programs4 {
    fn of(script: &str) -> Self {
        Self::each(|_, _| script.to_owned())
    }

    /// Those that note the call and execute the real one.
    fn forwarding() -> Self {
        Self::each(|directory, name| {
            let short = name
                .replace("ip6tables-restore", "restore6")
                .replace("ip6tables-save", "save6")
                .replace("iptables-restore", "restore4")
                .replace("iptables-save", "save4");
            format!("printf '{short} ' >>{directory}/calls; exec /usr/sbin/{name} \"$@\"")
        })
    }

    fn each(script: impl Fn(&str, &str) -> String) -> Self {
        let thread = std::thread::current().id();
        let name = format!("iptables-{}-{thread:?}", std::process::id());
        let directory = std::env::temp_dir().join(name.replace(['(', ')'], ""));
        fs::create_dir_all(&directory).unwrap();
        for name in ["iptables", "ip6tables"] {
            for verb in ["restore", "save"] {
                let name = format!("{name}-{verb}");
                let path = directory.join(&name);
                let script = script(directory.to_str().unwrap(), &name);
                fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            }
        }
        Programs4(directory)
    }

    fn programs(&self) -> Programs {
        Programs::in_directory(&self.0, Variant::Default).unwrap()
    }

    /// The calls since the last question.
    fn calls(&self) -> String {
        let path = self.0.join("calls");
        let calls = fs::read_to_string(&path).unwrap_or_default();
        fs::write(&path, "").unwrap();
        calls
    }
}

impl Drop for Programs4 {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}
