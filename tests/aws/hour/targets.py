"""Where the run takes place: a real account, the embedded services, or other people's emulators.

The last two are started here and end with the run. Other people's are those of .ci: kinesis-local for
Kinesis, ministack for DynamoDB and S3, which checks signatures and the policy of README.md (AUTH=true).
"""
import contextlib
import json
import shutil
import sys
import tempfile
from pathlib import Path

from hour.account import Account, is_real
from hour.calls import policy

CI = Path(__file__).resolve().parents[3] / ".ci"
sys.path.insert(0, str(CI))

ANY_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
MEANS = {
    "AWS": "What is said here was answered by AWS, in one region, on one day.",
    "embedded": "Against the embedded services of `catchment local`. This shows that the script runs; **nothing here "
                "is a statement about AWS**, and `DIFFERENT` means that these services differ from what is expected "
                "of AWS.",
    "emulator": "Against kinesis-local, and ministack for DynamoDB and S3 (which enforces the policy of "
                "tests/aws/README.md). This shows that the script runs; **nothing here is a statement about AWS**, "
                "and `DIFFERENT` means that these emulators differ from what is expected of AWS.",
    "endpoint": "Against the endpoints that were given. Nothing here is a statement about AWS.",
}


class Unavailable(Exception):
    """The target cannot be had here; the text says why."""


@contextlib.contextmanager
def target(options, meter):
    """An Account of the chosen target."""
    if options.local:
        with embedded(options, meter) as account:
            yield account
    elif options.emulator:
        with emulators(options, meter) as account:
            yield account
    else:
        endpoints = options.endpoints
        yield Account("AWS" if is_real(endpoints) else "endpoint", options.region, endpoints, {}, meter)


@contextlib.contextmanager
def embedded(options, meter):
    from kinesis_independent import embedded as start

    from lib.processes import end_group
    if not options.binary:
        raise Unavailable("set CATCHMENT_BIN to the worker's binary")
    home = tempfile.mkdtemp(prefix="catchment-hour-")
    process, printed = start(options.binary, home)
    try:
        url = printed.get("AWS_ENDPOINT_URL")
        if not url:
            raise Unavailable("the embedded services do not start")
        keys = {name: value for name, value in printed.items() if name.startswith(("AWS_ACCESS", "AWS_SECRET"))}
        endpoints = dict.fromkeys(("kinesis", "dynamodb", "s3"), url)
        yield Account("embedded", printed.get("AWS_REGION", options.region), endpoints, keys, meter)
    finally:
        end_group(process)
        shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def emulators(options, meter):
    from kinesis_independent import KinesisLocal

    from lib.ministack import BASE, REGION, Ministack
    from lib.processes import end_group
    home = tempfile.mkdtemp(prefix="catchment-hour-")
    try:
        with Ministack():
            process, url = KinesisLocal.start(home)
            if not process:
                raise Unavailable(url)
            try:
                endpoints = {"kinesis": url, "dynamodb": BASE, "s3": BASE, "sts": BASE}
                yield Account("emulator", REGION, endpoints, narrowed(), meter)
            finally:
                end_group(process, 2)  # it waits for subscribers who are gone
    finally:
        shutil.rmtree(home, ignore_errors=True)


def narrowed():
    """Credentials of a role that has the policy of README.md and nothing else."""
    from lib.ministack import client
    from lib.templates import ACCOUNT
    trust = {"Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}}]}
    iam = client("iam")
    role = iam.create_role(RoleName="hour", AssumeRolePolicyDocument=json.dumps(trust))["Role"]
    iam.put_role_policy(RoleName="hour", PolicyName="hour", PolicyDocument=json.dumps(policy()))
    given = client("sts").assume_role(RoleArn=role["Arn"], RoleSessionName="hour")["Credentials"]
    return {"AWS_ACCESS_KEY_ID": given["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": given["SecretAccessKey"],
            "AWS_SESSION_TOKEN": given["SessionToken"]}
