//! The session affinity filter and its overrides (gRFC A55; sessions in a header as Envoy has
//! them).

use super::Reason;
use super::at::{At, Result, wire_duration};
use crate::resource::{SessionCookie, SessionState};
use crate::wire::http_filter::{
    StatefulSession, StatefulSessionPerRoute, stateful_session_per_route::Override,
};
use crate::wire::session_state::{Cookie, CookieBasedSessionState, HeaderBasedSessionState};
use crate::wire::{Any, core::TypedExtensionConfig};

/// The names by which Envoy finds the two kinds of state.
const COOKIE: &str = "envoy.http.stateful_session.cookie";
const HEADER: &str = "envoy.http.stateful_session.header";

/// The configuration of the filter: a filter without state has no sessions.
pub(super) fn decode(at: &At<'_>, any: &Any) -> Result<Option<SessionState>> {
    decode_session(at, at.unpack(any)?)
}

/// What a route, virtual host or cluster says instead.
pub(super) fn decode_override(at: &At<'_>, any: &Any) -> Result<Option<SessionState>> {
    let wire: StatefulSessionPerRoute = at.unpack(any)?;
    match wire.r#override {
        Some(Override::StatefulSession(session)) => {
            decode_session(&at.field("stateful_session"), session)
        }
        // gRPC takes `disabled: false` and nothing at all for an override without state, too.
        Some(Override::Disabled(_)) | None => Ok(None),
    }
}

fn decode_session(at: &At<'_>, wire: StatefulSession) -> Result<Option<SessionState>> {
    at.ignore(
        "strict",
        wire.strict,
        "a call whose endpoint cannot take it goes to another one",
    );
    let Some(state) = wire.session_state else {
        return Ok(None);
    };
    let at = at.field("session_state");
    let at = at.field("typed_config");
    let any = at.required(state.typed_config)?;
    if any.is::<CookieBasedSessionState>() {
        return decode_cookie(&at, at.unpack(&any)?).map(Some);
    }
    if any.is::<HeaderBasedSessionState>() {
        return decode_header(&at, at.unpack(&any)?).map(Some);
    }
    let kind = any.type_name();
    Err(at.unsupported(format!("the session state {kind}")))
}

fn decode_cookie(at: &At<'_>, wire: CookieBasedSessionState) -> Result<SessionState> {
    let at = at.field("cookie");
    let cookie = at.required(wire.cookie)?;
    let ttl = at.optional_duration("ttl", cookie.ttl)?;
    let name = at.field("name").text(cookie.name)?;
    // Such a cookie could not be told from its neighbours, or not be sent at all.
    if name
        .bytes()
        .any(|b| !b.is_ascii_graphic() || b"=;,\"".contains(&b))
    {
        let place = at.field("name");
        return Err(place.rule(format!("{name:?} cannot be the name of a cookie")));
    }
    let path = cookie.path;
    if path
        .bytes()
        .any(|b| !(b' '..=b'~').contains(&b) || b == b';')
    {
        let place = at.field("path");
        return Err(place.rule(format!("{path:?} cannot be the path of a cookie")));
    }
    Ok(SessionState::Cookie(SessionCookie {
        name,
        path,
        ttl: ttl.unwrap_or_default(),
    }))
}

fn decode_header(at: &At<'_>, wire: HeaderBasedSessionState) -> Result<SessionState> {
    let at = at.field("name");
    let name = at.text(wire.name)?.to_ascii_lowercase();
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if !name.bytes().all(is_token) {
        return Err(at.rule(format!("{name:?} cannot be the name of a header")));
    }
    if name.ends_with("-bin") || name.starts_with("grpc-") {
        return Err(at.fault(Reason::Rule(format!(
            "{name:?} is a name that gRPC keeps for itself"
        ))));
    }
    Ok(SessionState::Header { name })
}

pub(super) fn encode(state: Option<&SessionState>) -> Any {
    Any::pack(&session(state))
}

pub(super) fn encode_override(state: Option<&SessionState>) -> Any {
    Any::pack(&StatefulSessionPerRoute {
        r#override: Some(match state {
            None => Override::Disabled(true),
            Some(_) => Override::StatefulSession(session(state)),
        }),
    })
}

fn session(state: Option<&SessionState>) -> StatefulSession {
    let (name, any) = match state {
        None => return StatefulSession::default(),
        Some(SessionState::Cookie(cookie)) => {
            let cookie = Cookie {
                name: cookie.name.clone(),
                path: cookie.path.clone(),
                ttl: (!cookie.ttl.is_zero()).then(|| wire_duration(cookie.ttl)),
            };
            let state = CookieBasedSessionState {
                cookie: Some(cookie),
            };
            (COOKIE, Any::pack(&state))
        }
        Some(SessionState::Header { name }) => {
            let state = HeaderBasedSessionState { name: name.clone() };
            (HEADER, Any::pack(&state))
        }
    };
    StatefulSession {
        session_state: Some(TypedExtensionConfig {
            name: name.to_owned(),
            typed_config: Some(any),
        }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
