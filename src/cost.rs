//! What a month costs: Catchment, Amazon Data Firehose and the stream's own S3 channel.
//!
//! The stream itself and stored bytes cost the same whoever delivers, and are left out.

/// Hours of AWS's month.
const HOURS: f64 = 730.0;
const GB: f64 = 1e9;

/// One price: its name for `--price`, dollars in us-east-1, and its unit.
#[derive(Clone, Copy, Debug)]
pub struct Price {
    /// Name.
    pub name: &'static str,
    /// Dollars.
    pub dollars: f64,
    /// Per what.
    pub per: &'static str,
}

/// Where the prices come from; they are inputs, not promises.
pub const SOURCE: &str = "us-east-1, from public price lists of September 2026 quoted by third \
                          parties; not read on AWS's own pages. Check them, and change them with --price";

/// The defaults.
pub const PRICES: &[Price] = &[
    Price { name: "vcpu-hour", dollars: 0.03238, per: "Fargate vCPU hour, ARM" },
    Price { name: "memory-hour", dollars: 0.00356, per: "Fargate GB hour, ARM" },
    Price { name: "put", dollars: 0.005, per: "1,000 PUT requests of S3" },
    Price { name: "write", dollars: 0.625, per: "million write units of DynamoDB, on demand" },
    Price { name: "read", dollars: 0.125, per: "million read units of DynamoDB, on demand" },
    Price { name: "read-standard", dollars: 0.04, per: "GB read, on-demand Standard stream" },
    Price { name: "read-advantage", dollars: 0.016, per: "GB read, on-demand Advantage stream" },
    Price { name: "firehose", dollars: 0.029, per: "GB through Firehose, 5 KB steps per record" },
    Price { name: "channel-standard", dollars: 0.0275, per: "GB through the channel, Standard" },
    Price { name: "channel-advantage", dollars: 0.011, per: "GB through the channel, Advantage" },
];

/// How the stream is paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By shard: polling is free, there is no channel.
    Provisioned,
    /// On demand, Standard.
    Standard,
    /// On demand, Advantage.
    Advantage,
}

/// The load and the fleet.
#[derive(Clone, Debug)]
pub struct TrafficLoad {
    /// Payload per month, bytes.
    pub bytes: f64,
    /// Mean size of a record, bytes.
    pub record_bytes: f64,
    /// Open shards.
    pub shards: f64,
    /// Payment.
    pub mode: Mode,
    /// Running tasks.
    pub tasks: f64,
    /// vCPU of each.
    pub vcpu: f64,
    /// GB of each.
    pub memory_gb: f64,
    /// `delivery.batch_bytes`.
    pub batch_bytes: f64,
    /// `delivery.batch_age`, seconds.
    pub batch_age: f64,
    /// `lease.failover`, seconds.
    pub failover: f64,
    /// `lease.scan`, seconds.
    pub scan: f64,
}

