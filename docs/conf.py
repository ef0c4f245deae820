"""How the site is built: `make docs`, or `sphinx-build -W docs docs/_build/html`. No network."""

from __future__ import annotations

import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import api_pages  # noqa: E402  # it is beside this file

with (HERE.parent / "pyproject.toml").open("rb") as file:
    release = tomllib.load(file)["project"]["version"]
project, version = "cai", release
project_copyright = "the authors of cai, Apache-2.0"

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
python_maximum_signature_line_length = 80
smartquotes = False  # options begin with two dashes
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"cai {release}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_extra_path = ["llms.txt"]
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}


def copy_sources(app: Any, error: Exception | None) -> None:
    """Each page's Markdown beside its HTML, under the addresses that llms.txt gives."""
    if error is None and app.builder.name == "html":
        for page in app.env.found_docs:
            source = Path(app.env.doc2path(page))
            if source.suffix == ".md":
                shutil.copyfile(source, Path(app.outdir) / f"{page}.md")


def setup(app: Any) -> None:
    api_pages.write_api_pages(HERE / "reference" / "api")
    app.connect("build-finished", copy_sources)
