"""Settings from the command line, put into what a YAML file holds: `--set key.path=value`."""

from __future__ import annotations

import copy
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
        if not equals or not all(part.isidentifier() for part in key.split(".")):
            raise ConfigError(
                f"--set {setting}: expected key.path=value, for example --set ppo.num_updates=20"
            )
        try:
            value = parse_value(text)
        except ValueError as error:
            shown = setting if len(setting) <= 100 else setting[:99] + "…"
            raise ConfigError(f"--set {shown}: the value is not YAML: {error}") from None
        *parents, last = key.split(".")
        section = data
        for part in parents:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise ConfigError(f"--set {setting}: {part} is not a section")
        section[last] = value
        for depth in range(len(parents) + 1):  # so that messages name a key the file lacks
            given = (*parents, last)[: depth + 1]
            lines.setdefault(given, source.line(given))
    return source._replace(data=data, lines=lines)
