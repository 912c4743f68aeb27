"""Messages between receiving processes arrive as they were sent, and nothing else is taken for one."""

from __future__ import annotations

import os
import socket
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.foundation.processes import ChildProcess
from listener.settings.listener import ListenerSettings
from listener.sources.dimse.processes import messages
from listener.sources.dimse.processes.messages import (
    ChannelClosed,
    DescriptorChannel,
    MessageRefused,
    PoolMessage,
    decode,
    encode,
)
from listener.spool.space import SpaceLevel

if TYPE_CHECKING:
    from pathlib import Path

KINDS = sorted(PoolMessage.__subclasses__(), key=lambda kind: kind.__name__)
EXAMPLES = [
    messages.StartReceiving(b"/spool/caf\xe9", b"/state", 7, 1),
    messages.UseSettings(),
    messages.ServeConnection(1, "192.0.2.1"),
    messages.SpaceChanged(SpaceLevel.REFUSE_INSTANCES, queue_full=True),
    messages.StopReceiving(2.5),
    messages.ReceiverAlive(lacks_settings=False),
    messages.ReceiverCounted({"echoes": 1}),
    messages.ConnectionRequested(1),
    messages.ConnectionReleased(1),
    messages.ConnectionDeclined(1),
    messages.ReceiverStopped(0),
]
finite = st.floats(allow_nan=False, allow_infinity=False)


def test_every_kind_of_message_has_an_example_here() -> None:
    assert {type(message) for message in EXAMPLES} == set(KINDS)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_arrives_as_it_was_sent(message: PoolMessage) -> None:
    ours, theirs = DescriptorChannel.pair()
    with closing(ours), closing(DescriptorChannel(theirs)) as other:
        assert ours.send(message)
        assert other.receive(5) == (message, None)


@given(
    st.one_of(
        st.builds(messages.StopReceiving, finite),
        *(st.builds(kind) for kind in KINDS if kind is not messages.StopReceiving),
    )
)
def test_whatever_a_message_holds_survives_the_way(message: PoolMessage) -> None:
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    "content",
    [
        b"Nonsense {}",
        b"PoolMessage {}",
        b"",
        b"\xff {}",
        b"UseSettings",
        b"UseSettings []",
        b"ConnectionReleased {}",
        b'ConnectionReleased {"slot":"1"}',
        b'ConnectionReleased {"slot":1.5}',
        b'ConnectionReleased {"slot":1,"host":"192.0.2.1"}',
        b'ConnectionReleased {"slot":1} {}',
        b'SpaceChanged {"level":7,"queue_full":false}',
        b'{"take": 1, "host": "192.0.2.1"}',
    ],
)
def test_what_is_not_exactly_a_message_is_refused(content: bytes) -> None:
    with pytest.raises(MessageRefused, match="between receiving processes"):
        decode(content)


@given(
    st.one_of(
        st.binary(),
        st.builds(lambda kind, text: kind.__name__.encode() + b" " + text, st.sampled_from(KINDS), st.binary()),
    )
)
def test_no_content_does_anything_but_arrive_or_be_refused(content: bytes) -> None:
    try:
        message = decode(content)
    except MessageRefused:
        return
    assert decode(encode(message)) == message


def test_a_channel_ends_with_either_process() -> None:
    ours, theirs = DescriptorChannel.pair()
    with closing(ours), closing(DescriptorChannel(theirs)) as other:
        assert other.receive(0) is None
        ours.close()
        with pytest.raises(ChannelClosed):
            other.receive(5)
        assert not other.send(messages.UseSettings())


@pytest.mark.parametrize(
    "content", [b"Nonsense {}", encode(messages.ReceiverStopped(0))], ids=["unknown", "not for it"]
)
def test_a_process_that_is_sent_what_it_does_not_know_ends_with_code_1(tmp_path: Path, content: bytes) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = DescriptorChannel(ours)
    child = ChildProcess("listener.sources.dimse.processes.child")
    with ours:
        with theirs:
            child.start(str(theirs.fileno()), pass_fds=(theirs.fileno(),))
        settings = os.memfd_create("settings")
        os.write(settings, ListenerSettings().model_dump_json(include={"listener", "spool", "log"}).encode())
        channel.send(messages.StartReceiving(os.fsencode(tmp_path), os.fsencode(tmp_path), 1, 1))
        channel.send(messages.UseSettings(), settings)
        os.close(settings)
        assert channel.receive(60) == (messages.ReceiverAlive(lacks_settings=False), None)
        ours.send(content)
        assert child.end(60.0) == 1
