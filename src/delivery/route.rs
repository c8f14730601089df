//! What becomes of one record: an object of its own, a place in the archive, or a dead letter.

use crate::delivery::dead_letter::Reject;
use crate::delivery::layout;
use crate::delivery::settings::{ForeignRecords, Settings};
use crate::stream::Record;
use crate::upload::event::{Envelope, EnvelopeError, KeyError, MAX_KEY_BYTES};

/// The destination of one record.
#[derive(Debug)]
pub enum Route {
    /// An upload event: the file it carries becomes an object under its own key.
    Upload(Box<Envelope>),
    /// Joins the archive object of its partition.
    Archive,
    /// Cannot be processed.
    Dead(Reject),
}

/// Kind of dead letter: a foreign record.
pub const FOREIGN: &str = "foreign-record";

/// Is this the key of foreign records?
pub fn is_foreign(key: &str) -> bool {
    key.contains("foreign-record/")
}

/// First match wins. Depends on the record and the settings alone.
pub fn route(record: Record<'_>, settings: &Settings) -> Route {
    if record.foreign
        && matches!(settings.foreign_records, ForeignRecords::DeadLetter | ForeignRecords::Drop)
    {
        let reason = "its hash key belongs to another shard: its producer knew the stream from \
                      before a reshard, and has probably sent it again";
        return Route::Dead(Reject { kind: FOREIGN, reason: reason.into() });
    }
    if settings.uploads && Envelope::recognise(record.data) {
        return match Envelope::parse(record.data) {
            Ok(envelope) => {
                if settings.uploads_prefix.len() + envelope.file_key.as_str().len() > MAX_KEY_BYTES
                {
                    let error = EnvelopeError::BadFileKey(KeyError::TooLong);
                    return Route::Dead(Reject { kind: error.kind(), reason: error.to_string() });
                }
                Route::Upload(Box::new(envelope))
            }
            Err(error) => Route::Dead(Reject { kind: error.kind(), reason: error.to_string() }),
        };
    }
    match layout::accepts(settings, record) {
        Ok(()) => Route::Archive,
        Err(reject) => Route::Dead(reject),
    }
}
