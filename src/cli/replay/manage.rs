//! `catchment replay list | status | delete`.

use crate::aws::clients::Clients;
use crate::clock::Clock;
use crate::config::Config;
use crate::replay::plan::Plan;
use crate::replay::progress::ReplayProgress;
use crate::replay::store::{self, Store};

use super::{Failure, show};

pub(super) async fn list(config: &Config, clients: &Clients, json: bool) -> Result<(), Failure> {
    let ids = store::list(clients, &config.lease.table).await.map_err(|e| Failure::new(1, e))?;
    if !json {
        println!("{:28} {:10} {:>11} {:>12}  RANGE", "REPLAY", "STATE", "SHARDS", "RECORDS");
    }
    for id in ids {
        let store = Store::new(clients, &config.lease.table, &id);
        let Some(found) = store.load().await? else {
            eprintln!("catchment: table `{}` has no plan: it was never begun", store.name());
            continue;
        };
        let (plan, ready) = (found.plan, found.ready);
        let progress = store.progress(ready).await?;
        if json {
            println!("{}", show::status(&plan, &progress, ready));
        } else {
            println!(
                "{:28} {:10} {:>11} {:>12}  {} – {}",
                plan.id,
                show::state(&progress, ready),
                format!("{}/{}", progress.finished, progress.shards),
                progress.records,
                plan.from,
                plan.until
            );
        }
    }
    Ok(())
}

async fn load(
    config: &Config,
    clients: &Clients,
    id: &str,
) -> Result<(Store, Plan, bool), Failure> {
    let store = Store::new(clients, &config.lease.table, id);
    let found = store.load().await?.ok_or_else(|| {
        Failure::new(
            2,
            format!(
                "there is no replay `{id}` (table `{}`); `catchment replay list` shows them, and \
                 lease.application names the application they stand beside",
                store.name()
            ),
        )
    })?;
    Ok((store, found.plan, found.ready))
}

pub(super) async fn status(
    config: &Config,
    clients: &Clients,
    id: &str,
    json: bool,
) -> Result<(), Failure> {
    let (store, plan, ready) = load(config, clients, id).await?;
    let mut leases = store.leases().await?;
    let progress = ReplayProgress::of(&leases, ready);
    if json {
        println!("{}", show::status(&plan, &progress, ready));
        return Ok(());
    }
    println!("replay {}: {}", plan.id, show::state(&progress, ready));
    println!("  from    {}", plan.from);
    println!("  until   {}", plan.until);
    println!("  to      s3://{}/{}", plan.settings.bucket, plan.prefix);
    println!(
        "  {} of {} shards, {} records, {} bytes, {} workers",
        progress.finished, progress.shards, progress.records, progress.bytes, progress.workers
    );
    leases.sort_by(|a, b| a.shard.cmp(&b.shard));
    for lease in leases {
        let (records, _) = lease.counted.unwrap_or_default();
        let owner = lease.owner.as_ref().map_or("-", |w| w.as_str());
        println!(
            "    {:24} {records:>10} records, at {}, {owner}",
            lease.shard.as_str(),
            lease.progress.checkpoint
        );
    }
    Ok(())
}

pub(super) async fn delete(
    config: &Config,
    clients: &Clients,
    clock: &Clock,
    id: &str,
    yes: bool,
) -> Result<(), Failure> {
    let (store, plan, ready) = load(config, clients, id).await?;
    let before = store.leases().await?;
    let progress = ReplayProgress::of(&before, ready);
    if !progress.complete {
        if !yes {
            return Err(Failure::new(
                1,
                format!(
                    "replay `{id}` is not complete ({} of {} shards): deleted, it cannot be resumed, \
                     and its objects stay as they are. Add --yes to delete it",
                    progress.finished, progress.shards
                ),
            ));
        }
        if before.iter().any(|l| l.owner.is_some() && !l.is_finished()) {
            // A process that was killed leaves its name behind; one that lives moves its counters.
            eprintln!("looking whether anybody works on it …");
            clock.sleep(config.lease.failover).await;
            let after = store.leases().await?;
            let alive = after.iter().find(|l| {
                l.owner.is_some()
                    && before.iter().any(|b| b.shard == l.shard && b.counter != l.counter)
            });
            if let Some(lease) = alive {
                let owner = lease.owner.as_ref().map_or("somebody", |w| w.as_str());
                return Err(Failure::new(
                    1,
                    format!("replay `{id}` is being worked on by {owner}: stop it first"),
                ));
            }
        }
    }
    store.delete().await.map_err(|e| Failure::new(1, e))?;
    println!(
        "replay `{id}`: table `{}` deleted; its objects stay under s3://{}/{}",
        store.name(),
        plan.settings.bucket,
        plan.prefix
    );
    Ok(())
}
