#!/usr/bin/env python3
"""Writes the dashboards and rules of this folder. Standard library only.

    python3 dashboards/build.py                      # write them
    python3 dashboards/build.py --check              # fail if a committed file is not what this makes
    python3 dashboards/build.py --runbook URL        # write them with links to your copy of the runbook

Panels are made by `stat`, `lines` and `cloudwatch`; alerts stand in `ALERTS`, each with the heading of
docs/RUNBOOK.md that tells what to do. `.ci/dashboards_check.py` uses the same lists.
"""
import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
RUNBOOK = "https://example.com/catchment/docs/RUNBOOK.md"
PROMETHEUS = {"type": "prometheus", "uid": "${datasource}"}
CLOUDWATCH = {"type": "cloudwatch", "uid": "${cloudwatch}"}
OF = 'job=~"$job", stream=~"$stream"'
ONE = OF + ', shard=~"$shard"'
BY = "by (job, stream)"
# Panels that are empty or zero while all is well: (dashboard, panel) to the fault that fills them.
FILLS = {}


def rate(name, extra="", window="$__rate_interval"):
    """The rate of a counter of the chosen fleets."""
    return f"rate({name}{{{OF}{', ' + extra if extra else ''}}}[{window}])"


def grown(name, extra=""):
    """Growth of a counter over the time shown, including that of a process seen for the first time."""
    return f"increase({name}{{{OF}{', ' + extra if extra else ''}}}[$__range])"


def gauge(name, extra=""):
    return f"{name}{{{OF}{', ' + extra if extra else ''}}}"


