//! Where configuration comes from.
//!
//! Every source answers the requests of one [`ClientStream`](sidestep_proto::ads::ClientStream),
//! so validation, caching, errors and order are the same for all. A new source is a file here and
//! a variant of `Link`.

pub(crate) mod ads;
pub mod static_;

use sidestep_proto::ads::Request;

/// One try at one source, whatever its kind.
#[derive(Debug)]
pub(crate) enum Link {
    /// A control plane, over a stream.
    Ads(ads::Link),
    /// Resources in the process.
    Static(static_::Link),
}

impl Link {
    /// Hands a request over.
    pub(crate) fn send(&mut self, now: std::time::Instant, request: Request) {
        match self {
            Self::Ads(link) => link.send(request),
            Self::Static(link) => link.send(now, request),
        }
    }
}
