"""Puts records at a rate, and knows of each whether it is on the stream."""
import json
import time

from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError

# A request that was never sent stores nothing; any other failure may have stored everything.
CALL = 500


class Load:
    """Sends `{"id": "n.attempt", ...}`: an attempt that may or may not have landed has an id of its own.

    `stored` are ids on the stream, `unclear` those of calls whose answer was lost.
    """

    def __init__(self, account, stream, size=200):
        self.account, self.stream, self.size = account, stream, size
        self.stored, self.unclear, self.errors, self.latencies = [], set(), {}, []
        self.next, self.waiting, self.late = 0, [], 0

    def fresh(self, count):
        some = [(n, 0) for n in range(self.next, self.next + count)]
        self.next += count
        return some

    def record(self, number, attempt):
        one = f"{number}.{attempt}"
        body = json.dumps({"id": one, "pad": ""})
        body = json.dumps({"id": one, "pad": "x" * max(0, self.size - len(body))})
        # Spread over the hash keys like a uuid.
        return {"Data": body.encode(), "PartitionKey": f"key-{number * 2_654_435_761 % 2**32:08x}"}

    def put(self, some):
        """One PutRecords; what was refused waits for its next attempt."""
        begun = time.monotonic()
        try:
            answer = self.account.once.put_records(
                StreamName=self.stream, Records=[self.record(*one) for one in some])
        except ClientError as problem:
            # Refused as a whole. A 5xx says nothing about what was stored.
            self.count(problem.response["Error"]["Code"])
            if problem.response["ResponseMetadata"]["HTTPStatusCode"] >= 500:
                self.unclear |= {f"{n}.{a}" for n, a in some}
            self.waiting += [(n, a + 1) for n, a in some]
            return
        except (ConnectionError, HTTPClientError, BotoCoreError) as problem:
            self.count(type(problem).__name__)
            self.unclear |= {f"{n}.{a}" for n, a in some}
            self.waiting += [(n, a + 1) for n, a in some]
            return
        self.latencies.append(time.monotonic() - begun)
        for (number, attempt), entry in zip(some, answer["Records"], strict=True):
            if entry.get("ErrorCode"):
                self.count(entry["ErrorCode"])
                self.waiting.append((number, attempt + 1))
            else:
                self.stored.append(f"{number}.{attempt}")
        self.account.meter.put(len(some), self.size)

    def count(self, code):
        self.errors[code] = self.errors.get(code, 0) + 1

    def run(self, rate, seconds, events=()):
        """`rate` records a second for so long, then what was refused again. `events`: (second, function)."""
        begun, events = time.monotonic(), sorted(events, key=lambda e: e[0])
        while True:
            now = time.monotonic() - begun
            while events and events[0][0] <= now:
                events.pop(0)[1]()
            due = min(int(now * rate), int(rate * seconds)) - self.next
            if due <= 0 and now >= seconds:
                break
            # A quarter of a second's records a call, so that the rate is even.
            some = self.fresh(min(due, CALL, max(1, rate // 4))) if due > 0 else []
            again, self.waiting = self.waiting[:CALL - len(some)], self.waiting[CALL - len(some):]
            if some or again:
                self.put(some + again)
            else:
                time.sleep(0.02)
        for _, event in events:
            event()
        self.took = time.monotonic() - begun
        end = time.monotonic() + 120
        while self.waiting and time.monotonic() < end:
            again, self.waiting = self.waiting[:CALL], self.waiting[CALL:]
            self.put(again)
            time.sleep(0.1 if not self.waiting else 0.25)
        if self.waiting:
            raise TimeoutError(f"{len(self.waiting)} records were refused for 120 s: {self.errors}")

    def facts(self):
        """The rate achieved, refusals by code, and latencies of the calls in ms."""
        ordered = sorted(self.latencies) or [0.0]
        return {"records": len(self.stored), "seconds": round(self.took, 1),
                "per_second": round(self.next / self.took), "refusals": self.errors, "unclear": len(self.unclear),
                "call_ms_p50": round(ordered[len(ordered) // 2] * 1000),
                "call_ms_p99": round(ordered[int(len(ordered) * 0.99)] * 1000)}
