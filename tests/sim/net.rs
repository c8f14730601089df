//! The simulated network, as the SDK's HTTP client.
//!
//! The network owns each request: delay, effect at the service, delay, reply. Whether the sender
//! timed out, was cancelled or died makes no difference to what lands. That one decision brings
//! zombies, late PUTs and lost responses with it. A lost message is silence, not an error: the
//! sender's own time-outs must end the wait, as with a real connection.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use catchment::clock::Clock;
use http_body_util::BodyExt as _;
use tokio::sync::oneshot;

use crate::effects::{Effect, Fnv, Trace};
use crate::faults::{Fault, FaultMix, Outage, Scope, Script, Window};
use crate::feed::{MessageBody, Messages};
use crate::services::fan_out::Subscription;
use crate::services::world::Now;
use crate::services::{
    Refusal, Request, Response, Service, World, expired, internal, operation, s3, skewed, throttle,
};

const COMPLETE: &str = "CompleteMultipartUpload";

/// Signatures are good for this long, either way.
const SIGNATURE_MS: i64 = 15 * 60 * 1000;

/// The network and the services behind it. Cheap to clone.
#[derive(Clone)]
pub struct Net(Arc<Inner>);

struct Inner {
    clock: Clock,
    trace: Trace,
    world: Mutex<World>,
    state: Mutex<State>,
}

struct State {
    rng: fastrand::Rng,
    mix: FaultMix,
    windows: Vec<Window>,
    scripts: Vec<Script>,
    healed: bool,
    /// Cut off for good, healed or not.
    exiled: Option<Arc<str>>,
    in_flight: usize,
    requests: u64,
    /// Uploads in parts that lost a race: S3 wants them begun anew.
    beaten: BTreeSet<String>,
    /// When a node last asked for a subscription to a shard.
    asked: BTreeMap<(Arc<str>, String), u64>,
}

type Reply = Result<Answer, Broken>;

/// A response, and what goes on coming behind its head.
struct Answer(Response, Option<Messages>);

/// The connection broke.
#[derive(Debug)]
pub struct Broken;

