//! The only place that spawns.
//!
//! Every task is named and has an owner: the [`Handle`] joins it, and ends it when dropped. A
//! simulation passes its own [`Spawner`], so that a simulated crash takes all tasks of a node with
//! it, and runs [`Tasks::compute`] inline, so that no thread but its own exists.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::FutureExt;
use tokio_util::task::AbortOnDropHandle;

/// A boxed task.
pub type BoxTask = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Wraps a task before it is spawned; the identity in production.
pub type Spawner = Arc<dyn Fn(&'static str, BoxTask) -> BoxTask + Send + Sync>;

/// Spawns tasks and CPU-bound work. Cheap to clone.
#[derive(Clone)]
pub struct Tasks {
    wrap: Option<Spawner>,
    compute: Compute,
}

#[derive(Clone)]
enum Compute {
    Inline,
    Pool(Arc<tokio::sync::Semaphore>),
}

/// A task ended by panic instead of returning.
#[derive(Debug, thiserror::Error)]
#[error("a task ended without a result: {0}")]
pub struct TaskDied(String);

/// A running task. Dropping it ends the task at its next await.
#[must_use]
pub struct Handle<T>(AbortOnDropHandle<Option<T>>);

impl<T> Handle<T> {
    /// Lets the task run to its end even if nobody waits for it any more.
    pub async fn detached(self) -> Result<T, TaskDied> {
        outcome(self.0.detach().await)
    }
}

/// Waits for the result; [`TaskDied`] when the task panicked or was ended.
impl<T> Future for Handle<T> {
    type Output = Result<T, TaskDied>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(outcome)
    }
}

fn outcome<T>(joined: Result<Option<T>, tokio::task::JoinError>) -> Result<T, TaskDied> {
    match joined {
        Ok(Some(value)) => Ok(value),
        Ok(None) => Err(TaskDied("its node went down".into())),
        Err(error) => Err(TaskDied(error.to_string())),
    }
}

impl Tasks {
    /// Production: plain tasks, and at most `threads` CPU-bound closures at once on tokio's
    /// blocking threads.
    pub fn pooled(threads: usize) -> Self {
        let permits = Arc::new(tokio::sync::Semaphore::new(threads.max(1)));
        Self { wrap: None, compute: Compute::Pool(permits) }
    }

    /// Simulation: tasks go through `wrap`, computation runs where it is called.
    pub fn inline(wrap: Spawner) -> Self {
        Self { wrap: Some(wrap), compute: Compute::Inline }
    }

    /// Starts a task; the caller keeps the handle.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &'static str,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Handle<T> {
        let handle = match &self.wrap {
            // An async block would hold the task twice: as what it captured and as what it awaits.
            None => tokio::spawn(task.map(Some)),
            Some(wrap) => {
                let (send, receive) = tokio::sync::oneshot::channel();
                let wrapped = wrap(
                    name,
                    Box::pin(async move {
                        let _ = send.send(task.await);
                    }),
                );
                tokio::spawn(async move {
                    wrapped.await;
                    receive.await.ok()
                })
            }
        };
        Handle(AbortOnDropHandle::new(handle))
    }

    /// Runs CPU-bound work off the async threads and waits for it.
    ///
    /// # Errors
    /// [`TaskDied`] when the closure panicked or the runtime is going down.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, TaskDied> {
        match &self.compute {
            Compute::Inline => Ok(work()),
            Compute::Pool(permits) => {
                let _permit = permits.acquire().await.map_err(|e| TaskDied(e.to_string()))?;
                tokio::task::spawn_blocking(work).await.map_err(|e| TaskDied(e.to_string()))
            }
        }
    }
}
