//! Connections for subscriptions, and for nothing else.
//!
//! A client has one HTTP/2 connection to Kinesis. A subscription keeps one of its streams open for
//! five minutes, and how many there are is the server's choice: as few as five were seen. When they
//! are used up, whatever else the client asks for waits; and what nobody reads of one subscription
//! fills the window of the connection, so that the others get nothing. So subscriptions have
//! clients of their own, few to each, and everything else has another.

use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_kinesis::{Client, config};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::aws::transport::Transport;

/// Subscriptions on one connection: below the fewest streams that were seen to be allowed.
const EACH: usize = 4;

/// The clients of subscriptions, made as they are needed. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Subscribers {
    /// What they are made like.
    like: Client,
    transport: Transport,
    made: Arc<Mutex<Vec<Subscriber>>>,
}

#[derive(Debug)]
struct Subscriber {
    client: Client,
    free: Arc<Semaphore>,
}

/// A place on a connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Subscribers {
    pub(super) fn like(client: &Client, transport: &Transport) -> Self {
        Self { like: client.clone(), transport: transport.clone(), made: Arc::default() }
    }

    /// A client for one subscription, which keeps the place as long as it lives.
    pub(super) fn place(&self) -> Option<(Client, Place)> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let free = made.iter().find_map(|one| {
            let place = Arc::clone(&one.free).try_acquire_owned().ok()?;
            Some((one.client.clone(), Place { _permit: place }))
        });
        free.or_else(|| {
            let client = Client::from_conf(separate(&self.like, &self.transport).build());
            let free = Arc::new(Semaphore::new(EACH));
            let place = Arc::clone(&free).try_acquire_owned().ok()?;
            made.push(Subscriber { client: client.clone(), free });
            Some((client, Place { _permit: place }))
        })
    }

    #[cfg(test)]
    pub(super) fn connections(&self) -> usize {
        self.made.lock().unwrap().len()
    }
}

/// For a client like another that shares no connection with it. Connections belong to the HTTP
/// client: where the SDK makes it, each of its clients has one; where we do, it would be copied.
pub(super) fn separate(like: &Client, transport: &Transport) -> config::Builder {
    let mut made = like.config().to_builder();
    if let Some(own) = transport.client() {
        made.set_http_client(Some(own));
    }
    made
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::aws::clients::behavior;

    #[test]
    fn a_connection_carries_few_and_a_place_is_used_again() {
        let config = aws_sdk_kinesis::Config::builder().behavior_version(behavior()).build();
        let subscribers = Subscribers::like(&Client::from_conf(config), &Transport::default());
        let mut places: HashMap<usize, Place> =
            (0..1000).map(|shard| (shard, subscribers.clone().place().unwrap().1)).collect();
        assert_eq!(subscribers.connections(), 1000 / EACH);
        for shard in [3, 500, 998] {
            places.remove(&shard);
        }
        let _again: Vec<_> = (0..3).map(|_| subscribers.place().unwrap()).collect();
        assert_eq!(subscribers.connections(), 1000 / EACH);
        let _more = subscribers.place().unwrap();
        assert_eq!(subscribers.connections(), 1000 / EACH + 1);
    }
}
