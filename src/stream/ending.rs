//! Has a shard ended?
//!
//! GetRecords says so by leaving NextShardIterator out. So does an answer that lost the field on
//! its way, and a shard that is taken for finished is never read again.

use crate::ids::ShardId;
use crate::stream::ShardInfo;

/// The children of a shard that an answer of GetRecords says has ended: those that the answer
/// names, or ListShards does. `None` where `listed` shows it open.
pub fn children(
    shard: &ShardId,
    named: Vec<ShardInfo>,
    listed: Vec<ShardInfo>,
) -> Option<Vec<ShardInfo>> {
    if !named.is_empty() {
        return Some(named);
    }
    let itself = listed.iter().find(|s| s.id == *shard).map(|s| s.closed);
    // No stream is without shards: an empty list says nothing.
    let over = itself.unwrap_or(!listed.is_empty());
    let children: Vec<_> = listed.into_iter().filter(|s| s.parents.contains(shard)).collect();
    (over || !children.is_empty()).then_some(children)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(id: &str, parents: &[&str], closed: bool) -> ShardInfo {
        ShardInfo {
            id: ShardId::new(id),
            parents: parents.iter().map(|p| ShardId::new(*p)).collect(),
            hash_range: None,
            closed,
        }
    }

    #[test]
    fn an_end_is_believed_when_something_else_says_so_too() {
        let judged = |named: &[ShardInfo], listed: &[ShardInfo]| {
            children(&ShardId::new("a"), named.to_vec(), listed.to_vec())
        };
        let (open, closed) = (shard("a", &[], false), shard("a", &[], true));
        let child = shard("b", &["a"], false);
        assert_eq!(judged(&[], &[open.clone(), shard("c", &[], false)]), None);
        assert_eq!(judged(&[], &[]), None, "no list at all");
        assert_eq!(judged(&[], &[closed]), Some(vec![]));
        // A list that is behind still shows it open.
        assert_eq!(judged(&[], &[open.clone(), child.clone()]), Some(vec![child.clone()]));
        assert_eq!(judged(std::slice::from_ref(&child), &[open]), Some(vec![child]));
        // Out of retention, and of the list.
        assert_eq!(judged(&[], &[shard("c", &[], false)]), Some(vec![]));
    }
}
