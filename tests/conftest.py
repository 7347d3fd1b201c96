"""The servers that tests start, and how Hypothesis tries: without deadlines, for a machine may have other things to do."""

from hypothesis import HealthCheck, settings

pytest_plugins = [
    "tests.servers.postgres",
    "tests.servers.valkey",
    "tests.servers.nats",
    "tests.servers.s3_stub",
    "tests.servers.seaweed",
    "tests.servers.ray_cluster",
]

settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")
