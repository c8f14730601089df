//! What `catchment doctor` says of a table that is, or was, a KCL application's.

use crate::doctor::{doctor, finding, verdict};

use super::TABLE;
use super::fixtures::{Java, coordinator, kcl2, metrics, now_seconds};

fn told(java: &Java) -> (Option<i32>, serde_json::Value) {
    let set = ["--set", "lease.application=java-application"];
    let (output, report) = doctor(&java.services.environment, &set);
    (output.status.code(), report)
}

#[test]
fn the_doctor_names_peers_of_the_kcl() {
    let java = Java::new(2);
    java.table(TABLE, "leaseKey");
    for (shard, checkpoint) in java.shards.iter().zip(&java.checkpoints) {
        java.put(TABLE, kcl2(shard, checkpoint));
    }
    // A KCL 2.x application may share the table: that is worth knowing, no more.
    let (code, report) = told(&java);
    assert_eq!((code, verdict(&report, "kcl-peers")), (Some(0), "warn"), "{report:#}");
    assert!(finding(&report, "kcl-peers")["found"].as_str().unwrap().contains("java-host:6a1e"));
    // Beside a live one of 3.5 no worker starts.
    java.put(TABLE, metrics("leaseKey", "java-host:6a1f", now_seconds()));
    for row in coordinator("leaseKey", "java-host:6a1f", "1") {
        java.put(TABLE, row);
    }
    let (code, report) = told(&java);
    assert_eq!((code, verdict(&report, "kcl-peers")), (Some(3), "fail"), "{report:#}");
    assert!(finding(&report, "kcl-peers")["found"].as_str().unwrap().contains("the leader"));
    assert_eq!(verdict(&report, "rows"), "ok", "{report:#}");
}

#[test]
fn the_doctor_refuses_a_table_of_another_kind() {
    let java = Java::new(1);
    java.table(TABLE, "id");
    let (code, report) = told(&java);
    assert_eq!((code, verdict(&report, "table")), (Some(3), "fail"), "{report:#}");
    assert!(finding(&report, "table")["found"].as_str().unwrap().contains("HASH id"), "{report:#}");
}
