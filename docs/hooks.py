"""What mkdocs does with our pages beyond its own: the tables of results are pages, too."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

RESULTS = Path(__file__).parent.parent / "results"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Leave out of the nav the results of suites that have not been run."""
    (results,) = (entry["Results"] for entry in config.nav if isinstance(entry, dict) and "Results" in entry)
    results[:] = [entry for entry in results if all((RESULTS.parent / place).exists() for place in entry.values())]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the tables and pictures of results, which live beside the docs."""
    for path in sorted([*RESULTS.glob("*/table.md"), *RESULTS.glob("*/*.png")]):
        place = f"results/{path.relative_to(RESULTS).as_posix()}"
        files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to results there; in the repository they leave the folder."""
    return markdown.replace("](../results/", "](results/")


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Drop the roles of docstrings (``:func:`` and its kin), which Markdown does not know."""
    return re.sub(r":(?:func|class|meth|attr|mod):<code>~?", "<code>", html)
