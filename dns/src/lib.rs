//! The resolver inside every container: names of the network, and a forwarder.
