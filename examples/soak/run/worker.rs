//! A thread that does one thing after another.

use super::random::Random;
use super::tally::Tally;
use super::world::World;

pub(super) struct Worker<'w> {
    pub(super) world: &'w World,
    pub(super) tally: &'w Tally,
    pub(super) random: Random,
    number: u64,
}

type Operation<'w> = (&'static str, u64, fn(&mut Worker<'w>));

impl<'w> Worker<'w> {
    pub(super) fn new(world: &'w World, tally: &'w Tally, seed: u64, number: u64) -> Self {
        Worker {
            world,
            tally,
            random: Random::new(seed, number),
            number,
        }
    }

    /// Each with how often it is done beside the others.
    const ALL: [Operation<'w>; 37] = [
        ("start", 20, Self::start),
        ("start nothing", 1, Self::start_nothing),
        ("output", 3, Self::output),
        ("talk", 3, Self::talk),
        ("exec output", 12, Self::exec_output),
        ("exec and kill", 6, Self::exec_and_kill),
        ("exec on a terminal", 4, Self::exec_on_a_terminal),
        ("exec many", 3, Self::exec_many),
        ("exec without memory", 2, Self::exec_without_memory),
        ("exec and leave", 3, Self::exec_and_leave),
        ("signal", 4, Self::signal),
        ("kill", 3, Self::kill),
        ("pause", 6, Self::pause),
        ("top", 4, Self::top),
        ("stats", 8, Self::stats),
        ("update", 4, Self::update),
        ("events", 5, Self::events),
        ("wait", 5, Self::wait),
        ("inspect", 5, Self::inspect),
        ("stop", 5, Self::stop),
        ("stop with", 3, Self::stop_with),
        ("remove", 5, Self::remove),
        ("remove paused", 2, Self::remove_paused),
        ("drop", 4, Self::drop),
        ("detach", 3, Self::detach),
        ("attach", 4, Self::attach),
        ("reap", 3, Self::reap),
        ("connect", 8, Self::connect),
        ("disconnect", 6, Self::disconnect),
        ("publish", 6, Self::publish),
        ("unpublish", 4, Self::unpublish),
        ("create network", 4, Self::create_network),
        ("remove network", 3, Self::remove_network),
        ("diff", 3, Self::diff),
        ("commit", 2, Self::commit),
        ("collect", 1, Self::collect),
        ("remove volume", 2, Self::remove_volume),
    ];

    /// Until it is over.
    pub(super) fn work(mut self) {
        let all = Self::ALL;
        let weights = all.iter().map(|(_, weight, _)| weight);
        let total = weights.sum();
        while !self.tally.is_over() {
            let mut at = self.random.below(total);
            let operation = all.iter().find(|(_, weight, _)| {
                let found = at < *weight;
                at = at.saturating_sub(*weight);
                found
            });
            let Some((name, _, work)) = operation else {
                break;
            };
            self.tally.begin(self.number, name);
            work(&mut self);
        }
        self.tally.end(self.number);
    }
}
