//! How a lease table names its rows: by shard, or by stream and shard.
//!
//! A KCL application of one stream uses the shard id as `leaseKey`. One of several streams uses
//! `<account>:<stream>:<creation epoch, s>:<shard>`, and repeats the first three fields in
//! `streamName` and the last in `shardId`. A worker of either kind is blind to rows of the other.
//! Everywhere else in this program a lease is named by its shard; the translation happens where
//! rows enter and leave.

use crate::ids::ShardId;
use crate::lease::row::{Attr, Item, attr};
use crate::stream::StreamInfo;

/// Which rows of a table are ours, and what they are called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Keys {
    /// Every row as it stands; for looking at tables.
    #[default]
    Verbatim,
    /// The key is the shard id.
    Shard,
    /// The key is this stream identifier (`account:stream:epoch`), a colon, and the shard id.
    Stream(String),
}

/// The rows of a table contradict each other, or the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKeys {
    /// Rows of both kinds.
    #[error(
        "it has single-stream rows (`{single}`) and multi-stream rows (`{multi}`), which no one \
         application writes: delete the rows that do not belong there, or set lease.application to \
         another name"
    )]
    Mixed {
        /// A row of one kind.
        single: String,
        /// A row of the other.
        multi: String,
    },
    /// Rows of a stream of this name, created at another time.
    #[error(
        "its row `{row}` belongs to a stream of this name that was created at another time; this \
         one is `{own}`. If that epoch was only made up for the KCL, set lease.stream_id = \
         \"{found}\" to go on at its checkpoints; if the stream was deleted and created again, set \
         lease.stream_id = \"{own}\" to start anew beside them"
    )]
    OtherEpoch {
        /// The row.
        row: String,
        /// Its stream identifier.
        found: String,
        /// The identifier of the configured stream.
        own: String,
    },
    /// `lease.stream_id` names another stream.
    #[error("lease.stream_id = \"{configured}\" is not of this stream, which is `{own}`")]
    OtherStream {
        /// As configured.
        configured: String,
        /// The identifier of the configured stream.
        own: String,
    },
}

/// Stream identifier and shard of a multi-stream key; `None` for any other key.
pub fn split(key: &str) -> Option<(&str, &str)> {
    let (stream, shard) = key.rsplit_once(':')?;
    (is_stream_id(stream) && !shard.is_empty()).then_some((stream, shard))
}

/// The form the KCL accepts: digits, a name without a colon, digits above zero.
fn is_stream_id(text: &str) -> bool {
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    let mut parts = text.split(':');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(account), Some(name), Some(epoch), None) => {
            let positive = digits(epoch) && epoch.bytes().any(|b| b != b'0');
            digits(account) && !name.is_empty() && positive
        }
        _ => false,
    }
}

/// The stream identifier of a stream, as the KCL makes it from its ARN and creation time.
pub fn stream_id(stream: &StreamInfo) -> String {
    let account = stream.arn.split(':').nth(4).unwrap_or_default();
    format!("{account}:{}:{}", stream.name, stream.created_ms.div_euclid(1000))
}

fn name_and_epoch(id: &str) -> (&str, i64) {
    let (name, epoch) = id.rsplit_once(':').unwrap_or((id, ""));
    (name, epoch.parse().unwrap_or(0))
}

fn key_of_lease(item: &Item) -> Option<&str> {
    let is_lease = !matches!(item.get(attr::ENTITY), Some(Attr::S(kind)) if kind != "LEASE");
    match item.get(attr::KEY) {
        Some(Attr::S(key)) if is_lease => Some(key),
        _ => None,
    }
}

