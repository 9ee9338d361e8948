//! Starts programs in Linux namespaces from threaded processes of any size, as a library call.
