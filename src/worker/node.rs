//! Time, randomness and tasks of one worker.

use crate::clock::{Clock, Jitter};
use crate::task::Tasks;

/// Time, chance and tasks of one worker.
#[derive(Clone)]
pub struct Node {
    /// Time.
    pub clock: Clock,
    /// Chance.
    pub jitter: Jitter,
    /// Spawning.
    pub tasks: Tasks,
}
