"""What alerts and reports are sent to: addresses and secrets that are refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from loiter_aggregator.receivers import read_secret, trust, web_address

EXAMPLE = "https://example.net/hook"


@pytest.mark.parametrize(
    "address",
    [
        "http://192.168.1.300:9093",
        "http://[::1:9093",
        "http://am:99999",
        "http://am:0",
        "http://am:port",
        "http:///s3cret",
        "ftp://am/s3cret",
        "am:9093",
        "http://am/s3cret with spaces",
        "http://am/s3crét",
        "http://am/s3cret\r\nX-Evil: 1",
        "",
    ],
)
def test_what_is_no_address_is_refused_and_not_shown(address: str) -> None:
    """Also where only what would go there can tell: it may hold a secret."""
    with pytest.raises(ValueError, match="address") as caught:
        web_address(address, EXAMPLE)
    assert "s3cret" not in str(caught.value)
    assert "s3cr" not in str(caught.value)


@pytest.mark.parametrize("address", ["http://127.0.0.1:9093", "https://[::1]:9093/prefix", EXAMPLE, "http://am?a=b#c"])
def test_an_address_is_taken_apart(address: str) -> None:
    """By the scheme, the host and so on."""
    assert web_address(address, EXAMPLE).geturl() == address


@pytest.mark.parametrize("content", [b"", b"\n", b"s3cret\nX-Evil: 1\n", b"s3cret\x00", "s3crét".encode(), b"\xff\xfe"])
def test_what_is_no_secret_is_refused_and_not_shown(tmp_path: Path, content: bytes) -> None:
    """A second line would forge a header."""
    file = tmp_path / "secret"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{file} holds no secret") as caught:
        read_secret(file)
    assert "s3cr" not in str(caught.value)


def test_a_secret_is_a_line_of_signs(tmp_path: Path) -> None:
    """A password may have spaces in it, and ends where the line does."""
    file = tmp_path / "secret"
    file.write_text("correct  horse, battery\n")
    assert read_secret(file) == "correct  horse, battery"
    with pytest.raises(ValueError, match="No such file"):
        read_secret(tmp_path / "missing")


def test_who_is_to_be_trusted_is_in_a_file_of_certificates(tmp_path: Path) -> None:
    """Anything else is said to be none."""
    file = tmp_path / "ca.pem"
    file.write_text("nonsense")
    with pytest.raises(ValueError, match=r"ca\.pem holds no certificates"):
        trust(file)
    with pytest.raises(ValueError, match="No such file"):
        trust(tmp_path / "missing")
    assert trust(None).check_hostname
