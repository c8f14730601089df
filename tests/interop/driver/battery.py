"""AWS's SDKs and CLIs against the embedded services: defaults, and the printed export lines, only."""
import os
import shutil
import subprocess
import threading

from driver import build, report
from driver.processes import Scene

CLIENTS = ("boto3", "cli-1", "cli-2", "node", "go", "java", "java-async", "java-1", "java-json")
QUICK = ("boto3", "node", "go", "java")
MEANS = {
    "boto3": "boto3 1.44.8",
    "cli-1": "AWS CLI 1.46.3",
    "cli-2": "AWS CLI 2, which is told the endpoint if it is older than 2.13",
    "node": "SDK v3 for JavaScript",
    "go": "SDK v2 for Go",
    "java": "SDK 2.58 for Java",
    "java-async": "SDK 2.58 for Java, async, HTTP/2",
    "java-1": "SDK 1.12 for Java, which is told the endpoint",
    "java-json": "SDK 2.58 for Java and CBOR_ENABLED=false besides",
}
KINESIS = ("put", "errors", "read", "list-shards", "describe", "list-streams", "consumer", "reshard", "retention",
           "tags", "delete", "subscribe")
USUAL = ("kinesis-errors", "kinesis-describe", "kinesis-list-streams", "kinesis-tags", "kinesis-delete", "s3-put-get",
         "s3-conditional-get", "s3-list-v1", "s3-presigned", "s3-copy", "sts-identity")

# What fails and is known (issue 17, part B): the worklist of the embedded services. Remove what is mended.
EXPECTED = {
    "boto3": (*USUAL, "kinesis-reshard", "kinesis-summary", "kinesis-distribution", "dynamodb-table", "s3-list"),
    "cli-1": ("kinesis-list-streams", "s3-list-v1", "s3-presigned", "s3-copy", "sts-identity"),
    "cli-2": ("kinesis-list-streams", "s3-list-v1", "s3-copy", "sts-identity"),
    "node": USUAL,
    "go": (*USUAL, "dynamodb-table"),
    "java": tuple(f"kinesis-{one}" for one in KINESIS) + USUAL[5:],
    "java-async": tuple(f"kinesis-{one}" for one in KINESIS),
    "java-1": USUAL[5:],
    "java-json": USUAL,
}
report.KNOWN.update({f"B/{client}/{operation}": f"issue 17 B: {operation} of {MEANS[client]}"
                     for client, some in EXPECTED.items() for operation in some})

_results = {}
_lock = threading.Lock()


def command(client):
    """The program and its arguments, but for the name of what it makes, which comes last."""
    if client == "boto3":
        return [build.python() / "venv" / "bin" / "python", build.python() / "battery.py"]
    if client == "cli-1":
        home = build.python()
        return [home / "venv" / "bin" / "python", home / "cli.py", home / "venv" / "bin" / "aws"]
    if client == "cli-2":
        return [build.python() / "venv" / "bin" / "python", build.python() / "cli.py", second_cli()]
    if client == "node":
        return ["node", build.node() / "battery.mjs"]
    if client == "go":
        return [build.go() / "battery"]
    which = {"java": "sync", "java-json": "sync", "java-async": "async", "java-1": "v1"}[client]
    return ["java", "-XX:TieredStopAtLevel=1", "-cp", build.classpath("sdk"), "interop.Battery", which]


def second_cli():
    """Version 2 of the AWS CLI, which no index of Python packages has: Debian's package, or one on the PATH."""
    for found in (shutil.which("aws"), "/usr/bin/aws", "/usr/local/bin/aws"):
        if found and os.access(found, os.X_OK):
            said = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
            if said.startswith("aws-cli/2."):
                return found
    raise build.Missing("there is no version 2 of the AWS CLI here (apt-get install awscli)")


def battery(options, seen):
    """Every operation a Kinesis, DynamoDB and S3 user does, with one client."""
    client = seen.version
    words = command(client)
    scene = Scene(options.binary, f"battery-{client}", 1, keep=options.keep)
    try:
        environment = dict(scene.environment)
        if client == "java-json":
            environment["CBOR_ENABLED"] = "false"
        ran = subprocess.run([str(word) for word in (*words, client)], env=environment, capture_output=True, text=True,
                             timeout=400, check=False, cwd=scene.home)
        results = {}
        for line in ran.stdout.splitlines():
            if line.count("\t") == 2:
                name, result, detail = line.split("\t")
                results[name] = (result == "ok", detail)
        for name, (good, detail) in results.items():
            seen.check(name, good, detail, known=f"B/{client}/{name}")
        seen.check("the battery runs to its end", "s3-put-get" in results, ran.stderr[-300:])
        seen.figure(operations=len(results), failed=sum(not good for good, _ in results.values()))
        scene.good = True
        with _lock:
            _results[client] = results
    finally:
        scene.end()


def table():
    """The operations by clients as a Markdown table; empty if no battery has run."""
    clients = [client for client in CLIENTS if client in _results]
    if not clients:
        return ""
    names = list(dict.fromkeys(name for client in clients for name in _results[client]))
    lines = ["| operation | " + " | ".join(clients) + " |", "|---|" + "---|" * len(clients)]
    for name in names:
        marks = [{None: "–", True: "✓", False: "✗"}[_results[client].get(name, (None,))[0]] for client in clients]
        lines.append(f"| {name} | " + " | ".join(marks) + " |")
    lines += ["", *(f"- {client}: {MEANS[client]}" for client in clients), ""]
    for client in clients:
        lines += [f"- ✗ {client} {name}: {detail}" for name, (good, detail) in _results[client].items() if not good]
    return "\n".join(lines) + os.linesep
