//! What happens in a seed: how many workers, shards and records, who crashes, freezes or is cut
//! off and when, how the stream is resharded. Drawn here, driven in `drive.rs`.

use crate::effects::{Fnv, Observer};
use crate::faults::{FaultMix, Outage, Script};
use crate::load::Load;
use crate::services::fan_out::FanOutOptions;
use crate::services::kinesis::KinesisOptions;
use crate::services::world::WorldOptions;
use crate::services::{Backend, Service};
use crate::sim::Setup;

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
    /// Some incarnations read by enhanced fan-out.
    pub fan_out: bool,
    /// Some incarnations stop at a gap; the next may go on.
    pub stops: bool,
    /// All stop at gaps, and an operator accepts one after the other.
    pub parks: bool,
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
    /// An operator has the shards go back; the command dies at its `1`th poll.
    Rewind(BackTo, u64),
}

/// Where an operator has the shards go back to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackTo {
    /// The oldest record kept.
    TrimHorizon,
    /// So many milliseconds ago.
    Ago(i64),
    /// The `0`th record that there is.
    Record(usize),
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
            fan_out: false,
            stops: false,
            parks: false,
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
        // Each of its own, so that what is drawn above stays what it was.
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x5055_5348);
        if rng.u32(0..4) == 0 {
            fleet.is_pushed(&mut rng);
        }
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x5245_5749_4e44);
        if rng.u32(0..8) == 0 {
            fleet.goes_back(&mut rng);
        }
        fleet.plan.sort_by_key(|(at, _)| *at);
        // Of its own again, and only where retention takes something.
        let loses = fleet.backlog > 0 || fleet.dark_ms() > 0;
        fleet.parks = loses && fastrand::Rng::with_seed(seed ^ 0x5041_524b).u32(0..3) == 0;
        fleet
    }

    /// An operator has it go back once or twice while it is at work.
    fn goes_back(&mut self, rng: &mut fastrand::Rng) {
        // Where records bear no time, as in some emulators, objects are named by when a batch was opened:
        // a range delivered again may meet the name of another part of it.
        self.world.kinesis.no_arrival_time = 0;
        for _ in 0..rng.usize(1..3) {
            let to = match rng.u32(0..3) {
                0 => BackTo::TrimHorizon,
                1 => BackTo::Ago(rng.i64(0..60_000)),
                _ => BackTo::Record(rng.usize(0..100)),
            };
            let dies = if rng.bool() { u64::MAX / 2 } else { rng.u64(1..200) };
            self.plan.push((rng.u64(8_000..self.heal_ms), Act::Rewind(to, dies)));
        }
    }

    /// A fleet whose workers read by subscription, some of them and some of their lives.
    fn is_pushed(&mut self, rng: &mut fastrand::Rng) {
        self.fan_out = true;
        let share = |rng: &mut fastrand::Rng, most: u32| match rng.bool() {
            true => rng.u32(1..most),
            false => 0,
        };
        self.world.kinesis.fan_out = FanOutOptions {
            seed: self.seed,
            creating_ms: if rng.bool() { rng.i64(0..3_000) } else { rng.i64(0..90_000) },
            resets: share(rng, 60),
            silences: share(rng, 30),
            early_ends: share(rng, 60),
            exceptions: share(rng, 30),
            twice: share(rng, 60),
            void: share(rng, 30),
        };
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
            // Who takes records out of retention stamps them: the emulators that do not, keep all.
            kinesis.no_arrival_time = 0;
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
