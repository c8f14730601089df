//! What was seen, and what is to be thought of it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::config::ReadBy;
use crate::fault::{CallError, Detail, Fault};
use crate::iam::{CALLS, Role};
use crate::ids::ShardId;
use crate::lease::kcl3;
use crate::lease::parked::Parked;
use crate::lease::row::Lease;
use crate::stream::Consumer;
use crate::stream::StreamSummary;

/// Of one check. The order is that of gravity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum CheckVerdict {
    /// As it should be.
    Ok,
    /// Nothing was tried, so nothing is claimed.
    Skipped,
    /// A worker runs, and somebody should look.
    Warn,
    /// A worker does not start, stops, or will lose records.
    Fail,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What was checked.
    pub(super) check: &'static str,
    /// How it is.
    pub(super) verdict: CheckVerdict,
    /// What was seen.
    pub(super) found: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: CheckVerdict::Ok, found: found.into(), remedy: None }
    }

    pub(super) fn skipped(check: &'static str, why: &str) -> Self {
        let found = format!("not probed: {why}");
        Self { check, verdict: CheckVerdict::Skipped, found, remedy: None }
    }

    pub(super) fn warn(
        check: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let remedy = Some(remedy.into());
        Self { check, verdict: CheckVerdict::Warn, found: found.into(), remedy }
    }

    pub(super) fn fail(
        check: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { verdict: CheckVerdict::Fail, ..Self::warn(check, found, remedy) }
    }
}

/// Does the role of this name make the call at all?
pub(super) fn calls(role: Role, operation: &str) -> bool {
    CALLS.iter().any(|call| call.operation == operation && call.roles.contains(&role))
}

/// A call that failed. `missing` says what to do where the thing itself is not there.
pub(super) fn failed(
    check: &'static str,
    service: &str,
    error: &CallError,
    missing: &str,
) -> Finding {
    let found = error.to_string();
    let operation = format!("{service}.{}", error.operation);
    let action = CALLS.iter().find(|c| c.operation == operation).map_or("it", |c| c.action);
    match error.fault {
        Fault::Denied if error.detail == Detail::EncryptionKey => {
            Finding::fail(check, found, Detail::EncryptionKey.remedy().unwrap_or_default())
        }
        Fault::Denied if error.detail == Detail::OtherRegion => {
            Finding::fail(check, found, missing)
        }
        Fault::Denied => Finding::fail(
            check,
            found,
            format!("grant {action} to this role; `catchment iam-policy` prints the whole policy"),
        ),
        Fault::Throttled => Finding::warn(
            check,
            found,
            "other users of it take its whole rate; try again, and see who they are",
        ),
        Fault::Unavailable => Finding::fail(
            check,
            found,
            "there was no usable answer: look at the network, at VPC endpoints and their policies, \
             and at AWS_ENDPOINT_URL",
        ),
        Fault::NotFound | Fault::Invalid | Fault::ExpiredIterator => {
            Finding::fail(check, found, missing)
        }
    }
}

/// `who` is what the credential chain says, `first` how the first call with them went.
pub(super) fn credentials(who: Result<String, String>, first: Option<&CallError>) -> Finding {
    let check = "credentials";
    let refused = first.and_then(|error| match error.detail {
        Detail::NoCredentials | Detail::ExpiredCredentials | Detail::UnknownCredentials => {
            Some((error, error.remedy().unwrap_or_default()))
        }
        _ => None,
    });
    match (who, refused) {
        (Err(error), _) => {
            Finding::fail(check, error, Detail::NoCredentials.remedy().unwrap_or_default())
        }
        (Ok(_), Some((error, remedy))) => Finding::fail(check, error.to_string(), remedy),
        (Ok(who), None) => Finding::ok(check, who),
    }
}

/// Signatures this far off are refused by Kinesis and DynamoDB (the SDK then corrects itself).
const REFUSED_MS: i64 = 300_000;
/// Still unremarkable.
const APART_MS: i64 = 30_000;

