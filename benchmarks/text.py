"""Parts of pages that commands write: between two comments, `<!-- NAME: begin -->` and `<!-- NAME: end -->`."""

import textwrap


def between(text: str, name: str, content: str) -> str:
    """Return a page with other content between the marks of this name."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{content}\n{end}{after}"


def filled(text: str) -> str:
    """Return a paragraph in lines of 120 letters at most."""
    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)
