"""A constitution: load it, check it, and look at one of its principles.

python examples/01_constitution.py [NAME_OR_FILE]
"""

from __future__ import annotations

import sys

import cai
from cai.constitution import lint

name = sys.argv[1] if len(sys.argv) > 1 else "harmless"
constitution = cai.load_constitution(name)

# Loading reports mistakes. The check looks for what is valid and probably not meant: a category
# without a principle, say, or a comparison that asks for the worse reply.
for finding in lint(constitution):
    print(f"{finding.where}: {finding.message}")

principle = constitution.principles[0]
print(f"{principle.id} (for {', '.join(principle.applies_to)} prompts)")
print(f"  critique: {principle.critique}")
print(f"  revision: {principle.revision}")
print(f"  compare:  {principle.compare}")

print(f"{constitution.name}: {len(constitution.principles)} principles")
