#!/usr/bin/env python3
"""An hour on AWS: an acceptance and measurements, in a stream, table and bucket of their own.

    CATCHMENT_BIN=target/release/catchment python3 tests/aws/run.py          prints the plan and its cost
    CATCHMENT_BIN=target/release/catchment python3 tests/aws/run.py --yes    goes on
    python3 tests/aws/run.py --local | --emulator                            here, in a short form
    python3 tests/aws/run.py resume --state FILE --yes                       the second day of --expire-after
    python3 tests/aws/run.py cleanup [--yes]                                 what an earlier run left

tests/aws/README.md says what it does, costs and needs. It ends with 0 if everything that Catchment must
do was done, 1 if not, 2 for a wrong call; a measurement that differs from expectation is no failure.
"""
import argparse
import datetime
import os
import signal
import sys
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / ".ci"))

from lib import tools  # noqa: E402


def parsed():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", nargs="?", default="run", choices=["run", "resume", "cleanup"])
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--local", action="store_true", help="start `catchment local` and use it, in a short form")
    where.add_argument("--emulator", action="store_true", help="start kinesis-local and ministack, in a short form")
    parser.add_argument("--region", default=os.environ.get("AWS_REGION") or "us-east-1")
    parser.add_argument("--endpoint-url", action="append", default=[], metavar="SERVICE=URL",
                        help="kinesis, dynamodb, s3 or sts; may be repeated")
    parser.add_argument("--budget", type=float, default=5.0, help="dollars; the run stops before it passes them")
    parser.add_argument("--yes", action="store_true", help="create (or clean up) in a real account")
    parser.add_argument("--only", action="append", metavar="NAME", help="one group; may be repeated")
    parser.add_argument("--keep", action="store_true", help="delete nothing at the end; `cleanup` does it later")
    parser.add_argument("--rate", type=int, help="records a second (2000)")
    parser.add_argument("--seconds", type=int, help="of load (60)")
    parser.add_argument("--pages", type=int, help="asked of an idle shard (30)")
    parser.add_argument("--fan-out-shards", type=int, help="(200)")
    parser.add_argument("--expire-after", action="store_true",
                        help="leave a stream for `resume` on the next day, and write --state")
    parser.add_argument("--state", default="catchment-hour.json", help="file that `resume` reads")
    parser.add_argument("--report", default="hour-report", help="writes REPORT.md and REPORT.json")
    options = parser.parse_args()
    short = options.local or options.emulator
    for name, usual, brief in (("rate", 2000, 200 if options.local else 50), ("seconds", 60, 8), ("pages", 30, 5),
                               ("fan_out_shards", 200, 16 if options.local else 8)):
        if getattr(options, name) is None:
            setattr(options, name, brief if short else usual)
    pairs = [one.partition("=") for one in options.endpoint_url]
    if any(not url or name not in ("kinesis", "dynamodb", "s3", "sts") for name, _, url in pairs):
        parser.error("--endpoint-url SERVICE=URL, with kinesis, dynamodb, s3 or sts")
    options.endpoints = {name: url for name, _, url in pairs}
    binary = os.environ.pop("CATCHMENT_BIN", None)
    options.binary = str(Path(binary).resolve()) if binary else None
    return options


def groups():
    from hour import acceptance, answers, expired, fanout, reading, subscription, wire
    return {module.NAME: module for module in (expired, reading, answers, wire, subscription, acceptance, fanout)}


def chosen(options):
    known = groups()
    wrong = set(options.only or []) - set(known)
    if wrong:
        print(f"--only {', '.join(sorted(wrong))}: one of {', '.join(known)}", file=sys.stderr)
        sys.exit(2)
    return [module for name, module in known.items() if not options.only or name in options.only]


def print_plan(options, modules):
    from hour.cost import SOURCE
    print(f"Planned, with {SOURCE}:")
    total = 0.0
    for module in modules:
        for what, dollars in module.plan(options):
            total += dollars
            print(f"  {module.NAME:<12} {what:<60} ${dollars:.4f}")
    print(f"  {'':<12} {'in all':<60} ${total:.2f}; stops before ${options.budget:.2f}", flush=True)
    return total


