"""The front door as its callers see it: the hosted login, the upload, and the function's zip."""
import base64
import hashlib
import io
import json
import os
import re
import subprocess
import zipfile
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

from lib.checks import ROOT
from lib.ministack import call, post_form

REDIRECT = "http://localhost:3000/"


def b64(data):
    data = json.dumps(data).encode() if isinstance(data, dict) else data
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def bootstrap():
    """The binary named by UPLOAD_API_BIN, or the one that is shipped (profile `dist`), built here."""
    given = os.environ.get("UPLOAD_API_BIN")
    if given:
        return Path(given)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    subprocess.run(["cargo", "build", "--locked", "--profile", "dist", "--no-default-features", "--features",
                    "lambda", "--bin", "upload_api"], cwd=ROOT, check=True)
    return target / "dist" / "upload_api"


def lambda_zip(binary):
    """The bytes of a zip as Lambda wants it."""
    entry = zipfile.ZipInfo("bootstrap")
    entry.external_attr = 0o100755 << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(entry, binary.read_bytes())
    return packed.getvalue()


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
    """A code for tokens: status and answer."""
    status, _, text = post_form("/oauth2/token", {
        "grant_type": "authorization_code", "client_id": client, "code": code,
        "redirect_uri": REDIRECT, "code_verifier": verifier})
    return status, json.loads(text)


def upload(cloud, token, body=b"x", host=None, **headers):
    """Status, headers and the answer as JSON; `cloud.host` is the API unless another is given."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if token is not None:
        headers["Authorization"] = token
    status, answered, text = call("POST", "/uploads", body, headers, host or cloud.host)
    try:
        return status, answered, json.loads(text)
    except ValueError:
        return status, answered, {"text": text}
