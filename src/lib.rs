//! Catchment moves an Amazon Kinesis stream into Amazon S3: completely, once, cheaply and fast.
//!
//! This library is the inside of the two programs `catchment` and `upload_api`, public so that their
//! tests, benchmarks and fuzz targets can reach it. It is not published and promises no stable
//! interface; what users can rely on is the command line, the configuration, the objects, the lease
//! table and the metrics.
//!
//! Folders stand on floors and import downward only (`tests/it/layering.rs`):
//!
//! ```text
//! cli                                  commands; the only place that prints
//! telemetry                            HTTP endpoints, status page, logs
//! worker                    local      tasks of a worker      embedded AWS
//! replay  verify  front_door           other programs' parts
//! aws                                  the only place that names the AWS SDK
//! lease                                who reads which shard        ┐
//! checkpoint  config                   progress of a shard, keys    │ decide: no async,
//! delivery                             batches, objects, keys       │ no clock, no AWS
//! stream                               pages, records, positions    │
//! upload                               upload events                ┘
//! ids fault clock task metrics budget  ground
//! ```
//!
//! Per shard: cut a batch → write the *intent* into the lease row → create all objects → move the
//! checkpoint. The two writes are compare-and-sets of the row's whole progress, the objects are
//! created only where there is none; therefore each record is in exactly one object, whoever
//! crashes when. `docs/SEMANTICS.md` says what that means and where it ends.

pub mod aws;
pub mod budget;
pub mod checkpoint;
pub mod cli;
pub mod clock;
pub mod config;
pub mod cost;
pub mod delivery;
pub mod fault;
pub mod front_door;
pub mod heap;
pub mod iam;
pub mod ids;
pub mod lease;
pub mod metrics;
pub mod mutant;
pub mod replay;
pub mod shutdown;
pub mod stream;
pub mod task;
pub mod telemetry;
pub mod upload;
pub mod verify;
pub mod worker;

#[cfg(feature = "local")]
pub mod local;
