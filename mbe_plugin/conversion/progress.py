"""What a conversion is at: told to a function, or drawn as a bar, or neither."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Tell = Callable[
    [str, int, int | None], object
]  # stage, how much of it is done, of how much (None: nobody knows)


class Progress:
    """Tells ``to`` the stages of a conversion and how far each is; True draws tqdm's bar, one per stage."""

    def __init__(self, to: bool | Tell = False) -> None:
        self._tell: Tell | None = _Bar() if to is True else (to or None)
        self._at: tuple[str, int] | None = None

    def __call__(self, stage: str, done: int, total: int | None = None) -> None:
        """So much of the stage is done; telling the same again is no news."""
        if self._tell is not None and (stage, done) != self._at:
            self._at = (stage, done)
            self._tell(stage, done, total)


class _Bar:
    """One bar at a time, on a terminal or in a notebook; a stage's ends when it is complete or the next begins."""

    def __init__(self) -> None:
        try:
            from tqdm.auto import tqdm
        except ImportError as missing:
            raise ImportError(
                "progress=True draws its bar with tqdm; install it with: pip install tqdm, or pass a function (stage, "
                "done, total) instead"
            ) from missing
        self._make: Any = tqdm
        self._bar: Any = None
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        if stage != self._stage:
            self._close()
            # disable=None: nothing where it would go into a file
            self._bar, self._stage = self._make(total=total, desc=stage, disable=None), stage
        self._bar.update(done - self._bar.n)
        if done == total:
            self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar, self._stage = None, ""
