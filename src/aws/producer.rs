//! The writing side of a stream, for the local mode and tests.

use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;
use bytes::Bytes;

use crate::aws::fault::describe;
use crate::fault::{CallError, Detail, Fault};
use crate::ids::{SequenceNumber, ShardId};

/// Most records of one PutRecords.
pub const BATCH_RECORDS: usize = 500;
/// Most bytes of one PutRecords, keys included; 5 MiB is what every implementation takes.
pub const BATCH_BYTES: usize = 5 << 20;

/// A record to send.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Partition key.
    pub key: String,
    /// Payload.
    pub data: Bytes,
}

/// Sends records.
#[derive(Clone, Debug)]
pub struct Producer {
    client: aws_sdk_kinesis::Client,
}

impl Producer {
    /// Wraps a client.
    pub fn new(client: aws_sdk_kinesis::Client) -> Self {
        Self { client }
    }

    /// Creates a stream for records up to 10 MiB unless it exists.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn create_stream(&self, name: &str, shards: i32) -> Result<bool, CallError> {
        let call = self.client.create_stream().stream_name(name).shard_count(shards);
        match call.max_record_size_in_kib(10_240).send().await {
            Ok(_) => Ok(true),
            Err(error)
                if error.as_service_error().is_some_and(|e| e.is_resource_in_use_exception()) =>
            {
                Ok(false)
            }
            Err(error) => Err(describe("CreateStream", &error)),
        }
    }

    /// PutRecords. The answer is parallel to the input; `None` means not taken, send again.
    ///
    /// # Errors
    /// [`CallError`] when the whole call failed.
    pub async fn put(
        &self,
        stream: &str,
        records: &[Outgoing],
    ) -> Result<Vec<Option<(ShardId, SequenceNumber)>>, CallError> {
        let malformed = |message: String| CallError {
            operation: "PutRecords",
            fault: Fault::Invalid,
            detail: Detail::Plain,
            code: "Malformed".into(),
            message,
            request_id: None,
        };
        let mut call = self.client.put_records().stream_name(stream);
        for record in records {
            let entry = PutRecordsRequestEntry::builder()
                .partition_key(&record.key)
                .data(Blob::new(record.data.to_vec()))
                .build();
            call = call.records(entry.map_err(|e| malformed(e.to_string()))?);
        }
        let reply = call.send().await.map_err(|e| describe("PutRecords", &e))?;
        reply
            .records
            .into_iter()
            .map(|entry| match (entry.shard_id, entry.sequence_number) {
                (Some(shard), Some(sequence)) => Ok(Some((
                    ShardId::new(shard),
                    SequenceNumber::parse(&sequence).map_err(|e| malformed(e.to_string()))?,
                ))),
                _ => Ok(None),
            })
            .collect()
    }
}
