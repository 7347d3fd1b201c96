"""The ``/docs`` pages: Swagger UI from its installed package, under a strict content security policy."""

from functools import cache
from pathlib import Path

import swagger_ui_bundle
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from featurestore.errors import NotFoundError
from featurestore.server.http.routing import ApiRoute, public

_FOLDER = Path(swagger_ui_bundle.swagger_ui_path)
_FILES = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
    "start.js": "text/javascript",
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


@public
async def root(request: Request) -> Response:
    """Redirect to the page."""
    return RedirectResponse("docs")


@public
async def page(request: Request) -> Response:
    """Return the page. It says nothing of the project: its script asks for the document, with a key if there must be one."""
    return Response(_PAGE, headers=_HEADERS, media_type="text/html")


@public
async def file(request: Request) -> Response:
    """Return a file of the page. Raises NotFoundError."""
    name = request.path_params["file"]
    if name not in _FILES:
        raise NotFoundError("file of the documentation", name, _FILES)
    return Response(_contents(name), headers=_HEADERS, media_type=_FILES[name])


@cache
def _contents(name: str) -> bytes:
    """Return a file of the wheel, which is read once: it may be large, and requests wait meanwhile."""
    return _START if name == "start.js" else (_FOLDER / name).read_bytes()


routes = [ApiRoute("/", root), ApiRoute("/docs", page), ApiRoute("/docs/{file}", file)]
