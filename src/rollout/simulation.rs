//! Whole rollouts, by the hundred: random failures, restarts, operators, reloads and clocks, each from a seed that tells
//! the same story again.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::evidence::{Count, Evidence, Likeness};
use super::machine::{Action, Event, Outcome, Phase, State, Traffic, Word};
use crate::analysis::{RatioTally, Side};
use crate::gate::Standing;
use crate::model::{Gate, GateKind, OnFailure, Plan, Point, Step, Strategy};

const TICK_MS: u64 = 500;

/// Requests and failures as they would come.
struct World {
    random: StdRng,
    requests_per_second: f64,
    /// Failing part of each side's requests.
    stable_rate: f64,
    candidate_rate: f64,
    /// Of a fresh copy of stable, where the plan has one.
    baseline_rate: f64,
    evidence: Evidence,
    /// What is known of candidate and reference since they are compared, and what was cost before.
    compared: [Count; 2],
    excess_before: f64,
    /// What is known beside the other reference.
    set_aside: [RatioTally; 4],
    /// The step that `evidence` is of, and what had failed before it.
    step: Option<usize>,
    tally_before: RatioTally,
    /// The state that gates were asked at.
    asked_at: Option<State>,
}

impl World {
    fn new(seed: u64, requests_per_second: f64, stable_rate: f64, candidate_rate: f64) -> Self {
        let evidence = Evidence { ready: true, judged: true, ..Evidence::default() };
        let (random, tally_before) = (StdRng::seed_from_u64(seed), RatioTally::default());
        Self {
            random,
            requests_per_second,
            stable_rate,
            candidate_rate,
            baseline_rate: stable_rate,
            evidence,
            compared: Default::default(),
            excess_before: 0.0,
            set_aside: Default::default(),
            step: None,
            tally_before,
            asked_at: None,
        }
    }

    /// How many of something that happens `mean` times on average.
    fn poisson(&mut self, mean: f64) -> u64 {
        let (limit, mut product, mut count) = ((-mean).exp(), self.random.random::<f64>(), 0);
        while product > limit {
            product *= self.random.random::<f64>();
            count += 1;
        }
        count
    }

    /// About so many requests, which fail at this rate.
    fn count(&mut self, requests: f64, rate: f64) -> Count {
        let failures = if requests > 0.0 { self.poisson(requests * rate) } else { 0 };
        Count { requests: (requests.round() as u64).max(failures), failures }
    }

    /// A tick's worth of requests, at what requests see now.
    fn pass(&mut self, traffic: Traffic) {
        let (candidate, stable, baseline) = shares(traffic);
        let all = self.requests_per_second * TICK_MS as f64 / 1000.0;
        let ours = self.count(all * candidate / 100.0, self.candidate_rate);
        let theirs = self.count(all * stable / 100.0, self.stable_rate);
        let beside = self.count(all * baseline / 100.0, self.baseline_rate);
        let (reference, of) = if baseline > 0.0 { (beside, baseline) } else { (theirs, stable) };
        for (side, count) in [(Side::Candidate, ours), (Side::Stable, reference)] {
            let share = candidate / (candidate + of);
            (0..count.failures).for_each(|_| self.evidence.tallies[0].observe(side, share));
        }
        let evidence = &mut self.evidence;
        evidence.candidate = evidence.candidate.plus(ours);
        evidence.step = evidence.step.plus(ours);
        evidence.stable = evidence.stable.plus(theirs);
        evidence.stable_lately = theirs;
        self.compared = [self.compared[0].plus(ours), self.compared[1].plus(reference)];
        evidence.baseline = (baseline > 0.0).then_some(self.compared[1]);
        evidence.excess = self.excess_before + self.compared[0].beyond(self.compared[1]);
        evidence.step_tally = evidence.tallies[0].since(&self.tally_before);
    }

    /// Comes to know whether copies are answered the same, sooner or later.
    fn compare(&mut self) {
        self.evidence.likeness = match self.random.random_range(0..20) {
            0..3 if self.requests_per_second > 0.0 => Likeness::Same("so it seems".to_owned()),
            3 if self.random.random_bool(0.1) => Likeness::Different("so it seems".to_owned()),
            _ => Likeness::default(),
        };
    }

