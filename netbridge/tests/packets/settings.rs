//! Settings of an interface under `/proc/sys`.

use cofferdam_netbridge::{
    Attachment, Bridge, ErrorKind, InterfaceSysctl, NetNs, ReversePath, links,
};
use cofferdam_testkit::{Need, have, in_mount_namespace};

use super::{Container, bridge, name, net, on_a_host, read, sys};

fn names() -> Vec<String> {
    links().unwrap().into_iter().map(|link| link.name).collect()
}

#[test]
fn a_container_has_the_settings_of_its_interface() {
    on_a_host(|| {
        let bridge = bridge("br0", "10.5.0.1/24");
        let attachment = Attachment::new(net("10.5.0.2/24"))
            .ifname(name("net.7"))
            .sysctl(InterfaceSysctl::rp_filter(ReversePath::Loose))
            .sysctl("net.ipv4.conf.IFNAME.log_martians=1".parse().unwrap())
            .sysctl("net.ipv4.neigh.IFNAME.gc_stale_time=17".parse().unwrap());
        let container = Container::attach(&bridge, attachment);
        for (path, value) in [
            ("ipv4/conf/net.7/rp_filter", "2"),
            ("ipv4/conf/net.7/log_martians", "1"),
            ("ipv4/neigh/net.7/gc_stale_time", "17"),
        ] {
            assert_eq!(container.netns.run(|| read(path)).unwrap(), value, "{path}");
        }
    });
}

#[test]
fn a_setting_the_kernel_does_not_have_is_an_error_and_leaves_nothing() {
    on_a_host(|| {
        let bridge = bridge("br0", "10.5.0.1/24");
        let before = names();
        let netns = NetNs::new().unwrap();
        for (sysctl, kind) in [
            ("net.ipv4.conf.IFNAME.no_such_thing=1", ErrorKind::NotFound),
            (
                "net.ipv4.conf.IFNAME.rp_filter=many",
                ErrorKind::InvalidInput,
            ),
        ] {
            let attachment = Attachment::new(net("10.5.0.2/24")).sysctl(sysctl.parse().unwrap());
            let error = bridge.attach(&netns, attachment).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(
                error.to_string().contains("/proc/sys/net/ipv4/conf/eth0/"),
                "{error}"
            );
            assert_eq!(names(), before);
        }
    });
}

#[test]
fn a_read_only_proc_sys_is_an_error_that_says_so() {
    if !have(&[Need::Root]) {
        return;
    }
    in_mount_namespace(|| {
        on_a_host(|| {
            let bridge = bridge("br0", "10.5.0.1/24");
            let before = names();
            sys::make_proc_sys_read_only();
            let netns = NetNs::new().unwrap();
            let attachment = Attachment::new(net("10.5.0.2/24"));
            let error = bridge.attach(&netns, attachment).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
            let line = error.to_string();
            assert!(line.contains("/proc/sys/net/ipv"), "{line}");
            assert!(line.ends_with("EROFS: Read-only file system"), "{line}");
            assert_eq!(names(), before);
            let error = Bridge::builder(name("br1")).create().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
            assert_eq!(names(), before);
        });
    });
}
