"""Scenarios a to k: a lease table that goes from the KCL to Catchment and back."""
import json
import random
import re
import time

from driver import aws, compare
from driver.aws import wait
from driver.processes import Kcl, Scene, SlowStore, Worker

# The longest pause of a stop-and-switch, from the last record of one to the first object of the other.
FAILOVER = 5
PAUSE_2X, PAUSE_3X = FAILOVER + 15, 90
REFUSED = re.compile(r"KCL 3\.x application is alive")
PATIENCE = 240


class Stage:
    """A scene with a producer, and what all scenarios do in it."""

    def __init__(self, options, seen, shards=4, produce=True, **producing):
        self.options, self.seen, self.version = options, seen, seen.version
        self.three = self.version.startswith("3")
        self.scene = Scene(options.binary, f"{seen.name}-{seen.version}", shards, keep=options.keep)
        self.producer = aws.Producer(self.scene.kinesis, **producing) if produce else None
        if produce:
            self.producer.start()
        self.kcls, self.workers, self.names, self.refusals = [], [], 0, 0

    def __enter__(self):
        return self

    def __exit__(self, kind, problem, _):
        if self.producer:
            self.producer.ending.set()
        self.scene.good = kind is None and self.seen.result in ("ok", "known")
        if not self.scene.good:
            self.seen.figure(kept=self.scene.home)
        self.scene.end()

    def name(self, what):
        self.names += 1
        return f"{what}{self.names}"

    def three_x(self):
        """Settings that let a 3.x worker lead soon after one that led was killed."""
        return ("lease.dynamoDbLockBasedLeaderLeaseDurationInMillis=10000",
                "lease.dynamoDbLockBasedLeaderHeartbeatPeriodInMillis=3000") if self.three else ()

    def kcl(self, *settings, **more):
        one = Kcl(self.scene, self.name("kcl"), self.version, *self.three_x(), *settings, **more)
        self.kcls.append(one)
        return one

    def worker(self, *settings, **more):
        """A worker that runs: while a KCL 3.x worker counts as alive it is started again, as an init system would."""
        name, begun = self.name("catchment"), time.time()
        while True:
            one = Worker(self.scene, name, *settings, **more)
            if not self.three:
                break
            wait(lambda one=one: one.code is not None or "shard taken" in one.text(), 20)
            if one.code is None or time.time() - begun > PATIENCE:
                break
            if not REFUSED.search(one.text()):
                break
            self.refusals += 1
            one.log.unlink()
            time.sleep(3)
        self.workers.append(one)
        return one

    def known_refusals(self):
        """After a stop-and-switch from 3.x: `run` has to wait by itself."""
        if self.three:
            self.seen.check("run waits for a KCL 3.x worker to be gone", not self.refusals,
                            f"exited {self.refusals} times", known="A5")

    def kcl_lines(self):
        return [line for one in self.kcls for line in one.lines()]

    def got(self, one, count, what):
        """Waits until a KCL application has written so many lines."""
        wait(lambda: len(one.lines()) >= count or one.code is not None, PATIENCE, 0.1)
        have = len(one.lines())
        return self.seen.check(f"{what} reads", have >= count, f"{have} of {count}; exit {one.code}")

    def put(self, worker, count, what):
        """Waits until the archive has so many lines."""
        wait(lambda: len(self.scene.archive()) >= count or worker.code is not None, PATIENCE)
        return self.seen.check(f"{what} delivers", len(self.scene.archive()) >= count,
                               f"{len(self.scene.archive())} of {count}; exit {worker.code}")

    def drained(self):
        """Ends the producer, and waits until every record is somewhere."""
        self.producer.end()
        self.seen.check("the producer had no errors", not self.producer.problems, self.producer.problems[:1])

        def everywhere():
            there = {line.id for line in self.scene.archive()} | {line.id for line in self.kcl_lines()}
            return not set(self.producer.truth) - there
        wait(everywhere, PATIENCE, 0.5)

    def judge(self, both=None, known=None, sure=True):
        """Over everything: nothing lost, the archive exactly once; `both`: as many may be in both. `known` names the
        fault that doubles have; where it need not show (not `sure`), its absence says nothing."""
        figures = compare.union(self.producer.truth, self.kcl_lines(), self.scene.archive())
        self.seen.figure(**figures)
        if not sure and not figures["twice"]:
            known = None
        check = self.seen.check
        check("nothing is lost", figures["lost"] == 0, figures["lost"])
        check("nothing is in the archive twice", figures["twice"] == 0, figures["twice"], known=known)
        check("nothing else is there", figures["unknown"] == 0, figures["unknown"])
        if both is not None:
            check(f"at most {both} are in both", figures["both"] <= both, figures["both"])
        # What a KCL worker handled between two of ours is no object of ours: the ranges do not meet there.
        code, said = self.scene.command("verify", "--json")
        problems = [one for one in json.loads(said).get("problems", []) if one["problem"] != "gap"] \
            if code in (0, 3) else [said[-200:]]
        check("catchment verify finds nothing but what the KCL handled", not problems, f"exit {code}: {problems[:1]}",
              known=known)

    def pause(self, last, first, direction):
        seconds = round(first - last, 1)
        limit = PAUSE_3X if self.three else PAUSE_2X
        self.seen.figure(**{direction: f"{seconds}s"})
        self.seen.check(f"the pause {direction} is at most {limit} s", seconds <= limit, f"{seconds} s",
                        known="A5" if self.three else None)


