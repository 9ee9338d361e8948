//! One hierarchy of those a new cgroup is made in, and what is written there.

use std::sync::Arc;

use crate::apply::{self, Skipped};
use crate::controller::{Controller, Version};
use crate::dir::Dir;
use crate::error::{ErrorKind, Result};
use crate::limits::{Limits, Setting};
use crate::member::Member;
use crate::mount::{Mount, Parent};

pub(crate) struct Site<'a> {
    pub(crate) mount: &'a Arc<Mount>,
    controllers: Vec<(Controller, Vec<Setting>)>,
}

impl<'a> Site<'a> {
    pub(crate) fn new(mount: &'a Arc<Mount>) -> Self {
        Site {
            mount,
            controllers: Vec::new(),
        }
    }

    /// The site of a plan that is in this hierarchy, put in if there is none.
    pub(crate) fn of<'p>(plan: &'p mut Vec<Site<'a>>, mount: &'a Arc<Mount>) -> &'p mut Self {
        let found = plan.iter().position(|site| Arc::ptr_eq(site.mount, mount));
        let at = found.unwrap_or_else(|| {
            plan.push(Site::new(mount));
            plan.len() - 1
        });
        &mut plan[at]
    }

    pub(crate) fn add(&mut self, controller: Controller, settings: Vec<Setting>) {
        self.controllers.push((controller, settings));
    }

    /// The parent of the new cgroup, with the controllers enabled. Best effort leaves out those that no level above
    /// passes on.
    pub(crate) fn parent(
        &mut self,
        parent: Parent<'_>,
        limits: &Limits,
        skipped: &mut Vec<Skipped>,
    ) -> Result<Arc<Dir>> {
        match self.mount.parent(parent, &self.needed()) {
            Err(error)
                if limits.is_best_effort()
                    && error.kind() == ErrorKind::Unsupported
                    && !self.controllers.is_empty() => {}
            done => return done,
        }
        // Which of them it was.
        for (controller, settings) in std::mem::take(&mut self.controllers) {
            match self.mount.parent(parent, &[controller]) {
                Ok(_) => self.controllers.push((controller, settings)),
                Err(error) => {
                    let path = Some(self.mount.root.path());
                    apply::skip_controller(limits, skipped, controller, path, error)?;
                }
            }
        }
        self.mount.parent(parent, &self.needed())
    }

    /// Writes the limits into the directory made there.
    pub(crate) fn apply(&self, member: &Member, limits: &Limits) -> Result<Vec<Skipped>> {
        let mut skipped = Vec::new();
        for (_, settings) in &self.controllers {
            skipped.extend(member.apply(settings, limits.is_best_effort())?);
        }
        let v1 = self.mount.version == Version::V1;
        if v1 && self.mount.controllers.contains(&Controller::Cpuset) {
            member.inherit_cpuset()?;
        }
        Ok(skipped)
    }

    pub(crate) fn needed(&self) -> Vec<Controller> {
        let needed = self.controllers.iter().map(|(controller, _)| *controller);
        needed.collect()
    }
}
