//! The HTTP side: connections, methods, paths.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderName};
use http::uri::Authority;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::task::JoinSet;
use tonic::body::Body;

use super::page::{Context, Query, Reply};
use super::{PAGES, csds};
use crate::server::{Acceptor, ServerStats, Sockets};
use crate::subchannel::Io;

/// More connections than this are closed at once: whoever asks is a person, a probe or Prometheus.
const CONNECTIONS: usize = 64;

/// Serves for ever. Dropped, it closes all connections.
pub(super) async fn serve(sockets: Sockets, context: Arc<Context>, checks_host: bool) {
    let mut acceptor = Acceptor::new(sockets, Arc::new(ServerStats::default()));
    let mut connections = JoinSet::new();
    loop {
        let raw = acceptor.next().await;
        while connections.try_join_next().is_some() {}
        if connections.len() < CONNECTIONS {
            connections.spawn(connection(raw.io, context.clone(), checks_host));
        }
    }
}

async fn connection(io: Box<dyn Io>, context: Arc<Context>, checks_host: bool) {
    let service = service_fn(move |request| {
        let context = context.clone();
        async move { Ok::<_, Infallible>(answer(request, context, checks_host).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder.http2().timer(TokioTimer::new());
    // A peer that breaks off or speaks something else has seen so itself.
    let _ = builder.serve_connection(TokioIo::new(io), service).await;
}

async fn answer(
    request: Request<Incoming>,
    context: Arc<Context>,
    checks_host: bool,
) -> Response<Body> {
    if checks_host && let Some(host) = foreign_host(&request) {
        let text = format!(
            "{host:?} is not a name of this machine: a web page may have been made to ask. Use \
             localhost or an IP address"
        );
        return respond(Reply::error(StatusCode::FORBIDDEN, text), false);
    }
    if csds::is_for(&request) {
        return csds::answer(context, request.map(Body::new)).await;
    }
    let without_body = request.method() == Method::HEAD;
    if request.method() != Method::GET && !without_body {
        let text = "this endpoint changes nothing: only GET and HEAD are answered";
        let mut response = respond(Reply::error(StatusCode::METHOD_NOT_ALLOWED, text), false);
        let allowed = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(ALLOW, allowed);
        return response;
    }
    let path = request.uri().path();
    let mut query = Query::parse(request.uri().query());
    query.wants_html = accepts_html(&request);
    let reply = match PAGES.iter().find(|page| page.path == path) {
        Some(page) => (page.answer)(context, query).await,
        None => {
            let text = format!("no such page: {path:?}; /help lists all");
            Reply::error(StatusCode::NOT_FOUND, text)
        }
    };
    respond(reply, without_body)
}

/// The name by which the endpoint was asked for, if that is none of this machine's. A web page
/// whose name was made to point here (DNS rebinding) would otherwise read everything.
fn foreign_host<B>(request: &Request<B>) -> Option<String> {
    let header = || request.headers().get(HOST)?.to_str().ok();
    let given = request.uri().authority().map(Authority::as_str);
    let given = given.or_else(header)?;
    let known = given.parse::<Authority>().is_ok_and(|authority| {
        let host = authority.host().trim_matches(['[', ']']);
        host == "localhost" || host.ends_with(".localhost") || host.parse::<IpAddr>().is_ok()
    });
    (!known && !given.is_empty()).then(|| given.to_owned())
}

fn accepts_html<B>(request: &Request<B>) -> bool {
    let accept = request.headers().get(http::header::ACCEPT);
    accept.is_some_and(|accept| accept.to_str().is_ok_and(|a| a.contains("text/html")))
}

fn respond(reply: Reply, without_body: bool) -> Response<Body> {
    let bytes = if without_body {
        Bytes::new()
    } else {
        reply.body.into()
    };
    let mut response = Response::new(Body::new(Full::new(bytes)));
    *response.status_mut() = reply.status;
    for (name, value) in [
        (CONTENT_TYPE, reply.content_type),
        (CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("x-content-type-options"), "nosniff"),
    ] {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_answered() {
        let asked = |host: &str| {
            let request = Request::get("/ready").header(HOST, host).body(());
            foreign_host(&request.unwrap())
        };
        for fine in ["localhost:9901", "127.0.0.1", "[::1]:1", "a.localhost", ""] {
            assert_eq!(asked(fine), None, "{fine}");
        }
        for foreign in [
            "evil.example",
            "localhost.evil.example:9901",
            "127.0.0.1.nip.io",
        ] {
            assert_eq!(asked(foreign).as_deref(), Some(foreign));
        }
        let none = Request::get("/ready").body(()).unwrap();
        assert_eq!(foreign_host(&none), None);
    }
}
