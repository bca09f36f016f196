//! What calls are hashed by: `RouteAction.hash_policy` (gRFC A42).

use super::Reason;
use super::at::{At, Result};
use crate::resource::{HashPolicy, HashSource, Rewrite};
use crate::wire::matcher::{RegexMatchAndSubstitute, RegexMatcher};
use crate::wire::route::route_action::{
    self as wire,
    hash_policy::{FilterState, Header, PolicySpecifier},
};

/// The one piece of filter state that gRPC has.
const CHANNEL_ID: &str = "io.grpc.channel_id";

/// A policy, or `None` for a kind that gRPC does not have: it finds nothing in any call.
pub(super) fn decode(at: &At<'_>, policy: wire::HashPolicy) -> Result<Option<HashPolicy>> {
    let source = match policy.policy_specifier {
        Some(PolicySpecifier::Header(header)) => decode_header(&at.field("header"), header)?,
        Some(PolicySpecifier::FilterState(state)) if state.key == CHANNEL_ID => {
            HashSource::ChannelId
        }
        _ => {
            at.note("calls are hashed by headers and by channel only");
            return Ok(None);
        }
    };
    let terminal = policy.terminal;
    Ok(Some(HashPolicy { source, terminal }))
}

fn decode_header(at: &At<'_>, header: Header) -> Result<HashSource> {
    let decode = |rewrite: RegexMatchAndSubstitute| {
        let at = at.field("regex_rewrite");
        let at = at.field("pattern");
        let pattern = rewrite.pattern.unwrap_or_default().regex;
        let made = Rewrite::new(&pattern, &rewrite.substitution);
        made.map_err(|error| at.fault(Reason::BadPattern(error)))
    };
    Ok(HashSource::Header {
        name: header.header_name.to_ascii_lowercase(),
        rewrite: header.regex_rewrite.map(decode).transpose()?,
    })
}

pub(super) fn encode(policy: &HashPolicy) -> wire::HashPolicy {
    let specifier = match &policy.source {
        HashSource::Header { name, rewrite } => PolicySpecifier::Header(Header {
            header_name: name.clone(),
            regex_rewrite: rewrite.as_ref().map(|rewrite| RegexMatchAndSubstitute {
                pattern: Some(RegexMatcher {
                    regex: rewrite.pattern().to_owned(),
                    ..Default::default()
                }),
                substitution: rewrite.substitution().to_owned(),
            }),
        }),
        HashSource::ChannelId => PolicySpecifier::FilterState(FilterState {
            key: CHANNEL_ID.to_owned(),
        }),
    };
    wire::HashPolicy {
        terminal: policy.terminal,
        policy_specifier: Some(specifier),
    }
}
