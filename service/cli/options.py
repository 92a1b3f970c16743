"""From parsed arguments to settings."""

import argparse

from service.settings import Settings, read_settings


def settings_of(args: argparse.Namespace) -> Settings:
    """The settings with a command's flags on top; a flag has the name of its setting."""
    return read_settings(**{name: getattr(args, name, None) for name in Settings.model_fields})
