"""Delivers a report by e-mail: text and HTML with its charts, and the files that are asked for."""

from __future__ import annotations

import smtplib
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import Final

from loiter.text import printable
from loiter_aggregator.receivers import read_secret, trust
from loiter_aggregator.reports.delivery.deadline import Deadline
from loiter_aggregator.reports.delivery.failure import DeliveryError
from loiter_aggregator.reports.delivery.outgoing import Outgoing
from loiter_aggregator.reports.file import Smtp
from loiter_aggregator.reports.rendering import view
from loiter_aggregator.reports.rendering.plain import plain
from loiter_aggregator.reports.rendering.render import CONTENT_TYPES
from loiter_aggregator.reports.rendering.worker import MAIL, pictures

# For the other end to say something, and for all of it. Some let those wait that they do not know (tarpitting).
_TIMEOUT_SECONDS: Final = 30.0
_TOTAL_SECONDS: Final = 120.0
_MAX_SAID: Final = 200
_MAX_SUBJECT_CHARS: Final = 150


def compose(outgoing: Outgoing, smtp: Smtp, recipient: str, attached: Sequence[str], now: datetime) -> EmailMessage:
    """Writes the e-mail. Every header is made of settings that were checked and of printable texts.

    multipart/mixed of the attachments and multipart/alternative: text, and multipart/related of HTML and its pictures.
    """
    message = EmailMessage(policy=SMTP)
    subject = f"{view.title(outgoing.report)}: {view.headline(outgoing.report)}"
    message["Subject"] = subject[:_MAX_SUBJECT_CHARS]
    message["From"] = smtp.from_
    message["To"] = recipient
    message["Date"] = format_datetime(now)
    message["Message-ID"] = f"<{outgoing.id}@{smtp.from_.rpartition('@')[2].strip('[]')}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's absence notice is to answer
    message.set_content(plain(outgoing.report))
    html = outgoing.files[MAIL].decode()
    parts = {name: f"{name}.{outgoing.id}@loiter" for name in pictures(outgoing.files)}
    for name, part in parts.items():
        html = html.replace(f'src="cid:{name}"', f'src="cid:{part}"')
    message.add_alternative(html, subtype="html")
    page = list(message.iter_parts())[-1]
    assert isinstance(page, EmailMessage), "it was just made"
    for name, content in pictures(outgoing.files).items():
        page.add_related(content, "image", "png", cid=f"<{parts[name]}>", filename=name, disposition="inline")
    for form in attached:
        kind, _, subtype = CONTENT_TYPES[form].partition("/")
        name = f"{outgoing.stem}.{form}"
        message.add_attachment(outgoing.files[form], maintype=kind, subtype=subtype, filename=name)
    return message


def deliver_by_mail(
    outgoing: Outgoing, smtp: Smtp, recipient: str, attached: Sequence[str], seconds: float = _TOTAL_SECONDS
) -> None:
    """Hands the e-mail to the server. Blocks, for so many seconds at most. Raises DeliveryError."""
    message = compose(outgoing, smtp, recipient, attached, datetime.now(UTC))
    with Deadline(seconds) as deadline:
        try:
            _hand_over(message, smtp, recipient, deadline)
        except DeliveryError as error:
            if error.final or not deadline.passed:
                raise
            host, port = smtp.address
            raise DeliveryError(f"{host}:{port} has not taken it within {seconds:g} s") from error


def _hand_over(message: EmailMessage, smtp: Smtp, recipient: str, deadline: Deadline) -> None:
    host, port = smtp.address
    where = f"{host}:{port}"
    try:
        password = None if smtp.password_file is None else read_secret(smtp.password_file)
        server = _connected(smtp, deadline)
        try:
            if smtp.user is not None and password is not None:
                server.login(smtp.user, password)
            server.send_message(message, smtp.from_, [recipient])
        finally:
            with suppress(smtplib.SMTPException, OSError):  # the e-mail has been taken, or not
                server.quit()
            server.close()
    except smtplib.SMTPRecipientsRefused as error:
        code, said = error.recipients[recipient]
        raise _refused(f"{where} refuses {recipient}", code, said) from None
    except smtplib.SMTPAuthenticationError as error:
        # What the server says may hold what it was told. A password may be mended, so it is tried again.
        raise DeliveryError(f"{where} refuses the login of {smtp.user} ({error.smtp_code})") from None
    except smtplib.SMTPResponseException as error:
        raise _refused(f"{where} refuses the e-mail", error.smtp_code, error.smtp_error) from None
    except smtplib.SMTPException as error:
        raise DeliveryError(f"{where}: {printable(str(error))[:_MAX_SAID]}") from None
    except ssl.SSLError as error:
        raise DeliveryError(f"{where} can not be trusted: {_why(error)}") from None
    except OSError as error:
        raise DeliveryError(f"{where} can not be reached: {error.strerror or error}") from None
    except ValueError as error:  # of the file with the password
        raise DeliveryError(str(error)) from None


class _Client(smtplib.SMTP):
    """A client whose connection is watched from its beginning, and encrypted from there where a context is given.

    smtplib has what overrides this method (SMTP_SSL) make the socket.
    """

    def __init__(
        self, address: tuple[str, int], own_name: str, deadline: Deadline, context: ssl.SSLContext | None
    ) -> None:
        self._deadline, self._context = deadline, context  # first: this connects
        super().__init__(*address, local_hostname=own_name, timeout=_TIMEOUT_SECONDS)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        connection = socket.create_connection((host, port), timeout)
        try:
            self._deadline.watch(connection)
            if self._context is None:
                return connection
            return self._context.wrap_socket(connection, server_hostname=host)
        except BaseException:
            connection.close()
            raise


def _connected(smtp: Smtp, deadline: Deadline) -> smtplib.SMTP:
    """Connects, encrypted as the settings have it."""
    own_name = smtp.from_.rpartition("@")[2]  # without one, smtplib asks DNS for this host's, which may take long
    context = None if smtp.security == "none" else trust(smtp.ca)
    server = _Client(smtp.address, own_name, deadline, context if smtp.security == "tls" else None)
    if smtp.security == "starttls":
        try:
            server.starttls(context=context)
        except BaseException:
            server.close()
            raise
    return server


def _refused(what: str, code: int, said: bytes | str) -> DeliveryError:
    """RFC 5321, 4.2.1: what begins with 5 will be refused again."""
    words = said.decode(errors="replace") if isinstance(said, bytes) else said
    shown = printable(" ".join(words.split()))[:_MAX_SAID]
    return DeliveryError(f"{what}: {code} {shown}", final=500 <= code < 600)


def _why(error: ssl.SSLError) -> str:
    return getattr(error, "verify_message", "") or error.reason or str(error)
