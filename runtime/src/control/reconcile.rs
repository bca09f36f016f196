//! Old and new configuration in, what to create, keep and drop out. Pure.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::admission::Admission;
use sidestep_proto::resource::{self, Address, EndpointAssignment, Health, SessionHosts};

use crate::balancer::{Endpoint, Family, Load, SessionHost, SubchannelId};
use crate::subchannel::race;

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
    /// Where it listens, sorted: the order in which they are tried is not what it is (gRFC A61).
    addresses: Arc<[Address]>,
    /// Its host name; may be empty.
    pub(super) hostname: Arc<str>,
}

impl EndpointKey {
    /// Of an endpoint as the control plane names it.
    pub(super) fn of(endpoint: &resource::Endpoint) -> Self {
        let mut addresses: Arc<[Address]> = endpoint.addresses.as_slice().into();
        if let Some(several @ [_, _, ..]) = Arc::get_mut(&mut addresses) {
            several.sort_unstable();
        }
        Self {
            addresses,
            hostname: match endpoint.hostname.as_str() {
                // Of most; needs no memory.
                "" => Arc::default(),
                name => name.into(),
            },
        }
    }

    /// The addresses as the control plane orders them.
    fn ordered(&self, endpoint: &resource::Endpoint) -> Arc<[Address]> {
        if *self.addresses == *endpoint.addresses {
            self.addresses.clone()
        } else {
            endpoint.addresses.as_slice().into()
        }
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
    /// Which endpoints sessions may lead to; `None`: there are no sessions.
    sessions: Option<SessionHosts>,
}

#[derive(Debug, Clone)]
struct Member {
    id: SubchannelId,
    load: Arc<Load>,
    /// In the order to try.
    addresses: Arc<[Address]>,
    /// The first address, when it came.
    address: Arc<str>,
    /// All addresses, comma-separated.
    hosts: Arc<str>,
    /// What sessions may do with it.
    session: Option<Arc<SessionHost>>,
}

/// One update of a [`Roster`].
#[derive(Debug, Default)]
pub(super) struct RosterUpdate {
    /// All endpoints that may take calls, if only those of their sessions, in the order of the
    /// control plane.
    pub(super) endpoints: Vec<Endpoint>,
    /// The new ones among them.
    pub(super) added: Vec<Added>,
    /// Those that stay, but whose addresses are to be tried in another order.
    pub(super) reordered: Vec<(SubchannelId, Arc<[Address]>)>,
    /// Those that are no longer there.
    pub(super) removed: Vec<SubchannelId>,
}

/// A new endpoint.
#[derive(Debug)]
pub(super) struct Added {
    pub(super) id: SubchannelId,
    pub(super) key: EndpointKey,
    /// In the order to try.
    pub(super) addresses: Arc<[Address]>,
    pub(super) load: Arc<Load>,
    /// Its first address.
    pub(super) address: Arc<str>,
    /// All of its addresses, comma-separated.
    pub(super) hosts: Arc<str>,
}

impl Roster {
    /// Which endpoints sessions may lead to, from the next update on.
    pub(super) fn take_sessions(&mut self, sessions: Option<SessionHosts>) {
        self.sessions = sessions;
    }

