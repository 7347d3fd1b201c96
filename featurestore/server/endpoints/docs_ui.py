"""The ``/docs`` pages: Swagger UI from its installed package, under a strict content security policy."""

from functools import cache
from pathlib import Path

import swagger_ui_bundle

from featurestore.errors import NotFoundError
from featurestore.server.http.context import RequestContext

_FOLDER = Path(swagger_ui_bundle.swagger_ui_path)
_FILES = {
    "swagger-ui.css": b"text/css; charset=utf-8",
    "swagger-ui-bundle.js": b"text/javascript; charset=utf-8",
    "favicon-32x32.png": b"image/png",
}
_HEADERS = {
    # Swagger UI sets style attributes; scripts are files of ours alone.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; "
        "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}
_PAGE = b"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Features</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="icon" href="docs/favicon-32x32.png">
<style>
body { margin: 0; font-family: sans-serif; color: #3b4151; }
.asks { max-width: 36rem; margin: 20vh auto; padding: 0 1rem; line-height: 1.5; }
.asks form { display: flex; gap: 0.5rem; }
.asks input { flex: 1; }
.asks input, .asks button { padding: 0.6rem; font: inherit; border: 1px solid #9aa0ac; border-radius: 4px; }
</style>
</head>
<body>
<div id="docs">Loading&hellip;</div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START = b"""// Asks for a key where the server wants one, and sends it with every request; it is kept nowhere.
(function () {
  let key = "";
  function show(told) {
    document.getElementById("docs").className = "";
    SwaggerUIBundle({
      spec: told,
      dom_id: "#docs",
      deepLinking: true,
      defaultModelsExpandDepth: 0,
      defaultModelExpandDepth: 4,
      displayRequestDuration: true,
      showMutatedRequest: false, // else the key would stand on the page
      tryItOutEnabled: true,
      validatorUrl: null,
      requestInterceptor: function (request) {
        if (key) { request.headers.Authorization = "Bearer " + key; }
        return request;
      },
    });
  }
  function ask(message) {
    const place = document.getElementById("docs");
    const heading = document.createElement("h1");
    heading.textContent = "Who asks?";
    const words = document.createElement("p");
    words.textContent = message;
    place.className = "asks";
    const form = document.createElement("form");
    const field = document.createElement("input");
    field.type = "password";
    field.placeholder = "key or token";
    field.autocomplete = "off";
    const button = document.createElement("button");
    button.textContent = "Show";
    form.append(field, button);
    form.addEventListener("submit", function (event) { event.preventDefault(); key = field.value; load(); });
    place.replaceChildren(heading, words, form);
    field.focus();
  }
  function load() {
    fetch("openapi.json", { headers: key ? { Authorization: "Bearer " + key } : {} }).then(function (answer) {
      return answer.json().then(function (told) {
        if (answer.ok) { show(told); } else { ask(told.detail || "The server answered " + answer.status + "."); }
      });
    }).catch(function (error) { ask(String(error)); });
  }
  load();
})();
"""


async def root(visit: RequestContext) -> None:
    """Redirects to the page."""
    await visit.answer(b"", b"text/plain", 307, {"location": "docs"})


async def page(visit: RequestContext) -> None:
    """Answers the page. It says nothing of the project: its script asks for the document, with a key if there must be one."""
    await visit.answer(_PAGE, b"text/html; charset=utf-8", headers=_HEADERS)


async def file(visit: RequestContext) -> None:
    """Answers a file of the page. Raises NotFoundError."""
    name = visit.scope["path_params"]["file"]
    if name == "start.js":
        await visit.answer(_START, b"text/javascript; charset=utf-8", headers=_HEADERS)
        return
    if name not in _FILES:
        raise NotFoundError("file of the documentation", name, [*_FILES, "start.js"])
    await visit.answer(_contents(name), _FILES[name], headers=_HEADERS)


@cache
def _contents(name: str) -> bytes:
    """Returns a file of the wheel, which is read once: it may be large, and requests wait meanwhile."""
    return (_FOLDER / name).read_bytes()
