//! JSON formats: an object whose texts hold operators. Pure.

use serde_json::Value as Json;

use super::format::{FormatError, FormatFault, Place, Reader, Template};
use super::operator::Value;
use super::record::Record;

/// The keys that Istio's sidecars write, of what there is here.
pub const DEFAULT_JSON: &str = r#"{
  "start_time": "%START_TIME%",
  "method": "%REQ(:METHOD)%",
  "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
  "protocol": "%PROTOCOL%",
  "response_code": "%RESPONSE_CODE%",
  "response_flags": "%RESPONSE_FLAGS%",
  "response_code_details": "%RESPONSE_CODE_DETAILS%",
  "grpc_status": "%GRPC_STATUS_NUMBER%",
  "bytes_received": "%BYTES_RECEIVED%",
  "bytes_sent": "%BYTES_SENT%",
  "duration": "%DURATION%",
  "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
  "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
  "user_agent": "%REQ(USER-AGENT)%",
  "request_id": "%REQ(X-REQUEST-ID)%",
  "traceparent": "%REQ(TRACEPARENT)%",
  "authority": "%REQ(:AUTHORITY)%",
  "upstream_host": "%UPSTREAM_HOST%",
  "upstream_cluster": "%UPSTREAM_CLUSTER%",
  "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
  "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
  "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
  "downstream_peer_uri_san": "%DOWNSTREAM_PEER_URI_SAN%",
  "route_name": "%ROUTE_NAME%"
}"#;

/// A JSON format. A text that is one operator and nothing else becomes a number, a text or
/// `null`; any other text becomes a text, in which what is not set is `-`.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Object(Vec<(String, Self)>),
    Array(Vec<Self>),
    Text(Template),
    Constant(Json),
}

impl Node {
    /// Reads a format.
    pub(super) fn parse(text: &str, reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        let fault = |column, reason| FormatError {
            place: Place {
                key: String::new(),
                column,
            },
            fault: FormatFault::Json { reason },
        };
        let json: Json =
            serde_json::from_str(text).map_err(|error| fault(error.column(), error.to_string()))?;
        if !json.is_object() {
            return Err(fault(1, "it is no object".to_owned()));
        }
        Self::read(json, "", reader)
    }

    fn read(json: Json, key: &str, reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        let below = |name: &str| match key {
            "" => name.to_owned(),
            key => format!("{key}.{name}"),
        };
        Ok(match json {
            Json::Object(members) => {
                let members = members.into_iter().map(|(name, value)| {
                    let value = Self::read(value, &below(&name), reader)?;
                    Ok((name, value))
                });
                Self::Object(members.collect::<Result<_, _>>()?)
            }
            Json::Array(items) => {
                let items = items.into_iter().enumerate();
                let items = items.map(|(i, item)| Self::read(item, &below(&i.to_string()), reader));
                Self::Array(items.collect::<Result<_, _>>()?)
            }
            Json::String(text) => Self::Text(reader.template(&text, key)?),
            constant => Self::Constant(constant),
        })
    }

    /// What is written for a call.
    pub(super) fn value(&self, record: &Record) -> Json {
        match self {
            Self::Object(members) => {
                let members = members.iter();
                Json::Object(members.map(|(k, v)| (k.clone(), v.value(record))).collect())
            }
            Self::Array(items) => items.iter().map(|item| item.value(record)).collect(),
            Self::Text(template) => match template.single(record) {
                Some(Value::Missing) => Json::Null,
                Some(Value::Number(number)) => number.into(),
                Some(Value::Text(text)) => text.into(),
                None => {
                    let mut out = String::new();
                    template.write(record, &mut out);
                    out.into()
                }
            },
            Self::Constant(constant) => constant.clone(),
        }
    }
}