def stop_and_switch(options, seen, *settings):
    """a, b, d: the KCL stops, Catchment goes on; back; and once more. Each continues at the checkpoints, once."""
    with Stage(options, seen) as stage:
        scene, truth, check = stage.scene, stage.producer.truth, seen.check
        first = stage.kcl(*settings)
        stage.got(first, options.records, "the KCL")
        check("the KCL stops", first.stop() in (0, 143), first.code)
        before = scene.rows()
        low = compare.checkpoints(before)
        last = max(line.time for line in first.lines())
        ours = stage.worker()
        stage.put(ours, options.records, "Catchment")
        stage.pause(last, min(line.time for line in scene.archive()), "kcl_to_catchment")
        check("Catchment stops", ours.stop() == 0, ours.code)
        after = scene.rows()
        high = compare.checkpoints(after)
        missing = compare.window(truth, low, high, scene.archive())
        check("the archive has what follows the KCL's checkpoints, once", missing == (0, 0, 0), missing)
        missing = compare.window(truth, {}, low, first.lines())
        check("the KCL had what is before them", missing == (0, 0, 0), missing)
        for key, row in before.items():
            gone = set(row) - set(after.get(key, {})) - {"leaseOwner", "checkpointOwner"}
            check("all attributes of the KCL are kept", not gone, f"{key}: {sorted(gone)}")
        delivered = set(scene.objects())
        last = max(line.time for line in scene.archive())
        second = stage.kcl(*settings)
        stage.got(second, options.records, "the KCL, again")
        stage.pause(last, min(line.time for line in second.lines()), "catchment_to_kcl")
        check("the KCL stops again", second.stop() in (0, 143), second.code)
        back = compare.checkpoints(scene.rows())
        missing = compare.window(truth, high, back, second.lines())
        check("the KCL has what follows Catchment's checkpoints, once", missing == (0, 0, 0), missing)
        ours = stage.worker()
        stage.drained()
        check("Catchment stops again", ours.stop() == 0, ours.code)
        fresh = [line for key, lines in scene.objects().items() if key not in delivered for line in lines]
        missing = compare.window(truth, back, compare.checkpoints(scene.rows()), fresh)
        check("the archive has what follows then, once", missing == (0, 0, 0), missing)
        stage.judge(both=0)
        stage.known_refusals()


def kills(options, seen, delay=0.0, seed=3):
    """c: kill -9 in turns, at drawn moments; `delay`: with a store that answers so late that objects are put and
    not committed at the kill. Records that the KCL handled after its last checkpoint are in both."""
    with Stage(options, seen) as stage:
        drawn, scene = random.Random(seed), stage.scene
        slow = SlowStore(scene.endpoint, delay) if delay else None
        environment = {"AWS_ENDPOINT_URL_S3": slow.url} if slow else {}
        announced, inside, ranges = 0, 0, {}
        for _ in range(options.kills):
            kcl = stage.kcl("checkpoint-every=25")
            stage.got(kcl, drawn.randrange(60, 300), "the KCL")
            time.sleep(drawn.random())
            kcl.kill()
            reached = compare.checkpoints(scene.rows())
            inside += sum(low < reached[shard][0] < high for shard, (low, high) in ranges.items())
            have = len(scene.archive())
            ours = stage.worker(environment=environment)
            stage.put(ours, have + drawn.randrange(60, 300), "Catchment")
            time.sleep(drawn.random())
            ours.kill()
            ranges = compare.announced(scene.rows())
            announced += len(ranges)
        ours = stage.worker()
        stage.drained()
        seen.check("Catchment stops", ours.stop() == 0, ours.code)
        seen.figure(kills=f"{options.kills}+{options.kills}", announced=announced, inside=inside)
        # By chance a KCL worker was killed inside a batch whose object was there, as `inside` brings about.
        stage.judge(known="A2" if inside else None, sure=False)
        stage.known_refusals()