def slug(heading):
    """The anchor of a heading, as the forges make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def runbook(heading):
    return [{"type": "link", "title": f"Runbook: {heading}", "url": f"${{runbook}}#{slug(heading)}",
             "targetBlank": True, "icon": "external link", "tooltip": "", "tags": [], "asDropdown": False,
             "includeVars": False, "keepTime": False}]


def defaults(unit, steps=None, **custom):
    levels = [{"color": "green", "value": None}] + [{"color": c, "value": v} for v, c in steps or []]
    return {"defaults": {"unit": unit, "custom": custom, "min": 0,
                         "color": {"mode": "thresholds" if steps else "palette-classic"},
                         "thresholds": {"mode": "absolute", "steps": levels}},
            "overrides": []}


def queries(pairs):
    pairs = [pairs] if isinstance(pairs, tuple) else pairs
    return [{"refId": chr(ord("A") + n), "datasource": PROMETHEUS, "expr": expr, "legendFormat": legend,
             "editorMode": "code", "range": True} for n, (legend, expr) in enumerate(pairs)]


def stat(title, unit, help, pairs, heading=None, steps=None, width=4, fills=None):
    """One number. `fills` names what has to happen for it to be above zero: see the check."""
    config = defaults(unit, steps or [(0, "green")])
    if unit == "short":
        # Prometheus extrapolates an increase: one dead letter may be 1.01.
        config["defaults"]["decimals"] = 0
    return {"type": "stat", "title": title, "description": help, "datasource": PROMETHEUS,
            "fieldConfig": config, "targets": queries(pairs),
            "options": {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
                        "colorMode": "value", "graphMode": "area", "justifyMode": "auto",
                        "orientation": "auto", "textMode": "auto", "wideLayout": True},
            "links": runbook(heading) if heading else [], "_size": (width, 4), "_fills": fills}


def lines(title, unit, help, pairs, heading=None, stack=False, width=12, fills=None, calcs=("lastNotNull", "max")):
    """Curves over time."""
    mode = {"mode": "normal" if stack else "none", "group": "A"}
    return {"type": "timeseries", "title": title, "description": help, "datasource": PROMETHEUS,
            "fieldConfig": defaults(unit, drawStyle="line", lineWidth=1, fillOpacity=20 if stack else 5,
                                    showPoints="auto", spanNulls=False, stacking=mode),
            "targets": queries(pairs),
            "options": {"legend": {"displayMode": "table", "placement": "bottom", "showLegend": True,
                                   "calcs": list(calcs)},
                        "tooltip": {"mode": "multi", "sort": "desc"}},
            "links": runbook(heading) if heading else [], "_size": (width, 8), "_fills": fills}


def cloudwatch(title, unit, help, metrics, heading=None, width=8):
    """Curves from CloudWatch: (namespace, metric, dimensions, statistic, label)."""
    targets = [{"refId": chr(ord("A") + n), "datasource": CLOUDWATCH, "id": f"m{n}", "queryMode": "Metrics",
                "metricQueryType": 0, "metricEditorMode": 0, "namespace": namespace, "metricName": metric,
                "dimensions": dimensions, "matchExact": True, "statistic": statistic, "period": "60",
                "region": "$region", "label": label, "expression": ""}
               for n, (namespace, metric, dimensions, statistic, label) in enumerate(metrics)]
    panel = lines(title, unit, help, [], heading, width=width)
    return panel | {"datasource": CLOUDWATCH, "targets": targets}


def logs(title, help, expression, group, heading=None, width=24):
    """A table from CloudWatch Logs Insights."""
    target = {"refId": "A", "datasource": CLOUDWATCH, "id": "l0", "queryMode": "Logs", "region": "$region",
              "expression": expression, "logGroupNames": [group], "statsGroups": []}
    return {"type": "table", "title": title, "description": help, "datasource": CLOUDWATCH,
            "fieldConfig": defaults("short"), "targets": [target],
            "options": {"showHeader": True, "cellHeight": "sm"},
            "links": runbook(heading) if heading else [], "_size": (width, 8), "_fills": None}


def variable(name, label, help, query, multi=True, **more):
    every = {"includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}}
    return {"type": "query", "name": name, "label": label, "description": help, "datasource": PROMETHEUS,
            "query": {"query": query, "refId": name}, "refresh": 2, "sort": 1, "hide": 0, "multi": multi,
            } | (every if multi else {"includeAll": False}) | more


def source(name, label, kind):
    return {"type": "datasource", "name": name, "label": label, "query": kind, "refresh": 1, "multi": False,
            "includeAll": False, "hide": 0}


def textbox(name, label, help, value, hide=0):
    return {"type": "textbox", "name": name, "label": label, "description": help, "query": value,
            "current": {"text": value, "value": value}, "hide": hide}


def variables(*more, multi=True):
    return [source("datasource", "Prometheus", "prometheus"),
            variable("job", "Application", "Prometheus job: one for each application.",
                     "label_values(catchment_build_info, job)", multi),
            variable("stream", "Stream", "Kinesis data stream.",
                     'label_values(catchment_build_info{job=~"$job"}, stream)', multi), *more,
            textbox("runbook", "Runbook", "Where your copy of docs/RUNBOOK.md is; the panels link to it.",
                    RUNBOOK, hide=2)]


def dashboard(uid, title, help, variables, rows, refresh="30s", since="now-3h"):
    """Rows of panels, placed from left to right on Grafana's 24 columns."""
    panels, y, number = [], 0, 0
    for name, members in rows:
        number += 1
        panels.append({"id": number, "type": "row", "title": name, "collapsed": False, "panels": [],
                       "gridPos": {"h": 1, "w": 24, "x": 0, "y": y}})
        y, x, tallest = y + 1, 0, 0
        for member in members:
            width, height = member["_size"]
            if x + width > 24:
                y, x, tallest = y + tallest, 0, 0
            number += 1
            if member["_fills"]:
                FILLS[(title, member["title"])] = member["_fills"]
            kept = {key: value for key, value in member.items() if not key.startswith("_")}
            panels.append({"id": number} | kept | {"gridPos": {"h": height, "w": width, "x": x, "y": y}})
            x, tallest = x + width, max(tallest, height)
        y += tallest
    links = [{"type": "dashboards", "title": "Catchment", "tags": ["catchment"], "asDropdown": False,
              "icon": "external link", "includeVars": True, "keepTime": True, "targetBlank": False,
              "tooltip": "", "url": ""}]
    return {"uid": uid, "title": title, "description": help, "tags": ["catchment"], "schemaVersion": 41,
            "version": 1, "editable": True, "graphTooltip": 1, "timezone": "browser", "refresh": refresh,
            "time": {"from": since, "to": "now"}, "templating": {"list": variables},
            "annotations": {"list": []},
            "links": links, "panels": panels, "fiscalYearStartMonth": 0}


