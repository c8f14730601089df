//! What compression costs and saves, by library and level; what layout adds to it; what KPL
//! aggregates cost. `benches/README.md` tells how to read it.
#![expect(clippy::print_stdout, reason = "tables are the result")]

#[path = "shared/measure.rs"]
mod measure;

use std::error::Error;
use std::fmt::Write as _;
use std::hint::black_box;
use std::io::Write as _;

use catchment::delivery::blocks::Blocks;
use catchment::delivery::buffers::FRAME;
use catchment::delivery::encode::Encoder;
use catchment::delivery::settings::{Codec, Format, Settings};
use catchment::ids::ShardId;
use catchment::stream::deaggregate::{HashRange, split};
use catchment::stream::{Record, Records};
use md5::{Digest, Md5};

use measure::{cpu, median};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// A way to do something with the same bytes: returns what comes out, bytes.
struct Way<'a> {
    name: String,
    work: Box<dyn FnMut() -> Outcome<usize> + 'a>,
}

impl<'a> Way<'a> {
    fn new(name: impl Into<String>, work: impl FnMut() -> Outcome<usize> + 'a) -> Self {
        Self { name: name.into(), work: Box::new(work) }
    }
}

#[derive(Clone, Copy)]
struct Effort {
    rounds: usize,
    /// Each measurement goes on for this much CPU, seconds: many times the kernel's own step.
    least: f64,
}

fn main() -> Outcome<()> {
    // Cargo adds `--bench`.
    let quick = std::env::args().any(|argument| argument == "--quick");
    let effort =
        if quick { Effort { rounds: 1, least: 0.01 } } else { Effort { rounds: 7, least: 0.1 } };
    if cfg!(debug_assertions) {
        println!("This build is not optimised: the libraries are, our own code is not.\n");
    }
    for (name, records) in [("1 KB", events(2200)), ("100 B", readings(30_000))] {
        codecs(&format!("one frame, records of {name}"), &records.concat()[..FRAME], effort)?;
    }
    layouts(&events(8192), effort)?;
    aggregates(50, 100, effort)?;
    aggregates(10, 1000, effort)
}

/// Every way in turns, so that what disturbs the machine disturbs all; ratios are those of a
/// round. `bytes`: what a figure is divided by.
fn compare(title: &str, bytes: usize, base: &str, mut ways: Vec<Way>, e: Effort) -> Outcome<()> {
    let mut seconds = vec![Vec::new(); ways.len()];
    let mut sizes = vec![0; ways.len()];
    for round in 0..=e.rounds {
        for (n, way) in ways.iter_mut().enumerate() {
            let (mut times, mut more, begun) = (0_u32, 1_u32, cpu()?);
            let spent = loop {
                for _ in 0..more {
                    sizes[n] = black_box((way.work)()?);
                }
                times += more;
                more = times;
                let spent = cpu()? - begun;
                if spent >= e.least {
                    break spent;
                }
            };
            // The first warms up.
            if round > 0 {
                seconds[n].push(spent / f64::from(times));
            }
        }
    }
    let at = ways.iter().position(|way| way.name == base).ok_or("no such base")?;
    println!("\n{title}");
    println!(
        "{:<24} {:>9} {:>10} {:>16} {:>8}",
        "",
        "MB/s",
        "CPU s/GB",
        format!("x {base}"),
        "size"
    );
    for (n, way) in ways.iter().enumerate() {
        let mut ratios: Vec<f64> =
            seconds[n].iter().zip(&seconds[at]).map(|(own, base)| own / base).collect();
        let took = median(&mut seconds[n].clone());
        println!(
            "{:<24} {:>9.0} {:>10.3} {:>16.2} {:>7.1}%",
            way.name,
            bytes as f64 / 1e6 / took,
            took * 1e9 / bytes as f64,
            median(&mut ratios),
            100.0 * sizes[n] as f64 / bytes as f64,
        );
    }
    Ok(())
}

