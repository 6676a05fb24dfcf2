"""What a person and a script get of the document of `watcher explain`: lines, and an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from watcher.core.radius import NOTHING
from watcher.core.wording import CAUSES, count, describe_type, duration, name, past_words, place_in_full
from watcher.model import HOST, Cause
from watcher.output import CRITICAL, OK, STATUS_WORDS, WARNING

Document = dict[str, Any]

MAX_SHOWN = 10  # places


def exit_code(document: Document) -> int:
    """0 ok, 1 a warning, 2 stale, missing, or no watched mount there."""
    entry = document["mount"]
    if entry is None or entry["status"] in ("stale", "missing"):
        return CRITICAL
    return WARNING if entry["status"] == "unknown" or entry.get("unexpected_readonly") else OK


def lines(document: Document) -> Iterator[str]:
    """For people."""
    entry = document["mount"]
    if entry is None:
        yield from _not_found(document)
        return
    status = "slow" if entry.get("slow") else entry["status"]
    word = STATUS_WORDS.get(status, status)
    yield f"{word}: {_where(entry)}"
    if (place := document["leads_to"]) is not None:
        yield f"  {name(document['asked']['text'], 200)} leads to {_address(place)}"
    # Of what is only expected it may be that neither is known.
    if what := "; ".join(filter(None, (entry["source"], describe_type(entry["fstype"], entry["options"])))):
        yield f"  {what}"
    if entry["options"]:
        yield f"  Options: {entry['options']}"
    if entry["server"]:
        yield f"  Server: {entry['server']}"
    if entry["since"] is not None:
        since = datetime.fromisoformat(entry["since"]).astimezone()
        ago = duration(datetime.now().astimezone().timestamp() - since.timestamp())
        yield f"  Since {since:%Y-%m-%d %H:%M:%S %Z} ({ago})"
    evidence = document["evidence"]
    yield from (f"  {words}" for words in (*_why(entry, stacked=not evidence), *evidence))
    if written := entry.get("written_underneath"):
        yield f"  {written['text']}"
    if document["places"]:
        yield "  The same file system stands at"
        yield from (f"    {_where(place)}" for place in document["places"][:MAX_SHOWN])
        if (more := document["more_places"] + len(document["places"]) - MAX_SHOWN) > 0:
            yield f"    and {count(more, 'more place')}"
    if (radius := document["radius"]) is not None:
        lead = "Hangs on it" if entry["status"] not in ("ok", "readonly") else "On it"
        nothing = NOTHING if radius["complete"] else f"{NOTHING}, but not all could be looked at"
        yield f"  {lead}: {radius['line'] or nothing}"
    if document["answered_by"] == "probe":
        yield "  Judged by one probe: no service was asked"
    yield from document["advice"]
    if document["history"]:
        yield "History, the latest first"
        yield from (f"  {_past(past)}" for past in document["history"])


def _why(entry: Document, *, stacked: bool) -> Iterator[str]:
    """`stacked`: say that there are several mounts on one directory; evidence says which."""
    cause = entry["cause"]
    words = CAUSES[Cause(cause)] if cause in {c.value for c in Cause} else cause
    parts = [str(part) for part in (words, entry["error"]) if part]
    if parts:
        yield ": ".join(parts)
    if entry.get("stack"):
        yield f"Hangs in {' < '.join(entry['stack'][:5])}"
    if entry.get("hanging_since"):
        since = datetime.fromisoformat(entry["hanging_since"]).astimezone()
        yield f"A probe hangs in it since {since:%Y-%m-%d %H:%M:%S %Z}; it is not asked again before that is free"
    if entry.get("context"):
        yield f"{entry['context'][:1].upper()}{entry['context'][1:]}"
    if stacked and entry.get("stacked", 1) > 1:
        yield f"{count(entry['stacked'], 'mount')} on this directory, one over the other"
    if entry.get("show_only"):
        yield "Shown only: no alarm is told of it"


def _not_found(document: Document) -> Iterator[str]:
    on, place = document["lies_on"], document["leads_to"]
    yield f"No watched mount holds {_asked(document)}"
    if place is not None:
        yield f"  It leads to {_address(place)}"
    if on is not None:
        yield f"  It lies on {on['target']} ({on['source']}, {on['fstype']}), which is not watched"
        if document["asked"]["namespace"] != HOST:
            yield "  Links are not followed there: give the path that they lead to"
    if document["nearby"]:
        yield "Watched are"
        yield from (f"  {_address(place)}" for place in document["nearby"])
        if document["more_nearby"]:
            yield f"  and {document['more_nearby']} more: watcher --once shows all"
    else:
        yield "Nothing is watched here"


def _asked(document: Document) -> str:
    asked = document["asked"]
    return str(asked["path"]) if asked["namespace"] == HOST else f"{asked['namespace']}:{asked['path']}"


def _where(place: Document) -> str:
    where = place_in_full(place["namespace"], place["target"], place["lxc_name"] or "")
    return f"host {where}" if place["namespace"] == HOST else where


def _address(place: Document) -> str:
    return str(place["target"]) if place["namespace"] == HOST else f"{place['namespace']}:{place['target']}"


def _past(past: Document) -> str:
    at = datetime.fromisoformat(past["at"]).astimezone()
    words = past_words(past["kind"], past["change"])
    error = f": {name(past['error'], 200)}" if past["error"] else ""
    return f"{at:%Y-%m-%d %H:%M:%S}  {words}{error}"
