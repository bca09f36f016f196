//! What is told of endpoints that are left out for what their calls came to: `tracing` events of
//! the target `sidestep::outliers` (listed in docs/events.md), and the metrics of gRFC A91.

use crate::balancer::{Event, News, Spared};
use crate::snapshot::Slot;
use crate::telemetry::Telemetry;
use crate::telemetry::instruments::{
    OUTLIER_DETECTION_EJECTIONS_ENFORCED, OUTLIER_DETECTION_EJECTIONS_UNENFORCED,
};

/// Tells of one endpoint of a cluster. `target` is the first that led there, as metrics have it.
pub(super) fn tell(telemetry: &Telemetry, target: &str, cluster: &str, slot: &Slot, news: &News) {
    let endpoint = &*slot.address;
    let backend = slot.backend.load();
    match &news.what {
        Event::Ejected { cause, time } => {
            let (method, time) = (cause.method(), format!("{time:?}"));
            tracing::warn!(
                target: "sidestep::outliers", cluster, endpoint, method, reason = %cause, time,
                "ejected"
            );
            let labels = [target, method, backend.service()];
            telemetry.add(&OUTLIER_DETECTION_EJECTIONS_ENFORCED, &labels, 1);
        }
        Event::Spared { cause, reason } => {
            let (method, why) = (cause.method(), label(*reason));
            tracing::debug!(
                target: "sidestep::outliers", cluster, endpoint, method, reason = %cause, why,
                "not ejected"
            );
            let labels = [target, method, why, backend.service()];
            telemetry.add(&OUTLIER_DETECTION_EJECTIONS_UNENFORCED, &labels, 1);
        }
        Event::Probed => tracing::debug!(
            target: "sidestep::outliers", cluster, endpoint, "the next call shows whether it works"
        ),
        Event::Returned => tracing::info!(
            target: "sidestep::outliers", cluster, endpoint, "no longer ejected"
        ),
    }
}

/// One of gRFC A91's closed list.
fn label(reason: Spared) -> &'static str {
    match reason {
        Spared::EnforcementPercentage => "enforcement_percentage",
        Spared::MaxEjectionOverflow => "max_ejection_overflow",
    }
}
