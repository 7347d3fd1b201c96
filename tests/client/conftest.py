"""The server's project, for its client."""

from tests.server.conftest import http, lab, lab_folder, own, url

__all__ = ["http", "lab", "lab_folder", "own", "url"]
