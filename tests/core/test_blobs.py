"""Files sealed in chunks: what comes back, what a second implementation says, and everything that is refused."""

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from taube.client.e2e import Core, CoreError, Malformed, TooLarge, Unverified
from tests.core.people import CACHE
from tests.spec import spec

CHUNK = 65_536
KEY = bytes(range(32))
sizes = st.one_of(
    st.integers(0, 3_000),
    st.integers(0, 400_000),
    st.sampled_from([n * CHUNK + d for n in range(1, 9) for d in (-1, 0, 1)]),
)


@pytest.fixture(scope="module")
def core() -> Core:
    return Core(bytes, CACHE)


def chunks_of(core: Core, size: int) -> int:
    return -(-core.padded_size(size) // CHUNK)


def seal_file(core: Core, key: bytes, data: bytes) -> list[bytes]:
    count = chunks_of(core, len(data))
    return [core.seal_blob(key, len(data), at, data[at * CHUNK : (at + 1) * CHUNK]) for at in range(count)]


def open_file(core: Core, key: bytes, size: int, sealed: list[bytes]) -> bytes:
    return b"".join(core.open_blob(key, size, at, chunk) for at, chunk in enumerate(sealed))


@spec("CNT-40")
@given(size=sizes, seed=st.binary(min_size=1, max_size=20))
@settings(max_examples=30)
def test_a_file_comes_back_as_it_was(core: Core, size: int, seed: bytes) -> None:
    data = (seed * (size // len(seed) + 1))[:size]
    sealed = seal_file(core, KEY, data)
    assert sum(map(len, sealed)) == core.padded_size(size) + 16 * len(sealed)
    assert all(len(chunk) == CHUNK + 16 for chunk in sealed[:-1])
    assert open_file(core, KEY, size, sealed) == data


@spec("CNT-40")
@pytest.mark.parametrize("size", [0, 1_000, CHUNK, CHUNK + 1, 200_000])
def test_a_second_implementation_of_stream_makes_the_same_bytes(core: Core, size: int) -> None:
    data = bytes(n % 251 for n in range(size))
    padded = data + bytes(core.padded_size(size) - size)
    pieces = [padded[at : at + CHUNK] for at in range(0, len(padded), CHUNK)]
    expected = [
        AESGCM(KEY).encrypt(bytes(7) + at.to_bytes(4, "big") + bytes([at == len(pieces) - 1]), piece, None)
        for at, piece in enumerate(pieces)
    ]
    assert seal_file(core, KEY, data) == expected


@spec("CNT-40", "CNT-41")
@given(
    size=st.sampled_from([1, 70_000, 3 * CHUNK]),
    at=st.integers(0, 2),
    where=st.integers(0, 2**20),
    bit=st.integers(0, 7),
)
@settings(max_examples=40)
def test_an_altered_chunk_is_refused(core: Core, size: int, at: int, where: int, bit: int) -> None:
    sealed = seal_file(core, KEY, bytes(size))
    at %= len(sealed)
    altered = bytearray(sealed[at])
    altered[where % len(altered)] ^= 1 << bit
    with pytest.raises(Unverified):
        core.open_blob(KEY, size, at, bytes(altered))


@spec("CNT-41")
def test_files_that_are_cut_extended_or_put_in_another_order_are_refused(core: Core) -> None:
    size = 3 * CHUNK
    sealed = seal_file(core, KEY, bytes(size))
    assert len(sealed) == 3
    for at, chunk in (
        (0, sealed[1]),  # another order
        (1, sealed[2]),
        (2, sealed[1]),  # cut: what is not the last chunk stands at the end
        (0, sealed[0][:-1]),
        (0, sealed[0] + b"x"),
        (0, b""),
    ):
        with pytest.raises(Unverified):
            core.open_blob(KEY, size, at, chunk)
    with pytest.raises(Malformed):  # extended: there is no fourth chunk
        core.open_blob(KEY, size, 3, sealed[2])
    with pytest.raises(Unverified):  # the last chunk of a shorter file
        core.open_blob(KEY, CHUNK, 0, sealed[0])
    with pytest.raises(Unverified):  # another key
        core.open_blob(bytes(32), size, 0, sealed[0])


@spec("CNT-41")
def test_padding_that_is_not_zeros_is_refused(core: Core) -> None:
    sealed = seal_file(core, KEY, b"a" * 200)[0]
    assert core.open_blob(KEY, 200, 0, sealed) == b"a" * 200
    with pytest.raises(Unverified):  # the same bytes said to be a shorter file
        core.open_blob(KEY, 199, 0, sealed)
    assert core.open_blob(KEY, 201, 0, sealed) == b"a" * 200 + b"\0"


@spec("CNT-40")
@pytest.mark.parametrize(
    ("key", "size", "index", "piece", "error"),
    [
        (KEY[:16], 3, 0, b"abc", Malformed),
        (KEY, 3, 0, b"abcd", Malformed),
        (KEY, 3, 0, b"ab", Malformed),
        (KEY, 3, 1, b"", Malformed),
        (KEY, CHUNK + 1, 0, b"x" * (CHUNK - 1), Malformed),
        (KEY, 2**30 + 1, 0, b"x" * CHUNK, TooLarge),
        (KEY, 2**32, 0, b"", Malformed),
        (KEY, -1, 0, b"", Malformed),
    ],
)
def test_what_a_host_does_wrongly_is_refused(
    core: Core, key: bytes, size: int, index: int, piece: bytes, error: type[CoreError]
) -> None:
    with pytest.raises(error):
        core.seal_blob(key, size, index, piece)
