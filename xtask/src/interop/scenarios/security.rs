//! Who is believed to be whom.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::interop::cast::Tier;
use crate::interop::casts::EVERYBODY;
use crate::interop::feature::Feature;
use crate::interop::management::Management;
use crate::interop::mesh::{self, Certificates, TRUST_DOMAIN};
use crate::interop::resources::{
    all_to, cluster, endpoints, kind, server_listener, service, transport_socket, with,
};
use crate::interop::scenario::Scenario;
use crate::interop::stage::{Backend, Stage};
use crate::interop::traffic::answered_by;

pub(in crate::interop) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "tls",
        features: &[Feature::Tls],
        about: "the server alone shows a certificate",
        casts: EVERYBODY,
        helpers: &[],
        tier: Tier::Quick,
        play: tls,
    },
    Scenario {
        name: "wrong-server",
        features: &[Feature::WrongServer],
        about: "a server with another name than the cluster demands is not called, until the cluster demands its name",
        casts: EVERYBODY,
        helpers: &[],
        tier: Tier::Quick,
        play: wrong_server,
    },
    Scenario {
        name: "no-client-certificate",
        features: &[Feature::NoClientCertificate],
        about: "a client that shows no certificate cannot call a server that demands one; once it shows one, it can",
        casts: EVERYBODY,
        helpers: &[],
        tier: Tier::Quick,
        play: no_client_certificate,
    },
];

/// A meshed server with these demands, and a client that waits for its cluster.
struct Secured {
    management: Management,
    server: Backend,
    /// The client's.
    bootstrap: PathBuf,
}

impl Secured {
    fn start(stage: &Stage<'_>, demands_certificate: bool) -> Result<Self> {
        let certificates = Certificates::new(stage.folder, TRUST_DOMAIN)?;
        let management = Management::start(stage, &[])?;
        let bootstrap = |service: &str| {
            let own = certificates.of(service)?;
            mesh::bootstrap(stage.folder, &management.address, service, Some(&own))
        };
        let server = stage.meshed_server("greeter-1", &bootstrap("greeter")?)?;
        let bootstrap = bootstrap("web")?;
        let secured = Self {
            management,
            server,
            bootstrap,
        };
        // The server's listener comes first: a client that finds no cluster would fail.
        let listener = secured.listener(demands_certificate);
        secured.management.replace(&[listener])?;
        secured.server.serves()?;
        Ok(secured)
    }

    fn listener(&self, demands_certificate: bool) -> Value {
        let mut common = json!({"tls_certificate_provider_instance": provider()});
        let mut tls = json!({
            "@type": kind("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
        });
        if demands_certificate {
            common["validation_context"] = json!({"ca_certificate_provider_instance": provider()});
            // grpc-node takes `false` for a demand, too.
            tls["require_client_certificate"] = true.into();
        }
        tls["common_tls_context"] = common;
        server_listener(&self.server.address, Some(&tls))
    }

    /// Has clients call the server if it is `name`, and show a certificate or not.
    fn serve(&self, demands_certificate: bool, name: &str, shows: bool) -> Result<()> {
        let name = format!("spiffe://{TRUST_DOMAIN}/sa/{name}");
        let mut common = json!({
            "validation_context": {
                "ca_certificate_provider_instance": provider(),
                "match_subject_alt_names": [{"exact": name}],
            },
        });
        if shows {
            common["tls_certificate_provider_instance"] = provider();
        }
        let tls = json!({
            "@type": kind("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"),
            "common_tls_context": common,
        });
        let cluster = with(
            cluster("one"),
            json!({"transport_socket": transport_socket(&tls)}),
        );
        let rest = vec![
            cluster,
            endpoints("one", &[&self.server.address]),
            self.listener(demands_certificate),
        ];
        let resources = [service(&[all_to("one")]), rest].concat();
        self.management.replace(&resources)
    }

    /// So many calls of the cast's client.
    fn calls(&self, stage: &Stage<'_>, flags: &[&str]) -> Result<Vec<Value>> {
        let always = ["--target=xds:///greeter", "--creds=xds"];
        let flags = [&always, flags].concat();
        let client = stage.client("client", &self.bootstrap, &flags)?;
        let events = client.run_to_end()?;
        Ok(events.into_iter().filter(|e| e["event"] == "rpc").collect())
    }

    /// Calls go through.
    fn answers(&self, stage: &Stage<'_>) -> Result<()> {
        let calls = self.calls(stage, &["--n=10", "--wait-for-ready"])?;
        answered_by(&calls, &["greeter-1"])
    }

    /// None does.
    fn is_unreachable(&self, stage: &Stage<'_>) -> Result<()> {
        let calls = self.calls(stage, &["--n=3", "--timeout-ms=5000"])?;
        ensure!(calls.len() == 3, "calls are missing: {calls:?}");
        for call in calls {
            ensure!(call["code"] == "UNAVAILABLE", "not refused: {call}");
        }
        Ok(())
    }
}

/// The certificates that a bootstrap of ours names.
fn provider() -> Value {
    json!({"instance_name": "default"})
}

fn tls(stage: &Stage<'_>) -> Result<()> {
    let secured = Secured::start(stage, false)?;
    secured.serve(false, "greeter", false)?;
    secured.answers(stage)
}

fn wrong_server(stage: &Stage<'_>) -> Result<()> {
    let secured = Secured::start(stage, true)?;
    secured.serve(true, "somebody-else", true)?;
    secured.is_unreachable(stage)?;
    secured.serve(true, "greeter", true)?;
    secured.answers(stage)
}

fn no_client_certificate(stage: &Stage<'_>) -> Result<()> {
    let secured = Secured::start(stage, true)?;
    secured.serve(true, "greeter", false)?;
    secured.is_unreachable(stage)?;
    secured.serve(true, "greeter", true)?;
    secured.answers(stage)
}
