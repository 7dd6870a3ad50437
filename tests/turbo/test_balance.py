"""A balanced model computes what the model did: logits of attention before and after, in NumPy."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from turbo.attentions import (
    FAMILIES,
    keys_and_queries,
    largest_difference,
    logits,
    read_values,
    stats_of,
    write_family,
)

from tqconvert.gguf.header import read_header
from tqconvert.turbo.balance import FLOOR_WEIGHTS, Moments, factors, gain_db, powers_of_two
from tqconvert.turbo.balanceplan import BalancePlan, plan_balance
from tqconvert.turbo.fold import apply_balance
from tqconvert.turbo.kvstats import parse_stats
from tqconvert.turbo.rope import partners

Q = gguf.GGMLQuantizationType


def balanced(tmp_path: Path, file: Path, **options: object) -> tuple[Path, BalancePlan]:
    """The file balanced, and by which plan."""
    out = tmp_path / "out.gguf"
    plan = plan_balance(file, out, replace=True, **options)  # type: ignore[arg-type]
    apply_balance(plan)
    return out, plan


@pytest.mark.parametrize("mode", ["norm", "rows", "calibrated", "calibrated without mean"])
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_stay(tmp_path: Path, name: str, mode: str) -> None:
    """Every family, from the weights by both recipes and from statistics: 1e-5 of the largest logit."""
    family = FAMILIES[name]
    file = write_family(tmp_path / "m.gguf", family)
    if mode.startswith("calibrated"):
        stats = parse_stats(json.dumps(stats_of(family, file)), subject="stats")
        out, plan = balanced(tmp_path, file, stats=stats, mean=mode == "calibrated")
    else:
        out, plan = balanced(tmp_path, file, sigma=mode)
    old, new = read_values(file), read_values(out)
    assert largest_difference(logits(family, old), logits(family, new)) <= 1e-5
    assert all(layer.d.max() / layer.d.min() > 2 for layer in plan.layers), "something was balanced"
    changed = {name for name in old if not np.array_equal(old[name], new[name])}
    assert changed == set(plan.tensors)
    assert plan.mean_gain_db > 1


@pytest.mark.parametrize("name", ["llama", "qwen3", "qwen35"])
def test_the_comparison_finds_factors_that_differ_inside_a_pair(tmp_path: Path, name: str) -> None:
    """One channel of K scaled alone is seen; so is its query channel forgotten."""
    family = FAMILIES[name]
    file = write_family(tmp_path / "m.gguf", family)
    values, spoiled = read_values(file), read_values(file)
    sides = ("_norm.weight", "_norm.weight") if family.qk_norm else (".weight", ".weight")
    spoiled[f"blk.0.attn_k{sides[0]}"][3] *= 2
    spoiled[f"blk.0.attn_q{sides[1]}"][3] /= 2
    assert largest_difference(logits(family, values), logits(family, spoiled)) > 1e-3


@pytest.mark.parametrize("name", ["gemma3", "llama", "qwen2", "chatglm"])
def test_predicted_gain_is_what_a_flat_quantizer_gains(tmp_path: Path, name: str) -> None:
    """Noise of equal energy in all channels, proportional to K's, moves the logits that much less."""
    family = FAMILIES[name]
    file = write_family(tmp_path / "m.gguf", family)
    stats = stats_of(family, file, n=2048)
    out, plan = balanced(
        tmp_path, file, stats=parse_stats(json.dumps(stats), subject="s"), mean=False
    )
    x = np.random.default_rng(5).standard_normal((512, 256))
    x += np.random.default_rng(3).standard_normal((2049, 256))[-1]
    noise = [np.zeros(family.n_layers), np.zeros(family.n_layers)]
    for i, path in enumerate((file, out)):
        values = read_values(path)
        for layer in range(family.n_layers):
            k, q = keys_and_queries(family, values, layer, x)
            q = q.reshape(len(x), family.n_kv, -1, family.dim)
            # E over directions of noise of ||k|| in every channel
            noise[i][layer] = (np.sum(k**2, axis=2)[:, :, None] * np.sum(q**2, axis=3)).mean()
    gains = 10 * np.log10(noise[0] / noise[1])
    predicted = [layer.gain_db for layer in plan.layers]
    assert gains == pytest.approx(predicted, abs=0.7)


