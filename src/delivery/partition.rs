//! The partitions of a batch: which one a record belongs to, and what is open in each.
//!
//! A partition is the prefix of an object key. It follows from the record (its time and the fields
//! that the key template names) and, where a batch has too many, from the records before it in the
//! same batch. It never follows from a clock or a worker, so whoever encodes the range of a batch
//! again arrives at the same partitions.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::Arc;

use jiff::Timestamp;

use crate::delivery::buffers::FRAME;
use crate::delivery::encode::Encoder;
use crate::delivery::field::{Miss, Path};
use crate::delivery::object_key::MAX_VALUE;
use crate::delivery::recipe::Recipe;
use crate::ids::ShardId;
use crate::stream::Record;

/// Where records stand whose field is absent, null, empty, or nothing that can stand in a key: the
/// name that Hive and Athena read as null.
const DEFAULT: &str = "__HIVE_DEFAULT_PARTITION__";
/// Where records stand that found all partitions of their batch taken.
const OVERFLOW: &str = "__overflow__";

/// Raw bytes that all partitions of a batch together hold uncompressed, about.
const RAW: usize = 8 * FRAME;
/// Smallest frame worth compressing by itself.
const SMALLEST: usize = 16 * 1024;

/// Ends a part of a slot; escaped values cannot hold it.
const END: char = '/';

/// Why a record stands in a partition other than the one its data asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PartitionFallback {
    /// A field is absent, null or empty.
    Absent,
    /// A field cannot be read or cannot stand in a key.
    Unusable,
    /// `delivery.time_field` holds no time; the arrival time counts.
    Time,
    /// The batch has as many partitions as it may have.
    Overflow,
}

impl PartitionFallback {
    /// Label of the metric.
    fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Unusable => "unusable",
            Self::Time => "time",
            Self::Overflow => "overflow",
        }
    }
}

/// An object under construction.
#[derive(Debug)]
pub struct Partition {
    /// Its key up to the object name.
    pub prefix: String,
    /// Its bytes.
    pub encoder: Encoder,
    /// Records in it.
    pub records: u64,
    /// It takes what finds no room elsewhere.
    pub overflow: bool,
}

/// Where a record of a batch may stand, as prefixes of object keys.
#[derive(Debug)]
pub struct Candidates {
    /// Its own partition.
    pub own: String,
    /// Where it spills to if the batch had no room for its own partition.
    pub spilled: Option<String>,
}

/// Everything open in a batch.
#[derive(Debug)]
pub struct Partitions {
    recipe: Arc<Recipe>,
    shard: ShardId,
    stamp_ms: i64,
    list: Vec<Partition>,
    by_prefix: BTreeMap<String, usize>,
    by_slot: HashMap<String, usize>,
    /// The slot of the record at hand.
    slot: String,
    /// The slot of the last one and its partition: consecutive records usually share it.
    last: (String, Option<usize>),
    /// The same where the time of arrival alone decides, in units of the template.
    last_at: Option<(i64, usize)>,
    misplaced: BTreeMap<PartitionFallback, u64>,
}

/// Where a record belongs; its slot stands in [`Partitions::slot`].
struct PartitionPlace {
    ms: i64,
    arrival_ms: i64,
    misses: [Option<PartitionFallback>; 3],
}

impl Partitions {
    /// None yet. `stamp_ms` is used where a record has no time.
    pub fn new(recipe: Arc<Recipe>, shard: ShardId, stamp_ms: i64) -> Self {
        Self {
            recipe,
            shard,
            stamp_ms,
            list: Vec::new(),
            by_prefix: BTreeMap::new(),
            by_slot: HashMap::new(),
            slot: String::new(),
            last: (String::new(), None),
            last_at: None,
            misplaced: BTreeMap::new(),
        }
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// None is open.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Those open, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = &Partition> {
        self.list.iter()
    }

    /// Records that stand elsewhere than their data asks for, by reason.
    pub fn misplaced(&self) -> Vec<(&'static str, u64)> {
        self.misplaced.iter().map(|(why, count)| (why.as_str(), *count)).collect()
    }

    /// All of them, by prefix.
    pub fn into_sorted(mut self) -> Vec<Partition> {
        self.list.sort_by(|a, b| a.prefix.cmp(&b.prefix));
        self.list
    }

    /// Would this record find its partition open already?
    pub fn has(&mut self, record: Record<'_>) -> bool {
        let place = self.place(record);
        self.by_slot.contains_key(&self.slot)
            || self.by_prefix.contains_key(&self.prefix(place.ms, &self.slot))
    }

