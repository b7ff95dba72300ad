"""Where reports go, by the names that lists show: none of them holds a secret."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from loiter_aggregator.reports.delivery.folder import deliver_to_folder
from loiter_aggregator.reports.delivery.mail import deliver_by_mail
from loiter_aggregator.reports.delivery.outgoing import Outgoing
from loiter_aggregator.reports.delivery.webhook import deliver_to_webhook
from loiter_aggregator.reports.file import ReportFile, Schedule
from loiter_aggregator.reports.rendering.worker import MAIL
from loiter_aggregator.threads import in_thread

_FOLDER: Final = "folder "
_MAIL: Final = "mail "
_WEBHOOK: Final = "webhook "
_THREAD: Final = "report delivery"


def targets_of(schedule: Schedule) -> list[str]:
    """Where the reports of a schedule go, a name for each delivery."""
    folders = [f"{_FOLDER}{schedule.folder}"] if schedule.folder is not None else []
    return [
        *folders,
        *(f"{_MAIL}{address}" for address in schedule.mail_to),
        *(f"{_WEBHOOK}{name}" for name in schedule.webhooks),
    ]


def forms_for(target: str, schedule: Schedule) -> Sequence[str]:
    """The forms that a report is to be rendered in for a target."""
    if target.startswith(_WEBHOOK):
        return ()
    return (MAIL, *schedule.formats) if target.startswith(_MAIL) else schedule.formats


async def deliver(outgoing: Outgoing, target: str, schedule: Schedule, file: ReportFile) -> None:
    """Delivers a report to a target of its schedule. Raises DeliveryError."""
    if target.startswith(_FOLDER):
        folder = schedule.folder
        assert folder is not None, "it is a target of the schedule"
        await in_thread(lambda: deliver_to_folder(outgoing, folder), _THREAD)
    elif target.startswith(_MAIL):
        smtp = file.smtp
        assert smtp is not None, "checked as the file was read"
        recipient = target.removeprefix(_MAIL)
        await in_thread(lambda: deliver_by_mail(outgoing, smtp, recipient, schedule.formats), _THREAD)
    else:
        webhook = file.webhook(target.removeprefix(_WEBHOOK))
        assert webhook is not None, "checked as the file was read"
        await deliver_to_webhook(outgoing, webhook)
