"""What holds for every method of the catalogue."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lockstep import exchange
from methods import SHAPES, draw, make, memory_of, plain, said
from torch import Tensor

from node_agent.compression import codec, create
from node_agent.compression.base import Coded, Coder, GradientError, Layer, StepContext, alone
from node_agent.compression.basis import Basis
from node_agent.compression.compressor import Compressor
from node_agent.compression.octets import PayloadError
from node_agent.compression.settings import CATALOGUE, AutomaticDensity, CompressorSettings

NAMES = list(CATALOGUE)
WITH_DENSITY = [name for name in NAMES if "density" in CATALOGUE[name].model_fields]
WITH_MEMORY = [name for name in NAMES if CATALOGUE[name]().error_feedback]
PRIVATE = [name for name in NAMES if CATALOGUE[name]().reduction == "private"]
EXACT = [
    name for name in ("topk", "randomk", "threshold", "gaussiank", "dgc", "cltk", "arctopk", "nsi") if name in CATALOGUE
]
"""send entries as they are"""
DRAWN = ["qsgd", "terngrad"]
"""round at random"""
VOTES = ["signsgd"]
"""do not take the mean of what is said"""
PLAIN: dict[str, dict[str, Any]] = {"dgc": {"momentum_correction": 0.0}}
"""settings under which what accumulates is the gradient"""
FINITE = st.floats(width=32, min_value=-(2.0**100), max_value=2.0**100)


@pytest.mark.parametrize("nodes", [1, 2, 3, 5])
@pytest.mark.parametrize("name", NAMES)
def test_all_nodes_hold_the_same_mean_of_what_was_said(name: str, nodes: int) -> None:
    compressors = [make(name) for _ in range(nodes)]
    for step in range(3):
        outcomes, sent = exchange(compressors, [draw(100 * step + k) for k in range(nodes)], step)
        if compressors[0].reduction == "private":
            assert sent[-1][0].reduction == "private"
        for place in range(len(SHAPES)):
            for outcome in outcomes:
                assert torch.equal(outcome.mean[place], outcomes[0].mean[place])
            if name not in VOTES:
                mean = torch.stack([outcome.said[place].decoded() for outcome in outcomes]).mean(0)
                # Halves are summed in half precision.
                rounding = {"fp16": nodes / 2048, "bf16": nodes / 128}.get(name, 1e-5)
                torch.testing.assert_close(outcomes[0].mean[place], mean, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in PRIVATE])
def test_aligned_methods_act_on_the_averaged_gradient(name: str) -> None:
    # Nodes whose gradients are multiples of one another agree on what is largest without being asked.
    base = draw(1)
    gradients = [{layer: factor * g for layer, g in base.items()} for factor in (0.5, 1.0, 2.0, 4.5)]
    outcomes, _ = exchange([plain(name) for _ in gradients], gradients)
    (alone,), _ = exchange([plain(name)], [{layer: 2 * g for layer, g in base.items()}])
    rounding = {"fp16": 2**-9, "bf16": 2**-6}.get(name, 1e-5)
    for found, expected in zip(outcomes[0].mean, alone.mean, strict=True):
        torch.testing.assert_close(found, expected, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("name", WITH_DENSITY)
def test_density_one_is_dense(name: str) -> None:
    gradients = [draw(k) for k in range(3)]
    compressors = [make(name, density=1.0, **PLAIN.get(name, {})) for _ in gradients]
    dense, _ = exchange([make("none") for _ in gradients], gradients)
    for step in range(3):
        outcomes, _ = exchange(compressors, gradients, step)
        for found, expected in zip(outcomes[1].mean, dense[1].mean, strict=True):
            assert torch.equal(found, expected)
        for compressor in compressors:
            memory = memory_of(compressor)
            assert memory is not None
            assert not any(residual.any() for residual in memory.residual.values())


matrices = st.builds(
    lambda rows, columns, entries: torch.from_numpy(np.resize(np.array(entries, dtype=np.float32), (rows, columns))),
    st.integers(1, 12),
    st.integers(1, 12),
    st.lists(FINITE, min_size=1, max_size=144),
)


@pytest.mark.parametrize("name", EXACT)
@given(gradient=matrices, density=st.sampled_from([0.05, 0.5]))
@settings(max_examples=30)
def test_said_and_residual_are_what_accumulated_bit_for_bit(name: str, density: float, gradient: Tensor) -> None:
    values = PLAIN.get(name, {}) | ({"density": density} if name in WITH_DENSITY else {"threshold": density})
    compressor = make(name, {"a": tuple(gradient.shape)}, **values)
    memory = memory_of(compressor)
    assert memory is not None
    accumulated = gradient
    for step in range(3):
        own = said(compressor, {"a": gradient}, step)["a"]
        residual = memory.residual["a"]
        assert torch.equal(own + residual, accumulated)
        assert not torch.any((own != 0) & (residual != 0))
        accumulated = gradient + residual


@pytest.mark.parametrize("name", [name for name in NAMES if name not in EXACT])
@given(seed=st.integers(0, 10**6))
@settings(max_examples=5)
def test_said_and_residual_are_what_accumulated_to_rounding(name: str, seed: int) -> None:
    compressor = make(name)
    memory = memory_of(compressor)
    residual = {layer: torch.zeros(shape) for layer, shape in SHAPES.items()}
    for step in range(3):
        gradients = draw(seed + step)
        own = said(compressor, gradients, step)
        if memory is None:
            assert not CATALOGUE[name]().error_feedback
            return
        for layer, gradient in gradients.items():
            kept = memory.residual[layer]
            torch.testing.assert_close(own[layer] + kept, gradient + residual[layer], rtol=1e-5, atol=1e-5)
            residual[layer] = kept.clone()
    assert any(tensor.any() for tensor in residual.values())


@pytest.mark.parametrize("name", NAMES)
def test_buckets_make_no_difference(name: str) -> None:
    values: dict[str, Any] = {"warmup_steps": 2} if "warmup_steps" in CATALOGUE[name].model_fields else {}
    if name == "threshold":
        values = {}
    whole, parted = ([make(name, **values) for _ in range(3)] for _ in range(2))
    for step in range(4):
        gradients = [draw(100 * step + k) for k in range(3)]
        for scale, mine in enumerate(gradients):
            mine["c"] *= 1 + 3 * scale  # so that the layers' densities move apart
        together, _ = exchange(whole, gradients, step)
        expected = dict(zip(SHAPES, together[0].mean, strict=True))
        for group in (["c"], ["b", "a"]):
            outcomes, _ = exchange(parted, [{layer: mine[layer] for layer in group} for mine in gradients], step)
            for layer, mean in zip(group, outcomes[0].mean, strict=True):
                assert torch.equal(mean, expected[layer])


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_left_alone_and_may_be_strided(name: str) -> None:
    gradients = draw(3)
    strided = {
        layer: g.flip(0).contiguous().flip(0).transpose(0, 1).contiguous().transpose(0, 1)
        for layer, g in gradients.items()
    }
    assert not any(g.is_contiguous() for g in strided.values())
    for found, expected in zip(said(make(name), strided).values(), said(make(name), gradients).values(), strict=True):
        torch.testing.assert_close(found, expected)
    assert all(torch.equal(g, draw(3)[layer]) for layer, g in strided.items())


class Twice(Coder):
    """Says something else than the coordinates."""

    def say(self, layer: Layer, basis: Basis, values: Tensor, context: StepContext) -> Coded:
        return super().say(layer, basis, values * 2, context)


@pytest.mark.parametrize(("method", "factor"), [(Coder, 1), (Twice, 2)])
def test_what_is_said_outlives_the_gradient(method: type[Coder], factor: int) -> None:
    gradient, memory = torch.randn(3, 4), torch.zeros(3, 4)
    memory.copy_(gradient)
    ((one,), _) = alone(
        method(CompressorSettings(name="all"), [Layer("a", (3, 4))]).compress(["a"], [memory], StepContext())
    )
    memory.zero_()
    assert torch.equal(one.decoded(), factor * gradient)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_may_be_every_other_entry(name: str) -> None:
    whole = [torch.randn(2000), torch.randn(2000, 2)]
    strided = [whole[0][::2], whole[1][:, :1]]
    assert not any(g.is_contiguous() for g in strided)
    copied = [g.contiguous() for g in strided]
    assert bytes(create(name).encode(strided)) == bytes(create(name).encode(copied))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 2000), (2000, 1), (1, 1), (9, 9)])
def test_zero_narrow_and_tiny_gradients(name: str, shape: tuple[int, ...]) -> None:
    for gradient in (torch.zeros(shape), torch.full(shape, 1e-45), torch.randn(shape)):
        compressor = make(name, {"a": shape}, **PLAIN.get(name, {}))
        own = said(compressor, {"a": gradient})["a"]
        assert own.shape == torch.Size(shape)
        assert own.isfinite().all()
        memory = memory_of(compressor)
        if memory is not None:
            torch.testing.assert_close(own + memory.residual["a"], gradient)
        bound = compressor.size_bound([gradient])
        payload = compressor.encode([gradient])
        assert len(payload) <= bound
        assert compressor.decode(bytes(payload))[0].shape == torch.Size(shape)


@pytest.mark.parametrize("name", NAMES)
def test_empty_tensors_and_numbers_go_along(name: str) -> None:
    gradients = [torch.randn(40, 50), torch.zeros(0, 7), torch.tensor(3.0), torch.zeros(3, 0, 2)]
    compressor = create(name)
    decoded = compressor.decode(bytes(compressor.encode(gradients)))
    assert [tensor.shape for tensor in decoded] == [tensor.shape for tensor in gradients]
    assert name in VOTES or decoded[2] == pytest.approx(3, rel=1e-2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", NAMES)
def test_every_node_refuses_a_gradient_that_is_not_finite_before_it_averages(name: str, value: float) -> None:
    gradients = [draw(k) for k in range(3)]
    gradients[1]["b"][3, 2, 1, 0] = value
    message = "layer b: 1 of 1152 gradient entries are NaN or infinite"
    compressors = [make(name) for _ in gradients]
    contexts = [StepContext(3, 0, rank) for rank in range(3)]
    running = [
        compressor.rounds(list(mine), list(mine.values()), context)
        for compressor, mine, context in zip(compressors, gradients, contexts, strict=True)
    ]
    replies: list[Any] = [None] * 3
    errors: list[str] = []
    for _ in range(2):  # one round, and one more where sums say only that something is wrong
        rounds = []
        for one, reply in zip(running, replies, strict=True):
            try:
                rounds.append(one.send(reply))
            except GradientError as error:
                errors.append(str(error))
        if errors:
            break
        if rounds[0].reduction == "aligned":
            total = rounds[0].data + rounds[1].data + rounds[2].data
            replies = [total.clone() for _ in running]
        else:
            replies = [[one.data for one in rounds] for _ in running]
    else:
        for one, reply in zip(running, replies, strict=True):
            with pytest.raises(GradientError) as refusal:
                one.send(reply)
            errors.append(str(refusal.value))
    assert errors == [f"{message} (rank 1)"] * 3
    with pytest.raises(GradientError, match=message):
        make(name).encode(list(gradients[1].values()))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "powersgd"])  # which refuses sums beyond float32
def test_what_accumulates_beyond_float32_is_cut_off_and_the_nodes_agree(name: str) -> None:
    values: dict[str, Any] = {"threshold": 1e38} if name in ("threshold", "strom") else {}
    if name not in ("none", "signsgd", "size-adaptive"):
        values["error_feedback"] = True
    compressors = [make(name, **values) for _ in range(3)]
    generator = torch.Generator().manual_seed(0)
    large = {layer: g.sign() * (2 + torch.rand(g.shape, generator=generator)) * 1e38 for layer, g in draw(0).items()}
    for step in range(5):
        outcomes, _ = exchange(compressors, [large, draw(2 * step), draw(2 * step + 1)], step)
        for compressor in compressors:
            memory = memory_of(compressor)
            if memory is not None:
                assert not any(residual.isnan().any() for residual in memory.residual.values())
        for outcome in outcomes[1:]:
            assert all(torch.equal(mean, other) for mean, other in zip(outcome.mean, outcomes[0].mean, strict=True))


def test_a_fault_is_told_beside_an_empty_tensor() -> None:
    layers = [Layer("empty", (0,)), Layer("w", (100, 100))]
    gradients = [{"empty": torch.zeros(0), "w": torch.full((100, 100), value)} for value in (1.0, torch.nan)]
    nodes = [create("topk", layers, density=1.0) for _ in gradients]
    with pytest.raises(GradientError, match=r"layer w: 10000 of 10000 .* \(rank 1\)"):
        exchange(nodes, gradients)


def test_a_fault_that_no_round_tells_is_not_kept_quiet() -> None:
    rounds = create("none", [Layer("empty", (0,))]).rounds(["empty"], [torch.zeros(3)], StepContext(2, 0))
    with pytest.raises(GradientError, match=r"layer empty: found a gradient of .* shape \(3,\)"):
        next(rounds)


def test_a_message_that_is_not_finite_is_traced_to_its_node() -> None:
    layers = [Layer("w", (40, 50))]
    one = next(create("topk", layers).rounds(["w"], [torch.randn(40, 50)], StepContext(2, 1)))
    (lie,) = codec.unpack(one.data.clone(), 3, layers)
    lie.octets.view(torch.uint8)[-4:] = torch.tensor([torch.nan]).view(torch.uint8)
    rounds = create("topk", layers).rounds(["w"], [torch.randn(40, 50)], StepContext(2, 0))
    mine = next(rounds).data
    with pytest.raises(PayloadError, match="message of rank 1: payload: layer w: found values that are NaN"):
        rounds.send([mine, codec.pack(3, [lie])])


@pytest.mark.parametrize("gradient", [torch.zeros(30), torch.zeros(30, 40), torch.zeros(40, 30, dtype=torch.float64)])
def test_a_gradient_that_does_not_fit_its_layer_is_refused(gradient: Tensor) -> None:
    with pytest.raises(GradientError, match=r"layer a: found a gradient of .* expected torch.float32 and \(40, 30\)"):
        make("topk").rounds(["a"], [gradient], StepContext())
    with pytest.raises(GradientError, match="layer z: unknown"):
        make("topk").rounds(["z"], [gradient], StepContext())
    with pytest.raises(GradientError, match="gradients: found 1, expected 3"):
        make("topk").encode([gradient])


@pytest.mark.parametrize("name", PRIVATE)
def test_a_damaged_message_is_traced_to_its_node(name: str) -> None:
    gradients = draw(0)
    rounds = make(name).rounds(list(gradients), list(gradients.values()), StepContext(2, 0))
    one = next(rounds)
    damaged = one.data.clone()
    damaged[len(damaged) // 2] ^= 16
    with pytest.raises(PayloadError, match="message of rank 1: payload: damaged"):
        rounds.send([one.data, damaged])


@pytest.mark.parametrize("name", NAMES)
def test_a_payload_says_what_the_node_says_in_no_more_bytes_than_foretold(name: str) -> None:
    first, second = make(name), make(name)
    for step in range(3):
        gradients = draw(step)
        bound = first.size_bound(list(gradients.values()))
        payload = first.encode(list(gradients.values()))
        assert len(bytes(payload)) == len(payload) <= bound
        (outcome,), _ = exchange([second], [gradients], step)
        assert payload.kept == sum(one.values for one in outcome.said)
        for decoded, one in zip(first.decode(bytes(payload)), outcome.said, strict=True):
            assert torch.equal(decoded, one.decoded())
        # Who does not know the layers learns them from the payload.
        for decoded, one in zip(create(first.settings).decode(payload), outcome.said, strict=True):
            assert torch.equal(decoded, one.decoded())


@pytest.mark.parametrize("name", NAMES)
def test_no_more_is_expected_than_the_bound_of_a_warm_payload(name: str) -> None:
    compressor = make(name)
    gradients = list(draw(0).values())
    compressor.step = 1000
    assert 0 < compressor.expected_size(gradients) <= compressor.size_bound(gradients)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in (*DRAWN, "strom")])
def test_what_was_decoded_is_encoded_to_itself(name: str) -> None:
    gradients = list(draw(7).values())
    once = plain(name).decode(plain(name).encode(gradients))
    twice = plain(name).decode(plain(name).encode(once))
    for found, expected in zip(twice, once, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_resumes_from_its_state(name: str) -> None:
    first, second = make(name), make(name)
    for step in range(3):
        said(first, draw(step), step)
    second.load_state_dict(first.state_dict())
    for step in range(3, 6):
        expected = said(first, draw(step), step)
        found = said(second, draw(step), step)
        assert all(torch.equal(found[layer], expected[layer]) for layer in SHAPES)


VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in NAMES),
    ("signsgd", {"momentum": 0.9}),
    ("qsgd", {"levels": 4, "bucket": 0, "error_feedback": True}),
    ("terngrad", {"clip": None, "error_feedback": True}),
    *(("powersgd", values) for values in ({"rank": 4}, {"warm_start": False}, {"error_feedback": False})),
    ("dgc", {"nesterov": True, "clip": 1.0, "warmup_steps": 3}),
    ("cltk", {"low_pass": 0.5, "values": "float16"}),
    *(("gcc", {"mask": mask, "selector": "norm"}) for mask in ("leader", "local")),
    *(("nsi", {"layer_rule": rule, "warmup_steps": 1}) for rule in ("relative_change", "global_threshold")),
]


@pytest.mark.parametrize(("name", "values"), VARIANTS)
def test_nodes_agree_bit_for_bit_and_go_on_from_their_states(name: str, values: dict[str, Any]) -> None:
    layers = [Layer("bias", (40,)), *(Layer(layer, shape) for layer, shape in SHAPES.items())]
    shapes = {layer.name: layer.shape for layer in layers}
    nodes = [create(name, layers, **values) for _ in range(3)]
    for step in range(2):
        exchange(nodes, [draw(10 * step + k, shapes) for k in range(3)], step)
    others = [create(name, layers, **values) for _ in range(3)]
    for node, other in zip(nodes, others, strict=True):
        other.load_state_dict(node.state_dict())
    for step in range(2, 4):
        gradients = [draw(10 * step + k, shapes) for k in range(3)]
        means = [outcome.mean for group in (nodes, others) for outcome in exchange(group, gradients, step)[0]]
        for place in range(len(layers)):
            assert all(torch.equal(mean[place], means[0][place]) for mean in means)


@pytest.mark.parametrize("name", NAMES)
def test_alone_a_compressor_learns_its_layers_and_resumes(name: str) -> None:
    layers = [(40, 50), (7,), (16, 9, 3, 3)]
    first, second = create(name), create(name)

    def encoded(compressor: Compressor, step: int) -> bytes:
        generator = torch.Generator().manual_seed(step)
        return bytes(compressor.encode([torch.randn(shape, generator=generator) for shape in layers]))

    for step in range(2):
        encoded(first, step)
    second.load_state_dict(first.state_dict())
    for step in range(2, 4):
        assert encoded(second, step) == encoded(first, step)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_from_before_the_first_step_takes_one_back_to_it(name: str) -> None:
    gradients = list(draw(0).values())
    for layers in (None, [Layer(layer, shape) for layer, shape in SHAPES.items()]):
        used, fresh = create(name, layers), create(name, layers)
        first = bytes(used.encode(gradients))
        used.encode(gradients)
        used.load_state_dict(fresh.state_dict())
        assert bytes(used.encode(gradients)) == first


def used(name: str, shapes: dict[str, tuple[int, ...]] = SHAPES, **values: Any) -> Compressor:
    compressor = create(name, [Layer(layer, shape) for layer, shape in shapes.items()], **values)
    compressor.encode(list(draw(1, shapes).values()))
    return compressor


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (used("dgc"), "state of another compressor: found name 'dgc', expected 'topk'"),
        (used("none"), "state of another compressor: found name 'none', expected 'topk'"),
        (used("topk", density=0.5), "state of another compressor: found density 0.5, expected 0.01"),
        (used("topk", automatic=AutomaticDensity()), r"found automatic \{'lowest': 0.001, .*\}, expected None"),
        (create("topk", density=0.5), "state of another compressor: found density 0.5, expected 0.01"),
        (used("topk", SHAPES | {"a": (4, 4)}), r"found a of shape \(4, 4\), expected a of shape \(40, 30\)"),
        (used("topk", SHAPES | {"d": (4, 4)}), r"state of other layers: found d of shape \(4, 4\), expected none"),
        (used("topk", {"a": (40, 30)}), r"state of other layers: found none, expected b of shape"),
    ],
)
def test_the_state_of_another_compressor_is_refused_and_nothing_changed(other: Compressor, message: str) -> None:
    compressor, untouched = used("topk"), used("topk")
    with pytest.raises(ValueError, match=message) as refusal:
        compressor.load_state_dict(other.state_dict())
    assert "\n" not in str(refusal.value)
    gradients = list(draw(2).values())
    assert bytes(compressor.encode(gradients)) == bytes(untouched.encode(gradients))


def test_what_is_no_state_is_refused() -> None:
    with pytest.raises(ValueError, match="state of another compressor: found name None, expected 'topk'"):
        make("topk").load_state_dict({})


@pytest.mark.parametrize("name", NAMES)
def test_a_state_is_of_plain_types(name: str) -> None:
    content = io.BytesIO()
    state = used(name).state_dict()
    torch.save(state, content)
    content.seek(0)
    first, second = create(name), create(name)
    first.load_state_dict(state)
    second.load_state_dict(torch.load(content, weights_only=True))
    gradients = list(draw(2).values())
    assert bytes(first.encode(gradients)) == bytes(second.encode(gradients))


def test_a_compressor_takes_its_layers_from_a_state() -> None:
    compressor = create("topk")
    compressor.load_state_dict(used("topk").state_dict())
    assert list(compressor.layers) == list(SHAPES)
    with pytest.raises(GradientError, match=r"layer a: found a gradient of .* expected torch.float32 and \(40, 30\)"):
        compressor.encode([torch.zeros(4, 4)] * 3)


def test_layers_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="layers: found 2 with 1 different names"):
        create("topk", [Layer("w", (3, 3)), Layer("w", (4, 4))])
