//! Old and new configuration in, what to create, keep and drop out. Pure.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use sidestep_proto::resource::{self, Address, EndpointAssignment};

use crate::balancer::{Endpoint, Load, SubchannelId};

/// What must come and what must go.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Difference<K> {
    /// Wanted and not there.
    pub(super) added: Vec<K>,
    /// There and not wanted.
    pub(super) removed: Vec<K>,
}

/// Compares what is there with what is wanted.
pub(super) fn difference<K: Ord + Clone>(
    current: &BTreeSet<K>,
    wanted: &BTreeSet<K>,
) -> Difference<K> {
    Difference {
        added: wanted.difference(current).cloned().collect(),
        removed: current.difference(wanted).cloned().collect(),
    }
}

/// What makes an endpoint the same endpoint after an update.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct EndpointKey {
    /// Where it listens, in the order to try.
    pub(super) addresses: Arc<[Address]>,
    /// Its host name; may be empty.
    pub(super) hostname: Arc<str>,
}

impl EndpointKey {
    /// Of an endpoint as the control plane names it.
    pub(super) fn of(endpoint: &resource::Endpoint) -> Self {
        Self {
            addresses: endpoint.addresses.as_slice().into(),
            hostname: endpoint.hostname.as_str().into(),
        }
    }

    /// The first address, for people.
    pub(super) fn address(&self) -> String {
        let first = self.addresses.first();
        first.map_or_else(String::new, ToString::to_string)
    }
}

/// Gives the endpoints of one cluster their ids.
///
/// Ids are dense, because they index a table. One that was set free is not given out by the same
/// update: for as long as a picker of before may be asked, it cannot mean two endpoints.
#[derive(Debug, Default)]
pub(super) struct Roster {
    members: HashMap<EndpointKey, Member>,
    free: Vec<u32>,
    next: u32,
}

#[derive(Debug, Clone)]
struct Member {
    id: SubchannelId,
    load: Arc<Load>,
    /// The first address.
    address: Arc<str>,
}

/// One update of a [`Roster`].
#[derive(Debug, Default)]
pub(super) struct RosterUpdate {
    /// All endpoints that may take calls, in the order of the control plane.
    pub(super) endpoints: Vec<Endpoint>,
    /// The new ones among them.
    pub(super) added: Vec<Added>,
    /// Those that are no longer there.
    pub(super) removed: Vec<SubchannelId>,
}

/// A new endpoint.
#[derive(Debug)]
pub(super) struct Added {
    pub(super) id: SubchannelId,
    pub(super) key: EndpointKey,
    pub(super) load: Arc<Load>,
    /// Its first address.
    pub(super) address: Arc<str>,
}

impl Roster {
    /// Takes over an assignment. Only endpoints whose health lets them take calls get an id.
    pub(super) fn update(&mut self, assignment: &EndpointAssignment) -> RosterUpdate {
        let mut update = RosterUpdate::default();
        let mut kept = HashSet::new();
        for group in &assignment.localities {
            let locality = Arc::new(group.locality.clone());
            for endpoint in group.endpoints.iter().filter(|e| e.health.is_usable()) {
                let key = EndpointKey::of(endpoint);
                let member = self.member(&key, &mut update);
                kept.insert(member.id);
                update.endpoints.push(Endpoint {
                    id: member.id,
                    weight: endpoint.weight,
                    locality: locality.clone(),
                    locality_weight: group.weight,
                    priority: group.priority,
                    load: member.load,
                    hash_key: match &endpoint.hash_key {
                        Some(key) => (&**key).into(),
                        None => member.address,
                    },
                });
            }
        }
        self.release(&kept, &mut update);
        update
    }

    /// Takes all endpoints out.
    pub(super) fn clear(&mut self) -> RosterUpdate {
        let mut update = RosterUpdate::default();
        self.release(&HashSet::new(), &mut update);
        update
    }

