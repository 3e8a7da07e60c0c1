"""Words and plain tables for a terminal or a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def one_line(text: str) -> str:
    """`text` without line ends, and with control characters (which could steer a terminal) as escapes."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in " ".join(text.split()))


def printable(text: str) -> str:
    """`text` with its line ends, and with other control characters as escapes."""
    return "".join(char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in text)


def table(header: Sequence[str], rows: Iterable[Sequence[object]], indent: str = "", right: Iterable[int] = ()) -> str:
    """Columns two spaces apart, as wide as their content; those in `right` are aligned right."""
    lines = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    to_right = set(right)
    text = []
    for line in lines:
        cells = [
            cell.rjust(width) if i in to_right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        text.append(f"{indent}{'  '.join(cells)}".rstrip())
    return "\n".join(text)


def duration(seconds: float) -> str:
    """`42 s`, `3 min 05 s`, `2 h 07 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
