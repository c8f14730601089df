//! A toy worker, to prove the harness before the real one is plugged in: lease, intent, PUT,
//! commit, as the delivery protocol demands, through the real SDK clients and nothing else.
//!
//! It is naive in everything but the protocol, and it can be made wrong on purpose ([`Mutant`]),
//! because an oracle that never fails proves nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType,
    ScalarAttributeType,
};
use aws_sdk_kinesis::types::ShardIteratorType;

use crate::fleet::{BUCKET, STREAM, TABLE};
use crate::node::Node;

/// A deliberate mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    Correct,
    /// A pending intent is overwritten instead of finished.
    IgnorePending,
    /// A failed PUT is taken for a success.
    PutFailureIsSuccess,
    /// The intent is put down without looking.
    UnconditionalIntent,
}

const FAILOVER: Duration = Duration::from_secs(10);
const END: &str = "SHARD_END";
const START: &str = "TRIM_HORIZON";

type Row = std::collections::HashMap<String, AttributeValue>;

/// Anything that went wrong: the row is read again and the step starts over.
struct Retry;

impl<E> From<aws_sdk_kinesis::error::SdkError<E>> for Retry {
    fn from(_: aws_sdk_kinesis::error::SdkError<E>) -> Self {
        Retry
    }
}

fn text<'a>(row: &'a Row, name: &str) -> Option<&'a str> {
    row.get(name)?.as_s().ok().map(String::as_str)
}

