//! One of each service, the stale reads, and the place where every effect is seen.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::attr::{Row, row_from_json, row_to_json};
use super::dynamodb::{Dynamo, DynamoDb, table_name};
use super::kinesis::{Kinesis, KinesisOptions};
use super::objects::{Objects, SharedObjects};
use super::s3::{S3, S3Wire, bucket_and_key, decode_body, operation as s3_operation};
use super::{Backend, Request, Response, Service, error_code, operation, query};
use crate::effects::{Effect, Event, Fnv, Moment, Observer, Trace, canonical};

/// How the services misbehave on their own, without the network's help.
#[derive(Clone, Debug, Default)]
pub struct WorldOptions {
    pub kinesis: KinesisOptions,
    /// Eventually consistent reads may be this old.
    pub stale_ms: u64,
    /// How many of them are, in a thousand.
    pub stale: u32,
    /// The least size of a part of a multipart upload; 5 MiB in the service.
    pub min_part: Option<usize>,
    /// How many requests to a multipart upload find it aborted, in a thousand.
    pub aborts: u32,
}

/// The services of a run.
pub struct World {
    pub kinesis: Kinesis,
    pub dynamodb: Box<dyn Dynamo>,
    s3: Box<dyn S3Wire>,
    pub objects: SharedObjects,
    pub observer: Box<dyn Observer>,
    trace: Trace,
    options: WorldOptions,
    rng: fastrand::Rng,
    /// For [`WorldOptions::aborts`]: the other draws stay what they were.
    aborts: fastrand::Rng,
    /// The HASH key of each table.
    keys: BTreeMap<String, String>,
    /// The image before the last change of an item, and when it changed.
    earlier: BTreeMap<(String, String), (u64, Option<Row>)>,
}

/// Time as the services see it.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Virtual milliseconds since the start.
    pub at: u64,
    /// The same moment as wall clock, unskewed.
    pub wall_ms: i64,
}

impl World {
    pub fn new(
        seed: u64,
        backend: Backend,
        options: WorldOptions,
        trace: Trace,
        observer: Box<dyn Observer>,
    ) -> Self {
        let mut objects = Objects::default();
        objects.min_part = options.min_part.unwrap_or(objects.min_part);
        let objects: SharedObjects = Arc::new(Mutex::new(objects));
        let (dynamodb, s3): (Box<dyn Dynamo>, Box<dyn S3Wire>) = match backend {
            Backend::Strict => (Box::new(DynamoDb::default()), Box::new(S3(objects.clone()))),
            #[cfg(feature = "local")]
            Backend::Libraries => (
                Box::new(super::libraries::Dynoxide::new()),
                Box::new(super::libraries::S3s::new(objects.clone())),
            ),
        };
        Self {
            kinesis: Kinesis::new(seed ^ 0x004b_494e, options.kinesis.clone()),
            dynamodb,
            s3,
            objects,
            observer,
            trace,
            options,
            rng: fastrand::Rng::with_seed(seed ^ 0x0044_4444),
            aborts: fastrand::Rng::with_seed(seed ^ 0x0041_424f_5254),
            keys: BTreeMap::new(),
            earlier: BTreeMap::new(),
        }
    }

    /// The virtual clock never fails twice: stale reads, aborts and broken
    /// subscriptions end with the other faults.
    pub fn heal(&mut self) {
        (self.options.stale, self.options.aborts) = (0, 0);
        self.kinesis.options.fan_out.heal();
    }

    /// Applies a request and leaves its effect in the trace.
    pub fn apply(
        &mut self,
        now: Now,
        node: &Arc<str>,
        fault: &'static str,
        request: &Request,
    ) -> Response {
        let moment = Moment { at: now.at, node: node.clone() };
        let (response, what) = match Service::of(request) {
            Service::S3 => self.apply_s3(&moment, now, request),
            service => {
                let body = serde_json::from_slice(request.body()).unwrap_or(Value::Null);
                let what = canonical(&body);
                let response = match service {
                    Service::Kinesis => {
                        self.apply_kinesis(&moment, now, &operation(request), &body)
                    }
                    _ => self.apply_dynamodb(&moment, &operation(request), &body),
                };
                (response, what)
            }
        };
        self.trace.record(Effect {
            at: now.at,
            node: node.clone(),
            op: operation(request),
            fault,
            status: response.status().as_u16(),
            error: error_code(&response),
            what,
        });
        response
    }

    fn observe(&mut self, moment: &Moment, event: &Event<'_>) {
        if let Err(broken) = self.observer.observe(moment, event, &self.kinesis) {
            self.trace.violation(format!("at {} ms, {}: {broken}", moment.at, moment.node));
        }
    }

    fn apply_kinesis(
        &mut self,
        moment: &Moment,
        now: Now,
        operation: &str,
        body: &Value,
    ) -> Response {
        let (response, served) = self.kinesis.call(operation, body, now.wall_ms);
        if let Some(served) = served {
            let event = Event::Read {
                stream: &served.stream,
                shard: &served.shard,
                records: &served.records,
                ended: served.ended,
            };
            self.observe(moment, &event);
        }
        response
    }

