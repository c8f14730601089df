//! Breadth-first search over all states, and backwards from the finished ones for liveness.

use std::hash::{Hash, Hasher};

use crate::protocol::{State, Step};
use crate::rules::Rules;

/// What a search found.
pub struct Found {
    pub states: usize,
    /// The violation and the steps that lead to it.
    pub failure: Option<(String, Vec<Step>)>,
    /// States with an epoch left from which the end cannot be reached.
    pub stuck: usize,
}

/// All states seen, in order, and an index to find them: states are large, so they are stored once.
#[derive(Default)]
struct Seen {
    states: Vec<State>,
    /// How each state was reached.
    from: Vec<(u32, Option<Step>)>,
    slots: Vec<u32>,
}

const EMPTY: u32 = u32::MAX;

/// Hashing takes most of the time of a search, and nobody attacks it.
#[derive(Default)]
struct Quick(u64);

impl Hasher for Quick {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u8(*byte);
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n));
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(5) ^ n).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

fn hash(state: &State) -> u64 {
    let mut hasher = Quick::default();
    state.hash(&mut hasher);
    hasher.finish()
}

impl Seen {
    /// The number of a state, and whether it is new.
    fn add(&mut self, state: State, from: u32, step: Option<Step>) -> (u32, bool) {
        if self.states.len() * 2 >= self.slots.len() {
            self.grow();
        }
        let mask = self.slots.len() as u64 - 1;
        let mut slot = hash(&state) & mask;
        loop {
            match self.slots[slot as usize] {
                EMPTY => break,
                at if self.states[at as usize] == state => return (at, false),
                _ => slot = (slot + 1) & mask,
            }
        }
        let at = u32::try_from(self.states.len()).expect("fewer than four billion states");
        self.slots[slot as usize] = at;
        self.states.push(state);
        self.from.push((from, step));
        (at, true)
    }

    fn grow(&mut self) {
        let size = (self.slots.len() * 2).max(1024);
        self.slots = vec![EMPTY; size];
        let mask = size as u64 - 1;
        for (at, state) in self.states.iter().enumerate() {
            let mut slot = hash(state) & mask;
            while self.slots[slot as usize] != EMPTY {
                slot = (slot + 1) & mask;
            }
            self.slots[slot as usize] = at as u32;
        }
    }

    fn path(&self, mut at: u32) -> Vec<Step> {
        let mut steps = Vec::new();
        while let (from, Some(step)) = self.from[at as usize] {
            steps.push(step);
            at = from;
        }
        steps.reverse();
        steps
    }
}

/// Searches everything the rules allow; stops at the first violation, which is a nearest one.
/// Without `settle`, requests that can no longer matter are kept: slower, for checking that rule.
pub fn search(rules: &Rules, settle: bool) -> Found {
    let mut seen = Seen::default();
    seen.add(State::start(), 0, None);
    let mut edges: Vec<(u32, u32)> = Vec::new();
    let mut steps = Vec::new();
    let mut at = 0;
    while at < seen.states.len() {
        let number = at as u32;
        seen.states[at].clone().steps(rules, &mut steps);
        for (step, next) in steps.drain(..) {
            let failure = match &next {
                Err(what) => Some((*what).to_owned()),
                Ok(state) => state.violation(),
            };
            if let Some(failure) = failure {
                let mut path = seen.path(number);
                path.push(step);
                return Found {
                    states: seen.states.len(),
                    failure: Some((failure, path)),
                    stuck: 0,
                };
            }
            if let Ok(mut state) = next {
                if settle {
                    state.settle(rules);
                }
                let (to, _) = seen.add(state, number, Some(step));
                edges.push((to, number));
            }
        }
        at += 1;
    }
    let stuck = stuck(rules, &seen.states, edges);
    Found { states: seen.states.len(), failure: None, stuck }
}

/// Counts the states with an epoch left from which no path leads to the end.
fn stuck(rules: &Rules, states: &[State], mut edges: Vec<(u32, u32)>) -> usize {
    edges.sort_unstable();
    let mut live: Vec<bool> = states.iter().map(|s| s.done(rules)).collect();
    let mut queue: Vec<u32> = (0..states.len() as u32).filter(|at| live[*at as usize]).collect();
    while let Some(to) = queue.pop() {
        let first = edges.partition_point(|(t, _)| *t < to);
        for (_, from) in edges[first..].iter().take_while(|(t, _)| *t == to) {
            if !std::mem::replace(&mut live[*from as usize], true) {
                queue.push(*from);
            }
        }
    }
    let waiting =
        states.iter().zip(&live).filter(|(s, live)| !**live && s.row.epoch < rules.epochs);
    waiting.count()
}
