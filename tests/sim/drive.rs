//! Drives a fleet through what was drawn for it: produces, disturbs, heals, and waits for the end.

use std::sync::Arc;
use std::time::Duration;

use catchment::ids::{SequenceNumber, ShardId};
use catchment::lease::rewind_request::Target;
use catchment::task::BoxTask;
use serde_json::json;

use crate::effects::Fnv;
use crate::faults::{Outage, Scope, Window};
use crate::fleet::{Act, BUCKET, BackTo, Cut, Fleet, STREAM, TABLE};
use crate::node::{Node, NodeOptions};
use crate::operator;
use crate::oracle;
use crate::resume::Resumer;
use crate::services::World;
use crate::services::kinesis::{Record, Shard};
use crate::sim::Sim;

/// Time-outs of the lease table as the configuration derives them from a failover time of 10 s.
const PRODUCTION: [Duration; 2] = [Duration::from_secs(1), Duration::from_millis(3_333)];

/// Builds the root task of a worker process.
pub type Start = dyn Fn(&Node) -> BoxTask + Send + Sync;

struct Driver<'a> {
    sim: &'a Sim,
    fleet: &'a Fleet,
    start: &'a Start,
    /// The newest incarnation of each worker.
    nodes: Vec<Node>,
    /// Every incarnation there ever was: zombies live on.
    all: Vec<Node>,
    incarnations: Vec<u32>,
    /// When a dead worker starts again.
    restarts: Vec<Option<u64>>,
    /// How long each stays dead.
    delays: Vec<u64>,
    /// Only this one starts again.
    only: Option<usize>,
    resumer: Resumer,
    /// Commands that people gave.
    operators: Vec<Node>,
}

