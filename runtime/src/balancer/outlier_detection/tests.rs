use sidestep_proto::resource::{FailurePercentage, FailureRun, LbPolicy, SuccessRate};

use super::super::conformance::pick;
use super::super::{Blame, build};
use super::*;

const SECOND: Duration = Duration::from_secs(1);
const NOBODY: [u32; 0] = [];

/// Endpoints of one cluster, all connected, under the policy.
struct Rig {
    policy: OutlierDetection,
    now: Instant,
    began: Instant,
    endpoints: Vec<Endpoint>,
    news: Vec<News>,
}

impl Rig {
    fn new(count: u32, config: &resource::OutlierDetection) -> Self {
        Self::of(&LbPolicy::round_robin(), count, config)
    }

    fn of(policy: &LbPolicy, count: u32, config: &resource::OutlierDetection) -> Self {
        let rig = super::super::conformance::Rig::new(build(policy, 1));
        let endpoints: Vec<_> = (0..count).map(|id| rig.endpoint(id)).collect();
        let now = rig.now;
        let mut rig = Self {
            policy: OutlierDetection::new(build(policy, 1), now, 1),
            now,
            began: now,
            endpoints,
            news: Vec::new(),
        };
        rig.configure(Some(config));
        rig.update();
        for id in 0..count {
            rig.set(id, Connectivity::Ready);
        }
        rig
    }

    fn run(&mut self, step: impl FnOnce(&mut OutlierDetection, Instant, &mut Actions)) -> Actions {
        let mut out = Actions::new();
        step(&mut self.policy, self.now, &mut out);
        self.news.extend(self.policy.take_news());
        out
    }

    fn configure(&mut self, config: Option<&resource::OutlierDetection>) {
        self.run(|p, now, out| p.configure(now, config, out));
    }

    fn update(&mut self) {
        let endpoints = self.endpoints.clone();
        self.run(|p, now, out| p.update(now, &endpoints, None, out));
    }

    fn set(&mut self, id: u32, state: Connectivity) {
        self.run(|p, now, out| p.subchannel_changed(now, SubchannelId(id), &state, out));
    }

    fn load(&self, id: u32) -> Arc<Load> {
        let mut all = self.endpoints.iter();
        Arc::clone(&all.find(|e| e.id.0 == id).expect("it is there").load)
    }

    /// Calls come to an end.
    fn calls(&mut self, id: u32, good: u32, bad: u32) {
        let load = self.load(id);
        assert!(load.interest().contains(Interest::OUTCOMES));
        for wakes in (0..good)
            .map(|_| load.succeeded())
            .chain((0..bad).map(|_| load.failed(Blame::Gateway)))
            .collect::<Vec<_>>()
        {
            if wakes {
                load.told();
                self.run(|p, now, out| p.noticed(now, SubchannelId(id), out));
            }
        }
    }

    fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        for turn in 0.. {
            let Some(at) = self.policy.next_timeout().filter(|at| *at <= end) else {
                break;
            };
            assert!(turn < 1_000, "the same timeout comes again and again");
            self.now = self.now.max(at);
            self.run(|p, now, out| p.handle_timeout(now, out));
        }
        self.now = end;
    }

    fn ejected(&self) -> Vec<u32> {
        let ids = self.endpoints.iter().map(|e| e.id);
        let out = ids.filter(|id| self.policy.standing(*id).ejected.is_some());
        out.map(|id| id.0).collect()
    }

    /// Whom the next calls meet; `None`: nobody.
    fn picks(&mut self, calls: u64) -> Vec<Option<u32>> {
        let picker = self.policy.picker();
        let one = |n: u64| match pick(&*picker, n.wrapping_mul(0x9E37_79B9_7F4A_7C15)) {
            Pick::Ready(id) => Some(id.0),
            _ => None,
        };
        (0..calls).map(one).collect()
    }

    fn used(&mut self) -> Vec<u32> {
        let mut used: Vec<_> = self.picks(100).into_iter().flatten().collect();
        used.sort_unstable();
        used.dedup();
        used
    }

    /// News so far, in words.
    fn told(&mut self) -> Vec<String> {
        let news = std::mem::take(&mut self.news).into_iter();
        let words = news.map(|news| {
            let what = match news.what {
                Event::Ejected { cause, time } => format!("ejected {time:?} {}", cause.method()),
                Event::Spared { cause, reason } => format!("spared {} {reason:?}", cause.method()),
                Event::Probed => "probed".to_owned(),
                Event::Returned => "returned".to_owned(),
            };
            format!("{} {what}", news.endpoint.0)
        });
        words.collect()
    }
}

