"""Before the aggregator listens: what it must have off this machine, and files that can not be used."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from loiter.settings import SettingsError
from loiter_aggregator.access.certificates import warn_of_expiry
from loiter_aggregator.access.principal import Right
from loiter_aggregator.access.requirements import check
from loiter_aggregator.access.tokens import add
from loiter_aggregator.config import AggregatorSettings, TlsSettings
from support.certificates import LONG_AGO, Pki
from support.programs import BIN, run


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path / "ca")


@pytest.fixture
def off(tmp_path: Path) -> AggregatorSettings:
    return AggregatorSettings(listen="0.0.0.0:7433", data_dir=tmp_path)


def refusal(settings: AggregatorSettings) -> str:
    with pytest.raises(SettingsError) as caught:
        check(settings)
    return str(caught.value)


def test_on_this_machine_nothing_is_needed(tmp_path: Path) -> None:
    """Nor with --insecure."""
    check(AggregatorSettings(data_dir=tmp_path))
    check(AggregatorSettings(listen="[::1]:7433", listen_readers="localhost:7434", data_dir=tmp_path))
    check(AggregatorSettings(listen="0.0.0.0:7433", http="0.0.0.0:7434", data_dir=tmp_path, insecure=True))


def test_off_this_machine_tls_and_both_rights_are_needed(off: AggregatorSettings, pki: Pki) -> None:
    """What is missing is said with the command that makes it, until nothing is."""
    text = refusal(off)
    assert all(part in text for part in ("not encrypted", "anyone could report", "anyone could read"))
    assert all(part in text for part in ("loiter ca init", "--right ingest", "--right read", "--insecure"))
    encrypted = replace(off, tls=TlsSettings(pki.server.certificate, pki.server.key))
    assert "not encrypted" not in refusal(encrypted)
    mutual = replace(off, tls=pki.tls)
    assert "anyone could report" not in refusal(mutual)
    add(off.data_dir / "tokens.json", "alice", Right.READ, None, datetime.now(UTC))
    check(mutual)
    check(encrypted)
    assert "not encrypted" in refusal(off)


def test_the_address_of_readers_is_looked_at_as_well(tmp_path: Path, pki: Pki) -> None:
    """There nobody reports, so nothing has to keep them from it."""
    readers = AggregatorSettings(
        listen_readers="0.0.0.0:7434", data_dir=tmp_path, tls=TlsSettings(pki.server.certificate, pki.server.key)
    )
    text = refusal(readers)
    assert text.startswith("0.0.0.0:7434 is off this machine")
    assert "anyone could read" in text
    assert "anyone could report" not in text


def test_the_web_page_is_looked_at_as_well(tmp_path: Path, pki: Pki) -> None:
    """It takes a certificate and a token off this machine, and an address that nothing else has."""
    page = AggregatorSettings(http="[::]:7434", data_dir=tmp_path)
    text = refusal(page)
    assert text.startswith("[::]:7434 is off this machine")
    assert "not encrypted" in text
    assert "anyone could read" in text
    assert "anyone could report" not in text
    add(tmp_path / "tokens.json", "alice", Right.READ, None, datetime.now(UTC))
    check(replace(page, tls=TlsSettings(pki.server.certificate, pki.server.key)))
    check(AggregatorSettings(http=None, data_dir=tmp_path))
    assert "taken twice" in refusal(AggregatorSettings(http="127.0.0.1:7433", data_dir=tmp_path))


def test_files_that_can_not_be_used_are_named(tmp_path: Path, pki: Pki) -> None:
    """And what belongs together."""

    def with_(tls: TlsSettings) -> str:
        return refusal(AggregatorSettings(data_dir=tmp_path, tls=tls))

    none, nonsense = tmp_path / "none.pem", tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nxyz\n-----END CERTIFICATE-----\n")
    good = pki.tls
    assert "come together" in with_(TlsSettings(certificate=good.certificate))
    assert "--client-ca needs TLS" in with_(TlsSettings(client_ca=pki.ca))
    assert "--revoked needs --client-ca" in with_(replace(good, client_ca=None))
    assert f"cannot read {none}: No such file" in with_(replace(good, certificate=none))
    assert f"cannot read {none}: No such file" in with_(replace(good, key=none))
    assert f"cannot read {none}: No such file" in with_(replace(good, client_ca=none))
    assert f"cannot read {none}: No such file" in with_(replace(good, revoked=none))
    assert f"{nonsense}: does not hold a certificate" in with_(replace(good, certificate=nonsense))
    assert f"{nonsense}: does not hold a private key" in with_(replace(good, key=nonsense))
    assert str(broken) in with_(replace(good, certificate=broken))
    assert f"{pki.folder / 'ca.key'} is not the key of" in with_(replace(good, key=pki.folder / "ca.key"))
    assert f"{nonsense}:1: 'nonsense' is not a serial number" in with_(replace(good, revoked=nonsense))
    assert f"{nonsense}: not a file of tokens" in refusal(AggregatorSettings(data_dir=tmp_path, tokens=nonsense))


def test_a_certificate_that_expires_soon_is_warned_of(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    """Two weeks before; the authorities of agents as well."""
    warn_of_expiry(pki.tls)
    assert caplog.messages == []
    soon = pki.authority.issue_server(["localhost"], 10, datetime.now(UTC), force=True)
    warn_of_expiry(pki.tls)
    (message,) = caplog.messages
    assert message.startswith(f"{soon.certificate} expires on ")
    pki.renew_server(ago=LONG_AGO)
    warn_of_expiry(pki.tls)
    assert "has expired on" in caplog.messages[1]


def test_serve_does_not_start_where_strangers_could_get_in(tmp_path: Path) -> None:
    """Exit status 2, and nothing is listened on."""
    done = run([BIN / "loiter", "serve", "--listen", "0.0.0.0:0", "--data-dir", tmp_path])
    assert done.returncode == 2
    assert "it is not safe to listen there" in done.stderr
    assert "Traceback" not in done.stderr
