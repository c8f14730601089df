//! Pages of a listing, with common prefixes.

use super::keys::Listed;

/// An item of a listing.
pub(super) enum ListedItem {
    Object(Listed),
    Prefix(String),
}

impl ListedItem {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Object(listed) => &listed.key,
            Self::Prefix(prefix) => prefix,
        }
    }
}

/// One page of `all`, after the item `after`; true when more follows.
pub(super) fn page(
    all: Vec<Listed>,
    prefix: &str,
    delimiter: Option<&str>,
    after: &str,
    max: usize,
) -> (Vec<ListedItem>, bool) {
    let mut items: Vec<ListedItem> = Vec::new();
    for listed in all {
        let rest = listed.key.get(prefix.len()..).unwrap_or_default();
        let common = delimiter.filter(|d| !d.is_empty()).and_then(|delimiter| {
            let end = rest.find(delimiter)? + delimiter.len();
            Some(listed.key[..prefix.len() + end].to_owned())
        });
        if listed.key.as_str() <= after || common.as_deref() == Some(after) {
            continue;
        }
        if common.is_some() && items.last().map(ListedItem::name) == common.as_deref() {
            continue;
        }
        if items.len() == max {
            return (items, true);
        }
        items.push(common.map_or(ListedItem::Object(listed), ListedItem::Prefix));
    }
    (items, false)
}
