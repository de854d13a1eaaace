import io
import struct
import tarfile
import zlib

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from dnachunker.dataprep.corpus.shard_format import (
    PACKED_REPEAT_BIT,
    Block,
    CorruptBlock,
    block_from_packed,
    decode_block,
    encode_block,
)

PLACE = {
    "key": "hg38-chr1-0000000100",
    "split": "train",
    "source": "hg38",
    "species": "Homo sapiens",
    "clade": "mammals",
    "assembly": "hg38",
    "contig": "chr1/..|ü",
    "start": 100,
}
PACKED_CODES = [code | soft for code in range(5) for soft in (0, PACKED_REPEAT_BIT)]


def make_block(packed: list[int] | np.ndarray) -> Block:
    packed = np.asarray(packed, np.uint8)
    return block_from_packed(packed, **PLACE, end=PLACE["start"] + packed.size)


def make_frame(packed: list[int] | np.ndarray) -> bytes:
    return encode_block(make_block(packed))[0]


# runs of one letter as well as single letters, so that both long and alternating masks occur
packed_blocks = st.lists(
    st.tuples(st.sampled_from(PACKED_CODES), st.one_of(st.just(1), st.integers(1, 3000))), min_size=1, max_size=60
).map(lambda runs: np.repeat(np.array([c for c, _ in runs], np.uint8), [n for _, n in runs]))


@given(packed_blocks)
@settings(max_examples=150, deadline=None)
def test_decoding_returns_what_was_encoded(packed: np.ndarray) -> None:
    block = make_block(packed)
    frame, _ = encode_block(block)
    again = decode_block(frame)
    np.testing.assert_array_equal(again.codes, packed & 7)
    np.testing.assert_array_equal(again.packed, packed)
    np.testing.assert_array_equal(again.n_runs, block.n_runs)
    np.testing.assert_array_equal(again.soft_runs, block.soft_runs)
    assert {name: getattr(again, name) for name in PLACE} == PLACE
    assert again.end == PLACE["start"] + packed.size
    assert encode_block(again)[0] == frame


def test_the_bytes_of_a_block_are_fixed() -> None:
    """A reader in another language relies on exactly this layout."""
    letters = "ACGTNNacgta"
    packed = [("ACGTN".index(c.upper())) | (PACKED_REPEAT_BIT if c.islower() else 0) for c in letters]
    frame = make_frame(packed)
    parameters = zstandard.get_frame_parameters(frame)
    stream = zstandard.ZstdDecompressor().decompress(frame)
    assert parameters.has_checksum
    assert parameters.content_size == len(stream) == 8 * 512
    assert stream[512:515] == bytes([0b00_01_10_11, 0b00_00_00_01, 0b10_11_00_00])
    assert stream[3 * 512 : 3 * 512 + 8] == struct.pack("<II", 4, 6)
    assert stream[5 * 512 : 5 * 512 + 8] == struct.pack("<II", 6, 11)
    assert make_block(packed).letters.decode() == letters


def test_every_truncation_is_refused() -> None:
    frame = make_frame(np.arange(500, dtype=np.uint8) % 4)
    for length in range(len(frame)):
        with pytest.raises(CorruptBlock):
            decode_block(frame[:length])
    with pytest.raises(CorruptBlock):
        decode_block(frame + b"\0")
    with pytest.raises(CorruptBlock):
        decode_block(frame + frame)


def test_no_flipped_bit_passes_for_other_data() -> None:
    """Alone, a frame either refuses or decodes to the same block; with the CRC of the index it always refuses."""
    packed = np.random.default_rng(0).choice(PACKED_CODES, 300).astype(np.uint8)
    frame = make_frame(packed)
    crc32 = zlib.crc32(frame)
    harmless = 0
    for position in range(len(frame)):
        for bit in range(8):
            flipped = bytearray(frame)
            flipped[position] ^= 1 << bit
            with pytest.raises(CorruptBlock):
                decode_block(bytes(flipped), crc32=crc32)
            try:
                again = decode_block(bytes(flipped))
            except CorruptBlock:
                continue
            np.testing.assert_array_equal(again.packed, packed)
            assert again.key == PLACE["key"]
            harmless += 1
    assert harmless  # such as a match that copies the same zeros from elsewhere; hence the index holds a CRC


def tar_with(**changes: bytes) -> bytes:
    """A frame whose members are altered before compression, so that its checksums are right."""
    stream = zstandard.ZstdDecompressor().decompress(make_frame(np.zeros(64, np.uint8)))
    with tarfile.open(fileobj=io.BytesIO(stream + bytes(1024))) as archive:
        members = {m.name.split(".")[1]: archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]
    out = io.BytesIO()
    for suffix, data in (members | changes).items():
        info = tarfile.TarInfo(f"{PLACE['key']}.{suffix}")
        info.size = len(data)
        out.write(info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512))
    return zstandard.ZstdCompressor(write_checksum=True).compress(out.getvalue())


@pytest.mark.parametrize(
    "changes",
    [
        {"seq": b"\0" * 15},
        {"seq": b"\0" * 17},
        {"n": b"\0" * 7},
        {"n": struct.pack("<II", 5, 5)},
        {"n": struct.pack("<II", 60, 65)},
        {"rep": struct.pack("<IIII", 0, 10, 5, 20)},
        {"rep": struct.pack("<IIII", 10, 20, 0, 5)},
        {"json": b"{}"},
        {"json": b"[1]"},
        {"json": b'{"start": "0"'},
        {"json": b"\xff"},
        {"extra": b"x"},
    ],
    ids=str,
)
def test_wrong_members_with_right_checksums_are_refused(changes: dict[str, bytes]) -> None:
    assert decode_block(tar_with()).bases == 64
    with pytest.raises(CorruptBlock):
        decode_block(tar_with(**changes))


@given(st.binary(max_size=2000))
@settings(max_examples=300, deadline=None)
def test_arbitrary_bytes_are_refused_and_never_crash(data: bytes) -> None:
    with pytest.raises(CorruptBlock):
        decode_block(data)
    checked = zstandard.ZstdCompressor(write_checksum=True).compress(data)
    with pytest.raises(CorruptBlock):
        decode_block(checked)