impl Keys {
    /// Recognises the kind of a table by its rows. `configured` is `lease.stream_id`.
    ///
    /// An empty table is one of single-stream rows unless a stream identifier is configured. In a
    /// table of multi-stream rows, rows of other streams are left alone. Creation times may differ
    /// by the rounding of one second.
    ///
    /// # Errors
    /// [`BadKeys`], with the row that shows it.
    pub fn recognise(
        items: &[Item],
        stream: &StreamInfo,
        configured: Option<&str>,
    ) -> Result<Self, BadKeys> {
        let own = stream_id(stream);
        let (own_name, own_epoch) = name_and_epoch(&own);
        let keys = || items.iter().filter_map(key_of_lease);
        let single = keys().find(|key| split(key).is_none());
        let multi = keys().find(|key| split(key).is_some());
        if let Some(configured) = configured {
            if !is_stream_id(configured) || name_and_epoch(configured).0 != own_name {
                return Err(BadKeys::OtherStream { configured: configured.to_owned(), own });
            }
            return match single {
                Some(single) => {
                    let multi = format!("{configured}:… by lease.stream_id");
                    Err(BadKeys::Mixed { single: single.to_owned(), multi })
                }
                None => Ok(Self::Stream(configured.to_owned())),
            };
        }
        match (single, multi) {
            (_, None) => return Ok(Self::Shard),
            (Some(single), Some(multi)) => {
                return Err(BadKeys::Mixed { single: single.into(), multi: multi.into() });
            }
            (None, Some(_)) => {}
        }
        let mut other = None;
        for key in keys() {
            let Some((id, _)) = split(key) else { continue };
            let (name, epoch) = name_and_epoch(id);
            if name != own_name {
                continue;
            }
            if (epoch - own_epoch).abs() <= 1 {
                return Ok(Self::Stream(id.to_owned()));
            }
            other = Some((key, id));
        }
        match other {
            Some((row, found)) => {
                Err(BadKeys::OtherEpoch { row: row.into(), found: found.into(), own })
            }
            None => Ok(Self::Stream(own)),
        }
    }

    /// `leaseKey` of a shard.
    pub fn key(&self, shard: &ShardId) -> String {
        match self {
            Self::Verbatim | Self::Shard => shard.as_str().to_owned(),
            Self::Stream(id) => format!("{id}:{shard}"),
        }
    }

    /// A row as the rest of the program sees it, named by its shard; `None` if it is not ours.
    /// Items that are no leases pass as they are.
    pub fn incoming(&self, mut item: Item) -> Option<Item> {
        let Some(key) = key_of_lease(&item) else { return Some(item) };
        match (self, split(key)) {
            (Self::Verbatim, _) | (Self::Shard, None) => Some(item),
            (Self::Stream(id), Some((stream, shard))) if id == stream => {
                let shard = Attr::S(shard.to_owned());
                item.insert(attr::KEY.into(), shard);
                Some(item)
            }
            (Self::Shard, Some(_)) | (Self::Stream(_), _) => None,
        }
    }

