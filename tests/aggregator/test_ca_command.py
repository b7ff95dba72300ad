"""`loiter ca`: what it signs, checked by OpenSSL; keys that nobody else reads; revocation."""

from __future__ import annotations

import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from loiter_aggregator.access.authorities import Authorities
from loiter_aggregator.access.authority import AuthorityError, create_authority, open_authority
from loiter_aggregator.access.certificates import (
    CertificateRefused,
    ClientCertificates,
    RevocationFileError,
    load_revoked,
    parse,
)
from support.certificates import Pki, self_signed
from support.programs import BIN, run

HOST_ID = "ab" * 16


def ca(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return run([BIN / "loiter", "ca", *words])


def verifies(folder: Path, certificate: Path, purpose: str) -> bool:
    done = run(["openssl", "verify", "-x509_strict", "-CAfile", folder / "ca.pem", "-purpose", purpose, certificate])
    return done.returncode == 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "ca"
    assert ca("init", folder).returncode == 0
    assert ca("server", folder, "aggregator.example.net", "10.0.0.5").returncode == 0
    assert ca("agent", folder, "Web-1", "--host-id", HOST_ID).returncode == 0
    return folder


def test_certificates_are_good_for_what_they_are_made_for_alone(folder: Path) -> None:
    """An agent's can not serve, an aggregator's can not report."""
    agent, server = folder / "agents/web-1.pem", folder / "aggregator.pem"
    assert verifies(folder, agent, "sslclient")
    assert not verifies(folder, agent, "sslserver")
    assert verifies(folder, server, "sslserver")
    assert not verifies(folder, server, "sslclient")


def test_certificates_name_whom_they_are_for(folder: Path) -> None:
    """By DNS name, IP address and host id."""
    server = x509.load_pem_x509_certificate((folder / "aggregator.pem").read_bytes())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["aggregator.example.net"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.5"]
    agent = parse((folder / "agents/web-1.pem").read_bytes())
    assert (set(agent.hostnames), set(agent.host_ids)) == ({"web-1"}, {HOST_ID})


def test_keys_are_for_their_owner_alone_and_never_overwritten(folder: Path) -> None:
    """Not without --force."""
    keys = [folder / "ca.key", folder / "aggregator.key", folder / "agents/web-1.key"]
    before = [key.read_bytes() for key in keys]
    assert [stat.S_IMODE(key.stat().st_mode) for key in keys] == [0o600] * 3
    for words in (("init", folder), ("server", folder, "x"), ("agent", folder, "web-1")):
        done = ca(*words)
        assert done.returncode == 1
        assert "is there already; --force replaces it" in done.stderr
    assert [key.read_bytes() for key in keys] == before
    assert ca("agent", folder, "web-1", "--force").returncode == 0
    assert keys[2].read_bytes() != before[2]


@pytest.mark.parametrize("name", ["../web", "a/b", "", ".", "web 1", "-web", "a" * 254, "wéb"])
def test_what_is_no_name_of_a_host_is_refused(tmp_path: Path, name: str) -> None:
    """It becomes the name of a file as well."""
    authority = Pki(tmp_path / "ca").authority
    with pytest.raises(AuthorityError, match="is not the name of a host"):
        authority.issue_agent(name, None, 1, datetime.now(UTC))


def test_what_is_missing_or_damaged_is_named(tmp_path: Path, folder: Path) -> None:
    """With what to do."""
    done = ca("agent", tmp_path / "none", "web-1")
    assert done.returncode == 1
    assert f"make an authority by: loiter ca init {tmp_path / 'none'}" in done.stderr
    assert "Traceback" not in done.stderr
    (folder / "ca.key").write_text("nonsense")
    assert "can not be read" in ca("agent", folder, "web-2").stderr
    create_authority(tmp_path / "other", "other", 10, datetime.now(UTC))
    (folder / "ca.key").write_bytes((tmp_path / "other/ca.key").read_bytes())
    assert "is not the key of" in ca("agent", folder, "web-2").stderr
    assert ca("agent", folder, "web-2", "--host-id", "xyz").returncode == 2


def test_no_certificate_outlives_its_authority(tmp_path: Path) -> None:
    """It would be refused from then on."""
    now = datetime.now(UTC)
    create_authority(tmp_path, "short", 10, now)
    issued = open_authority(tmp_path).issue_agent("web-1", None, 365, now)
    assert timedelta(days=9) < issued.expires - now <= timedelta(days=10)
    with pytest.raises(AuthorityError, match="has expired"):
        open_authority(tmp_path).issue_agent("web-2", None, 365, now + timedelta(days=11))


def test_revocation_is_of_all_certificates_that_a_host_has_had(folder: Path) -> None:
    """One that is made afterwards is good, and no other host is touched."""
    first = (folder / "agents/web-1.pem").read_bytes()
    assert ca("agent", folder, "web-2").returncode == 0
    assert ca("agent", folder, "web-1", "--force").returncode == 0
    second = (folder / "agents/web-1.pem").read_bytes()
    assert ca("revoke", folder, "web-1").returncode == 0
    assert ca("agent", folder, "web-1", "--force").returncode == 0
    certificates = ClientCertificates(folder / "revoked.txt")
    for pem in (first, second):
        with pytest.raises(CertificateRefused, match="the certificate of web-1 is revoked"):
            certificates.read(pem)
    for name in ("web-1", "web-2"):
        assert certificates.read((folder / f"agents/{name}.pem").read_bytes()).name == name
    assert "no certificate for web-3" in ca("revoke", folder, "web-3").stderr


def test_a_revocation_is_added_to_the_list_that_the_aggregator_reads(folder: Path, tmp_path: Path) -> None:
    served = tmp_path / "served.txt"
    assert f"tls.revoked names {folder / 'revoked.txt'}" in ca("revoke", folder, "web-1").stderr
    assert f"tls.revoked names {served}" in ca("revoke", folder, "web-1", "--revoked", served).stderr
    assert load_revoked(served) == load_revoked(folder / "revoked.txt") != frozenset()


def test_a_certificate_is_revoked_without_a_restart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that is damaged later keeps what was revoked before, and says so."""
    pki = Pki(tmp_path / "ca")
    agent = pki.agent("web-1")
    assert agent.certificate is not None
    passed = 0.0
    certificates = ClientCertificates(pki.folder / "revoked.txt", monotonic=lambda: passed)
    certificate = certificates.read(agent.certificate.read_bytes())
    ca("revoke", pki.folder, "web-1")
    for damage in (None, "nonsense\n"):
        if damage is not None:
            (pki.folder / "revoked.txt").write_text(damage)
        passed += 1
        with pytest.raises(CertificateRefused, match="revoked"):
            certificates.recheck(certificate)
    assert "'nonsense' is not a serial number" in caplog.text


def test_serial_numbers_of_other_authorities_can_be_listed(tmp_path: Path) -> None:
    """As OpenSSL prints them, with remarks."""
    file = tmp_path / "revoked.txt"
    file.write_text("# lost\nserial=0A1B\n\n0a:1c web-2 2026-11-22\n")
    assert load_revoked(file) == {0x0A1B, 0x0A1C}
    with pytest.raises(RevocationFileError, match="none"):
        load_revoked(tmp_path / "none")


def test_a_certificate_that_names_no_host_lets_nobody_in(tmp_path: Path) -> None:
    """Its common name is for people."""
    Pki(tmp_path / "ca")
    with pytest.raises(CertificateRefused, match="names no host"):
        parse((tmp_path / "ca/ca.pem").read_bytes())
    with pytest.raises(CertificateRefused, match="can not be read"):
        parse(b"nonsense")
    certificate, _ = self_signed(tmp_path, "web-1")
    assert parse(certificate.read_bytes()).hostnames == {"web-1"}


def test_a_stream_outlives_no_certificate(tmp_path: Path) -> None:
    """One that expires while its holder is connected is found out."""
    pki = Pki(tmp_path / "ca")
    agent = pki.agent("web-1")
    assert agent.certificate is not None
    now = datetime.now(UTC).timestamp()
    certificates = ClientCertificates(None, clock=lambda: now)
    certificate = certificates.read(agent.certificate.read_bytes())
    now += 366 * 86_400
    with pytest.raises(CertificateRefused, match="the certificate of web-1 expired on"):
        certificates.recheck(certificate)


def test_a_stream_outlives_no_authority(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One that is removed from the file, or replaced by another of the same name, vouches for nobody any more."""
    pki, other = Pki(tmp_path / "ca"), Pki(tmp_path / "other")
    agent = pki.agent("web-1")
    assert agent.certificate is not None
    issuer = parse(agent.certificate.read_bytes()).issuer
    bundle = tmp_path / "client_ca.pem"
    ours, theirs = ((one.folder / "ca.pem").read_text() for one in (pki, other))
    bundle.write_text(ours)
    passed = 0.0
    authorities = Authorities(bundle, monotonic=lambda: passed)
    since = authorities.generation
    for content, good in ((ours + theirs, True), ("nonsense", True), (theirs, False)):
        bundle.write_text(content)
        passed += 1
        assert authorities.vouch_for(issuer, since) is good
    # Whoever is let in by a handshake after the change is trusted by something that only that has seen.
    assert authorities.vouch_for(issuer, authorities.generation)
    assert "the authorities of before stay in force" in caplog.text
