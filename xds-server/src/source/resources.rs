//! Files of ready-made resources: `{"resources": [...]}`, each in the JSON form of protobuf with
//! its `@type`, written as JSON or YAML.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value as Json;
use sidestep_proto::code;

use super::{Configuration, SourceError, SourceText};
use crate::model::yaml::{self, Node};
use crate::model::{Report, resource_file};
use crate::native;
use crate::snapshot::RawResource;

/// What a folder's files are called.
const EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];

impl Configuration {
    /// Reads resources from a file, or from all `.json`, `.yaml` and `.yml` files of a folder in
    /// the order of their names (not of folders in it, and no hidden ones; there may be none). Blocks
    /// while it reads. See [`Self::from_resources`].
    ///
    /// # Errors
    /// What cannot be read, and everything that is wrong, located.
    pub fn read_resources(path: &Path) -> Result<Self, SourceError> {
        let files = files(path).map_err(|error| unreadable(path, &error))?;
        let texts = files.iter().map(|file| {
            let text = fs::read_to_string(file).map_err(|error| unreadable(file, &error))?;
            let path = file.display().to_string();
            Ok(SourceText { path, text })
        });
        Self::from_resources(&texts.collect::<Result<Vec<_>, SourceError>>()?)
    }

    /// Resources of any type of Envoy's public API, for every client as they are written: nobody
    /// checks what they mean, or whether the names that they mention exist. Field names may be in
    /// snake case or lower camel case.
    ///
    /// # Errors
    /// Everything that cannot be a resource, located: what is neither JSON nor YAML, unknown types
    /// and fields, and names given twice.
    pub fn from_resources(texts: &[SourceText]) -> Result<Self, SourceError> {
        let mut report = Report::default();
        let mut resources = Vec::new();
        for text in texts {
            resources.extend(resources_of(text, &mut report));
        }
        report.finish().map_err(SourceError::Invalid)?;
        Ok(Self::as_written(resources))
    }
}

fn resources_of(text: &SourceText, report: &mut Report) -> Vec<RawResource> {
    let Some(root) = tree(text, report) else {
        return Vec::new();
    };
    let written = resource_file(&root, report);
    written
        .iter()
        .filter_map(|native| native::as_written(native, report))
        .collect()
}

/// JSON is YAML, except for escapes in two halves, which many programs write.
fn tree(text: &SourceText, report: &mut Report) -> Option<Node> {
    let file = Arc::from(text.path.as_str());
    let mut findings = Report::default();
    let root = yaml::parse(&file, &text.text, &mut findings).or_else(|| {
        let json: Json = serde_json::from_str(&text.text).ok()?;
        findings = Report::default();
        Some(yaml::of_json(&file, &json))
    });
    report.diagnostics.append(&mut findings.diagnostics);
    root
}

fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        if is_resource_file(&file) {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// Editors keep copies under hidden names.
fn is_resource_file(path: &Path) -> bool {
    let text = |part: Option<&std::ffi::OsStr>| part.map(|p| p.to_string_lossy().into_owned());
    let hidden = text(path.file_name()).is_some_and(|name| name.starts_with('.'));
    let known = text(path.extension()).is_some_and(|e| EXTENSIONS.contains(&e.as_str()));
    known && !hidden && path.is_file()
}

fn unreadable(path: &Path, error: &io::Error) -> SourceError {
    let file = path.display().to_string();
    SourceError::of_file(code::FILE_UNREADABLE, &file, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;
    use sidestep_proto::wire::cluster::Cluster;
    use sidestep_proto::wire::endpoint::ClusterLoadAssignment;
    use sidestep_proto::wire::listener::Listener;

    fn read(path: &str, text: &str) -> Result<Vec<RawResource>, String> {
        let text = SourceText {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        Configuration::from_resources(&[text])
            .map(|configuration| configuration.resources)
            .map_err(|error| error.to_string())
    }

    const TYPE: &str = "type.googleapis.com/envoy.config";

    #[test]
    fn json_and_yaml_in_both_spellings_are_the_same() {
        let snake = format!(
            r#"{{"resources": [{{"@type": "{TYPE}.cluster.v3.Cluster", "name": "a",
            	"type": "EDS", "eds_cluster_config": {{"service_name": "e"}},
            "connect_timeout": "0.5s", "lrs_server": {{"self": {{}}}}}}]}}"#
        );
        let camel = snake
            .replace("eds_cluster_config", "edsClusterConfig")
            .replace("service_name", "serviceName")
            .replace("connect_timeout", "connectTimeout")
            .replace("lrs_server", "lrsServer");
        let yaml = format!(
            "resources:\n- '@type': {TYPE}.cluster.v3.Cluster\n  name: a\n  type: EDS\n  \
             eds_cluster_config: {{service_name: e}}\n  connect_timeout: 0.5s\n  \
             lrsServer: {{self: {{}}}}\n"
        );
        let read_any = |path, text| read(path, text).expect("sound").remove(0).any;
        let any = read_any("r.json", &snake);
        assert_eq!(any, read_any("r.json", &camel));
        assert_eq!(any, read_any("r.yaml", &yaml));
        let cluster: Cluster = any.unpack().expect("a cluster");
        let eds = cluster.eds_cluster_config.expect("EDS");
        assert_eq!(eds.service_name, "e");
    }

    /// What some client refuses, what nobody mentions, and the same endpoint twice.
    #[test]
    fn what_only_clients_mind_is_kept() {
        let endpoint =
            r#"{"endpoint": {"address": {"socket_address": {"address": "::1", "port_value": 1}}}}"#;
        let text = format!(
            r#"{{"resources": [
              {{"@type": "{TYPE}.listener.v3.Listener", "name": "l", "use_original_dst": true,
                "api_listener": {{"api_listener": {{
                  "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault"}}}}}},
              {{"@type": "{TYPE}.endpoint.v3.ClusterLoadAssignment", "cluster_name": "nobody",
                "endpoints": [{{"priority": 3, "lb_endpoints": [{endpoint}, {endpoint}]}}]}}]}}"#
        );
        let resources = read("r.json", &text).expect("sound");
        let names: Vec<_> = resources.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(names, ["l", "nobody"]);
        let listener: Listener = resources[0].any.unpack().expect("a listener");
        let inner = listener.api_listener.and_then(|l| l.api_listener);
        assert_eq!(
            inner.expect("an Any").type_url,
            "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault"
        );
        let assignment = ClusterLoadAssignment::decode(resources[1].any.value.clone());
        let localities = assignment.expect("an assignment").endpoints;
        assert_eq!(localities[0].lb_endpoints.len(), 2);
    }

    /// Each is a kind of its own: none of them is known to our runtime.
    #[test]
    fn resources_of_every_type_have_their_names() {
        let types = [
            ("envoy.extensions.transport_sockets.tls.v3.Secret", "name"),
            ("envoy.config.route.v3.ScopedRouteConfiguration", "name"),
            ("envoy.config.route.v3.VirtualHost", "name"),
            ("envoy.service.runtime.v3.Runtime", "name"),
            ("envoy.config.core.v3.TypedExtensionConfig", "name"),
            ("envoy.config.route.v3.RouteConfiguration", "name"),
        ];
        for (name, field) in types {
            let text = format!(
                r#"{{"resources": [{{"@type": "type.googleapis.com/{name}", "{field}": "x"}}]}}"#
            );
            let resource = read("r.json", &text).expect(name).remove(0);
            assert_eq!(resource.name, "x");
            assert_eq!(resource.any.type_name(), name);
        }
        let text = format!(
            r#"{{"resources": [{{"@type": "type.googleapis.com/envoy.service.discovery.v3.Resource",
              "name": "x", "resource": {{"@type": "{TYPE}.endpoint.v3.LbEndpoint"}}}}]}}"#
        );
        let resource = read("r.json", &text).expect("wrapped").remove(0);
        assert_eq!(resource.name, "x");
        assert_eq!(
            resource.any.type_name(),
            "envoy.config.endpoint.v3.LbEndpoint"
        );
    }

    #[test]
    fn what_is_no_resource_is_named_with_its_place() {
        let one = |body: &str| format!("resources:\n- {body}\n");
        let cluster = format!("\"@type\": {TYPE}.cluster.v3.Cluster");
        for (text, expected) in [
            (
                one("name: a"),
                "r.yaml:2:3: resources[0]: the key `@type` is missing",
            ),
            (one(&format!("{cluster}\n  nam: a")), "has no field \"nam\""),
            (
                one(&cluster),
                "r.yaml:2:3: resources[0]: the resource has no name",
            ),
            (
                one("\"@type\": x/envoy.Nothing"),
                "unknown type \"envoy.Nothing\"",
            ),
            ("things: []\n".to_owned(), "unknown key \"things\""),
            (
                "{\"resources\": [\n".to_owned(),
                "r.yaml:1:15: not valid YAML",
            ),
            (
                "resources: {}\n".to_owned(),
                "r.yaml:1:12: resources: expected a list",
            ),
        ] {
            let error = read("r.yaml", &text).expect_err(&text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn escapes_of_json_alone_are_read() {
        let text = format!(
            r#"{{"resources": [{{"@type": "{TYPE}.cluster.v3.Cluster", "name": "\ud83d\ude00\/"}}]}}"#
        );
        assert_eq!(read("r.json", &text).expect("JSON")[0].name, "😀/");
    }

    #[test]
    fn a_folder_is_read_in_the_order_of_names_and_may_be_empty() {
        let folder = tempfile::tempdir().expect("a folder");
        let names = || {
            let read = Configuration::read_resources(folder.path());
            let resources = read.expect("sound").resources;
            resources.into_iter().map(|r| r.name).collect::<Vec<_>>()
        };
        assert!(names().is_empty());
        for (file, name) in [
            ("2.yaml", "b"),
            ("1.json", "a"),
            ("3.yml", "c"),
            (".4.json", "hidden"),
            ("5.txt", "other"),
        ] {
            let text = format!(
                r#"{{"resources": [{{"@type": "{TYPE}.cluster.v3.Cluster", "name": "{name}"}}]}}"#
            );
            fs::write(folder.path().join(file), text).expect("writes");
        }
        assert_eq!(names(), ["a", "b", "c"]);
        let file = Configuration::read_resources(&folder.path().join("5.txt"));
        let resources = file.expect("a file may be called anything").resources;
        assert_eq!(resources[0].name, "other");
        let absent = Configuration::read_resources(&folder.path().join("absent"));
        let error = absent.expect_err("is not there").to_string();
        assert!(
            error.contains("absent") && error.contains("SX0201"),
            "{error}"
        );
    }
}
