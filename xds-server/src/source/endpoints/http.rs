//! One GET over plain HTTP/1.1, as small as Prometheus' `http_sd` needs it.

use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::LookError;

/// Longest answer, in bytes: the targets of 100 000 endpoints and more.
const LARGEST: usize = 32 << 20;

/// The body of the answer, which must have status 200.
pub(super) async fn get(url: &str, uri: &Uri) -> Result<Bytes, LookError> {
    let unreachable = |reason: String| LookError::Unreachable {
        url: url.to_owned(),
        reason,
    };
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let socket = TcpStream::connect((host, uri.port_u16().unwrap_or(80))).await;
    let socket = socket.map_err(|error| unreachable(error.to_string()))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket))
        .await
        .map_err(|error| unreachable(chain(&error)))?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path)
        .header(header::HOST, authority)
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, "sidestep")
        .header("x-prometheus-refresh-interval-seconds", "10")
        .body(Empty::<Bytes>::new())
        .map_err(|error| unreachable(error.to_string()))?;
    let exchange = async {
        let response = sender.send_request(request).await;
        let response = response.map_err(|error| unreachable(chain(&error)))?;
        let status = response.status().as_u16();
        if status != 200 {
            let url = url.to_owned();
            return Err(LookError::BadStatus { url, status });
        }
        let body = Limited::new(response.into_body(), LARGEST).collect().await;
        let body = body.map_err(|error| unreachable(error.to_string()))?;
        Ok(body.to_bytes())
    };
    // The connection moves only while somebody polls it, and ends with this future.
    let mut connection = std::pin::pin!(connection);
    let mut exchange = std::pin::pin!(exchange);
    let mut open = true;
    loop {
        tokio::select! {
            biased;
            answer = &mut exchange => return answer,
            _ = &mut connection, if open => open = false,
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
