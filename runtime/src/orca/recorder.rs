//! Where load is written down.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sidestep_proto::wire::orca::OrcaLoadReport;

/// The load of a server or the cost of a call, as whoever knows it writes it down. Clones share
/// what is written.
///
/// A value out of its range, or not a number, is ignored: what was said before stays. `0.0` takes a
/// value back, as a report cannot tell zero from nothing said.
#[derive(Debug, Clone, Default)]
pub struct LoadRecorder {
    report: Arc<Mutex<OrcaLoadReport>>,
}

impl LoadRecorder {
    /// With nothing said.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Share of the processor in use: 0 and up; above 1 where more may be used than was reserved.
    pub fn cpu_utilization(&self, share: f64) {
        self.set(share, from_zero, |report| &mut report.cpu_utilization);
    }

    /// Share of the memory in use: 0 to 1.
    pub fn memory_utilization(&self, share: f64) {
        self.set(share, share_of_one, |report| &mut report.mem_utilization);
    }

    /// How busy the application is by its own measure: 0 and up. Balancing prefers it to the
    /// processor's (A58).
    pub fn application_utilization(&self, share: f64) {
        self.set(share, from_zero, |report| {
            &mut report.application_utilization
        });
    }

    /// Calls per second: 0 and up.
    pub fn queries_per_second(&self, rate: f64) {
        self.set(rate, from_zero, |report| &mut report.rps_fractional);
    }

    /// Failed calls per second: 0 and up.
    pub fn errors_per_second(&self, rate: f64) {
        self.set(rate, from_zero, |report| &mut report.eps);
    }

    /// Share in use of some other resource: 0 to 1.
    pub fn utilization(&self, name: impl Into<String>, share: f64) {
        if share_of_one(share) {
            self.lock().utilization.insert(name.into(), share);
        }
    }

    /// Any other number.
    pub fn named_metric(&self, name: impl Into<String>, value: f64) {
        if value.is_finite() {
            self.lock().named_metrics.insert(name.into(), value);
        }
    }

    /// What this call cost, in a unit of the application's. Meant for calls: reports beside calls
    /// leave it out.
    pub fn request_cost(&self, name: impl Into<String>, cost: f64) {
        if cost.is_finite() {
            self.lock().request_cost.insert(name.into(), cost);
        }
    }

    /// Takes everything back.
    pub fn clear(&self) {
        *self.lock() = OrcaLoadReport::default();
    }

    /// Everything said.
    #[must_use]
    pub fn report(&self) -> OrcaLoadReport {
        self.lock().clone()
    }

    fn set(
        &self,
        value: f64,
        is_valid: fn(f64) -> bool,
        field: impl FnOnce(&mut OrcaLoadReport) -> &mut f64,
    ) {
        if is_valid(value) {
            *field(&mut self.lock()) = value;
        }
    }

    fn lock(&self) -> MutexGuard<'_, OrcaLoadReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn from_zero(value: f64) -> bool {
    value.is_finite() && value >= 0.0
}

fn share_of_one(value: f64) -> bool {
    (0.0..=1.0).contains(&value)
}

/// What a call says, over what its server says (A51).
pub(super) fn merged(server: OrcaLoadReport, call: OrcaLoadReport) -> OrcaLoadReport {
    let said = |call: f64, server: f64| if call == 0.0 { server } else { call };
    let mut report = OrcaLoadReport {
        cpu_utilization: said(call.cpu_utilization, server.cpu_utilization),
        mem_utilization: said(call.mem_utilization, server.mem_utilization),
        application_utilization: said(call.application_utilization, server.application_utilization),
        rps_fractional: said(call.rps_fractional, server.rps_fractional),
        eps: said(call.eps, server.eps),
        ..server
    };
    report.request_cost.extend(call.request_cost);
    report.utilization.extend(call.utilization);
    report.named_metrics.extend(call.named_metrics);
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_range_are_ignored() {
        let load = LoadRecorder::new();
        load.cpu_utilization(1.5);
        load.cpu_utilization(-0.1);
        load.memory_utilization(0.5);
        load.memory_utilization(1.1);
        load.application_utilization(f64::NAN);
        load.queries_per_second(f64::INFINITY);
        load.errors_per_second(-1.0);
        load.utilization("disk", 1.0);
        load.utilization("disk", 2.0);
        load.named_metric("queue", -7.0);
        load.request_cost("rows", f64::NAN);
        let report = load.report();
        assert_eq!(report.cpu_utilization, 1.5);
        assert_eq!(report.mem_utilization, 0.5);
        assert_eq!(report.utilization["disk"], 1.0);
        assert_eq!(report.named_metrics["queue"], -7.0);
        let unsaid = [
            report.application_utilization,
            report.rps_fractional,
            report.eps,
        ];
        assert_eq!(unsaid, [0.0; 3]);
        assert!(report.request_cost.is_empty());
        load.clear();
        assert_eq!(load.report(), OrcaLoadReport::default());
    }

    #[test]
    fn a_call_speaks_over_its_server() {
        let (server, call) = (LoadRecorder::new(), LoadRecorder::new());
        server.cpu_utilization(0.2);
        server.queries_per_second(100.0);
        server.named_metric("a", 1.0);
        call.cpu_utilization(0.9);
        call.named_metric("b", 2.0);
        let report = merged(server.report(), call.report());
        assert_eq!(report.cpu_utilization, 0.9);
        assert_eq!(report.rps_fractional, 100.0);
        assert_eq!(report.named_metrics.len(), 2);
    }
}
