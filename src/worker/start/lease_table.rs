//! The lease table at start: is it one, is it free for us, is it of this stream?

use std::time::Duration;

use crate::aws::dynamodb::LeaseTable;
use crate::aws::dynamodb::admin::TableError;
use crate::clock::Clock;
use crate::config;
use crate::fault::{CallError, Fault};
use crate::lease::kcl3;
use crate::lease::keys::Keys;
use crate::lease::row::{Item, Lease, attr};
use crate::stream::StreamInfo;
use crate::worker::start::error::{PATIENCE, StartError, retry_transient};

/// Makes sure of the table; returns it with our way of naming its rows, and our leases.
pub(super) async fn open(
    clock: &Clock,
    table: LeaseTable,
    settings: &config::LeaseConfig,
    stream: &StreamInfo,
) -> Result<(LeaseTable, Vec<Lease>), StartError> {
    ensure(clock, &table).await?;
    let items = retry_transient(clock, || table.scan(true)).await?;
    let name = || table.name().to_owned();
    if let Some(live) = kcl3::live(&items, clock.wall()) {
        return Err(StartError::Kcl3 { table: name(), item: told(&live) });
    }
    if !items.is_empty() {
        let ours = items.iter().all(|item| item.contains_key(attr::STREAM));
        no_legacy_kcl3(clock, &table, &settings.application, ours).await?;
    }
    let keys = Keys::recognise(&items, stream, settings.stream_id.as_deref())
        .map_err(|source| StartError::Keys { table: name(), source })?;
    if let Keys::Stream(id) = &keys {
        tracing::info!(table = table.name(), stream_id = id, "the table has multi-stream keys");
    }
    let leases: Vec<Lease> = items
        .into_iter()
        .filter_map(|item| Lease::parse(&keys.incoming(item)?).ok().flatten())
        .collect();
    let expected = stream.identity();
    let other = leases.iter().filter_map(|lease| lease.stream.as_ref()).find(|s| **s != expected);
    if let Some(found) = other {
        return Err(StartError::OtherStream { table: name(), found: found.clone(), expected });
    }
    Ok((table.with_keys(keys), leases))
}

async fn ensure(clock: &Clock, table: &LeaseTable) -> Result<(), StartError> {
    let begun = clock.now();
    loop {
        match table.ensure(clock).await {
            Ok(()) => return Ok(()),
            Err(TableError::Call(error))
                if error.fault.is_transient() && clock.now() - begun < PATIENCE =>
            {
                tracing::warn!(%error, "the lease table is not reachable yet; trying again");
                clock.sleep(Duration::from_secs(1)).await;
            }
            Err(TableError::Call(error)) if error.fault == Fault::Denied => {
                return Err(StartError::Denied(error));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn told(live: &kcl3::Live) -> String {
    let leads = if live.leads { ", the leader," } else { "" };
    format!("worker `{}`{leads} reported {} s ago", live.worker, live.age.max(0))
}

/// Looks for a live application of KCL 3.0 to 3.4, whose items are in tables of their own. A
/// table that may not be read stops nobody: most users have none.
async fn no_legacy_kcl3(
    clock: &Clock,
    table: &LeaseTable,
    application: &str,
    ours: bool,
) -> Result<(), StartError> {
    let [coordinator, metrics] = kcl3::legacy_tables(application);
    let (coordinator, metrics) = (table.beside(coordinator), table.beside(metrics));
    let reports = read(clock, &metrics, ours).await?;
    let lock = read(clock, &coordinator, ours).await?;
    let items: Vec<Item> = [&reports, &lock].into_iter().flatten().flatten().cloned().collect();
    if let Some(live) = kcl3::live(&items, clock.wall()) {
        let item = told(&live);
        return Err(StartError::Kcl3 { table: metrics.name().to_owned(), item });
    }
    let Some(seen) = kcl3::lock(&items) else { return Ok(()) };
    if reports.is_some() {
        tracing::info!(
            table = coordinator.name(),
            owner = seen.owner,
            "a KCL 3.x leader left its lock; it reports no more, so it is taken for dead"
        );
        return Ok(());
    }
    // Without the reports, only the lock can tell; a live leader changes it.
    tracing::warn!(
        table = coordinator.name(),
        owner = seen.owner,
        seconds = kcl3::LOCK_SECONDS,
        "a KCL 3.x leader holds a lock; waiting to see whether it is alive"
    );
    let until = clock.now() + Duration::from_secs(kcl3::LOCK_SECONDS);
    while clock.now() < until {
        clock.sleep(Duration::from_secs(5)).await;
        let items = read(clock, &coordinator, ours).await?.unwrap_or_default();
        match kcl3::lock(&items) {
            Some(now) if now != seen => {
                return Err(StartError::Kcl3 {
                    table: coordinator.name().to_owned(),
                    item: format!("worker `{}` renews the lock `Leader`", now.owner),
                });
            }
            // Released, or the table is gone: nobody leads.
            None => return Ok(()),
            Some(_) => {}
        }
    }
    Ok(())
}

/// All items of a table; empty if there is none, `None` if we may not look.
async fn read(
    clock: &Clock,
    table: &LeaseTable,
    ours: bool,
) -> Result<Option<Vec<Item>>, StartError> {
    let missing = |error: &CallError| {
        if ours {
            tracing::debug!(table = table.name(), %error, "not looked for KCL 3.x");
        } else {
            tracing::warn!(table = table.name(), %error,
                "cannot look whether a KCL 3.x application is alive on this lease table: grant \
                 dynamodb:Scan on its tables, or make sure that it is stopped");
        }
    };
    match retry_transient(clock, || table.scan(true)).await {
        Ok(items) => Ok(Some(items)),
        Err(StartError::Unavailable(error, _)) if error.fault == Fault::NotFound => {
            Ok(Some(Vec::new()))
        }
        Err(StartError::Denied(error)) => {
            missing(&error);
            Ok(None)
        }
        Err(other) => Err(other),
    }
}
