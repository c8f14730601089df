//! A node: its tasks, its clocks, its SDK clients, and the ways it can die.
//!
//! All tasks of a node run inside [`Killable`]. A crash ends them together before the next poll of
//! any of them, which means at any await point. Dead tasks are kept until the run is over and never
//! dropped before, because dropping would run code of theirs that a killed process would not.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use aws_runtime::invocation_id::DefaultInvocationIdGenerator;
use aws_sdk_s3::config::retry::{RetryConfig, RetryPartition};
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_async::time::TimeSource;
use catchment::clock::{Clock, Jitter};
use catchment::shutdown::Shutdown;
use catchment::task::{BoxTask, Tasks};
use tokio::sync::watch;

use crate::services::REGION;
use crate::sim::{EPOCH_MS, Graveyard, Sim};

/// How a node ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Its root task returned.
    Returned,
    Crashed,
    Panicked(String),
}

struct Life {
    polls: u64,
    crash_at: Option<u64>,
    end: watch::Sender<Option<End>>,
    frozen_until: Option<Duration>,
    wakers: BTreeMap<u64, Waker>,
    tasks: u64,
    /// Extra yields, in a thousand polls: they widen the set of interleavings.
    yields: u32,
    #[cfg_attr(not(feature = "mutants"), expect(dead_code, reason = "nobody runs it then"))]
    older: bool,
    rng: fastrand::Rng,
}

impl Life {
    /// A node whose root returned is as gone as one that crashed: its process has exited.
    fn gone(&self) -> bool {
        self.end.borrow().is_some()
    }

    fn finish(&mut self, end: End) {
        self.end.send_if_modified(|now| {
            let first = now.is_none();
            now.get_or_insert(end);
            first
        });
        self.wake();
    }

    fn wake(&mut self) {
        for waker in std::mem::take(&mut self.wakers).into_values() {
            waker.wake();
        }
    }
}

/// One incarnation of a worker process.
#[derive(Clone)]
pub struct Node {
    /// `w1.3`: worker, incarnation.
    pub name: Arc<str>,
    pub clock: Clock,
    pub jitter: Jitter,
    pub tasks: Tasks,
    pub kinesis: aws_sdk_kinesis::Client,
    pub dynamodb: aws_sdk_dynamodb::Client,
    pub s3: aws_sdk_s3::Client,
    /// SIGTERM.
    pub shutdown: Shutdown,
    life: Arc<Mutex<Life>>,
    sim: Sim,
}

/// What differs between nodes.
#[derive(Clone, Debug, Default)]
pub struct NodeOptions {
    /// The wall clock's error.
    pub skew_ms: i64,
    pub yields: u32,
    /// It runs the build before this one (with the feature `mutants`).
    pub older: bool,
    /// Time-outs of one attempt and of a whole call to the lease table, if not those of all calls.
    pub table: Option<[Duration; 2]>,
}

impl Node {
    /// A process that has not started yet.
    pub fn new(sim: &Sim, name: &str, options: &NodeOptions) -> Self {
        let name: Arc<str> = name.into();
        let seed = sim.seed ^ crate::effects::Fnv::of(name.as_bytes());
        let life = Arc::new(Mutex::new(Life {
            polls: 0,
            crash_at: None,
            end: watch::Sender::new(None),
            frozen_until: None,
            wakers: BTreeMap::new(),
            tasks: 0,
            yields: options.yields,
            older: options.older,
            rng: fastrand::Rng::with_seed(seed),
        }));
        // Started now, so the skewed wall clock must begin where virtual time stands.
        let elapsed = i64::try_from(sim.clock.now().as_millis()).unwrap_or(i64::MAX);
        let clock = Clock::simulated(EPOCH_MS + elapsed + options.skew_ms);
        let http = SharedHttpClient::new(sim.net.http_client(&name));
        let tasks = {
            let (life, sim) = (life.clone(), sim.clone());
            Tasks::inline(Arc::new(move |name, task| {
                Box::pin(Killable::new(&sim, &life, name, task))
            }))
        };
        /// The three clients differ in type only.
        macro_rules! client {
            ($sdk:ident, $salt:expr, $timeouts:expr $(, $extra:ident($value:expr))*) => {
                $sdk::Client::from_conf(
                    $sdk::Config::builder()
                        .behavior_version(BehaviorVersion::v2026_01_12())
                        .region(Region::new(REGION))
                        .credentials_provider(Credentials::new("AKIASIM", "secret", None, None, "sim"))
                        .http_client(http.clone())
                        .sleep_impl(TokioSleep::new())
                        .time_source(Skewed(clock.clone()))
                        .retry_config(RetryConfig::standard().with_max_attempts(4))
                        .retry_partition(RetryPartition::custom(format!("{name}-{}", $salt)).build())
                        .timeout_config($timeouts)
                        .invocation_id_generator(DefaultInvocationIdGenerator::with_seed(seed ^ $salt))
                        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
                        $(.$extra($value))*
                        .build(),
                )
            };
        }
        Self {
            kinesis: client!(aws_sdk_kinesis, 1, timeouts(CALLS)),
            dynamodb: client!(aws_sdk_dynamodb, 2, timeouts(options.table.unwrap_or(CALLS))),
            s3: client!(aws_sdk_s3, 3, timeouts(CALLS), force_path_style(true)),
            jitter: Jitter::seeded(seed ^ 4),
            name,
            clock,
            tasks,
            shutdown: Shutdown::default(),
            life,
            sim: sim.clone(),
        }
    }

    /// Something a process must not do, seen from inside it.
    pub fn violation(&self, what: &str) {
        let at = self.sim.net.now().at;
        self.sim.trace.violation(format!("at {at} ms, {}: {what}", self.name));
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        lock(&self.life)
    }