/// `theirs` is a `Date` header, so cut to the second; both in milliseconds since the epoch.
pub(super) fn clock(theirs: Option<i64>, ours: i64) -> Finding {
    let check = "clock";
    let Some(theirs) = theirs else {
        return Finding::skipped(check, "the service said no date");
    };
    // Anywhere in that second is no skew at all.
    let ahead = match ours.saturating_sub(theirs) {
        0..1000 => 0,
        ms if ms < 0 => ms,
        ms => ms - 999,
    };
    let seconds = ahead.abs() as f64 / 1000.0;
    let found = match ahead {
        0 => "agrees with the service to the second".to_owned(),
        _ if ahead > 0 => format!("this machine is {seconds:.1} s ahead of the service"),
        _ => format!("this machine is {seconds:.1} s behind the service"),
    };
    match ahead.abs() {
        0..APART_MS => Finding::ok(check, found),
        APART_MS..REFUSED_MS => {
            Finding::warn(check, found, "run a time service (chrony, systemd-timesyncd) here")
        }
        _ => Finding::fail(
            check,
            found,
            "run a time service (chrony, systemd-timesyncd) here: AWS refuses signatures more than \
             five minutes off",
        ),
    }
}

/// The stream as the service describes it.
pub(super) fn stream(name: &str, seen: &Result<StreamSummary, CallError>) -> Finding {
    let check = "stream";
    let seen = match seen {
        Ok(seen) => seen,
        Err(error) => {
            let missing = format!(
                "check stream.name (now {name}), AWS_REGION and the account of the credentials"
            );
            return failed(check, "Kinesis", error, &missing);
        }
    };
    let mode = if seen.mode == "ON_DEMAND" { "on demand" } else { "provisioned" };
    let encryption = if seen.encryption == "NONE" { "not encrypted" } else { "encrypted by KMS" };
    let found = format!(
        "{name} is {}, {mode}, {} open shard(s), {} h retention, {encryption}, {} fan-out consumer(s)",
        seen.status, seen.open_shards, seen.retention_hours, seen.consumers
    );
    if matches!(seen.status.as_str(), "ACTIVE" | "UPDATING") {
        Finding::ok(check, found)
    } else {
        Finding::fail(
            check,
            found,
            "wait until it is ACTIVE, or check that it is not being deleted",
        )
    }
}

/// The fan-out consumer. `auto` polls without it, and `fan-out` registers a name.
pub(super) fn consumer(asked: &str, reader: ReadBy, seen: &Result<Consumer, CallError>) -> Finding {
    let check = "consumer";
    match seen {
        Ok(consumer) if consumer.active => {
            Finding::ok(check, format!("{} is ACTIVE", consumer.arn))
        }
        Ok(consumer) => Finding::warn(
            check,
            format!("{} is not ACTIVE", consumer.arn),
            "wait: shards are polled until it is, and workers are restarted",
        ),
        Err(error) if error.fault == Fault::NotFound && reader == ReadBy::Auto => Finding::warn(
            check,
            format!("{asked} is not registered: shards are polled"),
            "register it, or set stream.reader = \"fan-out\", with which a worker does",
        ),
        Err(error) if error.fault == Fault::NotFound && !asked.starts_with("arn:") => {
            Finding::ok(check, format!("{asked} is not registered; the first worker does it"))
        }
        Err(error) => failed(check, "Kinesis", error, "name a consumer that exists"),
    }
}

/// Whom the leases belong to. `leases` are those of our stream.
pub(super) fn rows(leases: &[Lease], others: usize, unreadable: &[String]) -> Finding {
    let check = "rows";
    let active: Vec<&Lease> = leases.iter().filter(|l| !l.is_finished()).collect();
    let owners: BTreeSet<_> = active.iter().filter_map(|l| l.owner.as_ref()).collect();
    let free = active.iter().filter(|l| l.is_free()).count();
    let mut found = format!(
        "{} lease(s) with work left, {free} of them free, {} finished; {} owner(s)",
        active.len(),
        leases.len() - active.len(),
        owners.len()
    );
    if others > 0 {
        found.push_str(&format!("; {others} other item(s)"));
    }
    match unreadable.first() {
        None => Finding::ok(check, found),
        Some(first) => Finding::warn(
            check,
            format!("{found}; {} cannot be read: {first}", unreadable.len()),
            "workers leave these alone, so their shards are not delivered: mend or delete them",
        ),
    }
}

/// Shards at SHARD_END that the stream shows open; none to tell of, no line.
pub(super) fn ends(open: &BTreeSet<&ShardId>) -> Option<Finding> {
    let first = open.first()?;
    Some(Finding::fail(
        "ends",
        format!(
            "{} shard(s) are finished in the lease table and open in the stream, for instance {first}: \
             nobody reads them",
            open.len()
        ),
        format!(
            "`catchment leases rewind --shard {first} --from-trim-horizon` reads it again, or \
             --from-sequence-number from the last record delivered"
        ),
    ))
}