def test_mean_of_k_is_that_of_the_balanced_file(tmp_path: Path) -> None:
    """turboquant.k_mean holds, in layer order, what the balanced model's own K has for a mean."""
    family = FAMILIES["qwen3"]
    file = write_family(tmp_path / "m.gguf", family)
    stats = parse_stats(json.dumps(stats_of(family, file)), subject="stats")
    out, _ = balanced(tmp_path, file, stats=stats)
    field = gguf.GGUFReader(out).get_field("turboquant.k_mean")
    assert field is not None
    assert field.types == [gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.FLOAT32]
    rows = stats_of(family, out)["layers"]
    expected = np.concatenate([np.array(row["k_sum"]) / row["n_k"] for row in rows])
    assert np.array(field.contents()) == pytest.approx(expected, abs=1e-5 * np.abs(expected).max())


def test_calibration_takes_k_about_its_mean_only_if_the_file_tells_it(tmp_path: Path) -> None:
    """Without the mean in the file the runtime stores all of K, so D is made for all of it."""
    family = FAMILIES["qwen3"]
    file = write_family(tmp_path / "m.gguf", family)
    stats = parse_stats(json.dumps(stats_of(family, file)), subject="stats")
    _, centred = balanced(tmp_path, file, stats=stats)
    _, whole = balanced(tmp_path, file, stats=stats, mean=False)
    assert centred.k_mean is not None
    assert whole.k_mean is None
    assert centred.mean_gain_db > whole.mean_gain_db
    assert not np.allclose(centred.layers[0].d, whole.layers[0].d)


@pytest.mark.parametrize("kind", [Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q8_0, Q.F16])
def test_quantized_rows_move_the_logits_by_the_rounding_of_their_scales(
    tmp_path: Path, kind: Q
) -> None:
    """Below 2^-9 of the largest logit with free factors; powers of two move nothing.

    Of f16 weights a few of the smallest lose bits even then: they are subnormal.
    """
    family = FAMILIES["qwen2"]
    file = write_family(tmp_path / "m.gguf", family, {"attn_q.weight": kind, "attn_k.weight": kind})
    out, plan = balanced(tmp_path, file)
    difference = largest_difference(
        logits(family, read_values(file)), logits(family, read_values(out))
    )
    assert 0 < difference < 2**-9
    assert not plan.powers_of_two
    exact, plan = balanced(tmp_path, file, exact=True)
    assert plan.powers_of_two
    new, old = logits(family, read_values(exact)), logits(family, read_values(file))
    assert largest_difference(old, new) < (1e-7 if kind == Q.F16 else 1e-12)


def test_bf16_rows_take_powers_of_two_unasked(tmp_path: Path) -> None:
    """Another factor would cost 2^-9 there."""
    family = FAMILIES["llama"]
    file = write_family(tmp_path / "m.gguf", family, {"attn_k.weight": Q.BF16})
    out, plan = balanced(tmp_path, file)
    assert plan.powers_of_two
    old, new = logits(family, read_values(file)), logits(family, read_values(out))
    assert largest_difference(old, new) < 1e-12


def test_recipe_by_hand() -> None:
    """Two pairs of halves: D = (q/k)^(1/4) over the mean, by arithmetic on paper."""
    moments = Moments(np.array([[1.0, 16.0, 1.0, 16.0]]), np.array([[1.0, 1.0, 1.0, 1.0]]))
    d = factors(moments, partners(4, 4, "halves"), floor=0, shared=False)
    assert d == pytest.approx(np.array([[1, 0.5, 1, 0.5]]) / 0.75)
    # before: 34 * 4; after, times 0.75^2 and its inverse: (1 + 4 + 1 + 4) * (1 + 4 + 1 + 4)
    assert gain_db(moments, d) == pytest.approx(10 * np.log10(34 * 4 / 100))
    assert powers_of_two(d).tolist() == [[1, 0.5, 1, 0.5]]


def test_heads_under_one_norm_share_factors_and_zero_weights_do_no_harm() -> None:
    """One D for all heads; a channel whose weight is 0 gets a finite one."""
    random = np.random.default_rng(0)
    k, q = random.uniform(0, 2, (2, 8)), random.uniform(0, 2, (6, 8))
    k[:, 3] = k[:, 7] = 0
    d = factors(Moments(k, q), partners(8, 8, "halves"), floor=FLOOR_WEIGHTS, shared=True)
    assert (d[0] == d[1]).all()
    assert np.isfinite(d).all()
    assert (d > 0).all()
    own = factors(Moments(k, q), partners(8, 8, "halves"), floor=FLOOR_WEIGHTS, shared=False)
    assert not (own[0] == own[1]).all()
    nothing = Moments(np.zeros((1, 4)), np.zeros((1, 4)))
    assert factors(nothing, partners(4, 4, "none"), floor=0, shared=False).tolist() == [[1] * 4]


