//! Overlay mounts as file descriptors: layers, throw-away uppers.
