"""What the run has cost so far, by list prices, and the end of it before the budget is passed.

Estimates err upwards: each shard ever created counts for every hour begun, requests that fail count,
and the worker is charged what its busiest second could ask for. Taxes and free tiers are left out.
"""
import math
import threading
import time

# us-east-1 list prices in dollars. Other regions differ by up to a half: --budget holds for these.
DATE = "September 2026"
SOURCE = f"us-east-1 list prices as publicly quoted in {DATE}, not read on AWS's own pages: check them"
PRICES = {
    "shard-hour": 0.015,            # begun hours
    "consumer-shard-hour": 0.015,   # by the second: prorated
    "fan-out-gb": 0.013,
    "put-unit": 0.014 / 1e6,        # 25 KB of a record
    "s3-write": 0.005 / 1e3,        # PUT, LIST
    "s3-read": 0.0004 / 1e3,        # GET, HEAD
    "dynamodb-write": 0.625 / 1e6,  # on demand
    "dynamodb-read": 0.125 / 1e6,
    "worker-second": 20 * 0.625 / 1e6 + 4 * 0.005 / 1e3,  # 20 write units and four PUTs in each
}
FREE = {"DeleteObject", "DeleteBucket", "AbortMultipartUpload", "DeleteTable"}


class OverBudget(Exception):
    """What was about to be done would pass the budget; everything that exists is deleted."""


def request_price(service, operation):
    """The dollars of one request; Kinesis charges for records, not for requests."""
    if operation in FREE or service not in ("s3", "dynamodb"):
        return 0.0
    if service == "dynamodb":
        return PRICES["dynamodb-read"] * (25 if operation == "Scan" else 1)
    return PRICES["s3-read" if operation.startswith(("Get", "Head")) else "s3-write"]


class Meter:
    """Counts, by thread; `clock` gives seconds."""

    def __init__(self, budget, clock=time.monotonic):
        self.budget, self.clock = budget, clock
        self.lock = threading.Lock()
        self.fixed, self.requests = {}, {}
        self.shards, self.running = {}, {}
        self.closing = False

    def spent(self):
        """Dollars so far."""
        return sum(self.parts().values())

    def parts(self):
        """Dollars by what they were spent on."""
        now = self.clock()
        with self.lock:
            parts = dict(self.fixed)
            for (count, begun, ended) in self.shards.values():
                hours = max(1, math.ceil(((ended or now) - begun) / 3600))
                add(parts, "shard hours", count * hours * PRICES["shard-hour"])
            for (price, what, count, begun, ended) in self.running.values():
                add(parts, what, count * ((ended or now) - begun) * price)
            for (service, operation), count in self.requests.items():
                add(parts, f"{service} requests", count * request_price(service, operation))
        return parts

    def check(self, more=0.0, what="going on"):
        """Raises OverBudget if so many dollars more would pass the budget."""
        if not self.closing and self.spent() + more > self.budget:
            raise OverBudget(f"{what} would pass the budget: ${self.spent():.2f} spent, ${more:.2f} more, "
                             f"${self.budget:.2f} allowed")

    def request(self, service, operation):
        with self.lock:
            key = (service, operation)
            self.requests[key] = self.requests.get(key, 0) + 1
        self.check(what=f"{service} {operation}")

    def add_shards(self, stream, count):
        """A stream has so many shards more from now on."""
        self.check(count * PRICES["shard-hour"], f"{count} shards")
        with self.lock:
            old, begun, ended = self.shards.get(stream, (0, self.clock(), None))
            self.shards[stream] = (old + count, begun, ended)

    def add_consumer(self, stream, shards):
        with self.lock:
            price = PRICES["consumer-shard-hour"] / 3600
            self.running[stream] = (price, "consumer-shard hours", shards, self.clock(), None)

    def end_stream(self, stream):
        now = self.clock()
        with self.lock:
            for held in (self.shards, self.running):
                if stream in held:
                    held[stream] = (*held[stream][:-1], now)

    def start_worker(self, name):
        with self.lock:
            self.running[name] = (PRICES["worker-second"], "workers' requests", 1, self.clock(), None)

    def end_worker(self, name):
        self.end_stream(name)

    def later(self, what, dollars):
        """What will be charged after this run has ended."""
        self.check(dollars, what)
        with self.lock:
            add(self.fixed, what, dollars)

    def put(self, records, size):
        """Records of so many bytes each were sent."""
        units = records * max(1, math.ceil(size / 25_000))
        with self.lock:
            add(self.fixed, "PUT units", units * PRICES["put-unit"])

    def pushed(self, size):
        """So many bytes came through enhanced fan-out."""
        with self.lock:
            add(self.fixed, "fan-out GB", size / 1e9 * PRICES["fan-out-gb"])


def add(parts, name, dollars):
    parts[name] = parts.get(name, 0.0) + dollars