fn string(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

#[derive(Clone)]
struct Toy {
    node: Node,
    mutant: Mutant,
    /// Shards whose lease this worker believes to hold.
    mine: Arc<Mutex<BTreeSet<String>>>,
}

/// The root task of a toy worker. Runs for ever.
pub async fn run(node: Node, mutant: Mutant) {
    let toy = Toy { node: node.clone(), mutant, mine: Arc::default() };
    while toy.create_table().await.is_err() {
        node.clock.sleep(Duration::from_secs(1)).await;
    }
    let heart = toy.clone();
    drop(node.tasks.spawn("heartbeat", async move { heart.beat().await }));
    let mut seen: BTreeMap<String, (String, Duration)> = BTreeMap::new();
    loop {
        let _ = toy.round(&mut seen).await;
        node.clock.sleep(node.jitter.spread(Duration::from_millis(700), 0.3)).await;
    }
}

impl Toy {
    async fn create_table(&self) -> Result<(), Retry> {
        let table = self.node.dynamodb.create_table().table_name(TABLE);
        let key = KeySchemaElement::builder().attribute_name("leaseKey").key_type(KeyType::Hash);
        let kind = AttributeDefinition::builder().attribute_name("leaseKey");
        let kind = kind.attribute_type(ScalarAttributeType::S);
        let table = table.key_schema(key.build().map_err(|_| Retry)?);
        let table = table.attribute_definitions(kind.build().map_err(|_| Retry)?);
        match table.billing_mode(BillingMode::PayPerRequest).send().await {
            Ok(_) => Ok(()),
            Err(e) if e.as_service_error().is_some_and(|e| e.is_resource_in_use_exception()) => {
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }

    /// One look at everything: lease what is free, work on what is mine.
    async fn round(&self, seen: &mut BTreeMap<String, (String, Duration)>) -> Result<(), Retry> {
        let mut shards = Vec::new();
        let mut page = self.node.kinesis.list_shards().stream_name(STREAM).send().await?;
        loop {
            shards.extend_from_slice(page.shards());
            let Some(next) = page.next_token() else { break };
            page = self.node.kinesis.list_shards().next_token(next).send().await?;
        }
        let ended = |rows: &BTreeMap<String, Row>, shard: Option<&str>| {
            shard.is_none_or(|s| rows.get(s).is_none_or(|row| text(row, "checkpoint") == Some(END)))
        };
        let rows = self.rows().await?;
        for shard in &shards {
            let id = shard.shard_id();
            let Some(row) = rows.get(id) else {
                self.create_lease(id).await?;
                continue;
            };
            let ready = ended(&rows, shard.parent_shard_id())
                && ended(&rows, shard.adjacent_parent_shard_id());
            if text(row, "checkpoint") == Some(END) || !ready {
                continue;
            }
            if text(row, "leaseOwner") != Some(&self.node.name) {
                self.mine.lock().unwrap().remove(id);
                let counter = row.get("leaseCounter").and_then(|c| c.as_n().ok()).cloned();
                let counter = counter.unwrap_or_default();
                let now = self.node.clock.now();
                let (held, since) = seen.entry(id.to_owned()).or_insert((counter.clone(), now));
                if *held != counter {
                    (*held, *since) = (counter.clone(), now);
                }
                let free = !row.contains_key("leaseOwner");
                if !free && now - *since < FAILOVER {
                    continue;
                }
                self.update(id)
                    .update_expression("SET leaseOwner = :me, leaseCounter = leaseCounter + :one")
                    .condition_expression("leaseCounter = :held")
                    .expression_attribute_values(":held", AttributeValue::N(counter))
                    .expression_attribute_values(":me", string(&self.node.name))
                    .expression_attribute_values(":one", AttributeValue::N("1".into()))
                    .send()
                    .await?;
            }
            self.mine.lock().unwrap().insert(id.to_owned());
            let _ = self.step(id).await;
        }
        Ok(())
    }

    async fn rows(&self) -> Result<BTreeMap<String, Row>, Retry> {
        let scan = self.node.dynamodb.scan().table_name(TABLE).send().await?;
        let rows = scan.items().iter();
        Ok(rows.filter_map(|row| Some((text(row, "leaseKey")?.to_owned(), row.clone()))).collect())
    }

    async fn create_lease(&self, id: &str) -> Result<(), Retry> {
        let put = self.node.dynamodb.put_item().table_name(TABLE).item("leaseKey", string(id));
        let put = put.item("leaseCounter", AttributeValue::N("0".into()));
        let put = put.item("checkpoint", string(START));
        put.condition_expression("attribute_not_exists(leaseKey)").send().await?;
        Ok(())
    }

    fn update(&self, id: &str) -> UpdateItemFluentBuilder {
        self.node.dynamodb.update_item().table_name(TABLE).key("leaseKey", string(id))
    }

    async fn beat(&self) {
        loop {
            self.node.clock.sleep(FAILOVER / 4).await;
            let mine: Vec<String> = self.mine.lock().unwrap().iter().cloned().collect();
            for id in mine {
                let beat = self
                    .update(&id)
                    .update_expression("SET leaseCounter = leaseCounter + :one")
                    .condition_expression("leaseOwner = :me")
                    .expression_attribute_values(":me", string(&self.node.name))
                    .expression_attribute_values(":one", AttributeValue::N("1".into()));
                let _ = beat.send().await;
            }
        }
    }

    /// One batch of one shard, from whatever the row says is next.
    async fn step(&self, id: &str) -> Result<(), Retry> {
        let get = self.node.dynamodb.get_item().table_name(TABLE).key("leaseKey", string(id));
        let row = get.consistent_read(true).send().await?.item.ok_or(Retry)?;
        let from = text(&row, "checkpoint").ok_or(Retry)?.to_owned();
        let pending = text(&row, "pendingCheckpoint").map(str::to_owned);
        let recover = pending.filter(|_| self.mutant != Mutant::IgnorePending);
        let (records, ended) = self.read(id, &from, recover.as_deref()).await?;
        let to = match (&recover, records.last()) {
            (Some(to), _) => to.clone(),
            (None, Some(last)) => last.0.clone(),
            (None, None) if ended => {
                let end = self.update(id).update_expression("SET checkpoint = :end");
                let end = end.condition_expression(
                    "checkpoint = :a AND attribute_not_exists(pendingCheckpoint)",
                );
                let end = end.expression_attribute_values(":a", string(&from));
                end.expression_attribute_values(":end", string(END)).send().await?;
                return Ok(());
            }
            (None, None) => return Ok(()),
        };
        if recover.is_none() {
            let intent = self.update(id).update_expression("SET pendingCheckpoint = :b");
            let intent = intent.expression_attribute_values(":b", string(&to));
            let careful = "checkpoint = :a AND attribute_not_exists(pendingCheckpoint)";
            let intent = match self.mutant {
                Mutant::UnconditionalIntent | Mutant::IgnorePending => intent,
                _ => intent
                    .condition_expression(careful)
                    .expression_attribute_values(":a", string(&from)),
            };
            intent.send().await?;
        }
        let body: String = records.iter().map(|(seq, data)| format!("{seq} {data}\n")).collect();
        let put = self.node.s3.put_object().bucket(BUCKET).key(format!("{id}/{from}-{to}"));
        if let Err(e) = put.if_none_match("*").body(body.into_bytes().into()).send().await {
            let exists = e.raw_response().is_some_and(|r| r.status().as_u16() == 412);
            if !exists && self.mutant != Mutant::PutFailureIsSuccess {
                return Err(Retry);
            }
        }
        let commit = self.update(id);
        let commit = commit.update_expression("SET checkpoint = :b REMOVE pendingCheckpoint");
        let commit = commit.condition_expression("checkpoint = :a AND pendingCheckpoint = :b");
        let commit = commit.expression_attribute_values(":a", string(&from));
        commit.expression_attribute_values(":b", string(&to)).send().await?;
        Ok(())
    }

    /// Records after `from`: all up to `to` if given, else one page or two.
    async fn read(
        &self,
        id: &str,
        from: &str,
        to: Option<&str>,
    ) -> Result<(Vec<(String, String)>, bool), Retry> {
        let get = self.node.kinesis.get_shard_iterator().stream_name(STREAM).shard_id(id);
        let get = match from {
            START => get.shard_iterator_type(ShardIteratorType::TrimHorizon),
            _ => get
                .shard_iterator_type(ShardIteratorType::AfterSequenceNumber)
                .starting_sequence_number(from),
        };
        let mut next = get.send().await?.shard_iterator;
        let mut records: Vec<(String, String)> = Vec::new();
        let mut pages = 0;
        while let Some(iterator) = next {
            let page =
                self.node.kinesis.get_records().shard_iterator(iterator).limit(10).send().await?;
            for record in page.records() {
                let data = String::from_utf8_lossy(record.data().as_ref()).into_owned();
                records.push((record.sequence_number().to_owned(), data));
            }
            pages += 1;
            next = page.next_shard_iterator;
            // All numbers have 56 digits: text order is order.
            if to.is_some_and(|to| records.last().is_some_and(|(seq, _)| seq.as_str() >= to)) {
                records.retain(|(seq, _)| Some(seq.as_str()) <= to);
                return Ok((records, false));
            }
            if to.is_none() && next.is_some() && pages >= 2 {
                return Ok((records, false));
            }
            self.node.clock.sleep(Duration::from_millis(250)).await;
        }
        Ok((records, true))
    }
}