    /// Runs the process; when `root` returns, so does the node, and its other tasks end with it.
    #[expect(clippy::disallowed_methods, reason = "nobody in the node holds the root's handle")]
    pub fn run(&self, root: impl Future<Output = ()> + Send + 'static) {
        let life = self.life.clone();
        let root = async move {
            root.await;
            lock(&life).finish(End::Returned);
        };
        tokio::spawn(self.tasks.spawn("root", root).detached());
    }

    /// Kills the process: no code of its own runs any more.
    pub fn crash(&self) {
        self.note("crash");
        self.life().finish(End::Crashed);
    }

    /// Kills the process just before its `k`th poll from now.
    pub fn crash_at_poll(&self, k: u64) {
        let mut life = self.life();
        life.crash_at = Some(life.polls + k.max(1));
    }

    /// Takes back [`Node::crash_at_poll`]; whether there was something to take back.
    pub fn disarm(&self) -> bool {
        self.life().crash_at.take().is_some()
    }

    /// Stops the process for a while; timers and the world go on.
    #[expect(clippy::disallowed_methods, reason = "the thaw belongs to the world, not to the node")]
    pub fn freeze(&self, for_: Duration) {
        self.note("freeze");
        let until = self.sim.clock.now() + for_;
        self.life().frozen_until = Some(until);
        let node = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(for_).await;
            let mut life = node.life();
            if life.frozen_until == Some(until) {
                life.frozen_until = None;
                life.wake();
            }
        });
    }

    /// Ends a freeze before its time.
    pub fn thaw(&self) {
        let mut life = self.life();
        if life.frozen_until.take().is_some() {
            life.wake();
        }
    }

    pub fn polls(&self) -> u64 {
        self.life().polls
    }

    pub fn end(&self) -> Option<End> {
        self.life().end.borrow().clone()
    }

    /// Waits until the process has ended.
    pub async fn ended(&self) -> End {
        let mut watch = self.life().end.subscribe();
        let end = watch.wait_for(Option::is_some).await;
        end.ok().and_then(|end| end.clone()).unwrap_or(End::Crashed)
    }

    /// SIGTERM: the process drains and ends.
    pub fn terminate(&self) {
        self.note("SIGTERM");
        self.shutdown.drain.cancel();
    }

    pub fn note(&self, what: &str) {
        if !self.life().gone() {
            self.sim.trace.note(self.sim.net.now().at, &self.name, what);
        }
    }
}

/// Time-outs of one attempt and of a whole call.
const CALLS: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(10)];

fn timeouts([attempt, operation]: [Duration; 2]) -> TimeoutConfig {
    TimeoutConfig::builder().operation_attempt_timeout(attempt).operation_timeout(operation).build()
}

fn lock(life: &Mutex<Life>) -> MutexGuard<'_, Life> {
    life.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The SDK's view of a node's wall clock.
#[derive(Clone)]
struct Skewed(Clock);

impl std::fmt::Debug for Skewed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Skewed")
    }
}

impl TimeSource for Skewed {
    fn now(&self) -> SystemTime {
        let ms = u64::try_from(self.0.wall()).unwrap_or(0);
        SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
    }
}

/// A task that can be counted, frozen and killed.
struct Killable {
    name: &'static str,
    id: u64,
    task: Option<BoxTask>,
    life: Arc<Mutex<Life>>,
    clock: Clock,
    sim: Sim,
}

impl Killable {
    fn new(sim: &Sim, life: &Arc<Mutex<Life>>, name: &'static str, task: BoxTask) -> Self {
        let mut held = lock(life);
        held.tasks += 1;
        let id = held.tasks;
        drop(held);
        Self {
            name,
            id,
            task: Some(task),
            life: life.clone(),
            clock: sim.clock.clone(),
            sim: sim.clone(),
        }
    }

    fn bury(&mut self) -> Poll<()> {
        if let Some(task) = self.task.take() {
            self.sim.graveyard.bury(task);
        }
        Poll::Ready(())
    }
}

impl Future for Killable {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        {
            let mut life = lock(&this.life);
            if life.gone() {
                drop(life);
                return this.bury();
            }
            life.wakers.insert(this.id, context.waker().clone());
            if life.frozen_until.is_some_and(|until| this.clock.now() < until) {
                return Poll::Pending;
            }
            life.polls += 1;
            if life.crash_at.is_some_and(|at| life.polls >= at) {
                life.finish(End::Crashed);
                drop(life);
                return this.bury();
            }
            let yields = life.yields;
            if yields > 0 && life.rng.u32(0..1000) < yields {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        let Some(task) = this.task.as_mut() else {
            return Poll::Ready(());
        };
        #[cfg(feature = "mutants")]
        catchment::mutant::older(lock(&this.life).older);
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(context)));
        #[cfg(feature = "mutants")]
        catchment::mutant::older(false);
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(())) => {
                lock(&this.life).wakers.remove(&this.id);
                Poll::Ready(())
            }
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
                let text = format!("task {} panicked: {}", this.name, text.unwrap_or_default());
                this.sim.trace.violation(text.clone());
                lock(&this.life).finish(End::Panicked(text));
                this.bury()
            }
        }
    }
}

impl Drop for Killable {
    /// A dead node's task may be dropped by the runtime going down: keep it all the same.
    fn drop(&mut self) {
        if lock(&self.life).gone() {
            let _ = self.bury();
        }
    }
}

/// See [`Graveyard`].
pub type Dead = Vec<BoxTask>;

impl Graveyard {
    fn bury(&self, task: BoxTask) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }
}
