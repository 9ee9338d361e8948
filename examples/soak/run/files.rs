//! What containers write.

use super::worker::Worker;

impl Worker<'_> {
    pub(super) fn diff(&mut self) {
        let at = self.random.below(1000);
        let Some(member) = self.world.share(at).filter(|member| member.layered) else {
            return;
        };
        let write = member
            .running
            .exec("sh")
            .args(["-c", "echo $$ > /tmp/written"]);
        self.tally.check("exec", write.status());
        for change in self
            .tally
            .check("diff", member.running.diff())
            .into_iter()
            .flatten()
        {
            if let Err(error) = change {
                self.tally.fail(format!("diff: {error}"));
            }
        }
    }

    pub(super) fn commit(&mut self) {
        let at = self.random.below(1000);
        let Some(member) = self.world.share(at).filter(|member| member.layered) else {
            return;
        };
        let store = &self.world.store;
        let layer = match self.random.chance(70) {
            true => self.tally.check("commit", member.running.commit(store)),
            false => self
                .tally
                .check("commit unpaused", member.running.commit_unpaused(store)),
        };
        if let Some(layer) = layer {
            if let Err(error) = layer.release() {
                self.tally.fail(format!("release a layer: {error}"));
            }
        }
    }

    pub(super) fn collect(&mut self) {
        if let Err(error) = self.world.store.collect() {
            self.tally.fail(format!("collect: {error}"));
        }
    }

    pub(super) fn remove_volume(&mut self) {
        let name = format!("v{}", self.random.below(5));
        self.tally
            .check("remove volume", self.world.volumes.remove(&name));
        self.tally.check("list volumes", self.world.volumes.names());
    }
}
