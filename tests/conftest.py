"""What all tests share: real servers, started once a session on free ports of the loopback interface."""

pytest_plugins = ["tests.servers.postgres", "tests.servers.valkey", "tests.servers.nats"]