    fn release(&mut self, kept: &HashSet<SubchannelId>, update: &mut RosterUpdate) {
        self.members.retain(|_, member| {
            let stays = kept.contains(&member.id);
            if !stays {
                update.removed.push(member.id);
            }
            stays
        });
        update.removed.sort_unstable();
        self.free.extend(update.removed.iter().map(|id| id.0));
    }

    fn member(&mut self, key: &EndpointKey, update: &mut RosterUpdate) -> Member {
        if let Some(member) = self.members.get(key) {
            return member.clone();
        }
        let id = SubchannelId(self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        }));
        let member = Member {
            id,
            load: Arc::default(),
            address: key.address().into(),
        };
        self.members.insert(key.clone(), member.clone());
        update.added.push(Added {
            id,
            key: key.clone(),
            load: member.load.clone(),
            address: member.address.clone(),
        });
        member
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidestep_proto::resource::{Endpoint as Wire, Health, Locality, LocalityEndpoints};

    fn at(port: u16, health: Health) -> Wire {
        Wire {
            addresses: vec![Address::Tcp(([127, 0, 0, 1], port).into())],
            hostname: String::new(),
            weight: 1,
            health,
            hash_key: None,
        }
    }

    fn assignment(ports: &[u16]) -> EndpointAssignment {
        EndpointAssignment {
            cluster: "c".into(),
            localities: vec![LocalityEndpoints {
                locality: Locality::default(),
                priority: 0,
                weight: 1,
                endpoints: ports.iter().map(|p| at(*p, Health::Unknown)).collect(),
            }],
            drops: Vec::new(),
        }
    }

    fn ids(update: &RosterUpdate) -> Vec<u32> {
        update.endpoints.iter().map(|e| e.id.0).collect()
    }

    #[test]
    fn difference_of_sets() {
        let current = BTreeSet::from([1, 2, 3]);
        let wanted = BTreeSet::from([2, 3, 4]);
        assert_eq!(
            difference(&current, &wanted),
            Difference {
                added: vec![4],
                removed: vec![1]
            }
        );
    }

    #[test]
    fn an_endpoint_keeps_its_id_and_load_however_the_order_changes() {
        let mut roster = Roster::default();
        let first = roster.update(&assignment(&[1, 2, 3]));
        assert_eq!(ids(&first), [0, 1, 2]);
        assert_eq!(first.added.len(), 3);
        let second = roster.update(&assignment(&[3, 1]));
        assert_eq!(ids(&second), [2, 0]);
        assert!(second.added.is_empty());
        assert_eq!(second.removed, [SubchannelId(1)]);
        assert!(Arc::ptr_eq(
            &first.endpoints[2].load,
            &second.endpoints[0].load
        ));
    }

    #[test]
    fn a_freed_id_waits_one_update() {
        let mut roster = Roster::default();
        roster.update(&assignment(&[1, 2]));
        let replaced = roster.update(&assignment(&[1, 3]));
        assert_eq!(ids(&replaced), [0, 2]);
        let reused = roster.update(&assignment(&[1, 3, 4]));
        assert_eq!(ids(&reused), [0, 2, 1]);
    }

    #[test]
    fn an_endpoint_that_comes_back_is_a_new_one() {
        let mut roster = Roster::default();
        let first = roster.update(&assignment(&[1]));
        roster.update(&assignment(&[]));
        let back = roster.update(&assignment(&[1]));
        assert_eq!(back.added.len(), 1);
        assert!(!Arc::ptr_eq(
            &first.endpoints[0].load,
            &back.endpoints[0].load
        ));
    }

    #[test]
    fn unfit_endpoints_are_left_out() {
        let mut roster = Roster::default();
        let mut assignment = assignment(&[1]);
        let list = &mut assignment.localities[0].endpoints;
        for (port, health) in [
            (2, Health::Healthy),
            (3, Health::Unhealthy),
            (4, Health::Draining),
            (5, Health::Timeout),
            (6, Health::Degraded),
        ] {
            list.push(at(port, health));
        }
        assert_eq!(ids(&roster.update(&assignment)), [0, 1]);
    }
}
