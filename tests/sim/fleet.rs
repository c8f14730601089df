//! What happens in a seed: how many workers, shards and records, who crashes, freezes or is cut
//! off and when, how the stream is resharded. Drawn here, driven here.

use std::sync::Arc;
use std::time::Duration;

use catchment::task::BoxTask;
use serde_json::json;

use crate::effects::{Fnv, Observer};
use crate::faults::{FaultMix, Outage, Scope, Script, Window};
use crate::load::Load;
use crate::node::{Node, NodeOptions};
use crate::oracle;
use crate::services::kinesis::{KinesisOptions, Record, Shard};
use crate::services::world::WorldOptions;
use crate::services::{Backend, Service, World};
use crate::sim::{Setup, Sim};

/// Time-outs of the lease table as the configuration derives them from a failover time of 10 s.
const PRODUCTION: [Duration; 2] = [Duration::from_secs(1), Duration::from_millis(3_333)];

/// The stream, table and bucket of every fleet.
pub const STREAM: &str = "events";
pub const TABLE: &str = "catchment-leases";
pub const BUCKET: &str = "archive";

/// One seed's fleet.
#[derive(Clone, Debug)]
pub struct Fleet {
    pub seed: u64,
    pub backend: Backend,
    pub workers: usize,
    pub shards: u32,
    pub records: u64,
    pub load: Load,
    /// All are down while batches are announced and partly put, see [`Self::goes_dark`].
    pub dark: bool,
    /// Records that were there before, one leaving retention after the other.
    pub backlog: usize,
    /// The rows of the first shards are the KCL's, at a LATEST of no time.
    pub kcl: bool,
    /// Workers begin at LATEST.
    pub latest: bool,
    /// Some incarnations stop at a gap; the next may go on.
    pub stops: bool,
    /// The one that must finish alone: when faults stop, the others stay dead, frozen or cut off.
    pub survivor: Option<usize>,
    pub faults: FaultMix,
    pub world: WorldOptions,
    pub yields: u32,
    /// Wall clock error per worker.
    pub skew_ms: Vec<i64>,
    /// Faults of single requests.
    pub scripts: Vec<Script>,
    /// What happens, in order of time.
    pub plan: Vec<(u64, Act)>,
    /// When faults stop.
    pub heal_ms: u64,
    /// How long after that everything must be done.
    pub settle_ms: u64,
}

/// Something the world does to the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Kill worker `0` at its `1`th poll from now; it stays dead for `2` ms.
    Crash(usize, u64, u64),
    /// Stop worker `0` for `1` ms.
    Freeze(usize, u64),
    /// Freeze worker `0` for `1` ms and start its next incarnation at once: a zombie.
    Zombie(usize, u64),
    /// Cut a worker or a service off for `1` ms.
    Cut(Cut, u64),
    /// Split the `0`th open shard.
    Split(usize),
    /// Merge the `0`th open shard with its neighbour.
    Merge(usize),
    /// SIGTERM to worker `0`; it stays away for `1` ms and comes back with another configuration.
    Term(usize, u64),
    /// The wall clock of worker `0` is set by `1` ms, back or forward.
    Step(usize, i64),
    /// The whole fleet is down for `0` hours, retention takes what it takes; worker `1`, if there
    /// is one of this number, is not dead but frozen.
    Blackout(u64, usize),
}

/// What is cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    Worker(usize),
    Replies(usize),
    Service(Service, Outage),
}

impl Fleet {
    /// No faults: `workers`, `shards`, `records`.
    pub fn calm(seed: u64, workers: usize, shards: u32, records: u64) -> Self {
        Self {
            seed,
            backend: Backend::Strict,
            workers,
            shards,
            records,
            load: Load { pad: 20, ..Load::default() },
            dark: false,
            backlog: 0,
            kcl: false,
            latest: false,
            stops: false,
            survivor: None,
            faults: FaultMix::calm(),
            world: WorldOptions::default(),
            yields: 0,
            skew_ms: vec![0; workers],
            scripts: Vec::new(),
            plan: Vec::new(),
            heal_ms: 60_000,
            settle_ms: 600_000,
        }
    }

