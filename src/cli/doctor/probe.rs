//! Makes the calls, each once, and hands what they say to `judge`.

use futures::StreamExt;

use crate::aws::clients::Clients;
use crate::aws::dynamodb::LeaseTable;
use crate::aws::dynamodb::admin::TableError;
use crate::aws::kinesis::Kinesis;
use crate::aws::preflight::{Identity, Preflight, identity};
use crate::aws::s3::ObjectStore;
use crate::cli::leases::lag;
use crate::clock::{Clock, Jitter};
use crate::config::{Config, ReadBy};
use crate::fault::{CallError, Fault};
use crate::iam::{self, Role};
use crate::lease::keys::Keys;
use crate::lease::open_ends::open_ends;
use crate::lease::parking;
use crate::lease::row::{Item, Lease, attr};
use crate::lease::{graph, kcl3};
use crate::stream::StreamInfo;
use crate::stream::position::StartAt;

use super::checks::{self, CheckVerdict, Finding, calls, failed};

/// What the parts have in common.
struct Doctor<'a> {
    config: &'a Config,
    role: Role,
    clock: Clock,
    probe: Preflight,
    kinesis: Kinesis,
    table: LeaseTable,
    store: ObjectStore,
    /// A key that no item and no object has.
    nobody: String,
}

/// Everything, in the order in which it is told.
pub(super) async fn everything(config: &Config, role: Role, clients: Clients) -> Vec<Finding> {
    let who = identity(&clients.transport).await;
    let doctor = Doctor {
        config,
        role,
        clock: Clock::system(),
        probe: Preflight::new(&clients),
        kinesis: Kinesis::over(clients.kinesis, &clients.transport),
        table: LeaseTable::new(clients.dynamodb, &config.lease.table),
        store: ObjectStore::new(clients.s3),
        nobody: format!("catchment-doctor-{}", Jitter::system().uuid()),
    };
    let name = &config.stream.name;
    let (summary, date) = doctor.probe.stream(name).await;
    let ours = doctor.clock.wall();
    let told = who.as_ref().map(describe).map_err(ToString::to_string);
    let credentials = checks::credentials(told, summary.as_ref().err());
    let usable = credentials.verdict == CheckVerdict::Ok;
    let mut findings = vec![credentials, checks::clock(date, ours)];
    if !usable {
        let why = "nothing can be asked without credentials";
        let rest = ["stream", "read", "table", "bucket"];
        findings.extend(rest.map(|check| Finding::skipped(check, why)));
        return findings;
    }
    findings.push(checks::stream(name, &summary));
    let stream = match &summary {
        Ok(_) => doctor.kinesis.describe(name).await.ok(),
        Err(_) => None,
    };
    let (read, (table, leases), bucket) = futures::join!(
        doctor.read(stream.as_ref()),
        doctor.table(stream.as_ref()),
        doctor.bucket(),
    );
    findings.extend(read);
    findings.extend(doctor.consumer(stream.as_ref()).await);
    findings.extend(table);
    let parked = leases.as_deref().map(parking::parked).unwrap_or_default();
    findings.extend(checks::parked(&parked));
    findings.extend(doctor.ends(stream.as_ref(), leases.as_deref()).await);
    findings.push(doctor.lag(stream.as_ref(), leases.as_deref()).await);
    findings.extend(bucket);
    findings
}

fn describe(who: &Identity) -> String {
    let kind = if who.temporary { "temporary" } else { "long-term" };
    let account = who.account.as_ref().map_or(String::new(), |a| format!(" of account {a}"));
    let region = who.region.as_deref().unwrap_or("unknown");
    format!("{kind} credentials{account}, region {region}")
}

