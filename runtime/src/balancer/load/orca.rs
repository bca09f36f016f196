//! From a backend's report to a weight (gRFC A51, A58, A114), without an allocation.

use std::time::{Duration, Instant};

use prost::encoding::{WireType, decode_key, decode_varint};
use sidestep_proto::resource::Metric;

/// How a report becomes a weight, for all endpoints of a policy.
#[derive(Debug)]
pub struct Recipe {
    /// How much a failed call counts as load.
    penalty: f64,
    /// Whose greatest value is the utilization, where any is reported (A114).
    metrics: Box<[Metric]>,
    epoch: Instant,
}

/// The numbers of a report that a weight is made of. 0: not said, or nothing that makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Metrics {
    /// 0 and up.
    pub cpu_utilization: f64,
    /// 0 to 1.
    pub mem_utilization: f64,
    /// 0 and up.
    pub application_utilization: f64,
    /// Calls per second.
    pub queries_per_second: f64,
    /// Failed calls per second.
    pub errors_per_second: f64,
    /// The greatest value of the metrics that the recipe names.
    pub chosen: f64,
}

/// Nobody is used a thousand times over.
const MOST_UTILIZATION: f64 = 1000.0;
/// Nobody answers so many calls in a second; nor is any measure of use as great.
const MOST_RATE: f64 = 1e9;

fn utilization(value: f64) -> bool {
    (0.0..=MOST_UTILIZATION).contains(&value)
}

fn share_of_one(value: f64) -> bool {
    (0.0..=1.0).contains(&value)
}

fn rate(value: f64) -> bool {
    (0.0..=MOST_RATE).contains(&value)
}

impl Recipe {
    /// `now` is where the policy's time begins. `metrics` may be empty.
    #[must_use]
    pub fn new(now: Instant, error_utilization_penalty: f64, metrics: Box<[Metric]>) -> Self {
        Self {
            penalty: error_utilization_penalty,
            metrics,
            epoch: now,
        }
    }

    pub(super) fn since_epoch(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.epoch)
    }

    /// The weight by an encoded report; `None` if it cannot be read or says too little for one.
    pub(super) fn weight(&self, report: &[u8]) -> Option<f32> {
        let metrics = self.read(report)?;
        let used = [
            metrics.chosen,
            metrics.application_utilization,
            metrics.cpu_utilization,
        ];
        let used = used.into_iter().find(|used| *used > 0.0)?;
        let rate = metrics.queries_per_second;
        if rate <= 0.0 {
            return None;
        }
        let penalty = metrics.errors_per_second / rate * self.penalty;
        // Within the bounds of both, so it fits; a utilization of next to nothing may still
        // overflow.
        let weight = (rate / (used + penalty)) as f32;
        (weight.is_finite() && weight > 0.0).then_some(weight)
    }

    /// Reads an encoded report. Each value that makes no sense counts as not said; `None`: these
    /// bytes are no report.
    #[must_use]
    pub fn read(&self, mut report: &[u8]) -> Option<Metrics> {
        let mut metrics = Metrics::default();
        while !report.is_empty() {
            let (tag, wire_type) = decode_key(&mut report).ok()?;
            match (tag, wire_type) {
                (5 | 8, WireType::LengthDelimited) => {
                    let (name, value) = entry(bytes(&mut report)?)?;
                    let chosen = self.metrics.iter().any(|metric| match metric {
                        Metric::Utilization(wanted) => tag == 5 && **wanted == *name,
                        Metric::Named(wanted) => tag == 8 && **wanted == *name,
                        _ => false,
                    });
                    let makes_sense = match tag {
                        5 => share_of_one(value),
                        // In a unit of the application's.
                        _ => rate(value),
                    };
                    if chosen && makes_sense {
                        metrics.chosen = metrics.chosen.max(value);
                    }
                }
                (1, WireType::SixtyFourBit) => {
                    keep(
                        &mut metrics.cpu_utilization,
                        double(&mut report)?,
                        utilization,
                    );
                }
                (2, WireType::SixtyFourBit) => {
                    keep(
                        &mut metrics.mem_utilization,
                        double(&mut report)?,
                        share_of_one,
                    );
                }
                (6, WireType::SixtyFourBit) => {
                    keep(&mut metrics.queries_per_second, double(&mut report)?, rate);
                }
                (7, WireType::SixtyFourBit) => {
                    keep(&mut metrics.errors_per_second, double(&mut report)?, rate);
                }
                (9, WireType::SixtyFourBit) => {
                    let value = double(&mut report)?;
                    keep(&mut metrics.application_utilization, value, utilization);
                }
                (_, other) => skip(&mut report, other)?,
            }
        }
        for metric in &self.metrics {
            let value = match metric {
                Metric::Cpu => metrics.cpu_utilization,
                Metric::Memory => metrics.mem_utilization,
                Metric::Application => metrics.application_utilization,
                Metric::Utilization(_) | Metric::Named(_) => continue,
            };
            metrics.chosen = metrics.chosen.max(value);
        }
        Some(metrics)
    }
}

