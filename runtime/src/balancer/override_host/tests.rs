use http::HeaderMap;
use sidestep_proto::resource::LbPolicy;

use super::super::build;
use super::*;

/// The whole balancer of a cluster, with everything that it said.
struct Rig {
    policy: Box<dyn LoadBalancer>,
    now: Instant,
    picker: Option<Arc<dyn Picker>>,
    publishes: usize,
    connects: Vec<u32>,
    closes: Vec<u32>,
}

fn with_idle(id: u32, priority: u32, draining: bool, idle: u64) -> Endpoint {
    let address = format!("10.0.0.{id}:1");
    Endpoint {
        priority,
        session: Some(Arc::new(SessionHost {
            hosts: format!("{address},[::{id}]:1").into(),
            draining,
            idle_timeout: Duration::from_secs(idle),
        })),
        ..Endpoint::new(SubchannelId(id), address)
    }
}

fn endpoint(id: u32) -> Endpoint {
    with_idle(id, 0, false, 3600)
}

fn draining(id: u32) -> Endpoint {
    with_idle(id, 0, true, 3600)
}

impl Rig {
    fn new(policy: &LbPolicy) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "there is no other way to make one"
        )]
        let now = Instant::now();
        Self {
            policy: build(policy, 7),
            now,
            picker: None,
            publishes: 0,
            connects: Vec::new(),
            closes: Vec::new(),
        }
    }

    /// Round robin, with these endpoints connected.
    fn ready(endpoints: &[Endpoint]) -> Self {
        let mut rig = Self::new(&LbPolicy::round_robin());
        rig.update(endpoints);
        for id in std::mem::take(&mut rig.connects) {
            rig.set(id, Connectivity::Ready);
        }
        rig
    }

    fn run(&mut self, step: impl FnOnce(&mut dyn LoadBalancer, Instant, &mut Actions)) {
        let mut actions = Actions::new();
        step(&mut *self.policy, self.now, &mut actions);
        for action in actions {
            match action {
                Action::Connect(id) => self.connects.push(id.0),
                Action::Close(id) => self.closes.push(id.0),
                Action::Changed => {
                    self.picker = Some(self.policy.picker());
                    self.publishes += 1;
                }
            }
        }
    }

    fn update(&mut self, endpoints: &[Endpoint]) {
        self.run(|p, now, out| p.update(now, endpoints, None, out));
    }

    fn set(&mut self, id: u32, state: Connectivity) {
        self.run(|p, now, out| p.subchannel_changed(now, SubchannelId(id), &state, out));
    }

    fn fail(&mut self, id: u32) {
        let failure = Failure::new(sidestep_proto::code::CANNOT_CONNECT, "refused");
        self.set(id, Connectivity::TransientFailure(failure));
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

    fn pick(&self, hosts: Option<&str>, random: u64) -> Pick<'_> {
        let picker = self.picker.as_ref().expect("nothing was published");
        let now = self.now;
        picker.pick(&Call {
            authority: "a",
            path: "/a.A/M",
            headers: &HeaderMap::new(),
            random,
            hash: random,
            subset: None,
            session: hosts.map(|hosts| Sticky { hosts, now }),
        })
    }

    /// Picks for the session at `10.0.0.<id>:1`, and does what that asks for.
    fn session(&mut self, id: u32) -> Option<u32> {
        match self.pick(Some(&format!("10.0.0.{id}:1")), 0) {
            Pick::Ready(id) => Some(id.0),
            Pick::Connect(id) => {
                self.run(|p, now, out| p.connect_requested(now, id, out));
                None
            }
            Pick::Queue => None,
            other => panic!("{other:?}"),
        }
    }

    /// Whom calls without a session meet.
    fn others(&self) -> Vec<u32> {
        let picks = (0..32).map(|random| match self.pick(None, random) {
            Pick::Ready(id) => id.0,
            other => panic!("{other:?}"),
        });
        let ids: std::collections::BTreeSet<_> = picks.collect();
        ids.into_iter().collect()
    }

    fn closed(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.closes)
    }

    fn asked(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.connects)
    }
}

#[test]
fn a_session_meets_its_endpoint_by_any_of_its_addresses() {
    let rig = Rig::ready(&[0, 1, 2].map(endpoint));
    for random in 0..16 {
        for hosts in ["10.0.0.1:1", "[::1]:1", "9.9.9.9:9,10.0.0.1:1"] {
            let pick = rig.pick(Some(hosts), random);
            assert_eq!(pick, Pick::Ready(SubchannelId(1)), "{hosts}");
        }
    }
    assert_eq!(rig.others(), [0, 1, 2]);
}

