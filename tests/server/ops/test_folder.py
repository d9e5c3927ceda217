"""The origin that a server goes by: a host that clients can look for, and the one it had before."""

import pytest

from taube.server import folder
from taube.server.config import OperatorError

LONG = ".".join(["a" * 60, *["b" * 60] * 3, "c" * 9])
IMPOSSIBLE = [
    "https://a..b", "https://.example.org", "https://example.org.", f"https://{'a' * 64}.org", "https://a.\u202e.org",
    "https://münchen.example", f"https://{LONG}c", f"https://{LONG}.{'d' * 48}", "https://a b", "https://ex%61mple.org",
    "https://[v1.x]", "https://[::1", "https://[fe80::1%25eth0]", "https://x[::1]", "https://[::1]x:3", "https://a_b.org",
    "https://-a.org", "https://a-.org", "https://1.2.3", "https://1.2.3.256", "https://0x7f.0x1", "https://@example.org",
    "https://example.org:0", "https://example.org:65536", "https://example.org:x", "https://", "https://:443",
    "http://127.0.0.1:0",
]  # fmt: skip


@pytest.mark.parametrize("url", IMPOSSIBLE)
def test_a_host_that_no_client_can_look_for_is_refused_in_one_sentence(url: str) -> None:
    with pytest.raises(OperatorError, match="--url has to be") as refused:
        folder.check_origin(url)
    assert refused.value.exit_code == 64
    assert "xn--" in refused.value.sentence and refused.value.sentence.count(". ") == 0


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://Example.org/", "https://example.org"),
        ("https://example.org:443", "https://example.org"),
        ("https://example.org:1", "https://example.org:1"),
        ("https://example.org:65535", "https://example.org:65535"),
        ("https://xn--mnchen-3ya.example", "https://xn--mnchen-3ya.example"),
        (f"https://{'a' * 63}.org", f"https://{'a' * 63}.org"),
        (f"https://{LONG}", f"https://{LONG}"),
        ("https://3com", "https://3com"),
        ("https://192.0.2.1:8443", "https://192.0.2.1:8443"),
        ("https://[2001:db8::1]", "https://[2001:db8::1]"),
        ("http://localhost:8080", "http://localhost:8080"),
        ("http://[::1]:80", "http://[::1]"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
    ],
)
def test_an_origin_with_a_name_or_an_address_is_taken(url: str, origin: str) -> None:
    assert len(LONG) == 253
    assert folder.check_origin(url) == origin == folder.check_origin(origin)
    assert not folder.oddness(origin)


@pytest.mark.parametrize("kept", ["https://a_b.org", "https://münchen.example", "https://example.org:0"])
def test_the_origin_that_a_server_went_by_is_taken_again(kept: str) -> None:
    assert folder.check_origin(f"{kept}/", kept) == kept
    with pytest.raises(OperatorError):
        folder.check_origin(kept, "https://example.org")


@pytest.mark.parametrize("text", ["", "x", "https://[", "https://a..b", f"https://{LONG}x"])
def test_of_an_origin_that_is_none_it_is_said_that_clients_may_not_find_it(text: str) -> None:
    assert folder.host_of(text) == ""
    assert "may not find" in folder.oddness(text)