/// Of a value that is said twice the last counts.
fn keep(place: &mut f64, value: f64, makes_sense: fn(f64) -> bool) {
    *place = if makes_sense(value) { value } else { 0.0 };
}

/// One entry of a map from names to numbers.
fn entry(mut entry: &[u8]) -> Option<(&str, f64)> {
    let (mut name, mut value) = ("", 0.0);
    while !entry.is_empty() {
        match decode_key(&mut entry).ok()? {
            (1, WireType::LengthDelimited) => name = str::from_utf8(bytes(&mut entry)?).ok()?,
            (2, WireType::SixtyFourBit) => value = double(&mut entry)?,
            (_, other) => skip(&mut entry, other)?,
        }
    }
    Some((name, value))
}

fn double(from: &mut &[u8]) -> Option<f64> {
    let (number, rest) = from.split_first_chunk::<8>()?;
    *from = rest;
    Some(f64::from_le_bytes(*number))
}

fn bytes<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(decode_varint(from).ok()?).ok()?;
    let (bytes, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(bytes)
}

/// What a later version of the message may carry.
fn skip(from: &mut &[u8], wire_type: WireType) -> Option<()> {
    match wire_type {
        WireType::Varint => decode_varint(from).ok().map(drop),
        WireType::SixtyFourBit => double(from).map(drop),
        WireType::LengthDelimited => bytes(from).map(drop),
        WireType::ThirtyTwoBit => {
            *from = from.split_first_chunk::<4>()?.1;
            Some(())
        }
        // Groups are in no version of it.
        WireType::StartGroup | WireType::EndGroup => None,
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use sidestep_proto::wire::orca::OrcaLoadReport;

    use super::*;

    fn recipe(penalty: f64, metrics: &[&str]) -> Recipe {
        let metrics = metrics.iter().map(|name| Metric::parse(name).unwrap());
        Recipe::new(super::super::beginning(), penalty, metrics.collect())
    }

    fn weight(recipe: &Recipe, report: &OrcaLoadReport) -> Option<f32> {
        recipe.weight(&report.encode_to_vec())
    }

    fn report() -> OrcaLoadReport {
        OrcaLoadReport {
            cpu_utilization: 0.5,
            rps_fractional: 100.0,
            ..OrcaLoadReport::default()
        }
    }

    #[test]
    fn weights_are_rates_by_utilization_and_errors() {
        let plain = recipe(1.0, &[]);
        assert_eq!(weight(&plain, &report()), Some(200.0));
        let application = OrcaLoadReport {
            application_utilization: 0.25,
            ..report()
        };
        assert_eq!(weight(&plain, &application), Some(400.0));
        let errors = OrcaLoadReport {
            eps: 50.0,
            ..report()
        };
        assert_eq!(weight(&plain, &errors), Some(100.0));
        assert_eq!(weight(&recipe(3.0, &[]), &errors), Some(50.0));
        assert_eq!(weight(&recipe(0.0, &[]), &errors), Some(200.0));
    }

    #[test]
    fn a_report_without_rate_or_utilization_gives_no_weight() {
        let plain = recipe(1.0, &[]);
        let no_rate = OrcaLoadReport {
            rps_fractional: 0.0,
            ..report()
        };
        let no_use = OrcaLoadReport {
            cpu_utilization: 0.0,
            ..report()
        };
        for report in [no_rate, no_use, OrcaLoadReport::default()] {
            assert_eq!(weight(&plain, &report), None, "{report:?}");
        }
    }

    #[test]
    fn chosen_metrics_come_first_and_the_greatest_counts() {
        let chosen = recipe(
            1.0,
            &["named_metrics.queue", "utilization.disk", "mem_utilization"],
        );
        let mut report = report();
        report.named_metrics.insert("other".to_owned(), 0.9);
        report.utilization.insert("queue".to_owned(), 0.9);
        assert_eq!(weight(&chosen, &report), Some(200.0), "none is reported");
        report.named_metrics.insert("queue".to_owned(), 0.2);
        assert_eq!(weight(&chosen, &report), Some(500.0));
        report.utilization.insert("disk".to_owned(), 0.25);
        assert_eq!(weight(&chosen, &report), Some(400.0));
        report.mem_utilization = 1.0;
        assert_eq!(weight(&chosen, &report), Some(100.0));
    }

    /// Each senseless value by itself: the others of the report count.
    #[test]
    fn senseless_values_are_ignored_one_by_one() {
        let chosen = recipe(1.0, &["named_metrics.queue", "utilization.disk"]);
        let senseless = [
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            -1.0,
            1e300,
            -f64::MIN_POSITIVE,
        ];
        for value in senseless {
            let wrong = |change: &dyn Fn(&mut OrcaLoadReport)| {
                let mut report = OrcaLoadReport {
                    application_utilization: 0.25,
                    eps: 25.0,
                    ..report()
                };
                change(&mut report);
                weight(&chosen, &report)
            };
            assert_eq!(wrong(&|_| ()), Some(200.0));
            assert_eq!(wrong(&|r| r.cpu_utilization = value), Some(200.0));
            assert_eq!(wrong(&|r| r.mem_utilization = value), Some(200.0));
            let by_cpu = wrong(&|r| r.application_utilization = value);
            assert_eq!(by_cpu, Some(100.0 / 0.75), "{value}");
            assert_eq!(wrong(&|r| r.eps = value), Some(400.0), "{value}");
            assert_eq!(wrong(&|r| r.rps_fractional = value), None, "{value}");
            let named = |r: &mut OrcaLoadReport| {
                r.named_metrics.insert("queue".to_owned(), value);
            };
            assert_eq!(wrong(&named), Some(200.0), "{value}");
            let disk = |r: &mut OrcaLoadReport| {
                r.utilization.insert("disk".to_owned(), value);
            };
            assert_eq!(wrong(&disk), Some(200.0), "{value}");
        }
        let too_full = OrcaLoadReport {
            utilization: [("disk".to_owned(), 1.5)].into(),
            ..report()
        };
        assert_eq!(weight(&chosen, &too_full), Some(200.0));
    }

    #[test]
    fn a_weight_that_would_be_infinite_is_none() {
        let tiny = OrcaLoadReport {
            cpu_utilization: f64::MIN_POSITIVE,
            ..report()
        };
        assert_eq!(weight(&recipe(1.0, &[]), &tiny), None);
    }

    #[test]
    fn later_fields_are_skipped_and_broken_bytes_are_no_report() {
        let plain = recipe(1.0, &[]);
        let mut bytes = report().encode_to_vec();
        let whole = bytes.clone();
        // Field 20: a varint, 64 bits, text and 32 bits.
        bytes.extend([0xA0, 0x01, 0x07]);
        bytes.extend([0xA1, 0x01, 0, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend([0xA2, 0x01, 2, b'h', b'i']);
        bytes.extend([0xA5, 0x01, 0, 0, 0, 0]);
        assert_eq!(plain.weight(&bytes), Some(200.0));
        for length in (0..whole.len()).filter(|n| *n != 9) {
            assert_eq!(plain.weight(&whole[..length]), None, "{length}");
        }
        let mut endless = whole;
        endless.extend([0x42, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F]);
        assert_eq!(plain.weight(&endless), None);
    }
}
