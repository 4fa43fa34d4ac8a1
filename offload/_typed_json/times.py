"""Coders of dates, times and durations.

Source: RFC 3339 for instants, RFC 9557 for the zone's name in brackets, ISO 8601 for durations.
A zone of `zoneinfo` keeps its name; every other fixed offset stays an offset. `fold=1` is kept as
the suffix `[_fold=1]`.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from offload._typed_json.coder import MismatchError, name_of
from offload._typed_json.scalars import TextCoder

__all__ = ["DATE", "DATETIME", "DELTA", "TIME", "ZONE"]

# No dots: a name is never a path upwards, nor that of another package than tzdata.
_ZONE = re.compile(r"[A-Za-z0-9_+\-]+(?:/[A-Za-z0-9_+\-]+){0,3}", re.ASCII)
_MAX_ZONE = 64

_CLOCK = r"\d{2}:\d{2}:\d{2}(?:\.\d{3}(?:\d{3})?)?"
_OFFSET = r"(?:Z|[+-]\d{2}:\d{2}(?::\d{2})?)?"
_SUFFIX = r"(?:\[(?P<zone>[^\[\]=]{1,64})\])?(?P<fold>\[_fold=1\])?"
_DATETIME = re.compile(rf"(?P<text>\d{{4}}-\d{{2}}-\d{{2}}T{_CLOCK}{_OFFSET}){_SUFFIX}", re.ASCII)
_TIME = re.compile(rf"(?P<text>{_CLOCK}{_OFFSET}){_SUFFIX}", re.ASCII)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_DELTA = re.compile(
    r"(?P<sign>-?)P(?:(?P<days>\d{1,9})D)?"
    r"(?:T(?:(?P<hours>\d{1,9})H)?(?:(?P<minutes>\d{1,9})M)?"
    r"(?:(?P<seconds>\d{1,12})(?:\.(?P<fraction>\d{1,6}))?S)?)?",
    re.ASCII,
)


def _zone_suffix(zone: tzinfo | None, offset: timedelta | None, expected: str) -> str:
    # Python reads an offset of some microseconds as UTC.
    if offset is not None and offset.microseconds:
        advice = "Convert it to UTC."
        raise MismatchError("offset of a fraction of a second", expected, advice)
    if isinstance(zone, ZoneInfo):
        if zone.key and len(zone.key) <= _MAX_ZONE and _ZONE.fullmatch(zone.key):
            return f"[{zone.key}]"
        advice = "Use a zone that ZoneInfo knows by name."
        raise MismatchError("value in a zone without a name", expected, advice)
    # A zone whose offset depends on the date has none for None; its rules would get lost.
    if zone is not None and zone.utcoffset(None) is None:
        advice = "Use zoneinfo.ZoneInfo, or convert it to UTC."
        raise MismatchError(f"value in a zone of type {name_of(zone)}", expected, advice)
    return ""


def _read_zone(name: str) -> ZoneInfo:
    if _ZONE.fullmatch(name) is None:
        raise ValueError(name)
    try:
        return ZoneInfo(name)
    except (LookupError, OSError, ModuleNotFoundError):
        raise MismatchError(
            "zone that this machine does not know",
            "time zone",
            "Install the package tzdata where the job runs.",
        ) from None


def _write_zone(zone: ZoneInfo) -> str:
    return _zone_suffix(zone, None, "zoneinfo.ZoneInfo")[1:-1]


def _write_datetime(value: datetime) -> str:
    suffix = _zone_suffix(value.tzinfo, value.utcoffset(), "datetime.datetime")
    text = value.isoformat()
    if not suffix and text.endswith("+00:00") and value.tzinfo is not None:
        text = text[:-6] + "Z"
    return text + suffix + ("[_fold=1]" if value.fold else "")


def _read_datetime(text: str) -> datetime:
    found = _DATETIME.fullmatch(text)
    if found is None:
        raise ValueError(text)
    value = datetime.fromisoformat(found["text"])
    if found["fold"]:
        value = value.replace(fold=1)
    if found["zone"] is None:
        return value
    if value.tzinfo is None:
        raise ValueError(text)
    local = value.replace(tzinfo=_read_zone(found["zone"]))
    # The rules of a zone may differ here from those where it was written: the instant counts.
    if local.utcoffset() == value.utcoffset():
        return local
    return value.replace(fold=0).astimezone(local.tzinfo)


def _write_time(value: time) -> str:
    suffix = _zone_suffix(value.tzinfo, value.utcoffset(), "datetime.time")
    text = value.isoformat()
    if value.tzinfo is not None and text.endswith("+00:00"):
        text = text[:-6] + ("" if suffix else "Z")
    return text + suffix + ("[_fold=1]" if value.fold else "")


def _read_time(text: str) -> time:
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError(text)
    value = time.fromisoformat(found["text"])
    if found["zone"] is not None:
        if value.tzinfo is not None and value.tzinfo != UTC:
            raise ValueError(text)
        value = value.replace(tzinfo=_read_zone(found["zone"]))
    return value.replace(fold=1) if found["fold"] else value


def _read_date(text: str) -> date:
    if _DATE.fullmatch(text) is None:
        raise ValueError(text)
    return date.fromisoformat(text)


def _write_delta(value: timedelta) -> str:
    size = abs(value)
    minutes, seconds = divmod(size.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    parts = f"{hours}H" if hours else ""
    parts += f"{minutes}M" if minutes else ""
    if size.microseconds:
        parts += f"{seconds}.{size.microseconds:06d}".rstrip("0") + "S"
    elif seconds or not (parts or size.days):
        parts += f"{seconds}S"
    days = f"{size.days}D" if size.days else ""
    return ("-P" if value.days < 0 else "P") + days + ("T" + parts if parts else "")


def _read_delta(text: str) -> timedelta:
    found = _DELTA.fullmatch(text)
    if found is None or text[-1] in "PT":
        raise ValueError(text)
    parts: dict[str, Any] = {
        name: int(found[name] or 0) for name in ("days", "hours", "minutes", "seconds")
    }
    micros = int((found["fraction"] or "0").ljust(6, "0"))
    value = timedelta(**parts, microseconds=micros)
    return -value if found["sign"] else value


DATETIME = TextCoder("datetime.datetime", datetime, _write_datetime, _read_datetime)
DATE = TextCoder("datetime.date", date, date.isoformat, _read_date)
TIME = TextCoder("datetime.time", time, _write_time, _read_time)
DELTA = TextCoder("datetime.timedelta", timedelta, _write_delta, _read_delta)
ZONE = TextCoder("zoneinfo.ZoneInfo", ZoneInfo, _write_zone, _read_zone)
