//! Other servers, and how much CPU time a server has taken.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Samples, World, client, local};

/// A server that answers, and how to end it.
pub(crate) struct Running {
    address: SocketAddr,
    who: Who,
    end: Box<dyn FnOnce()>,
}

enum Who {
    /// The threads of this process with that name.
    Thread(&'static str),
    Process(u32),
}

impl Running {
    pub(crate) fn thread(
        address: SocketAddr,
        name: &'static str,
        end: impl FnOnce() + 'static,
    ) -> Self {
        Running {
            address,
            who: Who::Thread(name),
            end: Box::new(end),
        }
    }

    fn child(address: SocketAddr, mut child: Child) -> Self {
        Running {
            address,
            who: Who::Process(child.id()),
            end: Box::new(move || {
                child.kill().unwrap();
                child.wait().unwrap();
            }),
        }
    }

    pub(crate) fn end(self) {
        (self.end)();
    }

    /// Asks it for some seconds, and ends it.
    pub(crate) fn measure(
        self,
        world: &World,
        questions: &Path,
        seconds: u32,
        samples: &mut Samples,
    ) {
        let before = self.cpu();
        let asked = client::ask(world, self.address, questions, seconds);
        let took = self.cpu() - before;
        if let Some((qps, answered)) = asked {
            samples.qps.push(qps);
            samples.cpu.push(took as f64 / answered);
        }
        self.end();
    }

    /// Nanoseconds of CPU that its threads have taken.
    fn cpu(&self) -> u64 {
        let (pid, named) = match self.who {
            Who::Thread(name) => (std::process::id(), Some(name)),
            Who::Process(pid) => (pid, None),
        };
        let mut sum = 0;
        for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            let task = task.unwrap().path();
            let read = |file: &str| fs::read_to_string(task.join(file)).unwrap_or_default();
            if named.is_none_or(|name| read("comm").trim_end() == name) {
                let ran = read("schedstat");
                let ran = ran.split(' ').next().and_then(|ns| ns.parse().ok());
                sum += ran.unwrap_or(0);
            }
        }
        sum
    }
}

/// dnsmasq, with the addresses of [`local::names`] and one for all of `.site`, or asking another for all.
pub(crate) fn dnsmasq(
    world: &World,
    address: SocketAddr,
    upstream: Option<SocketAddr>,
) -> Option<Running> {
    let mut dnsmasq = Command::new("/usr/sbin/dnsmasq");
    dnsmasq.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
    ]);
    dnsmasq.args([
        "--no-hosts",
        "--cache-size=0",
        "--bind-interfaces",
        "--user=root",
    ]);
    dnsmasq.args(["--dns-forward-max=1000", "--pid-file="]);
    dnsmasq.arg(format!("--listen-address={}", address.ip()));
    dnsmasq.arg(format!("--port={}", address.port()));
    match upstream {
        Some(upstream) => {
            dnsmasq.arg(format!("--server={}#{}", upstream.ip(), upstream.port()));
        }
        None => {
            dnsmasq.arg("--address=/site/192.0.2.1");
            for (name, address) in local::names() {
                dnsmasq.arg(format!("--host-record={name},{address}"));
            }
        }
    }
    start(world, dnsmasq, address)
}

/// unbound, with the addresses of [`local::names`], or asking another for all.
pub(crate) fn unbound(
    world: &World,
    address: SocketAddr,
    upstream: Option<SocketAddr>,
) -> Option<Running> {
    let (ip, port) = (address.ip(), address.port());
    let mut text = format!(
        "server:\n interface: {ip}@{port}\n do-daemonize: no\n num-threads: 1\n username: \"\"\n chroot: \"\"\n \
         pidfile: \"\"\n use-syslog: no\n logfile: \"/dev/null\"\n do-not-query-localhost: no\n module-config: \"iterator\"\n \
         msg-cache-size: 0\n rrset-cache-size: 0\n access-control: 127.0.0.0/8 allow\n"
    );
    for (name, address) in local::names() {
        text += &format!(" local-data: \"{name}. 5 A {address}\"\n");
    }
    text += "remote-control:\n control-enable: no\n";
    if let Some(upstream) = upstream {
        let (ip, port) = (upstream.ip(), upstream.port());
        text += &format!("forward-zone:\n name: \".\"\n forward-addr: {ip}@{port}\n");
    }
    let conf = world.files.join("unbound.conf");
    fs::write(&conf, text).unwrap();
    let mut unbound = Command::new("/usr/sbin/unbound");
    unbound.arg("-dd").arg("-c").arg(conf);
    start(world, unbound, address)
}

/// aardvark-dns, with the addresses of [`local::names`], asking who stands in /etc/resolv.conf.
pub(crate) fn aardvark(world: &World, address: SocketAddr) -> Option<Running> {
    let program = Path::new("/usr/lib/podman/aardvark-dns");
    if !program.exists() {
        return None;
    }
    let config = world.files.join("aardvark");
    fs::create_dir_all(&config).unwrap();
    // The client is one of the network's, or it would be answered nothing.
    let mut text = format!("{}\n{:064x} {}  client\n", address.ip(), 1, address.ip());
    for (number, (name, address)) in local::names().enumerate() {
        text += &format!("{:064x} {address}  {name}\n", number + 2);
    }
    fs::write(config.join("bench"), text).unwrap();
    let mut aardvark = Command::new(program);
    aardvark.arg("--config").arg(&config);
    aardvark.args(["-p", &address.port().to_string(), "run"]);
    let launcher = world.netns.run(|| quiet(&mut aardvark).spawn()).ok()?;
    let answers = answers(world, address);
    let daemon = pid_in(&config.join("aardvark.pid"));
    if !answers {
        end_daemon(launcher, daemon);
        panic!("{aardvark:?} does not answer");
    }
    Some(Running {
        address,
        who: Who::Process(daemon),
        end: Box::new(move || end_daemon(launcher, daemon)),
    })
}

fn pid_in(path: &Path) -> u32 {
    fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

/// Ends what the launcher has started and left.
fn end_daemon(mut launcher: Child, daemon: u32) {
    let pid = rustix::process::Pid::from_raw(daemon as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    launcher.wait().unwrap();
    while Path::new(&format!("/proc/{daemon}/exe")).exists() {
        thread::sleep(Duration::from_millis(1));
    }
}

fn quiet(command: &mut Command) -> &mut Command {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(Stdio::null())
}

fn start(world: &World, mut command: Command, address: SocketAddr) -> Option<Running> {
    let child = world.netns.run(|| quiet(&mut command).spawn()).ok()?;
    let running = Running::child(address, child);
    if answers(world, address) {
        return Some(running);
    }
    running.end();
    panic!("{command:?} does not answer");
}

/// Waits until it answers a query.
fn answers(world: &World, address: SocketAddr) -> bool {
    let socket = world.netns.run(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    socket
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    socket.connect(address).unwrap();
    let query = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x05name1\0\0\x01\0\x01";
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        let answered = socket.send(query).and_then(|_| socket.recv(&mut [0; 512]));
        if answered.is_ok() {
            return true;
        }
        thread::sleep(Duration::from_millis(10));
    }
    false
}
