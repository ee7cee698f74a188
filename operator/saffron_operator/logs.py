"""Log lines as `key=value` pairs, one event a line, on stderr. Objects' contents are never logged, only their names."""

import json
import logging
import sys
from datetime import UTC, datetime


class LogfmtFormatter(logging.Formatter):
    """Renders a record and the mapping in its `fields` attribute."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, and a traceback below it where there is one."""
        pairs = {
            "time": datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        line = " ".join(f"{key}={_quoted(value)}" for key, value in pairs.items())
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _quoted(value: object) -> str:
    text = str(value)
    plain = text and text.isprintable() and not any(character in text for character in ' "=\\')
    return text if plain else json.dumps(text, ensure_ascii=False)


def set_up() -> None:
    """Send the operator's records to stderr, and of the libraries' records those that call for somebody."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogfmtFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("saffron_operator").setLevel(logging.INFO)
    # Kopf runs in a thread and warns that it can't see signals; we see them.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
