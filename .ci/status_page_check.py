#!/usr/bin/env python3
"""The status page in a real Chromium, with axe-core: light and dark, wide and 360 px, well and ill.

    CATCHMENT_BIN=target/debug/catchment python3 .ci/status_page_check.py [DIRECTORY FOR PICTURES]

Starts the embedded services and three workers, sends records, and looks at the page of one worker. Then
the services go away, and it looks at what the page says of that. The last line is `N passed, N failed`,
or begins with SKIPPED.
"""
import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from lib import tools
from lib.checks import check, clean_environment, finish, free_port, skip_all, worker_binary

AXE = "axe-core@4.14.1"
OUT = Path(sys.argv[1]) if len(sys.argv) > 1 else None
children = []


def until(what, probe, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if value := probe():
                return value
        except OSError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"FAIL never happened: {what}")


def axe_source():
    try:
        return (tools.node_packages("axe", AXE) / "node_modules" / "axe-core" / "axe.min.js").read_text()
    except tools.Unavailable as problem:
        skip_all(f"the status page was not looked at: {AXE} cannot be installed ({problem})")


def start(arguments, environment, **more):
    child = subprocess.Popen(arguments, env=environment, stdin=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL, **more)
    children.append(child)
    return child


def fetch(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


class Browser:
    """The part of WebDriver that is needed."""

    def __init__(self):
        port = free_port()
        self.base = f"http://127.0.0.1:{port}"
        start(["chromedriver", f"--port={port}"], dict(os.environ), stdout=subprocess.DEVNULL)
        until("chromedriver is ready", lambda: json.loads(fetch(f"{self.base}/status"))["value"]["ready"])
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic",
                     "--no-first-run", "--disable-background-networking", "--disable-sync",
                     "--disable-component-update", "--disable-dev-shm-usage",
                     "--window-size=1280,900"]
        made = self.call("POST", "/session", {"capabilities": {"alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}}})
        self.base += f"/session/{made['sessionId']}"

    def call(self, method, path, body=None):
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.base + path, data, method=method,
                                         headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def eval(self, script, how="sync"):
        return self.call("POST", f"/execute/{how}", {"script": script, "args": []})

    def devtools(self, command, **parameters):
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def log(self, kind):
        return self.call("POST", "/se/log", {"type": kind})

    def look(self, scheme, width):
        self.devtools("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": scheme}])
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=900,
                      deviceScaleFactor=1, mobile=width < 600)
        until("the size is taken", lambda: self.eval("return innerWidth") == width)

    def picture(self, name):
        if OUT:
            OUT.mkdir(parents=True, exist_ok=True)
            shot = self.devtools("Page.captureScreenshot", captureBeyondViewport=True)
            (OUT / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))
            print(f"     picture: {name}.png")


def views(browser, axe, name):
    for scheme in ("light", "dark"):
        for width in (1280, 360):
            browser.look(scheme, width)
            browser.eval(axe + ";return 1")
            found = browser.eval(
                "const done = arguments[arguments.length - 1];"
                "axe.run(document, {resultTypes: ['violations', 'incomplete']}).then("
                "r => done({v: r.violations.map(v => [v.id, v.nodes.map(n => n.html + ' ' +"
                " n.failureSummary)]), rules: r.passes.length}), e => done({v: String(e)}))", "async")
            check(f"{name}, {scheme}, {width} px: axe finds nothing", found["v"] == [], found["v"])
            check(f"{name}, {scheme}, {width} px: axe looked", found.get("rules", 0) > 15, found)
            wide = browser.eval("return document.documentElement.scrollWidth")
            check(f"{name}, {scheme}, {width} px: nothing sticks out", wide <= width, wide)
            browser.picture(f"{name}-{scheme}-{width}")


def main():
    binary = worker_binary()
    if not binary:
        skip_all("the status page was not looked at: CATCHMENT_BIN is not set")
    if not shutil.which("chromedriver"):
        skip_all("the status page was not looked at: there is no chromedriver")
    axe = axe_source()
    work = Path(tempfile.mkdtemp(prefix="status-page-"))
    try:
        look(binary, axe, work)
    finally:
        for child in reversed(children):
            child.send_signal(signal.SIGCONT)
            child.terminate()
        for child in children:
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
        shutil.rmtree(work, ignore_errors=True)
    finish()