impl Doctor<'_> {
    /// The oldest record of one shard: what a worker may read, and what encryption asks for.
    async fn read(&self, stream: Option<&StreamInfo>) -> Vec<Finding> {
        let check = "read";
        let Some(stream) = stream else {
            return vec![Finding::skipped(check, "there is no stream to read")];
        };
        let told = |error: &CallError| failed(check, "Kinesis", error, "try again");
        let shards = match self.kinesis.list_shards(&stream.arn).await {
            Ok(shards) => shards,
            Err(error) => return vec![told(&error)],
        };
        let Some(shard) = shards.iter().find(|s| !s.closed).or(shards.first()) else {
            return vec![Finding::skipped(check, "the stream has no shards")];
        };
        let page = async {
            let from = &StartAt::TrimHorizon;
            let iterator = self.kinesis.iterator(&stream.arn, &shard.id, from).await?;
            self.kinesis.get_records(&stream.arn, &iterator, 1).await
        };
        vec![match page.await {
            Ok(_) => Finding::ok(
                check,
                format!(
                    "ListShards ({} shards), GetShardIterator, GetRecords on {}",
                    shards.len(),
                    shard.id
                ),
            ),
            Err(error) => told(&error),
        }]
    }

    /// The fan-out consumer, if shards are to be read as one.
    async fn consumer(&self, stream: Option<&StreamInfo>) -> Option<Finding> {
        let settings = &self.config.stream;
        let stream = stream.filter(|_| settings.reader != ReadBy::Polling)?;
        let seen = self.kinesis.consumer(&stream.arn, &settings.consumer).await;
        Some(checks::consumer(&settings.consumer, settings.reader, &seen))
    }

    /// The lease table; returns our leases, or `None` if they are not known.
    async fn table(&self, stream: Option<&StreamInfo>) -> (Vec<Finding>, Option<Vec<Lease>>) {
        let name = self.table.name();
        let mut findings = Vec::new();
        match self.table.shape().await {
            Ok(status) if matches!(status.as_str(), "ACTIVE" | "UPDATING") => {
                let found = format!("{name} is {status} and has the key of a lease table");
                findings.push(Finding::ok("table", found));
            }
            Ok(status) => {
                let found = format!("{name} is {status}");
                let remedy = "wait until it is ACTIVE, or check that it is not being deleted";
                return (vec![Finding::fail("table", found, remedy)], None);
            }
            Err(TableError::Call(error)) if error.fault == Fault::NotFound => {
                let found = format!("{name} does not exist; workers create it when they start");
                let remedy = "nothing, if this is a new application (creating it takes \
                              dynamodb:CreateTable, which is not probed); else check \
                              lease.application, lease.table and AWS_REGION";
                return (vec![Finding::warn("table", found, remedy)], Some(Vec::new()));
            }
            // The rows may be readable all the same.
            Err(TableError::Call(error)) => {
                findings.push(failed("table", "DynamoDB", &error, "correct lease.table"));
            }
            Err(error) => {
                let remedy = "set lease.application or lease.table to another name";
                return (vec![Finding::fail("table", error.to_string(), remedy)], None);
            }
        }
        let leases = match self.table.scan(true).await {
            Ok(items) => self.rows(&items, stream, &mut findings).await,
            Err(error) => {
                findings.push(failed("rows", "DynamoDB", &error, "correct lease.table"));
                None
            }
        };
        findings.push(self.writes().await);
        (findings, leases)
    }

    async fn rows(
        &self,
        items: &[Item],
        stream: Option<&StreamInfo>,
        findings: &mut Vec<Finding>,
    ) -> Option<Vec<Lease>> {
        let name = self.table.name();
        let (mut leases, mut unreadable, mut others) = (Vec::new(), Vec::new(), 0);
        let keys = match stream {
            Some(stream) => Keys::recognise(items, stream, self.config.lease.stream_id.as_deref()),
            None => Ok(Keys::Verbatim),
        };
        let keys = match keys {
            Ok(keys) => keys,
            Err(error) => {
                let remedy = "see what the message says";
                findings.push(Finding::fail("rows", format!("{name}: {error}"), remedy));
                return None;
            }
        };
        for item in items {
            match keys.incoming(item.clone()).map(|item| Lease::parse(&item)) {
                Some(Ok(Some(lease))) => leases.push(lease),
                Some(Err(error)) => unreadable.push(error.to_string()),
                Some(Ok(None)) | None => others += 1,
            }
        }
        let stranger = stream.and_then(|stream| {
            let own = stream.identity();
            let bound = leases.iter().filter_map(|lease| lease.stream.as_ref());
            Some((bound.clone().find(|found| **found != own)?, own))
        });
        findings.push(match stranger {
            Some((found, own)) => Finding::fail(
                "rows",
                format!("{name} holds the leases of another stream ({found}), not of {own}"),
                "a stream that was deleted and created again counts as another: set \
                 lease.application to a new name, or delete the table if its checkpoints are not \
                 needed",
            ),
            None => checks::rows(&leases, others, &unreadable),
        });
        let overruled = graph::overruled(&leases, self.config.stream.start);
        if let Some(first) = overruled.first() {
            findings.push(Finding::warn(
                "start",
                format!(
                    "stream.start = {} does not count for {} lease(s), which have checkpoints, for \
                     instance {}",
                    self.config.stream.start,
                    overruled.len(),
                    first.shard
                ),
                "nothing, if they are to go on there; else `catchment leases reset --all`, or \
                 another lease.application",
            ));
        }
        findings.push(self.peers(items, &leases).await);
        Some(leases)
    }

    /// Signs of a KCL application: in the table itself, and beside it.
    async fn peers(&self, items: &[Item], leases: &[Lease]) -> Finding {
        let now = self.clock.wall();
        if let Some(live) = kcl3::live(items, now) {
            return checks::peers(self.table.name(), Some(&live), None, leases);
        }
        if items.is_empty() {
            return checks::peers(self.table.name(), None, None, leases);
        }
        let [lock, reports] = kcl3::legacy_tables(&self.config.lease.application);
        let (lock, reports) = (self.table.beside(lock), self.table.beside(reports));
        let (locks, seen) = futures::join!(lock.scan(true), reports.scan(true));
        let known = |scan: &Result<Vec<Item>, CallError>| match scan {
            Ok(_) => true,
            Err(error) => error.fault == Fault::NotFound,
        };
        let told = known(&seen);
        let looked = told && known(&locks);
        let (locks, seen) = (locks.unwrap_or_default(), seen.unwrap_or_default());
        let both: Vec<Item> = locks.iter().chain(&seen).cloned().collect();
        let live = kcl3::live(&both, now);
        // A lock whose owner reports no more is a dead leader's.
        let lock = kcl3::lock(&locks).filter(|_| !told);
        let found = checks::peers(reports.name(), live.as_ref(), lock.as_ref(), leases);
        // Rows bound to a stream have been a Catchment worker's, which looked.
        let ours = items.iter().all(|item| item.contains_key(attr::STREAM));
        if found.verdict == CheckVerdict::Ok && !looked && !ours {
            return Finding::warn(
                found.check,
                "the tables of KCL 3.0 to 3.4 beside the lease table may not be read",
                "grant dynamodb:Scan on them, or make sure that no KCL 3.x application runs",
            );
        }
        found
    }

    /// Writes that are refused by their condition, so that only the permission counts.
    async fn writes(&self) -> Finding {
        let check = "table-writes";
        let (table, key) = (self.table.name(), self.nobody.as_str());
        let (mut probed, mut rest) = (Vec::new(), Vec::new());
        for operation in ["UpdateItem", "PutItem", "DeleteItem"] {
            if !calls(self.role, &format!("DynamoDB.{operation}")) {
                rest.push(operation);
                continue;
            }
            let answer = match operation {
                "UpdateItem" => self.probe.update_item(table, key, key).await,
                "PutItem" => self.probe.put_item(table, key, key).await,
                _ => self.probe.delete_item(table, key, key).await,
            };
            if let Err(error) = answer {
                return failed(check, "DynamoDB", &error, "see what the message says");
            }
            probed.push(operation);
        }
        let mut found =
            format!("{} permitted (a condition kept them from doing it)", probed.join(", "));
        if !rest.is_empty() {
            found.push_str(&format!("; {} not probed: not needed by this role", rest.join(", ")));
        }
        Finding::ok(check, found)
    }

    /// Shards that are finished and open. Listed after the leases were read.
    async fn ends(&self, stream: Option<&StreamInfo>, leases: Option<&[Lease]>) -> Option<Finding> {
        let leases = leases.filter(|leases| leases.iter().any(Lease::is_finished))?;
        match self.kinesis.list_shards(&stream?.arn).await {
            Ok(shards) => checks::ends(&open_ends(&shards, leases)),
            Err(error) => Some(failed("ends", "Kinesis", &error, "try again")),
        }
    }

    /// How far each lease is behind, against retention.
    async fn lag(&self, stream: Option<&StreamInfo>, leases: Option<&[Lease]>) -> Finding {
        let (Some(stream), Some(leases)) = (stream, leases) else {
            return Finding::skipped("lag", "the stream or the leases cannot be read");
        };
        let active = leases.iter().filter(|lease| !lease.is_finished());
        let asked = futures::stream::iter(active).map(|lease| async move {
            let lag = lag::read(&self.kinesis, &stream.arn, lease).await;
            let lag = lag.map(|lag| lag.behind_ms()).map_err(|error| error.to_string());
            (lease.shard.as_str(), lag)
        });
        let lags: Vec<checks::Lagging<'_>> = asked.buffer_unordered(lag::PARALLEL).collect().await;
        checks::lag(&lags, stream.retention_ms)
    }

    async fn bucket(&self) -> Vec<Finding> {
        let bucket = &self.config.delivery.settings.bucket;
        let missing = "create it, or correct delivery.bucket or AWS_REGION";
        if let Err(error) = self.store.check_bucket(bucket).await {
            let unseen = error.fault != Fault::Denied;
            let mut findings = vec![failed("bucket", "S3", &error, missing)];
            if unseen {
                return findings;
            }
            // Not allowed to look at the bucket says nothing about its objects.
            findings.extend(self.objects(bucket, false).await);
            return findings;
        }
        let mut findings =
            vec![Finding::ok("bucket", format!("{bucket} exists and may be listed"))];
        findings.extend(self.objects(bucket, true).await);
        findings
    }

    /// Reading and writing below each prefix a worker writes to. Without s3:ListBucket (`listed`) an
    /// object that is not there is answered as one that may not be read.
    async fn objects(&self, bucket: &str, listed: bool) -> Vec<Finding> {
        let missing = "correct delivery.bucket";
        let keys: Vec<String> =
            iam::places(self.config).iter().map(|p| format!("{p}{}", self.nobody)).collect();
        let below = iam::places(self.config)
            .iter()
            .map(|place| format!("`{place}`"))
            .collect::<Vec<_>>()
            .join(", ");
        let mut read = if listed {
            Finding::ok("object-reads", format!("HeadObject permitted below {below}"))
        } else {
            Finding::skipped("object-reads", "nothing can be told without s3:ListBucket")
        };
        for key in keys.iter().filter(|_| listed) {
            if let Err(error) = self.store.exists(bucket, key).await {
                read = failed("object-reads", "S3", &error, missing);
                break;
            }
        }
        let check = "object-writes";
        if !calls(self.role, "S3.PutObject") {
            return vec![read, Finding::skipped(check, "not needed by this role")];
        }
        let found =
            format!("uploads below {below} can be begun and given up (no object was created)");
        let mut write = Finding::ok(check, found);
        for key in &keys {
            if let Err(error) = self.probe.upload(bucket, key).await {
                write = failed(check, "S3", &error, missing);
                break;
            }
        }
        vec![read, write]
    }
}
