"""Which scenarios there are, with which versions, and which of them the gate runs."""
import collections
import contextlib
from functools import partial

from driver import battery, build, kcl, kpl

# `quick`: the versions with which the gate runs it. `needs` builds what it runs, or raises build.Missing.
Scenario = collections.namedtuple("Scenario", "name run versions quick needs")

# 3.5 with items of a migration, and with the client version that a fleet of 2.x is upgraded by.
MIGRATING = ("coordinator.migrateAllEntitiesToLeaseTable=true",)
AS_2X = ("coordinator.clientVersionConfig=CLIENT_VERSION_CONFIG_COMPATIBLE_WITH_2X",)


def variant(run, *settings, **named):
    made = partial(run, **named) if named else lambda options, seen: run(options, seen, *settings)
    made.__doc__ = run.__doc__
    return made


def scenarios():
    old, new, all_three = ("2.7.2",), ("3.4.2", "3.5.1"), build.KCL
    made = [
        ("switch", kcl.stop_and_switch, all_three, ("2.7.2", "3.5.1")),
        ("switch-tables", variant(kcl.stop_and_switch, *MIGRATING), ("3.5.1",), ()),
        ("switch-2x", variant(kcl.stop_and_switch, *AS_2X), ("3.5.1",), ()),
        ("kills", kcl.kills, all_three, ("2.7.2",)),
        ("kills-slow", variant(kcl.kills, delay=1.5, seed=11), all_three, ()),
        ("inside", kcl.inside_a_batch, all_three, ("2.7.2",)),
        ("beside", kcl.side_by_side, old, ("2.7.2",)),
        ("joins", kcl.joins_a_fleet, new, ("3.5.1",)),
        ("reshards", kcl.reshards, all_three, ("2.7.2",)),
        ("clean-up", kcl.clean_up, all_three, ()),
        ("aggregates", kcl.sub_sequence, all_three, ("2.7.2",)),
        ("beginnings", kcl.starting_points, all_three, ()),
        ("streams", kcl.several_streams, all_three, ()),
        ("idle-shard", kcl.idle_shard, all_three, ("2.7.2",)),
    ]
    producers = [
        ("kpl", kpl.through_reshards, build.KPL, ("1.1.1",)),
        # 0.15 has no call without a partition key.
        ("kpl-no-key", kpl.without_keys, ("1.1.1",), ("1.1.1",)),
        ("kpl-auto", kpl.distributed, ("1.1.1",), ("1.1.1",)),
    ]
    clients = Scenario("battery", battery.battery, battery.CLIENTS, battery.QUICK, lambda: None)
    return [*(Scenario(*one, build.java) for one in made), *(Scenario(*one, kpl.needs) for one in producers), clients]


def chosen(options):
    """The scenarios of this run, each with a version; those that wait longest first."""
    found = []
    for scenario in scenarios():
        for version in scenario.versions:
            if options.only and scenario.name not in options.only:
                continue
            if options.version and version not in options.version:
                continue
            if options.quick and not options.version and version not in scenario.quick:
                continue
            found.append((scenario, version))
    return sorted(found, key=lambda pair: not pair[1].startswith("3"))


def prepare(some):
    """Builds one after the other, before anything is timed; what is missing is told by each scenario."""
    for scenario, version in some:
        with contextlib.suppress(build.Missing):
            if scenario.name == "battery":
                battery.command(version)
            else:
                scenario.needs()
