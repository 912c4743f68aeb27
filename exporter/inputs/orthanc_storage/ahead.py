"""Checks and inflates attachments ahead of the run with several threads, since one could not supply many workers.

Contract: entries keep their order; each content is made readable before the run asks for it, at most `DEPTH` ahead for
every thread. Contents that the run no longer asks for are released.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from exporter.inputs.contract import InputContent, InputEntry

DEPTH: Final = 2


@dataclass(frozen=True, slots=True)
class Prepared:
    """A content that is being made readable: an `InputContent` of the run."""

    content: InputContent
    path: Future[Path]

    def readable(self) -> Path:
        """Wait until it is readable; raises the error of the content."""
        return self.path.result()

    def release(self) -> None:
        """Release the content."""
        self.content.release()


def ahead(entries: Iterator[InputEntry], threads: int) -> Generator[InputEntry]:
    """Yield the given entries, with contents made readable by `threads` threads."""
    waiting: deque[InputEntry] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="attachments")
    try:
        for entry in entries:
            content = entry.content
            if content is not None:
                content = Prepared(content, pool.submit(content.readable))
            waiting.append(replace(entry, content=content))
            if len(waiting) > DEPTH * threads:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        pool.shutdown(cancel_futures=True)  # waits for those that have begun
        for entry in waiting:
            if entry.content is not None:
                entry.content.release()