    /// A fleet of its own for each seed.
    pub fn draw(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x46_4c45_4554);
        let workers = rng.usize(1..=4);
        let mut fleet = Self::calm(seed, workers, rng.u32(1..=3), rng.u64(20..=200));
        fleet.faults = FaultMix::draw(&mut rng);
        fleet.world = WorldOptions {
            kinesis: KinesisOptions {
                page_bytes: if rng.bool() { 10 << 20 } else { rng.usize(50..2_000) },
                list_page: if rng.bool() { 1000 } else { rng.usize(1..3) },
                empty_pages: if rng.bool() { 0 } else { rng.u32(1..500) },
                late_ends: if rng.bool() { 0 } else { 500 },
                limits: rng.u32(0..4) > 0,
                no_partition_key: if rng.u32(0..4) == 0 { 300 } else { 0 },
                no_arrival_time: if rng.u32(0..4) == 0 { 300 } else { 0 },
                ..KinesisOptions::default()
            },
            stale_ms: rng.u64(0..3_000),
            stale: if rng.bool() { 0 } else { rng.u32(1..500) },
            min_part: (rng.u32(0..3) == 0).then_some(100),
            aborts: fastrand::Rng::with_seed(seed ^ 0x4142_5254).u32(0..4) * 50,
        };
        let share = |rng: &mut fastrand::Rng| if rng.bool() { 0 } else { rng.u32(20..400) };
        fleet.load = Load {
            pad: if rng.u32(0..4) == 0 { 2_000 } else { 20 },
            aggregates: share(&mut rng),
            uploads: share(&mut rng),
            fields: fastrand::Rng::with_seed(seed ^ 0x4649_454c_4453).u32(0..3) == 0,
        };
        fleet.latest = rng.u32(0..6) == 0;
        fleet.stops = rng.u32(0..4) == 0;
        fleet.survivor = (rng.u32(0..4) == 0).then(|| rng.usize(0..workers));
        fleet.yields = if rng.bool() { 0 } else { rng.u32(1..200) };
        // LATEST is the wall clock of the worker that makes the lease: an hour ahead would be an
        // hour of waiting.
        let ahead = if fleet.latest { 2_000 } else { 3_600_000 };
        for skew in &mut fleet.skew_ms {
            *skew = if rng.u32(0..4) == 0 { rng.i64(-3_600_000..ahead) } else { 0 };
        }
        fleet.heal_ms = rng.u64(20_000..120_000);
        for _ in 0..rng.usize(0..10) {
            let at = rng.u64(0..fleet.heal_ms);
            let worker = rng.usize(0..workers);
            let span = rng.u64(500..40_000);
            let act = match rng.u32(0..14) {
                13 => Act::Step(worker, rng.i64(-120_000..ahead.min(120_000))),
                10..=12 => Act::Term(worker, rng.u64(0..15_000)),
                0..=2 => Act::Crash(worker, rng.u64(1..800), rng.u64(0..20_000)),
                3 | 4 => Act::Freeze(worker, span),
                5 => Act::Zombie(worker, span),
                6 => Act::Cut(Cut::Worker(worker), span),
                7 => Act::Cut(Cut::Replies(worker), span),
                8 => {
                    let service = Service::ALL[rng.usize(0..3)];
                    let kind = Outage::ALL[rng.usize(0..Outage::ALL.len())];
                    // Minutes, sometimes.
                    let span = if rng.u32(0..4) == 0 { span * 4 } else { span };
                    Act::Cut(Cut::Service(service, kind), span)
                }
                _ => match rng.bool() {
                    true => Act::Split(rng.usize(0..8)),
                    false => Act::Merge(rng.usize(0..8)),
                },
            };
            fleet.plan.push((at, act));
        }
        if rng.u32(0..6) == 0 {
            let at = rng.u64(2_000..fleet.heal_ms);
            if rng.u32(0..4) > 0 {
                // What is announced cannot be put before the lights go out.
                let kind = if rng.bool() { Outage::Silent } else { Outage::Unavailable };
                let cut = Act::Cut(Cut::Service(Service::S3, kind), rng.u64(1_000..20_000));
                fleet.plan.push((at.saturating_sub(rng.u64(500..6_000)), cut));
            }
            fleet.plan.push((at, Act::Blackout(rng.u64(22..28), rng.usize(0..workers * 2))));
        }
        // Of its own, so that the other fleets stay what they were.
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x4441_524b);
        if rng.u32(0..4) == 0 {
            fleet.goes_dark(&mut rng);
        }
        fleet.answers_oddly(&mut fastrand::Rng::with_seed(seed ^ 0x4f_4444));
        fleet.plan.sort_by_key(|(at, _)| *at);
        fleet
    }

    /// What Kinesis is reported to do beside what it documents.
    fn answers_oddly(&mut self, rng: &mut fastrand::Rng) {
        let share = |rng: &mut fastrand::Rng| match rng.u32(0..6) {
            0 => rng.u32(1..50),
            _ => 0,
        };
        let kinesis = &mut self.world.kinesis;
        kinesis.lost_ends = share(rng);
        kinesis.void_pages = share(rng);
        kinesis.blank_tips = share(rng) * 5;
        kinesis.repeats = share(rng);
        kinesis.stuck = rng.u32(0..3) == 0;
        if rng.u32(0..6) == 0 {
            self.backlog = rng.usize(10..150);
            kinesis.grain_ms = Some(if rng.bool() { 1 } else { rng.i64(1..20_000) });
        }
        self.kcl = rng.u32(0..8) == 0;
        if self.kcl {
            // As with LATEST of our own: an hour ahead would be an hour of waiting.
            for skew in &mut self.skew_ms {
                *skew = (*skew).min(2_000);
            }
            for (_, act) in &mut self.plan {
                if let Act::Step(_, ms) = act {
                    *ms = (*ms).min(2_000);
                }
            }
        }
    }

    /// What is rare by chance: the lights go out while batches are announced and partly put, for
    /// about as long as retention, and the shards they are of have just been closed.
    fn goes_dark(&mut self, rng: &mut fastrand::Rng) {
        self.plan.retain(|(_, act)| !matches!(act, Act::Blackout(..)));
        self.load.fields = true;
        self.dark = true;
        let at = rng.u64(8_000..self.heal_ms);
        let outage = Act::Cut(Cut::Service(Service::S3, Outage::Half), 60_000);
        self.plan.push((at - rng.u64(500..6_000), outage));
        if rng.bool() {
            let nth = rng.usize(0..8);
            let reshard = if rng.bool() { Act::Split(nth) } else { Act::Merge(nth) };
            self.plan.push((at - rng.u64(0..6_000), reshard));
        }
        self.plan.push((at, Act::Blackout(rng.u64(25..28), rng.usize(0..self.workers * 2))));
    }

    /// Does this incarnation run the build before this one, which cannot finish what is encoded by
    /// fields? Somebody who can always stays.
    pub fn is_older(&self, node: &str) -> bool {
        let worker = node.split(['w', '.']).nth(1).and_then(|n| n.parse().ok());
        let stays = worker == Some(0) || self.survivor == worker;
        let draw = Fnv::of(node.as_bytes()) ^ self.seed;
        // It leaves out what is foreign in an aggregate, and nobody else delivers that.
        let knows = self.load.fields && self.load.aggregates == 0;
        cfg!(feature = "mutants") && knows && !stays && draw.is_multiple_of(3)
    }

    /// How long the fleet is down on purpose.
    pub fn dark_ms(&self) -> u64 {
        let hours = self.plan.iter().map(|(_, act)| match act {
            Act::Blackout(hours, _) => *hours,
            _ => 0,
        });
        hours.sum::<u64>() * 3_600_000
    }

    /// The setup of a run of this fleet.
    pub fn setup(&self, observer: Box<dyn Observer>) -> Setup {
        Setup {
            seed: self.seed,
            backend: self.backend,
            faults: self.faults.clone(),
            world: self.world.clone(),
            observer,
        }
    }
}

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
    for node in &driver.nodes {
        node.disarm();
    }
    if let Some(survivor) = fleet.survivor {
        driver.leave_alone(survivor);
    }
    let mut late = Err("nothing was looked at".to_owned());
    for _ in 0..fleet.settle_ms / 1000 {
        driver.restart(sim.net.now().at);
        late = done(&mut sim.net.world());
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
            Act::Blackout(..) => {}
        }
    }
}
