"""Reading checkpoints: both formats give what was saved, and nothing that a pickle carries is run."""

import collections
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models.published import KNOWN, read_tensors

# Of a checkpoint in the older format, each a pickle: magic number, version of the format, the machine.
HEAD = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})


class Network(nn.Module):
    """Parameters and buffers of several dtypes, shared and transposed storages, a module inside another."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.PReLU(4))
        self.linear = nn.Linear(5, 2)
        self.linear.weight = nn.Parameter(torch.randn(5, 2).t())
        self.register_buffer("halves", torch.arange(12, dtype=torch.float16).reshape(3, 4)[1:, ::2])
        self.register_buffer("same_storage", self.halves[1:])
        self.register_buffer("empty", torch.empty(0, 3))
        self.register_buffer("scratch", torch.ones(2), persistent=False)
        self.register_parameter("absent", None)


@pytest.fixture(params=[True, False], ids=["zip", "stream"])
def is_zip(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def save(content: object, path: Path, is_zip: bool) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    assert zipfile.is_zipfile(path) == is_zip
    return path


def assert_same(read: dict[str, torch.Tensor], saved: dict[str, torch.Tensor]) -> None:
    assert list(read) == list(saved)
    for name, tensor in saved.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor), name


def test_a_whole_network(tmp_path: Path, is_zip: bool) -> None:
    network = Network()
    path = save(nn.DataParallel(network), tmp_path / "network.pt", is_zip)
    assert_same(read_tensors(path), {f"module.{name}": tensor for name, tensor in network.state_dict().items()})
    with pytest.raises(pickle.UnpicklingError):  # what this reader is for
        torch.load(path, weights_only=True)


def test_the_state_of_a_network(tmp_path: Path, is_zip: bool) -> None:
    state = Network().state_dict()
    assert_same(read_tensors(save(state, tmp_path / "state.pt", is_zip)), dict(state))


def test_tensors_among_other_things(tmp_path: Path, is_zip: bool) -> None:
    optimiser = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    content = {
        "epoch": 7,
        "state_dict": {"a.weight": torch.ones(2), "b": torch.zeros(1, dtype=torch.int64)},
        "optimiser": optimiser,
        "options": {"names": ["x"], "where": Path("somewhere"), "rates": collections.defaultdict(list, a=[1])},
    }
    read = read_tensors(save(content, tmp_path / "run.pt", is_zip))
    assert_same(read, {f"state_dict.{name}": tensor for name, tensor in content["state_dict"].items()})  # type: ignore[attr-defined]


class Call:
    """Pickles as a call of ``function``."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        return self.function, self.arguments

    def __call__(self) -> None:
        """The pickler asks that a function to be called is callable."""


def attacks(trap: Path) -> dict[str, object]:
    """Each creates ``trap`` when it is loaded without restriction."""
    create = f"__import__('pathlib').Path({str(trap)!r}).touch()"
    return {
        "os.system": Call(os.system, f"touch {trap}"),
        "eval": Call(eval, create),
        "exec": Call(exec, create),
        "open": Call(open, str(trap), "w"),
        "a call of what another call gave": Call(Call(getattr, Call(__import__, "os"), "system"), f"touch {trap}"),
        "pickle in pickle": Call(pickle.loads, pickle.dumps(Call(os.system, f"touch {trap}"))),
    }


@pytest.mark.parametrize("attack", attacks(Path("trap")))
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of the file that the attack opens
def test_nothing_in_a_checkpoint_is_run(tmp_path: Path, is_zip: bool, attack: str, protocol: int) -> None:
    trap, path = tmp_path / "trap", tmp_path / "trap.pt"
    content = {"weight": torch.ones(3), "payload": attacks(trap)[attack]}
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip)
    assert_same(read_tensors(path), {"weight": torch.ones(3)})
    assert not trap.exists()
    torch.load(path, weights_only=False)
    assert trap.exists()  # the trap was live


def test_nothing_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_zip: bool) -> None:
    (tmp_path / "trap_module.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()\nclass Thing: pass\n")
    path = save({"weight": torch.ones(1), "thing": torch.nn.Identity()}, tmp_path / "x.pt", is_zip)
    content = path.read_bytes()
    named = b"ctorch.nn.modules.linear\nIdentity\n"
    ours = b"ctrap_module\nThing\n"
    assert content.count(named) == 1
    monkeypatch.syspath_prepend(tmp_path)
    if is_zip:
        with zipfile.ZipFile(path) as before, zipfile.ZipFile(tmp_path / "y.pt", "w") as after:
            for info in before.infolist():
                after.writestr(info.filename, before.read(info).replace(named, ours))
        path = tmp_path / "y.pt"
    else:
        path.write_bytes(content.replace(named, ours))
    assert_same(read_tensors(path), {"weight": torch.ones(1)})
    assert not (tmp_path / "imported").exists()