def test_rows_of_zeros_leave_their_channels_to_the_norm(tmp_path: Path) -> None:
    """A pruned head has no energy of its own to go by."""
    family = FAMILIES["qwen3"]
    file = write_family(tmp_path / "m.gguf", family)
    values = read_values(file)
    data = file.read_bytes()
    for name in ("blk.0.attn_k.weight", "blk.0.attn_q.weight"):
        raw = values[name].astype("<f4").tobytes()
        assert data.count(raw) == 1
        data = data.replace(raw, bytes(len(raw)))
    file.write_bytes(data)
    rows, norm = (balanced(tmp_path, file, sigma=sigma)[1] for sigma in ("rows", "norm"))
    assert np.array_equal(rows.layers[0].d, norm.layers[0].d)
    assert not np.array_equal(rows.layers[1].d, norm.layers[1].d)


@pytest.mark.parametrize("kind", [Q.F32, Q.Q8_0, Q.Q4_K, Q.IQ4_XS])
def test_a_sample_of_long_rows_estimates_their_energy(kind: Q) -> None:
    """By its fourth root, as factors are: within 10 % each, 4 % on average, inputs of unlike weight."""
    from tqconvert.gguf.header import Tensor
    from tqconvert.gguf.types import TENSOR_TYPES
    from tqconvert.turbo.attention import Part
    from tqconvert.turbo.moments import row_energy

    random, n_in, n_out = np.random.default_rng(0), 5120, 64
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = random.integers(0, 256, (n_out, n_in // block, size), dtype=np.uint8)
    if kind == Q.F32:
        raw = random.standard_normal((n_out, n_in)).astype(np.float32)
    else:  # one scale for all blocks, so that rows differ as random ones do
        raw[:, :, :2] = np.array([0.01], "<f2").view(np.uint8)
        if kind == Q.Q4_K:
            raw[:, :, 2:4] = 0
    rows = raw.reshape(n_out, -1)
    whole = gguf.quants.dequantize(rows, kind).astype(np.float64)
    weights = np.exp(random.normal(0, 0.5, n_in))
    part = Part(Tensor("blk.0.attn_k.weight", (n_in, n_out), TENSOR_TYPES[int(kind)], 0), 0, n_out)
    data = rows.tobytes()
    found = row_energy(part, weights, lambda at, n: data[at : at + n])
    expected = np.square(whole * weights).sum(axis=1)
    ratio = found / found.mean() / (expected / expected.mean())
    assert (np.abs(ratio**0.25 - 1) < 0.1).all()
    assert np.abs(ratio**0.25 - 1).mean() < 0.04


def test_a_projection_that_nobody_reads_leaves_the_norms_alone(tmp_path: Path) -> None:
    """With QK-norm the norms stand in; without it the type is refused by name."""
    from tqconvert.gguf.header import Tensor
    from tqconvert.gguf.types import TENSOR_TYPES
    from tqconvert.turbo.attention import Part, read_attention
    from tqconvert.turbo.moments import UnreadableTypeError, estimate_moments

    layers = {}
    for name in ("qwen3", "llama"):
        file = write_family(tmp_path / f"{name}.gguf", FAMILIES[name])
        header = read_header(file)
        data = file.read_bytes()[header.data_start :]
        layer = read_attention(header, subject="m").layers[0]
        wk = Part(Tensor("blk.0.attn_k.weight", (256, 128), TENSOR_TYPES[41], 0), 0, 128)  # Q1_0
        layers[name] = layer._replace(wk=wk), lambda at, n, data=data: data[at : at + n]
    found, norm = (
        estimate_moments(*layers["qwen3"], sigma=sigma)  # type: ignore[arg-type]
        for sigma in ("rows", "norm")
    )
    assert np.array_equal(found.k, norm.k)
    with pytest.raises(
        UnreadableTypeError, match=r"attn_k.weight: nothing here can dequantize Q1_0"
    ):
        estimate_moments(*layers["llama"], sigma="rows")
