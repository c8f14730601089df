//! ◆ What becomes of one record: an object of its own, a place in the archive, or a dead letter.

use crate::delivery::encode::{Encoder, Reject};
use crate::delivery::settings::Settings;
use crate::stream::Record;

/// The destination of one record.
#[derive(Debug)]
pub enum Route {
    /// Joins the archive object of its partition.
    Archive,
    /// Cannot be processed.
    Dead(Reject),
}

/// First match wins. Depends on the record and the settings alone.
pub fn route(record: &Record, settings: &Settings) -> Route {
    match Encoder::accepts(settings.format, record) {
        Ok(()) => Route::Archive,
        Err(reject) => Route::Dead(reject),
    }
}
