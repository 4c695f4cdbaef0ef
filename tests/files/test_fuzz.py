"""Damaged and hostile files: each reader gives a value or one error, in bounded time and memory.

WBCLI_FUZZ is the number of random inputs for each reader: small here, large to search for more.
"""

import dataclasses
import gzip
import io
import json
import os
import pickle
import pickletools
import resource
import signal
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import encoded, photo, stamped_images
from files.test_readers import idx
from wbcli.config.resolve import resolve_stage1
from wbcli.config.settings import Config
from wbcli.data.pictures import decoding
from wbcli.data.sets import cifar, lists, own_lists
from wbcli.files import pickles, readers, weights
from wbcli.runs import metrics
from wbcli.runs.find import all_runs
from wbcli.runs.run import Run

INPUTS = os.environ.get("WBCLI_FUZZ")
MEMORY = 64 << 20  # bytes beyond what the file declares
SECONDS = 20  # after which a reader hangs
K = 5  # classes

fuzz = settings(
    max_examples=int(INPUTS or 100),
    derandomize=not INPUTS,
    database=None,
    deadline=None,  # see `watched`
    suppress_health_check=list(HealthCheck),
)


def watched(read):
    """The value that `read` gives, or None for an error with a message."""
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("the reader hangs"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.alarm(SECONDS)
    try:
        return read()
    except (ValueError, OSError) as error:
        assert str(error)
        return None
    finally:
        signal.alarm(0)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown * 1024 < MEMORY, f"the reader took {grown >> 10} MB"


@st.composite
def damaged(draw, seeds: list[bytes]):
    """One of the seeds: bytes changed, cut off, inserted, or spliced with another one."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(content)))
        how = draw(st.sampled_from(["flip", "flip", "set", "cut", "insert", "splice", "repeat"]))
        if how == "flip" and place < len(content):
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif how == "set":
            piece = draw(
                st.sampled_from([b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff" * 8])
            )
            content[place : place + len(piece)] = piece
        elif how == "cut":
            del content[place:]
        elif how == "insert":
            content[place:place] = draw(st.binary(max_size=9))
        elif how == "splice":
            other = draw(st.sampled_from(seeds))
            content[place:] = other[draw(st.integers(0, len(other))) :]
        elif how == "repeat":
            content[place:place] = content[draw(st.integers(0, place)) : place][:4096] * 3
    return bytes(content)


LISTS = [
    "".join(f"train/c{k}/{i}.jpg {k}\n" for k in range(K) for i in range(3)).encode(),
    "\ufeffa b/é.jpg 0\r\n\r\nx/\0.jpg 1\r\n../y.jpg 2".encode(),
]
OWN_LISTS = [
    '\ufeffpath,label\r\n"a, b.jpg",é\r\n\r\n../y.jpg,"big ""x"""\r\n'.encode(),
    b'label,path,width\nant,/x.jpg,3\nbee,"a\nb.jpg",\n"cat",c.jpg,5',
]
ANNOTATIONS = [
    json.dumps(
        {
            "images": [{"id": i, "file_name": f"a/{i}.jpg", "width": 1.5} for i in range(K)],
            "annotations": [{"id": i, "image_id": i, "category_id": K - 1 - i} for i in range(K)],
            "categories": [{"id": k, "name": f"name {k}"} for k in range(K)],
        }
    ).encode(),
    b'{"images": [{"id": NaN, "file_name": [[]]}], "annotations": [1e400, -0.0, null, true]}',
]
IDX = [idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4)), idx(np.zeros((1, 1, 1), np.uint8))]
BATCH = {
    b"data": np.arange(6, dtype=np.uint8).reshape(2, 3),
    b"labels": [0, 1, 300, -1, 1 << 40],
    b"numbers": list(np.arange(2)),
    "names": ["a", b"b", "é", 0.5, None, True, (1, (2,))],
}
PICKLES = [pickle.dumps(BATCH, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
PICTURES = [
    *(encoded(photo(20, 16), kind) for kind in ("JPEG", "PNG", "BMP", "PPM", "WEBP", "TIFF")),
    encoded(photo(20, 16), "GIF", save_all=True, append_images=[photo(20, 16, 1)]),
    encoded(photo(20, 16), "JPEG", progressive=True, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"),
    encoded(Image.new("I;16", (9, 9), 500), "PNG", icc_profile=bytes(99)),
    encoded(photo(20, 16), "TIFF", compression="tiff_lzw"),
    encoded(photo(20, 16), "JPEG2000") if "JPEG2000" in Image.SAVE else b"",
]


def check_listing(listing: lists.Listing) -> None:
    assert len(listing.pictures) == len(listing.labels) > 0
    assert ((listing.labels >= 0) & (listing.labels < K)).all()
    for i in range(len(listing.pictures)):
        name = listing.pictures.name(i)
        assert not os.path.relpath(os.path.join("/root", name), "/root").startswith("../")


@fuzz
@given(content=damaged(LISTS))
def test_lists(content):
    Path("list").write_bytes(content)
    if listing := watched(lambda: lists.read_list(Path("list"), K, Path())):
        check_listing(listing)


@fuzz
@given(content=damaged(OWN_LISTS), split=st.sampled_from(["train", "test"]))
def test_own_lists(content, split):
    for name in ("train", "test"):
        Path(f"{name}.csv").write_bytes(content if name == split else b"path,label\na,ant\nb,bee\n")
    found = watched(lambda: own_lists.read(Path()))
    for part in (found.train, found.test) if found else ():
        assert len(part[0]) == len(part[1])
        assert ((part[1] >= 0) & (part[1] < len(found.class_names))).all()
        assert all(part[0].name(i) and "\0" not in part[0].name(i) for i in range(len(part[0])))


@fuzz
@given(content=damaged(ANNOTATIONS))
def test_annotations(content):
    Path("json").write_bytes(content)
    if found := watched(lambda: lists.read_coco(Path("json"), K, Path())):
        check_listing(found[0])
        assert len(found[1]) == K


@fuzz
@given(content=damaged(IDX), pack=st.sampled_from([bytes, gzip.compress]))
def test_idx(content, pack):
    path = Path("idx.gz" if pack is gzip.compress else "idx")
    path.write_bytes(pack(content))
    array = watched(lambda: readers.read_idx(path, 3))
    assert array is None or (array.dtype == np.uint8 and array.ndim == 3)
    assert array is None or content == idx(array)


@fuzz
@given(content=damaged([gzip.compress(content, mtime=0) for content in IDX]))
def test_damaged_gzip_streams(content):
    Path("idx.gz").write_bytes(content)
    array = watched(lambda: readers.read_idx(Path("idx.gz"), 3))
    assert array is None or array.tobytes() in (bytes(range(24)), b"\0")


SETTINGS = resolve_stage1({"dataset": "digitslt", "data_dir": "data"})
STATE = {
    "settings": dataclasses.asdict(SETTINGS),
    "epoch": 2,
    "step": 1,
    "row": None,
    "loss_sum": 0.5,
    "hits": 3,
    "seconds": 1.0,
    "model": {"w": torch.arange(6.0).view(2, 3), "n": torch.tensor(7)},
    "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2, 3)}}, "param_groups": []},
    "radii": [1.5, None],
    "best": {"epoch": 1, "accuracy": 40.0},
    "metrics": "{}\n{}\n",
}


def saved(content, **options) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


CHECKPOINTS = [saved(STATE), saved(STATE["model"]), saved(STATE["radii"])]
OLD_CHECKPOINTS = [saved(STATE, _use_new_zipfile_serialization=False)]
WEIGHTS = [safetensors.torch.save(STATE["model"]), safetensors.torch.save({"é": torch.ones(0)})]
CONFIG = dataclasses.asdict(SETTINGS)
RECORDS = [json.dumps(CONFIG | {"created": 1.5, "class_names": ["a"]}).encode(), b"[1]", b"{}"]
ROW = {
    "epoch": 1,
    "seconds": 0.5,
    "accuracy": dict.fromkeys(metrics.GROUPS, 5.0),
    "row_norms": [1.0],
}
METRICS = [b"".join(json.dumps(ROW | {"epoch": e}).encode() + b"\n" for e in (1, 2, 3))]

PLAIN_IMAGES = [
    json.dumps({"train": part, "val": part, "unused": [0, 7]}).encode()
    for part in (
        {"names": ["train/a/1.jpg", "train/b/2.jpg"], "labels": [0, 1]},
        {"indices": [3, 8], "digest": "00", "labels": [0, 1]},
    )
]
IMAGES = [gzip.compress(content, mtime=0) for content in PLAIN_IMAGES]


def run_with(name: str, content: bytes) -> Run:
    Path("runs/it").mkdir(parents=True, exist_ok=True)
    (Path("runs/it") / name).write_bytes(content)
    return Run(Path("runs/it"))


@fuzz
@given(content=damaged(CHECKPOINTS) | damaged(OLD_CHECKPOINTS))
def test_checkpoints(content):
    run = run_with("checkpoint.pt", content)
    if state := watched(lambda: run.load_state("checkpoint.pt")):
        assert state.keys() >= STATE.keys()
    if found := watched(lambda: weights.read(run.path / "checkpoint.pt")):
        assert all(isinstance(value, torch.Tensor) for value in found.values())


@fuzz
@given(content=damaged(WEIGHTS))
def test_safetensors(content):
    run = run_with("model.safetensors", content)
    if found := watched(run.load_weights):
        assert all(isinstance(value, torch.Tensor) for value in found.values())


@fuzz
@given(content=damaged(RECORDS))
def test_damaged_records(content):
    run = run_with("config.json", content)
    found = watched(run.config)
    assert found is None or isinstance(found, Config)
    watched(run.data_record)
    for read, kind in ((run.class_names, str), (run.class_counts, int)):
        assert all(type(value) is kind for value in watched(read) or [])
    assert watched(lambda: all_runs(Path("runs"))) == ([] if found is None else [run])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=5,
)


@fuzz
@given(changes=st.dictionaries(st.sampled_from(sorted(CONFIG)), JSON, min_size=1, max_size=3))
def test_records_that_were_edited(changes):
    run = run_with("config.json", json.dumps(CONFIG | changes).encode())
    if (found := watched(run.config)) is not None:
        assert isinstance(found, Config)


@fuzz
@given(content=damaged(IMAGES) | damaged(PLAIN_IMAGES).map(gzip.compress))
def test_images_of_runs(content):
    run = run_with("images.json.gz", content)
    if (found := watched(run.images)) is not None:
        assert len(found.train.keys) == len(found.train.labels) == sum(found.counts())


@fuzz
@given(content=damaged(METRICS))
def test_metrics(content):
    rows = watched(run_with("metrics.jsonl", content).metrics)
    assert all(isinstance(row["epoch"], int) and row["epoch"] > 0 for row in rows)


def check_pickle(content: bytes) -> None:
    Path("pickle").write_bytes(content)
    found = watched(lambda: readers.read_pickle(Path("pickle")))
    for value in (found or {}).values():
        assert not isinstance(value, np.ndarray) or value.dtype.kind in "iuf"


@fuzz
@given(content=damaged(PICKLES))
def test_damaged_pickles(content):
    check_pickle(content)


OPERANDS = st.one_of(st.just(b""), st.binary(max_size=9), st.sampled_from([b"1\n", b"a\nb\n"]))
INSTRUCTION = st.builds(
    lambda code, operand: code.code.encode("latin1") + operand,
    st.sampled_from(pickletools.opcodes),
    OPERANDS,
)
FRAGMENT = st.sampled_from(
    [b"cnumpy\ndtype\n", b"U\x02u1", b"(dq\0", b"]q\1", b"h\0", b"K\1", b")R", b"\x85R", b"\x86R"]
    + [b"c_codecs\nencode\n", b"cnumpy.core.multiarray\nscalar\n", b"cnumpy\nndarray\n", b"b"]
    + [b"cnumpy.core.multiarray\n_reconstruct\n", b"cos\nsystem\n", b"U\1as", b"u.", b"e", b"tR"]
)


@fuzz
@given(program=st.lists(INSTRUCTION | FRAGMENT, max_size=30).map(b"".join))
def test_random_programs_for_the_pickle_machine(program):
    check_pickle(program + b".")


@fuzz
@given(content=damaged(PICTURES))
def test_pictures(content):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "max_pixels", 1_000_000)  # what is declared and allowed is small
        found = watched(lambda: decoding.decode(content, (8, 8), decoding.eval_crop))
    assert found is None or (found.shape == (8, 8, 3) and found.dtype == np.uint8)


def test_what_is_not_damaged_is_read():
    """Or the tests above would see nothing but errors."""
    for content in PICKLES:
        Path("pickle").write_bytes(content)
        batch = readers.read_pickle(Path("pickle"))
        assert batch["data"].tolist() == BATCH[b"data"].tolist()
        assert {key: batch[key] for key in ("labels", "numbers", "names")} == {
            "labels": BATCH[b"labels"],
            "numbers": [0, 1],
            "names": BATCH["names"],
        }
    for content in filter(None, PICTURES):
        assert decoding.decode(content, (8, 8), decoding.eval_crop).shape == (8, 8, 3)
    Path("list").write_bytes(LISTS[0])
    assert len(lists.read_list(Path("list"), K, Path()).labels) == 3 * K
    for content, names in zip(OWN_LISTS, (['big "x"', "é"], ["ant", "bee", "cat"]), strict=True):
        Path("train.csv").write_bytes(content)
        Path("test.csv").write_bytes(content)
        assert own_lists.read(Path()).class_names == names
    Path("json").write_bytes(ANNOTATIONS[0])
    assert len(lists.read_coco(Path("json"), K, Path())[0].labels) == K


def text(value: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value


def dtype(name: bytes, state: bytes = b"") -> bytes:
    return b"cnumpy\ndtype\n" + text(name) + b"K\0K\1\x87R" + state


def array(shape: bytes, kind: bytes = dtype(b"u1"), order: bytes = b"\x89") -> bytes:
    """The program that makes an array of three bytes."""
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\1b\x87R"
    return made + b"(K\1" + shape + kind + order + b"C\3abctb"


ENCODE = b"c_codecs\nencode\n"
SCALAR = b"cnumpy.core.multiarray\nscalar\n"
FIELDS = b"(K\3X\1\0\0\0|NX\1\0\0\0a}NNNtb"
SUBARRAY = b"(K\3X\1\0\0\0|K\1NNNNNtb"
HOSTILE = {  # attack: (pickle, what the error says)
    "empty": (b"", "it ends early"),
    "nothing but a protocol": (b"\x80\4", "it ends early"),
    "stop with nothing": (b".", "pop from empty list"),
    "memo index of gigabytes": (b"}r\xff\xff\xff\xff.", "a place in memory of 4294967295"),
    "memo index in digits": (b"}p99999999999999999999\n.", "a place in memory of 99999"),
    "memo index of endless digits": (b"}p" + b"9" * 9999 + b"\n.", "Exceeds the limit"),
    "negative memo index": (b"}p-1\n.", "a place in memory of -1"),
    "bytes beyond the file": (b"\x8e" + struct.pack("<Q", 1 << 62), "it ends early"),
    "bytearray beyond the file": (b"\x96" + struct.pack("<Q", 1 << 40), "it ends early"),
    "text beyond the file": (b"\x8d" + struct.pack("<Q", 1 << 40), "it ends early"),
    "negative length": (b"T\xff\xff\xff\xff", "it ends early"),
    "number beyond the file": (b"J\1", "it ends early"),
    "encode the same text again": (
        b"(" + text(b"a" * 9999) + b"q\0" + (ENCODE + b"h\0U\6latin1\x86R") * 9 + b"l.",
        "more bytes than the file holds",
    ),
    "objects in an array": (array(b"K\3\x85", dtype(b"O8")), "an array of 'O8' instead of"),
    "dtype of size 0": (dtype(b"V0"), "an array of 'V0' instead of numbers"),
    "dtype of text": (dtype(b"S0"), "an array of 'S0' instead of numbers"),
    "dtype with fields": (dtype(b"u1", FIELDS), "something else than plain numbers"),
    "dtype with a subarray": (dtype(b"u1", SUBARRAY), "something else than plain numbers"),
    "dtype of no byte order": (dtype(b"u1", b"(K\3U\1!NNNtb"), "else than plain numbers"),
    "dtype whose state is None": (dtype(b"u1", b"Nb"), "'NoneType' object is not subscriptable"),
    "array larger than its bytes": (array(b"K\4\x85"), "claims to have another shape"),
    "array of overflowing shape": (array(b"M\xff\xff" * 3 + b"\x87"), "another shape"),
    "array of negative shape": (array(b"J\xff\xff\xff\xffJ\xfd\xff\xff\xff\x86"), "no valid shape"),
    "array of shape None": (array(b"N"), "an array without bytes, type or shape"),
    "array of dtype None": (array(b"K\3\x85", b"N"), "an array without bytes, type or shape"),
    "scalar of no bytes": (SCALAR + dtype(b"u1") + b"C\0\x86R.", "array of size 1"),
    "state of a dict": (b"}}b.", "a state for what has none"),
    "state of a class": (b"cnumpy\ndtype\n}b.", "a state for what has none"),
    "persistent id": (b"Pa\n.", "its instruction b'P' has no place"),
    "binary persistent id": (b"NQ.", "its instruction b'Q' has no place"),
    "extension": (b"\x82\1.", r"its instruction b'\x82' has no place"),
    "new object": (b"cnumpy\ndtype\n)\x81.", r"its instruction b'\x81' has no place"),
    "instance": (b"(ios\nsystem\n.", "its instruction b'i' has no place"),
    "object": (b"(cnumpy\ndtype\no.", "its instruction b'o' has no place"),
    "set": (b"\x8f.", r"its instruction b'\x8f' has no place"),
    "buffer from elsewhere": (b"\x97.", r"its instruction b'\x97' has no place"),
    "os.system": (b"cos\nsystem\nU\4true\x85R.", "it asks for os.system"),
    "builtins.eval": (b"cbuiltins\neval\n.", "it asks for builtins.eval"),
    "terminal codes": (b"ca\x1b[2J\nb\n.", r"it asks for a\x1b[2J.b"),
    "dtype of a number": (b"cnumpy\ndtype\nK\1\x85R.", "a int instead of text"),
    "bytes of gigabytes": (
        b"c__builtin__\nbytes\nJ\0\0\0\x7f\x85R.",
        "takes 0 positional arguments",
    ),
    "attribute of an attribute": (
        b"\x8c\5numpy\x8c\x0edtype.__init__\x93.",
        "it asks for numpy.dtype.__init__",
    ),
    "global of no text": (b"NN\x93.", "'NoneType' object has no attribute 'replace'"),
    "call of a text": (b"U\1a)R.", "a call of what is no function"),
    "call with a list": (b"cnumpy\ndtype\n]R.", "a call of what is no function"),
    "items for a number": (b"K\1K\1a.", "items for what is no list"),
    "keys for a list": (b"]U\1aK\1s.", "keys for what is no dict"),
    "keys that collide": (b"}K\1K\1s.", "a dict key that is no text"),
    "a key without a value": (b"}(U\1au.", "argument 2 is shorter"),
    "marks without end": (b"(" * 700_000, "more than 700,000 instructions"),
    "a tuple in a tuple without end": (b")" + b"\x85" * 700_000, "more than 700,000 instructions"),
    "deep lists": (b"]" * 2000 + b"a" * 1999 + b".", "more than 1,000 lists, dicts and arrays"),
    "many dicts": (b"}" * 2000, "more than 1,000 lists, dicts and arrays"),
    "many arrays": (b"(" + array(b"K\3\x85") * 1001, "more than 1,000 lists, dicts and arrays"),
    "text of four bytes a letter": (
        text("😀".encode() + b"a" * (1 << 20)),
        "more than 1,048,576 bytes of text beyond Latin-1",
    ),
    "escaped text of four bytes a letter": (
        b"V\\U0001f600" + b"a" * (1 << 20) + b"\n",
        "more than 1,048,576 bytes of text beyond Latin-1",
    ),
    "number of endless digits": (b"L" + b"9" * 9999 + b"L\n.", "Exceeds the limit"),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_hostile_pickles(attack):
    content, message = HOSTILE[attack]
    Path("pickle").write_bytes(content)
    with pytest.raises(ValueError) as error:
        readers.read_pickle(Path("pickle"))
    assert str(error.value).startswith("pickle: not a pickle of arrays and plain containers (")
    assert message in str(error.value)
    assert str(error.value).endswith("; fetch it again")
    assert len(str(error.value)) < 300


def laughs(key: bytes) -> bytes:
    """For a dict: under the key a list of ten lists of ten lists …: 10²⁰ numbers in 700 bytes."""
    layers = [text(key) + b"(" + b"h%c" % i * 10 + b"lq%cs" % (i + 1) for i in range(20)]
    return text(key) + b"K\1q\0s" + b"".join(layers)


def test_lists_that_explode_are_no_labels_and_no_names():
    Path("train").write_bytes(
        pickle.dumps({b"data": stamped_images(10, 0)}, 2)[:-1] + laughs(b"labels") + b"."
    )
    with pytest.raises(ValueError, match="train: expected 'labels' as 10 whole numbers"):
        readers.read_cifar(Path("train"), "labels")
    named = dataclasses.replace(
        cifar.CIFAR100, num_classes=10, names_key="labels", meta={"train": ""}
    )
    assert named._class_names(Path()) == [str(k) for k in range(10)]


@pytest.mark.parametrize(
    "piece",
    [b"(", b")", b"N", b"\x94", b"\x85", b"G" + bytes(8), b"J\1\2\3\4", b"C\2ab", text(b"ab")]
    + [b"h\0h\1R", b"h\2h\3\x93", b"}", b"c_codecs\nencode\n"]
    + [b"L123456789L\n", b"X\3\0\0\0\xc3\xa9a", b"\x8a\x04\1\2\3\4", b"N\x85", b"C\2ab\x94"],
    ids=repr,
)
def test_no_instruction_takes_more_memory_than_allowed(monkeypatch, piece):
    count = 50_000  # instructions: memory is proportional to them
    share = count / pickles.MAX_INSTRUCTIONS
    monkeypatch.setattr(pickles, "MAX_INSTRUCTIONS", count)
    content = (
        b"cnumpy\ndtype\nq\0U\2u1\x85q\1" + text(b"_codecs") + b"q\2" + text(b"encode") + b"q\3"
    )
    content += piece * count
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"more than (50,000 instructions|1,000 lists)"):
        pickles.load(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < share * MEMORY