#[test]
fn a_session_of_a_stranger_or_of_a_failing_endpoint_goes_by_the_policy() {
    let mut rig = Rig::ready(&[0, 1].map(endpoint));
    rig.fail(1);
    for hosts in ["10.0.0.7:1", "", "10.0.0.1:1", "nonsense"] {
        let pick = rig.pick(Some(hosts), 3);
        assert_eq!(pick, Pick::Ready(SubchannelId(0)), "{hosts}");
    }
    // The first that is ready.
    let pick = rig.pick(Some("10.0.0.1:1,10.0.0.0:1"), 3);
    assert_eq!(pick, Pick::Ready(SubchannelId(0)));
}

#[test]
fn a_list_without_end_is_not_read_to_its_end() {
    let rig = Rig::ready(&[0, 1].map(endpoint));
    let far = "x,".repeat(MOST_HOSTS) + "10.0.0.1:1";
    assert!(matches!(rig.pick(Some(&far), 0), Pick::Ready(_)));
    let picks: Vec<_> = (0..8).map(|random| rig.pick(Some(&far), random)).collect();
    assert!(
        picks.contains(&Pick::Ready(SubchannelId(0))),
        "it would always be the other: {picks:?}"
    );
}

#[test]
fn without_sessions_the_picker_below_is_published_as_it_is() {
    let plain = |id| Endpoint {
        session: None,
        ..endpoint(id)
    };
    let rig = Rig::ready(&[plain(0)]);
    let shown = format!("{:?}", rig.picker.as_ref().unwrap());
    assert!(!shown.contains("ByHost"), "{shown}");
    let rig = Rig::ready(&[endpoint(0)]);
    let shown = format!("{:?}", rig.picker.as_ref().unwrap());
    assert!(shown.contains("ByHost"), "{shown}");
}

#[test]
fn a_draining_endpoint_keeps_its_sessions_and_gets_no_others() {
    let mut rig = Rig::ready(&[0, 1].map(endpoint));
    assert_eq!(rig.session(1), Some(1));
    rig.update(&[endpoint(0), draining(1)]);
    assert_eq!(rig.closed(), [0; 0]);
    assert_eq!(rig.session(1), Some(1));
    assert_eq!(rig.others(), [0]);
    // The policy below does not hear of it.
    rig.set(1, Connectivity::Idle);
    assert_eq!(rig.others(), [0]);
    assert_eq!(rig.asked(), [0; 0]);
    assert_eq!(rig.session(1), None, "waits for the connection");
    assert_eq!(rig.asked(), [1]);
    rig.set(1, Connectivity::Connecting);
    assert_eq!(rig.session(1), None);
    rig.set(1, Connectivity::Ready);
    assert_eq!(rig.session(1), Some(1));
    assert_eq!(rig.others(), [0]);
    // Back in the set, the policy below is told of the connection that is there.
    rig.update(&[endpoint(0), endpoint(1)]);
    assert_eq!(rig.others(), [0, 1]);
}

#[test]
fn a_draining_endpoint_without_sessions_is_left() {
    let mut rig = Rig::ready(&[0, 1].map(endpoint));
    rig.update(&[endpoint(0), draining(1)]);
    assert_eq!(rig.closed(), [1]);
    assert_eq!(rig.others(), [0]);
    // A session that another client began there leads back.
    assert_eq!(rig.session(1), None);
    assert_eq!(rig.asked(), [1]);
}

#[test]
fn only_draining_endpoints_are_none_for_new_calls() {
    let mut rig = Rig::ready(&[endpoint(0)]);
    assert_eq!(rig.session(0), Some(0));
    rig.update(&[draining(0)]);
    assert_eq!(rig.session(0), Some(0));
    assert!(matches!(rig.pick(None, 0), Pick::Fail(_)));
}

#[test]
fn a_call_that_waits_is_woken_by_every_end_of_the_wait() {
    for end in [Connectivity::Ready, Connectivity::Idle] {
        let mut rig = Rig::ready(&[endpoint(0), draining(1)]);
        assert_eq!(rig.session(1), None);
        rig.set(1, Connectivity::Connecting);
        assert_eq!(rig.session(1), None);
        let before = rig.publishes;
        rig.set(1, end.clone());
        assert!(rig.publishes > before, "{end:?}");
    }
    let mut rig = Rig::ready(&[endpoint(0), draining(1)]);
    assert_eq!(rig.session(1), None);
    rig.set(1, Connectivity::Connecting);
    assert_eq!(rig.session(1), None);
    let before = rig.publishes;
    rig.fail(1);
    assert!(rig.publishes > before);
    assert_eq!(rig.session(1), Some(0), "the policy picks");
}