    /// Gates answer, or hang, or change their minds; a freeze comes and goes.
    fn listen(&mut self, plan: &Plan, state: &State) {
        if self.asked_at.as_ref() != Some(state) {
            self.asked_at = Some(state.clone());
            self.evidence.gates.clear();
        }
        for gate in plan.gates.iter().filter(|gate| gate.kind == GateKind::Metric && state.is_at_step()) {
            if !self.evidence.gates.iter().any(|(_, name, _)| *name == gate.name) {
                self.evidence.gates.push((gate.kind, gate.name.clone(), Standing::unasked()));
            }
        }
        let random = &mut self.random;
        for (kind, _, standing) in &mut self.evidence.gates {
            let said = || "so it says".to_owned();
            // A metric goes on being asked; others have one answer.
            if *kind == GateKind::Metric || matches!(standing, Standing::Pending(_)) {
                match random.random_range(0..200) {
                    0..60 => *standing = Standing::Passed(said()),
                    60 => *standing = Standing::Refused(said()),
                    61..65 => *standing = Standing::Silent(said()),
                    _ => {}
                }
            }
        }
        if random.random_bool(0.02) {
            self.evidence.frozen = random.random_bool(0.3).then(|| "it is friday".to_owned());
        }
    }

    /// As the task does.
    fn ask(&mut self, plan: &Plan, state: &State) {
        for gate in plan.gates_after(state.step()) {
            if !self.evidence.gates.iter().any(|(kind, name, _)| *kind == gate.kind && *name == gate.name) {
                self.evidence.gates.push((gate.kind, gate.name.clone(), Standing::unasked()));
            }
        }
    }

    /// What is counted by step begins anew, and so it does beside something else.
    fn note(&mut self, plan: &Plan, state: &State) {
        let is_other = state.traffic(plan).has_baseline() != self.evidence.baseline.is_some();
        if is_other {
            self.excess_before += self.compared[0].beyond(self.compared[1]);
            self.compared = Default::default();
            self.evidence.baseline = state.traffic(plan).has_baseline().then(Count::default);
            std::mem::swap(&mut self.evidence.tallies, &mut self.set_aside);
        }
        if is_other || state.step() != self.step {
            self.step = state.step();
            self.tally_before = self.evidence.tallies[0].clone();
            self.evidence.step = Count::default();
            self.evidence.step_tally = RatioTally::default();
        }
    }

    fn restart(&mut self) {
        let Evidence { ready, judged, baseline, excess, .. } = self.evidence;
        self.asked_at = None;
        self.evidence = Evidence { ready, judged, baseline: baseline.map(|_| Count::default()), ..Evidence::default() };
        (self.excess_before, self.compared, self.set_aside) = (excess, Default::default(), Default::default());
        self.tally_before = RatioTally::default();
    }
}

/// The plan of the issue that asked for all this, without the approval.
fn plan() -> Plan {
    let ramp = |percent, below| Step::Weight { percent, advance_below: Some(below), hold: None };
    let watch = Duration::from_secs(600);
    let steps = vec![ramp(1.0, 0.05), ramp(5.0, 0.005), ramp(25.0, 0.005), Step::Flip { holdback: 0.02, watch }];
    Plan { steps, ..Plan::usual(Strategy::Canary) }
}

/// Runs it by itself; when it came to each step, in milliseconds, and how it stood at last.
fn run(world: &mut World, plan: &Plan, seconds: u64) -> (Vec<u64>, State) {
    let (mut state, mut came) = (State::begun(), Vec::new());
    for now_ms in (0..seconds * 1000).step_by(TICK_MS as usize) {
        world.pass(state.traffic(plan));
        let (next, _) = state.next(plan, &Event::Tick(Box::new(world.evidence.clone())), now_ms).unwrap();
        if next.step() != state.step() && matches!(next.phase, Phase::At { .. }) {
            came.push(now_ms);
        }
        state = next;
        world.note(plan, &state);
        if state.is_over() || came.len() == plan.steps.len() {
            break;
        }
    }
    (came, state)
}

#[test]
fn a_healthy_release_has_all_requests_within_two_minutes_on_evidence_alone() {
    let late = (0..100).filter(|seed| {
        let (came, state) = run(&mut World::new(*seed, 1000.0, 0.001, 0.001), &plan(), 120);
        assert!(!state.is_over(), "seed {seed}: {state:?}");
        came.len() < 4
    });
    let late = late.count();
    assert!(late <= 5, "{late} of 100");
}

