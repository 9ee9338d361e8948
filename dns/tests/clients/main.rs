//! What real clients make of the answers: the C libraries of glibc and musl, c-ares, dig.

#[path = "../common/mod.rs"]
mod common;
mod world;

use std::path::PathBuf;
use std::time::Duration;

use cofferdam_dns::{ResolvConf, Scope};
use cofferdam_testkit::{Need, have};
use common::upstreams_of;
use world::{Client, World, compile};

/// What a client takes that waits for nothing, programs started on a busy machine included.
const AT_ONCE: Duration = Duration::from_millis(900);

/// That a name does not exist, and that it has nothing of the kind, in the words of each client.
const NO_NAME: [&str; 2] = ["EAI_NONAME", "ENOTFOUND"];
const NOTHING: [&str; 3] = ["EAI_NODATA", "EAI_NONAME", "ENODATA"];

fn clients() -> Vec<Client> {
    if !have(&[Need::Namespaces]) {
        return Vec::new();
    }
    Client::all()
}

/// Looks names up in each way and compares, the addresses in any order.
fn expect(world: &World, client: Client, cases: &[(&str, &str, &[&str])]) {
    for (family, name, expected) in cases {
        let mut made = client.look_up(world, family, name);
        made.lines.sort();
        let what = format!("{client:?} {family} {name}: {made:?}");
        match *expected {
            [] => panic!("{what}"),
            words if words == NO_NAME || words == NOTHING => {
                assert!(words.contains(&&*made.lines.concat()), "{what}");
            }
            addresses => assert_eq!(made.lines, addresses, "{what}"),
        }
        assert!(made.took < AT_ONCE, "{what}");
    }
}

#[test]
fn names_are_found_and_others_denied_without_delay() {
    for client in clients() {
        let world = World::new(|scope| scope);
        expect(
            &world,
            client,
            &[
                ("any", "db", &["10.89.0.2"]),
                ("any", "redis", &["10.89.0.2"]),
                ("any", "DB.App", &["10.89.0.2"]),
                ("any", "db.app.", &["10.89.0.2"]),
                ("any", "dual", &["10.89.0.3", "fd00::3"]),
                ("4", "dual", &["10.89.0.3"]),
                ("6", "dual.app", &["fd00::3"]),
                // The half that is not there neither fails the other nor holds it up.
                ("any", "six", &["fd00::6"]),
                ("4", "six", &NOTHING),
                ("6", "db", &NOTHING),
                ("any", "web", &["10.89.0.4", "10.89.0.5", "10.89.0.6"]),
                ("any", "nobody.app", &NO_NAME),
                ("any", "outside.example", &["192.0.2.1"]),
                ("6", "outside.example", &NOTHING),
                ("any", "nobody.example", &NO_NAME),
                ("any", "nobody", &NO_NAME),
            ],
        );
    }
}

#[test]
fn search_domains_of_a_user_hide_no_name() {
    let search = |domain: &str| ResolvConf::new().search_domain(domain.parse().unwrap());
    let asks_as_it_is = search("example");
    let searches_first = search("example").option("ndots:2").unwrap();
    for client in clients() {
        for wishes in [&asks_as_it_is, &searches_first] {
            for internal in [false, true] {
                let scope = |scope: Scope| if internal { scope.internal() } else { scope };
                let world = World::with(wishes, scope);
                let names: [(_, _, &[&str]); 3] = [
                    ("any", "db", &["10.89.0.2"]),
                    ("any", "db.app", &["10.89.0.2"]),
                    ("any", "nobody.app", &NO_NAME),
                ];
                expect(&world, client, &names);
            }
        }
        let world = World::with(&searches_first, |scope| scope);
        expect(&world, client, &[("any", "outside", &["192.0.2.1"])]);
    }
}

#[test]
fn an_internal_network_is_all_there_is_and_says_so_at_once() {
    for client in clients() {
        let world = World::new(Scope::internal);
        let names: [(_, _, &[&str]); 3] = [
            ("any", "db", &["10.89.0.2"]),
            ("any", "outside.example", &NO_NAME),
            ("any", "nobody", &NO_NAME),
        ];
        expect(&world, client, &names);
        assert_eq!(world.upstream.count(), 0);
    }
}

#[test]
fn an_upstream_that_is_not_there_fails_at_once_where_the_client_lets_it() {
    for client in clients() {
        let nowhere = upstreams_of(&["127.0.0.1:1"]);
        let world = World::new(|scope| scope.upstreams(&nowhere));
        expect(&world, client, &[("any", "db", &["10.89.0.2"])]);
        // Musl takes SERVFAIL for no answer, and waits for its timeout of five seconds.
        if client != Client::Musl {
            let made = client.look_up(&world, "any", "outside.example");
            let failures = ["EAI_AGAIN", "Could not contact DNS servers"];
            assert!(failures.contains(&&*made.lines.concat()), "{made:?}");
            assert!(made.took < AT_ONCE, "{client:?}: {made:?}");
        }
    }
}

