"""Alerts to a webhook, as of a chat or an on-call service."""

import json
import logging
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from urllib.error import URLError
from urllib.parse import urlsplit

from featurestore.config import is_webhook
from featurestore.errors import ConfigError
from featurestore.maintenance.status import Alert

AlertHandler = Callable[[Alert], None]

_SECONDS = 10
_log = logging.getLogger("featurestore")


def open_webhook(url: str, project: str, *, logged: bool = True) -> AlertHandler:
    """Return what posts notices to a webhook; each is logged too. Without an address they are only logged.

    A notice is a JSON object with ``text``, which chats show, and ``project``, ``view`` and ``state``. A webhook that cannot
    be reached is logged, and keeps nothing else from being done.

    Args:
        url: where to post, over http or https; empty for nowhere.
        project: whose views.
        logged: whether each is logged.

    Raises:
        ConfigError: the address is of another form.

    Example:
        >>> open_webhook("ftp://example.org", "flights")
        Traceback (most recent call last):
        ...
        featurestore.errors.ConfigError: webhook='ftp://…' is not an http:// or https:// address.
    """
    if url and not is_webhook(url):
        scheme = url.partition("://")[0] if "://" in url else "…"
        raise ConfigError(f"webhook='{scheme}://…' is not an http:// or https:// address.")
    host = urlsplit(url).hostname

    def notify(notice: Alert) -> None:
        if logged:
            _log.log(logging.INFO if notice.state == "ok" else logging.ERROR, "%s", notice.text)
        if not url:
            return
        payload = {"text": f"[{project}] {notice.text}", "project": project, "view": notice.view, "state": notice.state}
        # The scheme was looked at above: no file is opened.
        request = urllib.request.Request(url, json.dumps(payload).encode(), {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS):
                pass
        except (URLError, HTTPException, OSError, ValueError) as error:
            # NOTE: an address may hold a secret, so no more than its host is told.
            _log.warning("The webhook at %s did not take a notice: %s", host, error)

    return notify
