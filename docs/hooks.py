"""What mkdocs does with our pages beyond its own: results' tables and CONTRIBUTING are pages, too."""

import re
from configparser import ConfigParser
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
ALGORITHMS = sorted(
    path.parent.name if path.name == "agent.py" else path.stem
    for path in [*ROOT.glob("algos/*.py"), *ROOT.glob("algos/*/agent.py")]
    if path.stem != "__init__"
)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name the version; put into the nav a page for each algorithm, and results of the suites that have been run."""
    metadata = ConfigParser()
    metadata.read(ROOT / "setup.cfg", encoding="utf-8")
    config.copyright = f"{config.site_name} {metadata['metadata']['version']}, MIT licence"
    (pages,) = (entry["Algorithms"] for entry in config.nav if isinstance(entry, dict) and "Algorithms" in entry)
    pages += [f"{name}.md" for name in ALGORITHMS]
    (results,) = (entry["Results"] for entry in config.nav if isinstance(entry, dict) and "Results" in entry)
    results[:] = [entry for entry in results if all((ROOT / place).exists() for place in entry.values())]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what lives beside the docs: the tables and pictures of results, and how to contribute."""
    for path in sorted([*RESULTS.glob("*/table.md"), *RESULTS.glob("*/*.png")]):
        place = f"results/{path.relative_to(RESULTS).as_posix()}"
        files.append(File.generated(config, place, abs_src_path=str(path)))
    files.append(File.generated(config, "contribute.md", abs_src_path=str(ROOT / "CONTRIBUTING.md")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to where things are on the site; in the repository they lie in other folders."""
    if page.file.src_uri.startswith("results/") and not page.meta.get("hide"):
        page.meta["hide"] = ["toc"]  # these tables need the room
    for there, here in (("../results/", "results/"), ("docs/", ""), ("../CONTRIBUTING.md", "contribute.md")):
        markdown = markdown.replace(f"]({there}", f"]({here}")
    return markdown


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Drop the roles of docstrings (``:func:`` and its kin), which Markdown does not know."""
    return re.sub(r":(?:func|class|meth|attr|mod):<code>~?", "<code>", html)
