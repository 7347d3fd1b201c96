"""Tombstones: numbered in the order of commits, made with a secret outside of the registry, honoured whoever laid them."""

import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

from featurestore import Entity
from featurestore.clock import utc_now
from featurestore.errors import OfflineStoreError, RegistryError
from featurestore.offline.delta.secret_file import SecretFile
from featurestore.offline.local_folder import LocalFolder
from featurestore.privacy.tombstone_set import canonical, digest
from featurestore.registry.specs import SpecRegistry
from featurestore.registry.tombstone_secret import TombstoneSecret
from featurestore.registry.tombstones import Tombstones
from featurestore.row_codec import encode_keys

USER = Entity("user", user_id=int)


def keys(*numbers: int) -> pl.DataFrame:
    return pl.DataFrame({"user_id": list(numbers)}, schema={"user_id": pl.Int64})


@pytest.fixture
def make(open_registry: Callable[[], SpecRegistry], tmp_path: Path) -> Callable[[], Tombstones]:
    """Makes the tombstones of one project, each as another process would have them."""
    return lambda: Tombstones(open_registry(), TombstoneSecret(SecretFile(LocalFolder(tmp_path), "secret")))


@pytest.fixture
def open_file(tmp_path: Path) -> Iterator[Callable[[], SpecRegistry]]:
    """Opens a registry in a file."""
    opened: list[SpecRegistry] = []

    def open_one() -> SpecRegistry:
        opened.append(SpecRegistry("sqlite:///registry.db", "people", tmp_path, utc_now))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


def known(tombstones: Tombstones, *numbers: int) -> list[bool]:
    return tombstones.current().rows_of([USER], keys(*numbers)).to_list()


def test_of_two_who_forget_at_once_a_third_misses_none(make: Callable[[], Tombstones]) -> None:
    first, second, third = make(), make(), make()
    first.lay("user", keys(1))  # the secret is there: it serialises nobody any more
    holding, go_on = threading.Event(), threading.Event()
    number = first._next_change

    def held_back(connection: object) -> int:
        change = number(connection)  # type: ignore[arg-type]  # it is passed on
        holding.set()
        assert go_on.wait(30)
        return change

    first._next_change = held_back  # type: ignore[method-assign]  # between reading and commit
    one = threading.Thread(target=first.lay, args=("user", keys(2)))
    other = threading.Thread(target=second.lay, args=("user", keys(3)))
    one.start()
    assert holding.wait(30)
    other.start()
    other.join(0.3)  # where it need not wait, it is over by now
    seen = [known(third, 1, 2, 3)]
    go_on.set()
    one.join(30)
    seen.append(known(third, 1, 2, 3))
    other.join(30)
    seen.append(known(third, 1, 2, 3))
    assert seen[0][0]
    assert seen[1][1]
    assert seen[2] == [True, True, True]
    assert known(make(), 1, 2, 3) == [True, True, True]


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_order_a_look_knows_what_was_laid_before_it(seed: int, make: Callable[[], Tombstones]) -> None:
    draw = random.Random(seed)
    processes = [make() for _ in range(3)]
    forgotten: set[int] = set()
    for _ in range(12):
        one, number = draw.choice(processes), draw.randrange(4)
        if draw.random() < 0.6:
            one.lay("user", keys(number))
            forgotten.add(number)
        else:
            assert one.lift([USER], keys(number)) == (number in forgotten)
            forgotten.discard(number)
        looking = draw.choice(processes)
        assert known(looking, 0, 1, 2, 3) == [each in forgotten for each in range(4)]


def test_a_restored_registry_is_read_anew_though_it_counts_the_same(tmp_path: Path, open_file: Callable[[], SpecRegistry]) -> None:
    path, secret = tmp_path / "registry.db", TombstoneSecret(SecretFile(LocalFolder(tmp_path), "secret"))
    one = Tombstones(open_file(), secret)
    one.lay("user", keys(1))
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(tmp_path / "backup.db")) as target:
        source.backup(target)
    one.lay("user", keys(2))
    assert known(one, 1, 2, 3) == [True, True, False]
    with closing(sqlite3.connect(tmp_path / "backup.db")) as source, closing(sqlite3.connect(path)) as target:
        source.backup(target)
    other = Tombstones(open_file(), secret)
    other.lay("user", keys(3))
    assert known(one, 1, 2, 3) == [True, False, True]


def test_a_dry_run_lifts_nothing(make: Callable[[], Tombstones]) -> None:
    tombstones = make()
    tombstones.lay("user", keys(1, 2))
    assert tombstones.lift([USER], keys(1, 2, 3), dry_run=True) == 2
    assert known(tombstones, 1, 2, 3) == [True, True, False]
    assert tombstones.lift([USER], keys(1, 2, 3)) == 2
    assert known(tombstones, 1, 2, 3) == [False, False, False]


# -- the secret ----------------------------------------------------------------------------------------------------------


