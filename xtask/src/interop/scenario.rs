//! The scenarios: what is played, by whom, and what it proves.

use anyhow::Result;

use super::cast::{Cast, Tier};
use super::feature::Feature;
use super::install::{earlier, is_istio_built};
use super::parity;
use super::peer::Peer;
use super::scenarios;
use super::stage::Stage;

/// One thing that must work, whoever plays in it.
pub(crate) struct Scenario {
    /// What `--only` takes.
    pub(crate) name: &'static str,
    /// The rows of the matrix that it proves.
    pub(crate) features: &'static [Feature],
    /// What happens.
    pub(crate) about: &'static str,
    /// Who plays in it; each cast is a run of its own.
    pub(crate) casts: &'static [Cast],
    /// Who is needed besides those that a cast names.
    pub(crate) helpers: &'static [Peer],
    /// Which runs it is part of.
    pub(crate) tier: Tier,
    /// Plays it.
    pub(crate) play: fn(&Stage<'_>) -> Result<()>,
}

impl Scenario {
    /// Whether what it needs exists at all: there may be no earlier tag.
    pub(crate) fn can_be_played(&self) -> bool {
        self.tier != Tier::IfTagged || !earlier::tags().is_empty()
    }

    /// Whether this cast is part of every run.
    pub(crate) fn is_quick(&self, cast: &Cast) -> bool {
        [self.tier, cast.tier].into_iter().all(|tier| match tier {
            Tier::Quick => true,
            Tier::IfBuilt => is_istio_built(),
            Tier::IfTagged => self.can_be_played(),
            Tier::Full => false,
        })
    }
}

/// Every list of scenarios; a new one is a file and a line here.
const GROUPS: &[&[Scenario]] = &[
    scenarios::baseline::SCENARIOS,
    scenarios::cases::SCENARIOS,
    scenarios::routing::SCENARIOS,
    scenarios::balancing::SCENARIOS,
    scenarios::affinity::SCENARIOS,
    scenarios::aggregates::SCENARIOS,
    scenarios::load::SCENARIOS,
    scenarios::limits::SCENARIOS,
    scenarios::security::SCENARIOS,
    scenarios::servers::SCENARIOS,
    scenarios::trouble::SCENARIOS,
    scenarios::envoy::SCENARIOS,
    scenarios::stubs::SCENARIOS,
    scenarios::skew::SCENARIOS,
    scenarios::polyglot::SCENARIOS,
    scenarios::status::SCENARIOS,
    scenarios::machines::SCENARIOS,
    scenarios::istio::SCENARIOS,
    parity::SCENARIOS,
];

/// All scenarios, in the order in which they are begun.
pub(crate) fn all() -> impl Iterator<Item = &'static Scenario> {
    GROUPS.iter().copied().flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn scenarios_have_names_of_their_own() {
        let names: BTreeSet<_> = all().map(|s| s.name).collect();
        assert_eq!(names.len(), all().count());
    }

    #[test]
    fn each_scenario_is_cast_and_each_cast_is_there_once() {
        for scenario in all() {
            let casts: BTreeSet<_> = scenario.casts.iter().map(Cast::to_string).collect();
            assert_eq!(casts.len(), scenario.casts.len(), "{}", scenario.name);
            assert!(!casts.is_empty(), "{}", scenario.name);
            assert!(!scenario.features.is_empty(), "{}", scenario.name);
        }
    }
}
