//! The same publication by each back end.

use cofferdam_portmap::{NetworkGuard, Portmap, Published};

use crate::world::{At, Family, Who, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    NfTables,
}

pub(crate) struct Guards {
    _ports: Vec<Published>,
    _networks: Vec<NetworkGuard>,
}

impl Backend {
    pub(crate) fn families(self) -> Vec<Family> {
        vec![Family::V4]
    }

    pub(crate) fn has_internal_networks(self) -> bool {
        false
    }

    pub(crate) fn publish(self, world: &World) -> Guards {
        let portmap = world
            .netns(Who::Host)
            .run(|| Portmap::open("matrix"))
            .unwrap();
        let networks = [
            ("bra", "10.1.0.0/24"),
            ("brb", "10.2.0.0/24"),
            ("bri", "10.3.0.0/24"),
        ]
        .map(|(bridge, subnet)| portmap.network(bridge, subnet.parse().unwrap()).unwrap());
        let mut ports = Vec::new();
        for protocol in ["tcp", "udp"] {
            for spec in ["8080:80", "192.0.2.1:8081:81", "127.0.0.1:8082:82"] {
                let spec = format!("{spec}/{protocol}").parse().unwrap();
                ports.push(portmap.publish(&spec, At::Web.ip(Family::V4)).unwrap());
            }
        }
        Guards {
            _ports: ports,
            _networks: networks.into(),
        }
    }
}
