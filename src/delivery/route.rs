//! What becomes of one record: an object of its own, a place in the archive, or a dead letter.

use crate::delivery::dead_letter::Reject;
use crate::delivery::encode::Encoder;
use crate::delivery::settings::Settings;
use crate::stream::Record;
use crate::upload::event::Envelope;

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

/// First match wins. Depends on the record and the settings alone.
pub fn route(record: Record<'_>, settings: &Settings) -> Route {
    if settings.uploads && Envelope::recognise(record.data) {
        return match Envelope::parse(record.data) {
            Ok(envelope) => Route::Upload(Box::new(envelope)),
            Err(error) => Route::Dead(Reject { kind: error.kind(), reason: error.to_string() }),
        };
    }
    match Encoder::accepts(settings.format, record) {
        Ok(()) => Route::Archive,
        Err(reject) => Route::Dead(reject),
    }
}
