//! Load reports, with answers and beside calls.

use std::time::Duration;

use prost::Message as _;
use sidestep::orca::TRAILER;
use sidestep_proto::wire::orca::{OrcaLoadReport, OrcaLoadReportRequest};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataMap;
use tonic::{Request, Streaming};
use tonic_prost::ProstCodec;

use super::streaming::{Conversation, answer_of};
use super::{Stage, failed, wanted};
use crate::testing::{SimpleRequest, StreamingOutputCallRequest, TestOrcaReport};

fn asked(cpu: f64, memory: f64, util: f64) -> TestOrcaReport {
    TestOrcaReport {
        cpu_utilization: cpu,
        memory_utilization: memory,
        utilization: [("util".to_owned(), util)].into(),
        ..TestOrcaReport::default()
    }
}

fn report_of(asked: &TestOrcaReport) -> OrcaLoadReport {
    OrcaLoadReport {
        cpu_utilization: asked.cpu_utilization,
        mem_utilization: asked.memory_utilization,
        request_cost: asked.request_cost.clone().into_iter().collect(),
        utilization: asked.utilization.clone().into_iter().collect(),
        ..OrcaLoadReport::default()
    }
}

fn report_in(metadata: &MetadataMap) -> Result<OrcaLoadReport, String> {
    let value = metadata
        .get_bin(TRAILER)
        .ok_or_else(|| format!("no {TRAILER}"))?;
    let bytes = value.to_bytes().map_err(|error| error.to_string())?;
    OrcaLoadReport::decode(bytes).map_err(|error| error.to_string())
}

pub(super) async fn per_rpc(stage: &Stage) -> Result<(), String> {
    let mut asked = asked(0.8210, 0.5847, 0.30499);
    asked.request_cost = [("cost".to_owned(), 3456.32)].into();
    let request = SimpleRequest {
        orca_per_query_report: Some(asked.clone()),
        ..SimpleRequest::default()
    };
    let answer = stage.client().unary_call(request).await.map_err(failed)?;
    wanted("report", report_in(answer.metadata())?, report_of(&asked))
}

/// The stream of the one server, or of whichever answers.
async fn reports(stage: &Stage) -> Result<Streaming<OrcaLoadReport>, String> {
    let interval = prost_types::Duration {
        seconds: 1,
        nanos: 0,
    };
    let request = OrcaLoadReportRequest {
        report_interval: Some(interval),
        ..OrcaLoadReportRequest::default()
    };
    let path = PathAndQuery::from_static("/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics");
    let mut grpc = Grpc::new(stage.line.clone());
    let codec = ProstCodec::<OrcaLoadReportRequest, OrcaLoadReport>::default();
    let answers = grpc
        .server_streaming(Request::new(request), path, codec)
        .await;
    Ok(answers.map_err(failed)?.into_inner())
}

async fn wait_for(
    reports: &mut Streaming<OrcaLoadReport>,
    wanted: &TestOrcaReport,
) -> Result<(), String> {
    let wanted = report_of(wanted);
    let mut last = None;
    let came = async {
        while let Some(report) = reports.message().await.map_err(failed)? {
            if report == wanted {
                return Ok(());
            }
            last = Some(report);
        }
        Err("the server has ended its reports".to_owned())
    };
    let came = tokio::time::timeout(Duration::from_secs(10), came).await;
    came.unwrap_or_else(|_| Err(format!("the last report: {last:?}, not {wanted:?}")))
}

pub(super) async fn out_of_band(stage: &Stage) -> Result<(), String> {
    let (first, second) = (asked(0.8210, 0.5847, 0.30499), asked(0.29309, 0.2, 0.2039));
    let request = |report: &TestOrcaReport| StreamingOutputCallRequest {
        response_parameters: vec![answer_of(1)],
        orca_oob_report: Some(report.clone()),
        ..StreamingOutputCallRequest::default()
    };
    let mut talk = Conversation::begin(stage, request(&first)).await?;
    talk.hear().await?;
    let mut reports = reports(stage).await?;
    wait_for(&mut reports, &first).await?;
    let sent = talk.say.send(request(&second)).await;
    sent.map_err(|_| "the call has ended".to_owned())?;
    talk.hear().await?;
    wait_for(&mut reports, &second).await
}
