//! What a container is to have of networks.

use std::path::Path;
use std::sync::Arc;

use std::os::fd::OwnedFd;

use cofferdam_dns::{ExtraHost, Name, Upstreams};
use cofferdam_namespaces::{Command, Mount, Namespace, Namespaces};
use cofferdam_portmap::PortSpec;

use super::connection::{Connection, label};
use super::files::Files;
use super::{Attached, pasta, ports};
use crate::builder::ContainerBuilder;
use crate::error::{Error, Result, Subject};
use crate::running::Running;

/// As it was said, not checked yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Networking {
    pub(super) mode: Mode,
    connections: Vec<Connection>,
    aliases: Vec<String>,
    ports: Vec<PortSpec>,
    exposed: Vec<PortSpec>,
    publish_all: bool,
    extra_hosts: Vec<ExtraHost>,
    upstreams: Option<Upstreams>,
    search: Vec<String>,
    options: Vec<String>,
}

/// Which network namespace it is in.
#[derive(Clone, Debug, Default)]
pub(super) enum Mode {
    /// One of its own; without connections nothing but a loopback, and nobody can connect it.
    #[default]
    Own,
    /// The same, and it can be connected later.
    Connectable,
    Host,
    /// One of its own, that a process of its own leads out.
    Pasta,
    /// Another container's. `None`: that has none to share.
    Of(String, Option<Arc<Shared>>),
}

/// What containers share that share a network namespace.
#[derive(Debug)]
pub(super) struct Shared {
    netns: OwnedFd,
    files: Files,
}

/// What was said, checked.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(super) mode: Mode,
    pub(super) own_name: Name,
    pub(super) aliases: Vec<Name>,
    pub(super) connections: Vec<Connection>,
    pub(super) ports: Vec<PortSpec>,
    pub(super) extra_hosts: Vec<ExtraHost>,
    pub(super) upstreams: Option<Upstreams>,
    pub(super) search: Vec<Name>,
    pub(super) options: Vec<String>,
}

impl ContainerBuilder {
    /// Connects it to this network, or as a [`Connection`] says, with an address of one's own choice, say. Called again, to
    /// one more. Without any it has a loopback and nothing else. Needs a root, for the files by which programs find names.
    pub fn network(mut self, network: impl Into<Connection>) -> Self {
        self.networking.connections.push(network.into());
        self
    }

    /// Puts it into the host's network, with the host's addresses and ports: for programs that one trusts as one does the
    /// host's. It can have no other network, and no port is published: what it listens on is the host's already.
    pub fn host_network(mut self) -> Self {
        self.networking.mode = Mode::Host;
        self
    }

    /// Gives it a loopback and nothing else, as without a network, but so that [`Running::connect`] works later: with files for
    /// names if it has a root, and a resolver once a network has one.
    pub fn no_network(mut self) -> Self {
        self.networking.mode = Mode::Connectable;
        self
    }

    /// Puts it into the network namespace of another container, with its addresses, ports, loopback and names. The other must
    /// have been started with a network or [`no_network`](Self::no_network).
    pub fn network_of(mut self, other: &Running) -> Self {
        let shared = other.attached().and_then(|attached| {
            let netns = attached.netns().ok()?;
            let files = other.files()?;
            Some(Arc::new(Shared { netns, files }))
        });
        self.networking.mode = Mode::Of(other.name().to_owned(), shared);
        self
    }

    /// One more name for it in all its networks. Containers may share an alias; whoever asks gets all their addresses.
    pub fn alias(mut self, name: impl Into<String>) -> Self {
        self.networking.aliases.push(name.into());
        self
    }

    /// Leads a port of the host to one of the container: `"127.0.0.1:8080:80".parse()?`, a range, or one to be chosen, which
    /// [`Running::ports`] tells. Needs a bridge network that is not internal.
    ///
    /// A port on `[::1]`, or on an address of a family that the container does not have, is led by a thread of this process,
    /// and the container sees the host as the client.
    pub fn publish(mut self, port: PortSpec) -> Self {
        self.networking.ports.push(port);
        self
    }

    /// Says that the container listens on this port: `"80".parse()?`, `"53/udp".parse()?`. It changes nothing but what
    /// [`publish_all`](Self::publish_all) publishes.
    pub fn expose(mut self, port: PortSpec) -> Self {
        self.networking.exposed.push(port);
        self
    }

