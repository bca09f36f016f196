//! Wire truth: what other libraries wrote comes out of our types as it went in.
//!
//! A line of the input is a message of one type, made elsewhere with every field set that our
//! descriptors have. It is decoded by our own type and encoded again; then both encodings are read
//! by the official descriptors and compared field by field.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::{Message, Name};
use prost_reflect::DynamicMessage;
use serde_json::{Value, json};
use sidestep_proto::wire::{
    cluster, cluster_type, core, discovery, endpoint, hcm, http_filter, listener, load_balancing,
    route, status, tls, typed_struct, upstream_http,
};

use crate::corpus::pool;

/// Decodes and encodes again.
type Echo = fn(&[u8]) -> Result<Vec<u8>, prost::DecodeError>;

fn echo<M: Message + Default>(bytes: &[u8]) -> Result<Vec<u8>, prost::DecodeError> {
    M::decode(bytes).map(|message| message.encode_to_vec())
}

fn entry<M: Message + Name + Default>() -> (String, Echo) {
    (M::full_name(), echo::<M>)
}

/// Every message that is decoded on its own: resources, what an `Any` holds, and the protocol.
fn types() -> Vec<(String, Echo)> {
    vec![
        entry::<listener::Listener>(),
        entry::<route::RouteConfiguration>(),
        entry::<cluster::Cluster>(),
        entry::<endpoint::ClusterLoadAssignment>(),
        entry::<hcm::HttpConnectionManager>(),
        entry::<http_filter::Router>(),
        entry::<http_filter::HttpFault>(),
        entry::<route::FilterConfig>(),
        entry::<tls::UpstreamTlsContext>(),
        entry::<tls::DownstreamTlsContext>(),
        entry::<cluster_type::AggregateCluster>(),
        entry::<upstream_http::HttpProtocolOptions>(),
        entry::<load_balancing::RoundRobin>(),
        entry::<load_balancing::LeastRequest>(),
        entry::<load_balancing::PickFirst>(),
        entry::<load_balancing::WrrLocality>(),
        entry::<typed_struct::TypedStruct>(),
        entry::<typed_struct::UdpaTypedStruct>(),
        entry::<core::Node>(),
        entry::<discovery::DiscoveryRequest>(),
        entry::<discovery::DiscoveryResponse>(),
        entry::<discovery::DeltaDiscoveryRequest>(),
        entry::<discovery::DeltaDiscoveryResponse>(),
        entry::<discovery::Resource>(),
        entry::<status::ClientStatusResponse>(),
    ]
}

/// What to ask other libraries for: full names, and our descriptors in base64.
#[must_use]
pub fn order() -> Value {
    let names: Vec<String> = types().into_iter().map(|(name, _)| name).collect();
    json!({"types": names, "descriptors": STANDARD.encode(sidestep_proto::wire::DESCRIPTORS)})
}

/// How many messages came through; every type must be among them.
///
/// # Errors
/// A line that is not a message, a type that is missing, or a field that was lost, with both texts.
pub fn check(lines: &str) -> Result<usize, String> {
    let types = types();
    let mut seen = vec![0; types.len()];
    for line in lines.lines() {
        let event: Value = serde_json::from_str(line).map_err(|e| format!("{e}: {line}"))?;
        if event["event"] != "message" {
            continue;
        }
        let name = event["type"].as_str().unwrap_or_default();
        let at = types.iter().position(|(known, _)| known == name);
        let at = at.ok_or_else(|| format!("{name:?} was not asked for"))?;
        let bytes = STANDARD.decode(event["bytes"].as_str().unwrap_or_default());
        let bytes = bytes.map_err(|e| format!("{name}: {e}"))?;
        compare(name, &bytes, types[at].1).map_err(|e| format!("{name}: {e}"))?;
        seen[at] += 1;
    }
    match types.iter().zip(&seen).find(|(_, seen)| **seen == 0) {
        Some(((name, _), _)) => Err(format!("no message of {name}")),
        None => Ok(seen.iter().sum()),
    }
}

fn compare(name: &str, bytes: &[u8], echo: Echo) -> Result<(), String> {
    let descriptor = pool()?.get_message_by_name(name).ok_or("no such type")?;
    let read =
        |bytes: &[u8]| DynamicMessage::decode(descriptor.clone(), bytes).map_err(|e| e.to_string());
    let before = read(bytes)?;
    let after = read(&echo(bytes).map_err(|e| e.to_string())?)?;
    if before == after {
        return Ok(());
    }
    let [before, after] = [before, after].map(|m| serde_json::to_value(&m).unwrap_or_default());
    let lost = difference(&before, &after).unwrap_or_default();
    Err(format!("lost on the way: {lost}"))
}

/// The first place in which the two differ.
fn difference(before: &Value, after: &Value) -> Option<String> {
    if before == after {
        return None;
    }
    let inner = match (before, after) {
        (Value::Object(a), Value::Object(b)) => a.iter().find_map(|(key, value)| {
            let found = difference(value, b.get(key).unwrap_or(&Value::Null))?;
            Some(format!(".{key}{found}"))
        }),
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(i, (a, b))| {
                let found = difference(a, b)?;
                Some(format!("[{i}]{found}"))
            })
        }
        _ => None,
    };
    Some(inner.unwrap_or_else(|| format!(": {before} became {after}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, bytes: &[u8]) -> String {
        json!({"event": "message", "type": name, "bytes": STANDARD.encode(bytes)}).to_string()
    }

    #[test]
    fn every_type_is_official_and_has_a_message() {
        let lines: Vec<String> = types().iter().map(|(name, _)| line(name, &[])).collect();
        assert_eq!(check(&lines.join("\n")), Ok(lines.len()));
        let error = check(&lines[1..].join("\n")).unwrap_err();
        assert_eq!(error, "no message of envoy.config.listener.v3.Listener");
    }

    #[test]
    fn a_lost_field_is_found() {
        // disable_downstream_cluster_stats, which we do not model.
        let name = "envoy.extensions.filters.http.fault.v3.HTTPFault";
        let error = check(&line(name, &[0x78, 1])).unwrap_err();
        let expected = ".disableDownstreamClusterStats: true became null";
        assert!(error.contains(expected), "{error}");
    }
}