def overview():
    owned = gauge("catchment_leases_owned")
    unowned = (f"sum(max {BY} ({gauge('catchment_leases', 'state=' + chr(34) + 'active' + chr(34))}) - "
               f"sum {BY} ({owned}))")
    return dashboard("catchment-overview", "Catchment / Overview", "A fleet: is everything delivered, how far "
                     "behind, at what cost. Aggregates only; the ten worst shards are named.", variables(), [
        ("At a glance", [
            stat("Workers", "short", "Workers that answer the scrape.",
                 ("workers", f"count({gauge('catchment_build_info')})"), "CatchmentNoWorkers"),
            stat("Shards without a worker", "short", "Leases with work that no scraped worker holds.",
                 ("unowned", unowned), "CatchmentShardsUnowned", [(1, "orange")], fills="frozen"),
            stat("Lag", "s", "The farthest behind of all shards (MillisBehindLatest, IteratorAge).",
                 ("lag", f"max({gauge('catchment_behind_latest_seconds')})"), "CatchmentLag",
                 [(60, "orange"), (300, "red")], fills="behind"),
            stat("Of retention", "percentunit", "Lag as a part of the stream's retention: at 100 % records "
                 "are lost.", ("used", f"max(max {BY} ({gauge('catchment_behind_latest_seconds')}) / "
                               f"min {BY} ({gauge('catchment_retention_seconds')}))"),
                 "CatchmentRetentionNear", [(0.3, "orange"), (0.7, "red")], fills="behind"),
            stat("Dead letters", "short", "Records put aside over the time shown.",
                 ("records", f"sum({grown('catchment_dead_letters_total')})"), "CatchmentDeadLetters",
                 [(1, "orange")], fills="refused upload"),
            stat("Gaps", "short", "Ranges lost to retention over the time shown.",
                 ("gaps", f"sum({grown('catchment_gaps_total')})"), "CatchmentGap", [(1, "red")], fills="gap"),
        ]),
        ("Lag and freshness", [
            lines("Behind the tip", "s", "How far the last page of each shard was from the tip.", [
                ("worst", f"max({gauge('catchment_behind_latest_seconds')})"),
                ("median", f"quantile(0.5, {gauge('catchment_behind_latest_seconds')})")], "CatchmentLag",
                  fills="behind"),
            lines("Ten shards farthest behind", "s", "Open the shard dashboard for one of them.",
                  ("{{shard}}", f"topk(10, {gauge('catchment_behind_latest_seconds')})"), "CatchmentLag",
                  fills="behind"),
            lines("Not yet durable", "s", "Time since the oldest record in hand was read. A batch waits up to "
                  "delivery.batch_age; more than that and S3 or the lease table is slow.", [
                      ("worst", f"max({gauge('catchment_oldest_undelivered_seconds')})"),
                      ("median", f"quantile(0.5, {gauge('catchment_oldest_undelivered_seconds')})")],
                  "CatchmentUndelivered"),
            lines("Ten shards that stand still longest", "s", "Time since a page was read or a batch announced "
                  "or committed. A second is normal: an idle shard is polled.",
                  ("{{shard}}", f"topk(10, {gauge('catchment_no_progress_seconds')})"), "CatchmentNoProgress"),
        ]),
        ("Throughput", [
            lines("Records", "cps", "User records read, and committed.", [
                ("read", f"sum({rate('catchment_records_read_total')})"),
                ("delivered", f"sum({rate('catchment_records_delivered_total')})")]),
            lines("Bytes", "Bps", "Payload read, and committed.", [
                ("read", f"sum({rate('catchment_bytes_read_total')})"),
                ("delivered", f"sum({rate('catchment_bytes_delivered_total')})")]),
            lines("Batches by cause", "cps", "Why batches are cut. Much `pressure`: the budget is small for the "
                  "number of shards.", ("{{cause}}", f"sum by (cause) ({rate('catchment_batches_total')})"),
                  stack=True),
            lines("GetRecords by result", "reqps", "Calls by result; `throttled` means that others poll the "
                  "same shards.", ("{{result}}", f"sum by (result) ({rate('catchment_get_records_total')})"),
                  "CatchmentLag", stack=True),
            lines("KPL", "cps", "Aggregates taken apart, and user records left to another shard.", [
                ("aggregates", f"sum({rate('catchment_aggregates_total')})"),
                ("foreign records", f"sum({rate('catchment_foreign_records_total')})")], width=24),
        ]),
        ("S3", [
            lines("Objects created", "cps", "By kind. Each costs a PUT.",
                  ("{{kind}}", f"sum by (kind) ({rate('catchment_objects_written_total')})"), stack=True),
            lines("Time to store an object", "s", "Retries included.", [
                (f"p{q}", f"histogram_quantile(0.{q}, sum by (le) ({rate('catchment_put_seconds_bucket')}))")
                for q in (50, 99)], "CatchmentUndelivered"),
            lines("Size of objects", "bytes", "Mean of what was created. Small ones cost requests here and time "
                  "in every query.", ("mean", f"sum({rate('catchment_object_bytes_sum')}) / "
                                      f"(sum({rate('catchment_object_bytes_count')}) > 0)")),
            lines("Failed attempts, and duplicates prevented", "cps", "Attempts by kind of failure; creations "
                  "that found the object there.", [
                      ("{{class}}", f"sum by (class) ({rate('catchment_put_retries_total')})"),
                      ("already there", f"sum({rate('catchment_objects_existed_total')})")],
                  "CatchmentUndelivered", fills="S3 refuses"),
        ]),
        ("Leases and reshards", [
            lines("Leases", "short", "In the table, and held by scraped workers.", [
                ("{{state}}", f"sum by (state) (max by (job, stream, state) ({gauge('catchment_leases')}))"),
                ("owned", f"sum({owned})")], "CatchmentShardsUnowned"),
            lines("Leases per worker", "short", "How evenly they lie. Weights count, not numbers alone.", [
                ("most", f"max({owned})"), ("mean", f"avg({owned})"), ("fewest", f"min({owned})")]),
            lines("Lease moves", "short", "Per minute. Taken and lost without a deployment: workers die or cannot "
                  "reach the table.", [
                      (name, f"sum({rate(metric)}) * 60") for name, metric in [
                          ("taken", "catchment_leases_taken_total"), ("lost", "catchment_leases_lost_total"),
                          ("released", "catchment_leases_released_total"),
                          ("freed of the dead", "catchment_leases_freed_total"),
                          ("created", "catchment_leases_created_total"),
                          ("shards finished", "catchment_shards_finished_total"),
                          ("rewound", "catchment_rewinds_total")]], "CatchmentLeasesLost", fills="frozen"),
            lines("Handoffs and heartbeats", "cps", "Graceful handoffs by step; heartbeats by result.", [
                ("handoff {{step}}", f"sum by (step) ({rate('catchment_lease_handoffs_total')})"),
                ("heartbeat {{result}}", f"sum by (result) ({rate('catchment_lease_renewals_total')})")],
                  "CatchmentLeasesLost", fills="frozen"),
            lines("Request units of the lease table", "cps", "Consumed units per second; docs/RUNBOOK.md has the "
                  "formula.", ("{{kind}}", f"sum by (kind) ({rate('catchment_dynamodb_consumed_units_total')})"),
                  "What the lease table costs", stack=True),
            lines("Commits and news", "cps", "Progress writes; scans of the table; notes to the fleet.", [
                ("commits", f"sum({rate('catchment_commits_total')})"),
                ("scans", f"sum({rate('catchment_lease_scans_total')})"),
                ("news {{result}}", f"sum by (result) ({rate('catchment_lease_change_signals_total')})")]),
        ]),
        ("Errors", [
            lines("Failed calls", "reqps", "AWS calls by operation and kind of failure.",
                  ("{{operation}} {{class}}",
                   f"sum by (operation, class) ({rate('catchment_call_failures_total')})"),
                  "CatchmentDenied", stack=True, fills="any refusal"),
            lines("Dead letters by kind", "short", "Per minute.",
                  ("{{kind}}", f"sum by (kind) ({rate('catchment_dead_letters_total')}) * 60"),
                  "CatchmentDeadLetters", stack=True, fills="refused upload"),
            lines("Shards given up and tried again", "short", "Per minute; and batches of others finished.", [
                ("given up", f"sum({rate('catchment_shard_failures_total')}) * 60"),
                ("batches of others finished", f"sum({rate('catchment_intents_recovered_total')}) * 60")],
                  "CatchmentUndelivered", fills="S3 refuses"),
            lines("Left alone", "short", "Rows of the lease table that cannot be read; checkpoints that overrule "
                  "stream.start.", [("rows unreadable", f"max({gauge('catchment_leases_unreadable')})"),
                                    ("start ignored", f"max({gauge('catchment_start_ignored')})")],
                  "CatchmentLeaseUnreadable", fills="unreadable row"),
        ]),
        ("Saturation", [
            lines("Byte budget in use", "percentunit", "Of memory.budget.", [
                ("fullest worker", f"max({gauge('catchment_buffer_bytes')} / {gauge('catchment_budget_bytes')})"),
                ("fleet", f"sum({gauge('catchment_buffer_bytes')}) / sum({gauge('catchment_budget_bytes')})")],
                  "CatchmentBudgetExhausted"),
            lines("Fetches waiting for room", "short", "Above zero for long: reading is held back.",
                  ("waiting", f"sum({gauge('catchment_budget_waiting')})"), "CatchmentBudgetExhausted",
                  fills="S3 refuses"),
            lines("CPU", "short", "Cores in use.", [
                ("fleet", f"sum({rate('process_cpu_seconds_total')})"),
                ("busiest worker", f"max({rate('process_cpu_seconds_total')})")]),
            lines("Resident memory", "bytes", "The budget is inside of it.", [
                ("largest worker", f"max({gauge('process_resident_memory_bytes')})"),
                ("budget", f"max({gauge('catchment_budget_bytes')})")]),
        ]),
    ])


