//! The status page and the events that keep it up to date.

use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::worker::context::TaskContext;
use crate::worker::status::SAMPLE;

const PAGE: &str = include_str!("page.html");

/// Browsers told at once.
const SUBSCRIBERS: usize = 16;
/// Events a browser may be behind before it is dropped; it then asks again.
const QUEUE: usize = 4;

/// Nothing but what stands in the page runs, and nothing leaves for another host.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |tag: &str| {
        let inside = PAGE
            .split_once(&format!("<{tag}>"))
            .and_then(|(_, rest)| rest.split_once(&format!("</{tag}>")).map(|(inside, _)| inside));
        STANDARD.encode(Sha256::digest(inside.unwrap_or_default()))
    };
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash("script"),
        hash("style")
    )
});

const GUARDS: [(HeaderName, &str); 3] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
];

/// The page itself.
pub(super) async fn page() -> Response {
    let kind = (header::CONTENT_TYPE, "text/html; charset=utf-8");
    let policy = (header::CONTENT_SECURITY_POLICY, POLICY.as_str());
    (GUARDS, [kind, policy], PAGE).into_response()
}

/// Who is told.
#[derive(Default)]
pub(super) struct Hub(Mutex<PageSubscribers>);

#[derive(Default)]
struct PageSubscribers {
    queues: Vec<mpsc::Sender<Bytes>>,
    closed: bool,
}

impl Hub {
    fn lock(&self) -> MutexGuard<'_, PageSubscribers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A queue that begins with `first`; `None` if there are enough already.
    fn subscribe(&self, first: Bytes) -> Option<mpsc::Receiver<Bytes>> {
        let mut state = self.lock();
        state.queues.retain(|queue| !queue.is_closed());
        if state.closed || state.queues.len() >= SUBSCRIBERS {
            return None;
        }
        let (send, receive) = mpsc::channel(QUEUE);
        send.try_send(first).ok()?;
        state.queues.push(send);
        Some(receive)
    }

    fn is_idle(&self) -> bool {
        self.lock().queues.is_empty()
    }

    /// Those who are gone, and those who do not keep up, are told no more.
    fn publish(&self, event: &Bytes) {
        self.lock().queues.retain(|queue| queue.try_send(event.clone()).is_ok());
    }

    fn close(&self, last: &Bytes) {
        self.publish(last);
        let mut state = self.lock();
        state.closed = true;
        state.queues.clear();
    }
}

/// What is known now, as one event.
fn event(ctx: &TaskContext) -> Bytes {
    let view = ctx.status.view(ctx.clock.now(), ctx.clock.wall());
    // There is no line break in it: `serde_json` escapes those of texts.
    let data = serde_json::to_string(&view).unwrap_or_default();
    format!("data: {data}\n\n").into()
}

/// Samples the status, and tells whoever listens, until told to stop.
pub(super) async fn tell(ctx: TaskContext, hub: Arc<Hub>, stop: CancellationToken) {
    let mut due = ctx.clock.now();
    loop {
        ctx.status.sample(ctx.clock.now());
        if !hub.is_idle() {
            hub.publish(&event(&ctx));
        }
        due += SAMPLE;
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = ctx.clock.sleep_until(due) => {}
        }
    }
    hub.close(&event(&ctx));
}

/// Server-sent events: the whole view now, and every [`SAMPLE`].
pub(super) fn events(hub: &Hub, ctx: &TaskContext) -> Response {
    // Browsers ask again after this many milliseconds.
    let first = [&b"retry: 3000\n"[..], &event(ctx)].concat().into();
    let Some(queue) = hub.subscribe(first) else {
        let told =
            format!("at most {SUBSCRIBERS} browsers are told at once; /status still answers\n");
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "10")], told)
            .into_response();
    };
    let stream = futures::stream::unfold(queue, |mut queue| async move {
        Some((Ok::<_, std::convert::Infallible>(queue.recv().await?), queue))
    });
    let kind = [
        (header::CONTENT_TYPE, "text/event-stream"),
        // Proxies in front are not to collect events.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (GUARDS, kind, Body::from_stream(stream)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn a_subscriber_that_does_not_keep_up_is_dropped_and_its_place_is_free() {
        let hub = Hub::default();
        let mut slow = hub.subscribe(bytes("first")).unwrap();
        for _ in 0..QUEUE {
            hub.publish(&bytes("more"));
        }
        assert!(hub.is_idle());
        // What it has been given it may still read.
        assert_eq!(slow.try_recv().unwrap(), "first");
        let mut queues: Vec<_> = (0..SUBSCRIBERS).map(|_| hub.subscribe(bytes("x"))).collect();
        assert!(queues.iter().all(Option::is_some) && hub.subscribe(bytes("x")).is_none());
        queues.pop();
        assert!(hub.subscribe(bytes("x")).is_some());
    }

    #[tokio::test]
    async fn the_end_is_told_and_ends_every_stream() {
        let hub = Hub::default();
        let mut queue = hub.subscribe(bytes("first")).unwrap();
        hub.close(&bytes("last"));
        assert_eq!(queue.recv().await.unwrap(), "first");
        assert_eq!(queue.recv().await.unwrap(), "last");
        assert_eq!(queue.recv().await, None);
        assert!(hub.subscribe(bytes("late")).is_none());
    }

    #[test]
    fn the_policy_names_the_style_and_the_script_of_the_page() {
        assert_eq!(PAGE.matches("<script>").count(), 1);
        assert_eq!(PAGE.matches("<style>").count(), 1);
        let empty = STANDARD.encode(Sha256::digest(""));
        assert!(!POLICY.contains(&empty) && POLICY.matches("'sha256-").count() == 2, "{}", *POLICY);
        // A style attribute would be refused by it, and an address of elsewhere has no place here.
        assert!(!PAGE.contains(" style=") && !PAGE.contains("://"));
    }
}