def test_a_checkpoint_changes_no_function_of_ours(tmp_path: Path) -> None:
    """In opcodes: _rebuild_parameter, then set its __defaults__ to ()."""
    build = b"\x80\x02ctorch._utils\n_rebuild_parameter\n(N}X\x0c\x00\x00\x00__defaults__)stb."
    path = tmp_path / "x.pt"
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in HEAD) + build)
    with pytest.raises(ValueError, match="cannot be read"):
        read_tensors(path)
    assert all(getattr(known, "__defaults__", None) is None for known in KNOWN.values())


class Numbers:
    """Storage "0" of a checkpoint that is written by hand, as the pickle describes it."""

    def __init__(self, kind: type, length: int, view: object) -> None:
        self.kind, self.length, self.view = kind, length, view


class View:
    """A tensor in such a storage."""

    def __init__(
        self, size: int, stride: int, offset: int, length: int, kind: type = torch.FloatStorage, view: object = None
    ) -> None:
        self.arguments = Numbers(kind, length, view), offset, (size,), (stride,), False, {}

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        return torch._utils._rebuild_tensor_v2, self.arguments


class Pickler(pickle.Pickler):
    def persistent_id(self, value: object) -> object:
        if not isinstance(value, Numbers):
            return None
        return "storage", value.kind, "0", "cpu", value.length, value.view


def stream(content: object, keys: object = ("0",), tail: bytes = b"") -> bytes:
    """A checkpoint in the older format."""
    out = io.BytesIO()
    for part in (*HEAD, content, keys):
        Pickler(out, 2).dump(part)
    return out.getvalue() + tail


FOUR = (4).to_bytes(8, "little") + torch.arange(4.0).numpy().tobytes()


def test_the_stream_written_by_hand_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(stream({"w": View(2, 2, 1, 4)}, tail=FOUR))
    assert_same(read_tensors(path), {"w": torch.tensor([1.0, 3.0])})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Ran out of input"),
        (b"GIF89a", "cannot be read"),
        (pickle.dumps({"a": 1}), "cannot be read"),
        (stream({"w": View(2, 4, 1, 4)}, tail=FOUR), "out of bounds"),
        (stream({"w": View(2, -1, 1, 4)}, tail=FOUR), "[Nn]egative"),
        (stream({"w": View(4, 1, 0, 4)}, tail=FOUR[:-1]), "15 bytes instead of 4"),
        (stream({"w": View(4, 1, 0, 10**12)}, tail=FOUR), "has 4 numbers instead of 1000000000000"),
        (stream({"w": View(4, 1, 0, -1)}, tail=b"\xff" * 8), "0 bytes instead of -1"),
        (stream({"w": View(4, 1, 0, 4)}, keys=()), "cannot be read: '0'"),
        (stream({"w": View(4, 1, 0, 4), "v": View(4, 1, 0, 4, torch.IntStorage)}, tail=FOUR), "described in two ways"),
        (stream({"w": View(4, 1, 0, 4, torch.QInt8Storage)}, tail=FOUR), "refers to .* not supported"),
        (stream({"w": View(4, 1, 0, 4, view=("1", 0, 4))}, tail=FOUR), "refers to .* not supported"),
        (stream({"w": Call(torch._utils._rebuild_sparse_tensor, 1)}), "_rebuild_sparse_tensor makes a kind of tensor"),
        (stream({"a": {"b": View(1, 1, 0, 4)}, "a.b": View(2, 1, 0, 4)}, tail=FOUR), "two tensors are called 'a.b'"),
        (stream({"a": 1}, keys=()), "holds no tensors"),
    ],
)
def test_what_is_no_checkpoint_or_a_damaged_one_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_tensors(path)
    assert str(path) in str(caught.value)


def test_a_zip_file_that_is_cut_off_or_something_else_is_refused(tmp_path: Path) -> None:
    path = save({"a": torch.ones(100)}, tmp_path / "x.pt", is_zip=True)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="cannot be read: File is not a zip file"):
        read_tensors(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "x")
    with pytest.raises(ValueError, match=r"without data\.pkl"):
        read_tensors(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "x.pt")