fn percentage() -> resource::OutlierDetection {
    resource::OutlierDetection {
        max_ejection_percent: 50,
        failure_percentage: Some(FailurePercentage {
            threshold: 50,
            enforcing: 100,
            minimum_hosts: 1,
            request_volume: 10,
        }),
        ..resource::OutlierDetection::default()
    }
}

fn in_a_row(count: u32) -> resource::OutlierDetection {
    resource::OutlierDetection {
        max_ejection_percent: 50,
        consecutive_failures: Some(FailureRun {
            count,
            enforcing: 100,
        }),
        ..resource::OutlierDetection::default()
    }
}

#[test]
fn without_rules_nothing_is_measured_and_nobody_wakes_up() {
    let mut rig = Rig::new(2, &resource::OutlierDetection::default());
    assert!(rig.load(0).interest().is_empty());
    assert_eq!(rig.policy.next_timeout(), None);
    assert_eq!(rig.used(), [0, 1]);
}

#[test]
fn counters_are_of_one_interval() {
    let mut rig = Rig::new(2, &percentage());
    rig.calls(0, 4, 5);
    rig.advance(10 * SECOND);
    assert_eq!(rig.ejected(), NOBODY, "too few calls");
    rig.calls(0, 0, 5);
    rig.advance(10 * SECOND);
    assert_eq!(rig.ejected(), NOBODY, "the first nine are forgotten");
    rig.calls(0, 4, 6);
    rig.calls(1, 5, 5);
    assert_eq!(rig.ejected(), NOBODY, "only at the end of the interval");
    rig.advance(10 * SECOND);
    assert_eq!(rig.ejected(), [0], "50% is not more than 50%");
    assert_eq!(rig.used(), [1]);
    assert_eq!(rig.told(), ["0 ejected 30s failure_percentage"]);
}

#[test]
fn an_ejection_lasts_longer_each_time_and_less_after_good_intervals() {
    let config = resource::OutlierDetection {
        max_ejection_time: 70 * SECOND,
        ..percentage()
    };
    let mut rig = Rig::new(2, &config);
    let mut times = Vec::new();
    for _ in 0..4 {
        rig.calls(0, 0, 10);
        rig.advance(10 * SECOND);
        assert_eq!(rig.ejected(), [0]);
        let until = rig.policy.standing(SubchannelId(0)).ejected.unwrap().until;
        times.push((until - rig.now).as_secs());
        rig.advance(until - rig.now - SECOND);
        assert_eq!(rig.ejected(), [0]);
        rig.advance(SECOND);
        assert_eq!(rig.ejected(), NOBODY);
        assert_eq!(rig.used(), [0, 1]);
    }
    assert_eq!(times, [30, 60, 70, 70]);
    // Two good intervals take two off the multiplier of four.
    rig.advance(20 * SECOND);
    rig.calls(0, 0, 10);
    rig.advance(10 * SECOND);
    let until = rig.policy.standing(SubchannelId(0)).ejected.unwrap().until;
    assert_eq!(
        until - rig.now,
        70 * SECOND,
        "three times thirty, at most 70"
    );
    rig.advance(until - rig.now + 20 * SECOND);
    rig.advance(20 * SECOND);
    rig.calls(0, 0, 10);
    rig.advance(10 * SECOND);
    let until = rig.policy.standing(SubchannelId(0)).ejected.unwrap().until;
    assert_eq!(until - rig.now, 30 * SECOND, "as the first time");
}

#[test]
fn the_longest_time_is_never_less_than_the_base() {
    let config = resource::OutlierDetection {
        base_ejection_time: 400 * SECOND,
        max_ejection_time: 10 * SECOND,
        ..percentage()
    };
    assert_eq!(ejection_time(&config, 1), 400 * SECOND);
    assert_eq!(ejection_time(&config, u32::MAX), 400 * SECOND);
}

