"""Settings come from the file, the environment and keywords; names and values that are wrong are explained."""

import pickle
import re
from datetime import timedelta
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from featurestore import FeatureStore
from featurestore.config import OidcSettings, ServerSettings, Settings
from featurestore.errors import ConfigError
from featurestore.setting_errors import FILE_NAME
from featurestore.settings_loader import load_settings

RENAMED = {
    "refresh_seconds": "catalog_refresh",
    "server_host": "server.host",
    "server_port": "server.port",
    "server_workers": "server.workers",
    "server_body_mib": "server.max_body_mib",
    "server_spine_mib": "server.max_spine_mib",
    "server_memory_mib": "server.spine_memory_mib",
    "server_rows": "server.max_rows",
    "server_values": "server.max_values",
    "server_columns": "server.max_columns",
    "server_decoded_mib": "server.max_decoded_mib",
    "server_spine_rows": "server.max_spine_rows",
    "server_spine_decoded_mib": "server.max_spine_decoded_mib",
    "server_decoders": "server.decoders",
    "server_decoder_mib": "server.decoder_memory_mib",
    "server_decoder_seconds": "server.decoder_timeout",
    "server_bodies_mib": "server.max_bodies_mib",
    "server_pushes": "server.max_concurrent_pushes",
    "server_pushes_waiting": "server.max_waiting_pushes",
    "server_worker_seconds": "server.worker_timeout",
    "server_seconds": "server.request_timeout",
    "server_training": "server.max_concurrent_training",
    "server_training_seconds": "server.training_timeout",
    "server_connections": "server.max_connections",
    "server_connections_of_address": "server.max_connections_per_address",
    "server_head_kib": "server.max_head_kib",
    "server_headers": "server.max_headers",
    "server_head_seconds": "server.head_timeout",
    "server_keep_alive_seconds": "server.keep_alive",
    "server_shutdown_seconds": "server.shutdown_timeout",
    "server_tls_cert": "server.tls_cert",
    "server_tls_key": "server.tls_key",
    "server_origins": "server.origins",
    "oidc_issuer": "oidc.issuer",
    "oidc_audience": "oidc.audience",
    "oidc_jwks": "oidc.jwks",
    "oidc_algorithms": "oidc.algorithms",
    "oidc_leeway": "oidc.leeway",
    "oidc_claim": "oidc.claim",
    "oidc_grants": "oidc.grants",
    "schedule_seconds": "schedule.interval",
    "schedule_parallel": "schedule.parallel",
    "schedule_timezone": "schedule.timezone",
    "schedule_attempts": "schedule.max_attempts",
    "schedule_retry_seconds": "schedule.retry_delay",
    "schedule_retry_longest_seconds": "schedule.retry_max_delay",
    "schedule_wait_seconds": "schedule.source_poll",
    "schedule_lease_seconds": "schedule.lease",
    "schedule_shutdown_seconds": "schedule.shutdown_timeout",
    "keep_files_days": "retention.files",
    "keep_versions_days": "retention.versions",
    "keep_logs_days": "retention.logs",
    "log_seconds": "feature_log.flush_interval",
    "stream_pending_seconds": "stream.pending_timeout",
    "upkeep_schedule": "maintenance.schedule",
}


@pytest.fixture(autouse=True)
def _forget_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featurestore.settings_loader._warned", set())


def variable(name: str) -> str:
    return "FEATURESTORE_" + name.replace(".", "__").upper()


def value_of(settings: Settings, name: str) -> Any:
    return reduce(getattr, name.split("."), settings)


def as_keyword(name: str, value: Any) -> dict[str, Any]:
    table, _, key = name.rpartition(".")
    return {table: {key: value}} if table else {key: value}


# -- values --------------------------------------------------------------------------------------------------------------

