"""Who may ask: this machine's own browser, or whoever has the token; and pages that load nothing from elsewhere."""

from __future__ import annotations

import hmac
import ipaddress
from urllib.parse import urlencode, urlsplit

import flask

__all__ = ["guard", "is_loopback"]

_COOKIE = "mfer_token"


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only be reached from this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def guard(server: flask.Flask, token: str | None, script_hashes: list[str]) -> None:
    """Check every request, and tell the browser what a page may do.

    Without a token only requests that were addressed to a loopback name are answered: a page on the web can make a
    browser ask 127.0.0.1 under another name (DNS rebinding). What changes something must come from our own pages.

    Args:
        server: the server.
        token: what every request has to show, as ``Authorization: Bearer``, a cookie, or once as ``?token=``.
        script_hashes: of the scripts that stand in the pages themselves.
    """

    @server.before_request
    def check() -> flask.Response | tuple[str, int] | None:
        request = flask.request
        name = urlsplit(f"//{request.host}").hostname or ""
        if token is None and not is_loopback(name):
            return f"This dashboard answers on localhost only, not as {name!r}.\n", 403
        if token is not None:
            given = request.args.get("token", "")
            if given and _same(given, token):
                rest = urlencode([(key, value) for key, value in request.args.items(multi=True) if key != "token"])
                place = "/" + request.path.lstrip("/")  # never //elsewhere
                answer = flask.redirect(f"{place}?{rest}" if rest else place)
                answer.set_cookie(_COOKIE, token, httponly=True, samesite="Strict")
                return answer  # type: ignore[return-value]
            bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not (_same(bearer, token) or _same(request.cookies.get(_COOKIE, ""), token)):
                return "This dashboard needs its token: open the address with ?token=... once.\n", 401
        origin = request.headers.get("Origin")
        if request.method not in ("GET", "HEAD") and origin and urlsplit(origin).netloc != request.host:
            return "This comes from another site and is refused.\n", 403
        return None

    policy = (
        "default-src 'self'; img-src 'self' data: blob:; media-src 'self'; style-src 'self' 'unsafe-inline';"
        f" script-src 'self' {' '.join(script_hashes)}; object-src 'none'; base-uri 'none'; form-action 'self';"
        " frame-ancestors 'none'"
    )

    @server.after_request
    def label(answer: flask.Response) -> flask.Response:
        answer.headers["Content-Security-Policy"] = policy
        answer.headers["X-Content-Type-Options"] = "nosniff"
        answer.headers["Referrer-Policy"] = "no-referrer"
        return answer


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())
