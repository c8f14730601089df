//! The status page and the events that feed it. How it looks is for `.ci/status_page_check.py`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use crate::lifecycle::{free_port, get};
use crate::proxy::{Fault, Proxy, Rule};
use crate::support::{Running, eventually, send, services, worker};

fn with_page(services: &Running, address: &str) -> Running {
    let running =
        worker(services, &[("telemetry.listen", address), ("delivery.batch_age", "200ms")]);
    eventually("ready", || (get(address, "/readyz")?.0 == 200).then_some(()));
    running
}

/// A browser's end of `/events`.
struct Events(BufReader<TcpStream>);

impl Events {
    /// Asks; returns the status and, if it is 200, the stream.
    fn open(address: &str) -> (u16, Option<Self>) {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET /events HTTP/1.0\r\nHost: x\r\n\r\n").unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        if status == 200 {
            assert!(head.to_lowercase().contains("content-type: text/event-stream"), "{head}");
            assert!(head.to_lowercase().contains("cache-control: no-store"), "{head}");
        }
        (status, (status == 200).then_some(Self(reader)))
    }

    /// The next view; `None` at the end of the stream.
    fn next(&mut self) -> Option<Value> {
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return Some(serde_json::from_str(data).unwrap());
            }
        }
    }
}

fn head(address: &str, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: x\r\nContent-Length: 0\r\n\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply.split("\r\n\r\n").next().unwrap().to_lowercase()
}

#[test]
fn the_page_is_guarded_needs_no_other_host_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 1);
    let address = free_port();
    let _running = with_page(&services, &address);
    let told = head(&address, "GET", "/");
    for part in [
        "content-type: text/html; charset=utf-8",
        "content-security-policy: default-src 'none'; script-src 'sha256-",
        "frame-ancestors 'none'",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "cache-control: no-store",
    ] {
        assert!(told.contains(part), "{part} is missing in {told}");
    }
    assert!(!told.contains("unsafe-inline"));
    let (_, page) = get(&address, "/").unwrap();
    for outside in ["://", "src=", "@import", "url(", "integrity"] {
        assert!(!page.contains(outside), "{outside} in the page");
    }
    for path in ["/", "/events", "/status"] {
        assert!(head(&address, "POST", path).starts_with("http/1.0 405"), "{path}");
    }
}

#[test]
fn events_tell_of_a_record_and_end_with_the_worker() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 2);
    let address = free_port();
    let mut running = with_page(&services, &address);
    let mut events = Events::open(&address).1.unwrap();
    let first = events.next().unwrap();
    assert_eq!((&first["stream"], &first["records"]), (&"local".into(), &0.into()), "{first}");
    send(&services, dir.path(), "input", &[b"one".to_vec(), b"two".to_vec()]);
    let view = loop {
        let view = events.next().expect("the stream ended early");
        if view["records"] == 2 {
            break view;
        }
    };
    let object = view["recent_objects"].as_array().unwrap().last().unwrap();
    assert!(object["key"].as_str().unwrap().starts_with("local/dt="), "{object}");
    assert!(object["at_ms"].as_i64().unwrap() > 1_700_000_000_000, "{object}");
    assert_eq!((&view["records_read"], &view["shards_owned"]), (&2.into(), &2.into()), "{view}");
    assert!(view["history"]["lag_ms"].as_array().is_some_and(|h| !h.is_empty()), "{view}");
    // Whoever scans next sees who owns what.
    let view = loop {
        let view = events.next().expect("the stream ended early");
        if view["fleet"]["owners"][0]["leases"] == 2 {
            break view;
        }
    };
    assert_eq!(view["fleet"]["owners"][0]["worker"], view["worker"], "{view}");
    let spans = view["fleet"]["spans"].as_array().unwrap();
    assert_eq!((spans.len(), &spans[0]["from"]), (2, &0.0.into()), "{view}");
    assert!(spans[1]["to"].as_f64().unwrap() > 0.999, "{view}");
    assert_eq!(view["health"]["state"], "ok", "{view}");

    running.signal("TERM");
    let mut last = view;
    while let Some(next) = events.next() {
        last = next;
    }
    assert_eq!((&last["draining"], &last["health"]["state"]), (&true.into(), &"warn".into()));
    assert!(running.wait(Duration::from_secs(20)).success());
}

#[test]
fn so_many_browsers_are_told_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 1);
    let address = free_port();
    let _running = with_page(&services, &address);
    let mut open: Vec<Events> = (0..16).map(|_| Events::open(&address).1.unwrap()).collect();
    assert_eq!(Events::open(&address).0, 503);
    assert_eq!(get(&address, "/status").unwrap().0, 200);
    open.pop();
    eventually("a place is free again", || (Events::open(&address).0 == 200).then_some(()));
}

#[test]
fn what_failed_is_told_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 1);
    let proxy = Proxy::start(&services);
    let mut environment = services.environment.clone();
    for (name, value) in &mut environment {
        if name == "AWS_ENDPOINT_URL" {
            *value = proxy.endpoint();
        }
    }
    let address = free_port();
    // Stands for the services, as seen through the proxy.
    let child = std::process::Command::new("true").spawn().unwrap();
    let _running = with_page(&Running { child, environment }, &address);
    proxy.add(Rule::new("S3.PutObject", Fault::Refuse(403, "AccessDenied")));
    send(&services, dir.path(), "input", &[b"one".to_vec()]);
    let error = eventually("the error is shown", || {
        let (_, status) = get(&address, "/status")?;
        let status: Value = serde_json::from_str(&status).unwrap();
        let error = status["recent_errors"].as_array()?.last()?.clone();
        assert_eq!(status["health"]["state"], "warn", "{status}");
        (error["times"].as_u64()? >= 2).then_some(error)
    });
    let text = error["text"].as_str().unwrap();
    assert!(
        text.contains("PutObject failed: AccessDenied") && text.contains("local/dt="),
        "{text}"
    );
}