def inside_a_batch(options, seen):
    """c, in the middle: Catchment is killed between PUT and commit, a KCL worker checkpoints inside the announced
    range and is killed, Catchment goes on."""
    with Stage(options, seen, shards=1, size=20) as stage:
        scene = stage.scene
        kcl = stage.kcl()
        stage.got(kcl, 40, "the KCL")
        kcl.kill()
        slow = SlowStore(scene.endpoint, 60)
        ours = stage.worker("delivery.batch_age=3s", environment={"AWS_ENDPOINT_URL_S3": slow.url})
        wait(lambda: slow.put > 0 or ours.code is not None, PATIENCE, 0.1)
        time.sleep(0.5)
        ours.kill()
        rows = scene.rows()
        between = compare.announced(rows) and scene.archive()
        seen.check("Catchment was killed between PUT and commit", between, len(rows))
        announced = {line.id for line in scene.archive()}
        # It checkpoints one record and dies: inside the range, of which all is in the archive.
        kcl = stage.kcl(f"halt-after={min(len(announced) // 3 or 1, 300)}", "pause=2")
        wait(lambda: kcl.code is not None, PATIENCE)
        at = compare.checkpoints(scene.rows())
        inside = [line for line in scene.archive() if line.sequence <= at.get(line.shard, (-1, 0))[0]]
        provoked = 0 < len(inside) < len(announced)
        seen.check("the KCL checkpointed inside the announced range", provoked, f"{len(inside)} of {len(announced)}")
        ours = stage.worker()
        stage.drained()
        seen.check("Catchment stops", ours.stop() == 0, ours.code)
        seen.figure(announced=len(announced), inside=len(inside))
        stage.judge(known="A2" if provoked else None)
        stage.known_refusals()


def side_by_side(options, seen):
    """e: KCL 2.x and Catchment on one table, worker by worker; both take over from each other's dead."""
    with Stage(options, seen, shards=6) as stage:
        scene, check = stage.scene, seen.check

        def shares():
            """Leases by owner; one that was asked for is still its present owner's."""
            owners = [row.get("checkpointOwner") or row.get("leaseOwner") for row in scene.rows().values()]
            owners = [owner for owner in owners if owner]
            return {owner: owners.count(owner) for owner in owners}

        kcl = stage.kcl()
        stage.got(kcl, 100, "the KCL")
        wait(lambda: shares().get(kcl.name) == 6, 60)
        begun, have = time.time(), shares()
        check("the KCL has all leases", have.get(kcl.name) == 6, have)
        ours = stage.worker()
        asked = []

        def taken():
            if not asked and any(row.get("checkpointOwner") for row in scene.rows().values()):
                asked.append(time.time())
            return shares().get(ours.name)
        wait(taken, 150, 0.5)
        first = time.time()
        seen.figure(first_lease=f"{first - begun:.0f}s", asked_for=f"{first - (asked or [first])[0]:.0f}s")
        # 30 s plus the failover, and the worker's start and scans.
        seconds = first - (asked or [begun])[0]
        check("a lease is handed over within 30 s plus the failover", seconds <= 30 + FAILOVER + 10, f"{seconds:.0f} s")
        wait(lambda: shares().get(ours.name) == 3 and shares().get(kcl.name) == 3, 120, 0.5)
        check("both have a fair share", shares() == {ours.name: 3, kcl.name: 3}, shares())
        begun = time.time()
        kcl.kill()
        wait(lambda: shares().get(ours.name) == 6, 60, 0.5)
        check("Catchment takes over from a dead KCL worker", shares().get(ours.name) == 6, shares())
        seen.figure(from_dead_kcl=f"{time.time() - begun:.0f}s")
        other = stage.kcl()
        wait(lambda: shares().get(other.name) == 3, 120, 0.5)
        begun = time.time()
        ours.kill()
        wait(lambda: shares().get(other.name) == 6, 60, 0.5)
        check("the KCL takes over from a dead Catchment worker", shares().get(other.name) == 6, shares())
        seen.figure(from_dead_catchment=f"{time.time() - begun:.0f}s")
        check("the KCL stops", other.stop() in (0, 143), other.code)
        ours = stage.worker()
        stage.drained()
        check("Catchment stops", ours.stop() == 0, ours.code)
        stage.judge()


