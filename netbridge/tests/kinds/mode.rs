use std::net::TcpListener;
use std::os::fd::AsFd;

use cofferdam_netbridge::{ErrorKind, LinkKind, NetworkMode};

use crate::support::{in_own_netns, link_names, names_in};

#[test]
fn a_container_without_a_network_has_a_loopback_that_is_up() {
    in_own_netns(&[], || {
        let netns = NetworkMode::None.open().unwrap().unwrap();
        assert_eq!(names_in(&netns), ["lo".to_owned()].into());
        let listener = netns.run(|| TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.unwrap().local_addr().unwrap();
        assert!(address.ip().is_loopback());
    });
}

#[test]
fn containers_of_one_namespace_share_its_ports() {
    in_own_netns(&[], || {
        let first = NetworkMode::None.open().unwrap().unwrap();
        let fd = first.as_fd().try_clone_to_owned().unwrap();
        let second = NetworkMode::Container(fd).open().unwrap().unwrap();
        let listener = first.run(|| TcpListener::bind("127.0.0.1:0")).unwrap();
        let listener = listener.unwrap();
        let address = listener.local_addr().unwrap();
        let connected = second.run(|| std::net::TcpStream::connect(address));
        connected.unwrap().unwrap();
        assert!(NetworkMode::Host.open().unwrap().is_none());
    });
}

/// On a kernel that lacks one of them, which that of this machine does and that of the VM does not.
#[test]
fn a_kind_that_is_missing_is_named_and_a_question_makes_nothing() {
    in_own_netns(&[], || {
        let before = link_names();
        for kind in LinkKind::ALL {
            if let Err(error) = kind.available() {
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                assert!(error.to_string().contains("CONFIG_"), "{error}");
            }
        }
        assert_eq!(link_names(), before);
    });
}
