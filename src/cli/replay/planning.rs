//! Plans a replay: resolves what was asked for against the stream, and refuses what would not do.

use crate::aws::kinesis::Kinesis;
use crate::aws::lookup::RecordLookup;
use crate::aws::objects::Objects;
use crate::config::OnGap;
use crate::delivery::object_key::Template;
use crate::fault::Fault;
use crate::ids::ShardId;
use crate::replay::plan::{From, Plan};
use crate::replay::resolve::{self, Begin, End, ReplayRequest, ResolveError};
use crate::stream::position::StartAt;
use crate::stream::{ShardInfo, StreamInfo};
use std::time::Duration;

use crate::cli::Failure;
use crate::cli::replay::show;
use crate::cli::replay::start::Session;
use crate::cli::replay::values::{number, past, prefix, time};

impl Session<'_> {
    pub(super) async fn stream(
        &self,
        plan: Option<&Plan>,
    ) -> Result<(StreamInfo, Vec<ShardInfo>), Failure> {
        let name = match plan {
            Some(plan) => plan.settings.stream.as_str(),
            None => self.config.stream.name.as_str(),
        };
        let kinesis = self.kinesis();
        let stream = kinesis.describe(name).await.map_err(|e| match e.fault {
            Fault::NotFound => Failure::new(2, format!("stream `{name}` does not exist: {e}")),
            _ => Failure::new(1, e),
        })?;
        if let Some(plan) = plan
            && stream.identity() != plan.stream
        {
            return Err(Failure::new(
                2,
                format!(
                    "the replay was planned for {}, the stream is {} now: records of the former one \
                     are gone; delete the replay",
                    plan.stream,
                    stream.identity()
                ),
            ));
        }
        let shards = kinesis.list_shards(&stream.arn).await.map_err(|e| Failure::new(1, e))?;
        Ok((stream, shards))
    }

    fn kinesis(&self) -> Kinesis {
        Kinesis::over(self.clients.kinesis.clone(), &self.clients.transport)
    }

    fn probe(&self, stream: &StreamInfo) -> RecordLookup {
        RecordLookup {
            kinesis: self.kinesis(),
            arn: stream.arn.clone(),
            clock: self.node.clock.clone(),
        }
    }

    pub(super) async fn plan(
        &self,
        id: &str,
    ) -> Result<(Plan, StreamInfo, Vec<ShardInfo>), Failure> {
        let options = self.options;
        // The arguments, before any call is made: begin, end, and what must not be left to a default.
        let from = match (&options.from_sequence_number, &options.from_timestamp) {
            (Some(n), _) => Begin::Sequence(number("--from-sequence-number", n)?),
            (_, Some(t)) => Begin::Timestamp(past("--from-timestamp", t, &self.node.clock)?),
            _ if options.from_trim_horizon => Begin::TrimHorizon,
            _ => {
                let why = match &options.id {
                    Some(id) => format!("there is no replay `{id}` to resume"),
                    None => "nothing says where to begin".into(),
                };
                return Err(Failure::new(
                    2,
                    format!(
                        "{why}: give --from-timestamp, --from-sequence-number or \
                         --from-trim-horizon; `catchment replay list` shows the replays of this \
                         lease.application"
                    ),
                ));
            }
        };
        let until = match (&options.until_sequence_number, &options.until_timestamp) {
            (Some(n), _) => End::Sequence(number("--until-sequence-number", n)?),
            (_, Some(t)) => End::Timestamp(time("--until-timestamp", t)?),
            _ => End::Now,
        };
        for (key, flag) in [("stream.name", "--stream"), ("delivery.bucket", "--bucket")] {
            if !self.asked.contains_key(key) {
                return Err(Failure::new(2, format!("a new replay needs {key}: give {flag}")));
            }
        }
        // Settings as configured, but every key under the prefix of this replay.
        let (stream, shards) = self.stream(None).await?;
        let prefix = match &options.prefix {
            Some(text) => prefix(text)?,
            None => prefix(&format!("replays/{id}"))?,
        };
        let delivery = &self.config.delivery;
        let mut settings =
            (*delivery.recipe(&stream.name).map_err(|e| Failure::new(2, e))?.settings).clone();
        settings.prefix = format!("{prefix}{}", settings.prefix);
        settings.errors = format!("{prefix}{}", settings.errors);
        settings.uploads_prefix.clone_from(&prefix);
        let settings = settings.versioned();
        for (template, errors) in [(&settings.prefix, false), (&settings.errors, true)] {
            Template::parse(template, errors).map_err(|e| {
                Failure::new(2, format!("--prefix {prefix}: with the template: {e}"))
            })?;
        }
        // All that was asked for is kept with the plan, so that resuming it otherwise is refused.
        let mut asked = self.asked.clone();
        asked.entry("end".into()).or_insert_with(|| "--until-now".into());
        asked.entry("--prefix".into()).or_insert_with(|| prefix.clone());
        let asked = ReplayRequest {
            id: id.to_owned(),
            from,
            until,
            shard: options.shard.as_deref().map(ShardId::new),
            until_shard: options.until_shard.as_deref().map(ShardId::new),
            prefix,
            settings,
            asked,
        };
        let plan = resolve::plan(&self.probe(&stream), &stream, &shards, asked).await;
        let plan = plan.map_err(|e| match e {
            ResolveError::Call(_) => Failure::new(1, e),
            ResolveError::Undecided { .. } | ResolveError::Range(_) => Failure::new(2, e),
        })?;
        // Wrong shards are told now, not by a worker.
        plan.rows(&shards).map_err(|e| Failure::new(2, e))?;
        Ok((plan, stream, shards))
    }

    /// What a new replay must not begin with: lost records, or a prefix that is in use.
    pub(super) async fn admit(&self, plan: &Plan, stream: &StreamInfo) -> Result<(), Failure> {
        if let Some(lost) = self.lost(plan, stream).await?
            && self.config.delivery.gaps.known == OnGap::Stop
        {
            return Err(Failure::new(
                3,
                format!(
                    "{lost}. To replay what is left, begin later, use --from-trim-horizon, or set \
                     delivery.on_gap=continue to have the gap reported under the error prefix"
                ),
            ));
        }
        let objects = Objects::new(self.clients.s3.clone());
        let bucket = &plan.settings.bucket;
        let taken = objects.any(bucket, &plan.prefix).await;
        let taken = taken.map_err(|e| Failure::new(2, format!("bucket `{bucket}`: {e}")))?;
        match taken {
            Some(key) => Err(Failure::new(
                2,
                format!(
                    "prefix `{}` is in use (s3://{bucket}/{key}): objects of two replays, or of a \
                     replay and live ones, must not mix; choose another --prefix or --id",
                    plan.prefix
                ),
            )),
            None => Ok(()),
        }
    }

    /// What of the range is outside retention already.
    async fn lost(&self, plan: &Plan, stream: &StreamInfo) -> Result<Option<String>, Failure> {
        if let Some(ms) = plan.outside_ms(stream, self.node.clock.wall()) {
            let lost = Duration::from_secs(u64::try_from(ms / 1000).unwrap_or(0));
            return Ok(Some(format!(
                "the first {} of the range are outside the stream's retention of {} hours",
                humantime::format_duration(lost),
                stream.retention_ms / 3_600_000
            )));
        }
        let From::Sequence(shard, first) = &plan.from else { return Ok(None) };
        match self.probe(stream).first(shard, &StartAt::At(first.clone())).await {
            Ok(Some(found)) if found == *first => Ok(None),
            Ok(found) => Ok(Some(format!(
                "record {first} is not in {shard} (any more): reading there begins with {}",
                found.map_or_else(|| "nothing".to_owned(), |n| n.to_string())
            ))),
            Err(error) if error.fault == Fault::Invalid => Err(Failure::new(
                2,
                format!("--from-sequence-number {first} is no number of {shard}: {error}"),
            )),
            Err(error) => Err(Failure::new(1, error)),
        }
    }

    pub(super) async fn dry_run(
        &self,
        plan: &Plan,
        stream: &StreamInfo,
        shards: &[ShardInfo],
        table: &str,
    ) -> Result<(), Failure> {
        let rows = plan.rows(shards).map_err(|e| Failure::new(2, e))?;
        let samples = resolve::samples(&self.probe(stream), plan, &rows).await;
        let samples = samples.map_err(|e| Failure::new(1, e))?;
        let lost = self.lost(plan, stream).await?;
        let rate = self.config.stream.pace.bytes_per_second;
        let estimate = show::Estimate { rows: &rows, samples: &samples, lost, rate, table };
        show::plan(plan, &estimate, self.options.json);
        Ok(())
    }
}
