#!/usr/bin/env python3
"""The whole chain in other people's AWS: deploy ecs/, log in, upload, archive, stop, take down.

    CATCHMENT_BIN=target/debug/catchment python3 .ci/whole_chain_acceptance.py

ministack plays CloudFormation, Cognito with its hosted UI, the HTTP API with its JWT authorizer, IAM
(AUTH=true: signatures and policies are checked), Lambda, Kinesis, DynamoDB and S3. Ours are the two
templates, the function's zip and the worker's binary. ministack starts no containers, so the worker
is started here, with the environment of the registered task definition and the credentials of the
task role. Environment:
    CATCHMENT_BIN     the worker; without it everything is skipped
    UPLOAD_API_BIN    the bootstrap to zip; otherwise it is built (profile `dist`)
    FRONT_DOOR_PORT   ministack's port (14566)

The last line is `N passed, N failed`, or begins with SKIPPED.
"""
import gzip
import json
import os
import re
import secrets
import signal
import subprocess
import traceback
from functools import partial
from pathlib import Path
from urllib.parse import quote

from lib import front_door, ministack
from lib.checks import ROOT, check, finish, free_port, skip_all, tally, wait_for, worker_binary
from lib.ministack import BASE, PORT, REGION, Ministack, call
from lib.templates import ACCOUNT, parameters, platform_parameters, worker_body

NAME, BUCKET, TABLE, USER = "clicks", "clicks-archive", "catchment", "alice@example.com"
PASSWORD = "Correct-horse-9"
NOT_SHOWN = """\
not shown here: real ECS (placement, SIGTERM through the agent, circuit breaker, autoscaling, Spot,
  capacity providers: no emulator starts tasks; ScalableTarget and policies are left out), the image
  (.ci/container.sh runs it), encryption and lifecycle (ministack drops them; ecs_checks.py asserts
  the text), throttling, API Gateway's limits and error bodies, the Lambda resource permission,
  Amazon Linux 2023 (.ci/lambda_numbers.sh checks glibc), TLS, CloudWatch alarms, Managed Prometheus.
  Resharding, retention, crashes and zombies are cargo test's and the simulation's."""


# A refusal is an answer here, and is asked for once.
client = partial(ministack.client, attempts=1)


