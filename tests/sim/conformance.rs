//! One conversation with Kinesis, the same everywhere: here with the simulated service, whose answers
//! are the rule below, and with independent emulators when `CONFORMANCE` names them (see
//! `.ci/kinesis_independent.py`). What an emulator answers otherwise must stand in
//! `conformance_known.txt`, so that a new difference is noticed, on whichever side it arises.

mod talk;

use std::collections::BTreeMap;

use aws_sdk_kinesis::Client;
use catchment::clock::Clock;

use self::talk::talk;
use crate::node::NodeOptions;
use crate::sim::Setup;
use crate::wire_test::on_a_node;

/// What each question must be answered. Documented by the API reference of Kinesis unless said.
const RULE: &[(&str, &str)] = &[
    ("describe", "ACTIVE, 2 open shards, 24 h"),
    ("shards", "0 open, 1 open"),
    ("hash ranges", "0: 0-…727, 1: …728-…455"),
    ("put by hash key 0 and by the last", "0, 1"),
    ("put by partition key", "a 0, b 1, e 1, user 1"),
    ("put records", "0 failed: 0, 1"),
    ("put to a stream that is not there", "ResourceNotFoundException"),
    ("sequence numbers rise in a shard", "true"),
    ("TRIM_HORIZON", "r0 r1 r2 r3"),
    ("AT_SEQUENCE_NUMBER of r1", "r1 r2 r3"),
    ("AFTER_SEQUENCE_NUMBER of r1", "r2 r3"),
    ("AFTER_SEQUENCE_NUMBER of the last", ""),
    ("LATEST", ""),
    ("AT_TIMESTAMP of r2", "r2 r3"),
    ("AT_TIMESTAMP before the stream", "r0 r1 r2 r3"),
    ("AT_TIMESTAMP after the last record", ""),
    ("AT_TIMESTAMP in the future", "InvalidArgumentException"),
    ("a number of another shard", "InvalidArgumentException"),
    ("iterator of a shard that is not there", "ResourceNotFoundException"),
    ("iterator of a stream that is not there", "ResourceNotFoundException"),
    ("an iterator that is none", "InvalidArgumentException"),
    ("limit 0", "ValidationException"),
    ("limit 10001", "ValidationException"),
    ("pages of 3", "r0 r1 r2 | r3"),
    ("an iterator used twice", "the same records"),
    ("arrival times, keys", "all there"),
    ("behind the tip with records left", "more than 0"),
    ("behind the tip at the tip", "0"),
    ("an iterator at the tip sees what comes", "r4"),
    ("split", "0 closed, 1 open, 2 of 0 open, 3 of 0 open"),
    ("hash ranges of the children", "2: 0-…863, 3: …864-…727"),
    ("a closed shard's end lies at or after its last record", "true"),
    ("put into the halves", "2, 3"),
    ("unread records of the parent", "r0 r1 r2 r3 r4, ended"),
    ("children named at the end", "2 of 0, 3 of 0"),
    ("an iterator from before the split", "ended"),
    ("LATEST of a closed shard", "ended"),
    ("AFTER_SEQUENCE_NUMBER of the last, closed", "ended"),
    ("TRIM_HORIZON of a child", "r5"),
    ("split a closed shard", "ResourceInUseException"),
    ("merge", "0 closed, 1 open, 2 of 0 closed, 3 of 0 closed, 4 of 2 and 3 open"),
    ("children named at the end of a merged shard", "4 of 2 and 3"),
    ("open after reshards", "2"),
    ("shards AT_LATEST", "1, 4"),
    ("shards AFTER_SHARD_ID 2", "3, 4"),
    ("shards in pages of 2", "0, 1 | 2, 3 | 4"),
    ("NextToken with a stream name", "InvalidArgumentException"),
    ("split at a border", "InvalidArgumentException"),
    ("merge shards that do not touch", "InvalidArgumentException"),
    ("a deleted stream", "ResourceNotFoundException"),
];

#[test]
fn the_simulated_kinesis_answers_by_the_rule() {
    let (answers, _) = on_a_node(
        Setup::calm(1),
        NodeOptions::default(),
        |_| {},
        |node, _| async move { talk(node.kinesis.clone(), node.clock.clone(), "conformance").await },
    );
    let rule: Vec<(&str, String)> = RULE.iter().map(|(q, a)| (*q, (*a).to_owned())).collect();
    let wrong: Vec<_> = answers.iter().zip(&rule).filter(|(a, r)| a != r).collect();
    assert!(wrong.is_empty(), "(answer, rule): {wrong:#?}");
    assert_eq!(answers.len(), rule.len());
}

/// `name|question|answer` of every emulator, by name and question.
fn known() -> BTreeMap<(String, String), String> {
    let lines = include_str!("conformance_known.txt").lines();
    let fields = lines.filter(|l| !l.starts_with('#')).map(|l| l.splitn(3, '|').map(str::trim));
    fields
        .filter_map(|mut f| Some(((f.next()?.into(), f.next()?.into()), f.next()?.to_owned())))
        .collect()
}

#[test]
fn emulators_differ_only_as_known() {
    let Ok(named) = std::env::var("CONFORMANCE") else {
        println!("SKIPPED: CONFORMANCE names no emulator (.ci/kinesis_independent.py does)");
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let known = known();
    let mut wrong = Vec::new();
    for entry in named.split_whitespace() {
        let (name, url) = entry.split_once('=').expect("CONFORMANCE is `name=url name=url`");
        let answers = runtime.block_on(async {
            let keys =
                aws_sdk_kinesis::config::Credentials::new("test", "test", None, None, "test");
            let config = aws_sdk_kinesis::Config::builder()
                .behavior_version_latest()
                .region(aws_sdk_kinesis::config::Region::new("us-east-1"))
                .credentials_provider(keys)
                .endpoint_url(url)
                .retry_config(aws_sdk_kinesis::config::retry::RetryConfig::disabled())
                .build();
            let clock = Clock::system();
            // A fresh name: emulators keep what an earlier run left.
            let stream = format!("conformance-{}", clock.wall());
            talk(Client::from_conf(config), clock, &stream).await
        });
        let mut alike = 0;
        for ((question, answer), (_, rule)) in answers.iter().zip(RULE) {
            let listed = known.get(&(name.to_owned(), (*question).to_owned()));
            let verdict = match listed {
                None if answer == rule => {
                    alike += 1;
                    continue;
                }
                Some(listed) if listed == answer => "known",
                Some(_) if answer == rule => "LISTED, BUT ALIKE NOW",
                _ => "NEW",
            };
            println!("{name}|{question}|{answer}    ({verdict}; the rule: {rule})");
            if verdict != "known" {
                wrong.push(format!("{name}: {question}: {answer}"));
            }
        }
        println!("{name}: {alike} of {} answers alike", RULE.len());
    }
    assert!(wrong.is_empty(), "not as conformance_known.txt says: {wrong:#?}");
}
