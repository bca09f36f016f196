//! Which peer answered which call: of the next so many calls, and of all.

use std::collections::BTreeMap;

use tokio::sync::oneshot;
use tonic::Code;

use crate::testing::load_balancer_accumulated_stats_response::MethodStats;
use crate::testing::load_balancer_stats_response::{
    MetadataEntry, MetadataType, RpcMetadata, RpcsByPeer,
};
use crate::testing::{LoadBalancerAccumulatedStatsResponse, LoadBalancerStatsResponse};

use super::client::Kind;

type Metadata = BTreeMap<String, String>;

/// How a call ended.
pub(super) struct Ended<'a> {
    pub(super) kind: Kind,
    pub(super) code: Code,
    pub(super) peer: Option<&'a str>,
    pub(super) initial: &'a Metadata,
    pub(super) trailing: &'a Metadata,
}

/// What is counted.
#[derive(Default)]
pub(super) struct Stats {
    next_call: u64,
    next_watcher: u64,
    watchers: BTreeMap<u64, Watcher>,
    methods: BTreeMap<Kind, MethodStats>,
}

impl Stats {
    /// A call begins; the answer is its number.
    pub(super) fn begin(&mut self, kind: Kind) -> u64 {
        self.methods.entry(kind).or_default().rpcs_started += 1;
        self.next_call += 1;
        self.next_call - 1
    }

    pub(super) fn end(&mut self, call: u64, ended: &Ended<'_>) {
        let method = self.methods.entry(ended.kind).or_default();
        *method.result.entry(ended.code.into()).or_default() += 1;
        for watcher in self.watchers.values_mut() {
            watcher.end(call, ended);
        }
    }

    /// Watches the `n` calls that begin next; told once all have ended.
    pub(super) fn watch(&mut self, n: u64, keys: Vec<String>) -> (u64, oneshot::Receiver<()>) {
        let (done, told) = oneshot::channel();
        let watcher = Watcher {
            calls: self.next_call..self.next_call.saturating_add(n),
            missing: n,
            keys,
            found: LoadBalancerStatsResponse::default(),
            done: Some(done),
        };
        self.next_watcher += 1;
        self.watchers.insert(self.next_watcher, watcher);
        (self.next_watcher, told)
    }

    /// What was found so far; calls that have not ended count as failed.
    pub(super) fn stop(&mut self, watcher: u64) -> LoadBalancerStatsResponse {
        let watcher = self.watchers.remove(&watcher);
        let (mut found, missing) = watcher.map(|w| (w.found, w.missing)).unwrap_or_default();
        let missing = i32::try_from(missing).unwrap_or(i32::MAX);
        found.num_failures = found.num_failures.saturating_add(missing);
        found
    }

    pub(super) fn accumulated(&self) -> LoadBalancerAccumulatedStatsResponse {
        let mut all = LoadBalancerAccumulatedStatsResponse::default();
        for (kind, stats) in &self.methods {
            let name = kind.upper_case().to_owned();
            let ok = stats.result.get(&0).copied().unwrap_or(0);
            let ended: i32 = stats.result.values().sum();
            all.num_rpcs_started_by_method
                .insert(name.clone(), stats.rpcs_started);
            all.num_rpcs_succeeded_by_method.insert(name.clone(), ok);
            all.num_rpcs_failed_by_method
                .insert(name.clone(), ended - ok);
            all.stats_per_method.insert(name, stats.clone());
        }
        all
    }
}

struct Watcher {
    calls: std::ops::Range<u64>,
    missing: u64,
    keys: Vec<String>,
    found: LoadBalancerStatsResponse,
    done: Option<oneshot::Sender<()>>,
}

impl Watcher {
    fn end(&mut self, call: u64, ended: &Ended<'_>) {
        if !self.calls.contains(&call) {
            return;
        }
        match ended.peer {
            Some(peer) if ended.code == Code::Ok => self.answered(peer, ended),
            _ => self.found.num_failures += 1,
        }
        self.missing -= 1;
        if self.missing == 0
            && let Some(done) = self.done.take()
        {
            // Whoever asked may be gone.
            let _ = done.send(());
        }
    }