    /// Leads a free port of the host to each [exposed](Self::expose) one. [`Running::ports`] tells which.
    #[doc(alias = "P")]
    pub fn publish_all(mut self) -> Self {
        self.networking.publish_all = true;
        self
    }

    /// A name of an address, for this container alone: `"db:10.0.0.2".parse()?`, or `"host.internal:host-gateway".parse()?`
    /// for the host. Its `/etc/hosts` and its resolver know it.
    #[doc(alias = "add-host")]
    pub fn extra_host(mut self, host: ExtraHost) -> Self {
        self.networking.extra_hosts.push(host);
        self
    }

    /// Asks these servers for names of elsewhere, instead of the network's. Where all its networks are internal, nobody is
    /// asked.
    pub fn dns(mut self, upstreams: &Upstreams) -> Self {
        self.networking.upstreams = Some(upstreams.clone());
        self
    }

    /// One more search domain, instead of the host's.
    pub fn dns_search(mut self, domain: impl Into<String>) -> Self {
        self.networking.search.push(domain.into());
        self
    }

    /// One more option of resolv.conf(5), such as `timeout:2`, instead of the host's.
    pub fn dns_option(mut self, option: impl Into<String>) -> Self {
        self.networking.options.push(option.into());
        self
    }
}

impl Networking {
    /// All that can be told without the kernel.
    pub(crate) fn check(self, subject: &Subject, name: &str, has_root: bool) -> Result<Plan> {
        let own_name = label(subject, "name", name)?;
        let invalid = |item, value: &str, reason| Err(Error::invalid(subject, item, value, reason));
        let ports = self.all_ports(subject)?;
        let labels = |item, names: &[String]| -> Result<Vec<Name>> {
            names
                .iter()
                .map(|name| label(subject, item, name))
                .collect()
        };
        let aliases = labels("alias", &self.aliases)?;
        let what = match &self.mode {
            Mode::Host => Some("host"),
            Mode::Pasta => Some("pasta"),
            Mode::Of(_, None) => {
                let reason = "has no network namespace to share: it was started without a network";
                let Mode::Of(other, _) = &self.mode else {
                    return invalid("network_of", "", reason);
                };
                return invalid("network_of", other, reason);
            }
            Mode::Of(..) => Some("another container's"),
            Mode::Own | Mode::Connectable => None,
        };
        if let (Some(_), Some(connection)) = (what, self.connections.first()) {
            let reason = "cannot be beside the host's network, pasta or another container's";
            return invalid("network", connection.network.name(), reason);
        }
        if self.connections.is_empty() {
            let reason = match what {
                Some("host") => {
                    "has no place in the host's network: what it listens on is the host's"
                }
                Some("pasta") => "has no place where there is nobody else",
                Some(_) => "has no place in another container's network: give it to that one",
                None => "needs a network",
            };
            if let Mode::Pasta = self.mode {
                pasta::check(subject, &ports)?;
            } else if let Some(port) = ports.first() {
                return invalid("publish", &port.to_string(), reason);
            }
            let later = matches!(self.mode, Mode::Connectable);
            if let Some(alias) = self.aliases.first().filter(|_| !later) {
                return invalid("alias", alias, reason);
            }
        }
        if let Some(connection) = self.connections.first().filter(|_| !has_root) {
            return invalid("network", connection.network.name(), "needs a rootfs");
        }
        self.check_connections(subject, &own_name, &ports)?;
        let search: std::result::Result<Vec<Name>, _> =
            self.search.iter().map(|domain| domain.parse()).collect();
        Ok(Plan {
            mode: self.mode,
            own_name,
            aliases,
            connections: self.connections,
            ports,
            extra_hosts: self.extra_hosts,
            upstreams: self.upstreams,
            search: search.map_err(subject.failed("set a search domain"))?,
            options: self.options,
        })
    }

