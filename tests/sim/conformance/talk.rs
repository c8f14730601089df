//! The conversation itself: what is asked, and how an answer is told in a few words.

use std::fmt::Display;
use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::operation::get_records::GetRecordsOutput;
use aws_sdk_kinesis::primitives::{Blob, DateTime};
use aws_sdk_kinesis::types::{
    PutRecordsRequestEntry, Shard, ShardFilter, ShardFilterType, ShardIteratorType,
};
use catchment::clock::Clock;

fn code<T, E: ProvideErrorMetadata>(result: Result<T, SdkError<E>>) -> String {
    match result {
        Ok(_) => "accepted".into(),
        Err(error) => error.code().map_or_else(|| "an error without code".into(), str::to_owned),
    }
}

/// `shardId-000000000003` is 3.
fn short(id: &str) -> String {
    let digits = id.rsplit('-').next().unwrap_or(id).trim_start_matches('0');
    if digits.is_empty() { "0".into() } else { digits.into() }
}

fn long(n: usize) -> String {
    format!("shardId-{n:012}")
}

fn join<T: Display>(parts: impl IntoIterator<Item = T>, by: &str) -> String {
    parts.into_iter().map(|p| p.to_string()).collect::<Vec<_>>().join(by)
}

fn family(id: &str, parents: Vec<&str>) -> String {
    let mut parents: Vec<_> = parents.into_iter().map(short).collect();
    parents.sort();
    match parents.as_slice() {
        [] => short(id),
        parents => format!("{} of {}", short(id), parents.join(" and ")),
    }
}

fn told(shards: &[Shard]) -> String {
    let one = |s: &Shard| {
        let parents = s.parent_shard_id().into_iter().chain(s.adjacent_parent_shard_id());
        let closed = s.sequence_number_range().and_then(|r| r.ending_sequence_number()).is_some();
        let state = if closed { "closed" } else { "open" };
        format!("{} {state}", family(s.shard_id(), parents.collect()))
    };
    join(shards.iter().map(one), ", ")
}

fn ranges(shards: &[Shard], of: &[&str]) -> String {
    let tail = |n: &str| match n.len() {
        0..=3 => n.to_owned(),
        _ => format!("…{}", &n[n.len() - 3..]),
    };
    let one = |s: &Shard| {
        let range = s.hash_key_range().map(|r| (r.starting_hash_key(), r.ending_hash_key()));
        let (from, to) = range.unwrap_or_default();
        format!("{}: {}-{}", short(s.shard_id()), tail(from), tail(to))
    };
    join(shards.iter().filter(|s| of.contains(&short(s.shard_id()).as_str())).map(one), ", ")
}

/// Numbers may be padded; they are compared as numbers.
fn number(text: &str) -> (usize, &str) {
    let digits = text.trim_start_matches('0');
    (digits.len(), digits)
}

/// A reader of one stream.
struct Talk {
    kinesis: Client,
    clock: Clock,
    stream: String,
    answers: Vec<(&'static str, String)>,
}

type Start = (ShardIteratorType, Option<String>, Option<i64>);

impl Talk {
    fn says(&mut self, question: &'static str, answer: impl Into<String>) {
        self.answers.push((question, answer.into()));
    }

    async fn pause(&self, ms: u64) {
        self.clock.sleep(Duration::from_millis(ms)).await;
    }

    async fn shards(&self) -> Vec<Shard> {
        let listed = self.kinesis.list_shards().stream_name(&self.stream).send().await;
        let mut shards = listed.map(|l| l.shards.unwrap_or_default()).unwrap_or_default();
        shards.sort_by(|a, b| a.shard_id.cmp(&b.shard_id));
        shards
    }

    /// Until the stream is there and at rest.
    async fn active(&self) -> String {
        for _ in 0..100 {
            let told = self.kinesis.describe_stream_summary().stream_name(&self.stream);
            if let Ok(told) = told.send().await
                && let Some(s) = told.stream_description_summary()
                && s.stream_status().as_str() == "ACTIVE"
            {
                let (open, hours) = (s.open_shard_count(), s.retention_period_hours());
                return format!("ACTIVE, {open} open shards, {hours} h");
            }
            self.pause(100).await;
        }
        "never ACTIVE".into()
    }

