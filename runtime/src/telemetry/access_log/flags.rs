//! Why a call did not go well, in Envoy's response flags.
//!
//! Pure. Only flags that something here can mean: a flag that is not in the list never appears.

use crate::channel::CallError;
use crate::channel::status::UNAVAILABLE;

/// A set of response flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u16);

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal, $short:literal, $long:literal;)*) => {
        impl Flags {
            $($(#[$doc])* pub const $name: Self = Self(1 << $bit);)*
        }

        /// Each flag with its short and its long name, in the order in which they are printed.
        const ALL: &[(Flags, &str, &str)] = &[$((Flags::$name, $short, $long)),*];
    };
}

flags! {
    /// No endpoint of the cluster may take calls.
    NO_HEALTHY_UPSTREAM = 0, "UH", "NoHealthyUpstream";
    /// No connection to an endpoint could be made.
    UPSTREAM_CONNECTION_FAILURE = 1, "UF", "UpstreamConnectionFailure";
    /// The circuit breaker let no more calls through.
    UPSTREAM_OVERFLOW = 2, "UO", "UpstreamOverflow";
    /// No route takes the call.
    NO_ROUTE_FOUND = 3, "NR", "NoRouteFound";
    /// Every attempt that the retry policy allows was made, and failed.
    UPSTREAM_RETRY_LIMIT_EXCEEDED = 4, "URX", "UpstreamRetryLimitExceeded";
    /// There is no usable configuration of the target or the cluster.
    NO_CLUSTER_FOUND = 5, "NC", "NoClusterFound";
    /// The caller went away: it cancelled the call, or its connection broke.
    DOWNSTREAM_CONNECTION_TERMINATION = 6, "DC", "DownstreamConnectionTermination";
    /// The deadline passed.
    UPSTREAM_REQUEST_TIMEOUT = 7, "UT", "UpstreamRequestTimeout";
    /// The server reset the stream.
    UPSTREAM_REMOTE_RESET = 8, "UR", "UpstreamRemoteReset";
    /// The connection ended under the call.
    UPSTREAM_CONNECTION_TERMINATION = 9, "UC", "UpstreamConnectionTermination";
    /// The request cannot be sent, or cannot be taken, as HTTP/2 or as gRPC.
    DOWNSTREAM_PROTOCOL_ERROR = 10, "DPE", "DownstreamProtocolError";
    /// The control plane asked to drop a share of the calls.
    DROP_OVERLOAD = 11, "DO", "DropOverload";
}

impl Flags {
    /// None: the call went as it should.
    pub const NONE: Self = Self(0);

    /// These and those.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The flag that a failure of a channel stands for, and Envoy's word for its details.
    #[must_use]
    pub fn of(error: &CallError) -> (Self, &'static str) {
        match error {
            CallError::Config { .. } => (Self::NO_CLUSTER_FOUND, "cluster_not_found"),
            CallError::NoRoute { .. } | CallError::UnsupportedRoute { .. } => {
                (Self::NO_ROUTE_FOUND, "route_not_found")
            }
            CallError::NoEndpoint { .. } => (Self::NO_HEALTHY_UPSTREAM, "no_healthy_upstream"),
            CallError::Dropped { .. } => (Self::DROP_OVERLOAD, "drop_overload"),
            CallError::CircuitOpen { .. } => (
                Self::UPSTREAM_OVERFLOW,
                "upstream_reset_before_response_started{overflow}",
            ),
            CallError::DeadlineExceeded { .. } => {
                (Self::UPSTREAM_REQUEST_TIMEOUT, "response_timeout")
            }
            // Only a reset stands for another code.
            CallError::Transport { code, .. } if *code != UNAVAILABLE => (
                Self::UPSTREAM_REMOTE_RESET,
                "upstream_reset_before_response_started{remote_reset}",
            ),
            CallError::Transport { .. } => (
                Self::UPSTREAM_CONNECTION_TERMINATION,
                "upstream_reset_before_response_started{connection_termination}",
            ),
            CallError::RequestBody(_) => (
                Self::DOWNSTREAM_CONNECTION_TERMINATION,
                "downstream_remote_disconnect",
            ),
        }
    }

    /// Short and long name of every flag that there is.
    pub fn names_of_all() -> impl Iterator<Item = (&'static str, &'static str)> {
        ALL.iter().map(|(_, short, long)| (*short, *long))
    }

    /// `UF,URX`; empty if there are none.
    #[must_use]
    pub fn short(self) -> String {
        self.names(|(_, short, _)| short)
    }

    /// `UpstreamConnectionFailure,UpstreamRetryLimitExceeded`; empty if there are none.
    #[must_use]
    pub fn long(self) -> String {
        self.names(|(_, _, long)| long)
    }

    fn names(self, name: fn(&(Self, &'static str, &'static str)) -> &'static str) -> String {
        let set = ALL.iter().filter(|(flag, ..)| self.contains(*flag));
        set.map(name).collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sidestep_proto::code;

    use super::*;

    #[test]
    fn every_failure_has_its_flag() {
        let text = String::new;
        let transport = |code| CallError::Transport {
            code,
            endpoint: text(),
            reason: text(),
        };
        let config = CallError::Config {
            code: code::MESH_ENDED,
            reason: text(),
        };
        let no_route = CallError::NoRoute {
            authority: text(),
            path: text(),
            origin: text(),
        };
        let unsupported = CallError::UnsupportedRoute {
            route: text(),
            origin: text(),
        };
        let no_endpoint = CallError::NoEndpoint {
            code: code::MESH_ENDED,
            cluster: text(),
            reason: text(),
        };
        let dropped = CallError::Dropped {
            cluster: text(),
            category: text(),
            origin: text(),
        };
        let open = CallError::CircuitOpen {
            cluster: text(),
            limit: 1,
            origin: text(),
        };
        let late = CallError::DeadlineExceeded {
            after: Duration::ZERO,
            waiting_for: "an answer",
            of: text(),
        };
        let cases = [
            (config, "NC"),
            (no_route, "NR"),
            (unsupported, "NR"),
            (no_endpoint, "UH"),
            (dropped, "DO"),
            (open, "UO"),
            (late, "UT"),
            (transport(14), "UC"),
            (transport(13), "UR"),
            (CallError::RequestBody(text()), "DC"),
        ];
        for (error, flag) in cases {
            assert_eq!(Flags::of(&error).0.short(), flag, "{error:?}");
        }
    }

    #[test]
    fn several_flags_are_joined_in_the_lists_order() {
        let both = Flags::UPSTREAM_RETRY_LIMIT_EXCEEDED.with(Flags::UPSTREAM_CONNECTION_FAILURE);
        assert_eq!(both.short(), "UF,URX");
        assert_eq!(
            both.long(),
            "UpstreamConnectionFailure,UpstreamRetryLimitExceeded"
        );
        assert_eq!(Flags::NONE.short(), "");
        assert!(both.contains(Flags::UPSTREAM_CONNECTION_FAILURE));
        assert!(!both.contains(Flags::NO_ROUTE_FOUND));
    }

    #[test]
    fn no_two_flags_share_a_bit_or_a_name() {
        for (i, (a, short, long)) in ALL.iter().enumerate() {
            for (b, other_short, other_long) in &ALL[i + 1..] {
                assert_ne!(a, b);
                assert_ne!(short, other_short);
                assert_ne!(long, other_long);
            }
        }
    }
}
