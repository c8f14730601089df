//! How a reader notices that retention has passed it, and where it reads on.

use super::outcome::{Arrival, PageOutcome, PageStats};
use super::{ENDS, ReaderState};
use crate::stream::Page;
use crate::stream::position::{CLOCKS_MS, StartAt, may_have_lost};

impl ReaderState {
    /// Kinesis passes over records that left retention without a word, also those behind an
    /// iterator. A reader that may be that far behind (it stood still, or is slower than time)
    /// therefore reads what it read last once more: as long as that is there, nothing after it is
    /// gone. Where it comes alone, as a large record does every time, the next page is held until
    /// what stood before it is seen once more.
    pub(super) fn look_back(&mut self, now_ms: i64) {
        let alone = std::mem::take(&mut self.alone);
        self.unproved = false;
        if self.last.is_none() || self.overlap || self.detour.is_some() || !self.is_near(now_ms) {
            return;
        }
        if alone {
            self.unproved = true;
        } else {
            self.confirm();
        }
    }

    /// The next page must begin with what was read last.
    pub(super) fn confirm(&mut self) {
        self.overlap = true;
        self.patience.renew();
        self.iterator = None;
    }

    /// The shard was read to its tip lately, and its last record is so old that it need not be
    /// there any more: a time is the better position.
    pub(super) fn is_idle(&self, now_ms: i64) -> bool {
        self.last.is_some()
            && !self.overlap
            && self.detour.is_none()
            && !self.is_near(now_ms)
            && may_have_lost(Some(self.last_ms), now_ms, self.retention_ms)
    }

    /// Where to begin when the position leads nowhere: nothing before it is missing, or it is the
    /// oldest record kept, and the first record shows what is.
    pub(super) fn refuge(&self, now_ms: i64) -> StartAt {
        let through = self.through_ms.filter(|_| self.last.is_some()).or(self.range.through_ms);
        match through.filter(|at| !may_have_lost(Some(*at), now_ms, self.retention_ms)) {
            Some(at) if !self.overlap && !self.is_bounded() => {
                StartAt::Timestamp(at.saturating_sub(CLOCKS_MS))
            }
            _ => StartAt::TrimHorizon,
        }
    }

    /// So far behind that records may leave retention unread.
    pub(super) fn is_near(&self, now_ms: i64) -> bool {
        self.through_ms.is_some_and(|at| may_have_lost(Some(at), now_ms, self.retention_ms))
    }

    /// Keeps a page until another tells whether anything is gone before it.
    pub(super) fn hold(&mut self, page: Page, arrival: Arrival) -> PageStats {
        let payload = page.records.payload();
        self.unproved = false;
        self.confirm();
        self.held = Some((page, arrival));
        PageStats { payload, ..PageStats::of(PageOutcome::Held) }
    }

    /// Does this page, if it is empty, end the shard?
    pub(super) fn is_shown_over(&self, page: &Page) -> bool {
        page.next.is_none() && (!page.children.is_empty() || self.ends + 1 >= ENDS)
    }

    /// An empty page: patience may end. Returns where to begin anew.
    pub(super) fn blank(
        &mut self,
        behind_ms: Option<i64>,
        now_ms: i64,
        pushed: bool,
    ) -> Option<StartAt> {
        self.patience.empty(behind_ms);
        if self.detour == Some(StartAt::TrimHorizon) && self.patience.is_tip() {
            // Nothing is kept at all, what was to be confirmed neither.
            self.beginning.bare = true;
            self.lost |= std::mem::take(&mut self.overlap);
        }
        // A number that may be older than what the stream keeps.
        let expired = match (&self.last, &self.range.start) {
            (Some(_), _) => may_have_lost(Some(self.last_ms), now_ms, self.retention_ms),
            (None, start) => matches!(start, StartAt::At(_)),
        };
        let there = matches!(self.detour, Some(StartAt::TrimHorizon | StartAt::Timestamp(_)));
        let awaited = self.overlap || self.is_bounded();
        if pushed
            || there
            || !(expired || self.overlap)
            || !self.patience.is_stuck(behind_ms, self.retention_ms, awaited)
        {
            return None;
        }
        self.patience.renew();
        self.limit = self.most;
        self.detour = Some(self.refuge(now_ms));
        self.detour.clone()
    }

    /// Does the page show that retention has passed what it was to begin with? Remembered: it may
    /// hold nothing to hand over (an aggregate whose user records are all another shard's).
    pub(super) fn judge(&mut self, page: &Page) {
        let Some(first) = page.records.first() else { return };
        if !self.beginning.seen {
            let asked = match &self.range.start {
                StartAt::At(sequence) => Some(sequence),
                _ => None,
            };
            self.beginning.gone |= asked.is_some_and(|asked| first.cmp_sequence(asked).is_gt());
            self.beginning.first_ms = first.arrival_ms;
            self.beginning.seen = true;
        }
        let from_horizon = self.detour == Some(StartAt::TrimHorizon);
        if let Some(last) = self.last.as_ref().filter(|_| self.overlap || from_horizon) {
            let gone = first.cmp_sequence(last).is_gt();
            self.lost |= gone;
            self.alone = page.records.last().is_some_and(|r| r.cmp_sequence(last).is_le());
        }
    }
}