/// Dollars per month.
#[derive(Clone, Debug, PartialEq)]
pub struct Costs {
    /// Parts of Catchment's, named.
    pub catchment: Vec<(&'static str, f64)>,
    /// Firehose's processing.
    pub firehose: f64,
    /// The channel; `None` where there is none.
    pub channel: Option<f64>,
}

impl Costs {
    /// Sum of the parts.
    pub fn total(&self) -> f64 {
        self.catchment.iter().map(|(_, dollars)| dollars).sum()
    }
}

/// The price of a name; 0 for an unknown one, which [`change`] does not let in.
fn price(prices: &[Price], name: &str) -> f64 {
    prices.iter().find(|p| p.name == name).map_or(0.0, |p| p.dollars)
}

/// Replaces one price.
///
/// # Errors
/// A text that names what was expected.
pub fn change(prices: &mut [Price], name: &str, dollars: &str) -> Result<(), String> {
    let value = dollars.parse::<f64>().ok().filter(|v| v.is_finite() && *v >= 0.0);
    let value = value.ok_or_else(|| format!("--price {name}={dollars}: dollars are expected"))?;
    let known: Vec<&str> = PRICES.iter().map(|p| p.name).collect();
    let Some(entry) = prices.iter_mut().find(|p| p.name == name) else {
        return Err(format!("--price {name}: one of {} is expected", known.join(", ")));
    };
    entry.dollars = value;
    Ok(())
}

/// What a month costs.
pub fn month(load: &TrafficLoad, prices: &[Price]) -> Costs {
    let price = |name| price(prices, name);
    let seconds = HOURS * 3600.0;
    let gb = load.bytes / GB;
    // A shard cuts when a batch is full or old, whichever comes first.
    let fills_in = load.batch_bytes / (load.bytes / seconds / load.shards).max(1e-9);
    let batches = load.shards * seconds / fills_in.min(load.batch_age);
    let beats = load.shards * seconds / (load.failover / 3.0);
    // A row of about half a KB; consistent reads count 4 KB steps of the whole table.
    let scans = load.tasks * seconds / load.scan * (load.shards * 0.5 / 4.0).ceil();
    let compute = load.tasks
        * HOURS
        * (load.vcpu * price("vcpu-hour") + load.memory_gb * price("memory-hour"));
    let reading = match load.mode {
        Mode::Provisioned => 0.0,
        Mode::Standard => gb * price("read-standard"),
        Mode::Advantage => gb * price("read-advantage"),
    };
    let steps = (load.record_bytes / 5_000.0).ceil().max(1.0) * 5_000.0;
    Costs {
        catchment: vec![
            ("compute", compute),
            ("reading the stream", reading),
            ("S3 requests", batches * price("put") / 1_000.0),
            ("lease heartbeats", beats * price("write") / 1e6),
            ("checkpoints", batches * price("write") / 1e6),
            ("lease scans", scans * price("read") / 1e6),
        ],
        firehose: load.bytes / load.record_bytes * steps / GB * price("firehose"),
        channel: match load.mode {
            Mode::Provisioned => None,
            Mode::Standard => Some(gb * price("channel-standard")),
            Mode::Advantage => Some(gb * price("channel-advantage")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load() -> TrafficLoad {
        TrafficLoad {
            bytes: 1e12,
            record_bytes: 1_000.0,
            shards: 1.0,
            mode: Mode::Provisioned,
            tasks: 1.0,
            vcpu: 1.0,
            memory_gb: 2.0,
            batch_bytes: 64e6,
            batch_age: 60.0,
            failover: 10.0,
            scan: 1.0,
        }
    }

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < expected * 0.01, "{found} is not {expected}");
    }

    #[test]
    fn known_figures_come_out() {
        let costs = month(&load(), PRICES);
        let part = |name| costs.catchment.iter().find(|(n, _)| *n == name).unwrap().1;
        // A TB of 1 KB records through Firehose is charged as 5 TB.
        close(costs.firehose, 145.0);
        assert_eq!(costs.channel, None);
        // 1 vCPU and 2 GB at $0.0395 an hour.
        close(part("compute"), 28.835);
        // 788,400 beats a month and shard.
        close(part("lease heartbeats"), 0.49);
        // Age cuts before size does at 0.38 MB/s: 43,800 objects.
        close(part("S3 requests"), 0.219);
        assert_eq!(part("reading the stream"), 0.0);
    }

    #[test]
    fn on_demand_streams_belong_to_the_channel() {
        let costs = month(&TrafficLoad { mode: Mode::Standard, ..load() }, PRICES);
        close(costs.channel.unwrap(), 27.5);
        assert!(costs.channel.unwrap() < costs.total());
        let costs = month(&TrafficLoad { mode: Mode::Advantage, ..load() }, PRICES);
        close(costs.channel.unwrap(), 11.0);
    }

    #[test]
    fn large_records_round_up_little_and_fill_objects() {
        let load = TrafficLoad { bytes: 100e12, record_bytes: 50_000.0, shards: 40.0, ..load() };
        let costs = month(&load, PRICES);
        close(costs.firehose, 2_900.0);
        let puts = costs.catchment.iter().find(|(n, _)| *n == "S3 requests").unwrap().1;
        // 0.95 MB/s a shard: 57 MB in 60 s, so that age still cuts.
        close(puts, 40.0 * 43_800.0 * 0.005 / 1_000.0);
    }

    #[test]
    fn prices_change_by_name_and_nothing_else() {
        let mut prices = PRICES.to_vec();
        change(&mut prices, "firehose", "0.058").unwrap();
        close(month(&load(), &prices).firehose, 290.0);
        assert!(change(&mut prices, "fire", "1").unwrap_err().contains("vcpu-hour"));
        assert!(change(&mut prices, "put", "-1").unwrap_err().contains("dollars"));
    }
}
