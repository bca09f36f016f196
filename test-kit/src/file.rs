//! The mesh file of a test: what its author wrote, and where the backends really are.
//!
//! Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use sidestep_server::model::{Diagnostic, Mesh};
use sidestep_server::source::SourceText;
use sidestep_server::{Configuration, SourceError};

/// What faults are located in.
const NAME: &str = "mesh.yaml";

/// Where a version runs of which no backend was started: nobody listens there.
const NOBODY: &str = "127.0.0.1";

/// A started backend as an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) address: String,
    pub(crate) version: Option<String>,
    pub(crate) zone: Option<String>,
    pub(crate) weight: u32,
}

/// Started backends by service.
pub(crate) type Endpoints = BTreeMap<String, Vec<Endpoint>>;

/// A mesh file with the endpoints filled in.
#[derive(Debug)]
pub(crate) struct Filled {
    pub(crate) mesh: Mesh,
    pub(crate) configuration: Configuration,
    pub(crate) text: SourceText,
}

/// Reads `text`, gives each service that does not say where it runs the endpoints that there are,
/// and compiles.
pub(crate) fn fill(text: &str, endpoints: &Endpoints) -> Result<Filled, SourceError> {
    let written = source(text);
    let text = match filled(text, endpoints) {
        Some(filled) => source(&filled),
        None => written.clone(),
    };
    let compile = || {
        let files = [(text.path.as_str(), text.text.as_str())];
        let (mesh, _) = Mesh::parse(&files).map_err(SourceError::Invalid)?;
        let configuration = Configuration::from_mesh(std::slice::from_ref(&text))?;
        Ok((mesh, configuration))
    };
    let (mesh, configuration) = compile().map_err(|error| located(error, &written))?;
    Ok(Filled {
        mesh,
        configuration,
        text,
    })
}

/// Whether the file itself says where `service` runs.
pub(crate) fn says_endpoints(text: &str, service: &str) -> bool {
    let root: Option<Value> = serde_saphyr::from_str(text).ok();
    root.is_some_and(|root| !root["services"][service]["endpoints"].is_null())
}

fn source(text: &str) -> SourceText {
    SourceText {
        path: NAME.to_owned(),
        text: text.to_owned(),
    }
}

/// The same mesh as JSON, which is YAML. `None` where there is nothing to fill in, or no way to
/// read what is there: the parser then says what is wrong.
fn filled(text: &str, endpoints: &Endpoints) -> Option<String> {
    let mut root: Value = serde_saphyr::from_str(text).ok()?;
    let services = root.get_mut("services")?.as_object_mut()?;
    let mut any = false;
    for (name, service) in services {
        if service.is_null() {
            *service = json!({});
        }
        let Some(keys) = service.as_object_mut() else {
            continue;
        };
        let started = endpoints.get(name).map_or(&[][..], Vec::as_slice);
        let is_called = ["versions", "routes", "hosts"];
        let is_called = is_called.iter().any(|key| keys.contains_key(*key));
        if keys.contains_key("endpoints") || (started.is_empty() && !is_called) {
            continue;
        }
        let mut list: Vec<Value> = started.iter().map(entry).collect();
        list.extend(absent(keys.get("versions"), started));
        keys.insert("endpoints".to_owned(), json!({"static": list}));
        any = true;
    }
    any.then(|| format!("{root:#}"))
}

fn entry(endpoint: &Endpoint) -> Value {
    let mut entry = json!({"address": endpoint.address, "weight": endpoint.weight});
    for (key, value) in [("version", &endpoint.version), ("zone", &endpoint.zone)] {
        if let Some(value) = value {
            entry[key] = json!(value);
        }
    }
    entry
}

/// Stand for the versions that nobody runs: their calls fail as if their backends were down.
fn absent(versions: Option<&Value>, started: &[Endpoint]) -> Vec<Value> {
    let versions = versions.and_then(Value::as_object);
    let named: BTreeSet<&str> = versions
        .into_iter()
        .flat_map(|versions| versions.values().filter_map(Value::as_str))
        .collect();
    let runs = |version: &&str| {
        started
            .iter()
            .any(|e| e.version.as_deref() == Some(*version))
    };
    let missing = named.into_iter().filter(|version| !runs(version));
    let ports = 1_u16..;
    let entries = missing.zip(ports).map(|(version, port)| {
        // Ports below 100 are nobody's in a test.
        json!({"address": format!("{NOBODY}:{port}"), "version": version})
    });
    entries.collect()
}

