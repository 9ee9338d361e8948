//! Errors that are as they should be.

use cofferdam::ErrorKind::{self, AlreadyExists, Busy, InvalidInput, NotFound};

struct Explained {
    steps: &'static [&'static str],
    kind: ErrorKind,
    says: &'static str,
    why: &'static str,
}

const fn of(
    steps: &'static [&'static str],
    kind: ErrorKind,
    says: &'static str,
    why: &'static str,
) -> Explained {
    Explained {
        steps,
        kind,
        says,
        why,
    }
}

const ALL: &[Explained] = &[
    of(
        &["exec", "pause", "stats", "detach"],
        NotFound,
        "its program has ended",
        "NotFound: its program had ended, or another thread killed it",
    ),
    of(
        &["exec"],
        NotFound,
        "/proc/",
        "NotFound: its program was just ending",
    ),
    of(
        &["exec"],
        NotFound,
        "namespaces: ESRCH",
        "NotFound: its program was just ending",
    ),
    of(
        &["stats"],
        NotFound,
        "open its network namespace",
        "NotFound: its program was just ending",
    ),
    of(
        &["exec"],
        Busy,
        "it is paused",
        "Busy: another thread had paused it",
    ),
    of(
        &["start nothing"],
        NotFound,
        "start the program",
        "NotFound: it was to start a program that does not exist",
    ),
    of(
        &["start", "start nothing", "publish"],
        AlreadyExists,
        "publish",
        "AlreadyExists: another container has that port",
    ),
    of(
        &["start", "start nothing", "publish"],
        Busy,
        "EADDRINUSE",
        "Busy: the proxy of another container has that port",
    ),
    of(
        &["disconnect", "connect"],
        Busy,
        "publish",
        "Busy: another container took the port that was to move",
    ),
    of(
        &["disconnect", "connect"],
        AlreadyExists,
        "publish",
        "AlreadyExists: another container took the port that was to move",
    ),
    of(
        &["exec"],
        ErrorKind::Os,
        "before its program ran",
        "Os: it was killed, with its container or for lack of memory, before its program ran",
    ),
    of(
        &["exec"],
        ErrorKind::Os,
        "ENOMEM",
        "Os: its program was just ending, and nothing can be started beside it any more",
    ),
    of(
        &["exec"],
        ErrorKind::Os,
        "EAGAIN",
        "Os: its container has as many processes as it may",
    ),
    of(
        &["start"],
        Busy,
        "mount the layers",
        "Busy: another container writes to that upper",
    ),
    of(
        &["publish", "start"],
        InvalidInput,
        "none of its networks takes published ports",
        "InvalidInput: another thread disconnected it, or its networks are internal",
    ),
    of(
        &["connect"],
        InvalidInput,
        "it is in a network of this name",
        "InvalidInput: another thread had connected it",
    ),
    of(
        &["disconnect"],
        InvalidInput,
        "it is not in this network",
        "InvalidInput: another thread had disconnected it",
    ),
    of(
        &["unpublish"],
        InvalidInput,
        "it is not published",
        "InvalidInput: another thread had taken the port back",
    ),
    of(
        &["connect", "disconnect", "publish", "unpublish"],
        InvalidInput,
        "it has no networks of its own",
        "InvalidInput: it was started without a network",
    ),
    of(
        &["remove network"],
        Busy,
        "containers or other handles still have it",
        "Busy: the network has containers",
    ),
    of(
        &["attach"],
        NotFound,
        "it has ended",
        "NotFound: the detached container was killed and reaped",
    ),
    of(
        &["attach"],
        NotFound,
        "find its program",
        "NotFound: the program of the detached container has ended",
    ),
    of(
        &["remove volume"],
        Busy,
        "remove a volume",
        "Busy: a container has the volume",
    ),
    of(
        &["remove volume"],
        NotFound,
        "remove a volume",
        "NotFound: no container has made the volume, or another thread removed it",
    ),
];

/// Why this error of this step had to come.
pub(super) fn why(step: &str, error: &cofferdam::Error) -> Option<&'static str> {
    let text = error.to_string();
    let is_it = |explained: &&Explained| {
        explained.steps.contains(&step)
            && explained.kind == error.kind()
            && text.contains(explained.says)
    };
    ALL.iter().find(is_it).map(|explained| explained.why)
}