#[test]
fn the_share_is_looked_at_before_each_ejection() {
    for (percent, expected) in [(0, 0), (10, 1), (24, 1), (26, 2), (50, 2), (100, 4)] {
        let config = resource::OutlierDetection {
            max_ejection_percent: percent,
            ..percentage()
        };
        let mut rig = Rig::new(4, &config);
        for id in 0..4 {
            rig.calls(id, 0, 10);
        }
        rig.advance(10 * SECOND);
        assert_eq!(rig.ejected().len(), expected, "{percent}%");
        let spared = rig.told();
        let spared = spared.iter().filter(|news| news.contains("MaxEjection"));
        assert_eq!(spared.count(), 4 - expected, "{percent}%");
    }
}

#[test]
fn one_that_does_worse_than_the_others_is_ejected() {
    let config = resource::OutlierDetection {
        success_rate: Some(SuccessRate::default()),
        ..resource::OutlierDetection::default()
    };
    let mut rig = Rig::new(6, &config);
    for id in 0..6 {
        match id {
            3 => rig.calls(id, 50, 50),
            _ => rig.calls(id, 100, 0),
        }
    }
    rig.advance(10 * SECOND);
    assert_eq!(rig.ejected(), [3]);
    assert_eq!(rig.told(), ["3 ejected 30s success_rate"]);
    let reason = rig.policy.standing(SubchannelId(3)).ejected.unwrap().reason;
    assert!(
        reason.starts_with("50.0% of its calls succeeded"),
        "{reason}"
    );
}

#[test]
fn the_share_of_enforcement_is_drawn() {
    let mut config = percentage();
    config.max_ejection_percent = 100;
    if let Some(rule) = &mut config.failure_percentage {
        rule.enforcing = 50;
    }
    let mut rig = Rig::new(60, &config);
    for id in 0..60 {
        rig.calls(id, 0, 10);
    }
    rig.advance(10 * SECOND);
    let ejected = rig.ejected().len();
    // Half of them: 5 sigma is 19.
    assert!(ejected.abs_diff(30) < 19, "{ejected}");
    let spared = rig.told();
    let spared = spared
        .iter()
        .filter(|n| n.contains("EnforcementPercentage"));
    assert_eq!(spared.count(), 60 - ejected);
}

#[test]
fn without_rules_everybody_is_back() {
    let mut rig = Rig::new(2, &percentage());
    rig.calls(0, 0, 10);
    rig.advance(10 * SECOND);
    assert_eq!(rig.used(), [1]);
    rig.configure(Some(&resource::OutlierDetection::default()));
    assert_eq!(rig.used(), [0, 1]);
    assert_eq!(rig.policy.next_timeout(), None);
    // And nothing of it is remembered.
    rig.configure(Some(&percentage()));
    rig.calls(0, 0, 10);
    rig.advance(10 * SECOND);
    rig.told();
    rig.configure(None);
    assert_eq!(rig.told(), ["0 returned"]);
    assert!(rig.load(0).interest().is_empty());
}

#[test]
fn other_rules_leave_the_ejected_out_and_the_interval_running() {
    let mut rig = Rig::new(4, &percentage());
    rig.calls(0, 0, 10);
    rig.advance(10 * SECOND);
    rig.advance(4 * SECOND);
    let mut config = percentage();
    config.interval = 6 * SECOND;
    rig.configure(Some(&config));
    assert_eq!(rig.ejected(), [0]);
    let next = rig.policy.next_timeout().unwrap();
    assert_eq!(next - rig.began, 16 * SECOND);
    config.interval = SECOND;
    rig.configure(Some(&config));
    assert!(rig.policy.next_timeout().unwrap() <= rig.now, "overdue");
}

