"""Health of a Redis server: its clock, and settings under which it may lose values."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from featurestore.clock import from_micros


def server_facts(ask: Callable[[bytes], Any]) -> tuple[datetime, list[str]]:
    """Return the time that a server has, and what about its settings may lose values, a sentence each.

    Args:
        ask: sends a command to the server and returns its answer.
    """
    seconds, micros = ask(b"TIME")
    lines = ask(b"INFO").decode(errors="replace").splitlines()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    problems = []
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy != "noeviction" and facts.get("maxmemory", "0") != "0":
        problems.append(
            f"Its maxmemory-policy is {policy}: when its memory is full, it drops values without a word. Set it to noeviction."
        )
    # NOTE: a server without snapshots has saved none since it started, and tells so by this time alone.
    if facts.get("aof_enabled", "0") == "0" and facts.get("rdb_saves", "0") == "0":
        problems.append(
            "It has written nothing to its disk since it started: after a restart its values are gone, until they are rebuilt "
            "(featurestore materialize --rebuild-online). Turn on appendonly, or snapshots (save)."
        )
    if facts.get("aof_last_write_status", "ok") != "ok" or facts.get("rdb_last_bgsave_status", "ok") != "ok":
        problems.append("It could not write to its disk the last time. Look at the room there, and at its log.")
    return from_micros(int(seconds) * 1_000_000 + int(micros)), problems
