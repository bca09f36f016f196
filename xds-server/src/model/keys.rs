//! Every key of the mesh file, once. The parser and the JSON Schema both read these tables, so
//! they cannot disagree about which keys there are.

use crate::source::endpoints::KINDS;

/// A map with fixed keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Object {
    pub(crate) keys: &'static [KeyRule],
}

/// One key of an [`Object`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyRule {
    pub(crate) name: &'static str,
    pub(crate) status: Status,
    pub(crate) shape: Shape,
    /// One line for editors.
    pub(crate) about: &'static str,
}

/// Whether a key may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Optional,
    Required,
    /// Part of the format, but this version does not enforce it: an error, never a silent no-op.
    NotYet,
    /// People look for it here, but it belongs elsewhere: the text says where.
    Elsewhere(&'static str),
}

/// What a value looks like.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    Text,
    Duration,
    Count {
        min: u64,
        max: u64,
    },
    Choice(&'static [&'static str]),
    Bool,
    List(&'static Self),
    Map(&'static Self),
    Object(&'static Object),
    /// One of several.
    Either(&'static [Self]),
    /// Anything with an `@type`.
    Native,
}

const fn key(name: &'static str, shape: Shape, about: &'static str) -> KeyRule {
    KeyRule {
        name,
        status: Status::Optional,
        shape,
        about,
    }
}

const fn required(rule: KeyRule) -> KeyRule {
    KeyRule {
        status: Status::Required,
        ..rule
    }
}

const fn not_yet(name: &'static str) -> KeyRule {
    KeyRule {
        name,
        status: Status::NotYet,
        shape: Shape::Text,
        about: "not enforced yet",
    }
}

const WEIGHT: Shape = Shape::Count {
    min: 0,
    max: u32::MAX as u64,
};
const TEXTS: Shape = Shape::List(&Shape::Text);

pub(crate) const FORMATS: &[&str] = &["v1"];
pub(crate) const MTLS: &[&str] = &["off", "permissive", "strict"];
pub(crate) const POLICIES: &[&str] = &[
    "round_robin",
    "least_request",
    "pick_first",
    "random",
    "ring_hash",
    "maglev",
];
pub(crate) const RETRY_ON: &[&str] = &[
    "cancelled",
    "deadline_exceeded",
    "internal",
    "resource_exhausted",
    "unavailable",
];

/// Written for no time limit.
pub(crate) const NO_LIMIT: &str = "none";

/// The file.
pub(crate) static FILE: Object = Object {
    keys: &[
        required(key("mesh", Shape::Choice(FORMATS), "format of this file")),
        key(
            "trust_domain",
            Shape::Text,
            "trust domain of all SPIFFE ids; needed by `mtls`",
        ),
        key(
            "defaults",
            Shape::Object(&DEFAULTS),
            "for services that do not say otherwise",
        ),
        key(
            "services",
            Shape::Map(&Shape::Object(&SERVICE)),
            "the services by name",
        ),
        key(
            "resources",
            Shape::List(&Shape::Native),
            "Envoy-native resources",
        ),
    ],
};

/// A file of resources alone.
pub(crate) static RESOURCE_FILE: Object = Object {
    keys: &[required(key(
        "resources",
        Shape::List(&Shape::Native),
        "Envoy-native resources",
    ))],
};

const TIMEOUT: KeyRule = key(
    "timeout",
    Shape::Duration,
    "longest duration of a whole call, retries included; `none` is no limit",
);
const MTLS_KEY: KeyRule = key(
    "mtls",
    Shape::Choice(MTLS),
    "whether servers demand mutual TLS",
);
const BALANCE_KEY: KeyRule = key(
    "balance",
    Shape::Object(&BALANCE),
    "how calls are spread over endpoints",
);
const LIMITS_KEY: KeyRule = key(
    "limits",
    Shape::Object(&LIMITS),
    "limits of each calling process",
);

/// `defaults`.
pub(crate) static DEFAULTS: Object = Object {
    keys: &[
        TIMEOUT,
        MTLS_KEY,
        BALANCE_KEY,
        LIMITS_KEY,
        KeyRule {
            name: "retry",
            status: Status::Elsewhere(
                "`retry` is not allowed in `defaults`: whether a call may be repeated is for each route to say",
            ),
            shape: Shape::Text,
            about: "only in routes",
        },
    ],
};

/// A service.
pub(crate) static SERVICE: Object = Object {
    keys: &[
        key("owner", Shape::Text, "who answers for it; for people"),
        key(
            "identity",
            Shape::Text,
            "path of its SPIFFE id; default `sa/<service>`",
        ),
        key("hosts", TEXTS, "other names that callers may dial"),
        key(
            "endpoints",
            Shape::Object(&ENDPOINTS),
            "where it runs; none for a service that only calls others",
        ),
        key(
            "versions",
            Shape::Map(&Shape::Text),
            "names for endpoint versions, to be used in `to`",
        ),
        key(
            "routes",
            Shape::List(&Shape::Object(&ROUTE)),
            "first match wins; none = all endpoints",
        ),
        TIMEOUT,
        MTLS_KEY,
        BALANCE_KEY,
        LIMITS_KEY,
        not_yet("allow"),
        KeyRule {
            name: "retry",
            status: Status::Elsewhere(
                "`retry` belongs in a route: whether a call may be repeated is for each route to say",
            ),
            shape: Shape::Text,
            about: "only in routes",
        },
    ],
};

/// `endpoints`: exactly one source. The living ones are those of the family's list.
pub(crate) static ENDPOINTS: Object = Object { keys: &SOURCES };

static FIXED: Shape = Shape::Object(&ENDPOINT);

static SOURCES: [KeyRule; KINDS.len() + 1] = {
    let mut keys = [key("static", Shape::List(&FIXED), "a fixed list"); KINDS.len() + 1];
    let mut i = 0;
    while i < KINDS.len() {
        keys[i + 1] = key(KINDS[i].key, Shape::Text, KINDS[i].about);
        i += 1;
    }
    keys
};

/// An entry of `endpoints.static`.
pub(crate) static ENDPOINT: Object = Object {
    keys: &[
        required(key(
            "address",
            Shape::Text,
            "`IP:PORT`, `[IPv6]:PORT` or `unix:/path`",
        )),
        key("zone", Shape::Text, "where it runs"),
        key("version", Shape::Text, "what it runs"),
        key(
            "weight",
            Shape::Count {
                min: 1,
                max: u32::MAX as u64,
            },
            "share of calls relative to the other endpoints; default 1",
        ),
    ],
};

/// A route.
pub(crate) static ROUTE: Object = Object {
    keys: &[
        key("name", Shape::Text, "for people; unique in the service"),
        key(
            "match",
            Shape::Object(&MATCH),
            "which calls; none = everything else",
        ),
        key(
            "to",
            Shape::Either(&[Shape::Text, Shape::Map(&WEIGHT)]),
            "a version name, or version names with relative weights; none = all endpoints",
        ),
        TIMEOUT,
        key(
            "retry",
            Shape::Object(&RETRY),
            "which failed calls are repeated",
        ),
    ],
};

/// `match` of a route: all conditions together.
pub(crate) static MATCH: Object = Object {
    keys: &[
        key(
            "method",
            Shape::Text,
            "`package.Service/Method` or `package.Service/*`",
        ),
        key(
            "headers",
            Shape::Map(&Shape::Either(&[Shape::Text, Shape::Object(&HEADER)])),
            "request metadata: an exact text or one condition",
        ),
        not_yet("from"),
    ],
};

/// A condition on a header: exactly one key.
pub(crate) static HEADER: Object = Object {
    keys: &[
        key("exact", Shape::Text, "the whole value"),
        key("prefix", Shape::Text, "its beginning"),
        key("suffix", Shape::Text, "its end"),
        key("contains", Shape::Text, "any part of it"),
        key("regex", Shape::Text, "a pattern for the whole value"),
        key("present", Shape::Bool, "whether the header is there"),
    ],
};

/// `retry` of a route.
pub(crate) static RETRY: Object = Object {
    keys: &[
        required(key(
            "max_attempts",
            Shape::Count { min: 2, max: 5 },
            "first try included",
        )),
        required(key(
            "on",
            Shape::List(&Shape::Choice(RETRY_ON)),
            "the status codes after which a call is repeated",
        )),
    ],
};

/// `balance`.
pub(crate) static BALANCE: Object = Object {
    keys: &[
        key(
            "policy",
            Shape::Choice(POLICIES),
            "which endpoint gets a call; default round_robin",
        ),
        key(
            "hash_header",
            Shape::Text,
            "ring_hash and maglev: calls with the same value of this header meet the same endpoint",
        ),
        not_yet("zones"),
    ],
};

/// `limits`.
pub(crate) static LIMITS: Object = Object {
    keys: &[key(
        "max_outstanding_per_client",
        Shape::Count {
            min: 1,
            max: u32::MAX as u64,
        },
        "calls in flight that one process may have; default 1024",
    )],
};
