"""Health of a Redis server: its clock, and settings under which it may lose values."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from featurestore.clock import from_micros

_LOOKED_AT = 200
"""How many hashes of packed values are looked at."""
_LOOKS = 50


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


def packing_facts(ask: Callable[..., Any], tag: bytes) -> list[str]:
    """Return what keeps packed values from taking less memory, a sentence each, as some hashes of a server show.

    Args:
        ask: sends a command to the server and returns its answer.
        tag: what the names of the hashes have.
    """
    cursor, names = b"0", []
    for _ in range(_LOOKS):
        cursor, some = ask(b"SCAN", cursor, b"MATCH", b"*/" + tag + b"{*", b"COUNT", b"1000")
        names += some
        if cursor == b"0" or len(names) >= _LOOKED_AT:
            break
    names = names[:_LOOKED_AT]
    large = sum(1 for name in names if ask(b"OBJECT", b"ENCODING", name) == b"hashtable")
    if large * 10 <= len(names):
        return []
    return [
        f"Of {len(names)} hashes of packed values {large} are hash tables, which take more memory than lists: a value is longer "
        "than its hash-max-listpack-value, or a hash has more fields than its hash-max-listpack-entries. Set them to 1024 each; "
        "hashes that are written from then on are lists."
    ]
