"""Configuration of the documentation site.

    sphinx-build -W --keep-going -n docs build/site

The extensions in `_ext` fail the build when a public name is missing from the API page.
"""

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
# The package of this checkout, and the site's own extensions.
sys.path[:0] = [str(DOCS.parent), str(DOCS / "_ext")]

from targetsft_jax import __version__  # noqa: E402

project = "targetsft-jax"
author = "The targetsft-jax authors"
copyright = f"2026, {author}. Apache-2.0"
version = release = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_nb",
    "sphinx_copybutton",
    "sphinx_design",
    "docstrings",
    "math_markup",
    "repository_pages",
    "remaining_pages",
    "public_names",
    "curve_page",
    "llms_txt",
]
exclude_patterns = ["_*", "**/.ipynb_checkpoints"]

# Markdown.
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
# Notebooks. Those that train are executed by tests/test_notebooks.py alone.
nb_execution_mode = "force"
nb_execution_excludepatterns = ["examples/own_loss*", "examples/fine_tuning*"]
nb_execution_raise_on_error = True
nb_execution_timeout = 120

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Docstrings: one backtick is code, sections are Google's.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
# Inventories of other projects would need a network; types that are not public have no
# entry.
nitpick_ignore_regex = [
    ("py:.*", r"(jax|jaxlib|numpy|np|collections|typing|pathlib|types)\b.*"),
    ("py:class", r"(optional|callable|Callable|Array|ArrayLike|Any|function)"),
    ("py:class", "PreTrainedTokenizerBase"),
    ("py:class", r"targetsft_jax\..*"),
    ("py:class", "PreTrainedTokenizerBase"),
    ("py:exc", "UsageError"),
]

html_theme = "sphinx_book_theme"
html_context = {"default_mode": "auto"}
html_title = "targetsft-jax"
html_math_renderer = "mathml"
html_theme_options = {
    "show_toc_level": 2,
    # The sidebar has the search field.
    "navbar_persistent": [],
    "use_download_button": False,
    "use_fullscreen_button": False,
}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = True
html_show_sourcelink = False