class Chain:
    """The deployed stacks and the clients to look at them."""

    def __init__(self, archive):
        self.formation, self.cognito, self.ecs = client("cloudformation"), client("cognito-idp"), client("ecs")
        self.kinesis, self.s3, self.table = client("kinesis"), client("s3"), client("dynamodb")
        self.s3.create_bucket(Bucket="code")
        self.s3.put_object(Bucket="code", Key="upload.zip", Body=archive)
        text = (ROOT / "ecs" / "platform.yaml").read_text()
        self.platform = self.create("platform", text, platform_parameters())
        network = client("ec2")
        vpc = network.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        subnet = network.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
        body, self.left_out = worker_body()
        # gzip, which this script can read.
        self.worker_stack = self.create("worker", body, parameters(
            Image="example/catchment:1", StreamArn=self.platform["StreamArn"], VpcId=vpc,
            SubnetIds=subnet, BucketName=self.platform["BucketName"], Compression="gzip",
            LeaseTableName=self.platform["LeaseTableName"], BatchAge="1s", Folder="archive/"))
        self.host = f"{self.platform['ApiId']}.execute-api.localhost:{PORT}"
        self.credentials = self.task_role()
        self.plain_http()

    def task_role(self):
        """Credentials of the task role, as ECS hands them to the container."""
        from botocore.exceptions import ClientError
        arn, sts = self.worker_stack["TaskRoleArn"], client("sts")
        try:
            sts.assume_role(RoleArn=arn, RoleSessionName="worker")
            check("only ECS may take the task role", False, "anybody may")
        except ClientError as error:
            check("only ECS may take the task role", "AccessDenied" in str(error), error)
        # ECS is not here: this script is let in besides. The permissions stay as they are.
        root = {"Version": "2012-10-17", "Statement": [{
            "Effect": "Allow", "Action": "sts:AssumeRole",
            "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}}]}
        client("iam").update_assume_role_policy(RoleName=arn.rsplit("/", 1)[1], PolicyDocument=json.dumps(root))
        return sts.assume_role(RoleArn=arn, RoleSessionName="worker")["Credentials"]

    def plain_http(self):
        """The bucket's policy refuses it, and ministack is plain HTTP: shown, then taken away."""
        from botocore.exceptions import ClientError
        try:
            self.as_worker("s3").head_bucket(Bucket=BUCKET)
            check("the bucket refuses plain HTTP", False, "it answers")
        except ClientError as error:
            check("the bucket refuses plain HTTP", error.response["Error"]["Code"] == "403", error)
        self.s3.delete_bucket_policy(Bucket=BUCKET)

    def create(self, name, body, values):
        self.formation.create_stack(StackName=name, TemplateBody=body, Parameters=values,
                                    Capabilities=["CAPABILITY_IAM"])
        self.formation.get_waiter("stack_create_complete").wait(
            StackName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 30})
        told = self.formation.describe_stacks(StackName=name)["Stacks"][0]
        check(f"stack {name}: CREATE_COMPLETE", told["StackStatus"] == "CREATE_COMPLETE", told)
        return {o["OutputKey"]: o["OutputValue"] for o in told["Outputs"]}

    def as_worker(self, name):
        return client(name, aws_access_key_id=self.credentials["AccessKeyId"],
                      aws_secret_access_key=self.credentials["SecretAccessKey"],
                      aws_session_token=self.credentials["SessionToken"])

    def environment(self):
        """What ECS would hand the container, and what this machine needs besides."""
        task = self.ecs.describe_task_definition(taskDefinition=self.worker_stack["TaskDefinition"])
        containers = task["taskDefinition"]["containerDefinitions"]
        worker = next(c for c in containers if c["name"] == "worker")
        environment = {pair["name"]: pair["value"] for pair in worker["environment"]}
        check("the task definition names stream, bucket and table", (
            environment["CATCHMENT_STREAM_NAME"], environment["CATCHMENT_DELIVERY_BUCKET"],
            environment["CATCHMENT_LEASE_APPLICATION"]) == (
            self.platform["StreamArn"], BUCKET, TABLE), environment)
        self.listen = f"127.0.0.1:{free_port()}"
        return environment | {
            "CATCHMENT_TELEMETRY_LISTEN": self.listen, "CATCHMENT_AWS_PATH_STYLE": "true",
            "AWS_REGION": REGION, "AWS_ENDPOINT_URL": BASE, "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ACCESS_KEY_ID": self.credentials["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": self.credentials["SecretAccessKey"],
            "AWS_SESSION_TOKEN": self.credentials["SessionToken"], "PATH": os.environ["PATH"],
        }

    def keys(self, prefix):
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def archived(self):
        """Every line of every archive object."""
        bodies = [self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in self.keys("archive/")]
        return [line for body in bodies for line in gzip.decompress(body).splitlines()]


def login(chain):
    pool, browser = chain.platform["UserPoolId"], chain.platform["ClientId"]
    chain.cognito.admin_create_user(UserPoolId=pool, Username=USER, MessageAction="SUPPRESS",
                                    UserAttributes=[{"Name": "email", "Value": USER}])
    chain.cognito.admin_set_user_password(UserPoolId=pool, Username=USER, Password=PASSWORD, Permanent=True)
    verifier = secrets.token_urlsafe(48)
    code = front_door.hosted_login(browser, USER, PASSWORD, verifier)
    check("login through the hosted UI returns to localhost:3000 with a code", code)
    check("the code is worth nothing without its verifier", front_door.exchange(browser, code, "x" * 48)[0] == 400)
    code = front_door.hosted_login(browser, USER, PASSWORD, verifier)
    status, tokens = front_door.exchange(browser, code, verifier)
    check("code and verifier become a token", status == 200 and "access_token" in tokens, tokens)
    return "Bearer " + tokens["access_token"]


def uploads(chain, token):
    check("without a token: 401", front_door.upload(chain, None)[0] == 401)
    check("with a broken token: 401", front_door.upload(chain, token[:-8] + "AAAAAAAA")[0] == 401)
    status, _, answer = front_door.upload(chain, token, b"Hello, Catchment", Content_Type="text/plain")
    good = re.fullmatch(r"uploads/[0-9a-f-]{36}\.txt", str(answer.get("file_key")))
    check("upload with the token: 200 and the exact answer", status == 200 and good and answer == {
        "message": "File uploaded and event sent", "file_key": answer["file_key"]}, (status, answer))
    return answer["file_key"]


def stored(chain, token, key):
    def asked():
        status, _, text = call("GET", "/" + key, None, {"Authorization": token}, chain.host)
        return text if status == 200 else None
    text = wait_for("the uploader sees the file stored", asked)
    check("the API says stored", text and json.loads(text)["status"] == "stored", text)
    found = chain.s3.get_object(Bucket=BUCKET, Key=key)
    check("the file is in the bucket, byte for byte", found["Body"].read() == b"Hello, Catchment")
    check("with its content type", found["ContentType"] == "text/plain", found["ContentType"])


def archive(chain):
    expected = sorted(b'{"n":%d}' % n for n in range(500))
    for at in range(0, len(expected), 100):
        reply = chain.kinesis.put_records(StreamName=NAME, Records=[
            {"Data": line, "PartitionKey": line.decode()} for line in expected[at:at + 100]])
        check("records of another producer are taken", reply["FailedRecordCount"] == 0)
    wait_for("they are archived", lambda: len(chain.archived()) >= len(expected))
    check("each record is in the archive once", sorted(chain.archived()) == expected, len(chain.archived()))
    layout = re.compile(r"archive/dt=\d{4}-\d\d-\d\d/hour=\d\d/clicks-shardId-\d{12}-\d+-\d+\.ndjson\.gz")
    odd = [key for key in chain.keys("archive/") if not layout.fullmatch(key)]
    check("under the keys the template asks for", not odd, odd)
    return expected


def walls(chain):
    """What the task role must not do, judged by ministack's IAM."""
    from botocore.exceptions import ClientError

    def denied(what, act):
        try:
            act()
            check(f"task role may not {what}", False, "it may")
        except ClientError as error:
            code = error.response["Error"]["Code"]
            check(f"task role may not {what}", "AccessDenied" in code or code == "403", code)
    s3, table, kinesis = chain.as_worker("s3"), chain.as_worker("dynamodb"), chain.as_worker("kinesis")
    denied("write beside its prefixes", lambda: s3.put_object(Bucket=BUCKET, Key="other/x", Body=b""))
    denied("write into another bucket", lambda: s3.put_object(Bucket="code", Key="archive/x", Body=b""))
    denied("delete an object", lambda: s3.delete_object(Bucket=BUCKET, Key="archive/x"))
    denied("delete its table", lambda: table.delete_table(TableName=TABLE))
    denied("read another table", lambda: table.scan(TableName="other"))
    denied("write to its stream", lambda: kinesis.put_record(StreamName=NAME, Data=b"", PartitionKey="k"))


def doctored(chain, binary):
    """`catchment doctor` with the task role: what the template grants is enough, and less is noticed."""
    def doctor(*more):
        done = subprocess.run([binary, "doctor", "--json", *more], env=chain.environment(),
                              capture_output=True, text=True, timeout=120)
        found = {f["check"]: f for f in json.loads(done.stdout or "{}").get("checks", [])}
        return done.returncode, found, [f for f in found.values() if f["verdict"] in ("warn", "fail")]
    before = chain.keys("")
    code, found, bad = doctor()
    check("the doctor finds nothing wrong with the task role", code == 0 and len(found) >= 12 and not bad,
          (code, bad))
    code, found, bad = doctor("--set", "delivery.prefix=other/")
    check("the doctor notices a prefix the role may not write to",
          code == 3 and found["object-writes"]["verdict"] == "fail", (code, bad))
    uploads = chain.s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    check("the doctor leaves nothing behind", chain.keys("") == before and not uploads, uploads)


def start(chain, binary, log):
    return subprocess.Popen([binary, "run"], env=chain.environment(), start_new_session=True,
                            stdout=log, stderr=log)


def stop(process):
    process.send_signal(signal.SIGTERM)
    try:
        code = process.wait(110)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
    return code


def deployed_anew(chain, binary, log, running, expected):
    """What a deployment does: a new worker joins, the old one is told to stop; nothing twice."""
    later = start(chain, binary, log)
    more = [b'{"later":%d}' % n for n in range(200)]
    chain.kinesis.put_records(StreamName=NAME, Records=[
        {"Data": line, "PartitionKey": line.decode()} for line in more])
    code = stop(running)
    check("the old worker drains and ends with 0", code == 0, code)
    everything = sorted(expected + more)
    wait_for("the new worker goes on", lambda: len(chain.archived()) >= len(everything))
    check("nothing is lost or repeated by a deployment", sorted(chain.archived()) == everything)
    return later


def replayer(chain, binary):
    """Credentials of a role that may do what `catchment iam-policy --role replay` prints."""
    told = subprocess.run(
        [binary, "iam-policy", "--role", "replay", "--account", ACCOUNT, "--table-exists",
         "--stream", chain.platform["StreamArn"], "--bucket", BUCKET],
        capture_output=True, text=True, check=True, env={"AWS_REGION": REGION, "PATH": os.environ["PATH"]})
    policy = json.loads(told.stdout)
    table = next(s for s in policy["Statement"] if s["Sid"] == "LeaseTable")
    table["Action"].append("dynamodb:CreateTable")
    trust = {"Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Action": "sts:AssumeRole",
        "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}}]}
    iam = client("iam")
    role = iam.create_role(RoleName="replayer", AssumeRolePolicyDocument=json.dumps(trust))["Role"]
    iam.put_role_policy(RoleName="replayer", PolicyName="replay", PolicyDocument=json.dumps(policy))
    return client("sts").assume_role(RoleArn=role["Arn"], RoleSessionName="replay")["Credentials"]


def replay(chain, environment, binary):
    """From a chosen sequence number, into a prefix of its own; the archive and its leases stay."""
    shard = chain.kinesis.list_shards(StreamName=NAME)["Shards"][0]["ShardId"]
    iterator = chain.kinesis.get_shard_iterator(
        StreamName=NAME, ShardId=shard, ShardIteratorType="TRIM_HORIZON")["ShardIterator"]
    records = []
    while page := chain.kinesis.get_records(ShardIterator=iterator, Limit=10000):
        records, iterator = records + page["Records"], page["NextShardIterator"]
        if not page["Records"]:
            break
    chosen = records[len(records) // 2]["SequenceNumber"]
    expected = sorted(r["Data"] for r in records[len(records) // 2:]
                      if not r["Data"].startswith(b'{"catchment":"upload"'))
    before = sorted(chain.keys("archive/")), chain.table.scan(TableName=TABLE)["Items"]
    role = replayer(chain, binary)
    environment = environment | {
        "AWS_ACCESS_KEY_ID": role["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": role["SecretAccessKey"],
        "AWS_SESSION_TOKEN": role["SessionToken"], "CATCHMENT_TELEMETRY_LISTEN": "off"}
    ran = subprocess.run(
        [binary, "replay", "--from-sequence-number", chosen, "--shard", shard, "--id", "acceptance"],
        env=environment, capture_output=True, text=True, timeout=180)
    check("replay from a chosen sequence number ends with 0", ran.returncode == 0, ran.stderr[-2000:])
    keys = chain.keys("replays/acceptance/archive/")
    bodies = [chain.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys]
    again = sorted(line for body in bodies for line in gzip.decompress(body).splitlines())
    check(f"it delivers {len(expected)} records from there on, each once", again == expected, len(again))
    after = sorted(chain.keys("archive/")), chain.table.scan(TableName=TABLE)["Items"]
    check("archive and leases are as before", before == after)
    gone = subprocess.run([binary, "replay", "delete", "acceptance", "--yes"], env=environment,
                          capture_output=True, text=True, timeout=60)
    check("its leases go when asked, its objects stay", gone.returncode == 0 and
          keys == chain.keys("replays/acceptance/archive/"), gone.stderr[-2000:])


def taken_down(chain):
    for name in ("worker", "platform"):
        chain.formation.delete_stack(StackName=name)
        chain.formation.get_waiter("stack_delete_complete").wait(
            StackName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 30})
    status, _, _ = call("POST", "/uploads", b"x", {}, chain.host)
    check("the API is gone with its stack", status in (403, 404), status)
    left = (chain.kinesis.list_streams()["StreamNames"], chain.table.list_tables()["TableNames"])
    check("stream, table and every object are still there",
          left == ([NAME], [TABLE]) and len(chain.archived()) == 700, left)
    rows = chain.table.scan(TableName=TABLE)["Items"]
    check("the checkpoints are still there, and no lease is held",
          len(rows) >= 2 and not any("leaseOwner" in row for row in rows), len(rows))


def main():
    ministack.begin(__file__, "the whole chain")
    binary = worker_binary()
    if not binary:
        skip_all("the whole chain: set CATCHMENT_BIN to the worker's binary")
    zipped = front_door.lambda_zip(front_door.bootstrap())
    process = None
    with Ministack() as stack:
        log = open(os.path.join(stack.home, "worker.log"), "ab")
        try:
            chain = Chain(zipped)
            token = login(chain)
            process = start(chain, binary, log)
            key = uploads(chain, token)
            stored(chain, token, key)
            expected = archive(chain)
            walls(chain)
            doctored(chain, binary)
            process = deployed_anew(chain, binary, log, process, expected)
            status, _, text = call("GET", "/" + quote(key), None, {"Authorization": token}, chain.host)
            check("the upload is still there", status == 200, (status, text))
            code = stop(process)
            check("the last worker drains and ends with 0", code == 0, code)
            check("no dead letters", not chain.keys("errors/"), chain.keys("errors/"))
            replay(chain, chain.environment(), binary)
            taken_down(chain)
        except Exception:
            traceback.print_exc()
            check("the acceptance ran to its end", False, "see above")
        finally:
            if process and process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            log.close()
            if tally.failed:
                print(Path(log.name).read_text(errors="replace")[-4000:])
    print(NOT_SHOWN)
    finish()


if __name__ == "__main__":
    main()
