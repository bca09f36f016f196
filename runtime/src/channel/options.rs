//! What a caller can say about one call, and what a call says about itself.

use std::sync::Arc;

/// Request extension: whether the call waits while no endpoint can take it, instead of failing
/// at once. Set it on `tonic::Request::extensions_mut`, or as the channel's default. Its
/// deadline still bounds it. Default: `false`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitForReady(pub bool);

/// Request extension: the `:authority` that the server sees. Routing still goes by the target.
/// Default: the target's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority(pub http::uri::Authority);

/// Response extension: which endpoint answered, and at which attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallInfo {
    /// Address of the endpoint whose answer this is.
    pub endpoint: Arc<str>,
    /// Attempts made, the successful one included: 1 without a retry.
    pub attempts: u32,
}
