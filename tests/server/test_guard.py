"""Whom the server answers: programs and its own page, and no other page that a browser shows."""

from __future__ import annotations

import re
import socket
from html.parser import HTMLParser

import pytest
from running_server import NAME, image_input, png, running
from tiny_bundle import images

from mingle_edge_server import LimitsError, create_app

RECORD, CONTENT = image_input(png(images(0)[0]))


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8000",
        "127.0.0.1",
        "127.0.0.1:9",
        "192.168.1.7:8000",
        "[::1]:8000",
        "localhost.",
        socket.gethostname(),
    ],
)
def test_this_machine_and_addresses_are_answered(server, host: str) -> None:
    assert server.ask("GET", "/v2", headers={"Host": host}).status == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "evil.example@localhost"),
        *("", "[::1", "localhost:x", "localhost/..", "0x7f.1", "2130706433", "127.1"),
    ],
)
def test_a_name_that_was_made_to_point_here_is_refused(server, host: str) -> None:
    reply = server.ask("GET", "/", headers={"Host": host})
    assert reply.status == 403
    assert "does not answer to the host" in reply.json["error"]


def test_names_that_the_server_was_told_are_answered(model) -> None:
    with running(model, allowed_hosts=["Models.Example"]) as server:
        assert server.ask("GET", "/v2", headers={"Host": "models.example"}).status == 200
        assert server.ask("GET", "/v2", headers={"Host": "a.models.example"}).status == 403
    with pytest.raises(LimitsError, match=r"'https://models\.example' is no name of a host"):
        create_app(model, allowed_hosts=["https://models.example"])


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:1", "http://127.0.0.1", "file://", "http://[::1", "x"]
)
def test_pages_of_other_origins_are_refused(server, origin: str) -> None:
    """As of a form that a browser sends without asking: no header of it tells more."""
    reply = server.infer(RECORD, CONTENT, Origin=origin, **{"Content-Type": "text/plain"})
    assert reply.status == 403
    assert "a page of another origin" in reply.json["error"]


def test_its_own_page_is_answered_and_no_other_is_ever_allowed(server) -> None:
    for host in (server.address, "localhost:8000"):
        reply = server.infer(RECORD, CONTENT, Origin=f"http://{host}", Host=host)
        assert reply.status == 200
        assert not [name for name in reply.headers if name.startswith("access-control-")]
    reply = server.ask(
        "OPTIONS",
        "/v2",
        headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST", "Host": "localhost"},
    )
    assert reply.status == 403
    assert not [name for name in reply.headers if name.startswith("access-control-")]


class _Addresses(HTMLParser):
    """What a page fetches, and what scripts or styles stand in it."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        values = dict(attrs)
        self.fetched += [values[name] for name in ("src", "href") if values.get(name)]
        self.inline += [name for name in values if name.startswith("on") or name == "style"]
        if tag == "style" or (tag == "script" and "src" not in values):
            self.inline.append(tag)


def test_the_page_is_whole_and_may_fetch_nothing_from_elsewhere(server) -> None:
    page = server.ask("GET", "/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    parsed = _Addresses()
    parsed.feed(page.body.decode())
    assert not parsed.inline
    for address in parsed.fetched:
        if address != "data:,":
            assert re.fullmatch(r"[a-z0-9./]+", address)
            assert server.ask("GET", f"/{address}").status == 200, address
    for name in ("page.js", "page.css"):
        assert name in parsed.fetched
        assert not re.search(r"(https?:)?//[a-z]", server.ask("GET", f"/{name}").body.decode().replace("// ", ""))


@pytest.mark.parametrize("path", ["/", "/page.js", "/v2", f"/v2/models/{NAME}", "/metrics", "/nowhere"])
def test_a_browser_is_told_what_no_page_may_do(server, path: str) -> None:
    headers = server.ask("GET", path).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["referrer-policy"] == "no-referrer"
    assert "server" not in headers
