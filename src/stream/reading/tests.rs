use super::*;
use crate::ids::ShardId;
use crate::stream::bound::GRACE_MS;
use crate::stream::deaggregate::tests::aggregate;

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

fn range(start: StartAt) -> ReadRange {
    ReadRange { start, after: None, until: None, bound: None, deaggregate: true, hash_range: None }
}

fn reading(range: ReadRange) -> ReaderState {
    ReaderState::new(range, RETENTION, 10_000)
}

/// A page of these records with this payload, arrived at their numbers, from the tip of a shard that
/// has more to come.
fn page_with(numbers: &[u64], data: &[u8]) -> Page {
    let digits: Vec<_> = numbers.iter().map(u64::to_string).collect();
    let mut records = Vec::new();
    for (digits, at) in digits.iter().zip(numbers) {
        let at = i64::try_from(*at).unwrap();
        records.push(Record::new(digits, Some(at), Some("key"), data).unwrap());
    }
    Page {
        records: Records::copy(&records).unwrap(),
        next: Some("next".into()),
        behind_ms: Some(0),
        ..Page::default()
    }
}

fn page_of(numbers: &[u64], size: usize) -> Page {
    page_with(numbers, &vec![b'x'; size])
}

fn page(numbers: &[u64]) -> Page {
    page_of(numbers, 10)
}

fn behind(behind_ms: impl Into<Option<i64>>, page: Page) -> Page {
    Page { behind_ms: behind_ms.into(), ..page }
}

fn polled(asked_ms: i64) -> Arrival {
    Arrival { asked_ms, pushed: false }
}

fn pushed(asked_ms: i64) -> Arrival {
    Arrival { asked_ms, pushed: true }
}

fn take(reading: &mut ReaderState, page: Page) -> PageStats {
    reading.take(page, polled(NOW)).unwrap()
}