VALUES: list[tuple[str, str, str, Any]] = [
    ("threads", "3", "3", 3),
    ("tracing", "true", "true", True),
    ("catalog_refresh", '"50ms"', "50ms", timedelta(milliseconds=50)),
    ("server.port", "0", "0", 0),
    ("server.host", '"::1"', "::1", "::1"),
    ("server.max_body_mib", "0.5", "0.5", 0.5),
    ("server.request_timeout", '"1m30s"', "1m30s", timedelta(seconds=90)),
    ("server.origins", '["https://a.example"]', '["https://a.example"]', ("https://a.example",)),
    ("oidc.leeway", '"0s"', "0s", timedelta()),
    ("oidc.grants", '{admins = "admin"}', '{"admins": "admin"}', {"admins": "admin"}),
    ("schedule.timezone", '"Europe/Berlin"', "Europe/Berlin", "Europe/Berlin"),
    ("schedule.shutdown_timeout", '"0s"', "0s", timedelta()),
    ("retention.files", '"30d"', "30d", timedelta(days=30)),
    ("retention.files", '"0s"', "0s", timedelta()),
    ("retention.logs", '"90d"', "90d", timedelta(days=90)),
    ("retention.logs", '"forever"', "forever", "forever"),
    ("feature_log.flush_interval", '"100us"', "100us", timedelta(microseconds=100)),
    ("stream.pending_timeout", '"0s"', "0s", timedelta()),
    ("maintenance.schedule", '""', "", ""),
    ("maintenance.schedule", '"0 6 * * *"', "0 6 * * *", "0 6 * * *"),
]


