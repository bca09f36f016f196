//! The stable numbers of all errors that a person can meet.
//!
//! A number never changes its meaning and is never given out again. Each has a page in
//! `docs/errors`, which `sidestep help SX0101` prints, and the page names a test that provokes it.
//!
//! | range | errors of |
//! |---|---|
//! | SX01 | bootstrap, targets, building a mesh |
//! | SX02 | mesh file |
//! | SX03 | xDS resources |
//! | SX04 | calls |
//! | SX05 | servers |
//! | SX06 | control plane and its sources |
//! | SX07 | command line |
//! | SX08 | certificates and TLS |

use std::fmt;
use std::str::FromStr;

/// The number of one kind of error; shown as `SX0101`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(u16);

impl Code {
    /// What went wrong, in one line, whatever the particulars.
    #[must_use]
    pub fn what(self) -> &'static str {
        self.entry().map_or("", |entry| entry.what)
    }

    /// What to do about it, in one line, whatever the particulars.
    #[must_use]
    pub fn hint(self) -> &'static str {
        self.entry().map_or("", |entry| entry.hint)
    }

    fn entry(self) -> Option<&'static Entry> {
        let at = ALL.binary_search_by_key(&self, |entry| entry.code).ok()?;
        Some(&ALL[at])
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SX{:04}", self.0)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A text that is no code of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no error code")]
pub struct UnknownCode(String);

impl FromStr for Code {
    type Err = UnknownCode;

    /// `SX0101`, `sx0101` or `0101`: only codes that exist.
    fn from_str(text: &str) -> Result<Self, UnknownCode> {
        let unknown = || UnknownCode(text.to_owned());
        let upper = text.trim().to_ascii_uppercase();
        let digits = upper.strip_prefix("SX").unwrap_or(&upper);
        let plain = digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_digit());
        let number = digits.parse().ok().filter(|_| plain);
        let code = Self(number.ok_or_else(unknown)?);
        code.entry().map(|entry| entry.code).ok_or_else(unknown)
    }
}

/// A code with its two lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The code.
    pub code: Code,
    /// What went wrong.
    pub what: &'static str,
    /// What to do about it.
    pub hint: &'static str,
}

macro_rules! codes {
    ($($name:ident = $number:literal, $what:literal, $hint:literal;)*) => {
        $(
            #[doc = $what]
            pub const $name: Code = Code($number);
        )*

        /// All codes, ascending.
        pub const ALL: &[Entry] = &[
            $(Entry { code: $name, what: $what, hint: $hint },)*
        ];
    };
}

