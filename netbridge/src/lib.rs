//! Bridges, veth pairs, addresses and subnets for containers, over netlink.