/// What was handed over; panics where it is something else.
fn records(news: &PageStats) -> Vec<u64> {
    match &news.next {
        PageOutcome::Records(records) => {
            records.iter().map(|r| r.sequence().parse().unwrap()).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn calls_ask_for_what_fits_two_mebibytes() {
    let mut one = ReaderState::new(range(StartAt::TrimHorizon), RETENTION, 1);
    assert_eq!((one.ask(NOW).unwrap(), one.expected()), (1, LARGEST_REPLY));
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
    take(&mut reading, page_of(&[1], 0));
    assert_eq!(reading.ask(NOW).unwrap(), 8);
}

#[test]
fn the_tip_is_told_by_what_is_there() {
    let with = |limit, page: Page, pushed| {
        let mut reading = reading(range(StartAt::TrimHorizon));
        reading.limit = limit;
        let news = reading.take(page, Arrival { pushed, ..polled(NOW) }).unwrap();
        assert_eq!(reading.expected(), if news.caught_up { TIP_REPLY } else { LARGEST_REPLY });
        news.caught_up
    };
    assert!(with(2, page(&[1]), false));
    // As many as were asked for: there may be more.
    assert!(!with(2, page(&[1, 2]), false));
    assert!(with(2, page(&[1, 2]), true));
    assert!(!with(2, behind(1, page(&[])), false));
    // So many that there may be more.
    let many: Vec<_> = (1..=1000).collect();
    assert!(with(10_000, page(&many[1..]), false));
    assert!(!with(10_000, page(&many), false));
    // Without MillisBehindLatest the size of the page has to do.
    assert!(with(2, behind(None, page(&[1])), false));
    assert!(!with(2, behind(None, page_of(&[1], TIP_BYTES)), false));
}

/// Subscribing is for who is not far behind.
#[test]
fn how_far_was_read_is_known_without_millis_behind_latest_too() {
    let mut reading = reading(range(StartAt::TrimHorizon));
    assert_eq!(reading.subscribes(NOW), Some(&StartAt::TrimHorizon));
    let news = take(&mut reading, behind(None, page(&[1])));
    assert_eq!((news.records, news.payload, news.caught_up), (1, 10, true));
    assert!(reading.subscribes(NOW).is_some() && reading.subscribes(NOW + RETENTION).is_none());
    // By the arrival of what was read, shortly after 1970.
    take(&mut reading, behind(None, page_of(&[2], TIP_BYTES)));
    assert!(reading.subscribes(NOW).is_none() && reading.subscribes(5).is_some());
    // Or not at all: what was known stays.
    let record = Record::new("3", None, None, &[0; TIP_BYTES]).unwrap();
    let records = Records::copy(&[record]).unwrap();
    take(&mut reading, Page { records, next: Some("next".into()), ..Page::default() });
    assert!(reading.subscribes(NOW).is_none() && reading.subscribes(5).is_some());
    take(&mut reading, behind(HOUR, page(&[4])));
    assert!(reading.subscribes(NOW).is_some());
}

#[test]
fn an_empty_page_is_news_at_the_tip_only() {
    let mut reading = reading(range(StartAt::TrimHorizon));
    assert!(matches!(take(&mut reading, behind(5, page(&[]))).next, PageOutcome::More));
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
    let news = reading.take(last(&[]), pushed(NOW)).unwrap();
    assert!(records(&news).is_empty());
    let ended = take(&mut reading, last(&[])).next;
    assert!(matches!(ended, PageOutcome::End(children) if children == [child]));
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
    assert!(reading.forget_iterator() && reading.iterator().is_none());
    assert!(!reading.forget_iterator());
    // A subscription leaves none.
    take(&mut reading, page(&[3]));
    reading.take(page(&[4]), pushed(NOW)).unwrap();
    assert_eq!((reading.iterator(), reading.start()), (None, StartAt::After(number(4))));
}

#[test]
fn a_beginning_that_is_gone_is_told_once_a_record_shows_it() {
    let gone = |seen, gone| StartCheck { seen, gone };
    for (first, expected) in [(7, gone(true, false)), (8, gone(true, true))] {
        let mut reading = reading(range(StartAt::At(number(7))));
        take(&mut reading, page(&[]));
        assert_eq!(reading.beginning(), gone(false, false));
        take(&mut reading, page(&[first, 9]));
        take(&mut reading, page(&[10]));
        assert_eq!(reading.beginning(), expected);
    }
    let mut reading = reading(range(StartAt::After(number(7))));
    take(&mut reading, page(&[9]));
    assert_eq!(reading.beginning(), gone(true, false));
}

#[test]
fn records_outside_of_the_range_are_left_out() {
    let (after, until) = (Some(position(3)), Some(position(5)));
    let mut reading = reading(ReadRange { after, until, ..range(StartAt::At(number(3))) });
    assert!(reading.is_bounded());
    assert_eq!(records(&take(&mut reading, page(&[3, 4]))), [4]);
    assert!(!reading.is_done());
    assert_eq!(records(&take(&mut reading, page(&[5, 6]))), [5]);
    assert!(reading.is_done());
    // Nothing in range, and everything of it read: said so, whatever else the shard has.
    assert!(records(&take(&mut reading, behind(9, page(&[7])))).is_empty());

    let after = ReadRange { after: Some(position(3)), ..range(StartAt::At(number(3))) };
    let mut open = self::reading(after);
    assert!(!open.is_bounded());
    assert_eq!(records(&take(&mut open, page(&[3, 4]))), [4]);
    assert!(!open.is_done());
    let until = ReadRange { until: Some(position(5)), ..range(StartAt::TrimHorizon) };
    let mut exact = self::reading(until);
    assert_eq!(records(&take(&mut exact, page(&[4, 5]))), [4, 5]);
    assert!(exact.is_done());
}

#[test]
fn aggregates_are_taken_apart_and_what_is_remembered_is_theirs() {
    // MD5("a") lies in the lower half of the hash keys, MD5("b") in the upper one.
    let data = aggregate(&[("a", None, b"low"), ("b", None, b"high")]);
    let hash_range = HashRange::parse("0", &(u128::MAX / 2).to_string()).map(HashRange::earlier);
    let lower = ReadRange { hash_range, ..range(StartAt::At(number(4))) };
    let subs = |news: &PageStats| match &news.next {
        PageOutcome::Records(records) => {
            records.iter().map(|r| (r.sub, r.data.len())).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    let mut taking = reading(lower.clone());
    let news = take(&mut taking, page_with(&[4], &data));
    assert_eq!((subs(&news), news.aggregates, news.foreign), (vec![(0, 3)], 1, 1));
    assert_eq!((news.records, news.payload), (1, data.len()));
    let mut leaving = reading(ReadRange { deaggregate: false, ..lower.clone() });
    let news = take(&mut leaving, page_with(&[4], &data));
    assert_eq!((subs(&news), news.aggregates, news.foreign), (vec![(0, data.len())], 0, 0));
    // A page of nothing but others' records is over, and has shown where reading began.
    let upper = aggregate(&[("b", None, b"high")]);
    let mut passing = reading(lower);
    assert!(matches!(
        take(&mut passing, behind(5, page_with(&[5], &upper))).next,
        PageOutcome::More
    ));
    assert_eq!(passing.beginning(), StartCheck { seen: true, gone: true });
    assert_eq!(passing.start(), StartAt::After(number(5)));
}

#[test]
fn a_bound_ends_the_range_where_it_is_seen_or_where_it_must_have_been() {
    let bound = Some(Bound::Before(50));
    let bounded = || reading(ReadRange { bound: bound.clone(), ..range(StartAt::TrimHorizon) });
    let mut seen = bounded();
    assert_eq!(records(&take(&mut seen, page(&[48, 50, 49]))), [48]);
    assert!(seen.is_over());
    let mut at_once = bounded();
    assert!(matches!(take(&mut at_once, page(&[50])).next, PageOutcome::Bound));
    assert!(at_once.is_over());
    // The tip counts once everything from before the bound is in the stream.
    let mut idle = bounded();
    let settled = 50 + GRACE_MS;
    assert!(records(&idle.take(page(&[]), polled(settled - 1)).unwrap()).is_empty());
    assert!(matches!(take(&mut idle, behind(5, page(&[]))).next, PageOutcome::More));
    assert_eq!(records(&take(&mut idle, page(&[49]))), [49]);
    assert!(!idle.is_over());
    assert!(matches!(idle.take(page(&[]), polled(settled)).unwrap().next, PageOutcome::Bound));
    // Of a shard that has ended as well.
    let ended = Page { next: None, ..page(&[]) };
    assert!(matches!(take(&mut bounded(), ended).next, PageOutcome::Bound));
}

/// A reader that has read record 5 and is as far behind as retention reaches.
fn far_behind() -> ReaderState {
    let mut reading = reading(range(StartAt::TrimHorizon));
    assert_eq!(records(&take(&mut reading, behind(RETENTION, page(&[5])))), [5]);
    reading
}

#[test]
fn who_is_far_behind_reads_the_last_record_twice() {
    let mut reading = far_behind();
    assert!(reading.subscribes(NOW).is_none());
    reading.limit = 1;
    assert_eq!(reading.ask(NOW).unwrap(), 2, "that record and one more");
    assert_eq!((reading.iterator(), reading.start()), (None, StartAt::At(number(5))));
    // On the way there: the same iterator leads on, whatever the page says of how far it is.
    for behind_ms in [None, Some(RETENTION), Some(1)] {
        assert!(!matches!(
            take(&mut reading, behind(behind_ms, page(&[]))).next,
            PageOutcome::End(_)
        ));
        reading.ask(NOW).unwrap();
        assert_eq!(reading.iterator(), Some("next"));
        assert!(reading.subscribes(NOW).is_none());
    }
    let news = take(&mut reading, behind(RETENTION, page(&[5, 6])));
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
fn a_record_that_comes_alone_is_read_twice_once() {
    let mut reading = far_behind();
    reading.ask(NOW).unwrap();
    assert!(matches!(take(&mut reading, behind(RETENTION, page(&[5]))).next, PageOutcome::More));
    // The page showed that nothing is lost: the next call goes on, the one after it looks again.
    reading.ask(NOW + CONFIRMED_MS).unwrap();
    assert_eq!(reading.start(), StartAt::After(number(5)));
    assert!(matches!(take(&mut reading, behind(RETENTION, page(&[]))).next, PageOutcome::More));
    reading.ask(NOW).unwrap();
    assert_eq!(reading.start(), StartAt::At(number(5)));
}

#[test]
fn what_was_confirmed_is_not_believed_for_long() {
    // Stood still before the next call.
    let mut reading = far_behind();
    reading.ask(NOW).unwrap();
    take(&mut reading, behind(RETENTION, page(&[5])));
    reading.ask(NOW + CONFIRMED_MS + 1).unwrap();
    assert_eq!(reading.start(), StartAt::At(number(5)));
    // Went on for a while.
    let mut reading = far_behind();
    reading.ask(NOW).unwrap();
    take(&mut reading, page(&[5]));
    reading.ask(NOW).unwrap();
    take(&mut reading, page(&[6]));
    reading.ask(NOW + RETENTION).unwrap();
    assert_eq!(reading.start(), StartAt::At(number(6)));
}

#[test]
fn a_record_that_was_read_and_is_gone_stops_the_reader() {
    for page in [page(&[6]), page(&[]), Page { next: None, ..behind(1, page(&[])) }] {
        let mut reading = far_behind();
        reading.ask(NOW).unwrap();
        let error = reading.take(page, polled(NOW)).unwrap_err();
        assert_eq!((error.fault, error.code.as_str()), (Fault::Unavailable, "PassedByRetention"));
        assert!(error.message.contains("record 5"), "{error}");
    }
}

#[test]
fn who_stood_still_before_the_first_record_begins_again() {
    let mut first = reading(range(StartAt::At(number(5))));
    // A quiet shard is asked again and again, or waited for.
    for hour in [0, 12, 24, 36] {
        first.ask(NOW + hour * HOUR).unwrap();
    }
    first.take(page(&[]), pushed(NOW + 48 * HOUR)).unwrap();
    first.ask(NOW + 60 * HOUR).unwrap();
    let error = first.ask(NOW + 60 * HOUR + RETENTION).unwrap_err();
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
    let refused = |detail| CallError {
        operation: "GetShardIterator",
        fault: Fault::Invalid,
        detail,
        code: "InvalidArgumentException".into(),
        message: String::new(),
        request_id: None,
    };
    let ahead = refused(Detail::FutureStart);
    let mut timed = reading(range(StartAt::Timestamp(NOW)));
    assert!(timed.is_ahead(&ahead));
    assert!(!timed.is_ahead(&refused(Detail::Plain)));
    take(&mut timed, page(&[5]));
    assert!(!timed.is_ahead(&ahead));
}