def shard():
    def one(name):
        return f"{name}{{{ONE}}}"

    def moved(name):
        return f"rate({name}{{{ONE}}}[$__rate_interval])"
    chosen = variable("shard", "Shard", "Shard of the stream. Choose few.",
                      f"label_values(catchment_no_progress_seconds{{{OF}}}, shard)")
    return dashboard("catchment-shard", "Catchment / Shard", "One shard, or a few: where it is read, how far "
                     "behind it is, and what holds it back. Needs telemetry.shard_labels = true.",
                     variables(chosen, multi=False), [
        ("Now", [
            stat("Behind the tip", "s", "MillisBehindLatest of the last page.",
                 ("{{shard}}", f"max by (shard) ({one('catchment_behind_latest_seconds')})"), "CatchmentLag",
                 [(60, "orange"), (300, "red")], width=6, fills="behind"),
            stat("Not yet durable", "s", "Time since the oldest record in hand was read.",
                 ("{{shard}}", f"max by (shard) ({one('catchment_oldest_undelivered_seconds')})"),
                 "CatchmentUndelivered", [(300, "orange"), (900, "red")], width=6),
            stat("Still for", "s", "Time since something moved. /livez fails at 600.",
                 ("{{shard}}", f"max by (shard) ({one('catchment_no_progress_seconds')})"),
                 "CatchmentNoProgress", [(60, "orange"), (300, "red")], width=6),
            stat("Workers that hold it", "short", "One. Two for a moment while a zombie has not noticed.",
                 ("{{shard}}", f"count by (shard) ({one('catchment_no_progress_seconds')})"),
                 "CatchmentShardsUnowned", width=6),
        ]),
        ("Progress", [
            lines("Behind the tip", "s", "A slope of 1: nothing is read. A falling slope: it catches up.",
                  ("{{shard}}", f"max by (shard) ({one('catchment_behind_latest_seconds')})"), "CatchmentLag",
                  fills="behind"),
            lines("Not yet durable, and still for", "s", "Both grow: S3, the lease table or the reader stands.", [
                ("{{shard}} not durable", f"max by (shard) ({one('catchment_oldest_undelivered_seconds')})"),
                ("{{shard}} still", f"max by (shard) ({one('catchment_no_progress_seconds')})")],
                  "CatchmentNoProgress"),
            lines("Records", "cps", "Read, and committed.", [
                ("{{shard}} read", f"sum by (shard) ({moved('catchment_records_read_total')})"),
                ("{{shard}} delivered", f"sum by (shard) ({moved('catchment_records_delivered_total')})")]),
            lines("Bytes", "Bps", "Read, and committed. Kinesis gives all polling readers of a shard 2 MB/s.", [
                ("{{shard}} read", f"sum by (shard) ({moved('catchment_bytes_read_total')})"),
                ("{{shard}} delivered", f"sum by (shard) ({moved('catchment_bytes_delivered_total')})")],
                  "CatchmentLag"),
        ]),
        ("Place", [
            lines("Read by", "short", "1 where the shard is held. A step from one worker to another is a move.",
                  ("{{shard}} at {{instance}}", f"count by (shard, instance) ({one('catchment_no_progress_seconds')})"),
                  "CatchmentLeasesLost", stack=True),
            lines("Part of the stream's bytes", "percentunit", "A hot shard has far more than its part.",
                  ("{{shard}}", f"sum by (shard) ({moved('catchment_bytes_read_total')}) / ignoring (shard) "
                   f"group_left () (sum({rate('catchment_bytes_read_total')}) > 0)")),
            lines("Mean size of a record", "bytes", "Payload bytes per user record.",
                  ("{{shard}}", f"sum by (shard) ({moved('catchment_bytes_read_total')}) / "
                   f"(sum by (shard) ({moved('catchment_records_read_total')}) > 0)")),
            lines("GetRecords of the fleet", "reqps", "By result, for all shards: the label would cost eight "
                  "series each.", ("{{result}}", f"sum by (result) ({rate('catchment_get_records_total')})"),
                  "CatchmentLag", stack=True),
        ]),
    ])