def measured(owned, options, modules):
    """The findings of all groups, and what ended the run early, if anything did."""
    from hour.cost import OverBudget
    from hour.finding import Finding
    found = []
    for module in modules:
        begun = time.monotonic()
        print(f"== {module.NAME}", flush=True)
        try:
            some = module.run(owned, options)
        except KeyboardInterrupt:
            return found, "interrupted"
        except OverBudget as problem:
            return found, str(problem)
        except Exception as problem:
            traceback.print_exc()
            failure = Finding(module.NAME, "the group ran to its end", "yes", failed=True)
            failure.required = True
            some = [failure.judge(False, f"{type(problem).__name__}: {problem}")]
        found += some
        for one in some:
            print(one.line(), flush=True)
        print(f"-- {module.NAME}: {time.monotonic() - begun:.0f} s", flush=True)
    return found, None


def report(account, options, findings, ended, left):
    from hour import finding, targets
    head = {"target": account.target, "means": targets.MEANS[account.target], "region": account.region,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "ended early": ended or "no", "left behind": left or "nothing", "spent": account.meter.parts()}
    Path(options.report + ".json").write_text(finding.as_json(head, findings))
    Path(options.report + ".md").write_text(finding.as_markdown(head, findings))
    failed = sum(f.failed for f in findings)
    told = ", ".join(f"{count} {name}" for name, count in sorted(finding.counts(findings).items()))
    print(f"{options.report}.md and .json, ${account.meter.spent():.4f} estimated: {told}")
    print(f"{sum(f.required for f in findings) - failed} passed, {failed} failed", flush=True)
    return 1 if failed or ended or left else 0


def clean_up(account, options):
    from hour import owned
    account.meter.closing = True
    found = owned.leftovers(account)
    for kind, name in found:
        print(f"{kind:<7} {name}  run {owned.tag(account, kind, name)}")
    if not found:
        print("nothing is left")
    elif not options.yes:
        print("--yes deletes them")
    else:
        left = [told for kind, name in found for told in owned.removed(account, kind, name)]
        print("\n".join(left) or "deleted")
        return 1 if left else 0
    return 0


def go(account, options):
    from hour import expired
    from hour.owned import Owned
    if options.command == "cleanup":
        return clean_up(account, options)
    modules = chosen(options)
    if options.command == "run":
        planned = print_plan(options, modules)
        if account.real and planned > options.budget:
            print("the plan is over the budget: --only, --fan-out-shards, --rate, --seconds or --budget")
            return 2
    if account.real and not options.yes:
        print("nothing was created: --yes goes on")
        return 2
    if account.real:
        who = account.sts.get_caller_identity()
        print(f"Account {who['Account']} as {who['Arn']}, {account.region}", flush=True)
    if not options.binary and options.command == "run":
        print("SKIPPED: acceptance and fan-out: set CATCHMENT_BIN to the worker's binary", flush=True)
    owned, findings, ended = Owned(account), [], None
    try:
        if options.command == "resume":
            owned, findings = expired.resume(account, options)
        else:
            findings, ended = measured(owned, options, modules)
    except KeyboardInterrupt:
        ended = "interrupted"
    finally:
        # What is being deleted is deleted to its end.
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, signal.SIG_IGN)
        left = [] if options.keep else owned.delete()
    kept = owned.streams + owned.buckets + owned.tables if options.keep else sorted(owned.keep)
    if kept:
        print("kept:", ", ".join(kept))
    return report(account, options, findings, ended, left)


def interrupt(*_):
    raise KeyboardInterrupt


def main():
    requirements = tools.REQUIREMENTS
    if "--emulator" not in sys.argv:
        requirements = HERE / "requirements.txt"
    try:
        tools.enter(__file__, requirements)
    except tools.Unavailable as problem:
        print(f"SKIPPED: the hour on AWS: its packages cannot be installed ({problem})")
        sys.exit(0)
    options = parsed()
    from hour.cost import Meter
    from hour.targets import Unavailable, target
    signal.signal(signal.SIGTERM, interrupt)
    try:
        with target(options, Meter(options.budget)) as account:
            sys.exit(go(account, options))
    except Unavailable as problem:
        print(f"SKIPPED: the hour on AWS: {problem}")
        sys.exit(0)


if __name__ == "__main__":
    main()