    /// A new row as the table wants it.
    pub fn outgoing(&self, mut item: Item) -> Item {
        if let (Self::Stream(id), Some(Attr::S(shard))) = (self, item.get(attr::KEY).cloned()) {
            item.insert(attr::KEY.into(), Attr::S(self.key(&ShardId::new(shard.as_str()))));
            item.insert(attr::STREAM_NAME.into(), Attr::S(id.clone()));
            item.insert(attr::SHARD_ID.into(), Attr::S(shard));
        }
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "123456789012:clicks:1772003600";

    fn stream() -> StreamInfo {
        StreamInfo {
            name: "clicks".into(),
            arn: "arn:aws:kinesis:eu-west-1:123456789012:stream/clicks".into(),
            created_ms: 1_772_003_600_481,
            retention_ms: 86_400_000,
            readable: true,
            spreads: false,
        }
    }

    fn row(key: &str) -> Item {
        Item::from([(attr::KEY.to_owned(), Attr::S(key.to_owned()))])
    }

    fn recognise(keys: &[&str], configured: Option<&str>) -> Result<Keys, BadKeys> {
        let items: Vec<Item> = keys.iter().map(|key| row(key)).collect();
        Keys::recognise(&items, &stream(), configured)
    }

    #[test]
    fn the_rows_tell_the_kind_of_table() {
        let own = Keys::Stream(OWN.into());
        assert_eq!(recognise(&[], None), Ok(Keys::Shard));
        assert_eq!(recognise(&["shardId-000000000000"], None), Ok(Keys::Shard));
        assert_eq!(recognise(&[&format!("{OWN}:shardId-000000000000")], None), Ok(own.clone()));
        // Rows of other streams only: the kind is known, the rows are to come.
        assert_eq!(recognise(&["123456789012:views:5:shardId-0"], None), Ok(own.clone()));
        assert_eq!(recognise(&[], Some(OWN)), Ok(own));
        // The creation time was rounded up.
        let rounded = "123456789012:clicks:1772003601";
        let key = format!("{rounded}:shardId-000000000000");
        assert_eq!(recognise(&[&key], None), Ok(Keys::Stream(rounded.into())));
    }

    #[test]
    fn other_items_of_the_table_say_nothing_about_its_kind() {
        let mut metrics = row("java-host:6a1e");
        metrics.insert(attr::ENTITY.into(), Attr::S("WORKER_METRIC_STATS".into()));
        let items = [metrics.clone(), row(&format!("{OWN}:shardId-000000000000"))];
        let keys = Keys::recognise(&items, &stream(), None).unwrap();
        assert_eq!(keys, Keys::Stream(OWN.into()));
        assert_eq!(keys.incoming(metrics.clone()), Some(metrics));
    }

    #[test]
    fn what_does_not_fit_is_named_with_the_remedy() {
        let mixed = recognise(&["shardId-000000000007", &format!("{OWN}:shardId-0")], None);
        let text = mixed.unwrap_err().to_string();
        assert!(text.contains("`shardId-000000000007`") && text.contains(OWN), "{text}");
        let old = "123456789012:clicks:1:shardId-000000000000";
        let text = recognise(&[old], None).unwrap_err().to_string();
        for part in [old, OWN, "lease.stream_id = \"123456789012:clicks:1\""] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        let chosen = recognise(&[old], Some("123456789012:clicks:1")).unwrap();
        assert_eq!(chosen, Keys::Stream("123456789012:clicks:1".into()));
        for wrong in ["clicks", "123456789012:views:1", "123456789012:clicks:0"] {
            let refused = recognise(&[], Some(wrong));
            assert!(matches!(refused, Err(BadKeys::OtherStream { .. })), "{wrong}");
        }
        assert!(matches!(recognise(&["shardId-0"], Some(OWN)), Err(BadKeys::Mixed { .. })));
    }

    #[test]
    fn rows_are_translated_both_ways_and_others_are_not_seen() {
        let keys = Keys::Stream(OWN.into());
        let out = keys.outgoing(row("shardId-000000000003"));
        let full = format!("{OWN}:shardId-000000000003");
        let expected = [
            (attr::KEY, full.as_str()),
            (attr::SHARD_ID, "shardId-000000000003"),
            (attr::STREAM_NAME, OWN),
        ];
        assert_eq!(out, expected.map(|(k, v)| (k.to_owned(), Attr::S(v.to_owned()))).into());
        let back = keys.incoming(out).unwrap();
        assert_eq!(back[attr::KEY], Attr::S("shardId-000000000003".into()));
        assert_eq!(keys.key(&ShardId::new("shardId-000000000003")), full);
        for other in ["shardId-000000000003", "123456789012:views:5:shardId-0"] {
            assert_eq!(keys.incoming(row(other)), None, "{other}");
        }
        assert_eq!(Keys::Shard.incoming(row(&full)), None);
        assert_eq!(Keys::Verbatim.incoming(row(&full)), Some(row(&full)));
        assert_eq!(Keys::Shard.outgoing(row("s")), row("s"));
    }
}
