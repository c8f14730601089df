//! Of files with the same key, the first in the shard gets it: the others are put when it is durable.
//! Batches are put side by side, and so are the objects of one, so they take turns.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::delivery::object::{Object, ObjectKind};
use crate::mutant::{self, Mutant};

/// The turns of the files of a batch, in their order.
pub type Turns = Vec<Turn>;

/// The files of a shard that are on their way.
#[derive(Clone, Default)]
pub struct Queue(Arc<Mutex<HashMap<String, CancellationToken>>>);

/// The place of a file among those with its key.
pub struct Turn {
    before: Option<CancellationToken>,
    own: CancellationToken,
}

impl Queue {
    /// Takes places for the files of a batch. To be called in the order of batches.
    pub fn enter(&self, objects: &[Object]) -> Turns {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.retain(|_, turn| !turn.is_cancelled());
        let files = objects.iter().filter(|object| object.kind == ObjectKind::Upload);
        files
            .map(|file| {
                let own = CancellationToken::new();
                Turn { before: last.insert(file.key.clone(), own.clone()), own }
            })
            .collect()
    }
}

impl Turn {
    /// Waits for those before. For ever if they fail: then the shard is given up, and this file must
    /// not get what was theirs.
    pub async fn comes(&self) {
        if let Some(before) = &self.before
            && !mutant::is(Mutant::FilesAtOnce)
        {
            before.cancelled().await;
        }
    }

    /// The file is durable, or put aside.
    pub fn over(self) {
        self.own.cancel();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::delivery::body::Body;

    fn file(key: &str) -> Object {
        Object {
            bucket: "b".into(),
            key: key.into(),
            kind: ObjectKind::Upload,
            body: Body::default(),
            content_type: String::new(),
            metadata: Vec::new(),
            records: 1,
            aside: None,
            accepted_ms: None,
            last: false,
        }
    }

    #[test]
    fn one_after_the_other_in_a_batch_and_across_batches() {
        let queue = Queue::default();
        let archive = Object { kind: ObjectKind::Archive, ..file("a") };
        let mut first = queue.enter(&[file("a"), archive, file("b"), file("a")]).into_iter();
        let (a1, b, a2) = (first.next().unwrap(), first.next().unwrap(), first.next().unwrap());
        let a3 = queue.enter(&[file("a")]).remove(0);
        let is_up = |turn: &Turn| turn.comes().now_or_never().is_some();
        assert!(is_up(&a1) && is_up(&b) && !is_up(&a2) && !is_up(&a3));
        a1.over();
        assert!(is_up(&a2) && !is_up(&a3));
        // Given up: nobody takes its place.
        drop(a2);
        assert!(!is_up(&a3));
        b.over();
        assert!(is_up(&queue.enter(&[file("b")])[0]));
    }
}
