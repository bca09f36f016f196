//! How calls end, and what is said beside their messages.

use std::time::Duration;

use futures_util::{FutureExt as _, stream};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Request};

use super::streaming::{Conversation, exchange, size_of, sizes};
use super::{
    Stage, check_large, failed, large_request, status_of, unary, wanted, with_deadline, zeros,
};
use crate::testing::unimplemented_service_client::UnimplementedServiceClient;
use crate::testing::{
    EchoStatus, Empty, SimpleRequest, StreamingInputCallRequest, StreamingOutputCallRequest,
};
use crate::wire::{ECHO_INITIAL, ECHO_TRAILING};

const INITIAL: &str = "test_initial_metadata_value";
const TRAILING: [u8; 3] = [0xab; 3];

fn echoed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert(ECHO_INITIAL, MetadataValue::from_static(INITIAL));
    metadata.insert_bin(ECHO_TRAILING, MetadataValue::from_bytes(&TRAILING));
    request
}

fn check_initial(metadata: &MetadataMap) -> Result<(), String> {
    let found = metadata
        .get(ECHO_INITIAL)
        .and_then(|value| value.to_str().ok());
    wanted("initial metadata", found, Some(INITIAL))
}

fn check_trailing(metadata: &MetadataMap) -> Result<(), String> {
    let found = metadata.get_bin(ECHO_TRAILING);
    let found = found.and_then(|value| value.to_bytes().ok());
    wanted("trailing metadata", found.as_deref(), Some(&TRAILING[..]))
}

pub(super) async fn custom_metadata(stage: &Stage) -> Result<(), String> {
    let answer = stage.client().unary_call(echoed(large_request())).await;
    let answer = answer.map_err(failed)?;
    check_large(answer.get_ref())?;
    // Of a unary answer, tonic shows initial and trailing metadata as one.
    check_initial(answer.metadata())?;
    check_trailing(answer.metadata())?;

    let requests = stream::iter([exchange(271_828, 314_159)]);
    let answers = stage.client().full_duplex_call(echoed(requests)).await;
    let answers = answers.map_err(failed)?;
    check_initial(answers.metadata())?;
    let mut answers = answers.into_inner();
    wanted("sizes", sizes(&mut answers).await?, vec![314_159])?;
    let trailers = answers.trailers().await.map_err(failed)?;
    check_trailing(&trailers.unwrap_or_default())
}

/// Asks for a status by a unary call, or by both kinds.
async fn status(stage: &Stage, message: &str, both: bool) -> Result<(), String> {
    let asked = EchoStatus {
        code: Code::Unknown.into(),
        message: message.to_owned(),
    };
    let unary = SimpleRequest {
        response_status: Some(asked.clone()),
        ..SimpleRequest::default()
    };
    let mut found = vec![status_of(stage.client().unary_call(unary).await)?];
    if both {
        let request = StreamingOutputCallRequest {
            response_status: Some(asked),
            ..StreamingOutputCallRequest::default()
        };
        let answers = stage
            .client()
            .full_duplex_call(stream::iter([request]))
            .await;
        found.push(match answers {
            Err(status) => status,
            Ok(answers) => status_of(answers.into_inner().message().await)?,
        });
    }
    for status in found {
        wanted(
            "status",
            (status.code(), status.message()),
            (Code::Unknown, message),
        )?;
    }
    Ok(())
}

pub(super) async fn status_code_and_message(stage: &Stage) -> Result<(), String> {
    status(stage, "test status message", true).await
}

pub(super) async fn special_status_message(stage: &Stage) -> Result<(), String> {
    let message = "\t\ntest with whitespace\r\nand Unicode BMP \u{263a} and non-BMP \u{1f608}\t\n";
    status(stage, message, false).await
}

pub(super) async fn unimplemented_method(stage: &Stage) -> Result<(), String> {
    let outcome = stage.client().unimplemented_call(Empty {}).await;
    wanted("status", status_of(outcome)?.code(), Code::Unimplemented)
}

pub(super) async fn unimplemented_service(stage: &Stage) -> Result<(), String> {
    let mut client = UnimplementedServiceClient::new(stage.line.clone());
    let outcome = client.unimplemented_call(Empty {}).await;
    wanted("status", status_of(outcome)?.code(), Code::Unimplemented)
}

/// What is dropped has ended as `CANCELLED`, once, and the channel goes on.
async fn check_cancelled(stage: &Stage, before: u64) -> Result<(), String> {
    wanted(
        "cancelled calls",
        stage.ended_with(Code::Cancelled),
        before + 1,
    )?;
    unary::empty(stage).await
}

pub(super) async fn cancel_after_begin(stage: &Stage) -> Result<(), String> {
    // Connected, so that the call begins when it is first polled.
    unary::empty(stage).await?;
    let before = stage.ended_with(Code::Cancelled);
    let mut client = stage.client();
    let requests = stream::pending::<StreamingInputCallRequest>();
    let mut call = Box::pin(client.streaming_input_call(requests));
    if call.as_mut().now_or_never().is_some() {
        return Err("the call ended before it was cancelled".to_owned());
    }
    drop(call);
    check_cancelled(stage, before).await
}

pub(super) async fn cancel_after_first_response(stage: &Stage) -> Result<(), String> {
    let before = stage.ended_with(Code::Cancelled);
    let mut talk = Conversation::begin(stage, exchange(27182, 31415)).await?;
    wanted("size", size_of(&talk.hear().await?), 31415)?;
    drop(talk);
    check_cancelled(stage, before).await
}

pub(super) async fn timeout_on_sleeping_server(stage: &Stage) -> Result<(), String> {
    let request = StreamingOutputCallRequest {
        payload: zeros(27182),
        ..StreamingOutputCallRequest::default()
    };
    // The request never ends, so the server has to wait for more.
    let requests = Box::pin(futures_util::StreamExt::chain(
        stream::iter([request]),
        stream::pending(),
    ));
    let request = with_deadline(requests, Duration::from_millis(1));
    let status = match stage.client().full_duplex_call(request).await {
        Err(status) => status,
        Ok(answers) => status_of(answers.into_inner().message().await)?,
    };
    wanted("status", status.code(), Code::DeadlineExceeded)
}
