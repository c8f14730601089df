//! The byte budget of the process.
//!
//! Everything that holds record bytes holds a [`Permit`]: a fetch takes one for the largest reply
//! it may get, a batch keeps one for what it has encoded, and both give back on drop. Waiting
//! fetches are why the worker cannot grow; to keep them from waiting for ever, a fetch that has to
//! wait asks the batch that has been open longest to be cut early. Requests are served in order,
//! so a large one is not starved by small ones.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use crate::ids::ShardId;

/// A process-wide budget. Cheap to clone.
#[derive(Clone)]
pub struct Budget(Arc<Mutex<State>>);

struct State {
    limit: usize,
    used: usize,
    waiting: VecDeque<(usize, oneshot::Sender<Permit>)>,
    /// Open batches: when they were opened, and how to ask for an early cut.
    open: BTreeMap<ShardId, (Duration, Arc<Notify>)>,
    cuts_asked: u64,
}

/// A share of the budget; returned on drop.
pub struct Permit {
    budget: Budget,
    bytes: usize,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            limit,
            used: 0,
            waiting: VecDeque::new(),
            open: BTreeMap::new(),
            cuts_asked: 0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Limit, bytes in use, requests waiting.
    pub fn usage(&self) -> (usize, usize, usize) {
        let state = self.state();
        (state.limit, state.used, state.waiting.len())
    }

    /// How often a batch was asked to be cut early.
    pub fn cuts_asked(&self) -> u64 {
        self.state().cuts_asked
    }

    /// Waits for room. A request larger than the whole budget is granted when nothing else is in
    /// use: a record of 10 MiB must pass through a budget of 8.
    pub async fn acquire(&self, bytes: usize) -> Permit {
        let receive = {
            let mut state = self.state();
            if state.waiting.is_empty() && state.fits(bytes) {
                state.used += bytes;
                return Permit { budget: self.clone(), bytes };
            }
            let (send, receive) = oneshot::channel();
            state.waiting.push_back((bytes, send));
            state.ask_oldest();
            receive
        };
        match receive.await {
            Ok(permit) => permit,
            // The sender lives in the state until it is used; granting over the limit is the safe
            // reading of the impossible.
            Err(_) => self.overdraw(bytes),
        }
    }

    /// Takes without waiting, over the limit if need be: for bytes that exist already.
    pub fn overdraw(&self, bytes: usize) -> Permit {
        self.state().used += bytes;
        Permit { budget: self.clone(), bytes }
    }

    /// Registers an open batch; `cut` is notified when it should be cut early.
    pub fn opened(&self, shard: &ShardId, at: Duration, cut: &Arc<Notify>) {
        let mut state = self.state();
        state.open.insert(shard.clone(), (at, Arc::clone(cut)));
        if !state.waiting.is_empty() {
            state.ask_oldest();
        }
    }

    /// The batch was cut or dropped.
    pub fn closed(&self, shard: &ShardId) {
        self.state().open.remove(shard);
    }

    fn serve(&self) {
        // Sending may drop a permit (its receiver is gone), which comes back here: never under
        // the lock.
        loop {
            let granted = {
                let mut state = self.state();
                match state.waiting.front() {
                    Some((bytes, _)) if state.fits(*bytes) => {
                        let granted = state.waiting.pop_front();
                        state.used += granted.as_ref().map_or(0, |(bytes, _)| *bytes);
                        granted
                    }
                    Some(_) => {
                        state.ask_oldest();
                        None
                    }
                    None => None,
                }
            };
            let Some((bytes, send)) = granted else { return };
            let _ = send.send(Permit { budget: self.clone(), bytes });
        }
    }
}

impl State {
    fn fits(&self, bytes: usize) -> bool {
        self.used == 0 || self.used.saturating_add(bytes) <= self.limit
    }

    fn ask_oldest(&mut self) {
        let oldest = self.open.iter().min_by_key(|(_, (at, _))| *at).map(|(id, _)| id.clone());
        if let Some((_, cut)) = oldest.and_then(|id| self.open.remove(&id)) {
            self.cuts_asked += 1;
            cut.notify_one();
        }
    }
}

impl Permit {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Grows or shrinks to what is really held.
    pub fn resize(&mut self, bytes: usize) {
        {
            let mut state = self.budget.state();
            state.used = state.used.saturating_sub(self.bytes).saturating_add(bytes);
        }
        let shrunk = bytes < self.bytes;
        self.bytes = bytes;
        if shrunk {
            self.budget.serve();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.resize(0);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn waits_in_order_and_serves_on_drop() {
        let budget = Budget::new(100);
        let first = budget.acquire(80).now_or_never().unwrap();
        let mut big = Box::pin(budget.acquire(50));
        let mut small = Box::pin(budget.acquire(10));
        assert!(big.as_mut().now_or_never().is_none());
        assert!(small.as_mut().now_or_never().is_none(), "behind the big one");
        drop(first);
        let big = big.now_or_never().unwrap();
        let small = small.now_or_never().unwrap();
        assert_eq!(budget.usage(), (100, 60, 0));
        drop((big, small));
        assert_eq!(budget.usage(), (100, 0, 0));
    }

    #[test]
    fn an_abandoned_request_leaks_nothing() {
        let budget = Budget::new(10);
        let held = budget.acquire(10).now_or_never().unwrap();
        let mut gone = Box::pin(budget.acquire(10));
        assert!(gone.as_mut().now_or_never().is_none());
        drop(gone);
        drop(held);
        assert_eq!(budget.usage(), (10, 0, 0));
        assert!(budget.acquire(10).now_or_never().is_some());
    }

    #[test]
    fn larger_than_the_budget_passes_alone() {
        let budget = Budget::new(10);
        let small = budget.acquire(1).now_or_never().unwrap();
        let mut huge = Box::pin(budget.acquire(50));
        assert!(huge.as_mut().now_or_never().is_none());
        drop(small);
        assert_eq!(huge.now_or_never().unwrap().bytes(), 50);
    }

    #[test]
    fn pressure_cuts_the_oldest_batch() {
        let budget = Budget::new(10);
        let _held = budget.acquire(10).now_or_never().unwrap();
        let (old, young) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        budget.opened(&ShardId::new("b"), Duration::from_secs(2), &young);
        budget.opened(&ShardId::new("a"), Duration::from_secs(1), &old);
        let mut waiting = Box::pin(budget.acquire(5));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(old.notified().now_or_never().is_some());
        assert!(young.notified().now_or_never().is_none());
    }
}