def front_door():
    api, function = {"ApiId": "$api"}, {"FunctionName": "$function"}
    stream = {"StreamName": "$stream"}
    uploads = 'kind=~"upload-.*"'
    more = [source("cloudwatch", "CloudWatch", "cloudwatch"),
            textbox("region", "Region", "Region of API and function.", "us-east-1"),
            textbox("api", "API id", "Output ApiId of ecs/platform.yaml.", "a1b2c3d4e5"),
            textbox("function", "Function", "Output FunctionName of ecs/platform.yaml.", "catchment-upload")]
    chosen = variables(*more, multi=False)  # CloudWatch takes one stream as a dimension.
    return dashboard("catchment-front-door", "Catchment / Front door", "Uploads from the request to the object. "
                     "The API and the function are CloudWatch's; what the worker makes of the events is "
                     "Prometheus's.", chosen, [
        ("At a glance (worker)", [
            stat("Files stored", "short", "Over the time shown.",
                 ("files", f"sum({grown('catchment_objects_written_total', 'kind=' + chr(34) + 'upload' + chr(34))})"),
                 width=6),
            stat("Accepted and not stored", "short", "Events the worker could not turn into files: callers were "
                 "told 200.", ("events", f"sum({grown('catchment_dead_letters_total', uploads)})"),
                 "CatchmentUploadsRefused", [(1, "red")], width=6, fills="refused upload"),
            stat("Acceptance to object, p99", "s", "Over the time shown.",
                 ("p99", "histogram_quantile(0.99, sum by (le) (" +
                  rate("catchment_upload_seconds_bucket", window="$__range") + "))"),
                 "CatchmentUploadsSlow", [(60, "orange"), (180, "red")], width=6),
            stat("Worker's lag", "s", "Files wait as long as the worker is behind.",
                 ("lag", f"max({gauge('catchment_behind_latest_seconds')})"), "CatchmentLag",
                 [(60, "orange"), (300, "red")], width=6, fills="behind"),
        ]),
        ("Events become files (worker)", [
            lines("Files stored", "cps", "Upload objects created.",
                  ("files", f"sum({rate('catchment_objects_written_total', 'kind=' + chr(34) + 'upload' + chr(34))})"),
                  width=8),
            lines("Acceptance to object", "s", "By the clocks of function and worker. About delivery.batch_age "
                  "where archive and uploads share a stream.", [
                      (f"p{q}", f"histogram_quantile(0.{q}, sum by (le) "
                       f"({rate('catchment_upload_seconds_bucket')}))") for q in (50, 99)],
                  "CatchmentUploadsSlow", width=8),
            lines("Put aside, by kind", "short", "Per minute. upload-conflict: the key belongs to another file.",
                  ("{{kind}}", f"sum by (kind) ({rate('catchment_dead_letters_total', uploads)}) * 60"),
                  "CatchmentUploadsRefused", stack=True, width=8, fills="refused upload"),
        ]),
        ("API (CloudWatch)", [
            cloudwatch("Requests", "short", "Per minute, with the answers that are not 2xx.", [
                ("AWS/ApiGateway", "Count", api, "Sum", "requests"), ("AWS/ApiGateway", "4xx", api, "Sum", "4xx"),
                ("AWS/ApiGateway", "5xx", api, "Sum", "5xx")], "Uploads are answered with 5xx"),
            cloudwatch("Latency", "ms", "Of the whole request, and of the function within it.", [
                ("AWS/ApiGateway", "Latency", api, "p50", "p50"), ("AWS/ApiGateway", "Latency", api, "p99", "p99"),
                ("AWS/ApiGateway", "IntegrationLatency", api, "p99", "function p99")],
                "Uploads are answered with 5xx"),
            cloudwatch("Bytes in", "bytes", "DataProcessed: bodies of requests and answers per minute.", [
                ("AWS/ApiGateway", "DataProcessed", api, "Sum", "bytes")]),
        ]),
        ("Function and stream (CloudWatch)", [
            cloudwatch("Invocations", "short", "Per minute. Errors are crashes and time-outs, not 5xx answers.", [
                ("AWS/Lambda", "Invocations", function, "Sum", "invocations"),
                ("AWS/Lambda", "Errors", function, "Sum", "errors"),
                ("AWS/Lambda", "Throttles", function, "Sum", "throttles")], "Uploads are answered with 5xx"),
            cloudwatch("Duration and concurrency", "ms", "Duration in ms; concurrency is a number.", [
                ("AWS/Lambda", "Duration", function, "p50", "p50"), ("AWS/Lambda", "Duration", function, "p99", "p99"),
                ("AWS/Lambda", "ConcurrentExecutions", function, "Maximum", "concurrent")]),
            cloudwatch("Stream", "short", "Records put per minute, and puts that were throttled: uploads answer "
                       "503 then.", [
                           ("AWS/Kinesis", "IncomingRecords", stream, "Sum", "records"),
                           ("AWS/Kinesis", "WriteProvisionedThroughputExceeded", stream, "Sum", "throttled")],
                       "Uploads are answered with 5xx"),
            logs("Answers that are not 200, from the function's log", "Each request is one JSON line; `reason` says "
                 "why.", "filter message = 'request' and status != 200 | stats count(*) as answers, "
                 "pct(took_ms, 99) as p99_ms by status, reason | sort answers desc", "/aws/lambda/$function",
                 "Uploads are answered with 5xx"),
        ]),
    ])


