//! Typed cgroup v2 limits, with a v1 fallback for hybrid machines.
