"""The heavy functions of the demo, each of a kind that real servers are asked for.

Worker processes import this module and nothing else of the demo, so it imports no web framework,
and what only one function needs is imported inside that function. The errors that the functions
raise are defined here as well, since they cross back to the server with their type.
"""

from __future__ import annotations

import codecs
import csv
import io
import math
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from offload import offload
from offload.jobs import job_context

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO

    from PIL.Image import Image

__all__ = [
    "MissingDependencyError",
    "PrimeCount",
    "Thumbnail",
    "UnreadableError",
    "UnsupportedFormatError",
    "count_primes",
    "summarise_csv",
    "thumbnail",
]

POOL = "demo"

# Those that a browser shows, all decoded in memory. Pillow knows more, but some of them are
# seldom attacked and so seldom hardened, and EPS even starts another program (Ghostscript).
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")

# A table with more columns than this is not one that somebody means to read a summary of, and
# each column costs a list and an entry in the answer.
MAX_COLUMNS = 1000


# What tables are written in. Python knows more, which are no encodings of text, or take time that
# grows with the square of its length: 200 kB of punycode take seven seconds.
ENCODINGS = frozenset(
    {
        "ascii",
        "big5",
        "big5hkscs",
        "euc_jp",
        "euc_kr",
        "gb18030",
        "gb2312",
        "gbk",
        "hz",
        "iso2022_jp",
        "koi8-r",
        "koi8-u",
        "mac-roman",
        "shift_jis",
        "tis-620",
        "utf-16",
        "utf-16-be",
        "utf-16-le",
        "utf-32",
        "utf-32-be",
        "utf-32-le",
        "utf-8",
        "utf-8-sig",
        *(f"cp{number}" for number in (437, 850, 852, 866, 874, 932, 949, 950)),
        *(f"cp{number}" for number in range(1250, 1259)),
        *(f"iso8859-{number}" for number in (*range(1, 12), *range(13, 17))),
    }
)


class UnsupportedFormatError(ValueError):
    """The input is of a kind that the function does not know."""


class UnreadableError(ValueError):
    """The input is of the right kind, but damaged, inconsistent or too large to be decoded."""


class MissingDependencyError(RuntimeError):
    """A package that the function needs is not installed where the workers run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrimeCount:
    """Result of `count_primes`.

    Attributes:
        n: the bound that was given.
        result: how many primes there are below it.
        pid: id of the process that counted.
        seconds: how long it took there.
    """

    n: int
    result: int
    pid: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnail:
    """Result of `thumbnail`.

    Attributes:
        data: the encoded image.
        media_type: its media type, JPEG, or PNG where there is transparency.
        width: in pixels.
        height: in pixels.
    """

    data: bytes
    media_type: str
    width: int
    height: int


@offload(pool=POOL)
def count_primes(n: int) -> PrimeCount:
    """Count the primes below n by trial division: slow on purpose, and all of it Python code."""
    job = job_context()
    started = time.perf_counter()
    primes = 0
    step = max(n // 200, 1)
    for begin in range(2, n, step):
        if job is not None:
            job.progress(begin, n)
        primes += sum(map(_is_prime, range(begin, min(begin + step, n))))
    if job is not None:
        job.progress(n, n)
    seconds = time.perf_counter() - started
    return PrimeCount(n=n, result=primes, pid=os.getpid(), seconds=seconds)


def _is_prime(candidate: int) -> bool:
    divisor = 2
    while divisor * divisor <= candidate:
        if candidate % divisor == 0:
            return False
        divisor += 1
    return True


@offload(pool=POOL)
def thumbnail(file: BinaryIO, size: int, max_pixels: int) -> Thumbnail:
    """Make an image fit into a square.

    Args:
        file: the encoded image, of one of `IMAGE_FORMATS`; of an animation, the first frame.
        size: side of the square in pixels. A smaller image is not enlarged.
        max_pixels: how many pixels (width by height) are decoded at most: a file of a few
            kilobytes can ask for gigabytes of memory.

    Returns:
        A JPEG, or a PNG if the image has transparency, turned upright as its EXIF data says.

    Raises:
        UnsupportedFormatError: not an image of a known format.
        UnreadableError: more than `max_pixels`, or damaged.
        MissingDependencyError: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError as error:
        raise MissingDependencyError("Pillow is not installed: pip install pillow") from error
    # Checked below, where the caller's own limit is known; this one would print a warning.
    Image.MAX_IMAGE_PIXELS = None
    # Before Pillow opens it, which for this format takes memory for all that it says it has.
    _check_pixels(*_webp_size(file), max_pixels)
    try:
        source = Image.open(file, formats=IMAGE_FORMATS)
    except (OSError, SyntaxError, ValueError, OverflowError) as error:
        known = ", ".join(IMAGE_FORMATS)
        raise UnsupportedFormatError(f"not an image of a known format ({known})") from error
    _check_pixels(*source.size, max_pixels)
    try:
        # JPEG can be decoded at a fraction of its size, many times faster.
        source.draft("RGB", (size, size))
        image = ImageOps.exif_transpose(source)
        image.thumbnail((size, size))
    except (OSError, SyntaxError, ValueError, OverflowError, EOFError) as error:
        raise UnreadableError("the image is damaged and cannot be decoded") from error
    return _encode(image)


