//! What the control plane's machine reports, as `tracing` events: `sidestep::xds` for the stream
//! and its answers, `sidestep::config` for resources. Listed in docs/events.md.

use sidestep_proto::ads::{Event, ResourceError};
use sidestep_proto::bootstrap::Server;
use sidestep_proto::code;
use sidestep_proto::resource::ResourceType;

use super::authorities::Origins;
use super::resource_cache::Key;

/// gRPC's code in a control plane's `resource_errors`.
const NOT_FOUND: i32 = 5;

/// Tells of one event. `origins` say whom to ask about a resource.
pub(super) fn tell(event: &Event, servers: &[Server], origins: &Origins, node: &str) {
    let code = code::CONTROL_PLANE_UNREACHABLE;
    match event {
        Event::StreamUp { server } => {
            let server = &*servers[*server].uri;
            tracing::info!(target: "sidestep::xds", server, node, "stream up");
        }
        Event::StreamDown {
            server,
            reason,
            had_response,
        } => {
            let server = &*servers[*server].uri;
            if *had_response {
                tracing::info!(target: "sidestep::xds", server, node, reason, "stream down");
            } else {
                tracing::warn!(target: "sidestep::xds", %code, server, node, reason, "no stream");
            }
        }
        Event::NoDelta { server } => {
            let server = &*servers[*server].uri;
            tracing::info!(
                target: "sidestep::xds", server, node,
                "server has no delta, going on by state of the world"
            );
        }
        Event::Fallback {
            authority,
            from,
            to,
            is_down,
        } => {
            let authority = authority.as_deref();
            let (from, server) = (&*servers[*from].uri, &*servers[*to].uri);
            if *is_down {
                tracing::warn!(target: "sidestep::xds", authority, from, server, node, "fallback");
            } else {
                tracing::info!(
                    target: "sidestep::xds", authority, from, server, node, "end of fallback"
                );
            }
        }
        Event::Unreachable { reason, .. } => {
            tracing::warn!(target: "sidestep::xds", %code, node, reason, "no control plane can be reached");
        }
        Event::Accepted {
            server,
            resource_type,
            version,
        } => {
            let server = &*servers[*server].uri;
            tracing::debug!(target: "sidestep::xds", server, node, %resource_type, version, "ACK");
        }
        Event::Rejected {
            server,
            resource_type,
            version,
            detail,
            repeated,
        } => {
            let server = &*servers[*server].uri;
            // A server that sends the same again and again must not fill the log.
            if *repeated {
                tracing::debug!(
                    target: "sidestep::xds", server, node, %resource_type, version, detail, "NACK"
                );
            } else {
                tracing::warn!(
                    target: "sidestep::xds", server, node, %resource_type, version, detail, "NACK"
                );
            }
        }
        Event::Unasked { server, type_url } => {
            let server = &*servers[*server].uri;
            tracing::warn!(
                target: "sidestep::xds", server, node, type_url,
                "response passed over: nobody asked for its type"
            );
        }
        Event::Error {
            resource_type,
            name,
            error,
            cached,
        } => problem(*resource_type, name, error, *cached, origins),
        Event::Cleared {
            resource_type,
            name,
        } => tracing::info!(
            target: "sidestep::config", %resource_type, name, "resource is good again"
        ),
        Event::Ignored {
            resource_type,
            name,
            fields,
        } => {
            for field in fields {
                let (path, note) = (&*field.path, field.note);
                tracing::warn!(
                    target: "sidestep::config", code = %code::RESOURCE_FIELD_IGNORED,
                    %resource_type, name, path, note, "field ignored"
                );
            }
        }
        Event::Resource(resource) => tracing::debug!(
            target: "sidestep::config",
            resource_type = %resource.resource_type(),
            name = resource.name(),
            "resource taken over"
        ),
    }
}

fn problem(
    resource_type: ResourceType,
    name: &str,
    error: &ResourceError,
    cached: bool,
    origins: &Origins,
) {
    let key: Key = (resource_type, name.into());
    let origin = origins.of(&key);
    let (server, node) = (&*origin.server, &*origin.node);
    match error {
        // What leaves the mesh is told so by the control plane before we have let go of it.
        ResourceError::Deleted
        | ResourceError::Refused {
            code: NOT_FOUND, ..
        } if cached => {
            tracing::info!(
                target: "sidestep::config",
                %resource_type, name, %error, server, node,
                "resource is gone; its last good version stays in use"
            );
        }
        ResourceError::Invalid(invalid) => tracing::warn!(
            target: "sidestep::config", code = %error.code(),
            %resource_type, name, path = &*invalid.path, reason = %invalid.reason, server, node,
            last_good_stays = cached,
            "bad resource"
        ),
        _ => tracing::warn!(
            target: "sidestep::config", code = %error.code(),
            %resource_type, name, reason = %error, server, node, last_good_stays = cached,
            "bad resource"
        ),
    }
}
