use super::*;
use crate::fault::Fault;
use crate::ids::ShardId;
use crate::stream::ShardInfo;
use crate::stream::bound::GRACE_MS;
use crate::stream::deaggregate::WHOLE;
use crate::stream::deaggregate::tests::aggregate;
use crate::stream::position::CLOCKS_MS;

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
    ReadRange {
        start,
        after: None,
        until: None,
        bound: None,
        aggregates: Aggregates::Apart,
        hash_range: None,
        through_ms: None,
        at_horizon: false,
    }
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
    reading.take(page, polled(NOW))
}

/// ReaderState goes on, and nothing is handed over.
fn is_blank(news: &PageStats) -> bool {
    !news.caught_up && records(news).is_empty()
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
    // What may be about to go is asked for at once.
    let at_horizon = ReadRange { at_horizon: true, ..range(StartAt::At(number(1))) };
    for range in [range(StartAt::TrimHorizon), at_horizon] {
        assert_eq!(self::reading(range).ask(NOW).unwrap(), 10_000);
    }
    let mut next = 0;
    let mut page_of = |numbers: &[u64], size| {
        let numbers: Vec<u64> = numbers
            .iter()
            .map(|_| {
                next += 1;
                next
            })
            .collect();
        self::page_of(&numbers, size)
    };
    let mut reading = reading(range(StartAt::Latest));
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
        let mut reading = reading(range(StartAt::Latest));
        reading.limit = limit;
        let news = reading.take(page, Arrival { pushed, ..polled(NOW) });
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
    assert_eq!(reading.subscribes(NOW), Some(StartAt::TrimHorizon));
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
    assert!(is_blank(&take(&mut reading, behind(5, page(&[])))));
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
    let news = reading.take(last(&[]), pushed(NOW));
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
    reading.take(page(&[4]), pushed(NOW));
    assert_eq!((reading.iterator(), reading.start()), (None, StartAt::After(number(4))));
}

#[test]
fn a_beginning_that_is_gone_is_told_once_a_record_shows_it() {
    let gone = |seen, gone| StartCheck { seen, gone, ..StartCheck::default() };
    for (first, expected) in [(7, gone(true, false)), (8, gone(true, true))] {
        let expected = StartCheck { first_ms: Some(i64::try_from(first).unwrap()), ..expected };
        let mut reading = reading(range(StartAt::At(number(7))));
        take(&mut reading, page(&[]));
        assert_eq!(reading.beginning(), gone(false, false));
        take(&mut reading, page(&[first, 9]));
        take(&mut reading, page(&[10]));
        assert_eq!(reading.beginning(), expected);
    }
    let mut reading = reading(range(StartAt::After(number(7))));
    take(&mut reading, page(&[9]));
    assert_eq!(reading.beginning(), StartCheck { first_ms: Some(9), ..gone(true, false) });
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
    let mut leaving = reading(ReadRange { aggregates: Aggregates::Whole, ..lower.clone() });
    let news = take(&mut leaving, page_with(&[4], &data));
    assert_eq!((subs(&news), news.aggregates, news.foreign), (vec![(WHOLE, data.len())], 0, 0));
    // A page of nothing but others' records is over, and has shown where reading began.
    let upper = aggregate(&[("b", None, b"high")]);
    let mut passing = reading(lower);
    assert!(is_blank(&take(&mut passing, behind(5, page_with(&[5], &upper)))));
    let first_ms = Some(5);
    assert_eq!(passing.beginning(), StartCheck { seen: true, gone: true, first_ms, bare: false });
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
    assert!(records(&idle.take(page(&[]), polled(settled - 1))).is_empty());
    assert!(is_blank(&take(&mut idle, behind(5, page(&[])))));
    assert_eq!(records(&take(&mut idle, page(&[49]))), [49]);
    assert!(!idle.is_over());
    assert!(matches!(idle.take(page(&[]), polled(settled)).next, PageOutcome::Bound));
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
    assert_eq!(reading.subscribes(NOW), Some(StartAt::After(number(7))));
}

