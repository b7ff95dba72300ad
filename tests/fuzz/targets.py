"""What is fuzzed. A target takes any bytes; it returns, or something is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from fuzz import access_targets, kernel_targets, spool_targets, text_targets, web_targets, wire_targets

Target = Callable[[bytes], None]

TARGETS: Final[Mapping[str, Target]] = {
    target.__name__: target
    for target in (
        kernel_targets.netlink,
        kernel_targets.proc_net_tcp,
        kernel_targets.proc_text,
        kernel_targets.names,
        wire_targets.request,
        wire_targets.mutated_request,
        wire_targets.socket_query,
        text_targets.settings_file,
        text_targets.settings_environment,
        text_targets.labels_file,
        text_targets.words,
        access_targets.token,
        access_targets.token_file,
        access_targets.certificate,
        access_targets.revoked_file,
        spool_targets.spool_file,
        web_targets.host_header,
        web_targets.way_back,
        web_targets.login_cookie,
    )
}
