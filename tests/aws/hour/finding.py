"""What a measurement says, and the report of all of them as Markdown and JSON.

Verdicts: `same` as expected, `DIFFERENT`, `recorded` where nothing was expected, or `not measured here`
with the reason.
"""
import json
from dataclasses import dataclass, field

SAME, DIFFERENT, RECORDED = "same", "DIFFERENT", "recorded"


@dataclass
class Finding:
    """One question. `raw` holds the answers that show what was seen; `why` is for what was not measured."""
    group: str
    question: str
    expected: str
    seen: str = ""
    verdict: str = ""
    raw: dict = field(default_factory=dict)
    required: bool = False  # of Catchment, whoever answers
    failed: bool = False

    def line(self):
        """As it is printed: `ok` and `FAIL` are for what is required."""
        mark = ("FAIL" if self.failed else "ok") if self.required else ""
        return f"{mark:<4} {self.question}: {self.verdict}" + (f"; {self.seen}" if self.seen else "")

    def judge(self, good, seen, **raw):
        return self._said(SAME if good else DIFFERENT, seen, raw)

    def record(self, seen, **raw):
        return self._said(RECORDED, seen, raw)

    def unmeasured(self, why, seen="", **raw):
        return self._said(f"not measured here: {why}", seen, raw)

    def _said(self, verdict, seen, raw):
        self.verdict, self.seen = verdict, seen
        self.raw.update(raw)
        return self


def requirement(group, question, good, seen, expected="yes", **raw):
    """Something that Catchment must do, whoever answers: if it does not, the run has failed."""
    finding = Finding(group, question, expected, required=True, failed=not good)
    return finding.judge(good, str(seen), **raw)


def plain(value):
    """`value` as JSON takes it: bytes, times and sets as text."""
    return json.loads(json.dumps(value, default=lambda v: v.decode("utf-8", "replace")
                                 if isinstance(v, bytes) else sorted(v) if isinstance(v, set) else str(v)))


def counts(findings):
    told = {}
    for finding in findings:
        name = finding.verdict.split(":")[0]
        told[name] = told.get(name, 0) + 1
    return told


def as_json(head, findings):
    return json.dumps(plain({**head, "counts": counts(findings), "findings": [vars(f) for f in findings]}), indent=1)


def cell(text):
    return str(text).replace("|", "\\|").replace("\n", " ")


def as_markdown(head, findings):
    lines = [f"# An hour on {head['target']}", "", head["means"], ""]
    lines += [f"- {name}: {cell(value)}" for name, value in head.items() if name not in ("means", "spent")]
    lines += ["- " + ", ".join(f"{count} {name}" for name, count in sorted(counts(findings).items())), ""]
    group = None
    for finding in findings:
        if finding.group != group:
            group = finding.group
            lines += ["", f"## {group}", "", "| question | expected | seen | |", "|---|---|---|---|"]
        verdict = f"**{finding.verdict}**" if finding.failed or finding.verdict == DIFFERENT else finding.verdict
        lines.append(f"| {cell(finding.question)} | {cell(finding.expected)} | {cell(finding.seen)} | {verdict} |")
    lines += ["", "## Cost (estimate)", "", "| what | dollars |", "|---|---|"]
    lines += [f"| {name} | {dollars:.4f} |" for name, dollars in sorted(head["spent"].items())]
    lines += [f"| in all | {sum(head['spent'].values()):.4f} |", "", "## Raw answers", ""]
    for finding in findings:
        if finding.raw:
            told = json.dumps(plain(finding.raw), ensure_ascii=False)
            told = told if len(told) < 2_000 else told[:2_000] + " … (the rest is in the JSON report)"
            lines += [f"**{finding.question}**", "", "```json", told, "```", ""]
    return "\n".join(lines) + "\n"