#[test]
fn the_ejected_stay_out_when_others_come_and_go_or_the_policy_changes() {
    let mut rig = Rig::new(4, &percentage());
    rig.calls(0, 0, 10);
    rig.advance(10 * SECOND);
    rig.endpoints.remove(3);
    rig.update();
    assert_eq!(rig.used(), [1, 2]);
    for policy in [
        LbPolicy::Random,
        LbPolicy::LeastRequest { choice_count: 2 },
        LbPolicy::RingHash {
            min_ring_size: 64,
            max_ring_size: 64,
        },
        LbPolicy::Maglev { table_size: 251 },
    ] {
        for endpoint in &rig.endpoints {
            endpoint.load.forget();
        }
        rig.policy.replace_child(build(&policy, 1));
        rig.update();
        for id in 0..3 {
            rig.set(id, Connectivity::Ready);
        }
        assert_eq!(rig.used(), [1, 2], "{policy:?}");
        assert!(rig.load(0).interest().contains(Interest::OUTCOMES));
    }
    rig.advance(30 * SECOND);
    assert_eq!(rig.used(), [0, 1, 2]);
    // One that leaves and comes back is another one.
    rig.calls(0, 0, 10);
    rig.advance(10 * SECOND);
    assert_eq!(rig.ejected(), [0]);
    let gone = rig.endpoints.remove(0);
    rig.update();
    rig.endpoints.push(gone);
    rig.update();
    assert_eq!(rig.ejected(), NOBODY);
}

#[test]
fn a_connection_that_is_lost_meanwhile_is_not_taken_for_ready() {
    let mut rig = Rig::new(2, &percentage());
    rig.calls(0, 0, 10);
    rig.advance(10 * SECOND);
    let id = SubchannelId(0);
    let out = rig.run(|p, now, out| p.subchannel_changed(now, id, &Connectivity::Idle, out));
    let connects = |out: &Actions| {
        let asks = |a: &Action| matches!(a, Action::Connect(SubchannelId(0)));
        out.iter().any(asks)
    };
    assert!(connects(&out), "it is kept connected");
    rig.set(0, Connectivity::Connecting);
    assert_eq!(rig.used(), [1]);
    rig.advance(30 * SECOND);
    assert_eq!(rig.ejected(), NOBODY);
    assert_eq!(rig.used(), [1], "it is still connecting");
    rig.set(0, Connectivity::Ready);
    assert_eq!(rig.used(), [0, 1]);
}

#[test]
fn failures_in_a_row_eject_at_once() {
    let mut rig = Rig::new(3, &in_a_row(5));
    rig.calls(0, 0, 4);
    rig.calls(0, 1, 4);
    assert_eq!(rig.ejected(), NOBODY);
    rig.calls(0, 0, 1);
    assert_eq!(rig.ejected(), [0]);
    assert_eq!(rig.used(), [1, 2]);
    assert_eq!(rig.told(), ["0 ejected 30s consecutive_5xx"]);
    // Calls that were under way.
    rig.calls(0, 0, 20);
    assert!(rig.told().is_empty());
}

#[test]
fn one_call_decides_about_the_return() {
    let mut rig = Rig::new(3, &in_a_row(2));
    rig.calls(0, 0, 2);
    rig.advance(30 * SECOND - Duration::from_millis(1));
    assert_eq!(rig.picks(4).iter().filter(|p| **p == Some(0)).count(), 0);
    rig.advance(Duration::from_millis(1));
    assert_eq!(rig.told(), ["0 ejected 30s consecutive_5xx", "0 probed"]);
    assert_eq!(rig.picks(100).iter().filter(|p| **p == Some(0)).count(), 1);
    assert_eq!(rig.picks(100).iter().filter(|p| **p == Some(0)).count(), 0);
    // It fails: out for longer, and nobody is sent there.
    rig.calls(0, 0, 1);
    assert_eq!(rig.told(), ["0 ejected 60s probe"]);
    assert_eq!(rig.picks(100).iter().filter(|p| **p == Some(0)).count(), 0);
    rig.advance(60 * SECOND);
    assert_eq!(rig.picks(100).iter().filter(|p| **p == Some(0)).count(), 1);
    rig.calls(0, 1, 0);
    assert_eq!(rig.ejected(), NOBODY);
    assert_eq!(rig.used(), [0, 1, 2]);
    assert_eq!(rig.told(), ["0 probed", "0 returned"]);
}

