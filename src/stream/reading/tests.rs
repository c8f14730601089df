use super::*;
use crate::ids::ShardId;

const HOUR: i64 = 3_600_000;
const RETENTION: i64 = 24 * HOUR;
/// Wall clock of the tests.
const NOW: i64 = 1_000 * HOUR;

fn number(n: u64) -> SequenceNumber {
    SequenceNumber::parse(&n.to_string()).unwrap()
}

fn position(n: u64) -> Position {
    Position::plain(number(n))
}

fn range(start: StartAt) -> Range {
    Range { start, after: None, until: None, bound: None, deaggregate: true, hash_range: None }
}

fn reading(range: Range) -> Reading {
    Reading::new(range, RETENTION, 10_000)
}

/// A page of these records, each of `size` bytes and arrived at its number, from the tip of a shard
/// that has more to come.
fn page_of(numbers: &[u64], size: usize) -> Page {
    let digits: Vec<_> = numbers.iter().map(u64::to_string).collect();
    let data = vec![b'x'; size];
    let mut records = Vec::new();
    for (digits, at) in digits.iter().zip(numbers) {
        let at = i64::try_from(*at).unwrap();
        records.push(Record::new(digits, Some(at), Some("key"), &data).unwrap());
    }
    Page {
        records: Records::copy(&records).unwrap(),
        next: Some("next".into()),
        behind_ms: Some(0),
        ..Page::default()
    }
}

fn page(numbers: &[u64]) -> Page {
    page_of(numbers, 10)
}

fn polled(now_ms: i64) -> Arrival {
    Arrival { asked_ms: now_ms, now_ms, pushed: false }
}

fn take(reading: &mut Reading, page: Page) -> News {
    reading.take(page, polled(NOW)).unwrap()
}