    fn all_ports(&self, subject: &Subject) -> Result<Vec<PortSpec>> {
        let mut ports = self.ports.clone();
        if let Some(port) = self
            .exposed
            .iter()
            .find(|port| *port.host_ports().end() != 0)
        {
            let reason = "names a port of the host: that is for publish";
            return Err(Error::invalid(subject, "expose", port, reason));
        }
        if self.publish_all {
            // One that is published is not published twice.
            let led = |port: &&PortSpec| {
                let same = |p: &PortSpec| {
                    p.container_ports() == port.container_ports() && p.protocol() == port.protocol()
                };
                !self.ports.iter().any(same)
            };
            ports.extend(self.exposed.iter().filter(led).cloned());
        }
        match repeated(&ports) {
            Some(twice) => Err(Error::invalid(subject, "publish", twice, "is there twice")),
            None => Ok(ports),
        }
    }

    fn check_connections(&self, subject: &Subject, own: &Name, ports: &[PortSpec]) -> Result<()> {
        for (at, connection) in self.connections.iter().enumerate() {
            connection.names(subject, own, &[])?;
            connection.interface(subject)?;
            let name = connection.network.name();
            let before = &self.connections[..at];
            if before.iter().any(|other| other.network.name() == name) {
                return Err(Error::invalid(subject, "network", name, "is there twice"));
            }
        }
        let takes_ports =
            |c: &Connection| c.network.0.medium.is_bridge() && !c.network.is_internal();
        match ports.first() {
            Some(port)
                if !self.connections.is_empty() && !self.connections.iter().any(takes_ports) =>
            {
                Err(ports::unreachable(subject, port))
            }
            _ => Ok(()),
        }
    }
}

fn repeated(ports: &[PortSpec]) -> Option<&PortSpec> {
    ports
        .iter()
        .enumerate()
        .find(|(at, port)| !is_chosen(port) && ports[..*at].contains(port))
        .map(|(_, port)| port)
}

/// Two free ports of the host may lead to the same.
fn is_chosen(port: &PortSpec) -> bool {
    *port.host_ports().end() == 0
}

impl Plan {
    /// Makes what the container has of networks.
    pub(crate) fn attach(&self, subject: &Subject, container: &str) -> Result<Option<Attached>> {
        match self.mode {
            Mode::Own if self.connections.is_empty() => Ok(None),
            Mode::Own | Mode::Connectable => Attached::new(self, subject, container).map(Some),
            Mode::Host | Mode::Pasta | Mode::Of(..) => Ok(None),
        }
    }

    /// Has the program start in its network namespace, with the files by which programs find names, but for those the caller
    /// mounts.
    pub(crate) fn enter(
        &self,
        command: Command,
        attached: Option<&Attached>,
        subject: &Subject,
        has_root: bool,
    ) -> Result<Command> {
        let failed = || subject.failed::<std::io::Error>("duplicate a namespace");
        let join = |netns| Namespaces::default().join(Namespace::Net, netns);
        let (namespaces, files) = match (&self.mode, attached) {
            (Mode::Host, _) => {
                let namespaces = Namespaces::default().without(Namespace::Net);
                (namespaces, Files::of_host(self))
            }
            (Mode::Pasta, _) => (Namespaces::default(), pasta::files(self)),
            (Mode::Of(_, Some(shared)), _) => {
                let netns = shared.netns.try_clone().map_err(failed())?;
                let files = shared.files.clone().with(&self.extra_hosts, &[]);
                (join(netns), files)
            }
            (_, Some(attached)) => {
                let netns = attached.netns().map_err(failed())?;
                (join(netns), Files::of(attached, subject)?)
            }
            _ => return Ok(command),
        };
        let command = command.namespaces(namespaces);
        Ok(match has_root {
            true => self.with_files(command, files),
            false => command,
        })
    }

    fn with_files(&self, command: Command, files: Files) -> Command {
        let files = [
            ("/etc/resolv.conf", files.resolv_conf),
            ("/etc/hosts", files.hosts),
            ("/etc/hostname", format!("{}\n", self.own_name)),
        ];
        let mounts = command.mounts().iter();
        // What the caller mounts there is what the caller wants there.
        let taken: Vec<_> = mounts.map(|mount| mount.target().to_owned()).collect();
        let missing = files
            .into_iter()
            .filter(|(path, _)| !taken.iter().any(|mount| mount == Path::new(path)));
        missing.fold(command, |command, (path, content)| {
            command.mount(Mount::file(path, content))
        })
    }
}