/// Shards parked at a gap; none, no line.
pub(super) fn parked(parked: &BTreeMap<ShardId, Parked>) -> Option<Finding> {
    let (first, why) = parked.first_key_value()?;
    Some(Finding::fail(
        "parked",
        format!(
            "{} shard(s) wait at a gap, for instance {first}: records {} left retention before they \
             were delivered",
            parked.len(),
            why.gap
        ),
        format!("`catchment leases resume {first}` accepts the gap, reports it and goes on"),
    ))
}

/// Other applications of the Kinesis Client Library on the table. `lock` is the leader lock of KCL
/// 3.0 to 3.4 where nothing says whether its owner lives.
pub(super) fn peers(
    table: &str,
    live: Option<&kcl3::Live>,
    lock: Option<&kcl3::Lock>,
    leases: &[Lease],
) -> Finding {
    let check = "kcl-peers";
    if let Some(live) = live {
        let leads = if live.leads { ", the leader," } else { "" };
        return Finding::fail(
            check,
            format!(
                "worker `{}`{leads} of a KCL 3.x application reported {} s ago in table `{table}`",
                live.worker,
                live.age.max(0)
            ),
            "workers do not start beside it: stop it and start two minutes later, or set \
             lease.application to another name to run beside it",
        );
    }
    if let Some(lock) = lock {
        return Finding::warn(
            check,
            format!("worker `{}` holds the leader lock of a KCL 3.x application", lock.owner),
            "whether it lives cannot be seen from one look: a worker waits 40 s for it at start; \
             grant dynamodb:Scan on the application's -WorkerMetricStats table to see it here",
        );
    }
    // A worker of ours binds what it takes to the stream; no KCL does.
    let owned: Vec<&Lease> =
        leases.iter().filter(|l| !l.is_finished() && l.stream.is_none() && !l.is_free()).collect();
    match owned.first().and_then(|lease| lease.owner.as_ref()) {
        Some(owner) => Finding::warn(
            check,
            format!(
                "{} lease(s) are in the name of a KCL 1.x or 2.x application, for instance of `{owner}`",
                owned.len()
            ),
            "if it still runs (`catchment leases list --watch 5s`), it goes on with its part beside \
             Catchment: docs/MIGRATING.md. If it is stopped there is nothing to do",
        ),
        None => Finding::ok(check, "no other application of the KCL is seen on the table"),
    }
}

/// The lag of one lease, ms, or why it is not known.
pub(super) type Lagging<'a> = (&'a str, Result<Option<i64>, String>);