/// Libraries and levels on the bytes of one frame.
fn codecs(title: &str, raw: &[u8], effort: Effort) -> Outcome<()> {
    let room = vec![0; raw.len() + raw.len() / 8 + 1024];
    let mut copy = Vec::with_capacity(raw.len());
    let mut ways = vec![Way::new("copy", move || {
        copy.clear();
        copy.extend_from_slice(black_box(raw));
        Ok(copy.len())
    })];
    for level in [1, 2, 6, 9] {
        let mut out = room.clone();
        ways.push(Way::new(format!("gzip {level}, zlib-rs"), move || {
            let level = flate2::Compression::new(level);
            let mut to = flate2::write::GzEncoder::new(&mut out[..], level);
            to.write_all(raw)?;
            let left = to.finish()?.len();
            Ok(out.len() - left)
        }));
    }
    for level in 1..=9 {
        let mut out = room.clone();
        let at = libdeflater::CompressionLvl::new(level).map_err(|e| format!("{e:?}"))?;
        let mut compressor = libdeflater::Compressor::new(at);
        ways.push(Way::new(format!("gzip {level}, libdeflate"), move || {
            Ok(compressor.gzip_compress(raw, &mut out)?)
        }));
    }
    for level in [1, 2, 3, 6] {
        let mut out = room.clone();
        let mut compressor = zstd::bulk::Compressor::new(level)?;
        ways.push(Way::new(format!("zstd {level}"), move || {
            Ok(compressor.compress_to_buffer(raw, &mut out[..])?)
        }));
    }
    compare(title, raw.len(), "zstd 1", ways, effort)
}

/// The encoder: records into objects of 8 MiB of payload, one of them held by an upload.
fn layouts(records: &[Vec<u8>], effort: Effort) -> Outcome<()> {
    let lines = records.iter().map(|line| record(&line[..line.len() - 1]));
    let records = Records::copy(&lines.collect::<Outcome<Vec<_>>>()?)?;
    let bytes = records.payload();
    let mut ways = Vec::new();
    let mut copy = Vec::with_capacity(bytes);
    let from = &records;
    ways.push(Way::new("copy", move || {
        copy.clear();
        for record in from.iter() {
            copy.extend_from_slice(record.data);
        }
        Ok(copy.len())
    }));
    for format in [Format::Raw, Format::Ndjson, Format::JsonArray, Format::Envelope] {
        for (codec, name) in [(Codec::None, "none"), (Codec::Gzip, "gzip"), (Codec::Zstd, "zstd")] {
            let settings = settings(format, codec);
            let shard = ShardId::new("shardId-000000000000");
            let mut uploading = None;
            ways.push(Way::new(format!("{format}, {name}"), move || {
                let mut blocks = Blocks::default();
                let mut encoder = Encoder::archive(&settings);
                for record in from.iter() {
                    encoder.push(record, "events", &shard, None, &mut blocks)?;
                }
                let body = encoder.finish(&mut blocks)?;
                let length = body.len();
                drop(uploading.replace(body));
                Ok(length)
            }));
        }
    }
    compare("the encoder, records of 1 KB, level 1", bytes, "copy", ways, effort)
}

/// KPL aggregates as a page of 2 MiB holds them: `count` user records of `size` bytes in each.
fn aggregates(count: usize, size: usize, effort: Effort) -> Outcome<()> {
    let mut random = fastrand::Rng::with_seed(4);
    let aggregates: Vec<_> =
        (0..(2 << 20) / (count * size)).map(|_| aggregate(count, size, &mut random)).collect();
    let alone = |data: &Vec<u8>| Outcome::Ok(Records::copy(&[record(data)?])?);
    let each = aggregates.iter().map(alone).collect::<Outcome<Vec<_>>>()?;
    let page = Records::copy(&each.iter().flat_map(Records::iter).collect::<Vec<_>>())?;
    let (page, each) = (&page, &each);
    let users = page.len() * count;
    // Half of the keys are another shard's.
    let half = HashRange::parse("0", &(u128::MAX / 2).to_string());
    let ways = vec![
        Way::new("MD5 alone, md-5", || {
            let digests =
                page.iter().map(|record| Md5::digest(&record.data[4..record.data.len() - 16]));
            Ok(digests.map(|digest| black_box(digest).len()).sum())
        }),
        Way::new("one by one", || {
            let splits = each.iter().map(|record| split(record, None));
            Ok(splits.map(|split| black_box(split).records.len()).sum())
        }),
        Way::new("the page", || Ok(black_box(split(page, None)).records.len())),
        Way::new("one by one, hash keys", || {
            let splits = each.iter().map(|record| split(record, half));
            Ok(splits.map(|split| black_box(split).records.len()).sum())
        }),
        Way::new("the page, hash keys", || Ok(black_box(split(page, half)).records.len())),
    ];
    if split(page, None).records.len() != users {
        return Err("these are no aggregates".into());
    }
    let title = format!("KPL aggregates of {count} x {size} B, per GB of user payload");
    compare(&title, users * size, "MD5 alone, md-5", ways, effort)
}