    fn apply_dynamodb(&mut self, moment: &Moment, operation: &str, body: &Value) -> Response {
        let table = table_name(body).unwrap_or_default().to_owned();
        match operation {
            "PutItem" | "UpdateItem" | "DeleteItem" => {
                let key = self.key(&table, body);
                let before = self.dynamodb.peek(&table, &key);
                let response = self.dynamodb.call(operation, body);
                let after = self.dynamodb.peek(&table, &key);
                if before != after {
                    self.earlier.insert((table.clone(), key.clone()), (moment.at, before.clone()));
                }
                let (before, after) = (before.as_ref(), after.as_ref());
                self.observe(moment, &Event::Row { table: &table, key: &key, before, after });
                response
            }
            "CreateTable" => {
                let schema = body["KeySchema"].as_array().into_iter().flatten();
                for key in schema.filter(|k| k["KeyType"] == "HASH") {
                    let name = key["AttributeName"].as_str().unwrap_or_default();
                    self.keys.insert(table.clone(), name.to_owned());
                }
                self.dynamodb.call(operation, body)
            }
            "GetItem" | "Scan" => {
                let response = self.dynamodb.call(operation, body);
                if body["ConsistentRead"] == true || !response.status().is_success() {
                    return response;
                }
                if self.options.stale == 0 || self.rng.u32(0..1000) >= self.options.stale {
                    return response;
                }
                self.stale(moment.at, &table, operation, body, response)
            }
            _ => self.dynamodb.call(operation, body),
        }
    }

    /// The key of the item a request names.
    fn key(&self, table: &str, body: &Value) -> String {
        let hash = self.keys.get(table).map_or("leaseKey", String::as_str);
        let holder = if body["Key"].is_object() { &body["Key"] } else { &body["Item"] };
        holder[hash]["S"].as_str().unwrap_or_default().to_owned()
    }

    /// An eventually consistent read: recently changed items appear as they were.
    fn stale(
        &self,
        at: u64,
        table: &str,
        operation: &str,
        body: &Value,
        fresh: Response,
    ) -> Response {
        let hash = self.keys.get(table).map_or("leaseKey", String::as_str);
        let recent = |key: &str| {
            let (changed, row) = self.earlier.get(&(table.to_owned(), key.to_owned()))?;
            (at.saturating_sub(*changed) <= self.options.stale_ms).then(|| row.clone())
        };
        let mut answer: Value = serde_json::from_slice(fresh.body()).unwrap_or(Value::Null);
        if operation == "GetItem" {
            match recent(&self.key(table, body)) {
                None => return fresh,
                Some(Some(row)) => answer["Item"] = row_to_json(&row),
                Some(None) => answer = json!({}),
            }
        } else if let Some(items) = answer["Items"].as_array() {
            let shown = items.iter().filter_map(|item| {
                let row = row_from_json(item).ok()?;
                match recent(row.get(hash)?.as_s()?) {
                    None => Some(item.clone()),
                    Some(old) => old.map(|row| row_to_json(&row)),
                }
            });
            let shown: Vec<Value> = shown.collect();
            answer["Count"] = json!(shown.len());
            answer["Items"] = json!(shown);
        }
        self.trace.sometimes("stale read");
        super::json_response(200, &answer)
    }

    /// A lifecycle rule, or somebody who tidies up, ends the upload that the request names.
    fn abort(&mut self, request: &Request) {
        let open = matches!(s3_operation(request), "UploadPart" | "CompleteMultipartUpload");
        if !open || self.options.aborts == 0 || self.aborts.u32(0..1000) >= self.options.aborts {
            return;
        }
        let id = query(request).get("uploadId").cloned().unwrap_or_default();
        if self.objects.lock().unwrap().uploads.remove(&id).is_some() {
            self.trace.sometimes("multipart upload aborted");
        }
    }

    fn apply_s3(&mut self, moment: &Moment, now: Now, request: &Request) -> (Response, String) {
        let (bucket, key) = bucket_and_key(request);
        let existing = self.objects.lock().unwrap().get(&bucket, &key).cloned();
        self.abort(request);
        let response = self.s3.call(request, now.wall_ms);
        let body = decode_body(request).map(|(body, _)| body).unwrap_or_default();
        let condition = request.headers().get("if-none-match").map(|_| " create-only");
        let query = request.uri().query().unwrap_or_default();
        let what = format!(
            "/{bucket}/{key}?{query}{} {}B #{:016x}",
            condition.unwrap_or_default(),
            body.len(),
            Fnv::of(&body)
        );
        let done = response.status().is_success();
        match s3_operation(request) {
            "PutObject" => {
                let existing = existing.as_ref();
                let (bucket, key) = (bucket.as_str(), key.as_str());
                self.observe(
                    moment,
                    &Event::Put { bucket, key, body: &body, existing, stored: done },
                );
            }
            "CompleteMultipartUpload" if done => {
                let now_there = self.objects.lock().unwrap().get(&bucket, &key).cloned();
                let body = now_there.map(|o| o.body).unwrap_or_default();
                let (bucket, key) = (bucket.as_str(), key.as_str());
                let existing = existing.as_ref();
                self.observe(
                    moment,
                    &Event::Put { bucket, key, body: &body, existing, stored: true },
                );
            }
            // It found its key taken, as a single put may; or that of an upload which is gone.
            "CompleteMultipartUpload" | "HeadObject"
                if response.status() == 412 || (done && request.method() == "HEAD") =>
            {
                if let Some(there) = &existing {
                    let (bucket, key, body) = (bucket.as_str(), key.as_str(), &there.body);
                    let existing = existing.as_ref();
                    self.observe(
                        moment,
                        &Event::Put { bucket, key, body, existing, stored: false },
                    );
                }
            }
            "DeleteObject" if done => {
                self.observe(moment, &Event::Delete { bucket: &bucket, key: &key });
            }
            _ => {}
        }
        (response, what)
    }
}
