"""The wire: one page as JSON and as CBOR, and what an HTTP/2 connection is allowed."""
import base64
import json
import socket
import ssl
import struct
from urllib.parse import urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.httpsession import URLLib3Session

from hour import cbor
from hour.finding import Finding
from hour.reading import iterator, put

NAME = "wire"
JSON, CBOR = "application/x-amz-json-1.1", "application/x-amz-cbor-1.1"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"  # with empty SETTINGS
SETTINGS = {1: "HEADER_TABLE_SIZE", 2: "ENABLE_PUSH", 3: "MAX_CONCURRENT_STREAMS", 4: "INITIAL_WINDOW_SIZE",
            5: "MAX_FRAME_SIZE", 6: "MAX_HEADER_LIST_SIZE", 8: "ENABLE_CONNECT_PROTOCOL"}


def plan(options):
    return [("a stream of one shard, a few records", 0.015)]


def run(owned, options):
    return [*both_formats(owned), connection(owned)]


def post(account, operation, body, content_type):
    """One signed request to Kinesis: status, content type, bytes."""
    account.meter.request("kinesis", operation)
    url = account.kinesis.meta.endpoint_url.rstrip("/") + "/"
    request = AWSRequest(method="POST", url=url, data=body, headers={
        "Content-Type": content_type, "Accept": content_type, "X-Amz-Target": f"Kinesis_20131202.{operation}"})
    SigV4Auth(account.session.get_credentials(), "kinesis", account.region).add_auth(request)
    answer = URLLib3Session(timeout=60).send(request.prepare())
    return answer.status_code, answer.headers.get("Content-Type", ""), answer.content


def both_formats(owned):
    account, stream = owned.account, owned.stream("wire", 1)
    for data in (b"plain", b"\x00\xff\xfe", b"{}" * 300):
        put(account, stream, data)
    shard = account.kinesis.list_shards(StreamName=stream)["Shards"][0]["ShardId"]
    position = iterator(account, stream, shard, "TRIM_HORIZON")
    page = Finding(NAME, "GetRecords asked twice with one iterator, as JSON and as CBOR",
                   "the same page: data, keys, numbers, times")
    error = Finding(NAME, "a refusal in CBOR", "CBOR with __type, as in JSON")
    asked = {"ShardIterator": position, "Limit": 10}
    status, kind, body = post(account, "GetRecords", json.dumps(asked).encode(), JSON)
    plain = json.loads(body)
    status2, kind2, body2 = post(account, "GetRecords", cbor.encode(asked), CBOR)
    if status2 != 200 or CBOR not in kind2:
        why = f"CBOR is answered with {status2} {kind2}: {body2[:120]!r}"
        return [page.unmeasured(why), error.unmeasured(why)]
    packed = cbor.decode(body2)
    page.judge(*compared(plain, packed), json=plain, cbor_hex=body2[:1500].hex())
    bad = {"ShardIterator": "AAAA" * 50}
    _, _, said = post(account, "GetRecords", json.dumps(bad).encode(), JSON)
    status, kind, said2 = post(account, "GetRecords", cbor.encode(bad), CBOR)
    try:
        refused = cbor.decode(said2)
    except (ValueError, IndexError, UnicodeDecodeError, struct.error):
        return [page, error.judge(False, f"{status} {kind}: {said2[:80]!r}", json=said.decode())]
    told = refused.get("__type") if isinstance(refused, dict) else refused
    return [page, error.judge(told == json.loads(said).get("__type"), f"{status} {kind}: {told}", json=said.decode())]


def compared(plain, packed):
    """Whether both pages are the same, and what differs or how times are written."""
    differences, times = [], set()
    if set(plain) != set(packed):
        differences.append(f"fields {sorted(set(plain) ^ set(packed))}")
    if len(plain["Records"]) != len(packed["Records"]):
        differences.append(f"{len(plain['Records'])} and {len(packed['Records'])} records")
    for one, other in zip(plain["Records"], packed["Records"], strict=False):
        data = other["Data"]
        if not isinstance(data, bytes):
            differences.append(f"data of {one['SequenceNumber']} is {type(data).__name__}, not bytes")
        elif base64.b64decode(one["Data"]) != data:
            differences.append(f"data of {one['SequenceNumber']}")
        differences += [f"{name} of {one['SequenceNumber']}" for name in ("SequenceNumber", "PartitionKey")
                        if one[name] != other.get(name)]
        when = other.get("ApproximateArrivalTimestamp")
        value, tag = (when[1], f"tag {when[0]}") if isinstance(when, cbor.Tagged) else (when, "no tag")
        seconds = one["ApproximateArrivalTimestamp"]
        unit = next((u for u, scale in (("seconds", 1), ("milliseconds", 1000))
                     if value is not None and abs(value - seconds * scale) < scale * 0.002), None)
        if unit is None:
            differences.append(f"time {seconds} and {value}")
        times.add(f"{tag}, {unit}, {type(value).__name__}")
    told = "; ".join(differences) or f"{len(plain['Records'])} records alike"
    return not differences, f"{told}; times in CBOR: {', '.join(sorted(times))}"


def frames(read):
    """(type, flags, stream, payload) of HTTP/2 frames; `read(n)` gives n bytes or b"" at the end."""
    while len(head := read(9)) == 9:
        size, kind, flags, stream = int.from_bytes(head[:3]), head[3], head[4], int.from_bytes(head[5:])
        yield kind, flags, stream & 0x7FFFFFFF, read(size)


def allowed(read):
    """What a server allows, from its first SETTINGS frame and what comes before its acknowledgement of ours."""
    told = {}
    for kind, flags, stream, payload in frames(read):
        if kind == 4 and not flags & 1:
            for name, value in struct.iter_unpack(">HI", payload):
                told[SETTINGS.get(name, str(name))] = value
        elif kind == 8 and stream == 0:
            told["connection window"] = 65_535 + int.from_bytes(payload)
        elif kind == 4 or kind == 7:
            break
    return told


def shake_hands(host, port):
    """TLS with ALPN: the protocol agreed on, and what is allowed if that is HTTP/2."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with socket.create_connection((host, port), timeout=10) as plain, \
            context.wrap_socket(plain, server_hostname=host) as tls:
        protocol = tls.selected_alpn_protocol()
        if protocol != "h2":
            return protocol, {}
        tls.sendall(PREFACE)

        def read(count):
            found = b""
            while len(found) < count and (more := tls.recv(count - len(found))):
                found += more
            return found
        return protocol, allowed(read)


def connection(owned):
    finding = Finding(NAME, "streams and windows of an HTTP/2 connection to Kinesis",
                      "h2 by ALPN; 5 streams and a 1 MiB window are reported (pekko-connectors#830)")
    url = urlsplit(owned.account.kinesis.meta.endpoint_url)
    if url.scheme != "https":
        return finding.unmeasured("no TLS, so no ALPN, at this endpoint")
    seen = [shake_hands(url.hostname, url.port or 443) for _ in range(5)]
    told = "; ".join(sorted({f"{protocol} {limits}" for protocol, limits in seen}))
    if not owned.account.real:
        return finding.unmeasured("an emulator's limits are not AWS's", told, connections=seen)
    streams = {limits.get("MAX_CONCURRENT_STREAMS") for _, limits in seen}
    return finding.judge(streams == {5}, told, connections=seen)
