"""An OpenID Connect issuer: a real HTTP server with keys of its own, which counts what it is asked for."""

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

AUDIENCE = "featurestore"


class Issuer:
    """Signs tokens, and serves the public keys they are verified by."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {}
        self.asked: Counter[str] = Counter()
        self.broken = False
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked[self.path] += 1
                told = None if issuer.broken else issuer.document(self.path)
                self.send_response(200 if told is not None else 503)
                self.end_headers()
                self.wfile.write(json.dumps(told).encode())

            def log_message(self, *_: object) -> None:
                """Keeps quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.add("first")

    def add(self, kid: str, *, curve: bool = False) -> None:
        """Makes a new key."""
        self.keys[kid] = ec.generate_private_key(ec.SECP256R1()) if curve else rsa.generate_private_key(65537, 2048)

    def document(self, path: str) -> Any:
        if path == "/.well-known/openid-configuration":
            return {"issuer": self.url, "jwks_uri": f"{self.url}/jwks"}
        return {"keys": [self.public(kid) for kid in self.keys]} if path == "/jwks" else None

    def public(self, kid: str) -> dict[str, Any]:
        key = self.keys[kid].public_key()
        algorithm: Any = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPublicKey) else jwt.algorithms.ECAlgorithm
        return {**algorithm.to_jwk(key, as_dict=True), "kid": kid, "use": "sig"}

    def sign(self, claims: dict[str, Any], *, kid: str = "first", algorithm: str = "RS256", **header: Any) -> str:
        return jwt.encode(claims, self.keys[kid], algorithm, headers={"kid": kid, **header})

    def __enter__(self) -> "Issuer":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