/// Checkpoints against retention, in milliseconds.
pub(super) fn lag(lags: &[Lagging<'_>], retention_ms: i64) -> Finding {
    let check = "lag";
    let known =
        lags.iter().filter_map(|(shard, lag)| Some((lag.as_ref().ok()?.unwrap_or(0), *shard)));
    let unknown = lags.iter().find_map(|(shard, lag)| Some((shard, lag.as_ref().err()?)));
    let Some((ms, shard)) = known.max() else {
        return match unknown {
            Some((shard, why)) => Finding::warn(check, format!("{shard}: {why}"), RETRY),
            None => Finding::ok(check, "no lease has work left"),
        };
    };
    let retention_h = retention_ms as f64 / 3_600_000.0;
    let found = format!(
        "of {} lease(s), {shard} is furthest behind: {:.1} s of {retention_h:.0} h retention",
        lags.len(),
        ms as f64 / 1000.0
    );
    let hours = (retention_ms - ms).max(0) as f64 / 3_600_000.0;
    let remedy = format!(
        "in {hours:.1} h, records leave the stream undelivered: raise the retention now \
         (IncreaseStreamRetentionPeriod), then find out why it lags: docs/RUNBOOK.md, Lag grows"
    );
    // Exact in integers: retention is at most 8,760 h.
    if ms.saturating_mul(10) >= retention_ms.saturating_mul(9) {
        return Finding::fail(check, found, remedy);
    }
    if ms.saturating_mul(2) >= retention_ms {
        return Finding::warn(check, found, remedy);
    }
    match unknown {
        Some((shard, why)) => Finding::warn(check, format!("{found}; {shard}: {why}"), RETRY),
        None => Finding::ok(check, found),
    }
}

const RETRY: &str = "the lag of some leases could not be read; try again";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lease::row::{Attr, Item, attr};

    const HOUR: i64 = 3_600_000;

    fn error(fault: Fault, code: &str) -> CallError {
        CallError {
            operation: "PutItem",
            fault,
            detail: Detail::Plain,
            code: code.into(),
            message: "m".into(),
            request_id: None,
        }
    }

    fn lease(owner: Option<&str>, bound: bool, checkpoint: &str) -> Lease {
        let mut item = Item::from([
            (attr::KEY.to_owned(), Attr::S("shardId-000000000000".into())),
            (attr::COUNTER.to_owned(), Attr::N("3".into())),
            (attr::CHECKPOINT.to_owned(), Attr::S(checkpoint.into())),
        ]);
        if let Some(owner) = owner {
            item.insert(attr::OWNER.into(), Attr::S(owner.into()));
        }
        if bound {
            item.insert(attr::STREAM.into(), Attr::S("arn@1".into()));
        }
        Lease::parse(&item).unwrap().unwrap()
    }

    #[test]
    fn a_consumer_that_is_missing_matters_by_how_shards_are_read() {
        let missing = || Err(error(Fault::NotFound, "ResourceNotFoundException"));
        let told = |asked, reader| consumer(asked, reader, &missing()).verdict;
        assert_eq!(told("tap", ReadBy::FanOut), CheckVerdict::Ok);
        assert_eq!(told("tap", ReadBy::Auto), CheckVerdict::Warn);
        assert_eq!(told("arn:aws:kinesis:x", ReadBy::FanOut), CheckVerdict::Fail);
        let found =
            |active| consumer("tap", ReadBy::Auto, &Ok(Consumer { arn: "a".into(), active }));
        assert_eq!(
            (found(true).verdict, found(false).verdict),
            (CheckVerdict::Ok, CheckVerdict::Warn)
        );
    }

    #[test]
    fn a_denied_call_names_the_action() {
        let told = failed("table", "DynamoDB", &error(Fault::Denied, "AccessDeniedException"), "");
        assert_eq!(told.verdict, CheckVerdict::Fail);
        assert!(told.remedy.unwrap().contains("dynamodb:PutItem"));
        let told = failed("table", "DynamoDB", &error(Fault::Throttled, "x"), "");
        assert_eq!(told.verdict, CheckVerdict::Warn);
        let told = failed("table", "DynamoDB", &error(Fault::NotFound, "x"), "make one");
        assert_eq!(told.remedy.as_deref(), Some("make one"));
        let key = CallError { detail: Detail::EncryptionKey, ..error(Fault::Denied, "KMS") };
        let told = failed("read", "Kinesis", &key, "");
        assert!(told.remedy.unwrap().contains("KMS key"));
    }

    #[test]
    fn refused_credentials_are_not_a_missing_permission() {
        let who = || Ok("region eu-west-1".to_owned());
        let denied = error(Fault::Denied, "AccessDeniedException");
        assert_eq!(credentials(who(), Some(&denied)).verdict, CheckVerdict::Ok);
        for (detail, remedy) in [
            (Detail::NoCredentials, "AWS_PROFILE"),
            (Detail::UnknownCredentials, "not known there"),
            (Detail::ExpiredCredentials, "renew"),
        ] {
            let told = credentials(who(), Some(&CallError { detail, ..denied.clone() }));
            assert_eq!(told.verdict, CheckVerdict::Fail, "{detail:?}");
            assert!(told.remedy.unwrap().contains(remedy), "{detail:?}");
        }
        assert_eq!(credentials(Err("none".into()), None).verdict, CheckVerdict::Fail);
    }

    #[test]
    fn clocks() {
        let verdict = |theirs, ours| clock(theirs, ours).verdict;
        assert_eq!(verdict(None, 0), CheckVerdict::Skipped);
        assert!(clock(Some(5_000), 5_999).found.contains("agrees"));
        assert!(
            clock(Some(5_000), 15_999).found.contains("10.0 s ahead"),
            "{}",
            clock(Some(5_000), 15_999).found
        );
        assert!(clock(Some(15_000), 5_000).found.contains("10.0 s behind"));
        assert_eq!(verdict(Some(0), 25_000), CheckVerdict::Ok);
        assert_eq!(verdict(Some(0), 60_000), CheckVerdict::Warn);
        assert_eq!(verdict(Some(0), 301_000), CheckVerdict::Fail);
        assert_eq!(verdict(Some(301_000), 0), CheckVerdict::Fail);
    }

    #[test]
    fn a_stream_that_cannot_be_read_fails() {
        let seen = |status: &str| {
            let summary = StreamSummary {
                status: status.into(),
                mode: "ON_DEMAND".into(),
                retention_hours: 24,
                encryption: "KMS".into(),
                open_shards: 4,
                consumers: 1,
            };
            stream("clicks", &Ok(summary))
        };
        assert_eq!(seen("UPDATING").verdict, CheckVerdict::Ok);
        for part in ["on demand", "4 open", "24 h", "encrypted by KMS", "1 fan-out"] {
            assert!(seen("ACTIVE").found.contains(part), "{part}");
        }
        assert_eq!(seen("CREATING").verdict, CheckVerdict::Fail);
        let missing = stream("clicks", &Err(error(Fault::NotFound, "x")));
        assert!(missing.remedy.unwrap().contains("AWS_REGION"));
    }

    #[test]
    fn peers_of_both_kinds_are_told_apart() {
        let told = |live: Option<&kcl3::Live>, leases: &[Lease]| peers("t", live, None, leases);
        assert_eq!(told(None, &[lease(Some("w"), true, "1")]).verdict, CheckVerdict::Ok);
        assert_eq!(told(None, &[lease(None, false, "1")]).verdict, CheckVerdict::Ok);
        assert_eq!(told(None, &[lease(Some("w"), false, "SHARD_END")]).verdict, CheckVerdict::Ok);
        let kcl2 = told(None, &[lease(Some("java"), false, "1")]);
        assert!(kcl2.verdict == CheckVerdict::Warn && kcl2.found.contains("`java`"), "{kcl2:?}");
        let live = kcl3::Live { worker: "j".into(), age: 3, leads: true };
        assert_eq!(told(Some(&live), &[]).verdict, CheckVerdict::Fail);
        let lock = kcl3::Lock { owner: "j".into(), version: "1".into() };
        assert_eq!(peers("t", None, Some(&lock), &[]).verdict, CheckVerdict::Warn);
    }

    #[test]
    fn rows_that_cannot_be_read_are_told() {
        let leases =
            [lease(Some("a"), true, "1"), lease(None, true, "2"), lease(None, true, "SHARD_END")];
        let good = rows(&leases, 0, &[]);
        assert!(
            good.found
                .starts_with("2 lease(s) with work left, 1 of them free, 1 finished; 1 owner"),
            "{good:?}"
        );
        assert_eq!(rows(&leases, 2, &["bad".into()]).verdict, CheckVerdict::Warn);
    }

    #[test]
    fn lag_is_judged_by_retention() {
        let of = |ms: i64| lag(&[("a", Ok(Some(1))), ("b", Ok(Some(ms)))], 24 * HOUR);
        assert_eq!(of(2).verdict, CheckVerdict::Ok);
        assert!(of(2).found.contains("b is furthest"));
        assert_eq!(of(12 * HOUR).verdict, CheckVerdict::Warn);
        let late = of(22 * HOUR);
        assert!(late.verdict == CheckVerdict::Fail && late.remedy.unwrap().contains("in 2.0 h"));
        assert_eq!(lag(&[("a", Err("x".into()))], 24 * HOUR).verdict, CheckVerdict::Warn);
        assert_eq!(
            lag(&[("a", Err("x".into())), ("b", Ok(Some(23 * HOUR)))], 24 * HOUR).verdict,
            CheckVerdict::Fail
        );
        assert_eq!(lag(&[], 24 * HOUR).verdict, CheckVerdict::Ok);
    }

    proptest! {
        #[test]
        fn more_lag_is_never_judged_better(a in 0..8760 * HOUR, b in 0..8760 * HOUR, hours in 24..8760_i64) {
            let of = |ms| lag(&[("s", Ok(Some(ms)))], hours * HOUR).verdict;
            prop_assert!(of(a.min(b)) <= of(a.max(b)));
        }

        #[test]
        fn skew_is_judged_alike_in_both_directions(ms in 1_000..4_000_000_i64, base in 0..4_000_000_000_i64) {
            let theirs = base / 1000 * 1000;
            let ahead = clock(Some(theirs), theirs + ms + 999).verdict;
            prop_assert_eq!(ahead, clock(Some(theirs), theirs - ms).verdict);
        }
    }
}
