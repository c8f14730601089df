//! How many empty pages are borne before reading begins elsewhere.
//!
//! Kinesis answers a position that has left retention, or that a long idle stretch lies behind,
//! with empty pages whose MillisBehindLatest stands still, for as long as one cares to ask. It may
//! also answer that there is nothing more (a lag of 0) where there is.

use crate::stream::position::CLOCKS_MS;

/// Empty pages after which a lag that stands still is believed to stay.
const PAGES: u32 = 5;

/// A run of empty pages.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    /// Short of the tip.
    pages: u32,
    /// The lag that the run began with.
    behind_ms: Option<i64>,
    /// Empty pages at the tip in a row.
    tips: u32,
}

impl Patience {
    /// A record came, or reading began elsewhere: a new run.
    pub(crate) fn renew(&mut self) {
        *self = Self::default();
    }

    /// An empty page came.
    pub(crate) fn empty(&mut self, behind_ms: Option<i64>) {
        if behind_ms == Some(0) {
            (self.pages, self.behind_ms) = (0, None);
            self.tips = self.tips.saturating_add(1);
        } else {
            self.pages = self.pages.saturating_add(1);
            self.tips = 0;
            self.behind_ms = self.behind_ms.or(behind_ms);
        }
    }

    /// The lag does not shrink, or is as large as it can be: the position leads nowhere. `awaited`:
    /// a record is known to come, so that a tip is no answer either. `retention_ms`: how long the
    /// stream keeps a record.
    pub(crate) fn is_stuck(
        &self,
        behind_ms: Option<i64>,
        retention_ms: i64,
        awaited: bool,
    ) -> bool {
        let stands = behind_ms.is_some_and(|now| {
            let expired = now.saturating_add(CLOCKS_MS) >= retention_ms;
            now > 0 && (expired || self.behind_ms.is_some_and(|then| now >= then))
        });
        self.pages >= PAGES && stands || awaited && self.is_tip()
    }

    /// Nothing is there, and it was said more than once.
    pub(crate) fn is_tip(&self) -> bool {
        self.tips >= PAGES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    fn after(lags: &[i64], awaited: bool) -> bool {
        let mut patience = Patience::default();
        for lag in lags {
            patience.empty(Some(*lag));
        }
        patience.is_stuck(lags.last().copied(), 24 * HOUR, awaited)
    }

    #[test]
    fn a_lag_that_stands_still_is_borne_for_a_few_pages() {
        assert!(after(&[24 * HOUR; 5], false) && !after(&[24 * HOUR; 4], false));
        assert!(after(&[HOUR; 5], false));
        assert!(!after(&[5 * HOUR, 4 * HOUR, 3 * HOUR, 2 * HOUR, HOUR], false), "it shrinks");
        assert!(after(&[25 * HOUR, 24 * HOUR, 23 * HOUR, 23 * HOUR, 22 * HOUR], false));
    }

    #[test]
    fn a_tip_is_an_answer_unless_a_record_is_awaited() {
        assert!(!after(&[0; 9], false) && after(&[0; 5], true) && !after(&[0; 4], true));
        assert!(!after(&[0, 0, 0, 9, 0], true), "not in a row");
        assert!(!after(&[0, 0, 0, 0, 0, 0, 9], false), "an idle shard that wakes");
        let mut patience = Patience::default();
        (0..5).for_each(|_| patience.empty(Some(0)));
        assert!(patience.is_tip());
        patience.renew();
        assert!(!patience.is_tip());
    }
}
