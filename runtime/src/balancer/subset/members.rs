//! Endpoints that several policies share, each with its own mind about the connection.

use std::collections::{HashMap, HashSet, VecDeque};

use super::super::{Connectivity, Endpoint, SubchannelId};

/// All endpoints, and which children have them.
#[derive(Debug, Default)]
pub(super) struct Members {
    known: HashMap<SubchannelId, Member>,
    /// Perhaps nobody wants their connections any more.
    unwanted: VecDeque<SubchannelId>,
}

#[derive(Debug)]
struct Member {
    state: Connectivity,
    links: Vec<Link>,
}

/// A child's mind about an endpoint.
#[derive(Debug)]
struct Link {
    /// The child.
    at: usize,
    /// It asked for the connection, and did not give it up since.
    wants: bool,
    /// It gave it up: to its mind there is none, until it asks again.
    gave_up: bool,
}

impl Member {
    fn is_wanted(&self) -> bool {
        self.links.iter().any(|link| link.wants)
    }

    fn link(&mut self, at: usize) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.at == at)
    }
}

impl Members {
    /// These are the endpoints from now on; those that stay keep what is known of them.
    pub(super) fn retain(&mut self, endpoints: &[Endpoint]) {
        let ids: HashSet<_> = endpoints.iter().map(|endpoint| endpoint.id).collect();
        self.known.retain(|id, _| ids.contains(id));
        for id in ids {
            self.known.entry(id).or_insert_with(|| Member {
                state: Connectivity::Idle,
                links: Vec::new(),
            });
        }
    }

    /// The endpoints of a child change. Those that are new to it and have connections.
    pub(super) fn exchange(
        &mut self,
        at: usize,
        before: &[SubchannelId],
        after: &[SubchannelId],
    ) -> Vec<(SubchannelId, Connectivity)> {
        if before == after {
            return Vec::new();
        }
        let old: HashSet<_> = before.iter().collect();
        let new: HashSet<_> = after.iter().collect();
        for id in before.iter().filter(|id| !new.contains(id)) {
            self.unlink(*id, at);
        }
        let mut connected = Vec::new();
        for id in after.iter().filter(|id| !old.contains(id)) {
            let Some(member) = self.known.get_mut(id) else {
                continue;
            };
            member.links.push(Link {
                at,
                wants: false,
                gave_up: false,
            });
            if member.state != Connectivity::Idle {
                connected.push((*id, member.state.clone()));
            }
        }
        connected
    }

    fn unlink(&mut self, id: SubchannelId, at: usize) {
        if let Some(member) = self.known.get_mut(&id) {
            member.links.retain(|link| link.at != at);
            self.unwanted.push_back(id);
        }
    }

    /// A child wants the connection. What it has missed of it, if it had given it up.
    pub(super) fn want(&mut self, id: SubchannelId, at: usize) -> Option<Connectivity> {
        let member = self.known.get_mut(&id)?;
        let link = member.link(at)?;
        link.wants = true;
        let missed = std::mem::take(&mut link.gave_up) && member.state != Connectivity::Idle;
        missed.then(|| member.state.clone())
    }

    /// A child gives the connection up.
    pub(super) fn give_up(&mut self, id: SubchannelId, at: usize) {
        if let Some(link) = self.known.get_mut(&id).and_then(|member| member.link(at)) {
            (link.wants, link.gave_up) = (false, true);
            self.unwanted.push_back(id);
        }
    }

    /// A connection to close, and the children that followed it.
    pub(super) fn next_unwanted(&mut self) -> Option<(SubchannelId, Vec<usize>)> {
        while let Some(id) = self.unwanted.pop_front() {
            let Some(member) = self.known.get_mut(&id) else {
                continue;
            };
            if member.is_wanted() {
                continue;
            }
            let before = std::mem::replace(&mut member.state, Connectivity::Idle);
            let links = member.links.iter().filter(|link| !link.gave_up);
            let followers = match before {
                Connectivity::Idle => Vec::new(),
                _ => links.map(|link| link.at).collect(),
            };
            return Some((id, followers));
        }
        None
    }

    /// Notes the state of a connection. Whether any child has the endpoint.
    pub(super) fn follow(&mut self, id: SubchannelId, state: &Connectivity) -> bool {
        let Some(member) = self.known.get_mut(&id) else {
            return false;
        };
        member.state = state.clone();
        !member.links.is_empty()
    }

    /// Whether it is an endpoint of the cluster.
    pub(super) fn is_known(&self, id: SubchannelId) -> bool {
        self.known.contains_key(&id)
    }

    /// The children that follow its connection.
    pub(super) fn followers(&self, id: SubchannelId) -> Vec<usize> {
        let links = self.known.get(&id).map(|member| &member.links);
        let following = links.into_iter().flatten().filter(|link| !link.gave_up);
        following.map(|link| link.at).collect()
    }

    /// The children that have it.
    pub(super) fn of(&self, id: SubchannelId) -> impl Iterator<Item = usize> {
        let links = self.known.get(&id).map(|member| &member.links);
        links.into_iter().flatten().map(|link| link.at)
    }
}
