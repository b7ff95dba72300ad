"""Finds out who calls, from the certificate of the connection and the token of the call, and what that allows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import grpc

from loiter_aggregator.access.authorities import Authorities
from loiter_aggregator.access.certificates import CertificateRefused, ClientCertificate, ClientCertificates
from loiter_aggregator.access.principal import ANYONE, Principal, Right
from loiter_aggregator.access.tokens import Token, TokenRefused, TokenStore


class Refused(Exception):
    """A call that is turned away. The message says why, and is fit for the caller."""

    def __init__(self, code: grpc.StatusCode, reason: str) -> None:
        """Takes the status that the call ends with."""
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a caller showed, found to be in force, and whom that makes of them."""

    principal: Principal
    certificate: ClientCertificate | None = None
    token: Token | None = None
    # What the authorities' generation was.
    generation: int = 0


class Authenticator:
    """Knows the tokens and the certificates of one listening address."""

    def __init__(
        self, tokens: TokenStore, certificates: ClientCertificates | None, authorities: Authorities | None = None
    ) -> None:
        """Takes what vouches for callers; no certificates where the address does not ask for them."""
        self._tokens = tokens
        self._certificates = certificates
        self._authorities = authorities

    def authenticate(
        self, auth_context: Mapping[str, Iterable[bytes]], metadata: Sequence[tuple[str, str | bytes]]
    ) -> Credentials:
        """Finds out who calls. What is shown has to be good, whether or not it is needed. Raises Refused.

        A certificate allows ingest, a token what it was made for; a caller that shows both may do both, and as the
        hosts of its certificate alone.
        """
        try:
            certificate = self._certificate(auth_context)
            token = self._token(metadata)
        except (CertificateRefused, TokenRefused) as error:
            raise Refused(grpc.StatusCode.UNAUTHENTICATED, str(error)) from None
        if certificate is None and token is None and not self._asks():
            return Credentials(ANYONE)
        names = [f"the certificate of {certificate.name}"] if certificate is not None else []
        names += [f"token {token.name}"] if token is not None else []
        rights = frozenset({Right.INGEST} if certificate is not None else ()) | frozenset(
            {token.right} if token is not None else ()
        )
        return Credentials(
            Principal(
                " with ".join(names) or "nobody",
                rights,
                None if certificate is None else certificate.hostnames,
                None if certificate is None else certificate.host_ids,
            ),
            certificate,
            token,
            self._authorities.generation if self._authorities is not None else 0,
        )

    def resume(self, token_id: str) -> Credentials:
        """Finds out who it is that has shown a token before, by its id. Raises Refused where it is not in force."""
        try:
            token = self._tokens.find(token_id)
        except TokenRefused as error:
            raise Refused(grpc.StatusCode.UNAUTHENTICATED, str(error)) from None
        return Credentials(Principal(f"token {token.name}", frozenset({token.right})), token=token)

    def authorize(self, credentials: Credentials, right: Right) -> None:
        """Checks that a caller has a right. Raises Refused."""
        principal = credentials.principal
        if right in principal.rights:
            return
        if not principal.rights:
            raise Refused(grpc.StatusCode.UNAUTHENTICATED, f"no token: this needs one with the right to {right.value}")
        has = " and ".join(sorted(one.value for one in principal.rights))
        allows = "allow" if credentials.certificate is not None and credentials.token is not None else "allows"
        raise Refused(grpc.StatusCode.PERMISSION_DENIED, f"{principal.name} {allows} {has}, not {right.value}")

    def recheck(self, credentials: Credentials) -> None:
        """Looks again at what a caller showed when its call began. Raises Refused where it is not in force any more."""
        try:
            if credentials.token is not None:
                self._tokens.recheck(credentials.token)
            if credentials.certificate is not None and self._certificates is not None:
                self._certificates.recheck(credentials.certificate)
                self._check_authority(credentials.certificate, credentials.generation)
        except (CertificateRefused, TokenRefused) as error:
            raise Refused(grpc.StatusCode.UNAUTHENTICATED, str(error)) from None
        if credentials.principal is ANYONE and self._asks():
            raise Refused(grpc.StatusCode.UNAUTHENTICATED, "no token: this aggregator asks for one since now")

    def _check_authority(self, certificate: ClientCertificate, since: int) -> None:
        if self._authorities is not None and not self._authorities.vouch_for(certificate.issuer, since):
            raise CertificateRefused(
                f"the authority of the certificate of {certificate.name} was removed; connect again"
            )

    def _asks(self) -> bool:
        return self._certificates is not None or self._tokens.asked_for

    def _certificate(self, auth_context: Mapping[str, Iterable[bytes]]) -> ClientCertificate | None:
        shown = tuple(auth_context.get("x509_pem_cert", ()))
        if self._certificates is None or not shown:
            return None
        return self._certificates.read(shown[0])

    def _token(self, metadata: Sequence[tuple[str, str | bytes]]) -> Token | None:
        shown = [value for key, value in metadata if key == "authorization"]
        if not shown:
            return None
        if len(shown) > 1 or not isinstance(shown[0], str):
            raise TokenRefused("more than one token is shown")
        scheme, _, text = shown[0].partition(" ")
        if scheme.lower() != "bearer":
            raise TokenRefused("the authorization is not of the form 'Bearer loiter_…'")
        if not self._tokens.asked_for:
            return None  # there are no tokens here: what an agent has for another aggregator is no offence
        return self._tokens.check(text.strip())
