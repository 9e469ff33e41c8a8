"""Ratios, sizes, times and figures as a newcomer reads them."""

__all__ = ["apart", "bytes_in_words", "figure", "milliseconds", "times", "unsigned"]


def times(ours: float, theirs: float, less: str, more: str) -> str:
    """How many times less or more one quantity is than another; within a twentieth, about the same.

    >>> times(1, 291, "faster", "slower"), times(34.1, 10, "faster", "slower")
    ('291 x faster', '3.4 x slower')
    >>> times(1.03, 1, "fewer bytes", "more bytes")
    'about the same'
    """
    if not (ours > 0 and theirs > 0):
        return ""
    ratio = max(ours, theirs) / min(ours, theirs)
    if ratio < 1.05:
        return "about the same"
    number = f"{ratio:.1f}" if ratio < 9.95 else f"{ratio:,.0f}"
    return f"{number} x {less if ours < theirs else more}"


def bytes_in_words(count: int | None) -> str:
    """A size.

    >>> bytes_in_words(666), bytes_in_words(4_666), bytes_in_words(1_234_567), bytes_in_words(None)
    ('666 B', '4.7 kB', '1.2 MB', '-')
    """
    if count is None:
        return "-"
    if count < 1000:
        return f"{count} B"
    return f"{count / 1000:.1f} kB" if count < 999_950 else f"{count / 1_000_000:,.1f} MB"


def milliseconds(value: float | None) -> str:
    """A time, to three figures.

    >>> milliseconds(0.01234), milliseconds(28.06), milliseconds(1234.5), milliseconds(None)
    ('0.0123 ms', '28.1 ms', '1,234 ms', '-')
    """
    if value is None:
        return "-"
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"


def figure(value: float | None, share: bool) -> str:
    """A metric; shares in per cent.

    >>> figure(0.98765, True), figure(0.98765, False), figure(None, True)
    ('98.8 %', '0.9877', '-')
    """
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if share else f"{value:.4g}"


def apart(difference: float | None, share: bool) -> str:
    """A difference of two figures; of shares in points.

    >>> apart(-0.071, True), apart(0.5, False), apart(0.0, True)
    ('-7.1 points', '+0.5', '0.0 points')
    """
    if difference is None:
        return "-"
    if share:
        value = f"{100 * difference:+.1f}"
        return f"{'0.0' if value[1:] == '0.0' else value} points"
    return f"{difference:+.3g}" if difference else "0"


def unsigned(difference: float, share: bool) -> str:
    """How large a difference is, without its unit.

    >>> unsigned(-0.042, True), unsigned(-0.5, False)
    ('4.2', '0.5')
    """
    return f"{100 * abs(difference):.1f}" if share else f"{abs(difference):.3g}"
