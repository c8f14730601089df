//! The byte budget of the process.
//!
//! Everything that holds record bytes holds a [`Permit`]: a fetch takes one for the largest reply
//! it may get, a batch keeps one for what it has encoded, and both give back on drop. Waiting
//! fetches are why the worker cannot grow; to keep them from waiting for ever, a fetch for which
//! there would be no room even after every reply under way asks the batch that has been open
//! longest to be cut early. (Fetches under way reserve far more than most replies bring: taking
//! that for pressure would cut a small batch at every page.) Requests are served in order, so a
//! large one is not starved by small ones.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use crate::ids::ShardId;

/// A process-wide budget. Cheap to clone.
#[derive(Clone)]
pub struct Budget(Arc<Mutex<BudgetState>>);

struct BudgetState {
    limit: usize,
    used: usize,
    /// Part of `used` that fetches under way reserve and mostly give back.
    reserved: usize,
    waiting: VecDeque<(usize, oneshot::Sender<Permit>)>,
    /// Open batches: when they were opened, and how to ask for an early cut.
    open: BTreeMap<ShardId, (Duration, Arc<Notify>)>,
}

/// A share of the budget; returned on drop.
pub struct Permit {
    budget: Budget,
    bytes: usize,
    /// Not known yet how much of it is needed.
    reserved: bool,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Mutex::new(BudgetState {
            limit,
            used: 0,
            reserved: 0,
            waiting: VecDeque::new(),
            open: BTreeMap::new(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, BudgetState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Limit, bytes in use, requests waiting.
    pub fn usage(&self) -> (usize, usize, usize) {
        let state = self.state();
        (state.limit, state.used, state.waiting.len())
    }

    /// Is more in use than there should be?
    pub fn is_over(&self) -> bool {
        let state = self.state();
        state.used > state.limit
    }

    /// Waits for room. A request larger than the whole budget is granted when nothing else is in
    /// use: a record of 10 MiB must pass through a budget of 8.
    pub async fn acquire(&self, bytes: usize) -> Permit {
        let receive = {
            let mut state = self.state();
            if state.waiting.is_empty() && state.fits(bytes) {
                state.reserve(bytes);
                return Permit { budget: self.clone(), bytes, reserved: true };
            }
            let (send, receive) = oneshot::channel();
            state.waiting.push_back((bytes, send));
            state.ask_if_stuck();
            receive
        };
        match receive.await {
            Ok(permit) => permit,
            // The sender lives in the state until it is used; granting over the limit is the safe
            // reading of the impossible.
            Err(_) => self.force_acquire(bytes),
        }
    }

    /// Takes without waiting, if there is room and nobody waits for it.
    pub fn try_acquire(&self, bytes: usize) -> Option<Permit> {
        let mut state = self.state();
        if !state.waiting.is_empty() || !state.fits(bytes) {
            return None;
        }
        state.used += bytes;
        Some(Permit { budget: self.clone(), bytes, reserved: false })
    }

    /// Takes without waiting, over the limit if need be: for bytes that exist already.
    pub fn force_acquire(&self, bytes: usize) -> Permit {
        self.state().used += bytes;
        Permit { budget: self.clone(), bytes, reserved: false }
    }

    /// Registers an open batch; `cut` is notified when it should be cut early.
    pub fn opened(&self, shard: &ShardId, at: Duration, cut: &Arc<Notify>) {
        let mut state = self.state();
        state.open.insert(shard.clone(), (at, Arc::clone(cut)));
        state.ask_if_stuck();
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
                        state.reserve(granted.as_ref().map_or(0, |(bytes, _)| *bytes));
                        granted
                    }
                    Some(_) => {
                        state.ask_if_stuck();
                        None
                    }
                    None => None,
                }
            };
            let Some((bytes, send)) = granted else { return };
            let _ = send.send(Permit { budget: self.clone(), bytes, reserved: true });
        }
    }
}

impl BudgetState {
    fn fits(&self, bytes: usize) -> bool {
        self.used == 0 || self.used.saturating_add(bytes) <= self.limit
    }

    fn reserve(&mut self, bytes: usize) {
        self.used += bytes;
        self.reserved += bytes;
    }

    /// Asks for a cut if the next request would not fit even after every fetch under way.
    fn ask_if_stuck(&mut self) {
        let held = self.used - self.reserved;
        if let Some((bytes, _)) = self.waiting.front()
            && held > 0
            && held.saturating_add(*bytes) > self.limit
        {
            self.ask_oldest();
        }
    }

    fn ask_oldest(&mut self) {
        let oldest = self.open.iter().min_by_key(|(_, (at, _))| *at).map(|(id, _)| id.clone());
        if let Some((_, cut)) = oldest.and_then(|id| self.open.remove(&id)) {
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
        let settled = std::mem::take(&mut self.reserved);
        {
            let mut state = self.budget.state();
            state.used = state.used.saturating_sub(self.bytes).saturating_add(bytes);
            if settled {
                state.reserved = state.reserved.saturating_sub(self.bytes);
            }
        }
        let shrunk = bytes < self.bytes;
        self.bytes = bytes;
        if shrunk || settled {
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
        let mut held = budget.acquire(10).now_or_never().unwrap();
        held.resize(10);
        let (old, young) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        budget.opened(&ShardId::new("b"), Duration::from_secs(2), &young);
        budget.opened(&ShardId::new("a"), Duration::from_secs(1), &old);
        let mut waiting = Box::pin(budget.acquire(5));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(old.notified().now_or_never().is_some());
        assert!(young.notified().now_or_never().is_none());
    }

    #[test]
    fn fetches_under_way_are_no_pressure() {
        let budget = Budget::new(100);
        let cut = Arc::new(Notify::new());
        let _batch = budget.force_acquire(30);
        budget.opened(&ShardId::new("a"), Duration::ZERO, &cut);
        let mut fetch = budget.acquire(60).now_or_never().unwrap();
        let mut waiting = Box::pin(budget.acquire(60));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(cut.notified().now_or_never().is_none(), "there is room once the reply is there");
        // The reply turns out to be as large as feared: now only the batch can make room.
        fetch.resize(60);
        assert!(cut.notified().now_or_never().is_some());
    }
}