def joins_a_fleet(options, seen):
    """f: a 3.x worker is refused by name while it lives, is noticed when it joins, and ends no fleet."""
    with Stage(options, seen, shards=6) as stage:
        scene, check = stage.scene, seen.check
        stage.three = False  # no second tries below
        one, two = stage.worker(), stage.worker()
        stage.put(one, 60, "the fleet")
        kcl = Kcl(scene, stage.name("kcl"), seen.version, "lease.dynamoDbLockBasedLeaderLeaseDurationInMillis=10000",
                  "lease.dynamoDbLockBasedLeaderHeartbeatPeriodInMillis=3000")
        stage.kcls.append(kcl)
        def reports():
            return [*scene.rows().values(), *scene.rows("app-WorkerMetricStats").values()]
        wait(lambda: any("lut" in row for row in reports()), 90)
        wait(lambda: any("3.x" in line for worker in (one, two) for line in worker.warnings()), 45)
        noticed = [line for worker in (one, two) for line in worker.warnings() if "3.x" in line]
        check("a worker of KCL 3.x that joins is noticed", noticed, "no warning in 45 s", known="A5")
        check("the fleet goes on", one.code is None and two.code is None, (one.code, two.code))
        two.kill()
        have = len(scene.archive())
        three = stage.worker()
        wait(lambda: three.code is not None or "shard taken" in three.text(), 30)
        check("a fleet that runs may replace its dead worker", three.code is None, f"exit {three.code}", known="A5")
        if three.code is not None:
            check("the KCL worker is named", kcl.name in three.text(), three.text()[-200:])
        stage.put(one, have + 60, "the rest of the fleet")
        kcl.kill()
        stage.drained()
        for worker in (one, three):
            worker.stop()
        stage.judge()


def reshards(options, seen):
    """g: split while the KCL reads, which is killed; Catchment; merge, killed; the KCL; Catchment. Parents first."""
    with Stage(options, seen, shards=2) as stage:
        scene, check = stage.scene, seen.check
        kcl = stage.kcl()
        stage.got(kcl, 100, "the KCL")
        aws.split(scene.kinesis)
        time.sleep(2)
        kcl.kill()
        ours = stage.worker()
        stage.put(ours, 200, "Catchment")
        aws.merge(scene.kinesis)
        have = len(scene.archive())
        stage.put(ours, have + 60, "Catchment after the merge")
        ours.kill()
        again = stage.kcl()
        stage.got(again, 150, "the KCL after the merge")
        aws.split(scene.kinesis, -1)
        stage.got(again, len(again.lines()) + 100, "the KCL after the second split")
        again.kill()
        ours = stage.worker()
        stage.drained()
        check("Catchment stops", ours.stop() == 0, ours.code)
        rows = scene.rows()
        for what, lines in (("KCL", kcl.lines()), ("KCL", again.lines()), ("archive", scene.archive())):
            wrong = compare.parents_first(rows, lines)
            check(f"parents before children in the {what}", wrong is None, wrong)
        ended = [key for key, row in rows.items() if row.get("checkpoint") == "SHARD_END"]
        seen.figure(shards=len(rows), ended=len(ended))
        check("the parents are finished", len(ended) >= 3, ended)
        stage.judge()
        stage.known_refusals()


