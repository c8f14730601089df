"""As much CBOR as a Kinesis request needs, and every answer; tags are kept, not interpreted."""
import struct


def encode(value):
    """Maps with text keys, text, bytes and whole numbers that are not negative."""
    if isinstance(value, dict):
        return head(5, len(value)) + b"".join(encode(k) + encode(v) for k, v in value.items())
    if isinstance(value, str):
        data = value.encode()
        return head(3, len(data)) + data
    if isinstance(value, bytes):
        return head(2, len(value)) + value
    return head(0, value)


def head(major, number):
    if number < 24:
        return bytes([major << 5 | number])
    for code, layout in ((24, ">B"), (25, ">H"), (26, ">I"), (27, ">Q")):
        if number < 1 << 8 * struct.calcsize(layout):
            return bytes([major << 5 | code]) + struct.pack(layout, number)
    raise ValueError(f"{number} does not fit into 64 bits")


class Tagged(tuple):
    """(tag, value): 1 is a time, in whatever unit the sender uses."""
    __slots__ = ()


def decode(data):
    """The one value that `data` is; raises ValueError or IndexError for anything else."""
    value, at = item(data, 0)
    if at != len(data):
        raise ValueError(f"{len(data) - at} bytes behind the value")
    return value


END = object()
SIMPLE = {20: False, 21: True, 22: None, 23: None, 31: END}


def item(data, at):
    first, at = data[at], at + 1
    major, small = first >> 5, first & 31
    if major == 7 and small in SIMPLE:
        return SIMPLE[small], at
    if 24 <= small <= 27:
        size = 1 << small - 24
        bits, at = data[at:at + size], at + size
        if major == 7:
            return struct.unpack({2: ">e", 4: ">f", 8: ">d"}[size], bits)[0], at
        small = int.from_bytes(bits)
    elif small == 31:
        return stretch(data, at, major)
    elif small > 27:
        raise ValueError(f"byte {first:#x} begins nothing")
    if major in (0, 1):
        return small if major == 0 else -1 - small, at
    if major in (2, 3):
        if at + small > len(data):
            raise ValueError("a string is cut")
        body = data[at:at + small]
        return body.decode() if major == 3 else body, at + small
    if major == 6:
        value, at = item(data, at)
        return Tagged((small, value)), at
    found = []
    for _ in range(small * (2 if major == 5 else 1)):
        value, at = item(data, at)
        found.append(value)
    return gathered(major, found), at


def stretch(data, at, major):
    """A string, list or map of no announced length."""
    found = []
    while True:
        value, at = item(data, at)
        if value is END:
            return gathered(major, found), at
        found.append(value)


def gathered(major, found):
    if major == 5:
        return dict(zip(found[::2], found[1::2], strict=True))
    return found if major == 4 else ("" if major == 3 else b"").join(found)
