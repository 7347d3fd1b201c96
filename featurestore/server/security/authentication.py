"""Authentication: Starlette's, with the guard as its backend. ``request.user`` is the caller, a ``Principal``."""

from starlette.authentication import AuthCredentials, AuthenticationBackend
from starlette.requests import HTTPConnection

from featurestore.server.http.context import context_of
from featurestore.server.security.guard import Principal


class GuardBackend(AuthenticationBackend):
    """Authenticates callers by the guard of their application."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, Principal]:
        """Return the caller. Raises as ``Guard.admit``, where a problem document follows."""
        return AuthCredentials(), await context_of(conn).authenticate()