#[test]
fn what_is_too_long_for_a_datagram_is_asked_for_over_tcp() {
    for client in clients() {
        let world = World::new(|scope| scope);
        let made = client.look_up(&world, "any", "many");
        let count = made.lines.len();
        // Musl asks over TCP since 1.2.4, and then has room for 48.
        let expected = if client == Client::Musl {
            28..=48
        } else {
            100..=100
        };
        assert!(expected.contains(&count), "{client:?}: {count}");
        assert!(made.lines.iter().all(|line| line.starts_with("10.89.1.")));
        assert!(made.took < AT_ONCE, "{client:?}: {made:?}");
    }
}

#[test]
fn getent_finds_hosts() {
    if !have(&[Need::Namespaces, Need::Program("getent")]) {
        return;
    }
    let world = World::new(|scope| scope);
    let made = world.run("getent", &["ahosts", "dual.app"]);
    let streams: Vec<_> = made
        .lines
        .iter()
        .filter(|line| line.contains("STREAM"))
        .collect();
    assert_eq!(streams.len(), 2, "{made:?}");
    assert!(streams[0].ends_with(" dual.app"), "{made:?}");
    let reverse = world.run("getent", &["hosts", "10.89.0.2"]);
    assert_eq!(reverse.lines, ["10.89.0.2       db.app"], "{reverse:?}");
}

#[test]
fn addresses_have_names() {
    for (need, arguments) in [("gcc", &[][..]), ("musl-gcc", &["-static"])] {
        if !have(&[Need::Namespaces, Need::Program(need)]) {
            continue;
        }
        let world = World::new(|scope| scope);
        let program: PathBuf = compile(need, "reverse", arguments);
        let made = world.run(&program, &["10.89.0.2"]);
        assert!(
            ["db.app", "redis.app"].contains(&&*made.lines.concat()),
            "{made:?}"
        );
        let nobody = world.run(&program, &["10.89.0.99"]);
        assert!(!nobody.lines.concat().contains("app"), "{nobody:?}");
        assert!(nobody.took < AT_ONCE, "{nobody:?}");
    }
}

#[test]
fn dig_reads_every_answer() {
    if !have(&[Need::Namespaces, Need::Program("dig")]) {
        return;
    }
    let world = World::new(|scope| scope);
    for (arguments, expected) in [
        ("+short dB", &["10.89.0.2"][..]),
        ("+short -x 10.89.0.2", &["db.app.", "redis.app."]),
        ("+short -x fd00::6", &["six.app."]),
        ("+short _http._tcp.db.app SRV", &["1 2 8080 db."]),
        ("+short db MX", &[]),
        ("+short +tcp db ANY", &["10.89.0.2"]),
        ("+short +noedns dual AAAA", &["fd00::3"]),
        ("+short +noedns outside.example", &["192.0.2.1"]),
    ] {
        assert_eq!(dig(&world, arguments), expected, "{arguments}");
    }
    assert_eq!(dig(&world, "+short many").len(), 100);
}

#[test]
fn dig_sees_the_flags_and_codes_of_the_rfcs() {
    if !have(&[Need::Namespaces, Need::Program("dig")]) {
        return;
    }
    let world = World::new(|scope| scope);
    for (arguments, expected) in [
        (
            "db",
            "status: NOERROR|flags: qr aa rd ra; QUERY: 1, ANSWER: 1,|udp: 1232",
        ),
        ("db HTTPS", "status: NOERROR|ANSWER: 0,"),
        ("nobody.app", "status: NXDOMAIN|flags: qr aa"),
        (
            "+ignore +bufsize=512 many",
            "flags: qr aa tc rd ra|udp: 1232",
        ),
        (
            "+noedns +ignore many",
            "flags: qr aa tc rd ra; QUERY: 1, ANSWER: 30,",
        ),
        ("+edns=1 +noednsneg db", "status: BADVERS|version: 0"),
        ("+opcode=STATUS db", "status: NOTIMP"),
        ("CH TXT version.bind", "status: REFUSED"),
        ("app AXFR", "Transfer failed"),
        (
            "_http._tcp.db SRV",
            "ADDITIONAL: 2|db.\t\t\t5\tIN\tA\t10.89.0.2",
        ),
        ("wEb", "wEb.\t\t\t5\tIN\tA"),
    ] {
        let said = dig(&world, arguments).join("\n");
        for part in expected.split('|') {
            assert!(said.contains(part), "{arguments}: {part} in {said}");
        }
    }
}

fn dig(world: &World, arguments: &str) -> Vec<String> {
    let options = ["+tries=1", "+time=3"].into_iter();
    let arguments: Vec<_> = options.chain(arguments.split(' ')).collect();
    world.run("dig", &arguments).lines
}