@pytest.mark.parametrize(("name", "toml", "text", "value"), VALUES)
def test_a_setting_comes_from_each_place(
    name: str, toml: str, text: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert value_of(load_settings(tmp_path, **as_keyword(name, value)), name) == value
    (tmp_path / FILE_NAME).write_text(f"{name} = {toml}\n")
    assert value_of(load_settings(tmp_path), name) == value
    (tmp_path / FILE_NAME).unlink()
    monkeypatch.setenv(variable(name), text)
    assert value_of(load_settings(tmp_path), name) == value


def test_tables_are_merged_key_by_key_the_file_first_then_the_environment_then_keywords(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / FILE_NAME).write_text(
        '[server]\nport = 1\nworkers = 2\nmax_rows = 3\nkeep_alive = "1s"\n[oidc.grants]\na = "reader all"\n'
    )
    monkeypatch.setenv("FEATURESTORE_SERVER__WORKERS", "20")
    monkeypatch.setenv("FEATURESTORE_SERVER__MAX_ROWS", "30")
    monkeypatch.setenv("FEATURESTORE_SERVER__KEEP_ALIVE", "10s")
    monkeypatch.setenv("FEATURESTORE_OIDC__AUDIENCE", "features")
    monkeypatch.setenv("FEATURESTORE_OIDC__GRANTS", '{"b": "writer all"}')
    with FeatureStore(tmp_path, server={"max_rows": 300, "keep_alive": None}, schedule={"interval": "50ms"}) as store:
        server = store.settings.server
        assert (server.port, server.workers, server.max_rows, server.keep_alive) == (1, 20, 300, timedelta(seconds=10))
        assert server.host == ServerSettings().host
        assert store.settings.schedule.interval == timedelta(milliseconds=50)
        assert store.settings.oidc == OidcSettings(audience="features", grants={"a": "reader all", "b": "writer all"})


def test_a_table_may_be_json_and_single_variables_win_over_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATURESTORE_SERVER", '{"port": 1, "workers": 2}')
    monkeypatch.setenv("FEATURESTORE_SERVER__PORT", "10")
    settings = load_settings(tmp_path)
    assert (settings.server.port, settings.server.workers) == (10, 2)


def test_a_model_is_a_whole_table(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("[server]\nport = 1\n")
    assert load_settings(tmp_path, server=ServerSettings(workers=2)).server == ServerSettings(workers=2)


def test_settings_are_values_that_read_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / FILE_NAME).write_text('project = "file"\n')
    monkeypatch.setenv("FEATURESTORE_SERVER__PORT", "1")
    monkeypatch.chdir(tmp_path)
    assert (Settings().project, Settings().server.port) == ("default", 8372)
    loaded = load_settings(tmp_path)
    assert type(loaded) is Settings
    assert pickle.loads(pickle.dumps(loaded)) == loaded
    with pytest.raises(ValidationError, match="frozen"):
        loaded.server.port = 2  # type: ignore[misc]  # it is frozen


def test_replacing_merges_and_validates() -> None:
    settings = Settings(project="a", server=ServerSettings(port=1, workers=2))
    changed = settings.replace(server={"port": 3, "request_timeout": "5s"}, threads=4)
    assert (changed.project, changed.threads, changed.server.workers, changed.server.port) == ("a", 4, 2, 3)
    assert changed.server.request_timeout == timedelta(seconds=5)
    assert settings.replace(server=ServerSettings(port=3)).server == ServerSettings(port=3)
    assert settings == Settings(project="a", server=ServerSettings(port=1, workers=2))
    with pytest.raises(ConfigError, match=r"'server\.prot'.*Did you mean 'server\.port'\?"):
        settings.replace(server={"prot": 3})
    with pytest.raises(ConfigError, match=r"'server\.port' is -1"):
        settings.replace(server={"port": -1})


def test_a_secret_is_shown_by_nothing(tmp_path: Path) -> None:
    assert "s3cret" not in repr(load_settings(tmp_path, tombstone_secret="s3cret"))
    for name in ("online", "registry", "tombstone_secret", "webhook"):
        with pytest.raises(ConfigError, match=name) as caught:
            load_settings(tmp_path, **{name: ["s3cret"]})
        assert "s3cret" not in str(caught.value)


# -- durations -----------------------------------------------------------------------------------------------------------

WRONG_DURATIONS: list[tuple[str, Any, str]] = [
    ("server.request_timeout", 30, r"'server\.request_timeout' is wrong: 30 must be a duration such as '30s'"),
    ("server.request_timeout", 0.5, r"0\.5 must be a duration such as '500ms'"),
    ("server.request_timeout", "30", r"'30' must be a duration such as '30s'"),
    ("server.request_timeout", "3600.0", r"'3600\.0' must be a duration such as '1h'"),
    ("server.request_timeout", True, "True must be a duration such as '30s'"),
    ("server.request_timeout", -1, "-1 must be a duration such as '30s'"),
    ("server.request_timeout", 10**400, "must be a duration such as '30s'"),
    ("server.request_timeout", float("nan"), "nan must be a duration such as '30s'"),
    ("server.request_timeout", ["30s"], r"\['30s'\] must be a duration"),
    ("server.request_timeout", "soon", "'soon' is not a duration"),
    ("server.request_timeout", "1y", "'1y' is not a duration"),
    ("server.request_timeout", "", "'' is not a duration"),
    ("server.request_timeout", "100001d", "100,000 days at most"),
    ("server.request_timeout", "0s", "'0s': Input should be greater than 0 seconds"),
    ("server.request_timeout", timedelta(), "'0s': Input should be greater than 0 seconds"),
    ("server.request_timeout", timedelta(days=-1), "'-1 day.*': Input should be greater than 0 seconds"),
    ("catalog_refresh", 2.0, r"'catalog_refresh' is wrong: 2\.0 must be a duration such as '2s'"),
    ("oidc.leeway", "5m1s", "'5m1s': Input should be less than or equal to 5 minutes"),
    ("retention.files", 7, "7 must be a duration such as '7s' .*w"),
    ("retention.files", "31d", "'31d': Input should be less than or equal to 30 days"),
    ("retention.versions", timedelta(microseconds=-1), "Input should be greater than or equal to 0 seconds"),
    ("retention.logs", "0s", r"'retention\.logs' is '0s': it must be longer than nothing; write 'forever'"),
    ("retention.logs", 0, "0 must be a duration such as '0s'"),
    ("retention.logs", "for ever", "'for ever' is not a duration"),
    ("stream.pending_timeout", 300, "300 must be a duration such as '5m'"),
]


@pytest.mark.parametrize(("name", "value", "message"), WRONG_DURATIONS)
def test_a_wrong_duration_is_refused(name: str, value: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=message):
        load_settings(tmp_path, **as_keyword(name, value))
    if isinstance(value, str):
        monkeypatch.setenv(variable(name), value)
        with pytest.raises(ConfigError, match=message):
            load_settings(tmp_path)
        monkeypatch.delenv(variable(name))
    if isinstance(value, (str, int, float)) and value != 10**400:
        (tmp_path / FILE_NAME).write_text(f"{name} = {str(value).lower() if not isinstance(value, str) else repr(value)}\n")
        with pytest.raises(ConfigError, match=message):
            load_settings(tmp_path)


# -- names ---------------------------------------------------------------------------------------------------------------

UNKNOWN: list[tuple[str, str]] = [
    ("projct", "Did you mean 'project'?"),
    ("server.prot", "Did you mean 'server.port'?"),
    ("server.rows", "Did you mean 'server.max_rows'?"),
    ("schedule.timezon", "Did you mean 'schedule.timezone'?"),
    ("schedule.origins", "Did you mean 'server.origins'?"),
    ("server.online", "Did you mean 'online'?"),
    ("port", "Did you mean 'server.port'?"),
    ("sever.port", "Did you mean 'server.port'?"),
    ("stream.zzz", "There is 'stream.pending_timeout'."),
    ("x" * 1000, "There is 'access', 'audit'"),
    *((old, f"Did you mean '{new}'") for old, new in RENAMED.items()),
]


@pytest.mark.parametrize(("name", "suggestion"), UNKNOWN)
def test_an_unknown_name_is_refused_in_the_file_and_as_a_keyword(name: str, suggestion: str, tmp_path: Path) -> None:
    shown = name if name != "sever.port" else "sever"
    suggestion = suggestion if name != "sever.port" else "Did you mean 'server'?"
    with pytest.raises(ConfigError) as caught:
        load_settings(tmp_path, **as_keyword(name, "x"))
    assert f"There is no setting {shown!r} (" in str(caught.value)
    assert suggestion in str(caught.value)
    (tmp_path / FILE_NAME).write_text(f'{name} = "x"\n')
    with pytest.raises(ConfigError) as in_file:
        load_settings(tmp_path)
    assert str(in_file.value) == str(caught.value)


def test_a_keyword_with_underscores_for_the_dot_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no setting 'server__port'.*Did you mean 'server\.port'\?"):
        load_settings(tmp_path, server__port=1)


@pytest.mark.parametrize(("name", "suggestion"), UNKNOWN)
def test_an_unknown_variable_is_warned_of_once_and_passed_over(
    name: str, suggestion: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(variable(name), "1")
    for _ in range(2):
        assert load_settings(tmp_path) == Settings(root=tmp_path)
    [message] = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"The variable {variable(name)} names no setting and is passed over. ")
    assert re.sub(r"'([\w.]+)'", lambda match: repr(variable(match[1])), suggestion) in message


@pytest.mark.parametrize("name", ["FEATURESTORE_SERVER__PORT__X", "FEATURESTORE_OIDC__GRANTS__ADMINS", "FEATURESTORE_ROOT"])
def test_a_variable_inside_a_setting_is_none(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(name, "admin")
    assert load_settings(tmp_path) == Settings(root=tmp_path)
    assert [name in record.getMessage() for record in caplog.records] == [True]


def test_settings_below_a_tables_head_belong_to_it(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text('[server]\nport = 1\nproject = "x"\n')
    with pytest.raises(ConfigError, match=r"no setting 'server\.project'.*Did you mean 'project'\?"):
        load_settings(tmp_path)


@pytest.mark.parametrize(("value", "shown"), [("1h", "'1h'"), (8372, "8372"), ([], r"\[\]")])
def test_a_table_is_no_value(value: Any, shown: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"'schedule' is a table of settings, not {shown}\. .* such as 'schedule\.interval'"):
        load_settings(tmp_path, schedule=value)


def test_all_faults_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(tmp_path, server={"port": "x", "prot": 1}, schedule={"timezone": "Mars"})
    assert [line.split(":")[0].split(" (")[0] for line in str(caught.value).splitlines()] == [
        "The setting 'server.port' is 'x'",
        "There is no setting 'server.prot'",
        "The setting 'schedule.timezone' is 'Mars'",
    ]


# -- the environment -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", ["", "_SERVER", "_ONLINE", "_REGISTRY", "_WEB_2", "_SERVER__PORT", "_SCHEDULE"])
def test_variables_of_a_kubernetes_service_are_no_settings(
    service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given = {"SERVICE_HOST": "10.0.0.7", "SERVICE_PORT": "8372", "SERVICE_PORT_HTTP": "8372", "PORT": "tcp://10.0.0.7:8372"}
    given |= {f"PORT_8372_TCP{end}": "tcp" for end in ("", "_PROTO", "_PORT", "_ADDR")}
    for name, value in given.items():
        monkeypatch.setenv(f"FEATURESTORE{service}_{name}", value)
    monkeypatch.setenv("FEATURESTORE_KEY", "fs_key")  # where docs/how-to/secure.md keeps a client's key
    with FeatureStore(tmp_path) as store:
        assert store.settings == Settings(root=tmp_path)
    assert not caplog.records


@pytest.mark.parametrize("name", ["OIDC__GRANTS", "OIDC__ALGORITHMS", "SERVER__ORIGINS", "SERVER"])
def test_a_variable_that_is_no_json_is_told_by_its_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATURESTORE_OIDC__AUDIENCE", "features")
    monkeypatch.setenv(f"FEATURESTORE_{name}", "admins=s3cret")
    with pytest.raises(ConfigError, match=f"The variable FEATURESTORE_{name} is not valid JSON") as caught:
        load_settings(tmp_path)
    assert "s3cret" not in str(caught.value)
