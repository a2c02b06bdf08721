"""What is known of the paper's own figures, as numbers: LightVM (Manco et al., SOSP'17), section 4.2 and 6.1.

The figures themselves are not redrawn from the paper's data, which nobody has published: these are the numbers that its
text, its slides and notes of its readers name. Between them nothing is known, and lines there only lead the eye.
"""

from __future__ import annotations

from dataclasses import dataclass

MACHINE = "Xen 4.8, 4-core Xeon E5-1630 (Fig. 10: 64-core AMD Opteron 6376)"


@dataclass(frozen=True)
class Point:
    """A number of the paper: of `series` in Fig. `figure`, with `n` guests, `ms` milliseconds. `what`: "total" (create
    and boot), "create", "boot", or a class of Fig. 5. `sure`: False for what one reader alone remembers."""

    figure: int
    series: str
    n: int
    what: str
    ms: float
    sure: bool = True

    @property
    def source(self) -> str:
        """Where it is from."""
        return f"paper, Fig. {self.figure}" + ("" if self.sure else " (one note)")


DEBIAN, TINYX, UNIKERNEL = "Debian, 1.1 GB", "Tinyx, 9.5 MB", "daytime unikernel, 480 KB"
DOCKER, PROCESS = "Docker", "process (fork/exec)"
LAST = 1000  # guests in most figures

POINTS = (
    Point(4, DEBIAN, 1, "create", 500),
    Point(4, DEBIAN, 1, "boot", 1500),
    Point(4, DEBIAN, LAST, "total", 42_000),
    Point(4, TINYX, 1, "create", 360),
    Point(4, TINYX, 1, "boot", 180),
    Point(4, TINYX, LAST, "total", 10_000),
    Point(4, UNIKERNEL, 1, "create", 80),
    Point(4, UNIKERNEL, 1, "boot", 3),
    Point(4, UNIKERNEL, LAST, "total", 700),
    Point(4, DOCKER, 1, "total", 200),
    Point(4, DOCKER, LAST, "total", 200),
    Point(4, PROCESS, 1, "total", 3.5),
    Point(4, PROCESS, LAST, "total", 3.5),
    Point(5, "xl", LAST, "xenstore", 610),
    Point(5, "xl", 1, "devices", 100),
    Point(5, "xl", LAST, "devices", 100),
    Point(9, "xl", 1, "create", 100),
    Point(9, "xl", LAST, "create", 1000),
    Point(9, "chaos-xs", 1, "create", 15),
    Point(9, "chaos-xs", LAST, "create", 80),
    Point(9, "chaos-xs-split", LAST, "create", 25),
    Point(9, "chaos-noxs", 1, "create", 8),
    Point(9, "chaos-noxs", LAST, "create", 15),
    Point(9, "lightvm", 1, "create", 4),
    Point(9, "lightvm", LAST, "create", 4.1),
    Point(10, "lightvm", 1, "total", 5.5, sure=False),
    Point(10, "lightvm", 8000, "total", 5.5, sure=False),
    Point(10, DOCKER, 1, "total", 150, sure=False),
    Point(10, DOCKER, 3000, "total", 1000),
)


def paper(figure: int, series: str, n: int, what: str) -> float | None:
    """The paper's number in milliseconds; None where it is not known. A "total" is the sum of create and boot."""
    found = {p.what: p.ms for p in POINTS if (p.figure, p.series, p.n) == (figure, series, n)}
    if what == "total" and "total" not in found and {"create", "boot"} <= set(found):
        return found["create"] + found["boot"]
    return found.get(what)


def curve(figure: int, series: str, what: str) -> list[tuple[int, float]]:
    """All numbers of a series, by rising n."""
    numbers = sorted({p.n for p in POINTS if (p.figure, p.series) == (figure, series)})
    return [(n, ms) for n in numbers if (ms := paper(figure, series, n, what)) is not None]


__all__ = ["DEBIAN", "DOCKER", "LAST", "MACHINE", "POINTS", "PROCESS", "TINYX", "UNIKERNEL", "Point", "curve", "paper"]
