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
    /// A time limit, or `none`.
    Duration,
    /// A length of time that has to be there.
    Period,
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
/// Keys and values of labels.
const LABELS: Shape = Shape::Map(&Shape::Text);
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
    "weighted_round_robin",
    "peak_ewma",
];
pub(crate) const ZONES: &[&str] = &["by_weight", "prefer_local"];
pub(crate) const SUBSET_FALLBACKS: &[&str] = &[NONE, "any"];
pub(crate) const RETRY_ON: &[&str] = &[
    "cancelled",
    "deadline_exceeded",
    "internal",
    "resource_exhausted",
    "unavailable",
];

/// Written for no time limit, for calls without sessions, and to go without what `defaults` has.
pub(crate) const NONE: &str = "none";

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

const NOBODY_OR_RULES: &[Shape] = &[Shape::Choice(&[NONE]), Shape::Object(&OUTLIER_DETECTION)];
const OUTLIER_DETECTION_KEY: KeyRule = key(
    "outlier_detection",
    Shape::Either(NOBODY_OR_RULES),
    "which endpoints callers leave out for a time because their calls failed; default none",
);
const SESSION_KEY: KeyRule = key(
    "session_affinity",
    Shape::Either(&SESSION_SHAPES),
    "the calls of a session go to one endpoint; `none`: no sessions",
);

/// `defaults`.
pub(crate) static DEFAULTS: Object = Object {
    keys: &[
        TIMEOUT,
        MTLS_KEY,
        BALANCE_KEY,
        LIMITS_KEY,
        OUTLIER_DETECTION_KEY,
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
        SESSION_KEY,
        key(
            "subset_fallback",
            Shape::Choice(SUBSET_FALLBACKS),
            "where calls go when no endpoint has the labels of their route's `subset`; default none",
        ),
        LIMITS_KEY,
        OUTLIER_DETECTION_KEY,
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
        key("labels", LABELS, "what routes may ask for by `subset`"),
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
        key(
            "subset",
            LABELS,
            "only endpoints with these labels; see `subset_fallback`",
        ),
        TIMEOUT,
        key(
            "retry",
            Shape::Object(&RETRY),
            "which failed calls are repeated",
        ),
        SESSION_KEY,
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
        key(
            "subset_size",
            Shape::Count {
                min: 1,
                max: u32::MAX as u64,
            },
            "how many endpoints each calling process uses, drawn by itself; default all",
        ),
        key(
            "slow_start",
            Shape::Duration,
            "new endpoints grow into their share over this time; with round_robin, least_request and weighted_round_robin",
        ),
        key(
            "zones",
            Shape::Choice(ZONES),
            "which zone gets a call: by_weight (default), or prefer_local, the caller's as far as it carries it",
        ),
    ],
};

static SESSION_SHAPES: [Shape; 2] = [Shape::Choice(&[NONE]), Shape::Object(&SESSION)];

/// `session_affinity`: a cookie or a header.
pub(crate) static SESSION: Object = Object {
    keys: &[
        key(
            "cookie",
            Shape::Text,
            "name of the cookie that says where the session is",
        ),
        key(
            "ttl",
            Shape::Duration,
            "how long clients keep the cookie; none: as long as they run",
        ),
        key(
            "path",
            Shape::Text,
            "calls below this path have sessions, as in `/package.Service`; none = all",
        ),
        key(
            "header",
            Shape::Text,
            "name of the header that says where the session is",
        ),
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

const fn percent(min: u64) -> Shape {
    Shape::Count { min, max: 100 }
}

const ENFORCING: KeyRule = key(
    "enforcing",
    percent(1),
    "how many of those found are left out, in percent; default 100",
);
const MINIMUM_HOSTS: KeyRule = key(
    "minimum_hosts",
    WEIGHT,
    "with fewer endpoints of enough calls nobody is left out; default 5",
);

/// `outlier_detection`.
pub(crate) static OUTLIER_DETECTION: Object = Object {
    keys: &[
        key(
            "consecutive_failures",
            Shape::Count {
                min: 1,
                max: u32::MAX as u64,
            },
            "so many failed calls in a row and an endpoint is left out at once; Sidestep and Envoy, not other gRPC clients",
        ),
        key(
            "interval",
            Shape::Period,
            "how often counters are looked at; default 10s",
        ),
        key(
            "base_ejection_time",
            Shape::Period,
            "how long the first ejection lasts, and how much longer each further one; default 30s",
        ),
        key(
            "max_ejection_time",
            Shape::Period,
            "how long an ejection lasts at most; default 300s",
        ),
        key(
            "max_ejection_percent",
            percent(1),
            "from this share of ejected endpoints on no more are ejected; default 10",
        ),
        key(
            "success_rate",
            Shape::Object(&SUCCESS_RATE),
            "leaves out who does worse than the others",
        ),
        key(
            "failure_percentage",
            Shape::Object(&FAILURE_PERCENTAGE),
            "leaves out who does badly",
        ),
    ],
};

/// `outlier_detection.success_rate`.
pub(crate) static SUCCESS_RATE: Object = Object {
    keys: &[
        key(
            "stdev_factor",
            WEIGHT,
            "how far below the mean, in thousandths of the standard deviation; default 1900",
        ),
        MINIMUM_HOSTS,
        key(
            "request_volume",
            WEIGHT,
            "calls in an interval from which on an endpoint is compared; default 100",
        ),
        ENFORCING,
    ],
};

/// `outlier_detection.failure_percentage`.
pub(crate) static FAILURE_PERCENTAGE: Object = Object {
    keys: &[
        key(
            "threshold",
            percent(0),
            "the share of failed calls that an endpoint may have, in percent; default 85",
        ),
        MINIMUM_HOSTS,
        key(
            "request_volume",
            WEIGHT,
            "calls in an interval from which on an endpoint is looked at; default 50",
        ),
        ENFORCING,
    ],
};
