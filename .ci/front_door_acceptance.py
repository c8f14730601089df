#!/usr/bin/env python3
"""Independent acceptance of the front door: nothing here is ours but the Lambda zip (and the worker).

ministack (an AWS emulator by other people) plays Cognito with its hosted UI, the HTTP API with its
JWT authorizer, IAM, Lambda, Kinesis and S3. AUTH=true makes it check signatures and policies.

    python3 .ci/front_door_acceptance.py

Environment, all optional:
    UPLOAD_API_BIN       the bootstrap to zip; otherwise it is built (profile `dist`)
    CATCHMENT_BIN        the worker; without it its step is skipped, loudly
    FRONT_DOOR_SLOW=1    also wait five minutes for a token to really expire
    FRONT_DOOR_PORT      ministack's port (14566)

The last line is `N passed, N failed`, or begins with SKIPPED.
"""
import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import signal
import subprocess
import time
import traceback

from lib import ministack
from lib.checks import check, finish, skipped, worker_binary
from lib.front_door import REDIRECT, b64, bootstrap, exchange, hosted_login, lambda_zip, upload
from lib.ministack import BASE, PORT, REGION, call, client

STREAM, BUCKET = "uploads", "catchment-uploads"


class Cloud:
    """What a deployment has: pool, clients, domain, stream, bucket, role, function, API."""

    def __init__(self, archive):
        self.cognito, self.api, self.iam = client("cognito-idp"), client("apigatewayv2"), client("iam")
        self.functions, self.kinesis, self.s3 = client("lambda"), client("kinesis"), client("s3")
        self.kinesis.create_stream(StreamName=STREAM, ShardCount=2)
        self.s3.create_bucket(Bucket=BUCKET)
        self.archive = archive
        self.pool, self.client = self.new_pool("catchment")
        self.other_client = self.new_client(self.pool)
        self.other_pool, self.other_pool_client = self.new_pool("other")
        arn = self.kinesis.describe_stream_summary(StreamName=STREAM)
        self.stream_arn = arn["StreamDescriptionSummary"]["StreamARN"]
        put = {"Effect": "Allow", "Action": "kinesis:PutRecord", "Resource": self.stream_arn}
        look = {"Effect": "Allow", "Action": "s3:GetObject",
                "Resource": f"arn:aws:s3:::{BUCKET}/uploads/*"}
        self.function("upload", [put, look])
        self.function("powerless", [look])
        self.host = self.new_api("upload")
        self.powerless_host = self.new_api("powerless")

    def new_pool(self, name):
        pool = self.cognito.create_user_pool(PoolName=name)["UserPool"]["Id"]
        self.cognito.create_user_pool_domain(Domain=f"{name}-{secrets.token_hex(4)}", UserPoolId=pool)
        self.cognito.create_resource_server(
            UserPoolId=pool, Identifier="catchment", Name="catchment",
            Scopes=[{"ScopeName": "upload", "ScopeDescription": "upload files"}])
        for user in ("alice", "bob"):
            self.cognito.admin_create_user(UserPoolId=pool, Username=user, MessageAction="SUPPRESS")
            self.cognito.admin_set_user_password(
                UserPoolId=pool, Username=user, Password="Correct-horse-9", Permanent=True)
        return pool, self.new_client(pool)

    def new_client(self, pool):
        return self.cognito.create_user_pool_client(
            UserPoolId=pool, ClientName="web", GenerateSecret=False,
            ExplicitAuthFlows=["ALLOW_ADMIN_USER_PASSWORD_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"],
            AllowedOAuthFlows=["code"], AllowedOAuthFlowsUserPoolClient=True,
            AllowedOAuthScopes=["openid", "email", "catchment/upload"], CallbackURLs=[REDIRECT],
            SupportedIdentityProviders=["COGNITO"], AccessTokenValidity=5, IdTokenValidity=5,
            TokenValidityUnits={"AccessToken": "minutes", "IdToken": "minutes"},
        )["UserPoolClient"]["ClientId"]

    def function(self, name, statements):
        trust = {"Version": "2012-10-17", "Statement": [{
            "Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"},
            "Action": "sts:AssumeRole"}]}
        role = self.iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))
        policy = {"Version": "2012-10-17", "Statement": statements}
        self.iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=json.dumps(policy))
        self.functions.create_function(
            FunctionName=name, Runtime="provided.al2023", Handler="bootstrap", Timeout=15,
            Role=role["Role"]["Arn"], MemorySize=256, Code={"ZipFile": self.archive},
            Environment={"Variables": {
                "STREAM_ARN": self.stream_arn, "BUCKET": BUCKET, "REQUIRED_SCOPE": "catchment/upload",
                "ALLOWED_CLIENT_IDS": self.client}})

    def new_api(self, function):
        api = self.api.create_api(Name=function, ProtocolType="HTTP")["ApiId"]
        authorizer = self.api.create_authorizer(
            ApiId=api, AuthorizerType="JWT", Name="cognito",
            IdentitySource=["$request.header.Authorization"],
            JwtConfiguration={
                "Issuer": f"https://cognito-idp.{REGION}.amazonaws.com/{self.pool}",
                "Audience": [self.client]})["AuthorizerId"]
        arn = self.functions.get_function(FunctionName=function)["Configuration"]["FunctionArn"]
        integration = self.api.create_integration(
            ApiId=api, IntegrationType="AWS_PROXY", PayloadFormatVersion="2.0",
            IntegrationUri=arn)["IntegrationId"]
        for route in ("POST /", "POST /uploads", "GET /uploads/{name}"):
            self.api.create_route(
                ApiId=api, RouteKey=route, AuthorizationType="JWT", AuthorizerId=authorizer,
                AuthorizationScopes=["catchment/upload"], Target=f"integrations/{integration}")
        self.api.create_stage(ApiId=api, StageName="$default", AutoDeploy=True)
        return f"{api}.execute-api.localhost:{PORT}"

    def by_password(self, pool, client):
        """Tokens of an API login, which carry no scope of ours."""
        return self.cognito.admin_initiate_auth(
            UserPoolId=pool, ClientId=client, AuthFlow="ADMIN_USER_PASSWORD_AUTH",
            AuthParameters={"USERNAME": "alice", "PASSWORD": "Correct-horse-9"},
        )["AuthenticationResult"]

    def records(self):
        found = []
        for shard in self.kinesis.list_shards(StreamName=STREAM)["Shards"]:
            iterator = self.kinesis.get_shard_iterator(
                StreamName=STREAM, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON")
            page = self.kinesis.get_records(ShardIterator=iterator["ShardIterator"])
            found += [record["Data"] for record in page["Records"]]
        return found


def logging_in(cloud):
    verifier = secrets.token_urlsafe(48)
    check("hosted UI: wrong password gives no code", hosted_login(cloud.client, password="no") is None)
    code = hosted_login(cloud.client, verifier=verifier)
    check("hosted UI: login sends back a code and the state", code)
    check("wrong PKCE verifier is refused", exchange(cloud.client, code, "x" * 48)[0] == 400)
    code = hosted_login(cloud.client, verifier=verifier)
    status, tokens = exchange(cloud.client, code, verifier)
    check("the code becomes tokens", status == 200 and "access_token" in tokens, tokens)
    check("the code is good once", exchange(cloud.client, code, verifier)[0] == 400)
    return tokens


def uploading(cloud, tokens):
    token = "Bearer " + tokens["access_token"]
    status, headers, answer = upload(cloud, token, b"Hello, Catchment", Content_Type="text/plain")
    exact = {"message": "File uploaded and event sent", "file_key": answer.get("file_key")}
    good = re.fullmatch(r"uploads/[0-9a-f-]{36}\.txt", str(answer.get("file_key")))
    check("upload answers 200, exactly", status == 200 and answer == exact and good, (status, answer))
    check("with a request id", headers.get("x-request-id"), headers)
    key = answer.get("file_key")
    events = [json.loads(r) for r in cloud.records()]
    event = next((e for e in events if e["file_key"] == key), {})
    check("the event is in the stream", base64.b64decode(event.get("body", "")) == b"Hello, Catchment")
    check("with a checksum", event.get("sha256") == hashlib.sha256(b"Hello, Catchment").hexdigest())
    check("and no identity in clear", "alice" not in json.dumps(event))
    status, _, answer = upload(cloud, token, b"\x00\xff\xfe", Content_Type="image/png",
                               Idempotency_Key="acceptance-1")
    second = upload(cloud, token, b"\x00\xff\xfe", Content_Type="image/png",
                    Idempotency_Key="acceptance-1")[2]
    check("binary upload with an Idempotency-Key", status == 200 and answer["file_key"].endswith(".png"))
    check("the same key is the same file", second == answer, (answer, second))
    bodies = [base64.b64decode(json.loads(r)["body"]) for r in cloud.records()]
    check("binary arrives unharmed", b"\x00\xff\xfe" in bodies)
    check("raw token without Bearer", upload(cloud, tokens["access_token"])[0] == 200)
    check("empty body is 400", upload(cloud, token, b"")[0] == 400)
    status, _, answer = upload(cloud, token, b"a" * 785_638, Content_Type="text/plain")
    check("limit + 1 is 413 and names the limit",
          status == 413 and "785637" in json.dumps(answer), (status, answer))
    check("the limit is 200", upload(cloud, token, b"\xff" * 785_637)[0] == 200)
    status, _, text = call("GET", "/" + key, None, {"Authorization": token}, cloud.host)
    check("not stored yet is 404", status == 404 and "not stored yet or unknown" in text, (status, text))
    subject = event["subject"]
    cloud.s3.put_object(Bucket=BUCKET, Key=key, Body=b"Hello, Catchment", Metadata={
        "catchment-subject": subject, "catchment-sha256": event["sha256"]})
    status, _, text = call("GET", "/" + key, None, {"Authorization": token}, cloud.host)
    check("stored is seen by its uploader", status == 200 and json.loads(text) == {
        "status": "stored", "file_key": key, "size": 16, "sha256": event["sha256"]}, (status, text))
    verifier = secrets.token_urlsafe(48)
    bob = exchange(cloud.client, hosted_login(cloud.client, "bob", verifier=verifier), verifier)[1]
    bearer = {"Authorization": "Bearer " + bob["access_token"]}
    check("and by nobody else", call("GET", "/" + key, None, bearer, cloud.host)[0] == 404)


def refusals(cloud, tokens):
    import jwt
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    good = tokens["access_token"]
    head, body, signature = good.split(".")
    header, claims = jwt.get_unverified_header(good), jwt.decode(good, options={"verify_signature": False})
    keys = json.loads(call("GET", f"/{cloud.pool}/.well-known/jwks.json")[2])["keys"]
    key = next(k for k in keys if k["kid"] == header["kid"])
    pem = jwt.PyJWK(key).key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    def hs256(secret):
        signed = b64({"alg": "HS256", "kid": header["kid"]}) + "." + body
        return signed + "." + b64(hmac.new(secret, signed.encode(), hashlib.sha256).digest())
    foreign = rsa.generate_private_key(65537, 2048)
    verifier = secrets.token_urlsafe(48)
    def of(client):
        return exchange(client, hosted_login(client, verifier=verifier), verifier)[1]
    other, elsewhere = of(cloud.other_client), of(cloud.other_pool_client)
    before = len(cloud.records())
    table = [
        ("missing", None, 401), ("empty", "", 401), ("garbage", "Bearer garbage", 401),
        ("another scheme", "Basic YTpi", 401),
        ("tampered payload", f"{head}.{b64({**claims, 'sub': 'x'})}.{signature}", 401),
        ("tampered signature", f"{head}.{body}.{signature[4:]}", 401),
        ("alg none", f"{b64({'alg': 'none', 'kid': header['kid']})}.{body}.", 401),
        ("HS256 with the public key", hs256(pem), 401),
        ("foreign key, same kid",
         jwt.encode(claims, foreign, "RS256", headers={"kid": header["kid"]}), 401),
        ("unknown kid", jwt.encode(claims, foreign, "RS256", headers={"kid": "unknown"}), 401),
        ("another client's access token", other["access_token"], 401),
        ("another client's id token", other["id_token"], 401),
        ("another pool", elsewhere["access_token"], 401),
        ("missing scope", cloud.by_password(cloud.pool, cloud.client)["AccessToken"], 403),
        ("id token, which has no scope", tokens["id_token"], 403),
    ]
    for name, token, status in table:
        if token and " " not in token:
            token = "Bearer " + token
        got = upload(cloud, token)
        check(f"refused with {status}: {name}", got[0] == status, got)
    check("nothing refused reached the stream", len(cloud.records()) == before)


def powerless(cloud, tokens):
    """A role without PutRecord."""
    status, _, answer = upload(cloud, "Bearer " + tokens["access_token"], host=cloud.powerless_host)
    error = answer.get("error", {})
    check("a role without PutRecord gets a clean 500",
          status == 500 and error.get("code") == "internal" and error.get("request_id"), (status, answer))
    check("without inner detail", "kinesis:" not in json.dumps(answer).lower(), answer)


def expiry(cloud, tokens):
    if os.environ.get("FRONT_DOOR_SLOW") != "1":
        print("by command only: a really expired token (FRONT_DOOR_SLOW=1, five minutes)")
        return
    time.sleep(305)
    got = upload(cloud, "Bearer " + tokens["access_token"])
    check("refused with 401: expired", got[0] == 401, got)


def worker_stores(cloud, tokens, worker):
    """Our worker binary turns the event into an object of ministack's S3."""
    if not worker:
        skipped("the worker storing the file (set CATCHMENT_BIN to the worker's binary)")
        return
    command = [
        "run", "--stream", STREAM, "--bucket", BUCKET, "--set", "aws.path_style=true",
        "--set", "telemetry.listen=off", "--set", "delivery.batch_age=1s", "--set", "lease.scan=500ms",
    ]
    environment = {
        "PATH": os.environ.get("PATH", ""), "AWS_REGION": REGION, "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test", "AWS_ENDPOINT_URL": BASE, "AWS_EC2_METADATA_DISABLED": "true",
    }
    process = subprocess.Popen([worker, *command], env=environment, start_new_session=True)
    try:
        token = "Bearer " + tokens["access_token"]
        answer = upload(cloud, token, b"for the worker", Content_Type="text/plain")[2]
        key, status, text = answer["file_key"], 0, ""
        for _ in range(120):
            status, _, text = call("GET", "/" + key, None, {"Authorization": token}, cloud.host)
            if status == 200:
                break
            time.sleep(0.5)
        check("the worker stores the file and the uploader sees it", status == 200, (status, text))
        stored = cloud.s3.get_object(Bucket=BUCKET, Key=key)
        check("with its content", stored["Body"].read() == b"for the worker")
        check("with its content type", stored["ContentType"] == "text/plain", stored["ContentType"])
        names = {"catchment-request-id", "catchment-subject", "catchment-sha256", "catchment-position"}
        check("with its metadata", names <= set(stored["Metadata"]), stored["Metadata"])
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def main():
    ministack.begin(__file__, "the front door's acceptance")
    worker = worker_binary()
    archive = lambda_zip(bootstrap())
    print(f"Lambda zip: {len(archive) / 1e6:.2f} MB")
    with ministack.Ministack():
        try:
            cloud = Cloud(archive)
            tokens = logging_in(cloud)
            uploading(cloud, tokens)
            refusals(cloud, tokens)
            powerless(cloud, tokens)
            worker_stores(cloud, tokens, worker)
            expiry(cloud, tokens)
        except Exception:
            traceback.print_exc()
            check("the acceptance ran to its end", False, "see above")
    finish()


if __name__ == "__main__":
    main()