# Rules ------------------------------------------------------------------------------------------------

RECORDING = [
    ("catchment:records_read:rate5m", f"sum {BY} (rate(catchment_records_read_total[5m]))"),
    ("catchment:records_delivered:rate5m", f"sum {BY} (rate(catchment_records_delivered_total[5m]))"),
    ("catchment:bytes_delivered:rate5m", f"sum {BY} (rate(catchment_bytes_delivered_total[5m]))"),
    ("catchment:behind_latest_seconds:max", f"max {BY} (catchment_behind_latest_seconds)"),
    ("catchment:oldest_undelivered_seconds:max", f"max {BY} (catchment_oldest_undelivered_seconds)"),
    ("catchment:leases_unowned", f'max {BY} (catchment_leases{{state="active"}}) - '
                                 f"sum {BY} (catchment_leases_owned)"),
    ("catchment:put_seconds:p99_5m", "histogram_quantile(0.99, sum by (job, stream, le) "
                                     "(rate(catchment_put_seconds_bucket[5m])))"),
    ("catchment:upload_seconds:p99_5m", "histogram_quantile(0.99, sum by (job, stream, le) "
                                        "(rate(catchment_upload_seconds_bucket[5m])))"),
]


def grew(name, window, by="job, stream", extra=""):
    """Counted within the window. A process that counted before its first scrape is included: for
    Prometheus a series that begins at 1 has not grown."""
    chosen = name + extra
    return (f"sum by ({by}) (increase({chosen}[{window}])) > 0\n"
            f"or sum by ({by}) ({chosen} unless {chosen} offset {window}) > 0")