codes! {
    // Bootstrap, targets, building a mesh.
    NO_BOOTSTRAP = 101, "the process has no xDS bootstrap",
        "set GRPC_XDS_BOOTSTRAP to a bootstrap file, or dial a target that needs none (dns:///host:port)";
    BOOTSTRAP_UNREADABLE = 102, "the bootstrap file cannot be read",
        "check the path in GRPC_XDS_BOOTSTRAP and that this process may read the file";
    BOOTSTRAP_NOT_JSON = 103, "the bootstrap is not JSON",
        "mend the JSON at the line and column named";
    BOOTSTRAP_MISSING_KEY = 104, "the bootstrap lacks a required key",
        "add the key at the place named";
    BOOTSTRAP_BAD_VALUE = 105, "a value in the bootstrap is wrong",
        "correct the value at the place named";
    BOOTSTRAP_CREDENTIALS = 106, "no entry of channel_creds is supported",
        "use {\"type\": \"tls\"} or, on a trusted path, {\"type\": \"insecure\"}";
    BOOTSTRAP_UNKNOWN_KEY = 107, "the bootstrap has a key that is not read",
        "look for a misspelt key; remove it if it is for another xDS client";
    BOOTSTRAP_NO_NODE_ID = 108, "the bootstrap names no node id",
        "set node.id to a name of this process, unique in the mesh";
    BAD_TARGET = 109, "the target cannot be dialled",
        "write xds:///service, dns:///host:port, host:port or unix:/path";
    UNKNOWN_AUTHORITY = 110, "the target names an authority that the bootstrap does not have",
        "add it under `authorities` in the bootstrap, or dial xds:///service";
    NO_LISTENER_TEMPLATE = 111, "the bootstrap does not say how servers find their Listener",
        "add \"server_listener_resource_name_template\": \"grpc/server?xds.resource.listening_address=%s\" to the bootstrap";
    BAD_MODE = 112, "SIDESTEP_MODE has a value that means nothing",
        "set it to `mesh` or `direct`, or unset it";
    NOT_STATIC = 113, "the resources of a mesh with a control plane were to be replaced",
        "change them at the control plane; only Mesh::from_static() takes them from the program";
    ACCESS_LOG_FORMAT = 114, "the format of the access log is not valid",
        "correct the operator at the place named; docs/access-log.md lists them";
    ACCESS_LOG_FILE = 115, "the access log cannot be written",
        "check the path, and that this process may write there";

    // Mesh file.
    FILE_UNREADABLE = 201, "a mesh file cannot be read",
        "check the path, and that this user may read it";
    NO_MESH_FILE = 202, "there is no mesh file, or it is empty",
        "begin a .yaml file with `mesh: v1`";
    NOT_YAML = 203, "the text is not YAML that a mesh file may hold",
        "mend it at the line and column named: indentation, quotes, no anchors, aliases or tags";
    UNKNOWN_FORMAT = 204, "the mesh file has an unknown format",
        "write `mesh: v1`, or use the sidestep that knows that format";
    UNKNOWN_KEY = 205, "a key is not known here",
        "use one of the keys of `sidestep schema`";
    KEY_NOT_USABLE = 206, "a key is known but cannot be used here",
        "remove it: what is not enforced must not look as if it were";
    MISSING_KEY = 207, "a required key is missing",
        "add the key";
    WRONG_TYPE = 208, "a value is of the wrong type",
        "write the kind of value that is expected";
    EMPTY_VALUE = 209, "a value is empty that must not be",
        "write a value, or remove the key";
    OUT_OF_RANGE = 210, "a number is out of its range",
        "choose a number in the range named";
    UNKNOWN_VALUE = 211, "a word is not one of those that may stand here",
        "use one of the valid words";
    BAD_DURATION = 212, "a duration has no unit or cannot be read",
        "write a number with a unit, as in `800ms`, `5s` or `1m`, or `none`";
    DEFINED_TWICE = 213, "the same name or key is written twice",
        "keep one of the two, or give one another name";
    BAD_NAME = 214, "a name has characters that it cannot have",
        "use letters, digits, `-`, `_` and `.`";
    NO_ENDPOINT_SOURCE = 215, "the endpoints have no source, or more than one",
        "write one source under `endpoints`, such as `static:` and a list";
    BAD_ADDRESS = 216, "an endpoint's address is not one",
        "write IP:PORT, [IPv6]:PORT or unix:/path";
    ADDRESS_TWICE = 217, "an endpoint is listed twice",
        "remove one of the two";
    WEIGHTS_ALL_ZERO = 218, "the weights add up to 0",
        "give at least one version a weight above 0";
    WEIGHTS_OVERFLOW = 219, "the weights add up to more than 32 bits hold",
        "use smaller weights: only their ratio counts";
    NO_SUCH_VERSION = 220, "a route leads to a version that the service does not name",
        "name it under `versions`, or correct the route's `to`";
    VERSION_WITHOUT_ENDPOINT = 221, "no endpoint has the version",
        "give an endpoint that version, or correct the name under `versions`";
    ROUTE_UNREACHABLE = 222, "a route is never reached",
        "put the route without `match` last";
    NO_CATCH_ALL = 223, "no route takes every call",
        "end the list with a route without `match`";
    RETRY_ON_CATCH_ALL = 224, "retries stand on a route that takes every call",
        "name the methods that may safely run twice in a route of their own";
    BAD_METHOD = 225, "the text is no gRPC method",
        "write `package.Service/Method` or `package.Service/*`";
    BAD_HEADER = 226, "a header cannot be matched like this",
        "use a lower-case name without `-bin` and exactly one condition";
    BAD_REGEX = 227, "a regular expression does not compile",
        "mend the expression: RE2 syntax, no look-around or back-references";
    NEEDS_ENDPOINTS = 228, "the key is only for services that have endpoints",
        "add `endpoints`, or remove the key";
    MTLS_WITHOUT_TRUST_DOMAIN = 229, "mutual TLS has no trust domain",
        "write `trust_domain:` at the top of the mesh file";
    SAME_IDENTITY = 230, "two services have one identity",
        "give each service an `identity` of its own, unless they may stand for each other";
    UNKNOWN_RESOURCE_TYPE = 231, "a native resource is of an unknown type",
        "write the full type URL in `@type`";
    BAD_RESOURCE_FIELD = 232, "a native resource has a field that its type has not, or a wrong value",
        "correct the field at the line named";
    RESOURCE_TWICE = 233, "a resource of this type and name exists already",
        "give the native resource another name";
    DANGLING_REFERENCE = 234, "a resource mentions another one that does not exist",
        "add the resource that is mentioned, or correct the name";
    BAD_SOURCE = 235, "a source of endpoints is not written as it should be",
        "write `dns: NAME:PORT`, `targets: FILE` or `targets: http://HOST/PATH`";
    VERSIONS_NOT_TOLD = 236, "the source of endpoints does not tell versions",
        "use `static` or `targets`, or a service for each version";
    SOURCE_NEEDS_SERVER = 237, "the source of endpoints needs a control plane that asks it",
        "write `static:` and a list where there is no control plane";

    // xDS resources.
    RESOURCE_FIELD_MISSING = 301, "a resource lacks a required field",
        "set the field in the resource, at the control plane";
    RESOURCE_FIELD_EMPTY = 302, "a list in a resource is empty that must not be",
        "put an entry into the list, at the control plane";
    RESOURCE_OUT_OF_RANGE = 303, "a number in a resource is out of its range",
        "choose a number in the range named, at the control plane";
    RESOURCE_DUPLICATE = 304, "a resource, or something in it, is there twice",
        "remove one of the two, at the control plane";
    RESOURCE_UNSUPPORTED = 305, "a resource uses something that Sidestep does not have",
        "remove it from the resource, or use what docs/parity.md lists";
    RESOURCE_UNDECODABLE = 306, "the bytes of a resource are not the message they claim to be",
        "make the control plane send what its type URL says";
    RESOURCE_BAD_REGEX = 307, "a regular expression in a resource does not compile",
        "mend the expression: RE2 syntax, no look-around or back-references";
    RESOURCE_RULE = 308, "a resource breaks a rule of xDS or gRPC",
        "correct the field named, at the control plane";
    RESOURCE_UNNAMED = 309, "a resource has no readable name",
        "make the control plane send a resource with a name";
    RESOURCE_FIELD_IGNORED = 310, "a field of a resource is accepted but not honoured",
        "do not rely on the field";
    RESOURCE_DELETED = 311, "the control plane removed a resource that is in use",
        "put it back at the control plane, or stop dialling what needs it";
    RESOURCE_NOT_FOUND = 312, "the control plane has no resource of this name",
        "check the spelling of the name that is dialled, and that the control plane serves it";
    RESOURCE_REFUSED = 313, "the control plane says that it will not give a resource",
        "do what its message says, at the control plane or in this process's node";
    RESOURCE_TIMED_OUT = 314, "the control plane did not answer for a resource in time",
        "look at the control plane's load and log; the process asks again by itself";
    RESOURCE_UNKNOWN_AUTHORITY = 315, "a resource's name has an authority that the bootstrap does not have",
        "add the authority to `authorities` of the bootstrap, or correct the name where it is referred to";
    RESOURCE_BAD_NAME = 316, "a name that begins with xdstp: cannot be that of the resource asked for",
        "write xdstp://AUTHORITY/TYPE/ID, with the type of the resource, where the name is referred to";

    // Calls.
    MESH_ENDED = 401, "the mesh of this process has ended",
        "keep the tokio runtime on which the mesh was first used alive";
    WRONG_LISTENER_KIND = 402, "the Listener is a server's where a client's is needed, or the reverse",
        "dial the service's name; check the name templates of the bootstrap";
    NO_VIRTUAL_HOST = 403, "no virtual host is for the name that was dialled",
        "add the name to the domains of a virtual host, or dial a name that has one";
    NO_ROUTE = 404, "no route takes the call",
        "end the service's routes with one without `match`";
    UNSUPPORTED_ROUTE = 405, "the matching route does something that gRPC clients do not have",
        "let the route forward to a cluster";
    NO_ENDPOINTS = 407, "the cluster has no endpoint that may take calls",
        "add endpoints to the service, or find out why all are unhealthy";
    CANNOT_CONNECT = 408, "an endpoint cannot be connected",
        "check that the server runs, and that its address and port are those in the mesh file";
    NOT_HTTP2 = 409, "the endpoint takes connections but does not speak HTTP/2 in plaintext",
        "if the server demands TLS, set the service's `mtls`; else check that the port is the gRPC port";
    CONNECT_TIMED_OUT = 410, "an endpoint did not accept the connection in time",
        "check the network and firewall between the two, and the server's load";
    PLAINTEXT_NOT_ALLOWED = 411, "the peer is on another host and nothing secures the connection",
        "set the service's `mtls`, or allow it with MeshBuilder::plaintext_where_unsecured()";
    CONNECTION_LOST = 412, "the connection broke or the stream was reset before the answer was complete",
        "look at the server's log at that moment; a retry policy repeats calls that may run twice";
    DROPPED = 413, "the control plane asked to drop a share of the calls",
        "it is meant so: lower the drop percentage at the control plane when the load permits";
    CIRCUIT_OPEN = 414, "too many calls of this process are in flight to the cluster",
        "find out why answers are slow, or raise limits.max_outstanding_per_client";
    DEADLINE_EXCEEDED = 415, "the call's deadline passed",
        "compare the time-out with what the method needs; see what it was waiting for";
    REQUEST_BODY = 416, "the caller's own request stream failed",
        "look at the code that makes the request's messages";
    NAME_NOT_RESOLVED = 417, "a host name cannot be resolved",
        "check the spelling of the host and this machine's DNS";
    NO_DETOUR = 418, "SIDESTEP_MODE=direct, and the channel does not say where its calls go then",
        "add .or_direct(\"http://host:port\") to the channel, or unset SIDESTEP_MODE";
    EJECTED = 419, "the endpoints that are left take no calls, because too many of theirs failed",
        "find out why they fail; if so many failures are normal, widen the limits of outlier_detection";
    AGGREGATE_LOOP = 430, "an aggregate cluster leads back to itself",
        "take one of the clusters of the path out of the `clusters` of the one before it";
    AGGREGATE_TOO_DEEP = 431, "an aggregate cluster goes deeper than 16 clusters",
        "name the clusters at the end of the path in an aggregate further up";
    AGGREGATE_EMPTY = 432, "no cluster of an aggregate can be used",
        "serve at least one of the clusters that it names; the message says what each lacks";
    NAME_WITHOUT_ADDRESS = 433, "a host name has no address",
        "give the name an A or AAAA record, and check the cluster's `dns_lookup_family`";
    NAME_WITH_TOO_MANY_ADDRESSES = 434, "a host name has more addresses than are taken",
        "split the service over several names, or give its endpoints by EDS";
    NO_SUBSET = 435, "no endpoint has what the route asks of endpoints",
        "give endpoints these labels, correct the route's `subset`, or set `subset_fallback: any`";

    // Servers.
    SERVER_ADDRESS = 501, "the text is no address to listen on",
        "give IP:port, [IPv6]:port or unix:/path";
    SERVER_ADDRESS_IN_USE = 502, "another process listens on the address",
        "stop the other process (`ss -ltnp` names it), or take another port; port 0 takes a free one";
    SERVER_BIND = 503, "the address cannot be bound",
        "ports below 1024 need a right that this user lacks; other addresses must belong to this machine";
    SERVER_LISTEN = 504, "the bound address cannot be listened on",
        "look at the system's message: the limits of this process and the directory of a Unix socket";
    SERVER_LISTENER_NAME = 505, "no Listener can be named for the server's address",
        "see the cause; a custom ServerSource must answer for every address it is given";
    LISTENER_ADDRESS_MISMATCH = 506, "the Listener is for another address than the server listens on",
        "listen on the Listener's address, or correct it or the bootstrap's template";
    SERVER_PLAINTEXT_NOT_ALLOWED = 507, "the server would be open to other hosts without TLS",
        "set the service's `mtls`, or build the server with .plaintext_where_unsecured()";
    // 508 was a fault of the process's own that cannot come about any more.
    REFUSED_NOT_SERVING = 509, "a connection came while the server is not serving",
        "see why the server is not serving, in its log or from on_mode_change";
    REFUSED_GONE = 510, "a peer closed the connection before it said anything useful",
        "nothing, if it is a health check or port scan; else look at the peer's log";
    REFUSED_SLOW = 511, "a peer did not say in time what it speaks",
        "look for peers that connect and stay silent, or a slow network";
    REFUSED_NOT_GRPC = 512, "a peer speaks neither TLS nor HTTP/2, or TLS where none is configured",
        "make the peer speak gRPC as the service's `mtls` says; browsers and HTTP/1.1 are not served";
    REFUSED_NO_CHAIN = 513, "no filter chain of the Listener is for the connection",
        "add a default filter chain to the Listener, or one that matches";
    REFUSED_HANDSHAKE = 514, "a client failed the server's TLS handshake",
        "give the client a certificate of the mesh's authority; plaintext clients need `mtls: permissive`";
    SERVER_DIRECT = 515, "SIDESTEP_MODE=direct, and the server does not allow to serve without the mesh",
        "add .or_direct_plaintext() to the server, or unset SIDESTEP_MODE";
    ADMIN_ADDRESS = 516, "the text is no address for the admin endpoint",
        "give IP:port, [IPv6]:port or unix:/path";
    ADMIN_NOT_LOOPBACK = 517, "other machines could reach the admin endpoint",
        "use a loopback address or a Unix socket, or Mesh::admin_beyond_loopback() if that is meant";
    ADMIN_BIND = 518, "the admin endpoint cannot listen on its address",
        "stop what listens there already (`ss -ltnp` names it), or take another port";
    ADMIN_NO_RUNTIME = 519, "the admin endpoint has no tokio runtime to run on",
        "call Mesh::admin() inside a tokio runtime";

    // Control plane and its sources.
    CONTROL_PLANE_UNREACHABLE = 601, "no control plane can be reached",
        "check server_uri and channel_creds in the bootstrap, and that the control plane runs; the process tries again by itself";
    CONTROL_PLANE_BIND = 602, "the control plane cannot listen on its address",
        "stop what listens there already (`ss -ltnp` names it), or choose another address with --listen";
    CONTROL_PLANE_ADDRESS = 603, "the text is no address for the control plane to listen on",
        "give IP:PORT or unix:/PATH";
    NODE_WITHOUT_SERVICE = 604, "a server's process does not say which service it is",
        "set node.cluster in the server's bootstrap to the service's name in the mesh file";
    NODE_UNKNOWN_SERVICE = 605, "a server's process says that it is a service that the mesh does not have",
        "correct node.cluster in the server's bootstrap, or add the service to the mesh file";
    CONTROL_PLANE_PLAINTEXT = 606, "other machines could reach the control plane without encryption",
        "give --tls-cert and --tls-key, listen on 127.0.0.1 or a Unix socket, or say --insecure if the network is trusted";
    CLIENT_NACK = 607, "a client refused a part of its configuration",
        "correct the resource that its message names; the client keeps the last good one";
    SOURCE_NO_SUCH_NAME = 608, "a name that endpoints come from does not exist",
        "correct the name in the mesh file, or add it to DNS; what was found last stays in use";
    SOURCE_UNREACHABLE = 609, "a source of endpoints does not answer",
        "check the file, the URL or the name servers; what was found last stays in use";
    SOURCE_CONTENT = 610, "a source of endpoints answers with something that cannot be used",
        "write a list of targets as Prometheus does: [{\"targets\": [\"host:port\"], \"labels\": {}}]";

    // Command line.
    WRONG_USAGE = 701, "the command line makes no sense",
        "see the examples of `sidestep VERB --help`";
    NO_ANSWER = 702, "the server does not answer the command line",
        "check that `sidestep serve` runs there, or give --server ADDR; one with TLS needs --ca, one with --client-ca also --cert and --key";
    NO_SUCH_SERVICE = 703, "the mesh file has no service of this name",
        "correct the name, or add the service to the mesh file";
    NO_SUCH_CODE = 704, "there is no such error code",
        "see `sidestep help --list`";
    COMMAND_FAILED = 705, "the command could not do its work",
        "see the system's message";
    BOOTSTRAP_PLAINTEXT = 706, "the bootstrap that is asked for would leave traffic to other machines unencrypted",
        "give --certs DIR (`sidestep cert dev` makes them), or say --insecure if the network is trusted";
    CERTIFICATES_NOT_ISSUED = 707, "the development certificates cannot be issued",
        "see the cause; --renew begins a new authority";

    // Certificates and TLS.
    NO_PROVIDER = 801, "the bootstrap has no certificate provider of this name",
        "add it under `certificate_providers` in the bootstrap; the mesh file's mTLS uses \"default\"";
    CERTIFICATE_UNREADABLE = 802, "a certificate or key file cannot be read",
        "check the path in the bootstrap, and that this process may read the file";
    CERTIFICATE_INVALID = 803, "a certificate or key file does not hold what it should",
        "write PEM: certificates with the leaf first, or one private key";
    KEY_MISMATCH = 804, "the private key is not the certificate's",
        "put the two files of one issue side by side; rotate both in one step";
    PROVIDER_LACKS = 805, "the certificate provider has not what is needed",
        "add certificate_file and private_key_file, or ca_certificate_file, to the provider";
    TLS_UNUSABLE = 806, "the TLS configuration cannot be used",
        "see the cause; nothing falls back to plaintext";
    UNTRUSTED_CERTIFICATE = 807, "the peer's certificate is not of an authority that is trusted here",
        "give both sides certificates of one authority, or add the other's root to ca_certificate_file";
    CERTIFICATE_EXPIRED = 808, "the peer's certificate is out of its time",
        "renew it; check the clocks of both machines";
    WRONG_NAME = 809, "the peer's certificate is good, but made out to somebody else",
        "issue one with the name that is expected, or correct `identity` and `trust_domain`";
    NOT_TLS = 810, "the peer does not answer in TLS",
        "set the service's `mtls` to what its servers really do; check the port and the server's log";
    HANDSHAKE_FAILED = 811, "the TLS handshake failed",
        "see the cause, and the log of the other side";
    CERTIFICATE_REFUSED = 812, "the peer refused this process's certificate, or the lack of one",
        "give this process a certificate that the peer trusts; its log says what it missed";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_ascending_and_in_the_range_of_their_kind() {
        assert!(ALL.is_sorted_by(|a, b| a.code < b.code));
        let known = |entry: &Entry| (1..=8).contains(&(entry.code.0 / 100));
        assert!(ALL.iter().all(known));
    }

    #[test]
    fn a_code_is_written_and_read_alike() {
        for entry in ALL {
            assert_eq!(entry.code.to_string().parse(), Ok(entry.code));
            assert_eq!(entry.code.what(), entry.what);
            assert_eq!(entry.code.hint(), entry.hint);
        }
        assert_eq!(NO_BOOTSTRAP.to_string(), "SX0101");
        assert_eq!(" sx0101".parse(), Ok(NO_BOOTSTRAP));
        assert_eq!("0101".parse(), Ok(NO_BOOTSTRAP));
        for wrong in [
            "", "SX", "SX101", "SX0100", "SX9999", "SX01010", "X0101", "+101",
        ] {
            assert!(wrong.parse::<Code>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn both_lines_are_one_line_in_the_style_of_messages() {
        for entry in ALL {
            for line in [entry.what, entry.hint] {
                assert!(!line.is_empty() && !line.contains('\n'), "{}", entry.code);
                assert!(!line.ends_with('.'), "{}", entry.code);
            }
        }
    }
}