/// Faults with the places of the text that the test's author wrote.
fn located(error: SourceError, written: &SourceText) -> SourceError {
    let SourceError::Invalid(found) = error else {
        return error;
    };
    let files = [(written.path.as_str(), written.text.as_str())];
    let original = Mesh::parse(&files).err().unwrap_or_default();
    let place = |found: Diagnostic| {
        let same = |o: &&Diagnostic| o.path == found.path && o.message == found.message;
        let original = original.iter().find(same).cloned();
        // Its line is one of the filled-in text, which nobody has seen; its path still holds.
        original.unwrap_or(Diagnostic {
            line: 0,
            column: 0,
            ..found
        })
    };
    SourceError::Invalid(found.into_iter().map(place).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(address: &str, version: Option<&str>) -> Endpoint {
        Endpoint {
            address: address.to_owned(),
            version: version.map(str::to_owned),
            zone: None,
            weight: 1,
        }
    }

    fn of(service: &str, endpoints: &[Endpoint]) -> Endpoints {
        BTreeMap::from([(service.to_owned(), endpoints.to_vec())])
    }

    fn addresses(text: &str, endpoints: &Endpoints) -> Vec<String> {
        let filled = fill(text, endpoints).expect("a good mesh");
        let greeter = &filled.mesh.services["greeter"];
        greeter
            .endpoints()
            .iter()
            .map(|e| e.address.to_string())
            .collect()
    }

    #[test]
    fn a_service_runs_where_its_backends_were_started() {
        for text in [
            "mesh: v1\nservices:\n  web: {}\n  greeter: {}\n",
            "mesh: v1\nservices:\n  greeter:\n    timeout: 1s # a comment\n",
            "{mesh: v1, services: {greeter: {}}}",
        ] {
            let endpoints = of("greeter", &[endpoint("127.0.0.1:7", None)]);
            assert_eq!(addresses(text, &endpoints), ["127.0.0.1:7"], "{text}");
            assert!(
                addresses(text, &Endpoints::new()).is_empty(),
                "only calls others"
            );
        }
    }

    #[test]
    fn what_the_file_says_itself_stays() {
        let text =
            "mesh: v1\nservices: {greeter: {endpoints: {static: [{address: \"10.0.0.1:1\"}]}}}\n";
        let endpoints = of("greeter", &[endpoint("127.0.0.1:7", None)]);
        assert_eq!(addresses(text, &endpoints), ["10.0.0.1:1"]);
        assert!(says_endpoints(text, "greeter") && !says_endpoints(text, "web"));
    }

    #[test]
    fn versions_that_nobody_runs_yet_are_there_and_down() {
        let text = "mesh: v1\nservices:\n  greeter:\n    versions: {stable: v1, canary: v2}\n    routes: [{to: {stable: 1, canary: 1}}]\n";
        let endpoints = of("greeter", &[endpoint("127.0.0.1:7000", Some("v1"))]);
        assert_eq!(
            addresses(text, &endpoints),
            ["127.0.0.1:7000", "127.0.0.1:1"]
        );
        assert_eq!(
            addresses(text, &Endpoints::new()),
            ["127.0.0.1:1", "127.0.0.1:2"]
        );
    }

    #[test]
    fn faults_are_where_the_author_wrote_them() {
        let text = "mesh: v1\nservices:\n  greeter:\n    timout: 1s\n";
        let endpoints = of("greeter", &[endpoint("127.0.0.1:7", None)]);
        let error = fill(text, &endpoints)
            .expect_err("a misspelt key")
            .to_string();
        assert!(error.contains("mesh.yaml:4:5"), "{error}");
        let error = fill("mesh: [", &endpoints)
            .expect_err("not YAML")
            .to_string();
        assert!(error.contains("mesh.yaml:1"), "{error}");
    }
}
