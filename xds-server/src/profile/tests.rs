use std::collections::BTreeSet;

use super::*;

#[test]
fn the_table_says_something_of_every_kind() {
    assert!(rows().len() >= 30, "{}", rows().len());
    let mut ids = BTreeSet::new();
    for row in rows() {
        assert!(ids.insert(row["id"].as_str().unwrap()), "{row}");
        assert!(!row["select"].as_array().unwrap().is_empty(), "{row}");
        assert!(
            row["about"].is_string() && row["feature"].is_string(),
            "{row}"
        );
        for profile in Profile::ALL {
            let support = support(&row["clients"][profile.name()]);
            assert_ne!(
                support,
                Support::Instead(String::new()),
                "{profile} in {row}"
            );
        }
    }
    for profile in Profile::ALL {
        assert!(!profile.described_version().is_empty(), "{profile}");
        assert_eq!(Profile::parse(profile.name()), Some(profile));
    }
    assert_eq!(Profile::parse("grpc"), None);
}

const MESH: &str = r#"
mesh: v1
services:
  greeter:
    endpoints:
      static:
        - {address: "127.0.0.1:1"}
    timeout: 2s
    balance: {policy: least_request, subset_size: 2}
    outlier_detection: {consecutive_failures: 5}
resources:
  - "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
    name: c
    healthChecks: []
    outlier_detection: {consecutive_5xx: 3}
  - "@type": type.googleapis.com/envoy.config.route.v3.RouteConfiguration
    name: r
    virtual_hosts:
      - routes:
          - route: {cluster: c, timeout: 3s}
"#;

fn found(profile: Profile) -> Vec<(&'static str, u32, Support)> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mesh.yaml");
    std::fs::write(&file, MESH).unwrap();
    let found = findings(&[file], profile).unwrap();
    let brief = |finding: Finding| (finding.id, finding.place.line, finding.support);
    found.into_iter().map(brief).collect()
}

#[test]
fn what_a_client_does_not_do_is_found_where_it_is_written() {
    let node = found(Profile::GrpcNode);
    let brief: Vec<_> = node.iter().map(|(id, line, _)| (*id, *line)).collect();
    assert_eq!(
        brief,
        [
            ("timeout", 8),
            ("least-request", 9),
            ("random-subset", 9),
            ("outlier-detection", 10),
            ("outlier-consecutive", 10),
            ("health-checks", 14),
            ("outlier-detection", 15),
            ("outlier-consecutive", 15),
            ("route-timeout", 20),
        ]
    );
    assert_eq!(node[0].2, Support::Since("1.4".to_owned()));
    assert!(matches!(&node[1].2, Support::Instead(text) if text.contains("refused")));
}

#[test]
fn kinds_differ() {
    let support = |profile| {
        let all = found(profile);
        all.into_iter()
            .find(|(id, ..)| *id == "least-request")
            .map(|(_, _, s)| s)
    };
    assert_eq!(
        support(Profile::GrpcGo),
        Some(Support::Since("1.73".to_owned()))
    );
    assert!(matches!(
        support(Profile::GrpcPython),
        Some(Support::Instead(_))
    ));
    let envoy = found(Profile::Envoy);
    let ids: Vec<_> = envoy.iter().map(|(id, ..)| *id).collect();
    assert_eq!(ids, ["random-subset"], "all else is Envoy's");
}

#[test]
fn a_file_that_is_no_yaml_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mesh.yaml");
    std::fs::write(&file, "a: [").unwrap();
    assert!(findings(&[file], Profile::GrpcGo).is_err());
}

#[test]
fn the_page_shows_the_table() {
    let page = include_str!("../../../docs/profiles.md");
    for row in rows() {
        let cells = Profile::ALL.map(|profile| match support(&row["clients"][profile.name()]) {
            Support::Since(version) if version == "any" => "yes".to_owned(),
            Support::Since(version) => version,
            Support::Switch { flag, since, .. } => format!("{since} with `{flag}=true`"),
            Support::Instead(_) => "–".to_owned(),
        });
        let line = format!(
            "| {} | {} | ",
            row["about"].as_str().unwrap(),
            cells.join(" | ")
        );
        assert!(page.contains(&line), "{line}");
    }
}