    async fn put(&self, data: &str, hash: &str) -> Result<(String, String), String> {
        let put = self.kinesis.put_record().stream_name(&self.stream).partition_key("k");
        let put = put.explicit_hash_key(hash).data(Blob::new(data));
        let done = put.send().await.map_err(|e| code(Err::<(), _>(e)))?;
        Ok((short(&done.shard_id), done.sequence_number))
    }

    /// Where a put goes.
    async fn lands(&self, data: &str, hash: &str) -> String {
        self.put(data, hash).await.map_or_else(|e| e, |(shard, _)| shard)
    }

    async fn iterator(&self, shard: usize, start: Start) -> Result<String, String> {
        let (kind, from, at) = start;
        let ask = self.kinesis.get_shard_iterator().stream_name(&self.stream);
        let ask = ask.shard_id(long(shard)).shard_iterator_type(kind);
        let ask = ask.set_starting_sequence_number(from);
        let ask = ask.set_timestamp(at.map(DateTime::from_millis)).send().await;
        let iterator = ask.map_err(|e| code(Err::<(), _>(e)))?;
        iterator.shard_iterator.ok_or_else(|| "no iterator".into())
    }

    async fn page(&self, iterator: &str, limit: i32) -> Result<GetRecordsOutput, String> {
        // Five calls a second and shard.
        self.pause(220).await;
        let get = self.kinesis.get_records().shard_iterator(iterator).limit(limit).send().await;
        get.map_err(|e| code(Err::<(), _>(e)))
    }

    /// Up to the tip or the end: records, pages apart, and whether it ended.
    async fn read(&self, shard: usize, start: Start, limit: i32) -> String {
        let iterator = match self.iterator(shard, start).await {
            Ok(iterator) => iterator,
            Err(code) => return code,
        };
        self.read_from(iterator, limit).await.0
    }