def _check_pixels(width: int, height: int, most: int) -> None:
    if width * height > most:
        raise UnreadableError(
            f"the image has {width} x {height} pixels, more than the {most} that are decoded"
        )


def _webp_size(file: BinaryIO) -> tuple[int, int]:
    """Return the width and height that a WebP file says it has; (0, 0): it is none.

    Source:
        RFC 9649, sections 2.4 to 2.7.
    """
    head = file.read(30)
    file.seek(0)
    if len(head) < 25 or head[:4] != b"RIFF" or head[8:12] != b"WEBP":  # noqa: PLR2004 - as above
        return 0, 0
    kind = head[12:16]
    if kind == b"VP8X":
        return (
            1 + int.from_bytes(head[24:27], "little"),
            1 + int.from_bytes(head[27:30].ljust(3, b"\xff"), "little"),
        )
    if kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = int.from_bytes(head[26:28], "little"), int.from_bytes(head[28:30], "little")
    return width & 0x3FFF, height & 0x3FFF


def _encode(image: Image) -> Thumbnail:
    transparent = image.has_transparency_data
    image_format = "PNG" if transparent else "JPEG"
    encoded = io.BytesIO()
    # Colour profile and EXIF data are dropped on purpose: a thumbnail need not say where its
    # photograph was taken.
    image.convert("RGBA" if transparent else "RGB").save(encoded, image_format, optimize=True)
    return Thumbnail(
        data=encoded.getvalue(),
        media_type=f"image/{image_format.lower()}",
        width=image.width,
        height=image.height,
    )


@offload(pool=POOL)
def summarise_csv(file: BinaryIO, encoding: str) -> dict[str, object]:
    """Summarise each column of a CSV file whose first row has the names.

    Args:
        file: the table. Commas, semicolons, tabs or bars separate the cells.
        encoding: its character encoding; a byte order mark is skipped.

    Returns:
        JSON: `rows`, and for each of `columns` its `name`, its `type` ("integer", "number" or
        "text", or "empty"), the `count` of cells that are not empty, their `min` and `max`
        (numbers by value, text by code point), the number of `distinct` ones, and the `mean` of
        numbers. Members that make no sense are None.

    Raises:
        UnsupportedFormatError: the encoding is unknown.
        UnreadableError: it is not text in that encoding, or not a table.
    """
    try:
        known = ENCODINGS & {codecs.lookup(encoding).name}
    except (LookupError, ValueError):  # ValueError: a NUL in its name
        known = frozenset()
    if not known:
        raise UnsupportedFormatError(f"unknown character encoding {encoding!r}")
    try:
        text = str(file.read(), *known)
        text.encode()  # what half a pair of UTF-16 makes is no text, and no JSON
    except ValueError as error:
        raise UnreadableError(f"not text in {encoding}") from error
    names, columns, rows = _read_columns(text.removeprefix("\ufeff"))
    return {
        "rows": rows,
        "columns": [
            {"name": name, **_summarise_column(column)}
            for name, column in zip(names, columns, strict=True)
        ],
    }


def _delimiter(text: str) -> str:
    # The one that the header has most of: csv.Sniffer guesses from the data, and takes a letter
    # for it in a table of one column.
    header = text.partition("\n")[0]
    return max(",;\t|", key=header.count)


def _read_columns(text: str) -> tuple[list[str], list[list[str]], int]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    rows = 0
    try:
        names = next(reader, ())
        if not any(name.strip() for name in names):
            raise UnreadableError("the first row must have the names of the columns")
        if len(names) > MAX_COLUMNS:
            raise UnreadableError(f"{len(names)} columns are more than the {MAX_COLUMNS} allowed")
        columns: list[list[str]] = [[] for _ in names]
        for row in reader:
            if len(row) > len(names):
                raise UnreadableError(
                    f"line {reader.line_num} has {len(row)} cells, but the first {len(names)}"
                )
            # Empty lines are no rows; a row that is too short ends in empty cells.
            rows += bool(row)
            for column, cell in zip(columns, row, strict=False):
                if stripped := cell.strip():
                    column.append(stripped)
    except csv.Error as error:
        raise UnreadableError(f"line {reader.line_num}: {error}") from error
    return list(names), columns, rows


def _summarise_column(cells: list[str]) -> dict[str, object]:
    summary: dict[str, object] = {
        "type": "empty",
        "count": len(cells),
        "min": None,
        "max": None,
        "mean": None,
        "distinct": 0,
    }
    if not cells:
        return summary
    numbers = _numbers(cells, int) or _numbers(cells, float)
    values: Sequence[int | float] | Sequence[str] = numbers or cells
    summary |= {"min": min(values), "max": max(values), "distinct": len(set(values))}
    if numbers is None:
        return summary | {"type": "text"}
    kind = "integer" if isinstance(numbers[0], int) else "number"
    # Divided first, so that the sum of large numbers does not overflow.
    return summary | {"type": kind, "mean": math.fsum(number / len(cells) for number in numbers)}


def _numbers(cells: list[str], kind: type[int | float]) -> Sequence[int | float] | None:
    try:
        numbers = [kind(cell) for cell in cells]
    except ValueError:
        return None
    # JSON has no infinity and no NaN, and most of its readers no integer beyond 64 bits.
    if kind is int:
        return numbers if all(abs(number) < 2**63 for number in numbers) else None
    return numbers if all(map(math.isfinite, numbers)) else None
