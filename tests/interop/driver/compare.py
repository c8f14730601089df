"""Records on the stream against what a KCL application and the archive have of them."""
import collections

NEVER = ("TRIM_HORIZON", "LATEST", "AT_TIMESTAMP")


def checkpoints(rows):
    """Shard to (sequence number, sub-sequence number): nothing yet is below, SHARD_END above every record."""
    found = {}
    for key, row in rows.items():
        at = row.get("checkpoint")
        if at is None or row.get("entityType", "LEASE") != "LEASE":
            continue
        shard = key.rsplit(":", 1)[-1]
        found[shard] = (-1, 0) if at in NEVER else (10**60, 0) if at == "SHARD_END" else (
            int(at), int(row.get("checkpointSubSequenceNumber", 0)))
    return found


def announced(rows):
    """Shard to the sequence numbers that its announced batches are after and up to, for rows that announce any."""
    reached = checkpoints(rows)
    return {shard: (reached[shard][0], int(row["pendingCheckpoint"])) for key, row in rows.items()
            for shard in [key.rsplit(":", 1)[-1]] if row.get("pendingCheckpoint", "").isdigit() and shard in reached}


def window(truth, low, high, lines):
    """Records after `low` up to `high` have to be in `lines` once each, and no others: (missing, others, twice)."""
    def place(shard, bounds):
        return bounds.get(shard, (-1, 0))[0]
    want = {one for one, (shard, sequence) in dict(truth).items() if place(shard, low) < sequence <= place(shard, high)}
    have = collections.Counter(line.id for line in lines)
    return len(want - set(have)), len(set(have) - want), sum(count > 1 for count in have.values())


def union(truth, kcl, archive):
    """Figures over everything: lost, in both, twice in the archive, unknown."""
    truth = dict(truth)  # others may still produce
    java, ours = collections.Counter(line.id for line in kcl), collections.Counter(line.id for line in archive)
    return {
        "records": len(truth),
        "lost": len(set(truth) - set(java) - set(ours)),
        "kcl": len(java),
        "archive": len(ours),
        "both": len(set(java) & set(ours)),
        "twice": sum(count > 1 for count in ours.values()),
        "unknown": len((set(java) | set(ours)) - set(truth)),
    }


def parents_first(rows, lines):
    """The first pair of lines where a child's record was written before its parent's last, or None."""
    first, last = {}, {}
    for line in lines:
        first.setdefault(line.shard, line.time)
        first[line.shard] = min(first[line.shard], line.time)
        last[line.shard] = max(last.get(line.shard, 0), line.time)
    for key, row in rows.items():
        child = key.rsplit(":", 1)[-1]
        for parent in row.get("parentShardId") or ():
            if child in first and parent in last and first[child] < last[parent]:
                return child, parent, round(last[parent] - first[child], 2)
    return None