def clean_up(options, seen):
    """g, clean-up: rows of finished parents that the KCL removed are not made again."""
    with Stage(options, seen, shards=1) as stage:
        scene, check = stage.scene, seen.check
        kcl = stage.kcl("clean-up=3000")
        stage.got(kcl, 60, "the KCL")
        aws.split(scene.kinesis)
        parent = "shardId-000000000000"
        wait(lambda: len(scene.rows()) >= 2 and parent not in scene.rows(), 120)
        check("the KCL removes the row of the parent", parent not in scene.rows(), sorted(scene.rows()))
        kcl.kill()
        ours = stage.worker()
        have = len(scene.archive())
        stage.put(ours, have + 120, "Catchment")
        time.sleep(12)  # two rounds of its own shard sync
        check("Catchment does not make it again", parent not in scene.rows(), sorted(scene.rows()))
        stage.drained()
        check("Catchment stops", ours.stop() == 0, ours.code)
        check("nothing of it is delivered", not [x for x in scene.archive() if x.shard == parent], "read again")
        stage.judge()
        stage.known_refusals()


def sub_sequence(options, seen):
    """h: a checkpoint inside a KPL aggregate, both ways; whoever goes on begins at the next user record."""
    with Stage(options, seen, shards=1, produce=False) as stage:
        scene, check = stage.scene, seen.check
        first = [f"a{at:03d}" for at in range(60)]
        for at in range(0, 60, 20):
            scene.kinesis("PutRecord", StreamName="local", PartitionKey="k", Data=aws.aggregate(first[at:at + 20]))
        kcl = stage.kcl("halt-after=27")
        wait(lambda: kcl.code is not None, PATIENCE)
        row = next(iter(one for key, one in scene.rows().items() if key.startswith("shardId")))
        check("the KCL checkpointed inside an aggregate", row.get("checkpointSubSequenceNumber") == "6", row)
        ours = stage.worker("delivery.batch_records=8")
        wait(lambda: len(scene.archive()) >= 33 or ours.code is not None, PATIENCE)
        got = [line.id for line in sorted(scene.archive(), key=lambda line: (line.sequence, line.sub))]
        check("Catchment goes on at the next user record", got == first[27:], got[:2])
        # And back: killed with a checkpoint inside an aggregate.
        ours.stop()
        ours = stage.worker("delivery.batch_records=8", "delivery.batch_age=60s")
        second = [f"b{at:03d}" for at in range(20)]
        scene.kinesis("PutRecord", StreamName="local", PartitionKey="k", Data=aws.aggregate(second))
        wait(lambda: compare.checkpoints(scene.rows()).get("shardId-000000000000", (0, 0))[1] == 15, 90)
        ours.kill()
        at = compare.checkpoints(scene.rows())["shardId-000000000000"]
        check("Catchment's checkpoint is inside an aggregate", 0 < at[1] < 19, at)
        kcl = stage.kcl("checkpoint-every=0")
        rest = second[at[1] + 1:]
        stage.got(kcl, len(rest), "the KCL")
        time.sleep(1)
        got = [line.id for line in kcl.lines()]
        check("the KCL goes on at the next user record", got == rest, got[:2])
        seen.figure(first=first[27], back=rest[0], records=80)
        kcl.stop()
        stage.known_refusals()


def starting_points(options, seen):
    """i: rows that nobody has read from yet: TRIM_HORIZON, LATEST, AT_TIMESTAMP."""
    for where in ("TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"):
        with Stage(options, seen, shards=2, produce=False) as stage:
            scene, check = stage.scene, seen.check
            stage.producer = aws.Producer(scene.kinesis)
            stage.producer.put(40)
            time.sleep(1.2)
            now = time.time()
            initial = str(int(now * 1000)) if where == "AT_TIMESTAMP" else where
            # Reads nothing from leases it makes: pages of it come every ten minutes.
            kcl = stage.kcl(f"initial={initial}", "idle=600000", "halt-after=1")

            def owned(scene=scene):
                return [row for row in scene.rows().values() if "checkpoint" in row and "leaseOwner" in row]
            wait(lambda kcl=kcl, owned=owned: kcl.code is not None or len(owned()) == 2, PATIENCE)
            kcl.kill()
            found = {row["checkpoint"] for row in scene.rows().values() if "checkpoint" in row}
            settings = ()
            if where == "AT_TIMESTAMP":
                settings = ("stream.start=" + time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)),)
            ours = stage.worker(*settings)
            wait(lambda ours=ours: ours.code is not None or ours.text().count("shard taken") >= 2, 60)
            time.sleep(2)
            stage.producer.put(40)
            want = 80 if where == "TRIM_HORIZON" else 40
            wait(lambda scene=scene, want=want: len(scene.archive()) >= want, 60)
            time.sleep(2)
            have = len({line.id for line in scene.archive()})
            seen.figure(**{where: have})
            check(f"{where}: the rows begin there", found == {where}, found)
            check(f"{where}: what it means is delivered", have == want, f"{have} of {want}")
            if where == "AT_TIMESTAMP":
                wrong = [line for line in ours.warnings() if "is ignored" in line]
                check("no warning that stream.start is ignored", not wrong, wrong[:1])
            ours.stop()
            stage.known_refusals()