#[test]
fn what_nobody_waits_for_is_not_published() {
    let endpoints = [endpoint(0), draining(1)];
    let mut rig = Rig::ready(&endpoints);
    assert_eq!(rig.session(1), None);
    let before = rig.publishes;
    rig.set(1, Connectivity::Connecting);
    assert_eq!(rig.publishes, before, "it only begins");
    rig.set(1, Connectivity::Ready);
    let before = rig.publishes;
    rig.update(&endpoints);
    assert_eq!(rig.publishes, before, "an equal update");
}

#[test]
fn a_session_reaches_a_priority_that_is_not_in_use_and_the_policy_does_not_hear_of_it() {
    let lower = with_idle(1, 1, false, 60);
    let mut rig = Rig::new(&LbPolicy::round_robin());
    rig.update(&[endpoint(0), lower]);
    assert_eq!(rig.asked(), [0]);
    rig.set(0, Connectivity::Ready);
    assert_eq!(rig.session(1), None);
    assert_eq!(rig.asked(), [1]);
    rig.set(1, Connectivity::Connecting);
    rig.set(1, Connectivity::Ready);
    assert_eq!(rig.session(1), Some(1));
    assert_eq!(rig.others(), [0]);
    // When the priority is used after all, its connection is there.
    rig.set(0, Connectivity::Idle);
    rig.fail(0);
    assert_eq!(rig.others(), [1]);
    assert_eq!(rig.closed(), [0; 0]);
}

#[test]
fn idle_sessions_are_swept_at_most_every_five_seconds() {
    let mut rig = Rig::ready(&[endpoint(0), with_idle(1, 0, true, 60)]);
    assert_eq!(rig.session(1), None);
    rig.set(1, Connectivity::Connecting);
    rig.set(1, Connectivity::Ready);
    rig.advance(Duration::from_secs(50));
    assert_eq!(rig.session(1), Some(1));
    rig.advance(Duration::from_secs(59));
    assert_eq!(rig.closed(), [0; 0]);
    rig.advance(Duration::from_secs(6));
    assert_eq!(rig.closed(), [1]);
    rig.advance(Duration::from_secs(3600));
    assert_eq!(rig.closed(), [0; 0], "once");
    assert_eq!(rig.policy.next_timeout(), None);
    // With no time to live at all it is still not swept at once.
    let mut rig = Rig::ready(&[endpoint(0), with_idle(1, 0, true, 1)]);
    assert_eq!(rig.session(1), None);
    rig.set(1, Connectivity::Connecting);
    rig.set(1, Connectivity::Ready);
    assert_eq!(rig.session(1), Some(1));
    rig.advance(Duration::from_millis(4900));
    assert_eq!(rig.closed(), [0; 0]);
    rig.advance(Duration::from_millis(200));
    assert_eq!(rig.closed(), [1]);
}

#[test]
fn what_the_policy_gives_up_is_kept_for_sessions() {
    // Priority 1 was used, and is given up 15 minutes after priority 0 is back.
    let lower = with_idle(1, 1, false, 3600);
    let mut rig = Rig::new(&LbPolicy::round_robin());
    rig.update(&[endpoint(0), lower]);
    rig.fail(0);
    rig.asked();
    rig.set(1, Connectivity::Ready);
    rig.set(0, Connectivity::Ready);
    rig.advance(Duration::from_secs(800));
    assert_eq!(rig.session(1), Some(1));
    rig.advance(Duration::from_secs(200));
    assert_eq!(rig.closed(), [0; 0]);
    assert_eq!(rig.session(1), Some(1));
    assert_eq!(rig.others(), [0]);
    rig.advance(Duration::from_secs(3700));
    assert_eq!(rig.closed(), [1]);
}

#[test]
fn a_policy_that_connects_on_demand_is_not_confused_by_sessions() {
    let mut rig = Rig::new(&LbPolicy::PickFirst { shuffle: false });
    rig.update(&[0, 1].map(endpoint));
    if let Pick::Connect(id) = rig.pick(None, 0) {
        rig.run(|p, now, out| p.connect_requested(now, id, out));
    }
    assert_eq!(rig.asked(), [0]);
    rig.set(0, Connectivity::Connecting);
    rig.set(0, Connectivity::Ready);
    assert_eq!(rig.others(), [0]);
    assert_eq!(rig.session(1), None);
    assert_eq!(rig.asked(), [1]);
    rig.set(1, Connectivity::Connecting);
    rig.set(1, Connectivity::Ready);
    assert_eq!(rig.session(1), Some(1));
    assert_eq!(rig.others(), [0]);
    assert_eq!(rig.closed(), [0; 0]);
}

