"""`hubbub.proto`: what is made of it fits it, and envelopes pass through it unchanged."""

import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from hypothesis import given
from hypothesis import strategies as st

from hubbub.protocol.codecs import JSON
from hubbub.protocol.codes import CloseCode
from hubbub.protocol.envelope import Envelope, Failure, Position
from hubbub.protocol.protobuf import messages, metadata

PROTO = files("hubbub.protocol.protobuf").joinpath("hubbub.proto")
EXAMPLE = Path(__file__).parents[2] / "examples" / "grpc"

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ENVELOPES = st.builds(
    Envelope,
    type=TEXTS.filter(bool),
    id=st.none() | st.integers(-(2**63), 2**63 - 1) | TEXTS,
    room=st.none() | TEXTS.filter(bool),
    offset=st.none() | st.integers(1, 2**64 - 1),
    sender=st.none() | TEXTS.filter(bool),
    data=st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXTS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
        max_leaves=5,
    ),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """What protoc makes of the file today."""
    folder = tmp_path_factory.mktemp("made")
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", f"-I{Path(str(PROTO)).parent}"),
            f"--descriptor_set_out={folder}/hubbub.binpb",
            *(f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")),
            "hubbub.proto",
        ],
        check=True,
    )
    return folder


def without_versions(stub: str) -> list[str]:
    """Return the lines of a stub in which no version of what made it can be."""
    return [line for line in stub.splitlines() if not any(digit in line for digit in "0123456789")]


class TestWhatIsMadeOfIt:
    def test_the_compiled_file_fits_it(self, made):
        compiled, shipped = (
            FileDescriptorSet.FromString(content)
            for content in (
                (made / "hubbub.binpb").read_bytes(),
                PROTO.parent.joinpath("hubbub.binpb").read_bytes(),
            )
        )
        assert shipped == compiled, "Make it anew: scripts/proto.sh"

    @pytest.mark.parametrize("name", ["hubbub_pb2.py", "hubbub_pb2.pyi", "hubbub_pb2_grpc.py"])
    def test_the_example_s_stubs_fit_it(self, made, name):
        assert without_versions((EXAMPLE / name).read_text()) == without_versions((made / name).read_text())

    def test_the_example_s_stub_describes_the_same_file(self, made):
        program = "import hubbub_pb2; print(hubbub_pb2.DESCRIPTOR.serialized_pb.hex())"
        told = [
            subprocess.run([sys.executable, "-c", program], cwd=folder, check=True, capture_output=True)
            for folder in (made, EXAMPLE)
        ]
        assert told[0].stdout == told[1].stdout

    def test_stubs_of_any_other_place_do_not_collide_with_hubbub_s(self, tmp_path):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "chat.proto").write_text(PROTO.read_text())
        subprocess.run(
            [sys.executable, "-m", "grpc_tools.protoc", "-I.", "--python_out=.", "mine/chat.proto"],
            check=True,
            cwd=tmp_path,
        )
        program = "import hubbub.transports.grpc, mine.chat_pb2"
        subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)


class TestEnvelopes:
    @given(ENVELOPES)
    def test_they_pass_unchanged_from_the_server(self, envelope):
        text = JSON.encode(envelope)
        assert [json.loads(read) for read in messages.envelopes_of(messages.messages_of(text))] == [
            json.loads(text)
        ]

    @given(ENVELOPES)
    def test_they_pass_unchanged_from_a_client(self, envelope):
        text = JSON.encode(envelope).decode()
        assert json.loads(messages.envelope_of(messages.message_of(text))) == json.loads(text)

    @given(ENVELOPES)
    def test_none_is_longer_than_in_json(self, envelope):
        text = JSON.encode(envelope)
        assert len(messages.message_of(text)) <= len(text)

    @given(st.lists(ENVELOPES, max_size=5))
    def test_several_behind_each_other_are_several(self, envelopes):
        texts = [JSON.encode(envelope) for envelope in envelopes]
        joined = b"".join(messages.messages_of(text) for text in texts)
        assert [json.loads(read) for read in messages.envelopes_of(joined)] == [
            json.loads(text) for text in texts
        ]

    @given(st.binary(max_size=100))
    def test_any_bytes_are_a_message_or_none(self, payload):
        try:
            text = messages.envelope_of(payload)
        except (messages.UNREADABLE_PROTOBUF, UnicodeDecodeError):
            return
        assert isinstance(text, str)

    @given(st.binary(max_size=50))
    def test_data_adds_nothing_to_the_envelope_but_itself(self, data):
        message = messages.Message(type="say", data=data).SerializeToString()
        try:
            text = messages.envelope_of(message)
        except UnicodeDecodeError:
            return
        try:
            envelope = json.loads(text)
        except ValueError:
            return
        if data and text != data.decode():
            assert set(envelope) == {"type", "data"}
            assert envelope["type"] == "say"

    def test_what_is_no_envelope_or_too_large_an_id_is_refused(self):
        for text in ("", "{", "[]", '{"type":1}', '{"type":"a","id":9223372036854775808}'):
            with pytest.raises(ValueError):  # noqa: PT011  # of which words does not matter
                messages.message_of(text)


class TestMetadata:
    @given(st.sampled_from(list(CloseCode)), st.text(max_size=120).filter(str.isprintable))
    def test_a_close_comes_back_as_it_was(self, code, reason):
        told = metadata.closed(code, reason)
        assert all(value.isascii() and value.isprintable() for _, value in told)
        assert metadata.read(told) == (code, reason)

    def test_a_refusal_comes_back_as_it_was(self):
        assert metadata.read(metadata.refused(503, 5)) == (503, 5.0)
        assert metadata.read(metadata.refused(403, None)) == (403, 0.0)

    @pytest.mark.parametrize("told", [(), (("hubbub-close-code", "x"),), (("hubbub-status", "9" * 20),)])
    def test_other_metadata_say_nothing(self, told):
        assert metadata.read(told) is None

    def test_a_failure_is_the_data_of_an_error(self):
        ((name, value),) = metadata.failed(Failure("invalid", "No.", False))
        assert name.endswith("-bin")
        assert json.loads(value) == {"code": "invalid", "message": "No.", "retry": False}


def test_a_position():
    made = messages.position_of(Position("e", 7))
    assert messages._Position.FromString(made) == messages._Position(epoch="e", offset=7)
