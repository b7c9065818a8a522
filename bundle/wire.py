"""The protobuf wire format, https://protobuf.dev/programming-guides/encoding/, without the protobuf or onnx library."""

from __future__ import annotations

from collections.abc import Iterator


def fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Yield (field number, value) of one message: an int for a varint, a view for anything else.

    Raises `IndexError` or `ValueError` where the bytes are no protobuf.
    """
    position, end = 0, len(data)
    while position < end:
        key, position = varint(data, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = varint(data, position)
            yield number, value
            continue
        if wire == 2:
            length, position = varint(data, position)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError("a wire type that protobuf no longer writes")
        if position + length > end:
            raise IndexError("a field is longer than its message")
        yield number, data[position : position + length]
        position += length


def varint(data: memoryview, position: int) -> tuple[int, int]:
    """Return the number that begins at `position`, and where it ends. Raises what `fields` does."""
    result = shift = 0
    while True:
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7
        if shift > 63:
            raise ValueError("a varint longer than ten bytes")


def write(number: int, value: int | bytes) -> bytes:
    """Return one field: a varint for an int (a negative one as the complement of its 64 bits), else its bytes."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value & (1 << 64) - 1)
    return head(number, len(value)) + value


def head(number: int, length: int) -> bytes:
    """Return what stands before the bytes of a field."""
    return _varint(number << 3 | 2) + _varint(length)


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
