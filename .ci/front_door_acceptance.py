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
import base64, hashlib, hmac, http.client, io, json, os, re, secrets, shutil, signal, socket
import subprocess, sys, tempfile, time, traceback, zipfile
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".emu" / "front"
PORT = int(os.environ.get("FRONT_DOOR_PORT", "14566"))
BASE = f"http://127.0.0.1:{PORT}"
REGION = "us-east-1"
REDIRECT = "http://localhost:3000/"
STREAM, BUCKET = "uploads", "catchment-uploads"
passed = failed = 0


def skip(why):
    print(f"SKIPPED: front door acceptance did not run: {why}", flush=True)
    sys.exit(0)


def inside_venv(script=__file__):
    """Installs the pinned packages once and goes on with them."""
    python = VENV / "bin" / "python"
    pins = ROOT / ".ci" / "front_door_requirements.txt"
    done = VENV / ("done-" + hashlib.sha256(pins.read_bytes()).hexdigest()[:12])
    if not done.exists():
        shutil.rmtree(VENV, ignore_errors=True)
        try:
            subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
            subprocess.run([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check",
                            "-r", str(pins)], check=True, timeout=600)
        except (subprocess.SubprocessError, OSError) as problem:
            skip(f"ministack cannot be installed ({problem})")
        done.touch()
    os.environ["FRONT_DOOR_IN_VENV"] = "1"
    os.execv(python, [str(python), str(Path(script).resolve())])


def check(name, good, detail=""):
    global passed, failed
    passed, failed = passed + bool(good), failed + (not good)
    print(f"{'ok  ' if good else 'FAIL'} {name}" + ("" if good else f": {detail}"), flush=True)
    return good


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(what, question, seconds=90, passing=()):
    """Asks until there is an answer, through the exceptions that pass; the bound only ends a run that hangs."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            answer = question()
        except passing:
            answer = None
        if answer:
            return answer
        time.sleep(0.25)
    check(what, False, f"not within {seconds} s")
    return None


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


def b64(data):
    data = json.dumps(data).encode() if isinstance(data, dict) else data
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def bootstrap():
    given = os.environ.get("UPLOAD_API_BIN")
    if given:
        return Path(given)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    subprocess.run(["cargo", "build", "--profile", "dist", "--no-default-features", "--features",
                    "lambda", "--bin", "upload_api"], cwd=ROOT, check=True)
    return target / "dist" / "upload_api"


def lambda_zip(binary):
    entry = zipfile.ZipInfo("bootstrap")
    entry.external_attr = 0o100755 << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(entry, binary.read_bytes())
    return packed.getvalue()


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
        program = VENV / "bin" / "ministack"
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
        skip("ministack does not start")

    def __exit__(self, *_):
        try:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(10)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.log.close()
        if failed:
            print(open(self.log.name, errors="replace").read()[-4000:])
        shutil.rmtree(self.home, ignore_errors=True)


class Cloud:
    """What a deployment has: pool, clients, domain, stream, bucket, role, function, API."""

    def __init__(self, boto3, archive):
        def client(name):
            return boto3.client(name, endpoint_url=BASE, region_name=REGION,
                                aws_access_key_id="test", aws_secret_access_key="test")
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


def hosted_login(client, user="alice", password="Correct-horse-9", verifier=None):
    """Through the login form, as a browser would; a code, or None."""
    query = {"response_type": "code", "client_id": client, "redirect_uri": REDIRECT,
             "scope": "openid email catchment/upload", "state": "s-1"}
    if verifier:
        query["code_challenge"] = b64(hashlib.sha256(verifier.encode()).digest())
        query["code_challenge_method"] = "S256"
    status, headers, page = call("GET", "/oauth2/authorize?" + urlencode(query))
    if status in (302, 303):
        parts = urlsplit(headers["location"])
        status, headers, page = call("GET", f"{parts.path}?{parts.query}")
    fields = dict(query)
    for tag in re.findall(r"<input[^>]*>", page):
        name, value = re.search(r'name="([^"]*)"', tag), re.search(r'value="([^"]*)"', tag)
        if name and value:
            fields[name[1]] = value[1].replace("&amp;", "&")
    fields.update(username=user, password=password)
    status, headers, _ = post_form("/login", fields)
    location = headers.get("location", "")
    if not location.startswith(REDIRECT):
        return None
    back = parse_qs(urlsplit(location).query)
    return back.get("code", [None])[0] if back.get("state") == ["s-1"] else None


def exchange(client, code, verifier):
    status, _, text = post_form("/oauth2/token", {
        "grant_type": "authorization_code", "client_id": client, "code": code,
        "redirect_uri": REDIRECT, "code_verifier": verifier})
    return status, json.loads(text)


def upload(cloud, token, body=b"x", host=None, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if token is not None:
        headers["Authorization"] = token
    status, answered, text = call("POST", "/uploads", body, headers, host or cloud.host)
    try:
        return status, answered, json.loads(text)
    except ValueError:
        return status, answered, {"text": text}


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
    status, headers, answer = upload(cloud, "Bearer " + tokens["access_token"], host=cloud.powerless_host)
    error = answer.get("error", {})
    check("a role without PutRecord gets a clean 500",
          status == 500 and error.get("code") == "internal" and error.get("request_id"), (status, answer))
    check("without inner detail", "kinesis:" not in json.dumps(answer).lower(), answer)


def expiry(cloud, tokens):
    if os.environ.get("FRONT_DOOR_SLOW") != "1":
        print("SKIPPED: a really expired token (set FRONT_DOOR_SLOW=1; it takes five minutes)")
        return
    time.sleep(305)
    got = upload(cloud, "Bearer " + tokens["access_token"])
    check("refused with 401: expired", got[0] == 401, got)


def worker_stores(cloud, tokens):
    """Our worker binary turns the event into an object of ministack's S3."""
    worker = os.environ.get("CATCHMENT_BIN")
    if not worker:
        print("SKIPPED: the worker storing the file (set CATCHMENT_BIN to the worker's binary)")
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
    if os.environ.get("FRONT_DOOR_IN_VENV") != "1":
        inside_venv()
    import boto3
    archive = lambda_zip(bootstrap())
    print(f"Lambda zip: {len(archive) / 1e6:.2f} MB")
    with Ministack():
        try:
            cloud = Cloud(boto3, archive)
            tokens = logging_in(cloud)
            uploading(cloud, tokens)
            refusals(cloud, tokens)
            powerless(cloud, tokens)
            worker_stores(cloud, tokens)
            expiry(cloud, tokens)
        except Exception:  # pylint: disable=broad-except
            traceback.print_exc()
            check("the acceptance ran to its end", False, "see above")
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
