//! The corpus of `tests/interop/corpus`: resources of which it is known whether gRPC accepts them.
//!
//! A file holds the cases of one type. Each is a base, changed by a JSON merge patch (RFC 7396) at a
//! JSON pointer, with what is expected and why. The name of a case is the name of its resource, so
//! whoever reports what became of a resource has said what became of the case.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::path::Path;
use std::sync::OnceLock;

use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage};
use prost_types::FileDescriptorSet;
use serde_json::{Map, Value, json};
use sidestep_proto::codec::{self, Context};
use sidestep_proto::resource::ResourceType;
use sidestep_proto::wire::{Any, DESCRIPTORS};

/// The one name under `certificate_providers` in the bootstrap of whoever judges the corpus.
pub const CERTIFICATE_PROVIDER: &str = "default";

/// The one name under `authorities` in the bootstrap of whoever judges the corpus.
pub const AUTHORITY: &str = "x";

/// The listener whose routes name every cluster of the corpus.
const CLUSTERS: &str = "via-clusters";

/// What becomes of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Acknowledged.
    Accept,
    /// Rejected: a NACK names it.
    Refuse,
}

impl Verdict {
    /// Accepted or not.
    #[must_use]
    pub fn of(accepted: bool) -> Self {
        if accepted { Self::Accept } else { Self::Refuse }
    }

    fn parse(text: &str) -> Option<Self> {
        match text {
            "accept" => Some(Self::Accept),
            "refuse" => Some(Self::Refuse),
            _ => None,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accept => "accept",
            Self::Refuse => "refuse",
        })
    }
}

/// One resource.
#[derive(Debug, Clone)]
pub struct Case {
    /// Its name and that of its resource.
    pub name: String,
    /// Its type.
    pub resource_type: ResourceType,
    /// What becomes of it in grpc-go.
    pub expect: Verdict,
    /// The rule that decides.
    pub why: String,
    /// The resource as proto3 JSON, with `@type`.
    pub json: Value,
    /// The resource.
    pub any: Any,
}

/// Why the corpus cannot be used.
#[derive(Debug)]
pub struct BadCorpus(String);

impl fmt::Display for BadCorpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadCorpus {}

fn bad(place: &str, reason: impl fmt::Display) -> BadCorpus {
    BadCorpus(format!("{place}: {reason}"))
}

/// The folder of the corpus in this repository.
#[must_use]
pub fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus"))
}

