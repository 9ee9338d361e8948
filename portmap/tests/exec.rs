//! nf_tables needs no program.

use std::process::Command;

use cofferdam_portmap::{ForeignHook, NetworkSpec, Portmap};
use cofferdam_testkit::{Need, NetNs, have, refuse_syscall};

#[test]
fn nothing_is_executed_to_publish_and_unpublish() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    NetNs::new().run(|| {
        refuse_syscall(libc::SYS_execve);
        refuse_syscall(libc::SYS_execveat);
        assert!(Command::new("/bin/true").status().is_err());
        let portmap = Portmap::open("cofferdam").unwrap();
        let network = NetworkSpec::new("br0").unwrap();
        let network = network.subnet("10.1.0.0/24".parse().unwrap());
        let network = portmap.network(network).unwrap();
        let target = "10.1.0.2".parse().unwrap();
        let published = portmap.publish(&"8080:80".parse().unwrap(), target);
        let published = published.unwrap();
        let declared = portmap.list().unwrap();
        assert!(ForeignHook::find("cofferdam").unwrap().is_empty());
        portmap.reapply().unwrap();
        portmap.reconcile(&declared).unwrap();
        published.remove().unwrap();
        network.remove().unwrap();
        assert!(!portmap.exists().unwrap());
    });
}
