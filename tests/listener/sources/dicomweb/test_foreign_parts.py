"""What the HTTP server relies on in uvicorn and h11: the version that was tried, and the names that are used."""

from __future__ import annotations

import importlib.metadata
import inspect

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState


def test_uvicorn_is_the_version_whose_behaviour_was_tried() -> None:
    assert importlib.metadata.version("uvicorn") == "0.54.0"
    assert importlib.metadata.version("h11").startswith("0.16.")


def test_what_is_extended_is_made_as_it_was() -> None:
    names = list(inspect.signature(H11Protocol.__init__).parameters)
    assert names == ["self", "config", "server_state", "app_state", "_loop"]
    for name in ("connection_made", "data_received", "on_response_complete", "connection_lost", "shutdown"):
        assert inspect.isfunction(getattr(H11Protocol, name))
    assert {"connections", "tasks", "default_headers"} <= vars(ServerState()).keys()
    assert "h11_max_incomplete_event_size" in inspect.signature(Config.__init__).parameters
    source = inspect.getsource(H11Protocol)
    for word in ("self.cycle", "self.access_log", "self.client", "on_response=self.on_response_complete"):
        assert word in source
    assert "self.response_complete" in inspect.getsource(RequestResponseCycle)
