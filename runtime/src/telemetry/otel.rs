//! The same measurements through the OpenTelemetry API, as they are made.
//!
//! The application brings the SDK (`opentelemetry_sdk`, any exporter) and hands its meter
//! provider over when it makes the mesh:
//!
//! ```
//! use sidestep::{Mesh, telemetry::TelemetryOptions};
//! # fn main() -> Result<(), sidestep::BuildError> {
//! let provider = opentelemetry_sdk::metrics::SdkMeterProvider::builder().build(); // with a reader
//! let options = TelemetryOptions::default().opentelemetry(&provider);
//! let mesh = Mesh::builder().telemetry(options).build()?;
//! # Ok(())
//! # }
//! ```
//!
//! Nothing falls back on the global meter provider (A66). Each series keeps its attributes, so
//! recording makes none; what the SDK does with them is its own cost, and dearer than the cells.

use std::collections::BTreeMap;
use std::sync::Arc;

use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter, MeterProvider, UpDownCounter};
use opentelemetry::{InstrumentationScope, KeyValue};

use super::instruments::{ALL, Buckets, Instrument, Kind};
use super::{Exporter, Series, TelemetryOptions};

impl TelemetryOptions {
    /// Sends every measurement to instruments of this provider's meter `grpc-rust-sidestep`, with
    /// the buckets of A66 and A96 as advice. May be said more than once. Needs the cargo feature
    /// `opentelemetry`.
    #[must_use]
    pub fn opentelemetry(self, provider: &dyn MeterProvider) -> Self {
        self.exporter(Arc::new(OpenTelemetry::new(provider)))
    }
}

