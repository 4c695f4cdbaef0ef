"""bench op, step and tune: what is timed, what is counted, and what is printed."""

import json

import pytest
import torch

from wbcli import cli
from wbcli.balance import extension, reference
from wbcli.balance.ops import sgd_max_norm_
from wbcli.bench import ops, timing, tune
from wbcli.training import heads

QUICK = ("--shape", "40x33", "--rounds", "3", "--no-compile", "--device", "cpu")
OURS = {"op": "wbcli.max_norm_", "step": "wbcli.SGD"}


def run(capsys, *args: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ending:
        cli.main(list(args))
    out, err = capsys.readouterr()
    return ending.value.code, out, err


def operands(clipped: str, steps: bool, dtype=torch.float32) -> ops.Operands:
    return ops.Operands(ops.Case((40, 33), clipped, "warm"), dtype, torch.device("cpu"), steps)


@pytest.mark.parametrize("name", ["op", "step"])
def test_json_has_every_peer_of_every_case(capsys, name):
    code, out, err = run(capsys, "bench", name, *QUICK, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["bench"] == name
    assert found["shapes"] == ["40x33"]
    assert found["machine"]["kernels"] == extension.kernels("cpu")
    assert {(r["clipped"], r["cache"]) for r in found["results"]} == {
        (clipped, cache) for clipped in ops.CLIPPED for cache in ops.CACHES
    }
    for result in found["results"]:
        assert result["ratio_to"] == OURS[name]
        assert result["median_us"] > 0 and result["ratio"] > 0 and result["spread"] >= 0
        if result["name"] == OURS[name]:
            assert result["ratio"] == 1
        if result["name"] == "copy":
            assert result["fraction_of_copy"] == pytest.approx(1)
            assert result["bytes"] == 2 * 40 * 33 * 4
    assert "40x33 float32, half clipped, cold cache" in err


def test_a_table_says_what_its_columns_mean(capsys):
    code, out, _ = run(capsys, "bench", "op", *QUICK, "--clipped", "all", "--cache", "warm")
    assert code == 0
    assert "renorm_" in out and "released code" in out
    assert "ratio: time over that of wbcli.max_norm_, median of the rounds" in out


@pytest.mark.parametrize("steps", [False, True])
@pytest.mark.parametrize(("clipped", "share"), [("none", 0), ("half", 0.5), ("all", 1)])
def test_the_radius_clips_the_share_that_is_claimed(clipped, share, steps):
    x = operands(clipped, steps)
    if steps:
        sgd_max_norm_(x.weight, x.other, x.buffer, **ops.STEP)
    over = reference.row_norms(x.weight) > x.radius
    assert over.float().mean().item() == pytest.approx(share, abs=1 / 40)


@pytest.mark.parametrize("clipped", ops.CLIPPED)
@pytest.mark.parametrize("name", ["op", "step"])
def test_all_peers_compute_the_same(name, clipped):
    x = operands(clipped, name == "step")
    peers = ops.PEERS[name](x, compiled=False)
    results = {}
    for peer in peers.keys() - {"read", "copy", "fused SGD"}:
        x.restore()
        peers[peer].call()
        results[peer] = x.weight.clone()
    ours = results.pop(OURS[name])
    assert len(results) >= 2
    for other in results.values():
        torch.testing.assert_close(other, ours, rtol=1e-5, atol=1e-6)  # renorm_ adds 1e-7


def test_ratio_and_spread_by_hand():
    case = ops.Case((1, 1), "none", "cold")
    peers = {"ours": timing.Peer(int, 1), "copy": timing.Peer(int, 2)}
    times = {"ours": [10.0, 20.0, 30.0], "copy": [20.0, 20.0, 90.0]}
    host = {"ours": [3.0, 2.0, 9.0], "copy": [1.0, 1.0, 1.0]}
    ours, copy = ops._summarize(case, torch.float32, peers, times, host, one_pass=8)
    assert (ours["median_us"], copy["median_us"]) == (20, 20)
    assert ours["spread"] == 1
    assert copy["ratio"] == 2, "the median of 2, 1 and 3"
    assert ours["fraction_of_copy"] == 0.5
    assert (ours["bytes"], copy["bytes"]) == (8, 16)


def test_where_torch_compile_fails_it_is_left_out_and_said(capsys, monkeypatch):
    def broken(function):
        def call(*args, **options):
            raise RuntimeError("no C++ compiler\nand more")

        return call

    monkeypatch.setattr(ops, "_compile", broken)
    once = ("--shape", "4x3", "--rounds", "2", "--cache", "warm", "--json")
    code, out, err = run(capsys, "bench", "step", *once)
    assert code == 0
    assert "torch.compile" not in {result["name"] for result in json.loads(out)["results"]}
    assert err.count("torch.compile is left out, it fails here: no C++ compiler\n") == 1


@pytest.mark.parametrize("shape", ["40", "0x4", "axb", "4x-2", "9999999999x2"])
def test_a_wrong_shape_is_told_what_was_expected(capsys, shape):
    code, out, err = run(capsys, "bench", "op", "--shape", shape)
    assert (code, out) == (2, "")
    assert f"expected rows x columns, such as 8142x2048, got '{shape}'" in err


TUNE = ("bench", "tune", "--rounds", "2", "--heads", "3", "--steps", "2", "--device", "cpu")


def test_json_of_bench_tune(capsys):
    code, out, err = run(capsys, *TUNE, "--shape", "10x8", "--shape", "4x5", "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert set(found) == {"bench", "machine", "shapes", "results"}
    assert (found["bench"], found["shapes"]) == ("tune", ["10x8", "4x5"])
    assert found["machine"]["kernels"] == extension.kernels("cpu")
    sides = [tune.OURS, tune.ALONE]
    assert [(r["shape"], r["name"]) for r in found["results"]] == [
        (shape, side) for shape in ("10x8", "4x5") for side in sides
    ]
    for result in found["results"]:
        assert (result["heads"], result["steps"], result["rounds"]) == (3, 2, 2)
        assert result["ratio_to"] == tune.OURS
        assert result["median_us"] > 0 and result["ratio"] > 0 and result["spread"] >= 0
        assert (result["bytes"], result["fraction_of_copy"]) == (None, None)
        if result["name"] == tune.OURS:
            assert result["ratio"] == 1


def test_the_table_of_bench_tune_says_what_its_columns_mean(capsys):
    code, out, _ = run(capsys, *TUNE, "--shape", "10x8")
    assert code == 0
    assert [line.split()[:3] for line in out.splitlines()[2:4]] == [
        ["10x8", "3", "together"],
        ["10x8", "3", "one"],
    ]
    assert "2 steps of 64 images; ms: median of 2 rounds" in out
    assert "ratio: time over that of the heads trained together" in out


def test_both_sides_of_bench_tune_train_the_same_heads():
    """Eight heads, 20 steps. Worst difference measured: 1.5e-7; allowed: 2e-6."""
    results = tune.run([(10, 64), (5, 3)], 8, 20, 2, torch.device("cpu"))
    assert all(0 < result["difference"] < 2e-6 for result in results)


def test_bench_tune_sees_heads_that_are_not_the_same(monkeypatch):
    broken = heads.Heads.logits
    monkeypatch.setattr(heads.Heads, "logits", lambda self, x: 1.01 * broken(self, x))
    results = tune.run([(10, 8)], 2, 20, 2, torch.device("cpu"))
    assert all(result["difference"] > 1e-4 for result in results)


def test_the_candidates_of_bench_tune_differ_in_all_that_is_searched():
    settings = tune.candidates(4)
    assert [c.wd for c in settings] == pytest.approx([1e-4, 2e-4, 3e-4, 4e-4])
    assert [c.lr for c in settings] == pytest.approx([0.01, 0.011, 0.012, 0.013])
    assert [c.maxnorm for c in settings] == [0, 0.25, 0.5, 0.75]


def test_ratio_and_spread_of_bench_tune_by_hand():
    """Ratios 4, 2 and 3; quartiles of 10, 20, 30 are 10, 20 and 30."""
    times = {tune.OURS: [10.0, 20.0, 30.0], tune.ALONE: [40.0, 40.0, 90.0]}
    ours, alone = tune._summarize(times)
    assert (ours["median_us"], ours["spread"], ours["ratio"]) == (20, 1, 1)
    assert (alone["median_us"], alone["ratio"]) == (40, 3)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--shape", "40"), "expected rows x columns, such as 8142x2048, got '40'"),
        (("--heads", "0"), "0 is not in the range x>=1"),
        (("--steps", "0"), "0 is not in the range x>=1"),
        (("--rounds", "1"), "1 is not in the range x>=2"),
    ],
)
def test_wrong_options_of_bench_tune_are_refused(capsys, option, message):
    code, out, err = run(capsys, "bench", "tune", *option)
    assert (code, out) == (2, "")
    assert message in err
