//! Signals, hand-over between workers, and the HTTP endpoint.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::support::{Running, eventually, lines, services, worker};

/// An address to listen at, given out once, below the ports a system gives to whoever does not care:
/// nobody takes it before it is used.
pub(crate) fn free_port() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let n = std::process::id().wrapping_mul(97) + NEXT.fetch_add(1, Ordering::Relaxed);
        let address = format!("127.0.0.1:{}", 10_000 + n % 20_000);
        if TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
}

pub(crate) fn get(address: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).ok()?;
    let (head, body) = reply.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// Records that reached the batches of a worker. The counter `catchment_records_read_total` is ahead
/// of it by the pages that wait for a batch, and those are left to the next owner by a drain.
pub(crate) fn taken(address: &str) -> Option<u64> {
    let (_, status) = get(address, "/status")?;
    serde_json::from_str::<serde_json::Value>(&status).ok()?["records_read"].as_u64()
}

fn owned(address: &str) -> Option<usize> {
    let (_, metrics) = get(address, "/metrics")?;
    let line = metrics.lines().find(|l| l.starts_with("catchment_leases_owned{"))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn with_endpoint(services: &Running, address: &str) -> Running {
    worker(services, &[("telemetry.listen", address), ("delivery.batch_age", "300ms")])
}

#[test]
fn a_worker_told_to_stop_hands_its_leases_to_a_waiting_peer() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 4);
    let (first_at, second_at) = (free_port(), free_port());
    let mut first = with_endpoint(&services, &first_at);
    eventually("the first worker owns every shard", || (owned(&first_at)? == 4).then_some(()));
    let _second = with_endpoint(&services, &second_at);
    eventually("the second worker is ready", || {
        (get(&second_at, "/readyz")?.0 == 200).then_some(())
    });
    let begun = std::time::Instant::now();
    first.signal("TERM");
    assert!(first.wait(Duration::from_secs(20)).success());
    let drained = begun.elapsed();
    eventually("the second worker owns every shard", || (owned(&second_at)? == 4).then_some(()));
    // Printed, not asserted: time is the machine's.
    println!("drained in {drained:?}, taken over after {:?}", begun.elapsed());
    let output = crate::support::catchment(
        &["send", "--stream", "local", "--input", "/proc/self/status"],
        &services.environment,
    );
    assert!(output.status.success(), "{}", crate::support::stderr(&output));
    eventually("the peer delivers", || (!lines(dir.path()).is_empty()).then_some(()));
}

#[test]
fn a_newcomer_is_given_its_share_and_nothing_is_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 6);
    let (first_at, second_at) = (free_port(), free_port());
    let mut first = with_endpoint(&services, &first_at);
    eventually("the first worker owns every shard", || (owned(&first_at)? == 6).then_some(()));
    let file = dir.path().join("input");
    let expected: Vec<Vec<u8>> = (0..20_000).map(|n| format!("{n:06}").into_bytes()).collect();
    std::fs::write(&file, expected.join(&b'\n')).unwrap();
    let mut second = with_endpoint(&services, &second_at);
    let sent = crate::support::catchment(
        &["send", "--stream", "local", "--input", file.to_str().unwrap()],
        &services.environment,
    );
    assert!(sent.status.success());
    eventually("both own three", || {
        (owned(&first_at)? == 3 && owned(&second_at)? == 3).then_some(())
    });
    let (_, metrics) = get(&second_at, "/metrics").unwrap();
    let received = "catchment_lease_handoffs_total{step=\"received\",stream=\"local\"} 3";
    assert!(metrics.contains(received), "{metrics}");
    assert!(metrics.contains("catchment_leases_lost_total{stream=\"local\"} 0"));
    eventually("every record is delivered", || {
        (lines(dir.path()).len() >= expected.len()).then_some(())
    });
    for running in [&mut first, &mut second] {
        running.signal("TERM");
        assert!(running.wait(Duration::from_secs(40)).success());
    }
    assert!(lines(dir.path()) == expected);
}

