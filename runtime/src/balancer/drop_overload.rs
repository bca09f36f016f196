//! Sheds shares of calls (`ClusterLoadAssignment.policy.drop_overloads`, gRFC A27).
//!
//! Each category is drawn on its own, in the order written; a dropped call fails `UNAVAILABLE`
//! and is never retried.

use std::sync::Arc;

use sidestep_proto::resource::DropCategory;

use super::{Call, Pick, Picker, SubchannelId};
use crate::routing::{Purpose, below, draw};

/// `picker` behind `drops`; just `picker` if there are none.
#[must_use]
pub fn with_drops(picker: Arc<dyn Picker>, drops: &[DropCategory]) -> Arc<dyn Picker> {
    if drops.is_empty() {
        return picker;
    }
    let drops = drops.into();
    Arc::new(Dropping { drops, picker })
}

/// Draws before it asks the picker.
#[derive(Debug)]
struct Dropping {
    drops: Box<[DropCategory]>,
    picker: Arc<dyn Picker>,
}

impl Picker for Dropping {
    fn pick<'a>(&'a self, call: &Call<'_>) -> Pick<'a> {
        let hit = |(nth, drop): &(u32, &DropCategory)| {
            let number = draw(call.random, Purpose::Overload(*nth));
            // Below one million, so it fits.
            drop.share.contains(below(number, 1_000_000) as u32)
        };
        match (0..).zip(&self.drops).find(hit) {
            Some((_, drop)) => Pick::Drop {
                category: &drop.category,
            },
            None => self.picker.pick(call),
        }
    }

    fn admits(&self, call: &Call<'_>, id: SubchannelId) -> bool {
        self.picker.admits(call, id)
    }

    fn explain(&self, call: &Call<'_>) -> Option<String> {
        self.picker.explain(call)
    }
}

#[cfg(test)]
mod tests {
    use sidestep_proto::resource::PerMillion;

    use super::super::Queueing;
    use super::super::conformance::pick;
    use super::*;

    fn category(name: &str, parts: u32) -> DropCategory {
        DropCategory {
            category: name.into(),
            share: PerMillion::new(parts),
        }
    }

    #[test]
    fn categories_are_drawn_in_order_and_independently() {
        let drops = [category("a", 500_000), category("b", 500_000)];
        let picker = with_drops(Arc::new(Queueing), &drops);
        let (mut a, mut b) = (0_u32, 0_u32);
        for random in 0..10_000 {
            match pick(&*picker, random) {
                Pick::Drop { category: "a" } => a += 1,
                Pick::Drop { category: "b" } => b += 1,
                other => assert_eq!(other, Pick::Queue),
            }
        }
        // Half, and half of the rest: 5 sigma is 250 and 217.
        assert!(a.abs_diff(5_000) < 250, "{a}");
        assert!(b.abs_diff(2_500) < 217, "{b}");
    }

    #[test]
    fn all_or_nothing() {
        let none = with_drops(Arc::new(Queueing), &[category("a", 0)]);
        let all = with_drops(Arc::new(Queueing), &[category("a", 1_000_000)]);
        for random in 0..1_000 {
            assert_eq!(pick(&*none, random), Pick::Queue);
            assert_eq!(pick(&*all, random), Pick::Drop { category: "a" });
        }
    }
}