#[test]
fn a_release_with_five_times_the_errors_is_caught_before_a_quarter_of_the_requests() {
    let caught = (0..100).filter(|seed| {
        let (came, state) = run(&mut World::new(*seed, 1000.0, 0.001, 0.005), &plan(), 660);
        came.len() < 3 && state.outcome() == Some(Outcome::RolledBack)
    });
    let caught = caught.count();
    assert!(caught >= 95, "{caught} of 100");
}

#[test]
fn a_release_no_worse_than_stable_is_hardly_ever_sent_back() {
    let sent_back = (0..300).filter(|seed| {
        let (_, state) = run(&mut World::new(*seed, 200.0, 0.03, 0.03), &plan(), 300);
        state.is_over()
    });
    let sent_back = sent_back.count();
    assert!(sent_back <= 2, "{sent_back} of 300");
}

#[test]
fn beside_a_baseline_a_cold_release_passes_that_would_be_sent_back_beside_a_warm_stable() {
    let hold = Some(Duration::from_secs(60));
    let steps = vec![Step::Weight { percent: 5.0, advance_below: None, hold }, plan().steps.remove(3)];
    let warm = Plan { steps, ..plan() };
    let cold = Plan { baseline: Some("fresh".parse().unwrap()), ..warm.clone() };
    let ended = |plan: &Plan, candidate: f64| {
        let taken_back = (0..100).filter(|seed| {
            let mut world = World::new(*seed, 1000.0, 0.001, candidate);
            world.baseline_rate = 0.02;
            // As long as it is cold, which is as long as its first step lasts.
            run(&mut world, plan, 60).1.is_over()
        });
        taken_back.count()
    };
    let (beside_warm, beside_cold) = (ended(&warm, 0.02), ended(&cold, 0.02));
    assert!(beside_warm >= 95 && beside_cold <= 1, "{beside_warm} and {beside_cold} of 100");
    let worse = ended(&cold, 0.08);
    assert!(worse >= 95, "{worse} of 100 that fail four times as often as another cold one");
}

/// Anything that may happen.
fn an_event(world: &mut World) -> Option<Event> {
    const WORDS: [Word; 7] =
        [Word::Pause, Word::Resume, Word::Promote, Word::PromoteFull, Word::Approve, Word::Abort, Word::Rollback];
    match world.random.random_range(0..1000) {
        0..2 => Some(Event::Verdict("the guard says so".to_owned())),
        2..4 => Some(Event::EndpointsGone { stable_up: world.random.random() }),
        4..5 => Some(Event::Overruled("the file says otherwise".to_owned())),
        5..15 => Some(Event::Restarted),
        40..43 => Some(Event::BaselineLost("it is gone".to_owned())),
        15..40 => Some(Event::Operator(WORDS[world.random.random_range(0..WORDS.len())])),
        _ => None,
    }
}

fn a_plan(random: &mut StdRng) -> Plan {
    let mut steps = Vec::new();
    let mut percent = 0.0;
    if random.random_bool(0.3) {
        steps.push(Step::Mirror { percent: 100.0, time: Duration::from_secs(random.random_range(1..10)) });
    }
    if random.random_bool(0.3) {
        steps.push(Step::Cohort { hold: Duration::from_secs(random.random_range(1..10)) });
    }
    for _ in 0..random.random_range(0..5) {
        if random.random_bool(0.2) {
            steps.push(Step::Approve { who: "ada".to_owned() });
        }
        percent += random.random_range(0.5..15.0);
        let advance_below = random.random_bool(0.6).then(|| random.random_range(0.002..0.1));
        let hold = random.random_bool(0.5).then(|| Duration::from_secs(random.random_range(1..20)));
        steps.push(Step::Weight { percent, advance_below, hold });
    }
    let holdback = if random.random() { 0.02 } else { 0.0 };
    steps.push(Step::Flip { holdback, watch: Duration::from_secs(random.random_range(0..20)) });
    let damage_budget = random.random_bool(0.3).then_some(20);
    let mut gates = Vec::new();
    let kinds = [GateKind::Smoke, GateKind::Webhook, GateKind::Webhook, GateKind::Metric];
    for (index, kind) in kinds.into_iter().enumerate() {
        if random.random_bool(0.7) {
            continue;
        }
        let points = [Point::Before, Point::Step, Point::Promotion, Point::After, Point::Rollback];
        let at = points.into_iter().filter(|_| kind != GateKind::Metric && random.random()).collect();
        let on_failure = if random.random() { OnFailure::Pause } else { OnFailure::Rollback };
        gates.push(Gate { name: index.to_string(), kind, at, on_failure });
    }
    let baseline = random.random_bool(0.5).then(|| "fresh".parse().unwrap());
    Plan { steps, gates, damage_budget, baseline, deadline: Duration::from_secs(20), ..Plan::usual(Strategy::Canary) }
}

