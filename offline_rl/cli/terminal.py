"""How commands show what the library logs and warns of: plainly, on standard error."""

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator


class _Terminal(logging.Handler):
    """Writes to what standard error is at the moment: a progress bar takes its place while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


@contextlib.contextmanager
def shown_on_terminal() -> Iterator[None]:
    """Show what the logger "offline_rl" says, and warnings in a line; afterwards all is as it was."""
    logger, handler = logging.getLogger("offline_rl"), _Terminal(logging.INFO)
    level, show_warning = logger.level, warnings.showwarning
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    try:
        yield
    finally:
        warnings.showwarning = show_warning
        logger.setLevel(level)
        logger.removeHandler(handler)


def _show_warning(message: Warning | str, *_: object) -> None:
    print(f"warning: {message}", file=sys.stderr)