class Alert:
    """`limit` is in seconds where `seconds`: the check makes time and limits shorter, not the query."""

    def __init__(self, name, severity, wait, expr, summary, limit=None):
        self.name, self.severity, self.wait, self.expr = name, severity, wait, expr
        self.summary, self.limit = summary, limit


ALERTS = [
    Alert("CatchmentNoWorkers", "critical", "1m",
          "group by (job, stream) (last_over_time(catchment_build_info[1h]))\n"
          "unless group by (job, stream) (catchment_build_info)",
          "No worker of {{ $labels.job }} reads {{ $labels.stream }}"),
    Alert("CatchmentWorkerDown", "warning", "5m",
          "up == 0 and on (job, instance) last_over_time(catchment_build_info[1h])",
          "The worker at {{ $labels.instance }} does not answer"),
    Alert("CatchmentLag", "warning", "5m", f"max {BY} (catchment_behind_latest_seconds) > LIMIT",
          "{{ $labels.stream }} is read {{ $value | humanizeDuration }} behind", 300),
    Alert("CatchmentRetentionNear", "critical", "1m",
          f"max {BY} (catchment_behind_latest_seconds) / min {BY} (catchment_retention_seconds) > 0.7",
          "{{ $labels.stream }} is behind by {{ $value | humanizePercentage }} of its retention"),
    Alert("CatchmentNoProgress", "critical", "1m",
          "max by (job, stream, shard) (catchment_no_progress_seconds) > LIMIT",
          "{{ $labels.shard }} of {{ $labels.stream }} has stood still for {{ $value | humanizeDuration }}", 300),
    Alert("CatchmentUndelivered", "warning", "1m",
          "max by (job, stream, shard) (catchment_oldest_undelivered_seconds) > LIMIT",
          "{{ $labels.shard }} of {{ $labels.stream }} holds records read {{ $value | humanizeDuration }} ago", 600),
    Alert("CatchmentShardsUnowned", "critical", "5m",
          f'max {BY} (catchment_leases{{state="active"}}) - sum {BY} (catchment_leases_owned) > 0',
          "{{ $value }} shards of {{ $labels.stream }} are read by nobody"),
    Alert("CatchmentLeasesLost", "warning", "0m", grew("catchment_leases_lost_total", "15m"),
          "Workers of {{ $labels.stream }} lost leases"),
    Alert("CatchmentLeaseUnreadable", "critical", "5m", f"max {BY} (catchment_leases_unreadable) > 0",
          "{{ $value }} rows of the lease table of {{ $labels.stream }} cannot be read"),
    Alert("CatchmentDeadLetters", "warning", "0m", grew("catchment_dead_letters_total", "15m", "job, stream, kind"),
          "Records of {{ $labels.stream }} were put aside: {{ $labels.kind }}"),
    Alert("CatchmentGap", "critical", "0m", grew("catchment_gaps_total", "1h"),
          "Records of {{ $labels.stream }} left retention before they were delivered"),
    Alert("CatchmentPossibleGap", "warning", "0m", grew("catchment_possible_gaps_total", "1h"),
          "Records of {{ $labels.stream }} may have left retention before they were delivered"),
    Alert("CatchmentParked", "critical", "1m", f'max {BY} (catchment_leases{{state="parked"}}) > 0',
          "{{ $value }} shards of {{ $labels.stream }} wait at a gap until somebody accepts it"),
    Alert("CatchmentOpenEnds", "critical", "1m", f"max {BY} (catchment_leases_open_ends) > 0",
          "{{ $value }} open shards of {{ $labels.stream }} are finished in the lease table: nobody reads them"),
    Alert("CatchmentBudgetExhausted", "warning", "10m",
          "min_over_time(catchment_budget_waiting[2m]) > 0",
          "Reading at {{ $labels.instance }} is held back by memory.budget"),
    Alert("CatchmentDenied", "critical", "0m",
          grew("catchment_call_failures_total", "5m", "job, stream, operation", '{class="denied"}'),
          "{{ $labels.operation }} is refused to the workers of {{ $labels.stream }}"),
    Alert("CatchmentUploadsRefused", "critical", "0m",
          grew("catchment_dead_letters_total", "15m", "job, stream", '{kind=~"upload-.*"}'),
          "Files accepted by the front door of {{ $labels.stream }} were put aside"),
    Alert("CatchmentUploadsSlow", "warning", "2m",
          "histogram_quantile(0.99, sum by (job, stream, le) (rate(catchment_upload_seconds_bucket[5m]))) > LIMIT",
          "Files of {{ $labels.stream }} need {{ $value | humanizeDuration }} to be stored", 180),
]


