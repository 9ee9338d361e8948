//! Services: ports that are found by name.

use crate::Name;

/// Where a service is: a name of the zone and a port, as an SRV record says it. [`Zone::insert_service`] gives it a name.
///
/// [`Zone::insert_service`]: crate::Zone::insert_service
///
/// ```
/// use cofferdam_dns::{Service, Zone};
///
/// let mut zone = Zone::new();
/// zone.insert("web".parse()?, "10.89.0.2".parse()?);
/// zone.insert_service("_http._tcp.web".parse()?, Service::new("web".parse()?, 8080));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub(crate) target: Name,
    pub(crate) port: u16,
    pub(crate) priority: u16,
    pub(crate) weight: u16,
}

impl Service {
    /// At this port of `target`, with priority and weight 0.
    #[must_use]
    pub fn new(target: Name, port: u16) -> Self {
        Service {
            target,
            port,
            priority: 0,
            weight: 0,
        }
    }

    /// Clients try the lowest first.
    #[must_use]
    pub fn priority(mut self, priority: u16) -> Self {
        self.priority = priority;
        self
    }

    /// Of those with one priority, clients choose in this proportion.
    #[must_use]
    pub fn weight(mut self, weight: u16) -> Self {
        self.weight = weight;
        self
    }
}