impl Net {
    pub fn new(seed: u64, mix: FaultMix, world: World, clock: Clock, trace: Trace) -> Self {
        let state = State {
            rng: fastrand::Rng::with_seed(seed ^ 0x004e_4554),
            mix,
            windows: Vec::new(),
            scripts: Vec::new(),
            healed: false,
            exiled: None,
            in_flight: 0,
            requests: 0,
            beaten: BTreeSet::new(),
            asked: BTreeMap::new(),
        };
        Self(Arc::new(Inner { clock, trace, world: Mutex::new(world), state: Mutex::new(state) }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The services, for the harness: to produce, to reshard, to look.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.0.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An HTTP client for the SDK, as used by the node of this name.
    pub fn http_client(&self, node: &Arc<str>) -> Wire {
        Wire { net: self.clone(), node: node.clone() }
    }

    pub fn now(&self) -> Now {
        let at = u64::try_from(self.0.clock.now().as_millis()).unwrap_or(u64::MAX);
        Now { at, wall_ms: self.0.clock.wall() }
    }

    /// Cuts a part of the world off for a while.
    pub fn cut(&self, window: Window) {
        self.state().windows.push(window);
    }

    /// Does one thing to one request.
    pub fn script(&self, script: Script) {
        self.state().scripts.push(script);
    }

    /// No new faults from here on. What is already under way still lands.
    pub fn heal(&self) {
        let mut state = self.state();
        state.healed = true;
        state.mix.slow = 0;
        drop(state);
        self.world().heal();
    }

    /// Cuts a worker off, or nobody: the one cut off before is let in again.
    pub fn exile(&self, worker: Option<&str>) {
        self.state().exiled = worker.map(Arc::from);
    }

    /// Requests that have not landed yet, duplicates included.
    pub fn in_flight(&self) -> usize {
        self.state().in_flight
    }

    /// Requests sent so far.
    pub fn requests(&self) -> u64 {
        self.state().requests
    }

    pub fn trace(&self) -> &Trace {
        &self.0.trace
    }

    /// How long something is on its way.
    pub fn leg(&self, rng: &mut fastrand::Rng) -> Duration {
        self.state().mix.legs(rng).1
    }

    pub fn cut_off(&self, covers: impl Fn(&Scope) -> bool) -> Option<Outage> {
        let at = self.now().at;
        let state = self.state();
        if state.exiled.as_ref().is_some_and(|node| covers(&Scope::Node(Arc::clone(node)))) {
            return Some(Outage::Silent);
        }
        let windows = state.windows.iter().filter(|_| !state.healed);
        windows
            .filter(|w| covers(&w.scope) && (w.from_ms..w.to_ms).contains(&at))
            .map(|w| w.kind)
            .next()
    }

    fn plan(&self, node: &str, request: &Request) -> (Option<Fault>, Duration, Duration) {
        let conditional = s3::create_only(request);
        let op = operation(request);
        let mut state = self.state();
        state.requests += 1;
        let state = &mut *state;
        let (d1, d2) = state.mix.legs(&mut state.rng);
        let drawn =
            state.mix.pick(&mut state.rng, (conditional && op == "PutObject") || op == COMPLETE);
        let mut fault = drawn.filter(|_| !state.healed);
        let mut used = None;
        for (i, script) in state.scripts.iter_mut().enumerate() {
            if script.op == op && script.node.is_none_or(|n| n == base_name(node)) {
                if script.skip == 0 {
                    used = Some(i);
                    break;
                }
                script.skip -= 1;
            }
        }
        if let Some(i) = used {
            fault = Some(state.scripts.remove(i).fault);
        }
        (fault, d1, d2)
    }

    #[expect(clippy::disallowed_methods, reason = "the network's tasks belong to no node")]
    fn send(&self, node: Arc<str>, request: Request) -> oneshot::Receiver<Reply> {
        let (reply, receiver) = oneshot::channel();
        let (fault, d1, d2) = self.plan(&node, &request);
        self.pace(&node, &request);
        let net = self.clone();
        net.state().in_flight += 1;
        tokio::spawn(async move {
            net.carry(&node, &request, fault, (d1, d2), reply).await;
            if let Some(Fault::Duplicated(after)) = fault {
                tokio::time::sleep(after).await;
                net.apply(&node, "duplicate", &request);
            }
            net.state().in_flight -= 1;
        });
        receiver
    }

    /// [12] Kinesis takes one SubscribeToShard a second for a consumer and shard. What the SDK tries
    /// again by itself is not the worker's doing.
    fn pace(&self, node: &Arc<str>, request: &Request) {
        let attempt = request.headers().get("amz-sdk-request").and_then(|v| v.to_str().ok());
        let first = attempt.is_some_and(|text| text.contains("attempt=1"));
        if operation(request) != "SubscribeToShard" || !first {
            return;
        }
        let body: serde_json::Value = serde_json::from_slice(request.body()).unwrap_or_default();
        let shard = body["ShardId"].as_str().unwrap_or_default().to_owned();
        let at = self.now().at;
        let last = self.state().asked.insert((Arc::clone(node), shard.clone()), at);
        if let Some(last) = last.filter(|last| at < last + 1_000) {
            let ms = at - last;
            let what = format!("[12] subscribes to {shard} {ms} ms after it did last");
            self.0.trace.violation(format!("at {at} ms, {node}: {what}"));
        }
    }

    async fn carry(
        &self,
        node: &Arc<str>,
        request: &Request,
        fault: Option<Fault>,
        (d1, d2): (Duration, Duration),
        reply: oneshot::Sender<Reply>,
    ) {
        let service = Service::of(request);
        let name = base_name(node);
        if let Some(fault) = fault {
            self.0.trace.sometimes(fault.name());
        }
        let cut = |scope: &Scope| matches!(scope, Scope::Node(n) if **n == *name);
        if fault == Some(Fault::RequestLost) || self.cut_off(cut).is_some() {
            self.note(node, request, "lost");
            return;
        }
        tokio::time::sleep(d1).await;
        if let Some(Fault::Late(by)) = fault {
            tokio::time::sleep(by).await;
        }
        let outage = self.cut_off(|scope| *scope == Scope::Service(service));
        let other = d2.as_millis() % 2 == 0;
        let beaten = operation(request) == COMPLETE && self.beaten(request, fault);
        let fault = if beaten { Some(Fault::Conflict) } else { fault };
        let refusal = match (outage, fault) {
            (Some(Outage::Silent), _) => {
                self.note(node, request, "silent");
                return;
            }
            (Some(Outage::Refused), _) | (_, Some(Fault::ResetBefore)) => {
                self.note(node, request, "reset-before");
                let _ = reply.send(Err(Broken));
                return;
            }
            (Some(Outage::Unavailable), _) | (_, Some(Fault::ErrorBefore)) => {
                Some(internal(service, other))
            }
            (Some(Outage::Half), _)
                if Fnv::of(request.uri().path().as_bytes()).is_multiple_of(2) =>
            {
                Some(internal(service, other))
            }
            (Some(Outage::Expired), _) => Some(expired(service)),
            (Some(Outage::Throttled), _) | (_, Some(Fault::Throttled)) => {
                Some(throttle(service, other))
            }
            (_, Some(Fault::Conflict)) => Some(Refusal::new(
                409,
                "ConditionalRequestConflict",
                "The conditional request cannot succeed due to a conflicting operation against this resource.",
            )),
            _ => None,
        };
        let mut response = match refusal {
            Some(refusal) => {
                let response = refusal.response(service);
                self.refused(node, request, &refusal, fault.map_or("outage", Fault::name));
                response
            }
            None => self.apply(node, fault.map_or("", Fault::name), request),
        };
        if fault == Some(Fault::ErrorAfter) {
            response = internal(service, other).response(service);
        }
        tokio::time::sleep(d2).await;
        let deaf = |scope: &Scope| match scope {
            Scope::Node(n) | Scope::Replies(n) => **n == *name,
            Scope::Service(_) => false,
        };
        if fault == Some(Fault::ResponseLost) || self.cut_off(deaf).is_some() {
            return;
        }
        let date = s3::http_date(self.now().wall_ms);
        response.headers_mut().insert("date", date.parse().unwrap());
        let subscription = response.extensions_mut().remove::<Subscription>();
        let answer = match fault {
            Some(Fault::ResetAfter) => Err(Broken),
            _ => Ok(Answer(response, subscription.map(|to| self.feed(node, to)))),
        };
        let _ = reply.send(answer);
    }

    /// Did the upload that is to be completed lose a race, now or before?
    fn beaten(&self, request: &Request, fault: Option<Fault>) -> bool {
        let upload = request.uri().to_string();
        let mut state = self.state();
        if fault == Some(Fault::Conflict) {
            state.beaten.insert(upload);
            return true;
        }
        state.beaten.contains(&upload)
    }

    /// The request reaches its service.
    fn apply(&self, node: &Arc<str>, fault: &'static str, request: &Request) -> Response {
        let now = self.now();
        let signed = request.headers().get("x-amz-date").and_then(|v| v.to_str().ok());
        let signed = signed.and_then(parse_amz_date);
        if signed.is_none_or(|ms| (ms - now.wall_ms).abs() > SIGNATURE_MS) {
            let refusal = skewed(Service::of(request));
            self.refused(node, request, &refusal, "skewed");
            return refusal.response(Service::of(request));
        }
        self.world().apply(now, node, fault, request)
    }

    fn note(&self, node: &Arc<str>, request: &Request, what: &'static str) {
        self.record(node, request, what, 0, String::new());
    }

    fn refused(&self, node: &Arc<str>, request: &Request, refusal: &Refusal, fault: &'static str) {
        self.record(node, request, fault, refusal.status, refusal.code.to_owned());
    }

    fn record(
        &self,
        node: &Arc<str>,
        request: &Request,
        fault: &'static str,
        status: u16,
        error: String,
    ) {
        self.0.trace.record(Effect {
            at: self.now().at,
            node: node.clone(),
            op: operation(request),
            fault,
            status,
            error,
            what: String::new(),
        });
    }
}

/// `w1.3` is the third incarnation of `w1`; cuts and scripts name the latter.
pub fn base_name(node: &str) -> &str {
    node.split('.').next().unwrap_or(node)
}

/// `20260101T000000Z` as milliseconds.
fn parse_amz_date(text: &str) -> Option<i64> {
    let (d, t) = text.strip_suffix('Z')?.split_once('T')?;
    let at = |s: &str, from: usize, to: usize| s.get(from..to).map(str::to_owned);
    let iso = format!(
        "{}-{}-{}T{}:{}:{}Z",
        at(d, 0, 4)?,
        at(d, 4, 6)?,
        at(d, 6, 8)?,
        at(t, 0, 2)?,
        at(t, 2, 4)?,
        at(t, 4, 6)?
    );
    let format = aws_smithy_types::date_time::Format::DateTime;
    aws_smithy_types::DateTime::from_str(&iso, format).ok()?.to_millis().ok()
}

/// One node's end of the network.
#[derive(Clone)]
pub struct Wire {
    net: Net,
    node: Arc<str>,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Wire({})", self.node)
    }
}

impl HttpClient for Wire {
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Wire {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let wire = self.clone();
        HttpConnectorFuture::new(async move {
            let request = request.try_into_http1x().map_err(|e| ConnectorError::user(e.into()))?;
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map_err(ConnectorError::user)?.to_bytes();
            let reply = wire.net.send(wire.node, Request::from_parts(parts, body));
            match reply.await {
                Ok(Ok(Answer(response, messages))) => {
                    let body = |whole| match messages {
                        Some(messages) => SdkBody::from_body_1_x(MessageBody(messages)),
                        None => SdkBody::from(whole),
                    };
                    HttpResponse::try_from(response.map(body))
                        .map_err(|e| ConnectorError::other(e.into(), None))
                }
                Ok(Err(Broken)) => {
                    let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
                    Err(ConnectorError::io(reset.into()))
                }
                Err(_) => std::future::pending().await,
            }
        })
    }
}