def look(binary, axe, work):
    clean = clean_environment()
    services = start([binary, "local", "--workers", "0", "--shards", "8", "--data-dir", work / "data"],
                     clean, stdout=subprocess.PIPE, text=True)
    exports = [next(services.stdout).strip().removeprefix("export ").split("=", 1) for _ in range(7)]
    environment = clean | {name: value.strip("'") for name, value in exports}
    address = f"127.0.0.1:{free_port()}"
    for number in range(3):
        listen = address if number == 0 else "off"
        settings = {"aws.path_style": "true", "telemetry.listen": listen, "lease.scan": "200ms",
                    "stream.idle": "200ms", "delivery.batch_age": "1s", "lease.full_scan": "2s",
                    "aws.attempt_timeout": "1s", "aws.operation_timeout": "2s",
                    "lease.worker": f"ip-10-0-{number}-17.eu-west-1.compute.internal:"
                                    f"0197a1b2-c3d4-7e5f-8a9b-{number:012}"}
        flags = [part for pair in settings.items() for part in ("--set", "=".join(pair))]
        start([binary, "run", "--stream", "local", "--bucket", "archive", *flags], environment,
              stdout=subprocess.DEVNULL)

    def send(count):
        (work / "lines").write_text("".join(f'{{"n":{n}}}\n' for n in range(count)))
        subprocess.run([binary, "send", "--stream", "local", "--input", work / "lines"],
                       env=environment, check=True, capture_output=True, timeout=60)

    def status():
        return json.loads(fetch(f"http://{address}/status"))

    until("three workers share the leases", lambda: len(status()["fleet"]["owners"]) == 3)
    send(3000)
    until("an object is stored", lambda: status()["recent_objects"])
    browser = Browser()
    browser.log("browser")
    browser.call("POST", "/url", {"url": f"http://{address}/"})
    until("the page is told",
          lambda: int(browser.eval("return document.documentElement.dataset.ticks || 0")))
    before = int(browser.eval("return document.getElementById('delivered').textContent.replace(/,/g, '')"))
    send(4000)
    until("the page shows new records", lambda: before < int(browser.eval(
        "return document.getElementById('delivered').textContent.replace(/,/g, '')")))
    check("new records appear without a reload", True)
    check("the page says that it is live", browser.eval("return document.getElementById('link').textContent") == "Live")

    def rows(table):
        return browser.eval(f"return document.getElementById('{table}').rows.length")

    check("three workers and eight shards are listed", (rows("owners"), rows("shards")) == (3, 8))
    until("it is well", lambda: browser.eval("return document.getElementById('health').dataset.state") == "ok")
    views(browser, axe, "well")

    services.send_signal(signal.SIGSTOP)
    until("the page says that something is wrong", lambda: browser.eval(
        "return document.getElementById('errors').rows[0].cells.length > 1"), 90)
    views(browser, axe, "ill")
    services.send_signal(signal.SIGCONT)

    # As many shards and workers as a view lists, told to the page as if the worker had.
    browser.eval("""
        const tell = show;
        show = () => {};
        fetch('status').then(answer => answer.json()).then(v => {
          const id = n => 'shardId-' + String(n).padStart(12, '0');
          v.health = {state: 'bad', reasons: [
            'shardId-000000000007 is 900 min behind, more than half the stream’s retention',
            '12 lease(s) have no owner']};
          v.shards = {}; v.lag_ms = {};
          for (let n = 0; n < 256; n++) {
            v.shards[id(n)] = {state: 'reading', checkpoint: '4'.repeat(56), records: n * 1e7, undelivered: n % 3};
            v.lag_ms[id(n)] = n < 9 ? (n + 1) * 7e6 : 400;
          }
          Object.assign(v, {shards_owned: 5000, shards_omitted: 4744, active_leases: 6400, workers: 66,
            records: 1e12, bytes: 1e15});
          v.fleet = {...v.fleet, cells: true, leases: [], leases_omitted: 6400, owners_omitted: 2, free: 12, spans: [],
            owners: [...Array(64)].map((_, n) => (
              {worker: n ? 'host-' + n : v.worker, leases: n ? 20 : 5000, kbps: n * 111}))};
          for (let n = 0; n < 256; n++)
            v.fleet.spans.push({owner: n % 67 - 3, from: n / 256, to: (n + 1) / 256, lane: 0});
          v.history.lag_ms = [...Array(300)].map((_, n) => 5e5 + 4e5 * Math.sin(n / 20));
          v.history.records_per_s = [...Array(300)].map((_, n) => 9e4 + 2e4 * Math.cos(n / 7));
          tell(v);
          document.documentElement.dataset.many = '1';
        });""")
    until("many shards are shown", lambda: browser.eval("return document.documentElement.dataset.many"))
    check("what is listed is bounded, and said to be", rows("shards") == 256 and "4,744 shards" in
          browser.eval("return document.getElementById('omitted').textContent"))
    views(browser, axe, "many")

    console = [m["message"] for m in browser.log("browser") if m["level"] in ("SEVERE", "WARNING")]
    check("the console is silent", not console, console)
    asked = set()
    for entry in browser.log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.add(message["params"]["request"]["url"])
    asked = {url for url in asked if url.startswith(("http", "ws"))}
    own = {f"http://{address}{path}" for path in ("/", "/events", "/status")}
    check("only this worker was asked, by its page", asked and asked <= own, asked)
    browser.call("DELETE", "")


if __name__ == "__main__":
    main()