/// Every instrument, made by one meter.
#[derive(Debug)]
struct OpenTelemetry(BTreeMap<&'static str, Made>);

#[derive(Debug, Clone)]
enum Made {
    Counter(Counter<u64>),
    UpDownCounter(UpDownCounter<i64>),
    Gauge(Gauge<i64>),
    Sizes(Histogram<u64>),
    Seconds(&'static Buckets, Histogram<f64>),
}

impl OpenTelemetry {
    fn new(provider: &dyn MeterProvider) -> Self {
        let scope = InstrumentationScope::builder("grpc-rust-sidestep")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        let meter = provider.meter_with_scope(scope);
        let made = ALL.iter().map(|i| (i.name, make(&meter, i)));
        Self(made.collect())
    }
}

fn make(meter: &Meter, instrument: &'static Instrument) -> Made {
    let (name, unit, text) = (instrument.name, instrument.unit, instrument.description);
    match instrument.kind {
        Kind::Counter => Made::Counter(
            meter
                .u64_counter(name)
                .with_unit(unit)
                .with_description(text)
                .build(),
        ),
        Kind::UpDownCounter => Made::UpDownCounter(
            meter
                .i64_up_down_counter(name)
                .with_unit(unit)
                .with_description(text)
                .build(),
        ),
        Kind::Gauge => Made::Gauge(
            meter
                .i64_gauge(name)
                .with_unit(unit)
                .with_description(text)
                .build(),
        ),
        Kind::Histogram(buckets) => {
            let bounds = buckets.bounds.iter().map(|bound| buckets.in_unit(*bound));
            let bounds: Vec<f64> = bounds.collect();
            if buckets.per_unit == 1 {
                let histogram = meter.u64_histogram(name).with_boundaries(bounds);
                Made::Sizes(histogram.with_unit(unit).with_description(text).build())
            } else {
                let histogram = meter.f64_histogram(name).with_boundaries(bounds);
                let histogram = histogram.with_unit(unit).with_description(text).build();
                Made::Seconds(buckets, histogram)
            }
        }
    }
}

impl Exporter for OpenTelemetry {
    fn series(&self, instrument: &'static Instrument, labels: &[&str]) -> Box<dyn Series> {
        let labels = instrument.labels.iter().zip(labels);
        Box::new(OneSeries {
            made: self.0[instrument.name].clone(),
            attributes: labels
                .map(|(name, value)| KeyValue::new(*name, (*value).to_owned()))
                .collect(),
        })
    }
}

#[derive(Debug)]
struct OneSeries {
    made: Made,
    attributes: Box<[KeyValue]>,
}

impl Series for OneSeries {
    fn record(&self, value: i64) {
        // Only up-down counters and gauges are told of what is below zero.
        let positive = u64::try_from(value).unwrap_or(0);
        match &self.made {
            Made::Counter(counter) => counter.add(positive, &self.attributes),
            Made::UpDownCounter(counter) => counter.add(value, &self.attributes),
            Made::Gauge(gauge) => gauge.record(value, &self.attributes),
            Made::Sizes(histogram) => histogram.record(positive, &self.attributes),
            Made::Seconds(buckets, histogram) => {
                histogram.record(buckets.in_unit(positive), &self.attributes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};
    use opentelemetry_sdk::metrics::{InMemoryMetricExporter, SdkMeterProvider};

    use super::super::instruments::{
        CLIENT_CALL_DURATION, LATENCY, SERVER_CALL_SENT, SUBCHANNEL_OPEN_CONNECTIONS,
        XDS_CLIENT_CONNECTED, XDS_CLIENT_SERVER_FAILURE,
    };
    use super::super::{Telemetry, TelemetryOptions};

    /// Each metric that was exported: name, unit and its points as text.
    fn exported(use_it: impl FnOnce(&Telemetry)) -> Vec<(String, String, String)> {
        let exporter = InMemoryMetricExporter::default();
        let provider = SdkMeterProvider::builder()
            .with_periodic_exporter(exporter.clone())
            .build();
        use_it(&Telemetry::new(Some(
            TelemetryOptions::default().opentelemetry(&provider),
        )));
        provider.force_flush().unwrap();
        let mut all = Vec::new();
        for resource in exporter.get_finished_metrics().unwrap() {
            for scope in resource.scope_metrics() {
                assert_eq!(scope.scope().name(), "grpc-rust-sidestep");
                for metric in scope.metrics() {
                    let points = points(metric.data());
                    all.push((metric.name().to_owned(), metric.unit().to_owned(), points));
                }
            }
        }
        all
    }

    fn points(data: &AggregatedMetrics) -> String {
        let attributes = |all: &mut dyn Iterator<Item = &opentelemetry::KeyValue>| {
            let mut all: Vec<_> = all.map(|kv| format!("{}={}", kv.key, kv.value)).collect();
            all.sort();
            all.join(",")
        };
        match data {
            AggregatedMetrics::U64(MetricData::Sum(sum)) => sum
                .data_points()
                .map(|p| format!("{} {}", attributes(&mut p.attributes()), p.value()))
                .collect(),
            AggregatedMetrics::I64(MetricData::Sum(sum)) => sum
                .data_points()
                .map(|p| format!("{} {}", attributes(&mut p.attributes()), p.value()))
                .collect(),
            AggregatedMetrics::I64(MetricData::Gauge(gauge)) => gauge
                .data_points()
                .map(|p| format!("{} {}", attributes(&mut p.attributes()), p.value()))
                .collect(),
            AggregatedMetrics::F64(MetricData::Histogram(histogram)) => histogram
                .data_points()
                .map(|p| {
                    assert_eq!(p.bounds().count(), LATENCY.bounds.len());
                    format!(
                        "{} {} {}",
                        attributes(&mut p.attributes()),
                        p.count(),
                        p.sum()
                    )
                })
                .collect(),
            AggregatedMetrics::U64(MetricData::Histogram(histogram)) => histogram
                .data_points()
                .map(|p| {
                    format!(
                        "{} {} {}",
                        attributes(&mut p.attributes()),
                        p.count(),
                        p.sum()
                    )
                })
                .collect(),
            other => panic!("unexpected kind of metric: {other:?}"),
        }
    }

    #[test]
    fn every_kind_of_instrument_reaches_the_meter() {
        let all = exported(|telemetry| {
            telemetry.add(&XDS_CLIENT_SERVER_FAILURE, &["#server", "here"], 2);
            telemetry.set(&XDS_CLIENT_CONNECTED, &["#server", "here"], 1);
            telemetry.add(&SUBCHANNEL_OPEN_CONNECTIONS, &["t", "none", "c", "l"], 3);
            telemetry.add(&SUBCHANNEL_OPEN_CONNECTIONS, &["t", "none", "c", "l"], -1);
            let shared = &telemetry.shared;
            let seconds = shared.histogram(&CLIENT_CALL_DURATION, &["m", "t", "OK"]);
            seconds.record(1_500_000_000);
            let bytes = shared.histogram(&SERVER_CALL_SENT, &["m", "OK"]);
            bytes.record(1000);
        });
        let find = |name: &str| {
            let found = all.iter().find(|(n, ..)| n == name);
            let (_, unit, points) = found.unwrap_or_else(|| panic!("{name} in {all:?}"));
            (unit.as_str(), points.as_str())
        };
        assert_eq!(
            find("grpc.xds_client.server_failure"),
            ("{failure}", "grpc.target=#server,grpc.xds.server=here 2")
        );
        assert_eq!(
            find("grpc.xds_client.connected"),
            ("{bool}", "grpc.target=#server,grpc.xds.server=here 1")
        );
        assert_eq!(
            find("grpc.subchannel.open_connections").1,
            "grpc.lb.backend_service=c,grpc.lb.locality=l,grpc.security_level=none,grpc.target=t 2"
        );
        assert_eq!(
            find("grpc.client.call.duration"),
            ("s", "grpc.method=m,grpc.status=OK,grpc.target=t 1 1.5")
        );
        assert_eq!(
            find("grpc.server.call.sent_total_compressed_message_size"),
            ("By", "grpc.method=m,grpc.status=OK 1 1000")
        );
    }
}
