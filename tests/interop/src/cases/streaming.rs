//! Messages one after the other, in one direction or in both.

use futures_util::stream;
use tokio::sync::mpsc;
use tonic::Streaming;

use super::{Stage, failed, wanted, zeros};
use crate::testing::{
    ResponseParameters, StreamingInputCallRequest, StreamingOutputCallRequest,
    StreamingOutputCallResponse,
};

const REQUESTS: [usize; 4] = [27182, 8, 1828, 45904];
const RESPONSES: [i32; 4] = [31415, 9, 2653, 58979];

pub(super) fn answer_of(size: i32) -> ResponseParameters {
    ResponseParameters {
        size,
        ..ResponseParameters::default()
    }
}

pub(super) fn exchange(request: usize, response: i32) -> StreamingOutputCallRequest {
    StreamingOutputCallRequest {
        response_parameters: vec![answer_of(response)],
        payload: zeros(request),
        ..StreamingOutputCallRequest::default()
    }
}

pub(super) fn size_of(answer: &StreamingOutputCallResponse) -> i32 {
    let size = answer
        .payload
        .as_ref()
        .map_or(0, |payload| payload.body.len());
    i32::try_from(size).unwrap_or(i32::MAX)
}

pub(super) async fn sizes(
    answers: &mut Streaming<StreamingOutputCallResponse>,
) -> Result<Vec<i32>, String> {
    let mut sizes = Vec::new();
    while let Some(answer) = answers.message().await.map_err(failed)? {
        sizes.push(size_of(&answer));
    }
    Ok(sizes)
}

pub(super) async fn client(stage: &Stage) -> Result<(), String> {
    let requests = REQUESTS.map(|size| StreamingInputCallRequest {
        payload: zeros(size),
        ..StreamingInputCallRequest::default()
    });
    let answer = stage
        .client()
        .streaming_input_call(stream::iter(requests))
        .await;
    let size = answer.map_err(failed)?.into_inner().aggregated_payload_size;
    wanted("bytes received", size, 74_922)
}

pub(super) async fn server(stage: &Stage) -> Result<(), String> {
    let request = StreamingOutputCallRequest {
        response_parameters: RESPONSES.map(answer_of).into(),
        ..StreamingOutputCallRequest::default()
    };
    let answers = stage.client().streaming_output_call(request).await;
    let found = sizes(&mut answers.map_err(failed)?.into_inner()).await?;
    wanted("sizes", found, RESPONSES.into())
}

/// Requests that wait for their answers.
pub(super) struct Conversation {
    pub(super) say: mpsc::Sender<StreamingOutputCallRequest>,
    pub(super) heard: Streaming<StreamingOutputCallResponse>,
}

impl Conversation {
    /// The first request goes before the server has to answer at all.
    pub(super) async fn begin(
        stage: &Stage,
        first: StreamingOutputCallRequest,
    ) -> Result<Self, String> {
        let (say, requests) = mpsc::channel(1);
        // There is room for one.
        let _ = say.send(first).await;
        let requests = stream::unfold(requests, async |mut requests| {
            Some((requests.recv().await?, requests))
        });
        let answers = stage.client().full_duplex_call(requests).await;
        Ok(Self {
            say,
            heard: answers.map_err(failed)?.into_inner(),
        })
    }

    pub(super) async fn hear(&mut self) -> Result<StreamingOutputCallResponse, String> {
        let answer = self.heard.message().await.map_err(failed)?;
        answer.ok_or_else(|| "the server has said all".to_owned())
    }
}

pub(super) async fn ping_pong(stage: &Stage) -> Result<(), String> {
    let mut turns = REQUESTS.into_iter().zip(RESPONSES);
    let (request, response) = turns.next().unwrap_or_default();
    let mut talk = Conversation::begin(stage, exchange(request, response)).await?;
    wanted("size", size_of(&talk.hear().await?), response)?;
    for (request, response) in turns {
        let sent = talk.say.send(exchange(request, response)).await;
        sent.map_err(|_| "the call has ended".to_owned())?;
        wanted("size", size_of(&talk.hear().await?), response)?;
    }
    let Conversation { say, mut heard } = talk;
    drop(say);
    wanted("further sizes", sizes(&mut heard).await?, vec![])
}

pub(super) async fn half_duplex(stage: &Stage) -> Result<(), String> {
    let turns = REQUESTS.into_iter().zip(RESPONSES);
    let requests: Vec<_> = turns
        .map(|(request, response)| exchange(request, response))
        .collect();
    let answers = stage
        .client()
        .half_duplex_call(stream::iter(requests))
        .await;
    let found = sizes(&mut answers.map_err(failed)?.into_inner()).await?;
    wanted("sizes", found, RESPONSES.into())
}

pub(super) async fn empty(stage: &Stage) -> Result<(), String> {
    let answers = stage.client().full_duplex_call(stream::empty()).await;
    let found = sizes(&mut answers.map_err(failed)?.into_inner()).await?;
    wanted("sizes", found, vec![])
}