/// Reads every `*.json` of a folder, in the order of their names.
///
/// # Errors
/// A file cannot be read, a case is not as it should be, or two have the same name.
pub fn load(folder: &Path) -> Result<Vec<Case>, BadCorpus> {
    let place = folder.display().to_string();
    let entries = std::fs::read_dir(folder).map_err(|e| bad(&place, e))?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|e| e == "json"));
    files.sort();
    let mut cases: Vec<Case> = Vec::new();
    let mut names = BTreeMap::new();
    for file in files {
        let place = file.display().to_string();
        let text = std::fs::read_to_string(&file).map_err(|e| bad(&place, e))?;
        let value: Value = serde_json::from_str(&text).map_err(|e| bad(&place, e))?;
        for case in list(&value["cases"]) {
            let case = read(&place, &value, case)?;
            if names.insert(case.name.clone(), ()).is_some() {
                return Err(bad(&place, format!("{:?} appears twice", case.name)));
            }
            cases.push(case);
        }
    }
    match cases.is_empty() {
        true => Err(bad(&place, "there are no cases")),
        false => Ok(cases),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn read(file: &str, all: &Value, case: &Value) -> Result<Case, BadCorpus> {
    let text = |key: &str| case[key].as_str().filter(|text| !text.is_empty());
    let name = text("name").ok_or_else(|| bad(file, "a case has no name"))?;
    let place = format!("{file}: {name}");
    let bases = all["bases"].as_object();
    let base = match text("base") {
        Some(base) => bases.and_then(|bases| bases.get(base)),
        None => bases.and_then(|bases| bases.values().next()),
    };
    let mut json = base.ok_or_else(|| bad(&place, "no such base"))?.clone();
    let at = case["at"].as_str().unwrap_or_default();
    let target = json.pointer_mut(at);
    let target = target.ok_or_else(|| bad(&place, format!("{at} is nowhere")))?;
    merge(target, &case["patch"]);

    let type_name = all["type"].as_str().unwrap_or_default();
    let url = format!("type.googleapis.com/{type_name}");
    let known = ResourceType::from_type_url(&url);
    let resource_type = known.ok_or_else(|| bad(file, format!("{type_name:?} is no type")))?;
    let key = match resource_type {
        ResourceType::EndpointAssignment => "cluster_name",
        _ => "name",
    };
    let mut fields = Map::from_iter([("@type".to_owned(), json!(url)), (key.into(), json!(name))]);
    let Value::Object(found) = json else {
        return Err(bad(&place, "a resource is an object"));
    };
    for (key, value) in found {
        fields.entry(key).or_insert(value);
    }
    let json = Value::Object(fields);
    let expect = Verdict::parse(case["expect"].as_str().unwrap_or_default());
    Ok(Case {
        expect: expect.ok_or_else(|| bad(&place, "expect is accept or refuse"))?,
        why: text("why").ok_or_else(|| bad(&place, "no why"))?.to_owned(),
        any: any(&json).map_err(|e| bad(&place, e))?,
        json,
        resource_type,
        name: name.to_owned(),
    })
}

/// RFC 7396; no patch at all changes nothing.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        if !patch.is_null() {
            *target = patch.clone();
        }
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else {
        return;
    };
    for (key, value) in patch {
        match value {
            Value::Null => _ = fields.shift_remove(key),
            Value::Object(_) => merge(fields.entry(key).or_insert(Value::Null), value),
            other => _ = fields.insert(key.clone(), other.clone()),
        }
    }
}

/// A resource of any type of Envoy's API, from proto3 JSON with `@type`.
fn any(json: &Value) -> Result<Any, String> {
    let mut fields = json.as_object().cloned().unwrap_or_default();
    let url = fields.shift_remove("@type");
    let url = url.as_ref().and_then(Value::as_str).unwrap_or_default();
    let name = url.rsplit('/').next().unwrap_or_default();
    let descriptor = pool()?.get_message_by_name(name);
    let descriptor = descriptor.ok_or_else(|| format!("no type {name:?}"))?;
    let message = DynamicMessage::deserialize(descriptor, Value::Object(fields));
    let message = message.map_err(|e| e.to_string())?;
    Ok(Any {
        type_url: url.to_owned(),
        value: message.encode_to_vec().into(),
    })
}

pub(crate) fn pool() -> Result<&'static DescriptorPool, String> {
    static OFFICIAL: &[u8] = include_bytes!("../../../xds-server/data/envoy-descriptors.bin.gz");
    static POOL: OnceLock<Result<DescriptorPool, String>> = OnceLock::new();
    let load = || {
        let mut bytes = Vec::new();
        let mut gzip = flate2::read::GzDecoder::new(OFFICIAL);
        gzip.read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        let mut pool = DescriptorPool::decode(bytes.as_slice()).map_err(|e| e.to_string())?;
        let ours = FileDescriptorSet::decode(DESCRIPTORS).map_err(|e| e.to_string())?;
        // What the official set lacks: the types that stand for types.
        let lacking = ours.file.into_iter().filter(|file| {
            let name = |message: &str| format!("{}.{message}", file.package());
            let mut messages = file.message_type.iter();
            messages.all(|m| pool.get_message_by_name(&name(m.name())).is_none())
                && pool.get_file_by_name(file.name()).is_none()
        });
        let lacking: Vec<_> = lacking.collect();
        let added = pool.add_file_descriptor_protos(lacking);
        added.map(|()| pool).map_err(|e| e.to_string())
    };
    POOL.get_or_init(load).as_ref().map_err(Clone::clone)
}

/// What our codec makes of a case in a process with the judges' bootstrap, and why.
///
/// # Errors
/// The reason of the refusal.
pub fn judge(case: &Case) -> Result<(), String> {
    let context = Context {
        certificate_providers: Some([CERTIFICATE_PROVIDER.to_owned()].into()),
        custom_policies: Some(Vec::new()),
    };
    let decoded = codec::decode(case.resource_type, &case.any, &context);
    let decoded = decoded.map_err(|reason| reason.to_string())?;
    decoded.result.map(drop).map_err(|e| e.to_string())
}