def shorter(text, times):
    """Every duration of a query divided; at least a second."""
    unit = {"s": 1, "m": 60, "h": 3600}
    return re.sub(r"\b(\d+)([smh])\b", lambda m: f"{max(1, int(m[1]) * unit[m[2]] // times)}s", text)


def rules(times=1):
    """Recording and alert rules as YAML; `times` makes windows, waits and limits shorter."""
    head = "# Written by build.py; change it there.\n"
    record = [head, "groups:\n  - name: catchment-recording\n    rules:\n"]
    for name, expr in RECORDING:
        record.append(f"      - record: {name}\n        expr: |-\n          {shorter(expr, times)}\n")
    alerts = [head, "groups:\n  - name: catchment\n    rules:\n"]
    for alert in ALERTS:
        limit = "" if alert.limit is None else str(alert.limit / times if times > 1 else alert.limit)
        expr = shorter(alert.expr, times) if times > 1 else alert.expr
        expr = expr.replace("LIMIT", limit).replace("\n", "\n          ")
        wait = shorter(alert.wait, times) if times > 1 and alert.wait != "0m" else alert.wait
        alerts.append(
            f"      - alert: {alert.name}\n        expr: |-\n          {expr}\n        for: {wait}\n"
            f"        labels:\n          severity: {alert.severity}\n        annotations:\n"
            f"          summary: {json.dumps(alert.summary)}\n"
            f"          runbook_url: {RUNBOOK}#{slug(alert.name)}\n")
    return {"rules/recording.yml": "".join(record), "rules/alerts.yml": "".join(alerts)}


PAGES = {"overview": overview, "shard": shard, "front-door": front_door}


def files():
    made = {f"{name}.json": json.dumps(page(), indent=2) + "\n" for name, page in PAGES.items()}
    return made | rules()


def main():
    global RUNBOOK
    if "--runbook" in sys.argv:
        RUNBOOK = sys.argv[sys.argv.index("--runbook") + 1]
    stale = []
    for name, text in files().items():
        path = HERE / name
        if "--check" in sys.argv:
            stale += [name] if not path.exists() or path.read_text() != text else []
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    if stale:
        sys.exit(f"not what dashboards/build.py makes: {', '.join(stale)}; run it")


if __name__ == "__main__":
    main()
