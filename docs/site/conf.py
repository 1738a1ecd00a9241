"""Sphinx, for the site: make docs."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

project = "zloop"
author = "the zloop authors"
version = release = re.search(r"version: '([\d.]+)'", (ROOT / "meson.build").read_text())[1]
html_title = f"zloop {version}"

extensions = ["myst_parser"]
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "deflist"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}

nitpicky = True
# Signatures name what belongs to the language, to the system, and to `detail`: those have no page here.
nitpick_ignore_regex = [("cpp:identifier", ".*"), ("c:identifier", ".*"), ("py:.*", ".*")]
toc_object_entries_show_parents = "hide"
maximum_signature_line_length = 72
add_module_names = False
cpp_maximum_signature_line_length = 72

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_show_copyright = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#b0283b", "color-brand-content": "#b0283b"},
    "dark_css_variables": {"color-brand-primary": "#f28b98", "color-brand-content": "#f28b98"},
}
