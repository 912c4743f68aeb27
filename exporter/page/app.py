"""Addresses of the page and their answers: a Starlette application behind `PageGuard`.

Contract: every GET only looks. What changes something is one POST, `/retry`, by the code path of `exporter failures
retry`. A page is complete without a script; the script asks for the same pages again and shows what has changed.
"""

from __future__ import annotations

import hashlib
import io
import stat
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml
from starlette.applications import Starlette
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from exporter.errors import OutOfSpace, Reason
from exporter.page import metrics
from exporter.page.condition import DiskTrend, masked, standing_of
from exporter.page.failures import retry
from exporter.page.guard import DRAWING_POLICY, HEADERS, MEDIA_POLICY, Refused
from exporter.page.problems import summary_of
from exporter.page.readiness import Readiness
from exporter.page.standing import Problem, Standing
from exporter.page.views import MEDIA_TYPES, PICTURES, Views, clock, environment, explained
from exporter.results.ledger.browsing import FAILED_STATES, LedgerBrowser
from exporter.results.ledger.schema import LedgerUnusable
from listener.foundation.errors import Unusable
from listener.spool.names import NAME
from listener.spool.view import FolderCensus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.requests import Request

    from exporter.settings.settings import Settings
    from listener.settings.listener import DataFolder

KEPT_S: Final = 1.0
"""Time for which one look answers every tab that asks."""
EXPLAIN_S: Final = 60.0
THUMBNAIL: Final = (160, 160)
MOST_PIXELS: Final = 64_000_000
"""Largest picture that is made smaller here."""
LARGEST_NUMBER: Final = (1 << 63) - 1
STATIC: Final = Path(__file__).with_name("static")
STATIC_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class Page:
    """The application's state and its answers."""

    def __init__(self, settings: Settings, data: DataFolder, *, config: Path | None = None) -> None:
        """Look at nothing yet.

        Args:
            settings: The configuration in force.
            data: The data folder.
            config: The file that the settings were read from, for `explain`.
        """
        self._settings = settings
        self._data = data
        self._config = config
        self._views = Views(
            data.root,
            show_patient=settings.page.show_patient,
            show_media=settings.page.shows_thumbnails and may_show_media(settings),
        )
        self._media = settings.media_folder(data)
        self._templates = environment()
        self._census = FolderCensus()
        self._trend = DiskTrend()
        self._looking = threading.Lock()
        self._standing: Standing | None = None
        self._looked_at = float("-inf")
        self._explaining = threading.Semaphore(1)
        self._readiness = Readiness(settings, data, self.standing)
        self._thumbnail = lru_cache(maxsize=512)(_thumbnail)

    def application(self) -> Starlette:
        """The addresses."""
        pages = {
            "/": self.overview,
            "/failures": self.failures,
            "/instances": self.instances,
            "/search": self.search,
            "/instance/{number:int}": self.instance,
            "/refused/{reason}/{name}": self.refused,
            "/retry": self.ask,
            "/settings": self.settings_page,
            "/media/{number:int}/{position:int}": self.media,
            "/thumbnail/{number:int}": self.thumbnail,
            "/metrics": self.metrics,
            "/healthz": lambda _: PlainTextResponse("ok\n"),
            "/readyz": self.readyz,
            "/static/{name}": self.static,
        }
        routes = [Route(path, answer, methods=["GET"]) for path, answer in pages.items()]
        routes.append(Route("/retry", self.do_retry, methods=["POST"]))
        unusable = dict.fromkeys((LedgerUnusable, OutOfSpace), self._unusable)
        handlers: dict[Any, Any] = {Refused: self._refused, 404: self._missing, **unusable}
        return Starlette(routes=routes, exception_handlers=handlers)

    # -- looking -----------------------------------------------------------------------------------------------------

    def standing(self) -> Standing:
        """How everything stands or stood at most `KEPT_S` ago, with what cannot be read as its first problem."""
        with self._looking:
            if self._standing is None or time.monotonic() - self._looked_at >= KEPT_S:
                self._standing = self._look()
                self._looked_at = time.monotonic()
            return self._standing

    def _look(self) -> Standing:
        root = self._data.root
        try:
            _, silent = self._trend.questions.ask([root])
            if silent or root.is_dir():
                return standing_of(
                    root, self._settings, census=self._census, trend=self._trend, tolerates=(LedgerUnusable, OutOfSpace)
                )
            what = f"The data folder {root} is not there."
            problem = Problem("no_data", "fault", what, "Check --data, and that its disk is mounted.")
        except OSError as error:
            what = f"The data folder cannot be read: {error.strerror or type(error).__name__}."
            problem = Problem("unreadable", "fault", what, "Check its permissions and its disk.")
        now = Standing(now=time.time(), settings=masked(self._settings.model_dump(mode="json")), problems=(problem,))
        return replace(now, summary=summary_of(now, now.problems))

    @contextmanager
    def _ledger(self) -> Iterator[LedgerBrowser | None]:
        """The ledger; None where nothing was exported yet.

        Raises:
            LedgerUnusable, OutOfSpace: It cannot be read.
        """
        if "ledger" in self.standing().unanswered:
            raise LedgerUnusable(self._data.ledger, "its disk does not answer", "check the disk")
        if not self._data.ledger.is_file():
            yield None
            return
        with closing(LedgerBrowser(self._data.ledger)) as ledger:
            yield ledger

    def _render(self, request: Request, template: str, status: int = 200, **facts: Any) -> Response:
        standing = self.standing()
        shown = {"standing": standing, "path": request.url.path, "csrf": request.scope["csrf"], **facts}
        body = self._templates.get_template(template).render(shown).encode("utf-8", "backslashreplace")
        tag = f'"{hashlib.sha256(body).hexdigest()[:24]}"'
        headers = {"etag": tag, "x-as-of": clock(standing.now)}
        if status == 200 and request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(body, status, headers, "text/html; charset=utf-8")

    # -- pages -------------------------------------------------------------------------------------------------------

    def overview(self, request: Request) -> Response:
        """All that matters, on one page."""
        standing = self.standing()
        is_unreadable = any(problem.word in {"ledger", "no_data", "unreadable"} for problem in standing.problems)
        if is_unreadable or "ledger" in standing.unanswered:
            return self._render(request, "overview.html", **self._views.overview(standing, None))
        with self._ledger() as ledger:
            return self._render(request, "overview.html", **self._views.overview(standing, ledger))

    def failures(self, request: Request) -> Response:
        """What failed, by reason and by pages."""
        reason = _reason(request)
        before, before_refused = _number(request, "before"), request.query_params.get("refused", "")
        if before_refused and not NAME.fullmatch(before_refused):
            raise Refused(400, "the page that was asked for does not exist")
        tried = _number(request, "tried")
        with self._ledger() as ledger:
            facts = self._views.failures(ledger, reason, before) | self._views.refused(ledger, reason, before_refused)
        return self._render(request, "failures.html", reason=reason, tried=tried, before=before, **facts)

    def instances(self, request: Request) -> Response:
        """What came last."""
        before = _number(request, "before")
        with self._ledger() as ledger:
            facts = self._views.recent(ledger, before)
        return self._render(request, "instances.html", title="Recent instances", query="", before=before, **facts)

    def search(self, request: Request) -> Response:
        """What is looked for."""
        text = request.query_params.get("q", "").strip()[:1024]
        with self._ledger() as ledger:
            facts = self._views.search(ledger, text)
        return self._render(request, "instances.html", title="Search", query=text, before=None, **facts)

    def instance(self, request: Request) -> Response:
        """One instance."""
        number = request.path_params["number"]
        with self._ledger() as ledger:
            row = ledger.numbered(number) if ledger is not None and number <= LARGEST_NUMBER else None
            if ledger is None or row is None:
                raise Refused(404, "there is no such instance")
            facts = self._views.instance(ledger, row)
        file = self._views.file_of(row.row.name, row.row.reason)
        said = self._explain(file) if "explain" in request.query_params and file is not None else None
        return self._render(request, "instance.html", explained=said, **facts)

    def refused(self, request: Request) -> Response:
        """One instance that the listener refused."""
        reason, name = _known_reason(request.path_params["reason"]), request.path_params["name"]
        file = self._views.file_of(name, reason) if NAME.fullmatch(name) else None
        if file is None:
            raise Refused(404, "there is no such instance")
        said = self._explain(file) if "explain" in request.query_params else None
        return self._render(request, "refused.html", reason=reason, name=name, explained=said)

    def _explain(self, file: Path) -> list[tuple[str, str]]:
        if not self._explaining.acquire(timeout=EXPLAIN_S):
            raise Refused(503, "another instance is being explained: try again in a minute")
        try:
            options = ["--config", str(self._config)] if self._config is not None else []
            return explained([str(file), *options], EXPLAIN_S)
        finally:
            self._explaining.release()

    def settings_page(self, request: Request) -> Response:
        """The settings in force."""
        text = yaml.safe_dump(self.standing().settings, sort_keys=False, allow_unicode=True)
        return self._render(request, "settings.html", text=text)

    # -- trying again ------------------------------------------------------------------------------------------------

    def ask(self, request: Request) -> Response:
        """Ask back before anything is tried again."""
        said = dict(request.query_params)
        _, reason, number = self._meant(said)
        fields = [(key, said[key]) for key in ("reason", "number", "name") if key in said]
        return self._render(request, "retry.html", fields=fields, reason=reason, number=number)

    def do_retry(self, request: Request) -> Response:
        """Try one failure again, or all of one reason."""
        name, reason, _ = self._meant(request.scope["form"])
        try:
            count = retry(self._data.root, name=name, reason=reason)
        except Unusable as error:
            raise Refused(503, f"nothing was changed: {error}") from error
        except OSError as error:
            raise Refused(503, f"nothing was changed: {error.strerror}; who runs the page must own the data") from error
        with self._looking:
            self._looked_at = float("-inf")
        where = f"?reason={reason}&tried={count}" if reason else f"?tried={count}"
        return RedirectResponse(f"/failures{where}", 303)

    def _meant(self, said: dict[str, str]) -> tuple[str | None, str | None, int]:
        """Name or reason of what is to be tried again, and the number of failures that it means.

        Raises:
            Refused: Neither is there.
        """
        if reason := said.get("reason"):
            word = _known_reason(reason)
            found = self.standing().reasons
            return None, word, sum(found.get(state, {}).get(word, 0) for state in ("failed", "quarantined"))
        if (text := said.get("number", "")).isascii() and text.isdigit() and len(text) < 19:
            with self._ledger() as ledger:
                row = None if ledger is None else ledger.numbered(int(text))
            if row is not None and row.row.state in FAILED_STATES:
                return row.row.name, None, 1
        elif NAME.fullmatch(said.get("name", "")):
            return said["name"], None, 1
        raise Refused(404, "there is no such failure: it is tried again already, or it is gone")

    # -- media -------------------------------------------------------------------------------------------------------

    def media(self, request: Request) -> Response:
        """One media file."""
        file, kind = self._medium(request.path_params["number"], request.path_params["position"])
        is_drawing = kind == MEDIA_TYPES[".svg"]
        headers = {"content-security-policy": DRAWING_POLICY if is_drawing else MEDIA_POLICY}
        if kind is None:
            headers["content-disposition"] = "attachment"
        return FileResponse(file, media_type=kind or "application/octet-stream", headers=headers)

    def thumbnail(self, request: Request) -> Response:
        """A small picture of an instance."""
        number = request.path_params["number"]
        with self._ledger() as ledger:
            row = ledger.numbered(number) if ledger is not None and number <= LARGEST_NUMBER else None
            media = ledger.media(row.row.name) if ledger is not None and row is not None else ()
        for position, medium in enumerate(media):
            if medium.suffix.lower().endswith(tuple(PICTURES)):
                file, _ = self._medium(number, position)
                picture = self._thumbnail(file, medium.sha256)
                if picture is not None:
                    return Response(picture, media_type="image/png", headers={"content-security-policy": MEDIA_POLICY})
        raise Refused(404, "there is no picture of this instance")

    def _medium(self, number: int, position: int) -> tuple[Path, str | None]:
        """A media file that may be shown, and its type; None for what is only offered for download.

        Raises:
            Refused: There is none, or media are not shown.
        """
        if not self._views.shows_media:
            raise Refused(403, "media are not shown here: `page.thumbnails` says when they are")
        with self._ledger() as ledger:
            row = ledger.numbered(number) if ledger is not None and number <= LARGEST_NUMBER else None
            media = ledger.media(row.row.name) if ledger is not None and row is not None else ()
        if position >= len(media):
            raise Refused(404, "there is no such medium")
        file = self._media / media[position].file
        root = self._media.resolve()
        try:
            is_ours = file.resolve(strict=True).is_relative_to(root) and stat.S_ISREG(file.lstat().st_mode)
        except OSError:
            is_ours = False
        if not is_ours:
            raise Refused(404, "there is no file of this medium; `exporter media get` also reads shards")
        return file, MEDIA_TYPES.get(file.suffix.lower())

    # -- programs ----------------------------------------------------------------------------------------------------

    def metrics(self, request: Request) -> Response:
        """The numbers for Prometheus."""
        is_open = "application/openmetrics-text" in request.headers.get("accept", "")
        standing, ever = self.standing(), None
        try:
            with self._ledger() as ledger:
                ever = None if ledger is None else ledger.numbers(0)
        except (LedgerUnusable, OutOfSpace):
            pass  # `dicom_ledger_readable` says so
        named = self._settings.listener_settings.source_names
        text = metrics.exposition(standing, ever, named, open_metrics=is_open)
        return Response(text, media_type=metrics.OPENMETRICS if is_open else metrics.TEXT)

    def readyz(self, _: Request) -> Response:
        """Whether instances can be received and exported now."""
        checks = self._readiness.checks()
        lines = [f"{name}: {problem or 'ok'}" for name, problem in checks.items()]
        return PlainTextResponse("\n".join(lines) + "\n", 503 if any(checks.values()) else 200)

    def static(self, request: Request) -> Response:
        """Style sheet, script and icon."""
        name = request.path_params["name"]
        files = {file.name: file for file in STATIC.iterdir() if file.suffix in STATIC_TYPES}
        if name not in files:
            raise Refused(404, "there is nothing here")
        return Response(
            files[name].read_bytes(),
            media_type=STATIC_TYPES[files[name].suffix],
            headers={"cache-control": "no-cache", "etag": f'"{_digest(files[name])}"'},
        )

    # -- errors ------------------------------------------------------------------------------------------------------

    def _refused(self, request: Request, refusal: Refused) -> Response:
        return self._error(request, refusal.status, refusal.sentence)

    def _missing(self, request: Request, _: Exception) -> Response:
        return self._error(request, 404, "there is nothing here")

    def _unusable(self, request: Request, error: Exception) -> Response:
        return self._error(request, 503, f"the ledger cannot be read: {_cause(error)}")

    def _error(self, request: Request, status: int, sentence: str) -> Response:
        response = self._render(request, "error.html", status, number=status, sentence=sentence)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response


