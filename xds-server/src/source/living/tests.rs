use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::snapshot::RawResource;
use crate::source::{RawResources, SourceText};
use crate::store::Store;

/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const ASSIGNMENT: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";

/// A mesh file in memory, and a directory for its targets.
struct World {
    directory: tempfile::TempDir,
    text: RawResources,
    living: Living,
    board: Board,
}

impl World {
    fn new() -> Self {
        let text = RawResources::new([]).expect("nothing lacks a name");
        let board = Board::default();
        let options = LookOptions {
            first_answer: PATIENCE,
            ..LookOptions::default()
        };
        Self {
            directory: tempfile::tempdir().expect("a directory"),
            living: Living::new(Box::new(text.clone()), options, board.clone()),
            text,
            board,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Replaces a list of targets, at once.
    fn targets(&self, name: &str, addresses: &[&str]) {
        let text = serde_json::json!([{ "targets": addresses }]).to_string();
        let new = self.path("new");
        fs::write(&new, text).expect("writes");
        fs::rename(new, self.path(name)).expect("renames");
    }

    /// A mesh of one service, `greeter`, and further lines.
    fn edit(&self, targets: &str, more: &str) {
        let text = format!(
            "mesh: v1\nservices:\n  greeter:\n    endpoints: {{targets: {targets}}}\n{more}"
        );
        let file = SourceText {
            path: self.path("mesh.yaml").display().to_string(),
            text,
        };
        let configuration = Configuration::from_mesh(&[file]).expect("valid");
        self.text.replace_configuration(configuration);
    }

    async fn next(&mut self) -> Result<Configuration, SourceError> {
        let next = tokio::time::timeout(PATIENCE, self.living.next());
        next.await.expect("in time").expect("goes on")
    }
}

fn resource<'a>(configuration: &'a Configuration, type_url: &str) -> &'a RawResource {
    let mut resources = configuration.resources.iter();
    resources
        .find(|r| r.any.type_url == type_url)
        .expect("is there")
}

/// The addresses of `greeter`, as they are sent.
fn addresses(configuration: &Configuration) -> Vec<String> {
    use sidestep_proto::codec::{Context, decode};
    use sidestep_proto::resource::{Resource, ResourceType};
    let any = &resource(configuration, ASSIGNMENT).any;
    let kind = ResourceType::EndpointAssignment;
    let decoded = decode(kind, any, &Context::default()).expect("readable");
    match decoded.result.expect("valid") {
        Resource::EndpointAssignment(assignment) => {
            let localities = assignment.localities.iter();
            let endpoints = localities.flat_map(|locality| &locality.endpoints);
            endpoints.map(|e| e.addresses[0].to_string()).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_change_of_a_source_changes_its_endpoints_and_nothing_else() {
    let mut world = World::new();
    world.targets("t.json", &["10.0.0.1:1"]);
    world.edit("t.json", "");
    let first = world.next().await.expect("sound");
    assert_eq!(addresses(&first), ["10.0.0.1:1"]);
    assert_eq!(first.summary, "1 service, 1 endpoint");
    assert!(first.warnings.is_empty(), "{:?}", first.warnings);

    world.targets("t.json", &["10.0.0.1:1", "10.0.0.2:1"]);
    let second = world.next().await.expect("sound");
    assert_eq!(addresses(&second), ["10.0.0.1:1", "10.0.0.2:1"]);
    assert!(second.refresh);

    let store = Store::new();
    let first = store.apply(Ok(first)).expect("sound");
    let second = store.apply(Ok(second)).expect("sound");
    for type_url in [CLUSTER, ASSIGNMENT] {
        let of =
            |snapshot: &Snapshot| Arc::clone(snapshot.find(type_url, "greeter").expect("is there"));
        let same = Arc::ptr_eq(&of(&first), &of(&second));
        assert_eq!(same, type_url == CLUSTER, "{type_url}");
    }
}

#[tokio::test]
async fn a_first_failure_is_a_warning_and_may_heal() {
    let mut world = World::new();
    world.edit("t.json", "");
    let first = world.next().await.expect("served all the same");
    assert!(addresses(&first).is_empty());
    let warning = first.warnings[0].to_string();
    assert!(warning.contains("mesh.yaml:4:26: warning: services.greeter.endpoints.targets: no endpoints from `t.json`: "), "{warning}");
    assert!(warning.contains("No such file"), "{warning}");

    world.targets("t.json", &["10.0.0.1:1"]);
    let healed = world.next().await.expect("sound");
    assert_eq!(addresses(&healed), ["10.0.0.1:1"]);
    assert!(healed.warnings.is_empty());
}

#[tokio::test]
async fn what_fails_later_keeps_its_list_and_shows_its_age() {
    let mut world = World::new();
    world.targets("t.json", &["10.0.0.1:1"]);
    world.edit("t.json", "");
    world.next().await.expect("sound");
    let mut watch = world.board.watch();
    fs::remove_file(world.path("t.json")).expect("removes");
    let failed = |sources: &BTreeMap<SourceId, SourceState>| {
        sources.values().any(|state| state.error.is_some())
    };
    let failed = tokio::time::timeout(PATIENCE, watch.wait_for(failed)).await;
    drop(failed.expect("in time").expect("it lives"));
    let sources = world.board.sources();
    let state = sources.values().next().expect("one");
    assert_eq!(
        (state.endpoints.len(), &state.services[..]),
        (1, &["greeter".to_owned()][..])
    );
    assert!(state.told_at.is_some());
    assert!(
        world.living.next().now_or_never().is_none(),
        "nothing changes"
    );
}

#[tokio::test]
async fn an_edit_waits_for_the_sources_that_are_new_in_it() {
    let mut world = World::new();
    world.targets("a.json", &["10.0.0.1:1"]);
    world.targets("b.json", &["10.0.0.2:1"]);
    world.edit("a.json", "");
    world.next().await.expect("sound");
    world.edit("b.json", "");
    assert_eq!(
        addresses(&world.next().await.expect("sound")),
        ["10.0.0.2:1"]
    );
    let sources = world.board.sources();
    assert_eq!(sources.len(), 1, "the old one is not asked any more");
    assert!(sources.keys().all(|id| id.locator.ends_with("b.json")));
}

#[tokio::test]
async fn under_a_refused_edit_the_endpoints_of_the_last_good_one_go_on() {
    let mut world = World::new();
    world.targets("t.json", &["10.0.0.1:1"]);
    world.edit("t.json", "");
    let store = Store::new();
    store.apply(world.next().await).expect("sound");
    world.edit(
        "other.json",
        "resources:\n  - \"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster\n    name: hole\n    type: EDS\n    eds_cluster_config: {eds_config: {ads: {}}}\n",
    );
    store.apply(world.next().await).expect_err("a hole");

    world.targets("t.json", &["10.0.0.2:1"]);
    let refreshed = world.next().await.expect("sound");
    assert_eq!(addresses(&refreshed), ["10.0.0.2:1"]);
    store.apply(Ok(refreshed)).expect("sound");
    assert!(store.report().refusal.is_some(), "the text is still wrong");
}