/// A worker stops with leases on their way to it: asked for and not handed over, or handed over and
/// not started. Neither has to expire.
#[test]
fn leases_on_their_way_to_a_worker_that_stops_are_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 4);
    let leases = || -> Vec<serde_json::Value> {
        let output =
            crate::support::catchment(&["leases", "list", "--json"], &services.environment);
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let count = |field: &str, value: &str| leases().iter().filter(|l| l[field] == value).count();
    let failover = ("lease.failover", "5m");
    let start = |name: &str, scan: &str| {
        worker(&services, &[("lease.worker", name), ("lease.scan", scan), failover])
    };
    let first = start("first", "200ms");
    eventually("the first owns everything", || (count("owner", "first") == 4).then_some(()));
    // The first does not hear.
    first.signal("STOP");
    let mut second = start("second", "200ms");
    eventually("leases are asked for", || (count("handing_over", "first") == 2).then_some(()));
    second.signal("TERM");
    assert!(second.wait(Duration::from_secs(20)).success());
    assert_eq!((count("owner", "first"), count("handing_over", "first")), (4, 0));
    first.signal("CONT");
    // The third looks once, and is told to stop before it looks again.
    let mut third = start("third", "60s");
    let arrived = || {
        let mine = leases().into_iter().filter(|l| l["owner"] == "third");
        mine.filter(|l| l["handing_over"].is_null()).count()
    };
    eventually("leases are handed over", || (arrived() == 2).then_some(()));
    third.signal("TERM");
    assert!(third.wait(Duration::from_secs(20)).success());
    assert_eq!(count("owner", "third"), 0);
    eventually("the first owns everything again", || (count("owner", "first") == 4).then_some(()));
}

#[test]
fn what_was_read_is_delivered_before_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 2);
    let address = free_port();
    let settings = [("telemetry.listen", address.as_str()), ("delivery.batch_age", "10m")];
    let mut running = worker(&services, &settings);
    let file = dir.path().join("input");
    std::fs::write(&file, "a\nb\nc\n").unwrap();
    let sent = crate::support::catchment(
        &["send", "--stream", "local", "--input", file.to_str().unwrap()],
        &services.environment,
    );
    assert!(sent.status.success());
    eventually("the records are read", || (taken(&address)? >= 3).then_some(()));
    assert!(lines(dir.path()).is_empty(), "the batch is still open");
    running.signal("TERM");
    assert!(running.wait(Duration::from_secs(20)).success());
    assert_eq!(lines(dir.path()), [b"a", b"b", b"c"]);
}

#[test]
fn the_endpoint_answers_for_people_and_machines() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 1);
    let address = free_port();
    let mut running = with_endpoint(&services, &address);
    eventually("ready", || (get(&address, "/readyz")?.0 == 200).then_some(()));
    eventually("a lease is owned", || (owned(&address)? == 1).then_some(()));
    assert_eq!(get(&address, "/livez").unwrap().0, 200);
    let (_, status) = get(&address, "/status").unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["stream"], "local");
    assert_eq!(status["shards"]["shardId-000000000000"]["state"], "reading");
    let health = crate::support::catchment(&["healthcheck", "--address", &address], &[]);
    assert!(health.status.success());
    running.signal("INT");
    assert!(running.wait(Duration::from_secs(20)).success());
}

#[test]
fn a_second_signal_leaves_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut services = services(dir.path(), 1);
    let address = free_port();
    let mut running = with_endpoint(&services, &address);
    eventually("a lease is owned", || (owned(&address)? == 1).then_some(()));
    // Nothing answers any more, so draining would wait for its deadline.
    services.signal("STOP");
    running.signal("TERM");
    eventually("draining", || (get(&address, "/readyz")?.0 == 503).then_some(()));
    running.signal("TERM");
    assert_eq!(running.wait(Duration::from_secs(5)).code(), Some(1));
    services.signal("CONT");
    services.child.kill().unwrap();
}
