"""The clients of one account: each call is counted, checked against the table, and its raw answer kept."""
import os
import threading
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from hour.calls import CALLS

SERVICES = ("kinesis", "dynamodb", "s3", "sts")


class UnknownCall(Exception):
    """An operation that the table in calls.py, and so the policy, does not have."""


def is_real(endpoints):
    """Whether anything of this would reach AWS: a service without an endpoint, or with one of AWS's."""
    hosts = [urlsplit(endpoints.get(s) or "").hostname or "amazonaws.com" for s in SERVICES if s != "sts"]
    return any(host.endswith(("amazonaws.com", "amazonaws.com.cn", "api.aws")) for host in hosts)


class Account:
    """boto3 clients `kinesis`, `dynamodb`, `s3`, `sts`, and the environment for the worker.

    `once` has a Kinesis client that never repeats a request: its refusals are answers, and what it puts
    is on the stream at most once.
    """

    def __init__(self, target, region, endpoints, keys, meter):
        self.target, self.region, self.endpoints, self.keys = target, region, endpoints, keys
        self.real, self.meter = is_real(endpoints), meter
        self.session = boto3.Session(region_name=region, **{
            name: keys[variable] for name, variable in (
                ("aws_access_key_id", "AWS_ACCESS_KEY_ID"), ("aws_secret_access_key", "AWS_SECRET_ACCESS_KEY"),
                ("aws_session_token", "AWS_SESSION_TOKEN")) if variable in keys})
        self.kept = threading.local()
        self.kinesis = self.client("kinesis", 8)
        self.once = self.client("kinesis", 1)
        self.dynamodb, self.s3, self.sts = self.client("dynamodb", 8), self.client("s3", 8), self.client("sts", 3)

    def client(self, service, attempts):
        style = {"s3": {"addressing_style": "path"}} if self.endpoints.get(service) else {}
        config = Config(retries={"total_max_attempts": attempts, "mode": "standard"}, read_timeout=60,
                        max_pool_connections=64, **style)
        client = self.session.client(service, endpoint_url=self.endpoints.get(service), config=config)
        client.meta.events.register(f"before-call.{service}", self.before)
        client.meta.events.register(f"before-parse.{service}", self.keep)
        return client

    def before(self, model, **_):
        service, operation = model.service_model.endpoint_prefix, model.name
        if f"{service}.{operation}" not in CALLS:
            raise UnknownCall(f"{service}.{operation} is not in calls.py")
        self.meter.request(service, operation)

    def keep(self, response_dict, **_):
        body = response_dict.get("body", b"")
        self.kept.answer = {"status": response_dict.get("status_code"),
                            "type": response_dict.get("headers", {}).get("content-type"),
                            "body": body.decode("utf-8", "replace") if isinstance(body, bytes) else "<stream>"}

    def raw(self):
        """The last answer of this thread as it came: status, content type, body."""
        return getattr(self.kept, "answer", {})

    def environment(self):
        """For the worker: the credentials and endpoints of this account, and nothing of Catchment's."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("CATCHMENT_")}
        kept |= self.keys | {"AWS_REGION": self.region}
        for service, url in self.endpoints.items():
            if url and service != "sts":
                kept[f"AWS_ENDPOINT_URL_{service.upper()}"] = url
        return kept

    def settings(self):
        """Settings of the worker that this account needs."""
        return ["aws.path_style=true"] if self.endpoints.get("s3") else []