#[test]
fn behind_a_record_that_comes_alone_a_page_is_held_until_it_is_seen_once_more() {
    let begun = || {
        let mut reading = far_behind();
        reading.ask(NOW).unwrap();
        assert!(is_blank(&take(&mut reading, behind(RETENTION, page(&[5])))));
        assert_eq!(reading.expected(), 2 * LARGEST_REPLY);
        reading.ask(NOW).unwrap();
        assert_eq!(
            (reading.iterator(), reading.start()),
            (Some("next"), StartAt::After(number(5)))
        );
        reading
    };
    let held = || {
        let mut reading = begun();
        let news = take(&mut reading, behind(RETENTION, page(&[7])));
        assert!(matches!(news.next, PageOutcome::Held));
        reading.ask(NOW).unwrap();
        assert_eq!((reading.iterator(), reading.start()), (None, StartAt::At(number(5))));
        reading
    };
    // It is there: so was everything behind it when the page was read.
    let mut reading = held();
    assert!(is_blank(&take(&mut reading, behind(RETENTION, page(&[])))));
    let news = take(&mut reading, behind(RETENTION, page(&[5, 7])));
    assert_eq!((records(&news), news.lost, news.records), (vec![7], false, 1));
    assert_eq!((reading.iterator(), reading.start()), (Some("next"), StartAt::After(number(7))));
    // It is gone, and what stood between them may be.
    let news = take(&mut held(), behind(RETENTION, page(&[8])));
    assert_eq!((records(&news), news.lost), (vec![7], true));
    // Nothing is there at all any more, or the shard is over: what was read is delivered.
    let mut bare = held();
    let last = (0..20).map(|_| take(&mut bare, page(&[]))).find(|news| news.records > 0).unwrap();
    assert_eq!((records(&last), last.lost), (vec![7], true));
    let mut over = held();
    let end = || Page { next: None, ..behind(1, page(&[])) };
    let last = (0..ENDS).map(|_| take(&mut over, end())).find(|news| news.records > 0).unwrap();
    assert_eq!((records(&last), last.lost), (vec![7], true));
    // An empty page is not held, and the record is looked at again.
    let mut reading = begun();
    assert!(is_blank(&take(&mut reading, behind(RETENTION, page(&[])))));
    reading.ask(NOW).unwrap();
    assert_eq!(reading.start(), StartAt::At(number(5)));
    // At the tip nothing is held.
    let mut reading = far_behind();
    reading.ask(NOW).unwrap();
    take(&mut reading, page(&[5]));
    reading.ask(NOW).unwrap();
    assert_eq!(records(&take(&mut reading, page(&[6]))), [6]);
    reading.ask(NOW + RETENTION).unwrap();
    assert_eq!(reading.start(), StartAt::At(number(6)));
}

#[test]
fn a_record_that_was_read_and_is_gone_is_told_with_what_comes_behind_it() {
    let mut passed = far_behind();
    passed.ask(NOW).unwrap();
    let news = take(&mut passed, behind(RETENTION, page(&[7, 8])));
    assert_eq!((records(&news), news.lost), (vec![7, 8], true));
    // Once.
    passed.ask(NOW).unwrap();
    let news = take(&mut passed, behind(RETENTION, page(&[8, 9])));
    assert_eq!((records(&news), news.lost), (vec![9], false));
    // Others' records tell it too: they are marked, not left out.
    let mut foreign = far_behind();
    foreign.range.hash_range = HashRange::parse("0", "0");
    foreign.ask(NOW).unwrap();
    let others = page_with(&[7], &aggregate(&[("b", None, b"high")]));
    let news = take(&mut foreign, behind(RETENTION, others));
    assert_eq!((records(&news), news.lost), (vec![7], true));
    // At an end that shows nothing more, it is not known.
    let mut ended = far_behind();
    assert!(!ended.has_missed());
    ended.ask(NOW).unwrap();
    let end = || Page { next: None, ..behind(1, page(&[])) };
    let last = (0..ENDS).map(|_| take(&mut ended, end()).next).last();
    assert!(matches!(last, Some(PageOutcome::End(_))) && ended.has_missed());
}

#[test]
fn a_tip_does_not_say_that_what_was_read_is_gone() {
    let mut reading = far_behind();
    reading.ask(NOW).unwrap();
    let detours: Vec<_> = (0..6).map(|_| take(&mut reading, page(&[])).detour).collect();
    assert_eq!(detours[4], Some(StartAt::TrimHorizon), "{detours:?}");
    assert_eq!((reading.iterator(), reading.start()), (Some("next"), StartAt::TrimHorizon));
    // It is there after all.
    let news = take(&mut reading, behind(RETENTION, page(&[4, 5, 6])));
    assert_eq!((records(&news), news.lost, news.repeated), (vec![6], false, 0));
    assert_eq!(reading.start(), StartAt::After(number(6)));
    // Or nothing is.
    let mut reading = far_behind();
    reading.ask(NOW).unwrap();
    for _ in 0..10 {
        take(&mut reading, page(&[]));
    }
    assert!(reading.beginning().bare && reading.has_missed());
    assert!(take(&mut reading, page(&[9])).lost);
}

