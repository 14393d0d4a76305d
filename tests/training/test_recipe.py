"""Learning-rate schedule, optimiser and runtime."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas.models.supernet import Supernet
from nas.training.recipe import Runtime, learning_rate, sgd


def runtime(**changes) -> Runtime:
    return Runtime(**{"device": "cpu", "threads": 1, "evaluators": 1, "workers": 0, "precision": "fp32", "channels_last": True} | changes)


@pytest.fixture(autouse=True)
def threads():
    """Restore the thread count of the process, which Runtime.start sets."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("step", "warmup", "expected"),
    [
        (0, 1, 0.001),  # a thousandth of the base
        (10, 1, 0.5 * (1 + math.cos(math.pi / 10))),  # the end of the warm-up: cosine only
        (5, 1, (0.001 + 0.999 * 0.5) * 0.5 * (1 + math.cos(math.pi / 20))),
        (50, 1, 0.5),  # the middle of the cosine
        (0, 0, 1.0),  # no warm-up
        (25, 0.5, 0.5 * (1 + math.cos(math.pi / 4))),
        (99, 1, 0.5 * (1 + math.cos(math.pi * 0.99))),  # the last step: 0.0002 of the base
    ],
)
def test_learning_rate_by_hand(step, warmup, expected):
    """10 epochs of 10 steps with base 2 give these factors."""
    assert learning_rate(step, 10, 10, 2.0, warmup) == pytest.approx(2 * expected, rel=1e-9)


@given(st.integers(1, 50), st.integers(1, 50), st.floats(0, 5))
def test_learning_rate_rises_then_falls(steps, epochs, warmup):
    """It is above zero, at most the base, and falls from the end of the warm-up on."""
    rates = [learning_rate(i, steps, epochs, 1.0, warmup) for i in range(steps * epochs)]
    after = rates[math.ceil(warmup * steps) :]
    assert all(0 < r <= 1 for r in rates)
    assert after == sorted(after, reverse=True)


def test_weight_decay_is_on_weights_only(tiny_space):
    """With zero gradients a Nesterov step scales weights by 1 - rate decay (1 + momentum) and leaves vectors unchanged."""
    supernet = Supernet(tiny_space, 3)
    with torch.no_grad():
        for p in supernet.parameters():
            p.fill_(1.0)
            p.grad = torch.zeros_like(p)
    sgd(supernet, 0.5, 0.9, 0.01).step()
    expected = {1: 1.0, 2: 1 - 0.5 * 0.01 * 1.9, 4: 1 - 0.5 * 0.01 * 1.9}
    for name, p in supernet.named_parameters():
        assert torch.allclose(p, torch.full_like(p, expected[p.ndim]), rtol=1e-6), name


def test_every_weight_is_trained(tiny_space):
    """The parameter groups have each parameter once."""
    supernet = Supernet(tiny_space, 3)
    optimized = [p for group in sgd(supernet, 0.5, 0.9, 0.01).param_groups for p in group["params"]]
    assert len(optimized) == len({id(p) for p in optimized}) == len(list(supernet.parameters()))


@pytest.mark.parametrize("device", ["tpu9", "cuda:99", "cuda"])
def test_a_missing_device_names_the_key(device, monkeypatch):
    """The message has the value, the key and the alternative."""
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ValueError, match=rf"params\.yaml: runtime\.device: '{device}' is not available .*auto selects"):
        runtime(device=device).start()


def test_start_sets_the_threads_and_selects_a_device():
    """`auto` is a GPU if available, else the CPU."""
    assert runtime(device="auto", threads=2).start().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_applies_to_convolutions(precision, dtype):
    """Under autocast a convolution returns the configured precision; its weight stays in float32."""
    conv = torch.nn.Conv2d(3, 4, 1)
    with runtime(precision=precision).autocast(torch.device("cpu")):
        assert conv(torch.zeros(1, 3, 2, 2)).dtype == dtype
    assert conv.weight.dtype == torch.float32


@pytest.mark.parametrize(("last", "memory_format"), [(True, torch.channels_last), (False, torch.contiguous_format)])
def test_memory_format_follows_the_parameter(last, memory_format):
    """channels_last selects the memory format."""
    assert runtime(channels_last=last).memory_format is memory_format