#[test]
fn a_probe_that_tells_nothing_is_followed_by_another() {
    let mut rig = Rig::new(3, &in_a_row(2));
    rig.calls(0, 0, 2);
    rig.advance(31 * SECOND);
    assert_eq!(rig.picks(100).iter().filter(|p| **p == Some(0)).count(), 1);
    rig.advance(10 * SECOND);
    assert_eq!(rig.picks(100).iter().filter(|p| **p == Some(0)).count(), 1);
}

#[test]
fn only_a_connected_endpoint_is_probed() {
    let mut rig = Rig::new(3, &in_a_row(2));
    rig.calls(0, 0, 2);
    rig.set(0, Connectivity::Connecting);
    rig.advance(31 * SECOND);
    assert_eq!(rig.used(), [1, 2]);
    let out = rig.run(|p, now, out| {
        p.subchannel_changed(now, SubchannelId(0), &Connectivity::Ready, out);
    });
    assert!(out.iter().any(|action| matches!(action, Action::Changed)));
    assert_eq!(rig.picks(100).iter().filter(|p| **p == Some(0)).count(), 1);
}

#[test]
fn rows_of_failures_never_eject_the_last() {
    let mut config = in_a_row(2);
    config.max_ejection_percent = 100;
    let mut rig = Rig::new(3, &config);
    for _ in 0..3 {
        for id in 0..3 {
            rig.calls(id, 0, 2);
        }
    }
    assert_eq!(rig.ejected(), [0, 1]);
    assert_eq!(rig.used(), [2]);
    let mut alone = Rig::new(1, &config);
    alone.calls(0, 0, 50);
    assert_eq!(alone.used(), [0]);
    // Half of them is enough where it was said so.
    let mut rig = Rig::new(4, &in_a_row(2));
    for id in 0..4 {
        rig.calls(id, 0, 2);
    }
    assert_eq!(rig.ejected(), [0, 1]);
    assert_eq!(
        rig.told().last().map(String::as_str),
        Some("3 spared consecutive_5xx MaxEjectionOverflow")
    );
}

#[test]
fn who_is_out_is_told_to_calls_that_find_nobody() {
    let mut config = percentage();
    config.max_ejection_percent = 100;
    let mut rig = Rig::new(1, &config);
    rig.calls(0, 0, 10);
    rig.advance(10 * SECOND);
    let picker = rig.policy.picker();
    let Pick::Fail(failure) = pick(&*picker, 0) else {
        panic!("{picker:?}");
    };
    assert_eq!(failure.1, code::EJECTED);
    assert!(
        failure
            .0
            .ends_with("ejected for 30s, because 100.0% of its calls failed, 50% may"),
        "{failure}"
    );
}

#[test]
fn pick_first_goes_on_to_the_next_one() {
    let mut rig = Rig::of(&LbPolicy::PickFirst { shuffle: false }, 2, &in_a_row(2));
    let first = rig.used()[0];
    rig.calls(first, 0, 2);
    // The policy below is lazy: a call asks for a connection.
    for _ in 0..4 {
        let picker = rig.policy.picker();
        if let Pick::Connect(id) = pick(&*picker, 0) {
            rig.run(|p, now, out| p.connect_requested(now, id, out));
        }
    }
    rig.set(1 - first, Connectivity::Ready);
    assert_eq!(rig.used(), [1 - first]);
}

#[test]
fn ejected_endpoints_are_counted_over_all_priorities() {
    let mut rig = Rig::new(4, &in_a_row(2));
    for (id, endpoint) in (0..).zip(&mut rig.endpoints) {
        endpoint.priority = id / 2;
    }
    rig.update();
    for id in 0..4 {
        rig.set(id, Connectivity::Ready);
    }
    assert_eq!(rig.used(), [0, 1]);
    rig.calls(0, 0, 2);
    rig.calls(1, 0, 2);
    assert_eq!(rig.ejected(), [0, 1]);
    assert_eq!(rig.used(), [2, 3], "the next priority");
    rig.advance(30 * SECOND);
    let probed = rig.picks(2);
    assert_eq!(probed, [Some(0), Some(1)], "each by one call");
    rig.calls(0, 1, 0);
    assert_eq!(rig.used(), [0]);
}