    async fn read_from(&self, iterator: String, limit: i32) -> (String, Option<GetRecordsOutput>) {
        let (mut pages, mut next, mut idle) = (Vec::new(), Some(iterator), 0);
        let mut last = None;
        while let Some(iterator) = next.take() {
            let page = match self.page(&iterator, limit).await {
                Ok(page) => page,
                Err(code) => return (code, None),
            };
            let records = page.records().iter();
            let text = join(records.map(|r| String::from_utf8_lossy(r.data().as_ref())), " ");
            idle = if text.is_empty() { idle + 1 } else { 0 };
            if !text.is_empty() {
                pages.push(text);
            }
            next = page.next_shard_iterator().filter(|_| idle < 3).map(str::to_owned);
            last = Some(page);
        }
        let ended = last.as_ref().is_some_and(|p| p.next_shard_iterator().is_none());
        let records = if limit == 10_000 { pages.join(" ") } else { pages.join(" | ") };
        let end = if ended { Some("ended".to_owned()) } else { None };
        (join(Some(records).filter(|r| !r.is_empty()).into_iter().chain(end), ", "), last)
    }
}

fn horizon() -> Start {
    (ShardIteratorType::TrimHorizon, None, None)
}

fn latest() -> Start {
    (ShardIteratorType::Latest, None, None)
}

fn at(ms: i64) -> Start {
    (ShardIteratorType::AtTimestamp, None, Some(ms))
}

fn from(number: &str) -> Start {
    (ShardIteratorType::AtSequenceNumber, Some(number.into()), None)
}

fn after(number: &str) -> Start {
    (ShardIteratorType::AfterSequenceNumber, Some(number.into()), None)
}

const LAST_HASH: &str = "340282366920938463463374607431768211455";
const QUARTER: &str = "85070591730234615865843651857942052864";
const ALL: i32 = 10_000;

/// Asks everything of a stream that it makes and deletes; questions and answers in their order.
pub(super) async fn talk(
    kinesis: Client,
    clock: Clock,
    stream: &str,
) -> Vec<(&'static str, String)> {
    let mut t = Talk { kinesis, clock, stream: stream.into(), answers: Vec::new() };
    let begun = t.clock.wall();
    let create = t.kinesis.create_stream().stream_name(stream).shard_count(2).send().await;
    create.expect("a stream is made");
    let told = t.active().await;
    t.says("describe", told);
    writing(&mut t).await;
    let numbers = starting(&mut t, begun).await;
    refusals(&mut t).await;
    paging(&mut t).await;
    splitting(&mut t, numbers.last().unwrap_or(&String::new())).await;
    merging(&mut t).await;
    listing(&mut t).await;
    borders(&mut t).await;
    t.kinesis.delete_stream().stream_name(stream).send().await.expect("it is deleted");
    let mut gone = String::from("accepted");
    for _ in 0..100 {
        gone = code(t.kinesis.list_shards().stream_name(stream).send().await);
        if gone == "ResourceNotFoundException" {
            break;
        }
        t.pause(100).await;
    }
    t.says("a deleted stream", gone);
    t.answers
}

async fn writing(t: &mut Talk) {
    let shards = t.shards().await;
    t.says("shards", self::told(&shards));
    t.says("hash ranges", ranges(&shards, &["0", "1"]));
    // A stream for the tries: its records are not counted below.
    let tries = format!("{}-tries", t.stream);
    t.kinesis.create_stream().stream_name(&tries).shard_count(2).send().await.expect("made");
    let stream = std::mem::replace(&mut t.stream, tries.clone());
    t.active().await;
    let (first, last) = (t.lands("x", "0").await, t.lands("x", LAST_HASH).await);
    t.says("put by hash key 0 and by the last", format!("{first}, {last}"));
    let mut routed = Vec::new();
    for key in ["a", "b", "e", "user"] {
        let put = t.kinesis.put_record().stream_name(&tries).partition_key(key);
        let shard = put.data(Blob::new("x")).send().await.map(|p| short(&p.shard_id));
        routed.push(format!("{key} {}", shard.unwrap_or_else(|e| code(Err::<(), _>(e)))));
    }
    t.says("put by partition key", routed.join(", "));
    let entry = |hash: &str| {
        let entry = PutRecordsRequestEntry::builder().partition_key("k").explicit_hash_key(hash);
        entry.data(Blob::new("x")).build().expect("complete")
    };
    let put = t.kinesis.put_records().stream_name(&tries);
    let put = put.records(entry("0")).records(entry(LAST_HASH)).send().await;
    let done = match put {
        Ok(done) => {
            let shards = done.records.iter().map(|r| short(r.shard_id().unwrap_or_default()));
            format!("{} failed: {}", done.failed_record_count.unwrap_or(0), join(shards, ", "))
        }
        Err(error) => code(Err::<(), _>(error)),
    };
    t.says("put records", done);
    t.kinesis.delete_stream().stream_name(&tries).send().await.expect("deleted");
    t.stream = "nobody-made-this".into();
    let missing = t.lands("x", "0").await;
    t.says("put to a stream that is not there", missing);
    t.stream = stream;
}

/// Each kind of start; returns the sequence numbers of the records of shard 0.
async fn starting(t: &mut Talk, begun: i64) -> Vec<String> {
    let (mut numbers, mut times) = (Vec::new(), Vec::new());
    for n in 0..4 {
        t.pause(20).await;
        times.push(t.clock.wall());
        t.pause(20).await;
        numbers.push(t.put(&format!("r{n}"), "0").await.expect("a record is taken").1);
    }
    let (_, other) = t.put("other", LAST_HASH).await.expect("a record is taken");
    let rise = numbers.windows(2).all(|w| number(&w[0]) < number(&w[1]));
    t.says("sequence numbers rise in a shard", rise.to_string());
    t.pause(20).await;
    let now = t.clock.wall();
    for (question, start) in [
        ("TRIM_HORIZON", horizon()),
        ("AT_SEQUENCE_NUMBER of r1", from(&numbers[1])),
        ("AFTER_SEQUENCE_NUMBER of r1", after(&numbers[1])),
        ("AFTER_SEQUENCE_NUMBER of the last", after(&numbers[3])),
        ("LATEST", latest()),
        ("AT_TIMESTAMP of r2", at(times[2])),
        ("AT_TIMESTAMP before the stream", at(begun - 60_000)),
        ("AT_TIMESTAMP after the last record", at(now)),
        ("AT_TIMESTAMP in the future", at(now + 3_600_000)),
        ("a number of another shard", from(&other)),
    ] {
        let answer = t.read(0, start, ALL).await;
        t.says(question, answer);
    }
    numbers
}

async fn refusals(t: &mut Talk) {
    let answer = t.read(77, horizon(), ALL).await;
    t.says("iterator of a shard that is not there", answer);
    let stream = std::mem::replace(&mut t.stream, "nobody-made-this".into());
    let answer = t.read(0, horizon(), ALL).await;
    t.stream = stream;
    t.says("iterator of a stream that is not there", answer);
    let answer = t.page("bm8gaXRlcmF0b3I=", ALL).await.map(|_| "accepted".into());
    t.says("an iterator that is none", answer.unwrap_or_else(|e: String| e));
    for (question, limit) in [("limit 0", 0), ("limit 10001", 10_001)] {
        let iterator = t.iterator(0, horizon()).await.unwrap_or_default();
        let answer = t.page(&iterator, limit).await.map(|_| "accepted".into());
        t.says(question, answer.unwrap_or_else(|e: String| e));
    }
}

async fn paging(t: &mut Talk) {
    let answer = t.read(0, horizon(), 3).await;
    t.says("pages of 3", answer);
    let iterator = t.iterator(0, horizon()).await.unwrap_or_default();
    let (first, again) = (t.page(&iterator, 2).await, t.page(&iterator, 2).await);
    let ids = |page: &Result<GetRecordsOutput, String>| match page {
        Ok(page) => join(page.records().iter().map(|r| r.sequence_number()), " "),
        Err(code) => code.clone(),
    };
    let same = if ids(&first) == ids(&again) { "the same records" } else { "other records" };
    t.says("an iterator used twice", same);
    let complete = first.as_ref().is_ok_and(|page| {
        page.records().iter().all(|r| {
            r.approximate_arrival_timestamp().is_some()
                && r.partition_key().is_some_and(|k| k == "k")
        })
    });
    t.says("arrival times, keys", if complete { "all there" } else { "not all" });
    let behind = |page: &Result<GetRecordsOutput, String>| match page {
        Ok(page) => match page.millis_behind_latest() {
            Some(0) => "0".to_owned(),
            Some(_) => "more than 0".to_owned(),
            None => "not told".to_owned(),
        },
        Err(code) => code.clone(),
    };
    t.says("behind the tip with records left", behind(&first));
    let tip = t.iterator(0, latest()).await.unwrap_or_default();
    let page = t.page(&tip, ALL).await;
    t.says("behind the tip at the tip", behind(&page));
    let next = page.ok().and_then(|p| p.next_shard_iterator).unwrap_or_default();
    t.lands("r4", "0").await;
    let answer = t.read_from(next, ALL).await.0;
    t.says("an iterator at the tip sees what comes", answer);
}

fn children(page: Option<&GetRecordsOutput>) -> String {
    let Some(page) = page else { return "no page".into() };
    let mut named: Vec<String> = page
        .child_shards()
        .iter()
        .map(|c| family(c.shard_id(), c.parent_shards().iter().map(String::as_str).collect()))
        .collect();
    named.sort();
    join(named, ", ")
}

async fn splitting(t: &mut Talk, last: &str) {
    let held = t.iterator(0, latest()).await.unwrap_or_default();
    let split = t.kinesis.split_shard().stream_name(&t.stream).shard_to_split(long(0));
    split.new_starting_hash_key(QUARTER).send().await.expect("a shard is split");
    t.active().await;
    let shards = t.shards().await;
    t.says("split", told(&shards));
    t.says("hash ranges of the children", ranges(&shards, &["2", "3"]));
    let end = shards.iter().find(|s| short(s.shard_id()) == "0");
    let end = end.and_then(|s| s.sequence_number_range()?.ending_sequence_number());
    let covers = end.is_some_and(|end| number(end) >= number(last));
    t.says("a closed shard's end lies at or after its last record", covers.to_string());
    let (low, high) = (t.lands("r5", "0").await, t.lands("r6", QUARTER).await);
    t.says("put into the halves", format!("{low}, {high}"));
    let whole = match t.iterator(0, horizon()).await {
        Ok(iterator) => t.read_from(iterator, ALL).await,
        Err(code) => (code, None),
    };
    t.says("unread records of the parent", whole.0);
    t.says("children named at the end", children(whole.1.as_ref()));
    let answer = t.read_from(held, ALL).await.0;
    t.says("an iterator from before the split", answer);
    let answer = t.read(0, latest(), ALL).await;
    t.says("LATEST of a closed shard", answer);
    let records = t.iterator(0, horizon()).await;
    let page = match &records {
        Ok(iterator) => t.page(iterator, ALL).await,
        Err(code) => Err(code.clone()),
    };
    let number = page.ok().and_then(|p| Some(p.records().last()?.sequence_number().to_owned()));
    let answer = match number {
        Some(number) => t.read(0, after(&number), ALL).await,
        None => "no last record".into(),
    };
    t.says("AFTER_SEQUENCE_NUMBER of the last, closed", answer);
    let answer = t.read(2, horizon(), ALL).await;
    t.says("TRIM_HORIZON of a child", answer);
    let split = t.kinesis.split_shard().stream_name(&t.stream).shard_to_split(long(0));
    let answer = code(split.new_starting_hash_key("1").send().await);
    t.says("split a closed shard", answer);
}

async fn merging(t: &mut Talk) {
    t.active().await;
    let merge = t.kinesis.merge_shards().stream_name(&t.stream).shard_to_merge(long(2));
    let done = merge.adjacent_shard_to_merge(long(3)).send().await;
    let done = if done.is_ok() { None } else { Some(code(done)) };
    t.active().await;
    let shards = t.shards().await;
    t.says("merge", done.unwrap_or_else(|| told(&shards)));
    let named = match t.iterator(3, horizon()).await {
        Ok(iterator) => children(t.read_from(iterator, ALL).await.1.as_ref()),
        Err(code) => code,
    };
    t.says("children named at the end of a merged shard", named);
}

async fn listing(t: &mut Talk) {
    let told = t.kinesis.describe_stream_summary().stream_name(&t.stream).send().await;
    let open = told.ok().and_then(|t| Some(t.stream_description_summary?.open_shard_count));
    t.says("open after reshards", open.unwrap_or_default().to_string());
    let filtered = async |kind: ShardFilterType, after: Option<String>| {
        let filter = ShardFilter::builder().r#type(kind).set_shard_id(after).build();
        let list = t.kinesis.list_shards().stream_name(&t.stream);
        match list.shard_filter(filter.expect("complete")).send().await {
            Ok(listed) => join(listed.shards().iter().map(|s| short(s.shard_id())), ", "),
            Err(error) => code(Err::<(), _>(error)),
        }
    };
    let now = filtered(ShardFilterType::AtLatest, None).await;
    let later = filtered(ShardFilterType::AfterShardId, Some(long(2))).await;
    t.says("shards AT_LATEST", now);
    t.says("shards AFTER_SHARD_ID 2", later);
    let (mut pages, mut token, mut both) = (Vec::new(), None, None);
    for _ in 0..5 {
        let list = t.kinesis.list_shards().max_results(2);
        let list = match token.take() {
            None => list.stream_name(&t.stream),
            Some(token) => list.next_token(token),
        };
        let page = match list.send().await {
            Ok(page) => page,
            Err(error) => {
                pages.push(code(Err::<(), _>(error)));
                break;
            }
        };
        pages.push(join(page.shards().iter().map(|s| short(s.shard_id())), ", "));
        token = page.next_token;
        let Some(next) = &token else { break };
        if both.is_none() {
            let list = t.kinesis.list_shards().next_token(next).stream_name(&t.stream);
            both = Some(code(list.send().await));
        }
    }
    t.says("shards in pages of 2", pages.join(" | "));
    t.says("NextToken with a stream name", both.unwrap_or_else(|| "no token".into()));
}

/// In a stream of its own: some take what they should refuse, and are elsewhere afterwards.
async fn borders(t: &mut Talk) {
    let borders = format!("{}-borders", t.stream);
    t.kinesis.create_stream().stream_name(&borders).shard_count(3).send().await.expect("made");
    let stream = std::mem::replace(&mut t.stream, borders.clone());
    t.active().await;
    let split = t.kinesis.split_shard().stream_name(&borders).shard_to_split(long(0));
    let split = code(split.new_starting_hash_key("0").send().await);
    t.active().await;
    let merge = t.kinesis.merge_shards().stream_name(&borders).shard_to_merge(long(0));
    let merge = code(merge.adjacent_shard_to_merge(long(2)).send().await);
    t.says("split at a border", split);
    t.says("merge shards that do not touch", merge);
    t.kinesis.delete_stream().stream_name(&borders).send().await.expect("deleted");
    t.stream = stream;
}
