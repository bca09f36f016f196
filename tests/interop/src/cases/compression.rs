//! Messages that are compressed, each or none, as both ends are asked to.

use futures_util::stream;
use tonic::{Code, Request};

use super::streaming::sizes;
use super::{Stage, check_large, failed, large_request, status_of, wanted, zeros};
use crate::framed::{Came, Compressed};
use crate::testing::{
    BoolValue, ResponseParameters, SimpleRequest, StreamingInputCallRequest,
    StreamingOutputCallRequest,
};

fn yes(value: bool) -> Option<BoolValue> {
    Some(BoolValue { value })
}

fn sent<T>(message: T, compressed: &[bool]) -> Request<T> {
    let mut request = Request::new(message);
    request
        .extensions_mut()
        .insert(Compressed(compressed.into()));
    request
}

fn came<T>(response: &tonic::Response<T>) -> Came {
    response
        .extensions()
        .get::<Came>()
        .cloned()
        .unwrap_or_default()
}

pub(super) async fn client_unary(stage: &Stage) -> Result<(), String> {
    let expecting = |compressed| SimpleRequest {
        expect_compressed: yes(compressed),
        ..large_request()
    };
    let probe = stage
        .client()
        .unary_call(sent(expecting(true), &[false]))
        .await;
    wanted("probe", status_of(probe)?.code(), Code::InvalidArgument)?;
    for compressed in [true, false] {
        let request = sent(expecting(compressed), &[compressed]);
        let answer = stage.client().unary_call(request).await;
        check_large(answer.map_err(failed)?.get_ref())?;
    }
    Ok(())
}

pub(super) async fn server_unary(stage: &Stage) -> Result<(), String> {
    for compressed in [true, false] {
        let request = SimpleRequest {
            response_compressed: yes(compressed),
            ..large_request()
        };
        let answer = stage.client().unary_call(request).await.map_err(failed)?;
        wanted("compressed", came(&answer).compressed(), vec![compressed])?;
        check_large(answer.get_ref())?;
    }
    Ok(())
}

pub(super) async fn client_streaming(stage: &Stage) -> Result<(), String> {
    let expecting = |compressed, size| StreamingInputCallRequest {
        expect_compressed: yes(compressed),
        payload: zeros(size),
    };
    let probe = sent(stream::iter([expecting(true, 27182)]), &[false]);
    let probe = stage.client().streaming_input_call(probe).await;
    wanted("probe", status_of(probe)?.code(), Code::InvalidArgument)?;
    let both = stream::iter([expecting(true, 27182), expecting(false, 45904)]);
    let answer = stage
        .client()
        .streaming_input_call(sent(both, &[true, false]))
        .await;
    let size = answer.map_err(failed)?.into_inner().aggregated_payload_size;
    wanted("bytes received", size, 73_086)
}

pub(super) async fn server_streaming(stage: &Stage) -> Result<(), String> {
    let answer = |compressed, size| ResponseParameters {
        size,
        compressed: yes(compressed),
        ..ResponseParameters::default()
    };
    let request = StreamingOutputCallRequest {
        response_parameters: vec![answer(true, 31415), answer(false, 92653)],
        ..StreamingOutputCallRequest::default()
    };
    let answers = stage.client().streaming_output_call(request).await;
    let answers = answers.map_err(failed)?;
    let came = came(&answers);
    wanted(
        "sizes",
        sizes(&mut answers.into_inner()).await?,
        vec![31415, 92653],
    )?;
    wanted("compressed", came.compressed(), vec![true, false])
}
