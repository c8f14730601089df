//! Shards that the lease table calls finished and the stream shows open: nobody reads them.
//!
//! An answer of GetRecords without NextShardIterator looks like the end of a shard. A consumer that
//! believed one (an older version of this, or another on the same table) has left such a row behind.

use std::collections::BTreeSet;

use crate::ids::ShardId;
use crate::lease::row::Lease;
use crate::stream::ShardInfo;

/// Shards at SHARD_END that are listed as open and have no children. Certain only where the list is
/// younger than the leases: a shard may end, and be finished, in between.
pub fn open_ends<'a, 'b>(
    shards: &'a [ShardInfo],
    leases: impl IntoIterator<Item = &'b Lease>,
) -> BTreeSet<&'a ShardId> {
    let finished: BTreeSet<&ShardId> =
        leases.into_iter().filter(|l| l.is_finished()).map(|l| &l.shard).collect();
    let parents: BTreeSet<&ShardId> = shards.iter().flat_map(|s| &s.parents).collect();
    let open = shards.iter().filter(|s| !s.closed && !parents.contains(&s.id));
    open.map(|s| &s.id).filter(|id| finished.contains(id)).collect()
}

/// What comparisons one after another show, of lists that may be older than the leases.
#[derive(Debug, Default)]
pub struct OpenEnds {
    suspected: BTreeSet<ShardId>,
    certain: BTreeSet<ShardId>,
}

impl OpenEnds {
    /// Another comparison. Returns the shards that are certain with this one: found in two in a row.
    pub fn compared(&mut self, found: &BTreeSet<&ShardId>) -> Vec<ShardId> {
        let found: BTreeSet<ShardId> = found.iter().map(|id| (*id).clone()).collect();
        let certain: BTreeSet<ShardId> = found.intersection(&self.suspected).cloned().collect();
        let fresh = certain.difference(&self.certain).cloned().collect();
        (self.suspected, self.certain) = (found, certain);
        fresh
    }

    /// Those that are certain.
    pub fn certain(&self) -> &BTreeSet<ShardId> {
        &self.certain
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::row::{Attr, Item, attr};

    fn shard(id: &str, parents: &[&str], closed: bool) -> ShardInfo {
        let parents = parents.iter().map(|p| ShardId::new(*p)).collect();
        ShardInfo { id: ShardId::new(id), parents, hash_range: None, closed }
    }

    fn lease(id: &str, checkpoint: &str) -> Lease {
        let item = Item::from([
            (attr::KEY.to_owned(), Attr::S(id.into())),
            (attr::COUNTER.to_owned(), Attr::N("3".into())),
            (attr::CHECKPOINT.to_owned(), Attr::S(checkpoint.into())),
        ]);
        Lease::parse(&item).unwrap().unwrap()
    }

    #[test]
    fn a_finished_lease_of_an_open_shard_is_seen_and_no_other() {
        let shards = [
            shard("ended", &[], true),
            shard("open", &[], false),
            shard("read", &[], false),
            // The list is behind: it shows the child already, and the parent still as open.
            shard("parent", &[], false),
            shard("child", &["parent"], false),
        ];
        let leases = ["ended", "open", "parent", "gone"].map(|id| lease(id, "SHARD_END"));
        let leases = [&leases[..], &[lease("read", "12"), lease("child", "13")]].concat();
        let seen = open_ends(&shards, &leases);
        assert_eq!(seen.into_iter().map(ShardId::as_str).collect::<Vec<_>>(), ["open"]);
    }

    #[test]
    fn what_two_comparisons_show_is_certain_and_told_once() {
        let (a, b) = (ShardId::new("a"), ShardId::new("b"));
        let mut ends = OpenEnds::default();
        assert!(ends.compared(&BTreeSet::from([&a])).is_empty());
        assert_eq!(ends.compared(&BTreeSet::from([&a, &b])), std::slice::from_ref(&a));
        assert_eq!(ends.compared(&BTreeSet::from([&a])), [], "told");
        assert_eq!(ends.certain().iter().collect::<Vec<_>>(), [&a]);
        // It has ended meanwhile, or was set back.
        assert!(ends.compared(&BTreeSet::new()).is_empty() && ends.certain().is_empty());
        assert!(ends.compared(&BTreeSet::from([&a])).is_empty(), "from the beginning");
    }
}