/// An aggregate in which every record has a key of its own.
fn aggregate(count: usize, size: usize, random: &mut fastrand::Rng) -> Vec<u8> {
    fn varint(mut value: usize, to: &mut Vec<u8>) {
        while value >= 0x80 {
            to.push((value & 0x7f | 0x80) as u8);
            value >>= 7;
        }
        to.push(value as u8);
    }
    fn bytes(field: u8, value: &[u8], to: &mut Vec<u8>) {
        to.push(field << 3 | 2);
        varint(value.len(), to);
        to.extend_from_slice(value);
    }
    let mut body = Vec::new();
    for _ in 0..count {
        bytes(1, format!("{:012x}", random.u64(..1 << 48)).as_bytes(), &mut body);
    }
    for index in 0..count {
        let mut user = vec![1 << 3];
        varint(index, &mut user);
        let data: Vec<u8> =
            std::iter::repeat_with(|| random.alphanumeric() as u8).take(size).collect();
        bytes(3, &data, &mut user);
        bytes(3, &user, &mut body);
    }
    [&[0xf3, 0x89, 0x9a, 0xc2], body.as_slice(), &Md5::digest(&body)].concat()
}

fn record(data: &[u8]) -> Outcome<Record<'_>> {
    let sequence = "49590338271490256608559692538361571095921575989136588898";
    Ok(Record::new(sequence, Some(1_795_417_509_123), Some("7"), data)?)
}

fn settings(format: Format, codec: Codec) -> Settings {
    Settings {
        format,
        codec,
        level: 1,
        uploads: false,
        deaggregate: false,
        ..Settings::new("archive", "events")
    }
}

/// Lines of about 1 KB, the same in every run: ids and addresses that do not compress, names,
/// numbers and words that do, the frequent ones more often.
fn events(count: usize) -> Vec<Vec<u8>> {
    let mut random = fastrand::Rng::with_seed(2);
    let words: Vec<String> =
        (0..800).map(|_| (0..random.usize(3..9)).map(|_| random.lowercase()).collect()).collect();
    let agents = [
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/131.0.0.0",
        "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148",
        "Mozilla/5.0 (X11; Linux x86_64; rv:132.0) Gecko/20100101 Firefox/132.0",
    ];
    let mut time = 1_795_417_509_123_u64;
    let mut event = || {
        time += random.u64(0..30);
        let mut line = format!(
            "{{\"id\":\"{:032x}\",\"time\":{time},\"session\":\"{:016x}\",\"agent\":\"{}\",\
             \"address\":\"10.{}.{}.{}\",\"url\":\"https://shop.example.com/{}/{}\",\
             \"timing\":{{\"dns\":{},\"connect\":{},\"first\":{},\"load\":{}}},\"text\":\"",
            random.u128(..),
            random.u64(..),
            agents[random.usize(0..agents.len())],
            random.u8(..),
            random.u8(..),
            random.u8(..),
            words[random.usize(0..50)],
            random.u32(0..5000),
            random.u16(0..100),
            random.u16(0..300),
            random.u16(0..900),
            random.u16(0..5000),
        );
        while line.len() < 990 {
            let rank = random.f64() * random.f64() * words.len() as f64;
            line.push_str(&words[rank as usize]);
            line.push(' ');
        }
        line.push_str("\"}\n");
        line.into_bytes()
    };
    (0..count).map(|_| event()).collect()
}

/// Lines of about 100 bytes: readings of sensors.
fn readings(count: usize) -> Vec<Vec<u8>> {
    let mut random = fastrand::Rng::with_seed(3);
    let mut time = 1_795_417_509_123_u64;
    let mut reading = || {
        time += random.u64(0..30);
        let mut line = String::new();
        // Writing into a string does not fail.
        let _ = writeln!(
            line,
            "{{\"device\":\"sensor-{:05}\",\"time\":{time},\"temperature\":{:.2},\
             \"humidity\":{:.1},\"battery\":{},\"ok\":{}}}",
            random.u32(0..20_000),
            15.0 + 10.0 * random.f64(),
            100.0 * random.f64(),
            random.u8(0..100),
            random.bool(),
        );
        line.into_bytes()
    };
    (0..count).map(|_| reading()).collect()
}
