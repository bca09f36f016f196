//! Calls by hand over the h2 crate: what remains is what every gRPC client over it has to pay.

use anyhow::{Context as _, Result, ensure};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use prost::Message as _;
use tokio::net::TcpStream;

use crate::echo::Message;

/// A connection to one server.
#[derive(Clone)]
pub struct Sender {
    requests: SendRequest<Bytes>,
    uri: http::Uri,
}

impl Sender {
    /// Connects to `host:port`.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn connect(server: &str) -> Result<Self> {
        let socket = TcpStream::connect(server).await?;
        socket.set_nodelay(true)?;
        let (requests, connection) = h2::client::handshake(socket).await?;
        tokio::spawn(async move {
            // Ends with the process; calls see what went wrong.
            let _ = connection.await;
        });
        let uri = format!("http://{server}/bench.Echo/Unary").parse()?;
        Ok(Self { requests, uri })
    }

    /// A call: one HEADERS, one DATA, and whatever comes back.
    ///
    /// # Errors
    /// The call failed.
    pub async fn call(&mut self, payload: Bytes) -> Result<usize> {
        let request = http::Request::post(self.uri.clone())
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        std::future::poll_fn(|cx| self.requests.poll_ready(cx)).await?;
        let (response, mut stream) = self.requests.send_request(request, false)?;
        stream.send_data(frame(payload)?, true)?;
        let mut body = response.await?.into_body();
        let mut answer = BytesMut::new();
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            answer.extend_from_slice(&data);
        }
        let trailers = body.trailers().await?.context("no trailers")?;
        let status = trailers.get("grpc-status").context("no status")?;
        ensure!(status == "0", "{trailers:?}");
        ensure!(answer.len() >= 5, "half a frame");
        answer.advance(5);
        Ok(Message::decode(answer)?.payload.len())
    }
}

/// gRPC's frame: not compressed, the length, the message.
fn frame(payload: Bytes) -> Result<Bytes> {
    let message = Message { payload };
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(5 + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length)?);
    message.encode(&mut frame)?;
    Ok(frame.freeze())
}