    /// Where this record may stand, whatever else is in its batch. Which of the two it is follows
    /// from the records before it, so of a batch that cannot be read as a whole only the objects
    /// tell: those that take overflow are put after all others.
    pub fn candidates(&mut self, record: Record<'_>) -> Candidates {
        let place = self.place(record);
        let own = self.prefix(place.ms, &self.slot);
        let spilled = self.overflow(place.arrival_ms).filter(|spilled| *spilled != own);
        // Builds before 0.2 spilled into partitions that have records of their own, where no field
        // decides: that these exist tells nothing, and a record kept twice is better than none.
        let tells = !self.recipe.settings.is_earlier() || !self.recipe.prefix.fields().is_empty();
        Candidates { own, spilled: spilled.filter(|_| tells) }
    }

    /// The partition of this record, opened if need be.
    pub fn of(&mut self, record: Record<'_>) -> &mut Partition {
        let at = self.arrival(record);
        if let (Some(at), Some((last, index))) = (at, self.last_at)
            && at == last
        {
            return &mut self.list[index];
        }
        let place = self.place(record);
        for miss in place.misses.into_iter().flatten() {
            *self.misplaced.entry(miss).or_default() += 1;
        }
        let index = match self.last {
            (ref slot, Some(index)) if *slot == self.slot => index,
            _ => self.find_or_open(&place),
        };
        self.last_at = at.map(|at| (at, index));
        &mut self.list[index]
    }

    fn find_or_open(&mut self, place: &PartitionPlace) -> usize {
        let index = match self.by_slot.get(&self.slot) {
            Some(index) => *index,
            None => {
                let prefix = self.prefix(place.ms, &self.slot);
                let spill = usize::try_from(self.recipe.settings.spill).unwrap_or(usize::MAX);
                let full = spill > 0 && self.list.len() >= spill;
                if full
                    && !self.by_prefix.contains_key(&prefix)
                    && let Some(spilled) = self.overflow(place.arrival_ms)
                    && spilled != prefix
                {
                    // Not remembered: of slots that overflow there is no bound.
                    *self.misplaced.entry(PartitionFallback::Overflow).or_default() += 1;
                    let index = self.open(spilled);
                    self.list[index].overflow = true;
                    return index;
                }
                let index = self.open(prefix);
                self.by_slot.insert(self.slot.clone(), index);
                index
            }
        };
        self.last.0.clone_from(&self.slot);
        self.last.1 = Some(index);
        index
    }

    fn open(&mut self, prefix: String) -> usize {
        if let Some(index) = self.by_prefix.get(&prefix) {
            return *index;
        }
        let index = self.list.len();
        self.by_prefix.insert(prefix.clone(), index);
        let encoder = Encoder::archive(&self.recipe.settings);
        self.list.push(Partition { prefix, encoder, records: 0, overflow: false });
        index
    }

    /// The prefix of what finds no room: one that no record has of its own, so that its existence
    /// tells that records have spilled. `None` where nothing spills.
    fn overflow(&self, arrival_ms: i64) -> Option<String> {
        let Recipe { settings, prefix, time_field, .. } = &*self.recipe;
        let fields = prefix.fields().len();
        if settings.spill == 0 || (fields == 0 && time_field.is_none()) {
            return None;
        }
        let values = format!("{OVERFLOW}{END}").repeat(fields);
        let mut of = self.prefix(arrival_ms, &format!("{END}{values}"));
        if fields == 0 && !settings.is_earlier() {
            of.push_str(OVERFLOW);
            of.push('/');
        }
        Some(of)
    }

    /// The prefix of a slot at a time.
    fn prefix(&self, ms: i64, slot: &str) -> String {
        let values: Vec<&str> = slot.split(END).skip(1).collect();
        self.recipe.prefix.fill(ms, &self.recipe.settings.stream, &self.shard, "", &values)
    }

    /// The slot of a record's arrival, if nothing else decides about its place.
    fn arrival(&self, record: Record<'_>) -> Option<i64> {
        let template = &self.recipe.prefix;
        let alone = template.fields().is_empty() && self.recipe.time_field.is_none();
        let ms = record.arrival_ms.unwrap_or(self.stamp_ms);
        alone.then(|| template.slot(ms))
    }

    /// Reads what the place of a record follows from, and writes it down as its slot.
    fn place(&mut self, record: Record<'_>) -> PartitionPlace {
        let arrival_ms = record.arrival_ms.unwrap_or(self.stamp_ms);
        let mut place = PartitionPlace { ms: arrival_ms, arrival_ms, misses: [None; 3] };
        if let Some(field) = &self.recipe.time_field {
            match time(field, record.data) {
                Some(ms) => place.ms = ms,
                None => place.misses[0] = Some(PartitionFallback::Time),
            }
        }
        let template = &self.recipe.prefix;
        self.slot.clear();
        // Writing to a String cannot fail.
        let _ = write!(self.slot, "{}{END}", template.slot(place.ms));
        for field in template.fields() {
            let begin = self.slot.len();
            let miss = match field.find(record.data) {
                // What spills stands apart, whatever producers write.
                Ok(value) if value == OVERFLOW && !self.recipe.settings.is_earlier() => {
                    let _ = write!(self.slot, "%5F{}", &OVERFLOW[1..]);
                    None
                }
                Ok(value) => escape(&value, &mut self.slot).err(),
                Err(miss) => Some(miss),
            };
            if let Some(miss) = miss {
                self.slot.truncate(begin);
                self.slot.push_str(DEFAULT);
                match miss {
                    Miss::Absent => place.misses[1] = Some(PartitionFallback::Absent),
                    Miss::Unusable => place.misses[2] = Some(PartitionFallback::Unusable),
                }
            }
            self.slot.push(END);
        }
        place
    }
}