/// The shares of candidate, stable and baseline.
fn shares(traffic: Traffic) -> (f64, f64, f64) {
    match traffic {
        Traffic::Shared { percent, baseline, .. } => (percent, 100.0 - percent - baseline, baseline),
        Traffic::Exchanged => (100.0, 0.0, 0.0),
    }
}

/// What must hold of every single move.
fn check(plan: &Plan, before: &State, event: &Event, after: &State, actions: &[Action]) {
    let (was, is) = (before.traffic(plan), after.traffic(plan));
    let (candidate, stable, baseline) = shares(is);
    assert!((candidate + stable + baseline - 100.0).abs() < 1e-9, "{is:?}");
    assert!(candidate >= 0.0 && stable >= 0.0 && (baseline == 0.0 || (baseline - candidate).abs() < 1e-9), "{is:?}");
    let has_none = plan.baseline.is_none() || after.step().is_none() || after.baseline_lost;
    assert!(!has_none || baseline == 0.0, "a baseline without a candidate: {after:?}");
    if matches!(event, Event::BaselineLost(_)) && shares(was).2 > 0.0 {
        let stays = after.step() == before.step() && matches!(after.phase, Phase::Paused { .. });
        let keeps = (candidate - shares(was).0).abs() < 1e-9;
        assert!(stays && baseline == 0.0 && keeps, "{before:?} {after:?}");
    }
    let shift = actions.iter().find_map(|action| match action {
        Action::Shift(traffic) => Some(*traffic),
        _ => None,
    });
    assert_eq!(shift, (was != is).then_some(is), "what requests see changes by a shift, and only then");
    let told = actions.iter().any(|action| matches!(action, Action::Record(_)));
    assert_eq!(told, before.phase != after.phase, "a decision is told, and nothing else is: {before:?} {after:?}");
    assert!(after.at_ms >= before.at_ms, "time goes on");
    let full = matches!(event, Event::Operator(Word::PromoteFull));
    if let Some(step) = after.step() {
        let reached = before.step().map_or(0, |step| step + 1);
        assert!(step <= reached, "a step was skipped: {before:?} {after:?}");
    }
    if let (Some(step), Event::Tick(evidence)) = (before.step(), event)
        && matches!(plan.steps[step], Step::Mirror { .. })
        && after.step() > before.step()
    {
        assert!(matches!(evidence.likeness, Likeness::Same(_)), "copies passed by time alone");
    }
    if after.outcome() == Some(Outcome::Completed) && before.outcome().is_none() {
        assert!(full || before.step() == Some(plan.steps.len() - 1), "{before:?} {after:?}");
    }
    if shares(is).0 > shares(was).0 {
        let allowed =
            matches!(event, Event::Tick(_) | Event::Operator(Word::Promote | Word::PromoteFull | Word::Approve));
        assert!(allowed, "{event:?} moved requests toward the candidate");
    }
    let is_gone = matches!(event, Event::EndpointsGone { stable_up: true });
    assert!(!is_gone || after.step().is_none(), "a candidate that is gone keeps its requests: {after:?}");
    let goes_on = after.step() > before.step() && after.is_at_step()
        || (after.outcome() == Some(Outcome::Completed) && before.outcome().is_none());
    if let Event::Tick(evidence) = event
        && goes_on
    {
        assert_eq!(evidence.frozen, None, "it went on in a freeze");
        for gate in plan.gates_after(before.step()) {
            assert!(evidence.standing(gate).is_passed(), "{gate} was passed by: {before:?} {after:?}");
        }
    }
    if actions.contains(&Action::Ask) {
        assert_eq!((before, actions.len()), (after, 1), "whoever asks does nothing else");
        assert!(plan.gates_after(before.step()).next().is_some(), "nobody is there to be asked");
    }
    let wants = |point| plan.gates.iter().any(|gate| gate.at.contains(&point));
    let told = |point| actions.contains(&Action::Tell(point));
    let ends = after.outcome().filter(|_| after.outcome() != before.outcome());
    let completes = ends == Some(Outcome::Completed);
    assert_eq!(told(Point::After), completes && wants(Point::After));
    assert_eq!(told(Point::Rollback), ends.is_some() && !completes && wants(Point::Rollback));
    // The way back is always open.
    let back = after.next(plan, &Event::Operator(Word::Rollback), after.at_ms);
    match after.outcome() {
        None | Some(Outcome::Completed) => {
            let (back, _) = back.unwrap();
            assert_eq!((shares(back.traffic(plan)), back.outcome()), ((0.0, 100.0, 0.0), Some(Outcome::RolledBack)));
        }
        Some(_) => assert!(back.is_err()),
    }
}