    /// Takes over an assignment. Only endpoints that may take calls, if only those of their
    /// sessions, get an id.
    pub(super) fn update(
        &mut self,
        assignment: &EndpointAssignment,
        admission: &Admission<'_>,
    ) -> RosterUpdate {
        let mut update = RosterUpdate::default();
        let mut kept = HashSet::new();
        for group in &assignment.localities {
            let locality = Arc::new(group.locality.clone());
            let own_zone = admission.is_own(&locality);
            let locality_fitness = admission.fitness(group);
            for endpoint in &group.endpoints {
                let by_session = self.sessions.is_some_and(|s| s.admit(endpoint.health));
                if !by_session && !admission.admits(group.priority, endpoint.health) {
                    continue;
                }
                let member = self.member(endpoint, &mut update);
                kept.insert(member.id);
                update.endpoints.push(Endpoint {
                    id: member.id,
                    weight: endpoint.weight,
                    locality: locality.clone(),
                    locality_weight: group.weight,
                    priority: group.priority,
                    load: member.load,
                    session: member.session,
                    hash_key: match &endpoint.hash_key {
                        Some(key) => (&**key).into(),
                        None => member.address,
                    },
                    family: endpoint.addresses.first().map_or(Family::V4, race::family),
                    own_zone,
                    locality_fitness,
                    labels: endpoint.labels.clone(),
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

    fn member(&mut self, endpoint: &resource::Endpoint, update: &mut RosterUpdate) -> Member {
        let key = EndpointKey::of(endpoint);
        let sessions = self.sessions.filter(|s| s.admit(endpoint.health));
        if let Some(member) = self.members.get_mut(&key) {
            if *member.addresses != *endpoint.addresses {
                member.addresses = key.ordered(endpoint);
                update.reordered.push((member.id, member.addresses.clone()));
            }
            let session = sessions.map(|s| session_host(&s, endpoint.health, &member.hosts));
            // An equal one stays, so that nobody has to look closer.
            if session != member.session.as_deref().cloned() {
                member.session = session.map(Arc::new);
            }
            return member.clone();
        }
        let id = SubchannelId(self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        }));
        let first = endpoint.addresses.first();
        let address: Arc<str> = first.map_or_else(String::new, ToString::to_string).into();
        let hosts = match endpoint.addresses.as_slice() {
            [] | [_] => Arc::clone(&address),
            several => {
                let texts: Vec<_> = several.iter().map(ToString::to_string).collect();
                texts.join(",").into()
            }
        };
        let session = sessions.map(|s| session_host(&s, endpoint.health, &hosts));
        let member = Member {
            id,
            load: Arc::default(),
            addresses: key.ordered(endpoint),
            address,
            hosts,
            session: session.map(Arc::new),
        };
        self.members.insert(key.clone(), member.clone());
        update.added.push(Added {
            id,
            key,
            addresses: member.addresses.clone(),
            load: member.load.clone(),
            address: member.address.clone(),
            hosts: member.hosts.clone(),
        });
        member
    }
}

fn session_host(sessions: &SessionHosts, health: Health, hosts: &Arc<str>) -> SessionHost {
    SessionHost {
        hosts: Arc::clone(hosts),
        draining: health == Health::Draining,
        idle_timeout: sessions.idle_timeout,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidestep_proto::resource::{Endpoint as Wire, Health, Labels, Locality, LocalityEndpoints};

    fn at(port: u16, health: Health) -> Wire {
        Wire {
            addresses: vec![Address::Tcp(([127, 0, 0, 1], port).into())],
            hostname: String::new(),
            weight: 1,
            health,
            hash_key: None,
            labels: Labels::default(),
        }
    }

    fn update(roster: &mut Roster, assignment: &EndpointAssignment) -> RosterUpdate {
        let home = Locality::default();
        roster.update(assignment, &Admission::new(assignment, &home, 0))
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
        let first = update(&mut roster, &assignment(&[1, 2, 3]));
        assert_eq!(ids(&first), [0, 1, 2]);
        assert_eq!(first.added.len(), 3);
        let second = update(&mut roster, &assignment(&[3, 1]));
        assert_eq!(ids(&second), [2, 0]);
        assert!(second.added.is_empty());
        assert_eq!(second.removed, [SubchannelId(1)]);
        assert!(Arc::ptr_eq(
            &first.endpoints[2].load,
            &second.endpoints[0].load
        ));
    }

    #[test]
    fn an_endpoint_is_the_set_of_its_addresses() {
        let mut roster = Roster::default();
        let address = |port| Address::Tcp(([127, 0, 0, 1], port).into());
        let of = |ports: &[u16]| {
            let mut assignment = assignment(&[0]);
            assignment.localities[0].endpoints[0].addresses =
                ports.iter().map(|port| address(*port)).collect();
            assignment
        };
        let first = update(&mut roster, &of(&[2, 1]));
        assert_eq!(*first.added[0].addresses, [address(2), address(1)]);
        let turned = update(&mut roster, &of(&[1, 2]));
        assert!(turned.added.is_empty() && turned.removed.is_empty());
        let order: Arc<[Address]> = [address(1), address(2)].into();
        assert_eq!(turned.reordered, [(SubchannelId(0), order)]);
        assert!(update(&mut roster, &of(&[1, 2])).reordered.is_empty());
        let fewer = update(&mut roster, &of(&[1]));
        assert_eq!((fewer.added.len(), fewer.removed.len()), (1, 1));
    }

    #[test]
    fn a_freed_id_waits_one_update() {
        let mut roster = Roster::default();
        update(&mut roster, &assignment(&[1, 2]));
        let replaced = update(&mut roster, &assignment(&[1, 3]));
        assert_eq!(ids(&replaced), [0, 2]);
        let reused = update(&mut roster, &assignment(&[1, 3, 4]));
        assert_eq!(ids(&reused), [0, 2, 1]);
    }

    #[test]
    fn an_endpoint_that_comes_back_is_a_new_one() {
        let mut roster = Roster::default();
        let first = update(&mut roster, &assignment(&[1]));
        update(&mut roster, &assignment(&[]));
        let back = update(&mut roster, &assignment(&[1]));
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
        assert_eq!(ids(&update(&mut roster, &assignment)), [0, 1]);
    }

    #[test]
    fn draining_endpoints_stay_for_their_sessions() {
        let mut roster = Roster::default();
        let mut both = assignment(&[1, 2]);
        update(&mut roster, &both);
        roster.take_sessions(Some(SessionHosts {
            draining: true,
            healthy: false,
            ..SessionHosts::default()
        }));
        let list = &mut both.localities[0].endpoints;
        list[0].health = Health::Draining;
        list[1].health = Health::Healthy;
        list.push(at(3, Health::Unhealthy));
        list[0].addresses.push(Address::Unix("/s".into()));
        let found = update(&mut roster, &both);
        let draining = |e: &Endpoint| {
            e.session
                .as_ref()
                .map(|s| (s.draining, s.hosts.to_string()))
        };
        let sessions: Vec<_> = found.endpoints.iter().map(draining).collect();
        let drained = Some((true, "127.0.0.1:1,unix:/s".to_owned()));
        assert_eq!(sessions, [drained, None]);
        let again = update(&mut roster, &both);
        assert!(Arc::ptr_eq(
            found.endpoints[0].session.as_ref().unwrap(),
            again.endpoints[0].session.as_ref().unwrap()
        ));
        roster.take_sessions(None);
        assert_eq!(update(&mut roster, &both).endpoints.len(), 1);
    }
}