def several_streams(options, seen):
    """j: a multi-stream table: rows of our stream are continued, those of the others untouched."""
    with Stage(options, seen, shards=2) as stage:
        scene, check = stage.scene, seen.check
        scene.kinesis("CreateStream", StreamName="other", ShardCount=2)
        about = [scene.kinesis("DescribeStreamSummary", StreamName=name)["StreamDescriptionSummary"]
                 for name in ("local", "other")]
        ids = [f"{one['StreamARN'].split(':')[4]}:{one['StreamName']}:{int(one['StreamCreationTimestamp'])}"
               for one in about]
        other = aws.Producer(scene.kinesis, stream="other", prefix="o")
        other.put(20)
        kcl = stage.kcl("streams=" + ",".join(ids))
        stage.got(kcl, options.records, "the KCL")
        kcl.stop()
        before = scene.rows()
        # 2.x keeps no state of its own there, 3.x does.
        theirs = {key: row for key, row in before.items() if key.startswith(ids[1])}
        ours_before = {key: row for key, row in before.items() if key.startswith(ids[0])}
        check("both streams have rows", len(theirs) == 2 and len(ours_before) == 2, sorted(before))
        low = compare.checkpoints(ours_before)
        ours = stage.worker()
        stage.put(ours, options.records, "Catchment")
        check("Catchment stops", ours.stop() == 0, ours.code)
        after = scene.rows()
        high = compare.checkpoints({key: row for key, row in after.items() if key.startswith(ids[0])})
        missing = compare.window(stage.producer.truth, low, high, scene.archive())
        check("the archive has what follows the KCL's checkpoints, once", missing == (0, 0, 0), missing)
        changed = [key for key, row in theirs.items() if after.get(key) != row]
        check("rows of the other stream are untouched", not changed, changed)
        back = stage.kcl("streams=" + ",".join(ids))
        stage.got(back, 100, "the KCL, again")
        back.stop()
        ours = stage.worker()
        stage.drained()
        check("Catchment stops again", ours.stop() == 0, ours.code)
        kcl_lines = [line for line in stage.kcl_lines() if not line.id.startswith("o")]
        seen.figure(**(figures := compare.union(stage.producer.truth, kcl_lines, scene.archive())))
        wrong = {name: figures[name] for name in ("lost", "twice", "both", "unknown") if figures[name]}
        check("nothing is lost or doubled", not wrong, wrong)
        stage.known_refusals()


def idle_shard(options, seen):
    """k: everything the KCL read has left retention, and nothing came after it: no gap."""
    with Stage(options, seen, shards=2) as stage:
        scene, check = stage.scene, seen.check
        kcl = stage.kcl()
        stage.got(kcl, 60, "the KCL")
        stage.producer.end()
        first = dict(stage.producer.truth)
        wait(lambda: len(kcl.lines()) >= len(first), 60)
        check("the KCL stops", kcl.stop() in (0, 143), kcl.code)
        check("the KCL has everything", len(kcl.lines()) == len(first), len(kcl.lines()))
        scene.age(30)
        stage.producer = aws.Producer(scene.kinesis, prefix="n")
        ours = stage.worker()
        time.sleep(10)
        check("an idle worker idles", ours.code is None, ours.code)
        expired = not aws.records(scene.kinesis)
        check("the records have expired", expired, "they have not")
        stage.producer.put(120)
        wait(lambda: len(scene.archive()) >= 120 or ours.code is not None, 60)
        have = len(scene.archive())
        seen.figure(expired=len(first), after=120, delivered=have)
        check("an idle shard of a KCL table is no gap", ours.code is None and have == 120,
              f"exit {ours.code}, {have} of 120 delivered")
        ours.stop()
        stage.known_refusals()
