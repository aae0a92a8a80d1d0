from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Message(_message.Message):
    __slots__ = ("type", "data", "room", "number", "text", "offset", "sender")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    ROOM_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    type: str
    data: bytes
    room: str
    number: int
    text: str
    offset: int
    sender: str
    def __init__(self, type: _Optional[str] = ..., data: _Optional[bytes] = ..., room: _Optional[str] = ..., number: _Optional[int] = ..., text: _Optional[str] = ..., offset: _Optional[int] = ..., sender: _Optional[str] = ...) -> None: ...

class Messages(_message.Message):
    __slots__ = ("messages",)
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[Message]
    def __init__(self, messages: _Optional[_Iterable[_Union[Message, _Mapping]]] = ...) -> None: ...

class Position(_message.Message):
    __slots__ = ("epoch", "offset")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    epoch: str
    offset: int
    def __init__(self, epoch: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class Subscription(_message.Message):
    __slots__ = ("rooms", "session", "attempt")
    class Room(_message.Message):
        __slots__ = ("name", "since")
        NAME_FIELD_NUMBER: _ClassVar[int]
        SINCE_FIELD_NUMBER: _ClassVar[int]
        name: str
        since: Position
        def __init__(self, name: _Optional[str] = ..., since: _Optional[_Union[Position, _Mapping]] = ...) -> None: ...
    ROOMS_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    rooms: _containers.RepeatedCompositeFieldContainer[Subscription.Room]
    session: str
    attempt: int
    def __init__(self, rooms: _Optional[_Iterable[_Union[Subscription.Room, _Mapping]]] = ..., session: _Optional[str] = ..., attempt: _Optional[int] = ...) -> None: ...

class Publication(_message.Message):
    __slots__ = ("type", "data", "room", "user", "ephemeral", "key", "idempotency_key")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    ROOM_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    EPHEMERAL_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    type: str
    data: bytes
    room: str
    user: str
    ephemeral: bool
    key: str
    idempotency_key: str
    def __init__(self, type: _Optional[str] = ..., data: _Optional[bytes] = ..., room: _Optional[str] = ..., user: _Optional[str] = ..., ephemeral: _Optional[bool] = ..., key: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...
