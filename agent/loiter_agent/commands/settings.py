"""Reads the settings for a verb, and the files that they name."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from loiter.settings import SettingsError, load
from loiter.transport import SecurityFileError, read_certificates, read_key, read_token
from loiter_agent.config import DEFAULT_FILE, AgentSettings


def add_config(parser: argparse.ArgumentParser) -> None:
    """Declares the flag that names the file of settings."""
    parser.add_argument("--config", metavar="FILE", type=Path, help=f"settings; default: {DEFAULT_FILE}, if any")


def read_settings(file: Path | None, flags: Mapping[str, object]) -> AgentSettings:
    """Reads file, environment and flags. Raises SettingsError."""
    if file is None and DEFAULT_FILE.exists():
        file = DEFAULT_FILE
    return load(AgentSettings, file, os.environ, flags)


def check_files(settings: AgentSettings) -> None:
    """Reads the files that show who somebody is, which is done anew for every connection. Raises SettingsError."""
    tls = settings.tls
    if (tls.certificate is None) != (tls.key is None):
        given, missing = ("tls.key", "tls.certificate") if tls.certificate is None else ("tls.certificate", "tls.key")
        raise SettingsError(f"{given} is of no use without {missing}: give both or neither")
    files: tuple[tuple[str, Path | None, Callable[[Path], object]], ...] = (
        ("tls.ca", tls.ca, read_certificates),
        ("tls.certificate", tls.certificate, read_certificates),
        ("tls.key", tls.key, read_key),
        ("token_file", settings.token_file, read_token),
    )
    for name, file, read in files:
        if file is not None:
            try:
                read(file)
            except SecurityFileError as error:
                raise SettingsError(f"{name}: {error}") from None
