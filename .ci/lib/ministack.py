"""ministack, an AWS emulator by other people, on the loopback. AUTH=true makes it check signatures and policies.

FRONT_DOOR_PORT is its port (14566). Its package comes from requirements.txt: call `begin` first.
"""
import contextlib
import http.client
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlencode

from lib import tools
from lib.checks import skip_all, tally

PORT = int(os.environ.get("FRONT_DOOR_PORT", "14566"))
BASE = f"http://127.0.0.1:{PORT}"
REGION = "us-east-1"


def begin(script, what):
    """Goes on in the environment that has ministack and boto3, or says that `what` was skipped."""
    try:
        tools.enter(script)
    except tools.Unavailable as problem:
        skip_all(f"{what}: ministack cannot be installed ({problem})")


def client(name, url=BASE, attempts=5, **keys):
    """A boto3 client for one service; `keys` replace the credentials that every service takes."""
    import boto3
    from botocore.config import Config
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"} | keys
    return boto3.client(name, endpoint_url=url, region_name=REGION,
                        config=Config(retries={"max_attempts": attempts}), **keys)


def call(method, path, body=None, headers=None, host=None):
    """One request without redirects: status, headers, text."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
    headers = dict(headers or {})
    headers["Host"] = host or f"127.0.0.1:{PORT}"
    connection.request(method, path, body=body, headers=headers)
    answer = connection.getresponse()
    text = answer.read().decode("utf-8", "replace")
    connection.close()
    return answer.status, {k.lower(): v for k, v in answer.getheaders()}, text


def post_form(path, pairs):
    return call("POST", path, urlencode(pairs), {"Content-Type": "application/x-www-form-urlencoded"})


class Ministack:
    """The emulator in its own process group and with a clean environment: Lambdas inherit it."""

    def __enter__(self):
        self.home = tempfile.mkdtemp(prefix="front-door-")
        self.log = open(os.path.join(self.home, "log"), "wb")
        environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": self.home, "TMPDIR": self.home,
            "BIND_HOST": "127.0.0.1", "IOT_MTLS_ENABLED": "0", "GATEWAY_PORT": str(PORT),
            "AWS_ENDPOINT_URL": BASE, "LOG_LEVEL": "WARNING", "AUTH": "true",
        }
        program = Path(sys.executable).with_name("ministack")
        self.process = subprocess.Popen([str(program)], env=environment, cwd=self.home,
                                        start_new_session=True, stdout=self.log, stderr=self.log)
        for _ in range(150):
            if self.process.poll() is not None:
                break
            try:
                if call("GET", "/_ministack/health")[0] == 200:
                    return self
            except OSError:
                time.sleep(0.2)
        self.__exit__()
        return skip_all("ministack does not start")

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(10)
        # Its Lambdas, too.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.log.close()
        if tally.failed:
            print(Path(self.log.name).read_text(errors="replace")[-4000:])
        shutil.rmtree(self.home, ignore_errors=True)
