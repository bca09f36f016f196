//! One message each way.

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::{Stage, check_large, failed, large_request, wanted, zeros};
use crate::framed::endpoint;
use crate::testing::{Empty, SimpleRequest};

pub(super) async fn empty(stage: &Stage) -> Result<(), String> {
    let answer = stage.client().empty_call(Empty {}).await.map_err(failed)?;
    wanted("answer", answer.into_inner(), Empty {})
}

pub(super) async fn large(stage: &Stage) -> Result<(), String> {
    let answer = stage.client().unary_call(large_request()).await;
    check_large(answer.map_err(failed)?.get_ref())
}

/// Two equal calls have equal answers. Without a proxy between them, the server sees to it.
pub(super) async fn cacheable(stage: &Stage) -> Result<(), String> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let stamp = now.unwrap_or_default().as_nanos().to_string();
    let request = SimpleRequest {
        payload: zeros(0).map(|mut payload| {
            payload.body = stamp.into_bytes();
            payload
        }),
        ..SimpleRequest::default()
    };
    let mut bodies = Vec::new();
    for _ in 0..2 {
        let mut request = tonic::Request::new(request.clone());
        let address = tonic::metadata::MetadataValue::from_static("1.2.3.4");
        request.metadata_mut().insert("x-user-ip", address);
        let answer = stage.client().cacheable_unary_call(request).await;
        bodies.push(answer.map_err(failed)?.into_inner().payload);
    }
    wanted("second answer", &bodies[1], &bodies[0])
}

pub(super) async fn concurrent_large(stage: &Stage) -> Result<(), String> {
    let n = stage.number("num_concurrent", 1000)?;
    let calls = stream::iter((0..n).map(|_| Ok(large(stage))));
    let at_once = usize::try_from(n).unwrap_or(usize::MAX);
    calls.try_buffer_unordered(at_once).try_collect().await
}

/// Whoever answers first answers always.
pub(super) async fn pick_first(stage: &Stage) -> Result<(), String> {
    let request = SimpleRequest {
        response_size: 1,
        payload: zeros(1),
        fill_server_id: true,
        ..SimpleRequest::default()
    };
    let ids = stream::iter(0..100).then(async |_| {
        let answer = stage.client().unary_call(request.clone()).await;
        let answer = answer.map_err(failed)?;
        let endpoint = endpoint(&answer).unwrap_or_default();
        Ok::<_, String>((answer.into_inner().server_id, endpoint))
    });
    let ids: Vec<_> = ids.try_collect().await?;
    let other = ids.iter().find(|id| **id != ids[0]);
    match other {
        None => Ok(()),
        Some(other) => Err(format!("{:?} answered, and {other:?} too", ids[0])),
    }
}
