//! Why a cell of the matrix is not "yes". A cell without a scenario must have its reason here: a
//! test sees to it.

use super::cast::Column;
use super::feature::Feature;

/// What a reason is about.
struct Reason {
    /// These rows; none: all.
    features: &'static [Feature],
    /// These columns; none: all.
    columns: &'static [Column],
    words: &'static str,
}

const EVERY: &[Feature] = &[];
const EVERYBODY: &[Column] = &[];

/// The first one that fits counts.
const REASONS: &[Reason] = &[
    Reason {
        features: &[
            Feature::RingHash,
            Feature::SessionAffinity,
            Feature::WeightedRoundRobin,
            Feature::OutlierDetection,
            Feature::FaultInjection,
            Feature::Authorization,
            Feature::LoadReports,
            Feature::AggregateClusters,
        ],
        columns: EVERYBODY,
        words: "to come: the runtime does not have it yet",
    },
    Reason {
        features: EVERY,
        columns: EVERYBODY,
        words: "to come: no scenario yet",
    },
];

/// Why this cell is not played.
pub(crate) fn reason(feature: Feature, column: Column) -> Option<&'static str> {
    let fits = |reason: &&Reason| {
        (reason.features.is_empty() || reason.features.contains(&feature))
            && (reason.columns.is_empty() || reason.columns.contains(&column))
    };
    REASONS.iter().find(fits).map(|reason| reason.words)
}
