//! HTTP filters: the chain of a connection manager and its overrides (gRFC A39).
//!
//! A filter that we cannot run is refused unless it is marked optional: it could be the one that
//! keeps calls out.

use std::collections::{BTreeMap, BTreeSet};

use super::at::{At, Result};
use super::{Reason, stateful_session};
use crate::resource::{FilterConfig, FilterOverrides, HttpFilter};
use crate::wire::hcm::{self, http_filter::ConfigType};
use crate::wire::http_filter::{HttpFault, Router};
use crate::wire::number::FractionalPercent;
use crate::wire::typed_struct::{TypedStruct, UdpaTypedStruct};
use crate::wire::{Any, route};

/// Whose calls a chain sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// A kind of filter that the runtime has.
struct FilterType {
    /// Full name of its configuration message: what identifies it, whatever the instance's name.
    config: &'static str,
    /// Whether it ends a chain.
    terminal: bool,
    client: bool,
    server: bool,
    decode: fn(&At<'_>, &Any) -> Result<FilterConfig>,
    /// How a route, host or cluster may replace the configuration, if at all.
    overridden_by: Option<OverrideType>,
}

/// What replaces a filter's configuration.
struct OverrideType {
    /// Full name of its message.
    config: &'static str,
    /// `None`: it is right, and changes nothing.
    decode: fn(&At<'_>, &Any) -> Result<Option<FilterConfig>>,
}

/// Every filter that the runtime has. A new one is a line here.
const FILTERS: &[FilterType] = &[
    FilterType {
        config: "envoy.extensions.filters.http.router.v3.Router",
        terminal: true,
        client: true,
        server: true,
        decode: decode_router,
        overridden_by: None,
    },
    FilterType {
        config: "envoy.extensions.filters.http.fault.v3.HTTPFault",
        terminal: false,
        client: true,
        server: false,
        decode: decode_fault,
        overridden_by: Some(OverrideType {
            config: "envoy.extensions.filters.http.fault.v3.HTTPFault",
            decode: |at, any| decode_fault(at, any).map(|_| None),
        }),
    },
    FilterType {
        config: "envoy.extensions.filters.http.stateful_session.v3.StatefulSession",
        terminal: false,
        client: true,
        server: false,
        decode: |at, any| stateful_session::decode(at, any).map(FilterConfig::StatefulSession),
        overridden_by: Some(OverrideType {
            config: "envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute",
            decode: |at, any| {
                let state = stateful_session::decode_override(at, any)?;
                Ok(Some(FilterConfig::StatefulSession(state)))
            },
        }),
    },
];

fn decode_router(at: &At<'_>, any: &Any) -> Result<FilterConfig> {
    let router: Router = at.unpack(any)?;
    at.ignore(
        "upstream_http_filters",
        !router.upstream_http_filters.is_empty(),
        "filters of the upstream side do not run",
    );
    Ok(FilterConfig::Router)
}

/// Faults are not injected yet (gRFC A33), so only a filter without any is accepted. What has no
/// share of the calls hits none.
fn decode_fault(at: &At<'_>, any: &Any) -> Result<FilterConfig> {
    let fault: HttpFault = at.unpack(any)?;
    let hits = |share: Option<FractionalPercent>| share.is_some_and(|s| s.numerator != 0);
    let faults = [
        ("delay", fault.delay.is_some_and(|d| hits(d.percentage))),
        ("abort", fault.abort.is_some_and(|a| hits(a.percentage))),
    ];
    for (field, is_set) in faults {
        if is_set {
            return Err(at.field(field).unsupported("fault injection"));
        }
    }
    at.ignore(
        "response_rate_limit",
        fault
            .response_rate_limit
            .is_some_and(|limit| hits(limit.percentage)),
        "gRPC slows no responses down",
    );
    Ok(FilterConfig::NoFault)
}

/// Reads `http_filters` of the connection manager at `at`.
pub(super) fn decode_chain(
    at: &At<'_>,
    side: Side,
    wire: Vec<hcm::HttpFilter>,
) -> Result<Vec<HttpFilter>> {
    let mut names = BTreeSet::new();
    let mut chain = Vec::with_capacity(wire.len());
    // The index on the wire and whether the filter ends the chain.
    let mut terminal = Vec::with_capacity(wire.len());
    for (i, filter) in wire.into_iter().enumerate() {
        let at = at.item("http_filters", i);
        let name = at.field("name").text(filter.name.clone())?;
        if !names.insert(name.clone()) {
            return Err(at.field("name").fault(Reason::Duplicate(name)));
        }
        if let Some((kind, config)) = decode_filter(&at, side, &filter)? {
            chain.push(HttpFilter { name, config });
            terminal.push((i, kind.terminal));
        }
    }
    let Some(((last, is_terminal), before)) = terminal.split_last() else {
        return Err(at.field("http_filters").fault(Reason::Empty));
    };
    if let Some((i, _)) = before.iter().find(|(_, terminal)| *terminal) {
        let place = at.item("http_filters", *i);
        return Err(place.rule("a terminal filter must be the last"));
    }
    if !is_terminal {
        let place = at.item("http_filters", *last);
        return Err(place.rule("the last filter must be terminal (the router)"));
    }
    Ok(chain)
}

/// A filter and its kind; `None` for an optional one that we do not have.
fn decode_filter(
    at: &At<'_>,
    side: Side,
    filter: &hcm::HttpFilter,
) -> Result<Option<(&'static FilterType, FilterConfig)>> {
    at.ignore(
        "disabled",
        filter.disabled,
        "the filter runs for every route",
    );
    let any = match &filter.config_type {
        Some(ConfigType::TypedConfig(any)) => any,
        Some(ConfigType::ConfigDiscovery(_)) if filter.is_optional => {
            at.note(
                "an optional filter whose configuration would have to be discovered is left out",
            );
            return Ok(None);
        }
        Some(ConfigType::ConfigDiscovery(_)) => {
            return Err(at
                .field("config_discovery")
                .unsupported("discovery of filter configurations"));
        }
        None if filter.is_optional => return Ok(None),
        None => return Err(at.field("typed_config").fault(Reason::Missing)),
    };
    let at = at.field("typed_config");
    let config = config_type(&at, any)?;
    let kind = find(&config).filter(|kind| match side {
        Side::Client => kind.client,
        Side::Server => kind.server,
    });
    match kind {
        // An optional filter that we have must still be right.
        Some(kind) => (kind.decode)(&at, any).map(|config| Some((kind, config))),
        None if filter.is_optional => {
            at.note("an optional filter that is not supported is left out");
            Ok(None)
        }
        None => Err(at.unsupported(format!("the HTTP filter {config}"))),
    }
}

fn find(config: &str) -> Option<&'static FilterType> {
    FILTERS.iter().find(|kind| kind.config == config)
}

/// The full name of the message that a configuration holds, looking into a `TypedStruct`.
fn config_type(at: &At<'_>, any: &Any) -> Result<String> {
    let inner = if any.is::<TypedStruct>() {
        at.unpack::<TypedStruct>(any)?.type_url
    } else if any.is::<UdpaTypedStruct>() {
        at.unpack::<UdpaTypedStruct>(any)?.type_url
    } else {
        return Ok(any.type_name().to_owned());
    };
    Ok(inner.rsplit('/').next().unwrap_or_default().to_owned())
}

/// Reads the `typed_per_filter_config` of the message at `at`, over what less specific messages
/// say.
///
/// The keys are instance names; one that no chain has is no error, because routes do not know
/// which chains they will serve. The type of an override decides.
pub(super) fn decode_overrides(
    at: &At<'_>,
    inherited: &FilterOverrides,
    wire: &BTreeMap<String, Any>,
) -> Result<FilterOverrides> {
    let mut overrides = inherited.clone();
    for (name, any) in wire {
        let at = at.entry("typed_per_filter_config", name);
        if let Some(config) = decode_override(&at, any)? {
            overrides.insert(name.clone(), config);
        }
    }
    Ok(overrides)
}

/// An override; `None` for one that changes nothing, or an optional one that we do not have.
fn decode_override(at: &At<'_>, any: &Any) -> Result<Option<FilterConfig>> {
    let (config, optional) = if any.is::<route::FilterConfig>() {
        let wrapper: route::FilterConfig = at.unpack(any)?;
        at.ignore("disabled", wrapper.disabled, "no filter can be disabled");
        (wrapper.config, wrapper.is_optional)
    } else {
        (Some(any.clone()), false)
    };
    let any = match &config {
        Some(any) => any,
        None if optional => return Ok(None),
        None => return Err(at.field("config").fault(Reason::Missing)),
    };
    let config = config_type(at, any)?;
    let mut known = FILTERS
        .iter()
        .filter_map(|kind| kind.overridden_by.as_ref());
    if let Some(kind) = known.find(|kind| kind.config == config) {
        return (kind.decode)(at, any);
    }
    if find(&config).is_some() {
        return Err(at.rule(format!("{config} takes no override")));
    }
    if !optional {
        return Err(at.unsupported(format!("the filter override {config}")));
    }
    at.note("an optional override of a filter that is not supported is left out");
    Ok(None)
}

pub(super) fn encode_chain(chain: &[HttpFilter]) -> Vec<hcm::HttpFilter> {
    let encode = |filter: &HttpFilter| hcm::HttpFilter {
        name: filter.name.clone(),
        // A client that has no sessions still has calls to make.
        is_optional: matches!(filter.config, FilterConfig::StatefulSession(_)),
        config_type: Some(ConfigType::TypedConfig(match &filter.config {
            FilterConfig::NoFault => Any::pack(&HttpFault::default()),
            FilterConfig::StatefulSession(state) => stateful_session::encode(state.as_ref()),
            FilterConfig::Router => Any::pack(&Router::default()),
        })),
        ..Default::default()
    };
    chain.iter().map(encode).collect()
}

pub(super) fn encode_overrides(overrides: &FilterOverrides) -> BTreeMap<String, Any> {
    let encode = |config: &FilterConfig| match config {
        FilterConfig::StatefulSession(state) => {
            Some(stateful_session::encode_override(state.as_ref()))
        }
        FilterConfig::NoFault | FilterConfig::Router => None,
    };
    let all = overrides.iter();
    all.filter_map(|(name, config)| Some((name.clone(), encode(config)?)))
        .collect()
}
