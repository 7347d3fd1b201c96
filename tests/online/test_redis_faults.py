"""RedisStore when the server, the network or an event loop goes away."""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable
from functools import partial

import pytest
import redis

from featurestore.errors import OnlineStoreError
from featurestore.online.base import Entry
from featurestore.online.redis import store as adapter
from featurestore.online.redis.store import RedisStore
from tests.servers.valkey import ValkeyServer, free_port, wait_until


class TestFaults:
    @pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
    def test_down_and_up_again(self, server: ValkeyServer, kill: bool) -> None:
        store = RedisStore(server.url)
        store.write([Entry(b"a", b"1")])
        server.stop(kill=kill)
        entries = [Entry(b"a", b"1")]
        for use in (partial(store.read, [b"a"]), partial(store.write, entries), partial(store.delete, b"a"), store.check):
            with pytest.raises(OnlineStoreError, match=rf"127\.0\.0\.1:{server.port} failed.*Is it running"):
                use()
        with pytest.raises(OnlineStoreError, match="Is it running"):
            asyncio.run(store.read_async([b"a"]))
        server.start()
        assert store.read([b"a"]) == [None]
        assert store.write([Entry(b"a", b"1")]) == 1
        assert asyncio.run(store.read_async([b"a"])) == [b"1"]
        store.close()

    def test_a_restart_between_two_calls_goes_unnoticed(self, server: ValkeyServer) -> None:
        store = RedisStore(server.url)

        async def read_across_a_restart() -> list[bytes | None]:
            await store.read_async([b"a"])
            server.restart(kill=True)
            return await store.read_async([b"a"])

        store.read([b"a"])
        server.restart(kill=True)
        assert store.read([b"a"]) == [None]
        server.restart(kill=True)
        assert store.write([Entry(b"a", b"1")]) == 1
        assert asyncio.run(read_across_a_restart()) == [None]
        store.close()

    def test_connections_dropped_while_many_read(self, server: ValkeyServer) -> None:
        store = RedisStore(server.url)
        store.write([Entry(b"a", b"1")])
        stop = threading.Event()
        wrong: list[object] = []

        def read() -> None:
            while not stop.is_set():
                try:
                    if store.read([b"a"]) != [b"1"]:
                        wrong.append("another answer")
                except OnlineStoreError as error:
                    wrong.append(error)

        readers = [threading.Thread(target=read) for _ in range(4)]
        for reader in readers:
            reader.start()
        with redis.Redis(port=server.port) as killer:
            for _ in range(20):
                killer.client_kill_filter(_type="normal", skipme=True)
        stop.set()
        for reader in readers:
            reader.join()
        # One that was dropped twice in a row may fail; none may read what another one asked for.
        assert "another answer" not in wrong
        assert store.read([b"a"]) == [b"1"]
        store.close()

    def test_no_answer(self, server: ValkeyServer) -> None:
        store = RedisStore(f"{server.url}?socket_timeout=0.2")
        store.read([b"a"])
        os.kill(server.pid, signal.SIGSTOP)
        uses: list[Callable[[], object]] = [
            lambda: store.read([b"a"]),
            lambda: asyncio.run(store.read_async([b"a"])),
            lambda: store.write([Entry(b"a", b"1")]),
        ]
        for use in uses:
            with pytest.raises(OnlineStoreError, match=r"raise \?socket_timeout"):
                use()
        os.kill(server.pid, signal.SIGCONT)
        # NOTE: the answer that came too late must not be taken for this one's.
        assert store.write([Entry(b"b", b"1")]) == 1
        assert store.read([b"b", b"c"]) == [b"1", None]
        store.close()

    def test_a_cancelled_read(self, server: ValkeyServer) -> None:
        store = RedisStore(server.url)
        store.write([Entry(b"a", b"1"), Entry(b"b", b"2")])

        async def cancel_often() -> None:
            for _ in range(50):
                task = asyncio.create_task(store.read_async([b"a"]))
                await asyncio.sleep(0)
                task.cancel()
                assert await store.read_async([b"b"]) == [b"2"]

        asyncio.run(cancel_often())
        store.close()

    def test_more_callers_than_connections(self, server: ValkeyServer) -> None:
        store = RedisStore(f"{server.url}?max_connections=2")
        store.write([Entry(b"a", b"1")])
        answers: list[list[bytes | None]] = []
        callers = [threading.Thread(target=lambda: answers.append(store.read([b"a"]))) for _ in range(12)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()

        async def read_often() -> list[list[bytes | None]]:
            return await asyncio.gather(*[store.read_async([b"a"]) for _ in range(50)])

        assert answers + asyncio.run(read_often()) == [[b"1"]] * 62
        with redis.Redis(port=server.port) as client:
            assert client.info("clients")["maxclients"] > 2
            assert client.info("stats")["total_connections_received"] < 12
        store.close()

    def test_no_connection_becomes_free(self, server: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(adapter, "_WAIT", 0.01)
        store = RedisStore(f"{server.url}?max_connections=1&socket_timeout=1")
        store.read([b"a"])
        os.kill(server.pid, signal.SIGSTOP)
        errors: list[str] = []

        def read() -> None:
            with pytest.raises(OnlineStoreError) as raised:
                store.read([b"a"])
            errors.append(str(raised.value))

        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        os.kill(server.pid, signal.SIGCONT)
        assert sum("raise ?max_connections" in error for error in errors) == 2
        store.close()

    def test_taken_for_a_cluster(self, server: ValkeyServer) -> None:
        store = RedisStore(server.url.replace("redis:", "redis+cluster:"))
        with pytest.raises(OnlineStoreError, match=r"take redis:// for redis\+cluster://"):
            store.read([b"a"])
        with pytest.raises(OnlineStoreError, match=r"take redis:// for redis\+cluster://"):
            asyncio.run(store.read_async([b"a"]))
        store.close()

    @pytest.mark.filterwarnings(r"ignore:.*use of fork\(\):DeprecationWarning")
    def test_a_forked_child_has_connections_of_its_own(self, server: ValkeyServer) -> None:
        store = RedisStore(server.url)
        store.write([Entry(b"a", b"1"), Entry(b"b", b"2")])
        child = os.fork()
        if not child:
            done = False
            try:
                done = all(store.read([b"b"]) == [b"2"] for _ in range(200))
            finally:
                os._exit(0 if done else 1)
        assert all(store.read([b"a"]) == [b"1"] for _ in range(200))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        store.close()

    def test_memory_used_up(self) -> None:
        with ValkeyServer("--maxmemory", "3mb", "--maxmemory-policy", "noeviction") as server:
            store = RedisStore(server.url)
            entries = [Entry(b"%d" % number, b"x" * 1_000_000) for number in range(10)]
            with pytest.raises(OnlineStoreError, match="Raise its maxmemory"):
                store.write(entries)
            assert store.read([b"x"]) == [None]
            store.close()

    def test_a_user_without_the_rights(self, server: ValkeyServer) -> None:
        with redis.Redis(port=server.port) as client:
            client.acl_setuser("reader", enabled=True, passwords=["+pw"], keys=["*"], commands=["+mget", "+ping"])
        store = RedisStore(f"redis://reader:pw@127.0.0.1:{server.port}")
        assert store.read([b"a"]) == [None]
        with pytest.raises(OnlineStoreError, match="Give its user the commands"):
            store.write([Entry(b"a", b"1")])
        store.close()

    def test_a_key_of_another_type_is_nothing_to_a_reader_and_in_nobodys_way(self, server: ValkeyServer) -> None:
        """Where nothing was read, nothing could be put: runs of a view of windows failed, and what should mend them too."""
        store = RedisStore(server.url)
        with redis.Redis(port=server.port) as client:
            for key in ("a", "b", "c"):
                client.hset(key, "x", "y")
        assert store.read([b"a", b"b"]) == [None, None]
        assert store.write([Entry(b"a", b"1", replaces=b""), Entry(b"b", b"1", replaces=b"", ttl_ms=60_000)]) == 2
        assert store.write([Entry(b"c", b"1")]) == 1
        assert store.read([b"a", b"b", b"c"]) == [b"1"] * 3
        assert store.write([Entry(b"a", b"2", replaces=b"")]) == 0
        store.close()

    def test_a_replica(self, server: ValkeyServer) -> None:
        store = RedisStore(server.url)
        with redis.Redis(port=server.port) as client:
            client.replicaof("127.0.0.1", free_port())
            with pytest.raises(OnlineStoreError, match="take the primary's address"):
                store.write([Entry(b"a", b"1")])
        store.close()

    def test_something_else_answers(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as stranger:
            port = stranger.getsockname()[1]

            def greet() -> None:
                for _ in range(2):
                    connection, _ = stranger.accept()
                    with connection:
                        connection.recv(100)
                        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

            thread = threading.Thread(target=greet)
            thread.start()
            store = RedisStore(f"redis://127.0.0.1:{port}")
            with pytest.raises(OnlineStoreError, match=f"127.0.0.1:{port} failed"):
                store.read([b"a"])
            store.close()
            with socket.create_connection(("127.0.0.1", port), 1):
                pass
            thread.join(5)


class TestLoops:
    def test_closed_while_a_loop_runs(self, server: ValkeyServer) -> None:
        async def read_and_close() -> None:
            store = RedisStore(server.url)
            await store.read_async([b"a"])
            store.close()

        asyncio.run(read_and_close())

    def test_closed_between_two_runs_of_a_loop(self, server: ValkeyServer) -> None:
        store = RedisStore(server.url)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(store.read_async([b"a"]))
        store.close()
        loop.close()

    def test_closed_by_another_thread(self, server: ValkeyServer) -> None:
        store = RedisStore(server.url)
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        asyncio.run_coroutine_threadsafe(store.read_async([b"a"]), loop).result(10)
        store.close()
        asyncio.run_coroutine_threadsafe(loop.shutdown_asyncgens(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def test_connections_of_a_loop_that_ended_are_closed(self, server: ValkeyServer) -> None:
        store = RedisStore(server.url)
        with redis.Redis(port=server.port) as client:
            before = len(client.client_list())
            for _ in range(5):
                asyncio.run(store.read_async([b"a"]))
            wait_until(lambda: len(client.client_list()) <= before, "connections stay open")
        store.close()
