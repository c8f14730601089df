//! Catchment moves an Amazon Kinesis stream into Amazon S3: completely, once, cheaply and fast.
//!
//! The modules stand in the order the data flows:
//!
//! ```text
//! config → worker → lease → stream → delivery → checkpoint
//!                     │        │         │           │
//!                 DynamoDB  Kinesis      S3      DynamoDB
//! ```
//!
//! Per shard: cut a batch → write the *intent* into the lease row → create all objects → move the
//! checkpoint. The two writes are compare-and-sets of the row's whole progress, the objects are
//! created only where there is none; therefore each record is in exactly one object, whoever
//! crashes when. `docs/SEMANTICS.md` says what that means and where it ends.

pub mod config;
pub mod worker;

pub mod lease;

pub mod stream;

pub mod delivery;

pub mod checkpoint;

pub mod replay;
pub mod verify;

pub mod aws;
pub mod budget;
pub mod cli;
pub mod clock;
pub mod cost;
pub mod fault;
pub mod front_door;
pub mod iam;
pub mod ids;
pub mod metrics;
pub mod mutant;
pub mod shutdown;
pub mod task;
pub mod telemetry;
pub mod upload;

#[cfg(feature = "local")]
pub mod local;