def _reason(request: Request) -> str | None:
    """The reason that a list is asked for; None for all."""
    word = request.query_params.get("reason", "")
    return _known_reason(word) if word else None


def _known_reason(word: str) -> str:
    if word not in {str(reason) for reason in Reason}:
        raise Refused(404, "there is no such reason")
    return word


def _number(request: Request, name: str) -> int | None:
    """A whole number of the address; None where it is not there.

    Raises:
        Refused: It is something else.
    """
    text = request.query_params.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise Refused(400, "the page that was asked for does not exist")
    return int(text)


def _cause(error: Exception) -> str:
    return getattr(error, "cause", "") or "the disk is full"


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:24]


def _thumbnail(file: Path, _sha256: str) -> bytes | None:
    """A small PNG of a picture; None where it is too large or cannot be read.

    The second argument makes the picture anew once its medium is another.
    """
    from PIL import Image

    try:
        with Image.open(file) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                return None
            picture.draft("RGB", THUMBNAIL)
            small = picture.convert("RGB" if picture.mode not in {"L", "I;16", "I"} else "L")
            small.thumbnail(THUMBNAIL)
            into = io.BytesIO()
            small.save(into, "PNG")
            return into.getvalue()
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def may_show_media(settings: Settings) -> bool:
    """Whether media may be shown as far as de-identification is concerned: with a profile, only if it cleared all.

    An output keeps the profile of each AE title, so that the settings say it of all its media. Nothing is cleared where
    an AE title has no profile, where `privacy.pixels` lets pass what nothing proves clean, or where sound is permitted.
    """
    sections = [one.privacy for one in (settings, *settings.by_ae_title.values())]
    if all(section.profile == "none" for section in sections):
        return True
    return all(
        section.profile != "none" and section.pixels != "allow" and "audio" not in section.permit
        for section in sections
    )
