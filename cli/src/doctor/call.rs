//! One real call, by the channel that services use.

use std::str::FromStr;

use http::uri::PathAndQuery;
use sidestep::{CallError, CallInfo, Mesh};
use sidestep_proto::bootstrap::Bootstrap;
use tonic::client::Grpc;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use super::{Group, PATIENCE, Report};

const GROUP: Group = Group::Call;

const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// What to call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// As channels take it: `xds:///greeter`, `127.0.0.1:50051`.
    pub target: String,
    /// `/package.Service/Method`, called with an empty message; `None`: the standard health check.
    pub method: Option<PathAndQuery>,
}

impl FromStr for Target {
    type Err = String;

    /// `greeter`, `xds:///greeter/hello.Greeter/SayHello`, `127.0.0.1:50051/hello.Greeter/SayHello`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = match text.split_once(":///") {
            Some((scheme, rest)) => (format!("{scheme}:///"), rest),
            None => (String::new(), text),
        };
        let (name, method) = match rest.split_once('/') {
            Some((name, method)) => (name, Some(method)),
            None => (rest, None),
        };
        if name.is_empty() {
            return Err(format!(
                "{text:?}: expected TARGET or TARGET/SERVICE/METHOD"
            ));
        }
        let scheme = match scheme.as_str() {
            // A bare name is a service of the mesh; an address has a port.
            "" if !name.contains(':') => "xds:///".to_owned(),
            _ => scheme,
        };
        let method = method.map(|method| {
            let path = format!("/{method}");
            let two = method.split('/').filter(|part| !part.is_empty()).count() == 2;
            match path.parse::<PathAndQuery>() {
                Ok(path) if two => Ok(path),
                _ => Err(format!("{method:?}: expected package.Service/Method")),
            }
        });
        Ok(Self {
            target: format!("{scheme}{name}"),
            method: method.transpose()?,
        })
    }
}

impl Target {
    /// The name that the control plane resolves, if it does.
    #[must_use]
    pub fn xds_name(&self) -> Option<&str> {
        self.target.strip_prefix("xds:///")
    }
}

/// The answer of `grpc.health.v1.Health/Check`.
#[derive(Clone, PartialEq, prost::Message)]
struct Health {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `SERVING` of the standard health protocol.
const SERVING: i32 = 1;

pub(super) async fn check(bootstrap: &Bootstrap, target: &Target, report: &mut Report) {
    let name = &target.target;
    let built = Mesh::builder().bootstrap(bootstrap.clone()).build();
    let channel = built.and_then(|mesh| mesh.channel(name));
    let channel = match channel {
        Ok(channel) => channel,
        Err(error) => {
            let hint = "see the groups above, or correct --call";
            return report.fail(GROUP, format!("{name}: {error}"), hint);
        }
    };
    let mut grpc = Grpc::new(channel);
    match &target.method {
        None => {
            let mut request = tonic::Request::new(());
            request.set_timeout(2 * PATIENCE);
            let path = PathAndQuery::from_static(HEALTH);
            let answer = grpc.unary(request, path, ProstCodec::<(), Health>::default());
            match answer.await {
                Ok(response) => healthy(name, &response, report),
                Err(status) if is_unimplemented(&status) => report.good(
                    GROUP,
                    format!("{name}: the server was reached; it has no health service"),
                ),
                Err(status) => failed(name, &status, report),
            }
        }
        Some(method) => {
            let mut request = tonic::Request::new(());
            request.set_timeout(2 * PATIENCE);
            let answer = grpc.unary(request, method.clone(), ProstCodec::<(), ()>::default());
            match answer.await {
                Ok(response) => report.good(
                    GROUP,
                    format!(
                        "{name}: {method} answered OK{}",
                        from(response.extensions())
                    ),
                ),
                Err(status) => failed(name, &status, report),
            }
        }
    }
}

fn healthy(name: &str, response: &tonic::Response<Health>, report: &mut Report) {
    let from = from(response.extensions());
    match response.get_ref().status {
        SERVING => report.good(GROUP, format!("{name}: serving{from}")),
        other => report.warn(
            GROUP,
            format!("{name}: the server says that it does not serve (status {other}){from}"),
            "ask that service's log why",
        ),
    }
}

fn is_unimplemented(status: &Status) -> bool {
    status.code() == Code::Unimplemented && !CallError::made_here(status)
}

/// Which endpoint it was.
fn from(extensions: &http::Extensions) -> String {
    let info = extensions.get::<CallInfo>();
    info.map_or_else(String::new, |info| format!(", {}", info.endpoint))
}

fn failed(name: &str, status: &Status, report: &mut Report) {
    let says = format!("{name}: {}: {}", status.code(), status.message());
    let hint = match CallError::from_status(status) {
        None => {
            return report.warn(
                GROUP,
                format!(
                    "{name}: the server was reached and answered {:?}: {}",
                    status.code(),
                    status.message()
                ),
                "the way there is in order; the rest is between the call and that server",
            );
        }
        Some("config") => {
            "the control plane has no such name, or does not answer: see the group subscription"
        }
        Some("no-route") => "no rule takes this method: `sidestep explain` shows the rules",
        Some("no-endpoint") => {
            "no server of the cluster can be reached: is one running, does its certificate carry \
             the service's SPIFFE id, does this process have one?"
        }
        Some("deadline") => "nothing answered in 10 s: is the server hanging?",
        Some("circuit-open" | "dropped") => {
            "limits of the mesh file, or its drop_overloads, refuse it"
        }
        Some(_) => "the connection broke: see that server's log",
    };
    report.fail(GROUP, says, hint);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_with_and_without_a_method() {
        for (text, target, method) in [
            ("greeter", "xds:///greeter", None),
            ("xds:///greeter", "xds:///greeter", None),
            ("greeter/a.B/C", "xds:///greeter", Some("/a.B/C")),
            ("xds:///greeter/a.B/C", "xds:///greeter", Some("/a.B/C")),
            ("127.0.0.1:50051", "127.0.0.1:50051", None),
            ("dns:///h:1/a.B/C", "dns:///h:1", Some("/a.B/C")),
        ] {
            let parsed: Target = text.parse().expect("a target");
            assert_eq!(parsed.target, target);
            assert_eq!(parsed.method.as_ref().map(PathAndQuery::as_str), method);
        }
        for text in ["", "xds:///", "greeter/method", "greeter/a/b/c"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