def test_who_has_the_registry_alone_finds_nobody_by_trying(tmp_path: Path, open_file: Callable[[], SpecRegistry]) -> None:
    tombstones = Tombstones(open_file(), TombstoneSecret(SecretFile(LocalFolder(tmp_path), "secret")))
    tombstones.lay("user", keys(42))
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(tmp_path / "registry.db")) as registry:
        texts = [
            str(cell)
            for (table,) in registry.execute("select name from sqlite_master where type = 'table'").fetchall()
            for row in registry.execute(f"select * from {table}").fetchall()  # noqa: S608 - its own names
            for cell in row
        ]
    secrets = [bytes.fromhex(each) for each in texts if len(each) == 64]
    assert secrets, "there is a random number, and it is not the key"
    from featurestore.privacy.tombstone_set import canonical_keys

    for secret in secrets:
        tried = [*encode_keys(keys(42)), *canonical_keys(keys(42)), *canonical(keys(42)["user_id"])]
        assert not {digest(secret, each).hex() for each in tried if each is not None} & {each.removeprefix("2:") for each in texts}
    assert (tmp_path / "secret").read_text() not in "".join(texts)


@pytest.mark.parametrize("lost", ["gone", "another", "broken"])
def test_a_lost_secret_is_an_error_and_not_a_return(lost: str, tmp_path: Path, open_file: Callable[[], SpecRegistry]) -> None:
    registry = open_file()
    Tombstones(registry, TombstoneSecret(SecretFile(LocalFolder(tmp_path), "secret"))).lay("user", keys(1))
    (tmp_path / "secret").unlink()
    if lost != "gone":
        (tmp_path / "secret").write_text("00" * 32 if lost == "another" else "no hex")
    left = Tombstones(registry, TombstoneSecret(SecretFile(LocalFolder(tmp_path), "secret")))
    error = OfflineStoreError if lost == "broken" else RegistryError
    with pytest.raises(error, match="secret"):
        left.current()
    with pytest.raises(error, match="secret"):
        left.lay("user", keys(2))
    (tmp_path / "secret").unlink(missing_ok=True)
    left.lay("user", keys(2), new_secret=True)
    assert known(left, 1, 2) == [False, True]


def test_a_secret_may_be_given_by_a_setting(tmp_path: Path, open_file: Callable[[], SpecRegistry]) -> None:
    registry = open_file()
    Tombstones(registry, TombstoneSecret(SecretFile(LocalFolder(tmp_path), "secret"), "correct horse")).lay("user", keys(1))
    assert not (tmp_path / "secret").exists()
    assert known(Tombstones(registry, TombstoneSecret(SecretFile(LocalFolder(tmp_path), "secret"), "correct horse")), 1) == [True]
    with pytest.raises(RegistryError, match="the setting 'tombstone_secret': there is another one"):
        known(Tombstones(registry, TombstoneSecret(SecretFile(LocalFolder(tmp_path), "secret"), "battery staple")), 1)


# -- those of former versions --------------------------------------------------------------------------------------------


def test_tombstones_of_a_former_version_are_honoured_and_lifted(tmp_path: Path, open_file: Callable[[], SpecRegistry]) -> None:
    registry = open_file()
    tables = registry.database.tables
    secret = bytes(range(32))
    with registry.database.writing() as connection:
        connection.execute(tables.secret.insert().values(project="people", name="tombstones", value=secret.hex()))
        row = {"project": "people", "entity": "user", "forgotten_at": 1, "erased_at": None, "lifted": False, "change": 1}
        connection.execute(tables.tombstone.insert().values({**row, "digest": digest(secret, encode_keys(keys(1))[0]).hex()}))
    tombstones = Tombstones(registry, TombstoneSecret(SecretFile(LocalFolder(tmp_path), "secret")))
    text = Entity("user", user_id=str)
    assert known(tombstones, 1, 2) == [True, False]
    assert tombstones.current().rows_of([text, USER], pl.DataFrame({"user_id": ["1", "2"]})).to_list() == [True, False]
    assert not (tmp_path / "secret").exists()
    assert tombstones.unfinished() == {"user": 1}
    assert tombstones.erased([text, USER], pl.DataFrame({"user_id": ["1"]}), 1)
    assert tombstones.unfinished() == {}
    tombstones.lay("user", keys(2))
    assert known(tombstones, 1, 2) == [True, True]
    assert tombstones.lift([text, USER], pl.DataFrame({"user_id": ["1", "2", "3"]})) == 2
    assert known(tombstones, 1, 2) == [False, False]


def test_what_a_writer_may_have_written_meanwhile_is_not_erased(make: Callable[[], Tombstones]) -> None:
    """Whether it says so before or after the erasure is noted; what was laid before is left alone."""
    tombstones, writer = make(), make()
    assert tombstones.erased([USER], keys(1), tombstones.lay("user", keys(1)))
    seen = writer.current()
    assert writer.reopen(seen) == 0
    change = tombstones.lay("user", keys(2))
    assert writer.reopen(seen) == 1
    assert not tombstones.erased([USER], keys(2), change)
    assert tombstones.unfinished() == {"user": 1}
    assert tombstones.erased([USER], keys(2), tombstones.lay("user", keys(2)))
    assert tombstones.unfinished() == {}
    assert writer.reopen(seen) == 1
    assert tombstones.unfinished() == {"user": 1}
    assert known(writer, 1, 2, 3) == [True, True, False]