/// What a client dials so that it subscribes to every case.
#[must_use]
pub fn targets(cases: &[Case]) -> Vec<String> {
    let listeners = cases.iter().filter_map(|case| match case.resource_type {
        ResourceType::Listener => Some(case.name.clone()),
        ResourceType::RouteConfiguration => Some(via(&case.name)),
        ResourceType::Cluster | ResourceType::EndpointAssignment => None,
    });
    listeners.chain([CLUSTERS.to_owned()]).collect()
}

fn via(name: &str) -> String {
    format!("via-{name}")
}

/// What leads to the cases: listeners to the route configurations, one listener to all clusters,
/// clusters to the endpoint assignments.
///
/// # Panics
/// Never: they are written here.
#[must_use]
pub fn parents(cases: &[Case]) -> Vec<(Value, Any)> {
    let mut parents = Vec::new();
    let mut clusters = Vec::new();
    for case in cases {
        match case.resource_type {
            ResourceType::Listener => {}
            ResourceType::RouteConfiguration => parents.push(listener(
                &via(&case.name),
                &json!({"rds": {"config_source": {"ads": {}}, "route_config_name": case.name}}),
            )),
            ResourceType::Cluster => clusters.push(case.name.clone()),
            ResourceType::EndpointAssignment => {
                clusters.push(via(&case.name));
                parents.push(json!({
                    "@type": ResourceType::Cluster.type_url(),
                    "name": via(&case.name),
                    "type": "EDS",
                    "eds_cluster_config": {"eds_config": {"ads": {}}, "service_name": case.name},
                }));
            }
        }
    }
    let routes: Vec<Value> = clusters
        .iter()
        .map(|cluster| json!({"match": {"prefix": ""}, "route": {"cluster": cluster}}))
        .collect();
    let hosts = json!([{"name": "all", "domains": ["*"], "routes": routes}]);
    parents.push(listener(
        CLUSTERS,
        &json!({"route_config": {"name": "all", "virtual_hosts": hosts}}),
    ));
    let with_any = |json: Value| {
        let any = any(&json).expect("it is written above");
        (json, any)
    };
    parents.into_iter().map(with_any).collect()
}

fn listener(name: &str, routes: &Value) -> Value {
    const HCM: &str = "type.googleapis.com/envoy.extensions.filters.network.\
                       http_connection_manager.v3.HttpConnectionManager";
    const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
    let router = json!({"name": "router", "typed_config": {"@type": ROUTER}});
    let mut manager = json!({"@type": HCM, "http_filters": [router]});
    merge(&mut manager, routes);
    json!({
        "@type": ResourceType::Listener.type_url(),
        "name": name,
        "api_listener": {"api_listener": manager},
    })
}

