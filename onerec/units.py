"""Counts, operations and bytes as people read them: three digits and a prefix."""

_THOUSANDS = ("", "K", "M", "B", "T")  # of things: K thousand, M million, B billion, T trillion
_METRIC = ("", "k", "M", "G", "T", "P", "E")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def count_text(value: float) -> str:
    """517000 -> "517 K"."""
    return _scaled(value, 1_000, _THOUSANDS)


def flop_text(value: float) -> str:
    """Floating-point operations: 2.5e10 -> "25 GFLOP"; a rate is that with "/s" behind it."""
    number, _, prefix = _scaled(value, 1_000, _METRIC).partition(" ")
    return f"{number} {prefix}FLOP"


def byte_text(value: float) -> str:
    """1536 -> "1.5 KiB"."""
    return _scaled(value, 1_024, _BINARY)


def _scaled(value: float, base: int, prefixes: tuple[str, ...]) -> str:
    """The largest prefix that leaves at least 1, after rounding to three digits."""
    place = 0
    while place < len(prefixes) - 1 and value >= 999.5:
        value, place = value / base, place + 1
    number = f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"
    return f"{number} {prefixes[place]}".rstrip()