#[test]
fn sessions_that_are_no_more_cost_no_connection() {
    let mut rig = Rig::ready(&[endpoint(0), draining(1)]);
    assert_eq!(rig.session(1), None);
    rig.set(1, Connectivity::Connecting);
    rig.set(1, Connectivity::Ready);
    // The endpoint is fit again, and sessions lead there no more.
    rig.update(&[
        endpoint(0),
        Endpoint {
            session: None,
            ..endpoint(1)
        },
    ]);
    assert_eq!(rig.closed(), [1]);
}

#[test]
fn random_events_never_lead_a_session_to_an_endpoint_that_is_not_ready() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    for policy in [
        LbPolicy::round_robin(),
        LbPolicy::PickFirst { shuffle: false },
        LbPolicy::RingHash {
            min_ring_size: 64,
            max_ring_size: 4096,
        },
    ] {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut rig = Rig::new(&policy);
        let mut states = [const { None::<Connectivity> }; 6];
        for _ in 0..20_000 {
            random_step(&mut rig, &mut states, &mut rng);
            let id = rng.u32(..6);
            if rig.picker.is_none() {
                continue;
            }
            let hosts = format!("10.0.0.{id}:1");
            let (pick, state) = (rig.pick(Some(&hosts), rng.u64(..)), &states[id as usize]);
            let right = match (pick, state) {
                (Pick::Ready(to), Some(Connectivity::Ready)) => to.0 == id,
                (Pick::Connect(to), Some(Connectivity::Idle)) => to.0 == id,
                (Pick::Queue, Some(Connectivity::Connecting)) => true,
                // By the policy, which the conformance suite looks at.
                (Pick::Ready(to), _) => states[to.0 as usize] == Some(Connectivity::Ready),
                (_, Some(Connectivity::TransientFailure(_)) | None) => true,
                _ => false,
            };
            assert!(right, "{policy:?}: {id} {pick:?} {states:?}");
        }
    }
}

/// One event, as `control` would bring it. `None` is an endpoint that is not there.
fn random_step(rig: &mut Rig, states: &mut [Option<Connectivity>; 6], rng: &mut fastrand::Rng) {
    let id = rng.u32(..6);
    match rng.u8(..10) {
        0 => {
            let ids: Vec<u32> = (0..6).filter(|_| rng.u8(..4) > 0).collect();
            let list: Vec<_> = ids
                .iter()
                .map(|id| with_idle(*id, rng.u32(..2), rng.u8(..3) == 0, 30))
                .collect();
            for (id, state) in (0..).zip(states.iter_mut()) {
                match ids.contains(&id) {
                    true => *state = Some(state.take().unwrap_or(Connectivity::Idle)),
                    false => *state = None,
                }
            }
            rig.update(&list);
        }
        1 => rig.advance(Duration::from_secs(rng.u64(..100))),
        2 => {
            if rig.picker.is_some() {
                let hosts = format!("10.0.0.{id}:1");
                let hosts = rng.bool().then_some(&*hosts);
                if let Pick::Connect(id) = rig.pick(hosts, rng.u64(..)) {
                    rig.run(|p, now, out| p.connect_requested(now, id, out));
                }
            }
        }
        _ => {
            let next = match &states[id as usize] {
                Some(Connectivity::Connecting) if rng.bool() => Connectivity::Ready,
                Some(Connectivity::Connecting) => {
                    let code = sidestep_proto::code::CANNOT_CONNECT;
                    Connectivity::TransientFailure(Failure::new(code, "refused"))
                }
                Some(Connectivity::Ready | Connectivity::TransientFailure(_)) => Connectivity::Idle,
                Some(Connectivity::Idle) | None => return,
            };
            states[id as usize] = Some(next.clone());
            rig.set(id, next);
        }
    }
    obey(rig, states);
}

/// Carries out what was asked for, and reports it.
fn obey(rig: &mut Rig, states: &mut [Option<Connectivity>; 6]) {
    for _ in 0..1_000 {
        for id in rig.closed() {
            if let Some(state) = &mut states[id as usize] {
                *state = Connectivity::Idle;
            }
        }
        let asked = rig.asked();
        if asked.is_empty() {
            return;
        }
        for id in asked {
            let state = &mut states[id as usize];
            if *state == Some(Connectivity::Idle) {
                *state = Some(Connectivity::Connecting);
                rig.set(id, Connectivity::Connecting);
            }
        }
    }
    panic!("asks again and again");
}
