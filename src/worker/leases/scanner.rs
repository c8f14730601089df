//! Reads the leases of the table.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::aws::dynamodb::LeaseTable;
use crate::fault::CallError;
use crate::lease::row::Lease;
use crate::metrics::registry::Metrics;
use crate::metrics::table as metric;

/// Reads all leases, and remembers what it has said about those that cannot be read.
pub struct LeaseScanner {
    table: LeaseTable,
    metrics: Arc<Metrics>,
    unreadable: BTreeSet<String>,
    /// The table as a round of taking last read it.
    known: Option<Vec<Lease>>,
}

impl LeaseScanner {
    /// Nothing read yet.
    pub fn new(table: LeaseTable, metrics: Arc<Metrics>) -> Self {
        Self { table, metrics, unreadable: BTreeSet::new(), known: None }
    }

    /// The readable leases of the table. What cannot be read is told once, counted, and left alone.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn scan(&mut self, consistent: bool) -> Result<Vec<Lease>, CallError> {
        let items = self.table.scan(consistent).await?;
        let mut unreadable = BTreeSet::new();
        let mut leases = Vec::with_capacity(items.len());
        for item in &items {
            match Lease::parse(item) {
                Ok(lease) => leases.extend(lease),
                Err(error) => {
                    unreadable.insert(error.to_string());
                }
            }
        }
        for error in unreadable.difference(&self.unreadable) {
            tracing::error!(%error, "an item of the lease table cannot be read; it is left alone");
        }
        self.metrics.set(metric::LEASES_UNREADABLE, &[], unreadable.len());
        self.unreadable = unreadable;
        Ok(leases)
    }

    /// Keeps what a round has read, for [`LeaseScanner::known`].
    pub fn remember(&mut self, leases: Vec<Lease>) {
        self.known = Some(leases);
    }

    /// The table as last remembered: old, but enough to see that there is nothing to do.
    pub fn known(&self) -> Option<&[Lease]> {
        self.known.as_deref()
    }
}
