//! How the events of a subscription travel: a body that goes on while time passes.
//!
//! A task of the network pushes what the service has (see [`crate::services::fan_out`]), an event at
//! a time, each after the delay of the path. Where the path is cut the connection says nothing more,
//! for ever or until the cut is over; a reader that takes nothing stops the pushing.

use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use serde_json::json;
use tokio::sync::mpsc;

use crate::effects::Effect;
use crate::faults::{Outage, Scope};
use crate::net::{Broken, Net, base_name};
use crate::services::Service;
use crate::services::fan_out::{Push, Subscription, event, exception};

/// Kinesis lets a reader know that it is there.
const HEARTBEAT_MS: u64 = 5_000;
/// Messages on their way that nobody has taken: the window of the connection.
const WINDOW: usize = 16;

/// What arrives of a subscription; the end of the channel is the end of the body.
pub type Messages = mpsc::Receiver<Result<Bytes, Broken>>;

/// The body of a reply that goes on.
pub struct MessageBody(pub Messages);

impl http_body::Body for MessageBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.0.poll_recv(context).map(|message| {
            let reset = |_| std::io::Error::from(std::io::ErrorKind::ConnectionReset);
            Some(message?.map(Frame::data).map_err(reset))
        })
    }
}

/// One subscription on its connection.
struct Line {
    net: Net,
    node: Arc<str>,
    to: Subscription,
    messages: mpsc::Sender<Result<Bytes, Broken>>,
}

impl Net {
    /// Pushes to a subscription until it is over.
    #[expect(clippy::disallowed_methods, reason = "the network's tasks belong to no node")]
    pub fn feed(&self, node: &Arc<str>, to: Subscription) -> Messages {
        let (messages, receiver) = mpsc::channel(WINDOW);
        let line = Line { net: self.clone(), node: Arc::clone(node), to, messages };
        tokio::spawn(line.run());
        receiver
    }
}

impl Line {
    async fn run(mut self) {
        let mut heard = self.net.now().at;
        let mut step = self.carry(event("initial-response", &json!({}))).await;
        while step.is_continue() {
            let now = self.net.now();
            let due = now.at >= heard + HEARTBEAT_MS;
            let (push, changed) = {
                let mut world = self.net.world();
                let push = world.kinesis.push(&mut self.to, due, now.wall_ms);
                (push, world.kinesis.changed(&self.to))
            };
            step = match push {
                Push::Idle => {
                    let next = Duration::from_millis(heard + HEARTBEAT_MS - now.at);
                    tokio::select! {
                        biased;
                        () = self.messages.closed() => return,
                        () = changed.notified() => {
                            // What follows at once comes in the same event.
                            let ms = self.to.rng.u64(10..300);
                            tokio::time::sleep(Duration::from_millis(ms)).await;
                        }
                        () = tokio::time::sleep(next) => {}
                    }
                    ControlFlow::Continue(())
                }
                Push::Over => self.end("subscription over"),
                Push::Replaced if self.to.rng.bool() => self.end("subscription replaced"),
                Push::Replaced => {
                    self.count("subscription replaced");
                    self.except("ResourceInUseException").await
                }
                Push::Exception(kind) => self.except(kind).await,
                Push::Event { payload, what, last } => {
                    heard = now.at;
                    let message = event("SubscribeToShardEvent", &payload);
                    self.deliver(message, &what, last).await
                }
            };
        }
    }

    /// An event, or what becomes of it.
    async fn deliver(&mut self, message: Bytes, what: &str, last: bool) -> ControlFlow<()> {
        let options = self.net.world().kinesis.options.fan_out.clone();
        let mut dice = self.to.rng.u32(0..1000);
        let classes = [
            (options.resets, "subscription broken"),
            (options.silences, "subscription silent"),
            (options.early_ends, "subscription over early"),
            (options.exceptions, "exception in a subscription"),
        ];
        let fate = classes.into_iter().find_map(|(rate, name)| match dice < rate {
            true => Some(name),
            false => {
                dice -= rate;
                None
            }
        });
        self.note(fate.unwrap_or_default(), what);
        match fate {
            None => {}
            Some("subscription broken") => {
                self.count("subscription broken");
                // Some of it was on its way.
                let half = message.slice(..self.to.rng.usize(0..message.len()));
                self.carry(half).await?;
                let _ = self.messages.send(Err(Broken)).await;
                return ControlFlow::Break(());
            }
            Some("subscription silent") => return self.silence().await,
            Some("subscription over early") => return self.end("subscription over early"),
            Some(_) => {
                self.count("exception in a subscription");
                return self.except("InternalFailureException").await;
            }
        }
        let twice = self.to.chance(options.twice);
        self.carry(message.clone()).await?;
        if twice {
            self.count("event twice");
            self.carry(message).await?;
        }
        if last {
            return self.end("subscription at the end of its shard");
        }
        ControlFlow::Continue(())
    }

    /// A message crosses the network.
    async fn carry(&mut self, message: Bytes) -> ControlFlow<()> {
        let delay = self.net.leg(&mut self.to.rng);
        tokio::time::sleep(delay).await;
        let name = base_name(&self.node).to_owned();
        let cut = move |scope: &Scope| match scope {
            Scope::Node(n) | Scope::Replies(n) => **n == *name,
            Scope::Service(_) => false,
        };
        if self.net.cut_off(&cut).is_some() {
            if self.to.rng.bool() {
                return self.silence().await;
            }
            self.count("subscription held up");
            while self.net.cut_off(&cut).is_some() {
                if self.messages.is_closed() {
                    return ControlFlow::Break(());
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        match self.net.cut_off(|scope| *scope == Scope::Service(Service::Kinesis)) {
            Some(Outage::Silent) => return self.silence().await,
            Some(Outage::Refused) => {
                let _ = self.messages.send(Err(Broken)).await;
                return ControlFlow::Break(());
            }
            Some(Outage::Unavailable) => {
                let _ = self.messages.send(Ok(exception("InternalFailureException"))).await;
                return ControlFlow::Break(());
            }
            Some(Outage::Throttled | Outage::Expired | Outage::Half) | None => {}
        }
        match self.messages.send(Ok(message)).await {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }

    async fn except(&mut self, kind: &str) -> ControlFlow<()> {
        self.carry(exception(kind)).await?;
        ControlFlow::Break(())
    }

    /// Nothing comes any more, until the reader hangs up.
    async fn silence(&self) -> ControlFlow<()> {
        self.count("subscription silent");
        self.messages.closed().await;
        ControlFlow::Break(())
    }

    fn end(&self, why: &'static str) -> ControlFlow<()> {
        self.count(why);
        ControlFlow::Break(())
    }

    fn count(&self, what: &'static str) {
        self.net.trace().sometimes(what);
    }

    fn note(&self, fault: &'static str, what: &str) {
        self.net.trace().record(Effect {
            at: self.net.now().at,
            node: Arc::clone(&self.node),
            op: "SubscribeToShardEvent".to_owned(),
            fault,
            status: 200,
            error: String::new(),
            what: what.to_owned(),
        });
    }
}
