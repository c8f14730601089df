//! Enhanced fan-out: records are pushed, and shards are polled while nothing pushes.

use super::*;

const FAN_OUT: (&str, &str) = ("stream.reader", "fan-out");

fn count(worker: &Worker, name: &str, result: &str) -> f64 {
    let told = get(&worker.listen, "/metrics").map(|(_, text)| text).unwrap_or_default();
    let label = format!("result=\"{result}\"");
    let line = told.lines().find(|l| l.starts_with(name) && l.contains(&label));
    line.and_then(|l| l.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
}

fn pushed(worker: &Worker) -> f64 {
    count(worker, "catchment_fan_out_events_total", "records")
}

fn polled(worker: &Worker) -> f64 {
    count(worker, "catchment_get_records_total", "records")
}

fn subscriptions(worker: &Worker, result: &str) -> f64 {
    count(worker, "catchment_subscriptions_total", result)
}

#[test]
fn records_are_pushed_to_a_consumer_that_is_registered() {
    let mut scene = Scene::new(2);
    let worker = scene.worker(&[FAN_OUT]);
    eventually("both shards are subscribed to", || {
        (subscriptions(&worker, "opened") >= 2.0).then_some(())
    });
    scene.send(40);
    eventually("records are pushed", || (lines(scene.data()).len() == 40).then_some(()));
    assert!(pushed(&worker) > 0.0);
    assert!(polled(&worker) == 0.0, "nothing was polled");
    assert_eq!(worker.metric("catchment_slow_path_replies_total"), Some(0.0));
    assert_eq!(scene.proxy.calls("Kinesis.RegisterStreamConsumer"), 1);
    scene.settle(worker);
    // The next one finds the consumer.
    let worker = scene.worker(&[FAN_OUT]);
    scene.send(10);
    scene.settle(worker);
    assert_eq!(scene.proxy.calls("Kinesis.RegisterStreamConsumer"), 1);
}

#[test]
fn auto_polls_without_a_consumer_and_subscribes_with_one() {
    let mut scene = Scene::new(1);
    scene.send(10);
    let worker = scene.worker(&[("stream.reader", "auto")]);
    eventually("they are polled", || (polled(&worker) > 0.0).then_some(()));
    scene.settle(worker);
    assert_eq!(scene.proxy.calls("Kinesis.SubscribeToShard"), 0);
    let kinesis = &scene.clients.kinesis;
    let stream = kinesis.describe_stream_summary().stream_name("local").send();
    let stream = scene.runtime.block_on(stream).unwrap().stream_description_summary.unwrap();
    let register = kinesis.register_stream_consumer().consumer_name("tap");
    scene.runtime.block_on(register.stream_arn(stream.stream_arn).send()).unwrap();
    let worker = scene.worker(&[("stream.reader", "auto"), ("stream.consumer", "tap")]);
    scene.send(10);
    eventually("they are pushed", || (pushed(&worker) > 0.0).then_some(()));
    scene.settle(worker);
}

#[test]
fn shards_are_polled_while_subscribing_is_refused() {
    let mut scene = Scene::new(2);
    let refuse = Fault::Refuse(400, "ResourceInUseException");
    let occupied = scene.proxy.add(Rule::new("Kinesis.SubscribeToShard", refuse));
    let worker = scene.worker(&[FAN_OUT]);
    scene.send(30);
    eventually("they are delivered", || (lines(scene.data()).len() == 30).then_some(()));
    assert!(occupied.hits() >= 2 && subscriptions(&worker, "occupied") >= 2.0);
    assert!(polled(&worker) > 0.0 && pushed(&worker) == 0.0);
    scene.proxy.heal();
    eventually("the shards are subscribed to at last", || {
        (subscriptions(&worker, "opened") >= 2.0).then_some(())
    });
    scene.send(10);
    scene.settle(worker);
}

#[test]
fn broken_subscriptions_lose_and_repeat_nothing() {
    let mut scene = Scene::new(2);
    scene.proxy.add(Rule::new("Kinesis.SubscribeToShard", Fault::Cut(2)).every(2));
    let worker = scene.worker(&[FAN_OUT, ("delivery.batch_records", "3")]);
    scene.send(30);
    eventually("a subscription broke", || {
        (subscriptions(&worker, "unavailable") > 0.0).then_some(())
    });
    eventually("another did not", || (subscriptions(&worker, "opened") > 0.0).then_some(()));
    scene.send(30);
    scene.settle(worker);
}

#[test]
fn the_budget_holds_what_is_pushed_or_it_is_polled() {
    let mut scene = Scene::new(2);
    scene.send(40);
    // Batches stay open until memory calls for them.
    let settings = [FAN_OUT, ("memory.budget", "32MB"), ("delivery.batch_age", "10m")];
    let worker = scene.worker(&settings);
    let file = scene.data().join("noise");
    let (_, count) = noise(&file, 60 << 20, 400_000);
    sent(&scene, &file);
    eventually("everything is read", || {
        let read = worker.metric("catchment_bytes_read_total")?;
        (read >= (count * 400_000) as f64).then_some(())
    });
    assert!(subscriptions(&worker, "memory") > 0.0, "{}", worker.text());
    let mut worker = worker;
    worker.stop();
}

#[test]
fn a_consumer_that_is_not_there_is_named() {
    let scene = Scene::new(1);
    let arn = "arn:aws:kinesis:us-east-1:000000000000:stream/local/consumer/none:1";
    let mut arguments = arguments("local", "archive");
    for set in [format!("stream.consumer={arn}"), "stream.reader=fan-out".into()] {
        arguments.extend(["--set".into(), set]);
    }
    arguments.extend(["--set".into(), "telemetry.listen=off".into()]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = catchment(&arguments, &scene.environment());
    let text = crate::support::stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(
        text.contains("consumer/none:1") && text.contains("stream.reader = \"auto\""),
        "{text}"
    );
}
