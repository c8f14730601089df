//! The delivery protocol as an explicit-state model, searched breadth first by hand.
//!
//! One shard, three records, two workers, three epochs, two crashes. The network is a set that only
//! grows: a request once sent may take effect later, any number of times, in any order, or never;
//! its reply may be lost; the sender may give up at any moment. A lease may be stolen at any time,
//! which covers every clock error, pause and expiry mistake. A worker may die at any step.
//!
//! What must hold in every state: no record is in two visible objects; every record up to the
//! checkpoint is in exactly one; nothing once delivered disappears. What must be possible from every
//! state that still has an epoch to spend: to finish.
//!
//! Each rule of the protocol is a switch of [`Rules`]. The table in [`table`] turns each one off and
//! states whether the protocol then still holds. Breadth first means that a counterexample is a
//! shortest one.

#![expect(unreachable_pub, reason = "a test binary has no outside")]
#![expect(clippy::print_stdout, reason = "this is all test code")]

mod protocol;
mod rules;
mod search;
mod table;