/// Raw bytes after which a partition compresses what it holds: less, the more there are, so that
/// many partitions do not hold a whole frame each.
pub fn frame(partitions: usize) -> usize {
    (RAW / partitions.max(1)).clamp(SMALLEST, FRAME)
}

/// A value as it can stand in a key, in a URL and in the name of a Hive partition: whatever is not a
/// letter or digit of ASCII, `-`, `_` or a dot becomes `%XX`, as Hive reads it back.
fn escape(value: &str, to: &mut String) -> Result<(), Miss> {
    let begin = to.len();
    let dots = value.bytes().all(|b| b == b'.');
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || (byte == b'.' && !dots) {
            to.push(char::from(byte));
        } else {
            // As above.
            let _ = write!(to, "%{byte:02X}");
        }
        if to.len() - begin > MAX_VALUE {
            return Err(Miss::Unusable);
        }
    }
    Ok(())
}

/// The time a field holds, ms since the epoch: a text such as `2026-11-23T07:05:09.5+01:00`, or a number
/// of seconds, milliseconds, microseconds or nanoseconds since the epoch, told apart by its size (the
/// years 1973 to 2286 are unmistakable). `None` outside of the years 1970 to 9999.
fn time(field: &Path, json: &[u8]) -> Option<i64> {
    let text = field.find(json).ok()?;
    let ms = if let Ok(number) = text.parse::<f64>() {
        let scale = match number.abs() {
            n if n < 1e11 => 1e3,
            n if n < 1e14 => 1.0,
            n if n < 1e17 => 1e-3,
            _ => 1e-6,
        };
        let ms = (number * scale).floor();
        // Within what an integer holds exactly.
        (ms.abs() < 1e15).then_some(ms as i64)?
    } else {
        text.parse::<Timestamp>().ok()?.as_millisecond()
    };
    (0..253_402_300_800_000).contains(&ms).then_some(ms)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::delivery::settings::Settings;

    fn record(arrival_ms: i64, data: &str) -> Record<'_> {
        Record::new("1", Some(arrival_ms), None, data.as_bytes()).unwrap()
    }

    fn partitions(prefix: &str, time_field: &str, spill: u32) -> Partitions {
        let settings = Settings {
            prefix: prefix.into(),
            time_field: time_field.into(),
            spill,
            ..Settings::sample()
        };
        let recipe = Arc::new(Recipe::new(Arc::new(settings)).unwrap());
        Partitions::new(recipe, ShardId::new("shardId-000000000000"), 0)
    }

    fn put(partitions: &mut Partitions, record: Record<'_>) -> String {
        let partition = partitions.of(record);
        partition.records += 1;
        partition.prefix.clone()
    }

    #[test]
    fn fields_become_part_of_the_key() {
        let mut open = partitions("c=!{field:customer.id}/dt=!{timestamp:yyyy-MM-dd}/", "", 0);
        for (data, prefix) in [
            (r#"{"customer":{"id":"a1"}}"#, "c=a1/dt=1970-01-01/"),
            (r#"{"customer":{"id":17}}"#, "c=17/dt=1970-01-01/"),
            (r#"{"customer":{"id":"a/b ü"}}"#, "c=a%2Fb%20%C3%BC/dt=1970-01-01/"),
            (r#"{"customer":{"id":".."}}"#, "c=%2E%2E/dt=1970-01-01/"),
            (r#"{"customer":{}}"#, "c=__HIVE_DEFAULT_PARTITION__/dt=1970-01-01/"),
            (r#"{"customer":{"id":[]}}"#, "c=__HIVE_DEFAULT_PARTITION__/dt=1970-01-01/"),
            ("no JSON", "c=__HIVE_DEFAULT_PARTITION__/dt=1970-01-01/"),
        ] {
            assert_eq!(put(&mut open, record(5, data)), prefix, "{data}");
        }
        let long = format!(r#"{{"customer":{{"id":"{}"}}}}"#, "x".repeat(MAX_VALUE + 1));
        assert!(put(&mut open, record(5, &long)).starts_with("c=__HIVE"));
        assert_eq!(open.misplaced(), [("absent", 1), ("unusable", 3)]);
        assert_eq!(open.len(), 5);
    }

    #[test]
    fn the_time_may_be_a_field() {
        let mut open = partitions("!{timestamp:yyyy-MM-dd/HH}/", "at", 0);
        for (at, prefix) in [
            ("\"2026-11-23T07:05:09+01:00\"", "2026-11-23/06/"),
            ("1795417509", "2026-11-23/07/"),
            ("1795417509.5", "2026-11-23/07/"),
            ("1795417509123", "2026-11-23/07/"),
            ("\"1795417509123\"", "2026-11-23/07/"),
            ("1795417509123000", "2026-11-23/07/"),
            ("1795417509123000000", "2026-11-23/07/"),
            ("-5", "1970-01-02/00/"),
            ("\"yesterday\"", "1970-01-02/00/"),
            ("\"NaN\"", "1970-01-02/00/"),
            ("1e300", "1970-01-02/00/"),
            ("null", "1970-01-02/00/"),
        ] {
            let data = format!("{{\"at\":{at}}}");
            assert_eq!(put(&mut open, record(86_400_000, &data)), prefix, "{data}");
        }
        assert_eq!(open.misplaced(), [("time", 5)]);
    }

    #[test]
    fn what_finds_no_room_spills_into_one_partition() {
        let mut open = partitions("!{field:k}/", "", 2);
        let mut of = |k: &str| put(&mut open, record(0, &format!("{{\"k\":\"{k}\"}}")));
        assert_eq!([of("a"), of("b"), of("c"), of("a")], ["a/", "b/", "__overflow__/", "a/"]);
        assert_eq!([of("d"), of("b"), of("c")], ["__overflow__/", "b/", "__overflow__/"]);
        assert_eq!(open.misplaced(), [("overflow", 3)]);
    }

    #[test]
    fn what_spills_shares_no_partition_with_what_does_not() {
        let of = |open: &mut Partitions, data: &str| {
            let Candidates { own, spilled } = open.candidates(record(7_000, data));
            let put = put(open, record(7_000, data));
            assert!(put == own || Some(&put) == spilled.as_ref(), "{put}");
            put
        };
        // By time alone: the second of arrival is an ordinary partition too.
        let mut open = partitions("!{ss}/", "at", 2);
        let of_time = |open: &mut Partitions, at| of(open, &format!("{{\"at\":{at}}}"));
        assert_eq!(
            ["1", "null", "3", "4", "1"].map(|at| of_time(&mut open, at)),
            ["01/", "07/", "07/__overflow__/", "07/__overflow__/", "01/"]
        );
        // By a field: a value that says it spilled.
        let mut open = partitions("!{field:k}/", "", 1);
        let of_field = |open: &mut Partitions, k| of(open, &format!("{{\"k\":\"{k}\"}}"));
        assert_eq!(
            ["__overflow__", "b", "__overflow__"].map(|k| of_field(&mut open, k)),
            ["%5F_overflow__/", "__overflow__/", "%5F_overflow__/"]
        );
        // Where the time of arrival decides, nothing spills.
        let mut open = partitions("!{ss}/", "", 1);
        assert_eq!([1_000, 2_000].map(|ms| put(&mut open, record(ms, ""))), ["01/", "02/"]);
    }

    #[test]
    fn different_times_may_share_a_prefix() {
        let mut open = partitions("day-!{dd}/", "", 0);
        let day = 86_400_000;
        assert_eq!(put(&mut open, record(0, "")), put(&mut open, record(31 * day, "")));
        assert!(open.has(record(59 * day, "")), "the first of March");
        assert!(!open.has(record(day, "")));
        assert_eq!(open.into_sorted().iter().map(|p| p.records).sum::<u64>(), 2);
    }

    #[test]
    fn frames_shrink_as_partitions_grow() {
        assert_eq!((frame(0), frame(8), frame(100_000)), (FRAME, FRAME, SMALLEST));
        assert!(frame(500) * 500 <= 2 * RAW);
    }

    proptest! {
        /// Keys never leave their folder, and values cannot be mistaken for one another.
        #[test]
        fn values_stay_apart_and_in_place(a in "\\PC{0,12}", b in "\\PC{0,12}") {
            let mut open = partitions("x=!{field:k}/", "", 0);
            let mut of = |k: &str| {
                let data = serde_json::json!({ "k": k }).to_string();
                put(&mut open, record(0, &data))
            };
            let (of_a, of_b) = (of(&a), of(&b));
            prop_assert_eq!(of_a.matches('/').count(), 1);
            prop_assert!(!of_a.contains("/."));
            let misplaced = |key: &str| key.contains(DEFAULT);
            prop_assert!(a == b || of_a != of_b || (misplaced(&of_a) && misplaced(&of_b)));
        }
    }
}
