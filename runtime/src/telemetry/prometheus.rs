//! The metrics as OpenMetrics text, under the names that OpenTelemetry's mapping gives them: dots
//! become underscores, the unit is a suffix, counters end in `_total`.
//!
//! ```text
//!   grpc.client.attempt.duration (s)  ->  grpc_client_attempt_duration_seconds_bucket{le="0.005",…}
//!   grpc.client.attempt.started       ->  grpc_client_attempt_started_total
//! ```

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::instruments::{ALL, Instrument, Kind};
use super::{Reading, Telemetry};

pub(super) fn text(telemetry: &Arc<Telemetry>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Arc::clone(telemetry)));
    let mut out = String::new();
    text::encode(&mut out, &registry).expect("a String takes whatever is written to it");
    out
}

/// For a registry of the application's own, beside its own metrics:
/// `registry.register_collector(Box::new(mesh.telemetry().clone()))`.
impl Collector for Telemetry {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for instrument in ALL {
            family(self, instrument, &mut encoder)?;
        }
        Ok(())
    }
}

fn family(
    telemetry: &Telemetry,
    instrument: &'static Instrument,
    encoder: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    let mut series = Vec::new();
    telemetry.read(instrument, |labels, reading| {
        let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
        series.push((labels, Sample::of(reading)));
    });
    if series.is_empty() {
        return Ok(());
    }
    let name = underscored(instrument.name);
    let names: Vec<String> = instrument.labels.iter().map(|l| underscored(l)).collect();
    let unit = unit(instrument);
    let kind = kind(instrument);
    let mut family =
        encoder.encode_descriptor(&name, instrument.description, unit.as_ref(), kind)?;
    for (values, sample) in series {
        let labels: Vec<(&str, &str)> = names
            .iter()
            .map(String::as_str)
            .zip(values.iter().map(String::as_str))
            .collect();
        sample.encode(instrument, &mut family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn underscored(name: &str) -> String {
    name.replace('.', "_")
}

/// Units in braces are remarks and no part of the name.
fn unit(instrument: &Instrument) -> Option<Unit> {
    match instrument.unit {
        "s" => Some(Unit::Seconds),
        "By" => Some(Unit::Bytes),
        _ => None,
    }
}

fn kind(instrument: &Instrument) -> MetricType {
    match instrument.kind {
        Kind::Counter => MetricType::Counter,
        Kind::UpDownCounter | Kind::Gauge => MetricType::Gauge,
        Kind::Histogram(_) => MetricType::Histogram,
    }
}

/// A reading, taken apart from its cell.
enum Sample {
    Number(i64),
    Histogram { sum: f64, buckets: Vec<(f64, u64)> },
}

impl Sample {
    fn of(reading: Reading<'_>) -> Self {
        match reading {
            Reading::Number(n) => Self::Number(n),
            Reading::Histogram(histogram) => {
                let buckets = histogram.buckets();
                let bounds = buckets.bounds.iter().map(|bound| buckets.in_unit(*bound));
                Self::Histogram {
                    sum: histogram.sum(),
                    buckets: bounds
                        .chain([f64::INFINITY])
                        .zip(histogram.counts())
                        .collect(),
                }
            }
        }
    }

    fn encode(&self, instrument: &Instrument, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        match self {
            Self::Number(n) if matches!(instrument.kind, Kind::Counter) => {
                let n = u64::try_from(*n).unwrap_or(0);
                encoder.encode_counter::<NoLabelSet, _, u64>(&n, None)
            }
            Self::Number(n) => encoder.encode_gauge(n),
            Self::Histogram { sum, buckets } => {
                let count = buckets.iter().map(|(_, n)| n).sum();
                encoder.encode_histogram::<NoLabelSet>(*sum, count, buckets, None)
            }
        }
    }
}
