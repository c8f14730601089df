#!/usr/bin/env python3
"""Pictures of the dashboards, drawn with Grafana's UI library in Chromium. Not part of the gate.

    CATCHMENT_BIN=target/debug/catchment python3 dashboards/render.py

Needs npm, Debian's chromium and prometheus. Runs the scene of .ci/dashboards_check.py for about two
minutes, lets S3 refuse for a while, asks Prometheus every panel's query and draws the answers into
docs/pictures/. Grafana's server has no part in it: the pictures say so.
"""
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / ".ci"))
from dashboards.live import resolve  # noqa: E402
from dashboards.proxy import refuse  # noqa: E402
from dashboards.scene import Scene  # noqa: E402
from lib import tools  # noqa: E402

NPM = ("@grafana/ui@11.6.0", "@grafana/data@11.6.0", "@grafana/schema@11.6.0", "react@18.3.1", "react-dom@18.3.1",
       "rxjs@7.8.1", "esbuild@0.25.0", "playwright-core@1.50.0")
SHOOT = """
const { chromium } = require("playwright-core");
(async () => {
  const browser = await chromium.launch(
    { executablePath: "/usr/bin/chromium", args: ["--no-sandbox", "--disable-gpu"] });
  const page = await browser.newPage({ viewport: { width: 1456, height: 900 } });
  const failures = [];
  page.on("pageerror", (error) => failures.push(String(error)));
  await page.route("**", (route) => route.request().url().startsWith("file:") ? route.continue() : route.abort());
  await page.goto("file://" + process.argv[2]);
  await page.waitForSelector("#page canvas");
  await page.waitForTimeout(1500);
  await page.locator("#page").screenshot({ path: process.argv[3] });
  await browser.close();
  if (failures.length) { console.error(failures.join("\\n")); process.exit(1); }
})();
"""


def bundle():
    """The bundle of render.jsx, made once for each version of it."""
    home = tools.node_packages("grafana-ui", *NPM)
    (home / "view.jsx").write_text((HERE / "render.jsx").read_text())
    (home / "shoot.cjs").write_text(SHOOT)
    subprocess.run([str(home / "node_modules" / ".bin" / "esbuild"), "view.jsx", "--bundle", "--outfile=view.js",
                    "--jsx=automatic", "--loader:.svg=dataurl", "--loader:.ttf=dataurl", "--define:process.env.NODE_ENV"
                    "=\"production\"", "--minify", "--log-level=error"], cwd=home, check=True)
    return home


def answers(scene, board, since, until):
    values, found = resolve(scene, board), {}
    for panel in board["panels"]:
        if panel["type"] == "row" or panel["datasource"]["type"] != "prometheus":
            continue
        for target in panel["targets"]:
            expr = target["expr"]
            for name in sorted(values, key=len, reverse=True):
                expr = expr.replace(f"${name}", values[name])
            found.setdefault(panel["id"], []).append(
                scene.ask("/api/v1/query_range", query=expr, start=since, end=until, step="1s")["result"])
    return found


def main():
    home = bundle()
    binary = Path(os.environ.get("CATCHMENT_BIN", "target/debug/catchment")).resolve()
    pictures = HERE.parent / "docs" / "pictures"
    pictures.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="render-") as scratch:
        scene = Scene(binary, Path(scratch))
        try:
            since = time.time()
            scene.begin()
            time.sleep(40)
            scene.proxies["worker"].fault = refuse("S3.PUT", 503, "SlowDown")
            scene.put([b'{"catchment":"upload","v":1,"file_key":"uploads/../secret"}'])
            time.sleep(25)
            scene.proxies["worker"].heal()
            time.sleep(40)
            until = time.time()
            for path in sorted(HERE.glob("*.json")):
                board = json.loads(path.read_text())
                given = {"board": board, "file": path.name, "range": [(since + 12) * 1000, until * 1000],
                         "data": answers(scene, board, since + 12, until)}
                given = json.dumps(given).replace("</", "<\\/")
                page = home / f"{path.stem}.html"
                page.write_text(
                    "<!doctype html><meta charset=utf-8><style>body{margin:0;background:#111217;font-family:Inter,"
                    "DejaVu Sans,sans-serif;color:#ccccdc}button{color:inherit}</style><link rel=stylesheet "
                    "href=view.css><div id=root></div>"
                    f"<script>window.__input={given}</script><script src=view.js></script>")
                picture = pictures / f"dashboard-{path.stem}.png"
                subprocess.run(["node", "shoot.cjs", str(page), str(picture)], cwd=home, check=True, timeout=120)
                print(f"{picture.relative_to(HERE.parent)}: {picture.stat().st_size // 1024} KB")
        finally:
            scene.end()


if __name__ == "__main__":
    main()
