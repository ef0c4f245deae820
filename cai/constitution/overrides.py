"""Settings from the command line, put into what a YAML file holds: `--set key.path=value`."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

from cai.constitution.yaml_source import Source, parse_value
from cai.errors import ConfigError


def override(source: Source, settings: Sequence[str]) -> Source:
    """The same source with `a.b=value` put in; unknown keys are found later, like those of the
    file.

    Raises:
        ConfigError: a setting is not of that form, or names a key below a value.
    """
    data: dict[str, Any] = copy.deepcopy(source.data)
    lines = dict(source.lines)
    for setting in settings:
        key, equals, text = setting.partition("=")
        shown = f"--set {key_text(setting)}"
        if not equals or not all(part.isidentifier() for part in key.split(".")):
            raise ConfigError(
                f"{shown}: expected key.path=value, for example --set ppo.num_updates=20"
            )
        try:
            value = parse_value(text)
        except ValueError as error:
            raise ConfigError(f"{shown}: the value is not YAML: {error}") from None
        *parents, last = key.split(".")
        section = data
        for part in parents:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise ConfigError(f"{shown}: {part} is not a section")
        section[last] = value
        for depth in range(len(parents) + 1):  # so that messages name a key the file lacks
            given = (*parents, last)[: depth + 1]
            lines.setdefault(given, source.line(given))
    return source._replace(data=data, lines=lines)


def key_text(setting: str) -> str:
    """The key of a setting, to begin a message with. A value is not quoted: it may be an API key.

    A text without a key is shown up to the first character that no key has.
    """
    match = re.match(r"[\w.]{1,80}", setting)
    return match[0] if match else "="