#[test]
fn a_position_that_leads_nowhere_is_left() {
    let stuck = |range: ReadRange, behind_ms| {
        let mut reading = reading(range);
        for _ in 0..4 {
            assert_eq!(take(&mut reading, behind(behind_ms, page(&[]))).detour, None);
        }
        let detour = take(&mut reading, behind(behind_ms, page(&[]))).detour;
        assert_eq!(reading.iterator().is_none(), detour.is_some());
        (reading, detour)
    };
    let at = range(StartAt::At(number(5)));
    // Nobody knows what is missing: from the oldest record kept, which shows it.
    let (mut reading, detour) = stuck(at.clone(), RETENTION);
    assert_eq!(detour, Some(StartAt::TrimHorizon));
    assert_eq!(records(&take(&mut reading, page(&[7]))), [7]);
    assert!(reading.beginning().gone);
    let (mut reading, _) = stuck(at.clone(), HOUR);
    assert_eq!(records(&take(&mut reading, page(&[4, 5, 6]))), [5, 6]);
    assert!(!reading.beginning().gone);
    // Nothing is missing up to a time.
    let idle = ReadRange { through_ms: Some(NOW - HOUR), ..at.clone() };
    let (_, detour) = stuck(idle, RETENTION);
    assert_eq!(detour, Some(StartAt::Timestamp(NOW - HOUR - CLOCKS_MS)));
    let long_ago = ReadRange { through_ms: Some(NOW - RETENTION), ..at };
    assert_eq!(stuck(long_ago, RETENTION).1, Some(StartAt::TrimHorizon));
    // There is no better one.
    for start in [StartAt::TrimHorizon, StartAt::Latest, StartAt::Timestamp(1)] {
        assert_eq!(stuck(range(start), RETENTION).1, None);
    }
}

#[test]
fn an_idle_shard_is_read_on_from_a_time() {
    let mut reading = reading(range(StartAt::Latest));
    take(&mut reading, page(&[5]));
    let later = NOW + RETENTION;
    // Of one empty page nobody knows whether it is a mistake.
    reading.take(page(&[]), polled(later));
    assert!(!reading.is_at_tip() && reading.is_near(later));
    for _ in 1..5 {
        reading.take(page(&[]), polled(later));
    }
    assert!(reading.is_at_tip() && !reading.is_near(later));
    reading.ask(later).unwrap();
    assert_eq!(reading.start(), StartAt::After(number(5)), "its iterator leads on");
    reading.forget_iterator();
    reading.ask(later).unwrap();
    assert_eq!(reading.start(), StartAt::Timestamp(later - CLOCKS_MS));
    let news = take(&mut reading, page(&[4, 5, 6]));
    assert_eq!((records(&news), news.lost), (vec![6], false));
    assert_eq!(reading.start(), StartAt::After(number(6)));
}

#[test]
fn what_comes_twice_is_left_out() {
    let mut reading = reading(range(StartAt::At(number(3))));
    let news = take(&mut reading, page(&[2, 3, 3, 4]));
    assert_eq!((records(&news), news.repeated), (vec![3, 4], 2));
    for numbers in [&[3, 4][..], &[4, 3, 4]] {
        let news = take(&mut reading, page(numbers));
        assert_eq!((records(&news).len(), news.repeated), (0, numbers.len()));
    }
    let news = take(&mut reading, page(&[5, 4, 6, 5]));
    assert_eq!((records(&news), news.repeated), (vec![5, 6], 2));
}

#[test]
fn a_subscription_goes_on_where_the_last_one_had_come() {
    let mut reading = reading(range(StartAt::At(number(5))));
    let continued = |at: &str, numbers: &[u64]| Page { next: Some(at.into()), ..page(numbers) };
    reading.take(continued("9", &[]), pushed(NOW));
    assert_eq!(reading.subscribes(NOW), Some(StartAt::After(number(9))));
    reading.take(continued("no number", &[10]), pushed(NOW));
    assert_eq!(reading.subscribes(NOW), Some(StartAt::After(number(10))), "a record is further");
}

#[test]
fn an_answer_without_any_field_says_nothing() {
    let mut reading = reading(range(StartAt::After(number(5))));
    for _ in 1..ENDS {
        assert!(is_blank(&take(&mut reading, Page::default())));
    }
    assert_eq!(reading.through_ms, None);
    assert_eq!((reading.iterator(), reading.start()), (None, StartAt::After(number(5))));
    // Again and again: ListShards is to say what it means.
    assert!(matches!(take(&mut reading, Page::default()).next, PageOutcome::End(_)));
    take(&mut reading, page(&[]));
    assert!(is_blank(&take(&mut reading, Page::default())), "not in a row");
}

#[test]
fn who_stood_still_before_the_first_record_begins_again() {
    let mut first = reading(range(StartAt::At(number(5))));
    // A quiet shard is asked again and again, or waited for.
    for hour in [0, 12, 24, 36] {
        first.ask(NOW + hour * HOUR).unwrap();
    }
    first.take(page(&[]), pushed(NOW + 48 * HOUR));
    first.ask(NOW + 60 * HOUR).unwrap();
    let error = first.ask(NOW + 60 * HOUR + RETENTION).unwrap_err();
    assert_eq!(error, PassedByRetention);
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
