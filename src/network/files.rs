//! The files by which programs find names: `/etc/hosts`, `/etc/resolv.conf`, `/etc/hostname`. Each is a mount of its own, so
//! that no layer has it.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;

use cofferdam_dns::{ExtraHost, Hosts, Name, ResolvConf};

use super::builder::Plan;
use super::{Attached, Medium};
use crate::error::{Result, Subject};

const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";

/// What a container's files say, but for its name.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) resolv_conf: String,
    pub(super) hosts: String,
}

impl Files {
    pub(super) fn of(attached: &Attached, subject: &Subject) -> Result<Self> {
        Ok(Files {
            resolv_conf: resolv_conf(attached, subject)?,
            hosts: hosts(attached),
        })
    }

    /// The host's, with the extra hosts.
    pub(super) fn of_host(plan: &Plan) -> Self {
        let mut hosts = read(HOSTS);
        let here = [IpAddr::from([127, 0, 0, 1])];
        for extra in &plan.extra_hosts {
            for address in extra.addresses(&here) {
                // Writing to a string does not fail.
                let _written = writeln!(hosts, "{address}\t{}", extra.name()).is_ok();
            }
        }
        Files {
            resolv_conf: read(RESOLV_CONF),
            hosts,
        }
    }

    pub(super) fn with(mut self, extra: &[ExtraHost], gateways: &[IpAddr]) -> Self {
        for host in extra {
            for address in host.addresses(gateways) {
                let _written = writeln!(self.hosts, "{address}\t{}", host.name()).is_ok();
            }
        }
        self
    }
}

/// A host without the file says nothing.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn hosts(attached: &Attached) -> String {
    attached.with_endpoints(|endpoints| {
        let ipv6 = endpoints
            .iter()
            .any(|e| e.addresses().any(|ip| ip.is_ipv6()));
        let mut hosts = if ipv6 {
            Hosts::new()
        } else {
            Hosts::ipv4_only()
        };
        for endpoint in endpoints {
            for address in endpoint.addresses() {
                hosts = hosts.host(address, endpoint.names.iter().cloned());
            }
        }
        let gateways: Vec<IpAddr> = endpoints
            .iter()
            .flat_map(|e| e.network.host_addresses())
            .collect();
        let extra = attached.plan.extra_hosts.iter();
        extra
            .fold(hosts, |hosts, extra| hosts.extra(extra, &gateways))
            .to_string()
    })
}

fn resolv_conf(attached: &Attached, subject: &Subject) -> Result<String> {
    let plan = &attached.plan;
    let host = ResolvConf::parse(&read(RESOLV_CONF));
    let own = !plan.search.is_empty() || !plan.options.is_empty();
    let conf = if own {
        given(plan, &host, subject)?
    } else {
        host.clone()
    };
    if attached.has_resolver() {
        return Ok(conf.for_container().to_string());
    }
    let nameservers = nameservers(attached, &host);
    let mut text = String::new();
    for nameserver in nameservers {
        let _written = writeln!(text, "nameserver {nameserver}").is_ok();
    }
    // Its lines but for those of the nameservers.
    for line in conf.to_string().lines() {
        if !line.starts_with("nameserver") {
            text.push_str(line);
            text.push('\n');
        }
    }
    Ok(text)
}

/// The host's, with the search domains and options that were asked for in the place of its own.
fn given(plan: &Plan, host: &ResolvConf, subject: &Subject) -> Result<ResolvConf> {
    let search: &[Name] = match plan.search.is_empty() {
        true => host.search(),
        false => &plan.search,
    };
    let options = match plan.options.is_empty() {
        true => host.options(),
        false => &plan.options,
    };
    let conf = search.iter().cloned();
    let conf = conf.fold(ResolvConf::new(), ResolvConf::search_domain);
    options.iter().try_fold(conf, |conf, option| {
        conf.option(option)
            .map_err(subject.failed("set a resolver option"))
    })
}

/// Those it asks by itself: none where it has no way out, and none of the host's loopback, which it does not reach.
fn nameservers(attached: &Attached, host: &ResolvConf) -> Vec<IpAddr> {
    let leads_out = attached.with_endpoints(|e| e.iter().any(|e| !e.network.is_internal()));
    if !leads_out {
        return Vec::new();
    }
    let of_network = attached.with_endpoints(|endpoints| {
        let mut given = endpoints
            .iter()
            .filter_map(|e| e.network.0.options.upstreams.clone());
        given.next()
    });
    match attached.plan.upstreams.clone().or(of_network) {
        Some(upstreams) => upstreams.addresses().iter().map(|to| to.ip()).collect(),
        None => {
            let reachable = |ip: &&IpAddr| !ip.is_loopback();
            host.nameservers()
                .iter()
                .filter(reachable)
                .copied()
                .collect()
        }
    }
}

impl Medium {
    /// Whether it is a bridge.
    pub(super) fn is_bridge(&self) -> bool {
        matches!(self, Medium::Bridge { .. })
    }
}
