//! The fan-out consumer of the application, found or registered when a worker starts.

use std::time::Duration;

use crate::aws::kinesis::Kinesis;
use crate::clock::Clock;
use crate::config::{ReadBy, StreamConfig};
use crate::fault::{Detail, Fault};
use crate::stream::StreamInfo;
use crate::worker::start::error::{StartError, retry_transient};

/// How long a consumer that was just registered may take to become ACTIVE.
const BECOMES_ACTIVE: Duration = Duration::from_secs(60);

/// ARN of the consumer to subscribe as; `None` to poll.
///
/// # Errors
/// [`StartError`]: a permission is missing, or `fan-out` is asked for and there is no such consumer.
pub(super) async fn find(
    clock: &Clock,
    kinesis: &Kinesis,
    stream: &StreamInfo,
    settings: &StreamConfig,
) -> Result<Option<String>, StartError> {
    if settings.reader == ReadBy::Polling {
        return Ok(None);
    }
    let asked = settings.consumer.as_str();
    let begun = clock.now();
    let mut registered = false;
    loop {
        let found = retry_transient(clock, || kinesis.consumer(&stream.arn, asked)).await;
        let missing = match found {
            Ok(consumer) if consumer.active => {
                tracing::info!(consumer = consumer.arn, "reading by enhanced fan-out");
                return Ok(Some(consumer.arn));
            }
            Ok(_) => None,
            Err(StartError::Unavailable(error, _)) if error.fault == Fault::NotFound => Some(error),
            Err(other) => return Err(other),
        };
        if settings.reader == ReadBy::Auto {
            let what = if missing.is_some() { "not registered" } else { "not ACTIVE" };
            tracing::info!(consumer = asked, "the fan-out consumer is {what}: polling");
            return Ok(None);
        }
        match missing {
            Some(error) if asked.starts_with("arn:") || registered => {
                return Err(StartError::NoConsumer { consumer: asked.to_owned(), source: error });
            }
            Some(_) => {
                // Another worker of the fleet may have done it a moment ago.
                let register = || async {
                    match kinesis.register(&stream.arn, asked).await {
                        Err(error) if error.detail == Detail::Occupied => Ok(()),
                        done => done,
                    }
                };
                match retry_transient(clock, register).await {
                    Ok(()) => tracing::info!(consumer = asked, "fan-out consumer registered"),
                    // A limit that does not pass within a minute is that of consumers.
                    Err(StartError::Unavailable(source, _))
                        if source.fault != Fault::Unavailable =>
                    {
                        return Err(StartError::NoConsumer { consumer: asked.to_owned(), source });
                    }
                    Err(other) => return Err(other),
                }
                registered = true;
            }
            None if clock.now() - begun > BECOMES_ACTIVE => {
                tracing::warn!(consumer = asked, "the fan-out consumer is not ACTIVE yet: polling");
                return Ok(None);
            }
            None => {}
        }
        clock.sleep(Duration::from_secs(1)).await;
    }
}
