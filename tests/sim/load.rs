//! What is put into the stream: plain lines, JSON, KPL aggregates, upload events, broken ones.
//!
//! The encoders here are the simulation's own, so that the product's decoders are judged by
//! something else.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use md5::Md5;
use sha2::{Digest as _, Sha256};

/// How much of the load is what, in a thousand records.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// Payloads are padded with up to this many bytes.
    pub pad: usize,
    pub aggregates: u32,
    pub uploads: u32,
    /// Some records are JSON objects with fields to partition by.
    pub fields: bool,
}

/// One Kinesis record, and what a consumer must find in it.
pub struct Produced {
    pub data: Bytes,
    /// The user records with the hash keys they belong to, if they belong anywhere.
    pub users: Vec<(Option<u128>, Bytes)>,
    /// The file it becomes: key and content.
    pub file: Option<(String, Bytes)>,
    /// Where it goes.
    pub hash: u128,
}

impl Load {
    /// Record `number` of a run. `range` is the hash range of some open shard: what the producer
    /// believes the stream to look like.
    pub fn next(&self, rng: &mut fastrand::Rng, number: usize, range: (u128, u128)) -> Produced {
        let hash = rng.u128(..);
        let (dice, kind) = (rng.u32(0..1000), rng.u32(0..8));
        if dice < self.aggregates {
            return self.aggregate(rng, number, range);
        }
        if dice < self.aggregates + self.uploads {
            return self.upload(rng, number, kind, hash);
        }
        let text = self.text(rng, number, 0);
        // Every third is JSON.
        let data = Bytes::from(match number % 3 {
            0 => format!("\"{text}\""),
            1 if self.fields => object(number, &text),
            _ => text,
        });
        Produced { users: vec![(None, data.clone())], data, file: None, hash }
    }

    /// Ends with the only full stop, so that records laid end to end can be told apart.
    fn text(&self, rng: &mut fastrand::Rng, number: usize, sub: u64) -> String {
        let pad = "x".repeat(rng.usize(0..self.pad.max(1)));
        format!("record {number} {sub} {:08x}{pad}.", rng.u32(..))
    }

    /// A KPL aggregate for one shard; a producer with an old map of the stream puts strangers in.
    fn aggregate(&self, rng: &mut fastrand::Rng, number: usize, range: (u128, u128)) -> Produced {
        let hash = rng.u128(range.0..=range.1);
        let mut users = Vec::new();
        for sub in 0..rng.u64(1..6) {
            let own = if rng.u32(0..6) == 0 { rng.u128(..) } else { rng.u128(range.0..=range.1) };
            // Of a producer that gives no key, nobody knows where they belong.
            let own = (own % 8 > 0).then_some(own);
            users.push((own, Bytes::from(self.text(rng, number, sub))));
        }
        Produced { data: encode_aggregate(&users), users, file: None, hash }
    }

    /// `kind` 0: not readable; 1: the key of another file; else a new file.
    fn upload(&self, rng: &mut fastrand::Rng, number: usize, kind: u32, hash: u128) -> Produced {
        let body = self.text(rng, number, 0);
        // A later upload to the key of an earlier one, with another or the very same content.
        let name = if kind == 1 { number % 3 } else { number };
        let body = if kind == 1 && rng.bool() { "record 0 0 shared.".to_owned() } else { body };
        let key = format!("uploads/{name}.txt");
        let sha256 = Sha256::digest(&body).iter().map(|b| format!("{b:02x}")).collect::<String>();
        let promised = if kind == 0 { "0".repeat(64) } else { sha256 };
        let event = format!(
            r#"{{"catchment":"upload","v":1,"file_key":"{key}","content_type":"text/plain","sha256":"{promised}","subject":"{}","request_id":"r-{number}","received_at":1,"body":"{}"}}"#,
            "a".repeat(64),
            STANDARD.encode(&body)
        );
        let data = Bytes::from(event);
        let file = (kind != 0).then(|| (key, Bytes::from(body)));
        Produced { users: vec![(None, data.clone())], data, file, hash }
    }
}

/// `k`: a few values, some of them none; `at`: seconds of 2026-01-01, or no time at all.
fn object(number: usize, text: &str) -> String {
    let k = match number % 11 {
        0 => "null".to_owned(),
        1 => "[]".to_owned(),
        2 => "\"a/b\"".to_owned(),
        n => n.to_string(),
    };
    let at = if number.is_multiple_of(7) { 0 } else { 1_767_225_600 + number * 37 % 300 };
    format!("{{\"k\":{k},\"at\":{at},\"t\":\"{text}\"}}")
}

/// The aggregated record format of the Kinesis Producer Library: magic, protobuf, MD5.
fn encode_aggregate(users: &[(Option<u128>, Bytes)]) -> Bytes {
    fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
        out.push(number << 3 | 2);
        let mut length = bytes.len();
        while length > 127 {
            out.push((length & 127) as u8 | 128);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend_from_slice(bytes);
    }
    let mut body = Vec::new();
    field(&mut body, 1, b"key");
    field(&mut body, 1, b"");
    for (hash, _) in users {
        field(&mut body, 2, hash.unwrap_or_default().to_string().as_bytes());
    }
    for (index, (hash, data)) in users.iter().enumerate() {
        // Partition key 0, explicit hash key `index`, data; or the empty key alone.
        let mut record = match hash {
            Some(_) => vec![1 << 3, 0, 2 << 3, index as u8],
            None => vec![1 << 3, 1],
        };
        field(&mut record, 3, data);
        field(&mut body, 3, &record);
    }
    let mut out = vec![0xf3, 0x89, 0x9a, 0xc2];
    out.extend_from_slice(&body);
    out.extend_from_slice(&Md5::digest(&body));
    out.into()
}