    fn answered(&mut self, peer: &str, ended: &Ended<'_>) {
        let found = &mut self.found;
        *found.rpcs_by_peer.entry(peer.to_owned()).or_default() += 1;
        let method = found.rpcs_by_method.entry(ended.kind.name().to_owned());
        let RpcsByPeer { rpcs_by_peer } = method.or_default();
        *rpcs_by_peer.entry(peer.to_owned()).or_default() += 1;
        if self.keys.is_empty() {
            return;
        }
        let initial = wanted(&self.keys, ended.initial, MetadataType::Initial);
        let trailing = wanted(&self.keys, ended.trailing, MetadataType::Trailing);
        let metadata = initial.chain(trailing).collect();
        let by_peer = found.metadatas_by_peer.entry(peer.to_owned()).or_default();
        by_peer.rpc_metadata.push(RpcMetadata { metadata });
    }
}

fn wanted<'a>(
    keys: &'a [String],
    metadata: &'a Metadata,
    kind: MetadataType,
) -> impl Iterator<Item = MetadataEntry> + 'a {
    let is_wanted = |key: &str| keys.iter().any(|k| k == "*" || k.eq_ignore_ascii_case(key));
    metadata
        .iter()
        .filter(move |(key, _)| is_wanted(key))
        .map(move |(key, value)| MetadataEntry {
            key: key.clone(),
            value: value.clone(),
            r#type: kind.into(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended<'a>(
        kind: Kind,
        code: Code,
        peer: Option<&'a str>,
        initial: &'a Metadata,
    ) -> Ended<'a> {
        Ended {
            kind,
            code,
            peer,
            initial,
            trailing: initial,
        }
    }

    #[test]
    fn the_next_calls_are_watched_and_no_others() {
        let (mut stats, none) = (Stats::default(), Metadata::new());
        let metadata = Metadata::from([("A".to_owned(), "1".to_owned())]);
        let earlier = stats.begin(Kind::Unary);
        let (watcher, mut told) = stats.watch(3, vec!["a".to_owned()]);
        let calls = [Kind::Unary, Kind::Empty, Kind::Unary, Kind::Unary].map(|k| stats.begin(k));
        stats.end(earlier, &ended(Kind::Unary, Code::Ok, Some("x"), &none));
        stats.end(calls[3], &ended(Kind::Unary, Code::Ok, Some("x"), &none));
        stats.end(
            calls[0],
            &ended(Kind::Unary, Code::Ok, Some("x"), &metadata),
        );
        stats.end(calls[1], &ended(Kind::Empty, Code::Ok, Some("y"), &none));
        assert!(told.try_recv().is_err());
        stats.end(
            calls[2],
            &ended(Kind::Unary, Code::Unavailable, None, &none),
        );
        assert!(told.try_recv().is_ok());
        let found = stats.stop(watcher);
        assert_eq!(found.num_failures, 1);
        assert_eq!(
            found.rpcs_by_peer,
            [("x".to_owned(), 1), ("y".to_owned(), 1)].into()
        );
        assert_eq!(found.rpcs_by_method["EmptyCall"].rpcs_by_peer["y"], 1);
        let kept = &found.metadatas_by_peer["x"].rpc_metadata[0].metadata;
        let kinds: Vec<_> = kept.iter().map(MetadataEntry::r#type).collect();
        assert_eq!(kinds, [MetadataType::Initial, MetadataType::Trailing]);
        assert_eq!((&*kept[0].key, &*kept[0].value), ("A", "1"));
        let all = stats.accumulated();
        let unary = &all.stats_per_method["UNARY_CALL"];
        assert_eq!(
            (unary.rpcs_started, unary.result[&0], unary.result[&14]),
            (4, 3, 1)
        );
    }

    #[test]
    fn what_has_not_ended_counts_as_failed() {
        let mut stats = Stats::default();
        let (watcher, _told) = stats.watch(5, vec![]);
        stats.begin(Kind::Unary);
        assert_eq!(stats.stop(watcher).num_failures, 5);
    }
}