#[test]
fn whatever_happens_in_whatever_order_a_rollout_stays_sane_and_ends() {
    let (mut ends, mut asked) = (std::collections::HashMap::new(), 0);
    for seed in 0..600 {
        let mut random = StdRng::seed_from_u64(seed ^ 0x5eed);
        let plan = a_plan(&mut random);
        let rates = [0.0, 0.001, 0.01, 0.1, 1.0];
        let mut rate = || rates[random.random_range(0..rates.len())];
        let (stable, candidate, baseline) = (rate(), rate(), rate());
        let requests_per_second = [0.0, 5.0, 100.0, 1000.0][random.random_range(0..4)];
        let mut world = World::new(seed, requests_per_second, stable, candidate);
        world.evidence.ready = random.random_bool(0.9);
        world.baseline_rate = baseline;
        let (mut state, mut now_ms) = (State::begun(), 0);
        for _ in 0..10_000 {
            world.pass(state.traffic(&plan));
            world.compare();
            now_ms += TICK_MS;
            // A clock that jumps: back by up to a minute, forward by up to ten seconds.
            if world.random.random_bool(0.002) {
                now_ms = (now_ms + world.random.random_range(0..70_000)).saturating_sub(60_000);
            }
            world.listen(&plan, &state);
            let event = an_event(&mut world).unwrap_or_else(|| Event::Tick(Box::new(world.evidence.clone())));
            if event == Event::Restarted {
                // As the journal has it.
                state = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
                now_ms = state.at_ms;
                world.restart();
            }
            if let Ok((next, actions)) = state.next(&plan, &event, now_ms) {
                check(&plan, &state, &event, &next, &actions);
                if actions.contains(&Action::Ask) {
                    world.ask(&plan, &next);
                }
                asked += usize::from(actions.contains(&Action::Ask));
                state = next;
            }
            world.note(&plan, &state);
            if state.is_over() {
                break;
            }
        }
        assert!(state.is_over(), "seed {seed} never ends: {state:?}");
        *ends.entry(state.outcome().unwrap()).or_insert(0) += 1;
    }
    assert_eq!(ends.len(), 4, "every end was seen: {ends:?}");
    assert!(asked > 100, "gates were asked");
}

#[test]
fn left_alone_it_ends_or_waits_for_a_person_within_its_deadlines() {
    for seed in 0..300 {
        let mut random = StdRng::seed_from_u64(seed);
        let plan = a_plan(&mut random);
        let rate = [0.0, 0.01, 0.3][random.random_range(0..3)];
        let mut world = World::new(seed, [0.0, 50.0, 500.0][random.random_range(0..3)], rate, rate);
        let mut state = State::begun();
        // Of the longest plan: seven steps of at most 20 s and a deadline of 20 s each.
        for now_ms in (0..8 * 40_000).step_by(TICK_MS as usize) {
            world.pass(state.traffic(&plan));
            world.compare();
            world.listen(&plan, &state);
            world.evidence.frozen = None;
            let (next, actions) = state.next(&plan, &Event::Tick(Box::new(world.evidence.clone())), now_ms).unwrap();
            if actions.contains(&Action::Ask) {
                world.ask(&plan, &next);
            }
            state = next;
            world.note(&plan, &state);
        }
        let waits = state.step().is_some_and(|step| matches!(plan.steps[step], Step::Approve { .. }));
        let rests = state.is_over() || matches!(state.phase, Phase::Paused { .. });
        assert!(rests || waits, "seed {seed}: {state:?} of {plan:?}");
        let nothing_came = world.requests_per_second == 0.0;
        let passed = state.outcome() == Some(Outcome::Completed);
        assert!(!(nothing_came && passed) || plan.steps.len() == 1, "seed {seed}: nothing proves nothing");
    }
}
