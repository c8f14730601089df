//! Somebody who looks after the fleet: accepts the gaps that shards are parked at, a while after they
//! are, by the write that `catchment leases resume` makes.

use std::collections::BTreeMap;

use catchment::lease::parked::Parked;
use catchment::lease::parking;
use catchment::lease::row;
use catchment::stream::position::Checkpoint;
use serde_json::{Value, json};

use crate::fleet::{Fleet, TABLE};
use crate::services::attr::{Attr, Row};
use crate::sim::Sim;

/// How often the table is looked at, ms.
const EVERY: u64 = 1_000;

pub struct Resumer {
    rng: fastrand::Rng,
    /// Some incarnation may stop at a gap.
    needed: bool,
    next: u64,
    /// When each parked lease will be resumed.
    due: BTreeMap<String, u64>,
}

impl Resumer {
    pub fn new(fleet: &Fleet) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(fleet.seed ^ 0x4f50_4552),
            needed: fleet.stops || fleet.parks,
            next: 0,
            due: BTreeMap::new(),
        }
    }

    pub fn look(&mut self, sim: &Sim) {
        let now = sim.net.now().at;
        if !self.needed || now < self.next {
            return;
        }
        self.next = now + EVERY;
        let mut world = sim.net.world();
        let rows = world.dynamodb.rows(TABLE);
        let parked: BTreeMap<String, Parked> =
            rows.into_iter().filter_map(|(shard, row)| Some((shard, waits(&row)?))).collect();
        self.due.retain(|shard, _| parked.contains_key(shard));
        for (shard, parked) in parked {
            let rng = &mut self.rng;
            let due = *self.due.entry(shard.clone()).or_insert_with(|| now + rng.u64(0..40_000));
            if due > now {
                continue;
            }
            let update = parking::accept(&parked);
            let value = |value: &row::Attr| match value {
                row::Attr::S(text) => json!({ "S": text }),
                row::Attr::N(digits) => json!({ "N": digits }),
                other => panic!("no value of the operator's is {other:?}"),
            };
            let values: serde_json::Map<String, Value> =
                update.values.iter().map(|(name, v)| ((*name).to_owned(), value(v))).collect();
            let body = json!({
                "TableName": TABLE,
                "Key": { "leaseKey": { "S": shard } },
                "UpdateExpression": update.update,
                "ConditionExpression": update.condition,
                "ExpressionAttributeValues": values,
            });
            let answer = world.dynamodb.call("UpdateItem", &body);
            sim.trace.note(now, &"operator".into(), &format!("resumes {shard}"));
            sim.trace.sometimes("gap accepted");
            assert!(answer.status().is_success(), "{answer:?}");
        }
    }
}

fn waits(row: &Row) -> Option<Parked> {
    let text = |name: &str| row.get(name).and_then(Attr::as_s);
    let raw = text(row::attr::PARKED)?;
    let sub = row.get(row::attr::CHECKPOINT_SUB).and_then(Attr::as_n);
    let sub = sub.and_then(|digits| digits.parse().ok()).unwrap_or(0);
    let checkpoint = Checkpoint::parse(text(row::attr::CHECKPOINT)?, sub).ok()?;
    Parked::parse(raw.to_owned(), &checkpoint)
}