/// Runs the fleet: produce, disturb, heal, and wait until `done`, or say what was not done in time.
///
/// `done` is asked about once a second after the last record was produced and faults have stopped.
pub async fn drive(
    sim: &Sim,
    fleet: &Fleet,
    start: &Start,
    done: impl Fn(&mut World) -> Result<(), String>,
) -> Result<(), String> {
    {
        let now = sim.net.now();
        let mut world = sim.net.world();
        // A day and an hour old, where it has a backlog as old as retention.
        let age_ms = if fleet.backlog > 0 { 25 * 3_600_000 } else { 0 };
        world.kinesis.create(STREAM, fleet.shards, now.wall_ms - age_ms);
        world.objects.lock().unwrap().buckets.entry(BUCKET.to_owned()).or_default();
    }
    let mut driver = Driver {
        sim,
        fleet,
        start,
        nodes: Vec::new(),
        all: Vec::new(),
        incarnations: vec![0; fleet.workers],
        restarts: vec![None; fleet.workers],
        delays: vec![0; fleet.workers],
        only: None,
        resumer: Resumer::new(fleet),
        operators: Vec::new(),
    };
    if fleet.kcl {
        taken_over(&mut sim.net.world());
    }
    driver.backlog();
    for script in &fleet.scripts {
        sim.net.script(script.clone());
    }
    for worker in 0..fleet.workers {
        let node = driver.incarnation(worker);
        driver.nodes.push(node);
    }
    let mut rng = fastrand::Rng::with_seed(fleet.seed ^ 0x5052_4f44);
    let mut due: Vec<u64> = (0..fleet.records).map(|_| rng.u64(0..fleet.heal_ms)).collect();
    due.sort_unstable();
    let (mut produced, mut planned, mut dark) = (0, 0, 0);
    // One step a millisecond apart from the next would be slow: jump to whatever comes next.
    loop {
        // The plan's clock stands still while the fleet is down.
        let at = sim.net.now().at - dark;
        while produced < due.len() && due[produced] <= at {
            driver.produce(&mut rng, produced);
            produced += 1;
        }
        if planned < fleet.plan.len() && fleet.plan[planned].0 <= at {
            let act = &fleet.plan[planned].1;
            planned += 1;
            if let Act::Blackout(hours, frozen) = act {
                let ms = hours * 3_600_000;
                dark += ms;
                let begun = sim.net.now().wall_ms;
                for step in driver.blackout(ms, *frozen) {
                    tokio::time::sleep(step).await;
                    for _ in 0..(due.len() - produced) / 8 {
                        driver.produce(&mut rng, produced);
                        produced += 1;
                    }
                    driver.retention(&mut rng, begun);
                }
                driver.restart(u64::MAX);
            } else {
                driver.act(act);
            }
            continue;
        }
        driver.restart(at + dark);
        driver.resumer.look(sim);
        if at >= fleet.heal_ms && produced == due.len() {
            break;
        }
        let next =
            [due.get(produced).copied(), fleet.plan.get(planned).map(|p| p.0), Some(fleet.heal_ms)];
        let next = next
            .into_iter()
            .flatten()
            .chain(driver.restarts.iter().flatten().map(|r| r.saturating_sub(dark)))
            .min();
        let wait = next.unwrap_or(at).saturating_sub(at).clamp(1, 1_000);
        tokio::time::sleep(Duration::from_millis(wait)).await;
    }
    sim.net.heal();
    sim.trace.note(sim.net.now().at, &"world".into(), "heal");
    for node in driver.nodes.iter().chain(&driver.operators) {
        node.disarm();
    }
    if let Some(survivor) = fleet.survivor {
        driver.leave_alone(survivor);
    }
    let mut late = Err("nothing was looked at".to_owned());
    for _ in 0..fleet.settle_ms / 1000 {
        driver.restart(sim.net.now().at);
        driver.resumer.look(sim);
        late = done(&mut sim.net.world());
        if driver.operators.iter().any(|node| node.end().is_none()) {
            late = Err("an operator waits".to_owned());
        }
        if late.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    late.map_err(|what| {
        format!("not done {} s after the faults stopped: {what}", fleet.settle_ms / 1000)
    })?;
    driver.finish().await
}

/// The table of a KCL application that never had a record: its rows say LATEST and no time.
fn taken_over(world: &mut World) {
    let World { kinesis, dynamodb, .. } = world;
    let Some(stream) = kinesis.streams.get(STREAM) else {
        return;
    };
    let table = json!({
        "TableName": TABLE,
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [{ "AttributeName": "leaseKey", "AttributeType": "S" }],
        "KeySchema": [{ "AttributeName": "leaseKey", "KeyType": "HASH" }],
    });
    dynamodb.call("CreateTable", &table);
    for shard in &stream.shards {
        let item = json!({
            "leaseKey": { "S": shard.id },
            "leaseCounter": { "N": "7" },
            "ownerSwitchesSinceCheckpoint": { "N": "0" },
            "checkpoint": { "S": "LATEST" },
            "checkpointSubSequenceNumber": { "N": "0" },
        });
        dynamodb.call("PutItem", &json!({ "TableName": TABLE, "Item": item }));
    }
}

impl Driver<'_> {
    /// All but one are gone for good, each in its own way: cut off (one of them), dead, frozen.
    fn leave_alone(&mut self, survivor: usize) {
        self.sim.trace.note(self.sim.net.now().at, &"world".into(), "one survives");
        let mut others = (0..self.nodes.len()).filter(|worker| *worker != survivor);
        let exiled = others.next();
        if let Some(worker) = exiled {
            self.sim.net.exile(Some(&format!("w{worker}")));
        }
        for worker in others {
            if worker % 2 == 0 {
                self.nodes[worker].crash();
            } else {
                self.nodes[worker].freeze(Duration::from_millis(self.fleet.settle_ms * 2));
            }
        }
        self.only = Some(survivor);
    }

    fn incarnation(&mut self, worker: usize) -> Node {
        self.incarnations[worker] += 1;
        let name = format!("w{worker}.{}", self.incarnations[worker]);
        // Of its own, so that what else is drawn stays what it was.
        let mut rng =
            fastrand::Rng::with_seed(self.fleet.seed ^ Fnv::of(name.as_bytes()) ^ 0x7461_626c);
        let options = NodeOptions {
            skew_ms: self.fleet.skew_ms[worker],
            yields: self.fleet.yields,
            older: self.fleet.is_older(&name),
            table: rng.bool().then_some(PRODUCTION),
        };
        let node = Node::new(self.sim, &name, &options);
        node.run((self.start)(&node));
        self.all.push(node.clone());
        node
    }

    /// Everybody is told to stop, and what is still on the wire lands.
    async fn finish(&mut self) -> Result<(), String> {
        self.sim.trace.note(self.sim.net.now().at, &"world".into(), "finish");
        self.sim.net.exile(None);
        for node in &self.all {
            node.thaw();
            node.terminate();
        }
        let limit = Duration::from_secs(120);
        for node in &self.all {
            if tokio::time::timeout(limit, node.ended()).await.is_err() {
                return Err(format!("{} does not stop", node.name));
            }
        }
        while self.sim.net.in_flight() > 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    }

    /// All go down; returns how long to wait between looks at retention.
    fn blackout(&mut self, ms: u64, frozen: usize) -> Vec<Duration> {
        self.sim.trace.note(self.sim.net.now().at, &"world".into(), "blackout");
        for node in &self.all {
            match self.nodes.get(frozen) {
                Some(spared) if spared.name == node.name => {
                    node.freeze(Duration::from_millis(ms + 3_000));
                }
                _ => node.crash(),
            }
        }
        vec![Duration::from_millis(ms / 4); 4]
    }

    /// What is older than retention goes; or not all of it yet, since the service trims when it
    /// likes: the line then runs between two records that came in just before `begun`, inside a
    /// batch that is announced and not committed if there is one.
    fn retention(&self, rng: &mut fastrand::Rng, begun: i64) {
        let now = self.sim.net.now().wall_ms;
        let mut world = self.sim.net.world();
        let announced = oracle::announced(&world.dynamodb.rows(TABLE));
        let Ok(stream) = world.kinesis.stream(STREAM) else {
            return;
        };
        let horizon = now - stream.retention_hours * 3_600_000;
        let late = horizon > begun && (self.fleet.dark || rng.bool());
        let all = || stream.shards.iter().flat_map(|s| s.records.iter().map(move |r| (s, r)));
        let is_inside = |(shard, record): &(&Shard, &Record)| {
            let inside =
                |first: u128, last: u128| first < record.sequence && record.sequence <= last;
            announced.iter().any(|(of, first, last)| *of == shard.id && inside(*first, *last))
        };
        let mut lines: Vec<i64> = all().filter(is_inside).map(|(_, r)| r.arrival_ms).collect();
        if lines.is_empty() {
            let recent = all().map(|(_, r)| r.arrival_ms);
            lines = recent.filter(|ms| (begun - 10_000..begun).contains(ms)).collect();
        }
        let line = if late { rng.choice(lines).unwrap_or(begun) } else { horizon };
        stream.trim(line, horizon);
    }

    /// Starts workers again: a dead one is noticed, and its time comes a while later.
    fn restart(&mut self, at: u64) {
        for worker in 0..self.nodes.len() {
            if self.only.is_some_and(|only| only != worker) {
                continue;
            }
            if at == u64::MAX && self.nodes[worker].end().is_some() {
                self.delays[worker] = 0;
            }
            let due = *match (self.nodes[worker].end(), &mut self.restarts[worker]) {
                (None, _) => continue,
                (Some(_), due) => {
                    due.get_or_insert(at.saturating_add(self.delays[worker].max(200)))
                }
            };
            if due <= at {
                self.restarts[worker] = None;
                self.nodes[worker] = self.incarnation(worker);
            }
        }
    }

    /// What arrived a day ago: retention takes it while the fleet is at work.
    fn backlog(&self) {
        let mut rng = fastrand::Rng::with_seed(self.fleet.seed ^ 0x4241_434b);
        let now = self.sim.net.now().wall_ms;
        let mut world = self.sim.net.world();
        let Ok(stream) = world.kinesis.stream(STREAM) else {
            return;
        };
        let day = stream.retention_hours * 3_600_000;
        let span = i64::try_from(self.fleet.heal_ms).unwrap_or(0);
        let one = |_| now - day + rng.i64(-2_000..span);
        let mut arrivals: Vec<i64> = (0..self.fleet.backlog).map(one).collect();
        arrivals.sort_unstable();
        for (number, at) in arrivals.into_iter().enumerate() {
            let believed = stream.shards[rng.usize(0..stream.shards.len())].range;
            // Numbers of their own.
            let number = number + 1_000_000;
            let produced = self.fleet.load.next(&mut rng, number, believed);
            stream.produce(Some(format!("key-{number}")), produced, at);
        }
    }

    fn produce(&self, rng: &mut fastrand::Rng, number: usize) {
        let now = self.sim.net.now();
        let mut world = self.sim.net.world();
        let Ok(stream) = world.kinesis.stream(STREAM) else {
            return;
        };
        // A producer may know the stream as it was: any shard, open or not.
        let believed = stream.shards[rng.usize(0..stream.shards.len())].range;
        let produced = self.fleet.load.next(rng, number, believed);
        stream.produce(Some(format!("key-{number}")), produced, now.wall_ms);
    }

    /// `catchment leases rewind`, by a process of its own.
    fn rewind(&mut self, to: &BackTo, dies: u64) {
        let now = self.sim.net.now().wall_ms;
        let (to, within) = match to {
            BackTo::TrimHorizon => (Target::TrimHorizon, None),
            BackTo::Ago(ms) => (Target::Timestamp(now - ms), None),
            BackTo::Record(nth) => {
                let mut world = self.sim.net.world();
                let Ok(stream) = world.kinesis.stream(STREAM) else { return };
                let all = stream.listed().flat_map(|s| s.visible().iter().map(move |r| (s, r)));
                let all: Vec<_> = all.map(|(s, r)| (s.id.clone(), r.sequence_number())).collect();
                let Some((shard, number)) = all.get(nth % all.len().max(1)) else { return };
                let Ok(number) = SequenceNumber::parse(number) else { return };
                (Target::Sequence(number), Some(ShardId::new(shard.as_str())))
            }
        };
        let name = format!("op{}.1", self.operators.len());
        let node = Node::new(self.sim, &name, &NodeOptions::default());
        node.crash_at_poll(dies);
        node.run(operator::rewind(node.clone(), to, within));
        self.operators.push(node);
    }

    fn act(&mut self, act: &Act) {
        let now = self.sim.net.now();
        self.sim.trace.note(now.at, &"world".into(), &format!("{act:?}"));
        match act {
            Act::Crash(worker, poll, after) => {
                self.nodes[*worker].crash_at_poll(*poll);
                self.delays[*worker] = *after;
            }
            Act::Freeze(worker, ms) => self.nodes[*worker].freeze(Duration::from_millis(*ms)),
            Act::Zombie(worker, ms) => {
                self.nodes[*worker].freeze(Duration::from_millis(*ms));
                self.nodes[*worker] = self.incarnation(*worker);
            }
            Act::Cut(cut, ms) => {
                let worker = |w: &usize| -> Arc<str> { format!("w{w}").into() };
                let (scope, kind) = match cut {
                    Cut::Worker(w) => (Scope::Node(worker(w)), Outage::Silent),
                    Cut::Replies(w) => (Scope::Replies(worker(w)), Outage::Silent),
                    Cut::Service(service, kind) => (Scope::Service(*service), *kind),
                };
                self.sim.net.cut(Window { scope, from_ms: now.at, to_ms: now.at + ms, kind });
            }
            Act::Split(nth) | Act::Merge(nth) => {
                let mut world = self.sim.net.world();
                let Ok(stream) = world.kinesis.stream(STREAM) else {
                    return;
                };
                let mut open: Vec<(u128, String)> = stream
                    .shards
                    .iter()
                    .filter(|s| s.closed.is_none())
                    .map(|s| (s.range.0, s.id.clone()))
                    .collect();
                open.sort();
                let nth = nth % open.len();
                let done = match act {
                    Act::Split(_) => stream.split(&open[nth].1, None, now.wall_ms).map(|_| ()),
                    _ if nth + 1 < open.len() => {
                        stream.merge(&open[nth].1, &open[nth + 1].1, now.wall_ms).map(|_| ())
                    }
                    _ => Ok(()),
                };
                if let Err(refused) = done {
                    self.sim.trace.violation(format!("the harness could not reshard: {refused:?}"));
                }
            }
            Act::Term(worker, after) => {
                self.nodes[*worker].terminate();
                self.delays[*worker] = *after;
            }
            Act::Step(worker, ms) => self.nodes[*worker].clock.step_wall(*ms),
            Act::Rewind(to, dies) => self.rewind(to, *dies),
            Act::Blackout(..) => {}
        }
    }
}