/// What was handed over; panics where it is something else.
fn records(news: &News) -> Vec<u64> {
    match &news.next {
        Next::Records(records) => records.iter().map(|r| r.sequence().parse().unwrap()).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn calls_ask_for_what_fits_two_mebibytes() {
    let mut reading = reading(range(StartAt::TrimHorizon));
    assert_eq!(reading.ask(NOW).unwrap(), 2);
    // Small records: eight times as many from call to call, until the limit of a call.
    for expected in [16, 128, 1024, 8192, 10_000] {
        take(&mut reading, page_of(&[1, 2], 10));
        assert_eq!(reading.ask(NOW).unwrap(), expected);
    }
    take(&mut reading, page(&[]));
    assert_eq!(reading.ask(NOW).unwrap(), 10_000, "an empty page says nothing of sizes");
    take(&mut reading, page_of(&[1, 2], 1 << 19));
    assert_eq!(reading.ask(NOW).unwrap(), 4);
    take(&mut reading, page_of(&[1], 10 << 20));
    assert_eq!(reading.ask(NOW).unwrap(), 1);
}

#[test]
fn the_tip_is_told_by_what_is_there() {
    let with = |page: Page, pushed| {
        let mut reading = reading(range(StartAt::TrimHorizon));
        let news = reading.take(page, Arrival { pushed, ..polled(NOW) }).unwrap();
        assert_eq!(reading.expected(), if news.caught_up { TIP_REPLY } else { LARGEST_REPLY });
        news.caught_up
    };
    let behind = |behind_ms, page| Page { behind_ms, ..page };
    assert!(with(page(&[1]), false));
    // As many as were asked for: there may be more.
    assert!(!with(page(&[1, 2]), false));
    assert!(with(page(&[1, 2]), true));
    assert!(!with(behind(Some(1), page(&[])), false));
    // Without MillisBehindLatest the size of the page has to do.
    assert!(with(behind(None, page(&[1])), false));
    assert!(!with(behind(None, page_of(&[1], TIP_BYTES)), false));
}

#[test]
fn an_empty_page_is_news_at_the_tip_only() {
    let mut reading = reading(range(StartAt::TrimHorizon));
    let on_the_way = Page { behind_ms: Some(5), ..page(&[]) };
    assert!(matches!(take(&mut reading, on_the_way).next, Next::More));
    assert!(records(&take(&mut reading, page(&[]))).is_empty());
}

#[test]
fn a_shard_ends_with_an_empty_page() {
    let child = ShardInfo {
        id: ShardId::new("shardId-000000000001"),
        parents: Vec::new(),
        hash_range: None,
        closed: false,
    };
    let last =
        |numbers: &[u64]| Page { next: None, children: vec![child.clone()], ..page(numbers) };
    let mut reading = reading(range(StartAt::TrimHorizon));
    // Its last records first; the end is asked for behind them.
    assert_eq!(records(&take(&mut reading, last(&[1]))), [1]);
    assert_eq!((reading.iterator(), reading.start()), (None, StartAt::After(number(1))));
    // What is pushed does not say that a shard has ended.
    let pushed = Arrival { pushed: true, ..polled(NOW) };
    let news = reading.take(last(&[]), pushed).unwrap();
    assert!(records(&news).is_empty());
    let ended = take(&mut reading, last(&[])).next;
    assert!(matches!(ended, Next::End(children) if children == [child]));
}

#[test]
fn an_iterator_is_kept_until_a_page_brings_another() {
    let mut reading = reading(range(StartAt::Latest));
    assert_eq!((reading.iterator(), reading.start()), (None, StartAt::Latest));
    assert_eq!(reading.begins("first".into()), "first");
    reading.ask(NOW).unwrap();
    assert_eq!(reading.iterator(), Some("first"));
    take(&mut reading, page(&[]));
    assert_eq!(reading.iterator(), Some("next"));
    // A subscription leaves none.
    reading.take(page(&[4]), Arrival { pushed: true, ..polled(NOW) }).unwrap();
    assert_eq!((reading.iterator(), reading.start()), (None, StartAt::After(number(4))));
    assert!(!reading.forget_iterator());
}

#[test]
fn a_beginning_that_is_gone_is_told_once_a_record_shows_it() {
    let gone = |seen, gone| Beginning { seen, gone };
    for (first, expected) in [(7, gone(true, false)), (8, gone(true, true))] {
        let mut reading = reading(range(StartAt::At(number(7))));
        take(&mut reading, page(&[]));
        assert_eq!(reading.beginning(), gone(false, false));
        take(&mut reading, page(&[first]));
        take(&mut reading, page(&[9]));
        assert_eq!(reading.beginning(), expected);
    }
    let mut reading = reading(range(StartAt::After(number(7))));
    take(&mut reading, page(&[9]));
    assert_eq!(reading.beginning(), gone(true, false));
}

#[test]
fn records_outside_of_the_range_are_left_out() {
    let (after, until) = (Some(position(3)), Some(position(5)));
    let mut reading = reading(Range { after, until, ..range(StartAt::At(number(3))) });
    assert!(reading.is_bounded());
    assert_eq!(records(&take(&mut reading, page(&[3, 4]))), [4]);
    assert!(!reading.is_done());
    assert_eq!(records(&take(&mut reading, page(&[5, 6]))), [5]);
    assert!(reading.is_done());
    // Nothing in range, and everything of it read: said so, whatever else the shard has.
    let behind = Page { behind_ms: Some(9), ..page(&[7]) };
    assert!(records(&take(&mut reading, behind)).is_empty());
}

#[test]
fn a_bound_ends_the_range_where_it_is_seen_or_where_it_must_have_been() {
    let bound = Some(Bound::Before(50));
    let bounded = || reading(Range { bound: bound.clone(), ..range(StartAt::TrimHorizon) });
    let mut seen = bounded();
    assert_eq!(records(&take(&mut seen, page(&[48, 50, 49]))), [48]);
    assert!(seen.is_over());
    let mut at_once = bounded();
    assert!(matches!(take(&mut at_once, page(&[50])).next, Next::Bound));
    assert!(at_once.is_over());
    // The tip counts once everything from before the bound is in the stream.
    let mut idle = bounded();
    assert!(records(&idle.take(page(&[]), polled(49)).unwrap()).is_empty());
    assert!(!idle.is_over());
    assert!(matches!(take(&mut idle, page(&[])).next, Next::Bound));
}

/// A reader that has read record 5 and is as far behind as retention reaches.
fn far_behind() -> Reading {
    let mut reading = reading(range(StartAt::TrimHorizon));
    let page = Page { behind_ms: Some(RETENTION), ..page(&[5]) };
    assert_eq!(records(&take(&mut reading, page)), [5]);
    reading
}

#[test]
fn who_is_far_behind_reads_the_last_record_twice() {
    let mut reading = far_behind();
    assert!(reading.subscribes(NOW).is_none());
    reading.limit = 1;
    assert_eq!(reading.ask(NOW).unwrap(), 2, "that record and one more");
    assert_eq!((reading.iterator(), reading.start()), (None, StartAt::At(number(5))));
    // On the way there: the same iterator leads on.
    let empty = Page { behind_ms: Some(RETENTION), ..page(&[]) };
    assert!(matches!(take(&mut reading, empty).next, Next::More));
    reading.ask(NOW).unwrap();
    assert_eq!(reading.iterator(), Some("next"));
    let news = take(&mut reading, Page { behind_ms: Some(RETENTION), ..page(&[5, 6]) });
    assert_eq!((records(&news), news.records), (vec![6], 1));
    // Once more, from where it is now; at the tip no more.
    reading.ask(NOW).unwrap();
    assert_eq!(reading.start(), StartAt::At(number(6)));
    assert_eq!(records(&take(&mut reading, page(&[6, 7]))), [7]);
    reading.ask(NOW).unwrap();
    assert_eq!((reading.iterator(), reading.start()), (Some("next"), StartAt::After(number(7))));
    assert_eq!(reading.subscribes(NOW), Some(&StartAt::After(number(7))));
}

#[test]
fn a_record_that_stands_alone_is_read_twice_once() {
    let mut reading = far_behind();
    let alone = || Page { behind_ms: Some(RETENTION), ..page(&[5]) };
    reading.ask(NOW).unwrap();
    assert!(matches!(take(&mut reading, alone()).next, Next::More));
    // The page showed that nothing is lost: the next call goes on, the one after it looks again.
    reading.ask(NOW).unwrap();
    assert_eq!(reading.start(), StartAt::After(number(5)));
    let empty = Page { behind_ms: Some(RETENTION), ..page(&[]) };
    assert!(matches!(take(&mut reading, empty).next, Next::More));
    reading.ask(NOW).unwrap();
    assert_eq!(reading.start(), StartAt::At(number(5)));
}

#[test]
fn a_record_that_was_read_and_is_gone_stops_the_reader() {
    for page in [page(&[6]), page(&[]), Page { next: None, behind_ms: Some(1), ..page(&[]) }] {
        let mut reading = far_behind();
        reading.ask(NOW).unwrap();
        let error = reading.take(page, polled(NOW)).unwrap_err();
        assert_eq!(error.code, "PassedByRetention");
        assert!(error.message.contains("record 5"), "{error}");
    }
}

#[test]
fn who_stood_still_before_the_first_record_begins_again() {
    let mut first = reading(range(StartAt::At(number(5))));
    first.ask(NOW).unwrap();
    assert!(first.ask(NOW + HOUR).is_ok());
    let error = first.ask(NOW + HOUR + RETENTION).unwrap_err();
    assert_eq!(error.code, "PassedByRetention");
    // With a record read, that record tells.
    let mut later = reading(range(StartAt::At(number(5))));
    take(&mut later, page(&[5]));
    later.ask(NOW).unwrap();
    later.ask(NOW + RETENTION).unwrap();
    assert_eq!(later.start(), StartAt::At(number(5)));
}

#[test]
fn only_a_time_to_come_is_waited_for() {
    let refused = |operation| CallError {
        operation,
        fault: Fault::Invalid,
        code: "InvalidArgumentException".into(),
        message: "The Timestamp lies in the future".into(),
        request_id: None,
    };
    let mut timed = reading(range(StartAt::Timestamp(NOW)));
    assert!(timed.is_ahead(&refused("GetShardIterator")));
    assert!(!timed.is_ahead(&refused("GetRecords")));
    take(&mut timed, page(&[5]));
    assert!(!timed.is_ahead(&refused("GetShardIterator")));
}