/// The bootstrap of a judge under the control plane at `address`.
#[must_use]
pub fn bootstrap(address: &str) -> Value {
    let files =
        json!({"certificate_file": "/x", "private_key_file": "/x", "ca_certificate_file": "/x"});
    json!({
        "xds_servers": [{"server_uri": address, "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}],
        "node": {"id": "judge"},
        "certificate_providers": {CERTIFICATE_PROVIDER: {"plugin_name": "file_watcher", "config": files}},
        "authorities": {AUTHORITY: {}},
    })
}

/// The table of `docs/parity.md`: what grpc-go does with each case in it.
///
/// # Errors
/// A row that does not name its cases in backticks or says the same of both, or a case in two rows.
pub fn differences(page: &str) -> Result<BTreeMap<String, Verdict>, BadCorpus> {
    let mut found = BTreeMap::new();
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let theirs = match cells.as_slice() {
            [_, "accepts", "refuses", _] => Verdict::Accept,
            [_, "refuses", "accepts", _] => Verdict::Refuse,
            _ => return Err(bad("the table of differences", row)),
        };
        for name in cells[0].split(", ") {
            let name = name.trim_matches('`').to_owned();
            if found.insert(name.clone(), theirs).is_some() {
                return Err(bad(
                    "the table of differences",
                    format!("{name} appears twice"),
                ));
            }
        }
    }
    Ok(found)
}

/// Compares our verdicts with another's; each text is a difference that is not `justified`, or a
/// justified one that is none.
#[must_use]
pub fn compare(
    theirs: &BTreeMap<String, Verdict>,
    ours: &BTreeMap<String, Result<(), String>>,
    justified: &BTreeMap<String, Verdict>,
) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, their) in theirs {
        let Some(our) = ours.get(name) else {
            faults.push(format!("{name}: not judged by us"));
            continue;
        };
        let differs = Verdict::of(our.is_ok()) != *their;
        let reason = our.as_ref().err().map_or("", String::as_str);
        match (differs, justified.get(name)) {
            (true, Some(stated)) if stated == their => {}
            (true, Some(_)) => faults.push(format!("{name}: the other way round than stated")),
            (true, None) => faults.push(format!("{name}: they {their}, we do not {reason}")),
            (false, Some(_)) => faults.push(format!("{name}: stated as a difference, and is none")),
            (false, None) => {}
        }
    }
    let unknown = justified.keys().filter(|name| !theirs.contains_key(*name));
    faults.extend(unknown.map(|name| format!("{name}: stated as a difference, and is no case")));
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_merge_as_rfc_7396_says() {
        let mut value = json!({"a": {"b": 1, "c": [1, 2]}, "d": 1});
        merge(
            &mut value,
            &json!({"a": {"b": null, "c": [3]}, "e": {"f": {"g": null}}}),
        );
        assert_eq!(value, json!({"a": {"c": [3]}, "d": 1, "e": {"f": {}}}));
        merge(&mut value, &Value::Null);
        assert_eq!(value["d"], 1, "no patch changes nothing");
    }

    #[test]
    fn every_case_is_reached() {
        let cases = load(folder()).expect("the corpus is good");
        assert!(cases.len() >= 150, "{}", cases.len());
        let names: Vec<String> = parents(&cases)
            .iter()
            .map(|(json, _)| json.to_string())
            .chain(targets(&cases))
            .collect();
        for case in cases {
            assert!(
                names.iter().any(|text| text.contains(&case.name)),
                "{}",
                case.name
            );
        }
    }

    #[test]
    fn differences_are_read_from_the_page() {
        let page = "| case | a | b | why |\n|---|---|---|---|\n\
                    | `x`, `y` | accepts | refuses | because |\n| `z` | refuses | accepts | so |";
        let found = differences(page).expect("a good table");
        assert_eq!(found.len(), 3);
        assert_eq!(found["y"], Verdict::Accept);
        assert_eq!(found["z"], Verdict::Refuse);
        for bad in [
            "| `x` | accepts | accepts | why |",
            "| `x`, `x` | accepts | refuses | why |",
        ] {
            assert!(differences(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn unstated_and_vanished_differences_are_faults() {
        let map = |pairs: &[(&str, Verdict)]| {
            pairs
                .iter()
                .map(|(name, verdict)| ((*name).to_owned(), *verdict))
                .collect()
        };
        use Verdict::{Accept, Refuse};
        let theirs = map(&[
            ("same", Accept),
            ("stated", Accept),
            ("new", Accept),
            ("gone", Refuse),
            ("turned", Refuse),
        ]);
        let refused = || Err("reason".to_owned());
        let ours = BTreeMap::from([
            ("same".to_owned(), Ok(())),
            ("stated".to_owned(), refused()),
            ("new".to_owned(), refused()),
            ("gone".to_owned(), refused()),
            ("turned".to_owned(), Ok(())),
        ]);
        let justified = map(&[
            ("stated", Accept),
            ("gone", Accept),
            ("turned", Accept),
            ("nobody", Accept),
        ]);
        let faults = compare(&theirs, &ours, &justified);
        let names: Vec<_> = faults
            .iter()
            .map(|f| f.split(':').next().unwrap_or(""))
            .collect();
        assert_eq!(names, ["gone", "new", "turned", "nobody"], "{faults:?}");
    }
}
