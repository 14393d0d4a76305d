"""Losses of supernet training equal their definitions."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from nas.training.losses import KL, AdaptiveAlpha, Alpha, adaptive_alpha_divergence, alpha_divergence, kl_divergence, label_loss

ALPHAS = [-2.0, -1.0, -0.5, -1e-6, 0.0, 1e-6, 0.3, 0.5, 0.7, 1 - 1e-6, 1.0, 1 + 1e-6, 2.0, 3.0]
LABELS = torch.tensor([0, 1, 2, 3, 4, 0, 2])


def logits(seed: int, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn(7, 5, generator=torch.Generator().manual_seed(seed))


def pair(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Student and teacher in float64; the student requires a gradient."""
    return logits(seed).double().requires_grad_(), logits(seed + 100).double()


def direct(student: torch.Tensor, teacher: torch.Tensor, alpha: float, clip: float = math.inf) -> torch.Tensor:
    """(E_q[min((p/q)^alpha, clip)] - 1) / (alpha (alpha - 1)) per image, as written; its limit KL(p || q) at 1."""
    p, q = teacher.double().softmax(1), student.double().softmax(1)
    if alpha == 1:
        return (p * (p / q).log()).sum(1)
    return ((q * ((p / q) ** alpha).clamp(max=clip)).sum(1) - 1) / (alpha * (alpha - 1))


def gradient(loss, student: torch.Tensor) -> torch.Tensor:
    """Gradient of a function of the student's logits."""
    leaf = student.detach().clone().requires_grad_()
    loss(leaf).backward()
    return leaf.grad


def kl(student: torch.Tensor, teacher: torch.Tensor) -> float:
    """sum p (log p - log q), mean over images, in float64."""
    p, q = teacher.double().softmax(1), student.double().softmax(1)
    return (p * (p.log() - q.log())).sum(1).mean().item()


@pytest.mark.parametrize("seed", range(3))
def test_kl_divergence_equals_two_references(seed):
    """It equals the direct sum in float64 and torch's kl_div with probabilities as target."""
    student, teacher = logits(seed), logits(seed + 10)
    value = kl_divergence(student, teacher).item()
    assert value == pytest.approx(kl(student, teacher), rel=1e-5)
    assert value == pytest.approx(F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="batchmean").item(), rel=1e-5)


def test_kl_divergence_by_hand():
    """p = (3/4, 1/4), q = (1/2, 1/2): 3/4 log 3/2 + 1/4 log 1/2."""
    result = kl_divergence(torch.zeros(1, 2), torch.tensor([[math.log(3.0), 0.0]]))
    assert result.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-6)


@given(st.integers(0, 2**32), st.floats(0, 30), st.floats(0, 30))
def test_kl_divergence_is_never_negative(seed, one, other):
    """For logits of any size it is at least -1e-6, which is rounding."""
    assert kl_divergence(logits(seed, one), logits(seed + 1, other)).item() >= -1e-6


@given(st.integers(0, 2**32), st.floats(-50, 50))
def test_equal_logits_have_zero_loss(seed, shift):
    """Equal logits, also with a shift per image, have zero loss and gradient."""
    teacher = logits(seed)
    student = (teacher + shift).requires_grad_()
    loss = kl_divergence(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert student.grad.abs().max().item() < 1e-5


def test_only_the_student_has_a_gradient():
    """It is (q - p) / batch for the student's logits and None for the teacher's."""
    student, teacher = logits(0).requires_grad_(), logits(1).requires_grad_()
    kl_divergence(student, teacher).backward()
    assert torch.allclose(student.grad, (student.softmax(1) - teacher.softmax(1)).detach() / 7, atol=1e-6)
    assert teacher.grad is None


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_label_loss_is_smoothed_cross_entropy(smoothing):
    """- sum_c t_c log p_c with t = (1 - s) one-hot + s / 5, mean over images, in float64."""
    student, labels = logits(3), torch.tensor([0, 1, 2, 3, 4, 0, 2])
    target = (1 - smoothing) * torch.eye(5, dtype=torch.float64)[labels] + smoothing / 5
    expected = -(target * student.double().log_softmax(1)).sum(1).mean().item()
    assert label_loss(student, labels, smoothing).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("alpha", "tolerance"), [(0.0, 1e-9), (1e-6, 1e-5), (-1e-6, 1e-5), (1.0, 1e-9), (1 - 1e-6, 1e-5), (1 + 1e-6, 1e-5)]
)
def test_alpha_divergence_equals_kl_at_both_limits(alpha, tolerance):
    """It equals torch's kl_div of teacher and student at alpha = 1 and the reverse at 0, also in float32."""
    student, teacher = pair(0)
    q, p = (student.detach(), teacher) if abs(alpha - 1) < 0.5 else (teacher, student.detach())
    expected = F.kl_div(q.log_softmax(1), p.softmax(1), reduction="batchmean").item()
    assert alpha_divergence(student, teacher, alpha).item() == pytest.approx(expected, rel=tolerance)
    assert alpha_divergence(student.float(), teacher.float(), alpha).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("alpha", [-2.0, -1.0, -0.5, 0.3, 0.5, 0.7, 2.0, 3.0])
@pytest.mark.parametrize("clip", [None, 1.0, 1.5, 5.0, 1e9])
def test_alpha_divergence_equals_the_direct_sum(alpha, clip):
    """It equals the definition in float64 per image; a value that a clip makes negative counts as 0."""
    student, teacher = pair(1)
    expected = direct(student, teacher, alpha, math.inf if clip is None else clip)
    assert clip in (1.0, 1.5, 5.0) or (expected > 0).all()
    assert alpha_divergence(student, teacher, alpha, clip).item() == pytest.approx(expected.clamp(min=0).mean().item(), rel=1e-9)


@pytest.mark.parametrize(
    ("alpha", "divergence"),
    [
        (0.5, lambda p, q: 2 * ((p.sqrt() - q.sqrt()) ** 2).sum(1)),  # Hellinger
        (2.0, lambda p, q: ((p - q) ** 2 / q).sum(1) / 2),  # Pearson
        (-1.0, lambda p, q: ((p - q) ** 2 / p).sum(1) / 2),  # Neyman
    ],
)
def test_alpha_divergence_has_known_special_cases(alpha, divergence):
    """They are four times the squared Hellinger distance and half of both chi-squared divergences."""
    student, teacher = pair(2)
    expected = divergence(teacher.softmax(1), student.detach().softmax(1)).mean().item()
    assert alpha_divergence(student, teacher, alpha).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_gradient_of_the_surrogate_is_that_of_the_divergence(alpha):
    """Without a clip it equals finite differences of the value in float64."""
    student, teacher = pair(3)
    assert torch.autograd.gradcheck(lambda x: alpha_divergence(x, teacher, alpha), student)


@pytest.mark.parametrize(
    "distil",
    [
        KL(temperature=2.0, weight=0.3),
        Alpha(alpha=-0.5, clip=None, temperature=0.7, weight=0.9),
        Alpha(alpha=0.0, clip=None, weight=0.0),
        AdaptiveAlpha(alpha_min=-1.0, alpha_max=1.0, clip=None, temperature=3.0, weight=0.6),
        AdaptiveAlpha(alpha_min=0.0, alpha_max=2.0, clip=None),
    ],
)
def test_gradient_of_a_loss_equals_finite_differences(distil):
    """This holds with both parts, temperature and weight, in float64."""
    student, teacher = pair(4)
    assert torch.autograd.gradcheck(lambda x: distil(x, teacher, LABELS, 0.1), student)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_gradients_in_float32_equal_those_in_float64(alpha):
    """This holds near the limits, where (p/q)^alpha / alpha has no significant digits."""
    student, teacher = pair(5)
    result = gradient(lambda x: alpha_divergence(x, teacher.float(), alpha), student.float())
    expected = gradient(lambda x: alpha_divergence(x, teacher, alpha), student)
    assert torch.allclose(result.double(), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize(
    ("alpha", "clip", "value", "slope"),
    [
        (-1.0, 5.0, (0.1 / 9 + 0.9 * 5 - 1) / 2, -1 / 9 + 5),  # ratios to the power of alpha: 1/9, 9 -> 5
        (0.0, 5.0, -0.1 * math.log(5) + 0.9 * math.log(9), math.log(5) + math.log(9)),  # 9 -> 5, 1/9
        (0.5, 2.0, (0.1 * 2 + 0.9 / 3 - 1) / -0.25, 2 * (2 - 1 / 3)),  # 3 -> 2, 1/3
        (0.4, 2.0, (0.1 * 2 + 0.9 * 9**-0.4 - 1) / -0.24, 2.5 * (2 - 9**-0.4)),  # 9^0.4 -> 2, 9^-0.4
        (1.0, 5.0, 0.8 * math.log(9), 9 - 1 / 9),  # 9, 1/9: nothing is clipped
        (2.0, 5.0, 0.0, (5 - 1 / 81) / 2),  # 81 -> 5, 1/81: (0.1 * 5 + 0.9 / 81 - 1) / 2 is below zero
    ],
)
def test_clipped_divergence_by_hand(alpha, clip, value, slope):
    """p = (0.9, 0.1), q = (0.1, 0.9): the value, and q_1 q_2 (rho_2 - rho_1) as gradient of the first logit."""
    student, teacher = (torch.tensor([[math.log(9) * sign, 0.0]], dtype=torch.float64) for sign in (-1, 1))
    assert alpha_divergence(student, teacher, alpha, clip).item() == pytest.approx(value, rel=1e-9, abs=1e-12)
    result = gradient(lambda x: alpha_divergence(x, teacher, alpha, clip), student)
    assert result[0].tolist() == pytest.approx([-0.09 * slope, 0.09 * slope], rel=1e-9)


@pytest.mark.parametrize(("alpha_min", "alpha_max"), [(-1.0, 1.0), (-0.5, 0.5), (0.0, 1.0), (0.5, 1.0)])
def test_the_larger_divergence_is_chosen_per_image(alpha_min, alpha_max):
    """Each image has the larger of two clipped values and its gradient, and the batch their mean."""
    student, teacher = (torch.cat([logits(s).double() for s in seeds]) for seeds in ((6, 7, 8), (16, 17, 18)))
    values, gradients, chosen = [], [], []
    for s, t in zip(student.split(1), teacher.split(1)):
        both = [alpha_divergence(s, t, alpha, 5.0).item() for alpha in (alpha_min, alpha_max)]
        chosen.append(both[1] >= both[0])
        values.append(max(both))
        gradients.append(gradient(lambda x, t=t, alpha=(alpha_min, alpha_max)[chosen[-1]]: alpha_divergence(x, t, alpha, 5.0), s))
    assert 0 < sum(chosen) < len(chosen)
    result = gradient(lambda x: adaptive_alpha_divergence(x, teacher, alpha_min, alpha_max, 5.0), student)
    assert adaptive_alpha_divergence(student, teacher, alpha_min, alpha_max, 5.0).item() == pytest.approx(sum(values) / 21, rel=1e-12)
    assert torch.allclose(result, torch.cat(gradients) / 21, rtol=1e-9, atol=1e-15)


def test_clipped_divergences_are_compared():
    """p = (0.02, 0.98), q = (0.5, 0.5): chi-squared / 2 is 5.9, clipped at 1.5 it is 0.003; KL(p || q), 0.60, lies between."""
    student, teacher = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[0.02, 0.98]], dtype=torch.float64).log()
    free, clipped = ((0.5 * min(25, c) + 0.5 * 0.5 / 0.98 - 1) / 2 for c in (math.inf, 1.5))
    between = 0.02 * math.log(0.04) + 0.98 * math.log(1.96)
    assert clipped < between < free
    assert adaptive_alpha_divergence(student, teacher, -1.0, 1.0).item() == pytest.approx(free, rel=1e-9)
    assert adaptive_alpha_divergence(student, teacher, -1.0, 1.0, 1.5).item() == pytest.approx(between, rel=1e-9)


ALPHA = st.floats(-3, 4)
CLIPS = st.none() | st.floats(1, 1000)
LOSSES = st.one_of(
    st.builds(KL, temperature=st.floats(0.1, 20), weight=st.floats(0, 1)),
    st.builds(Alpha, alpha=ALPHA, clip=CLIPS, temperature=st.floats(0.1, 20), weight=st.floats(0, 1)),
    st.builds(AdaptiveAlpha, alpha_min=st.floats(-3, 0.9), alpha_max=st.floats(1, 4), clip=CLIPS, weight=st.floats(0, 1)),
)
ROW = st.lists(st.floats(-50, 50) | st.sampled_from([-50.0, 50.0]), min_size=4, max_size=4)
OPPOSITE = [50.0, -50.0, -50.0, 0.0], [-50.0, 50.0, -50.0, 0.0]


@given(LOSSES, ROW, ROW, st.sampled_from([torch.float32, torch.bfloat16]))
@example(AdaptiveAlpha(alpha_min=-1.0, alpha_max=1.0, clip=5.0), *OPPOSITE, torch.float32)
@example(Alpha(alpha=-1.0, clip=None), *OPPOSITE, torch.bfloat16)
@example(Alpha(alpha=5e-324, clip=None), *OPPOSITE, torch.float32)
def test_losses_and_gradients_are_finite_and_never_negative(distil, student, teacher, dtype):
    """This holds for opposite logits up to 50 in float32 and bf16 with any alpha, clip, temperature and weight."""
    one, other = (torch.tensor([row], dtype=dtype) for row in (student, teacher))
    labels = torch.tensor([1])
    result = gradient(lambda x: distil(x, other, labels, 0.1), one)
    assert 0 <= distil(one, other, labels, 0.1).item() + 1e-4 * distil.temperature**2 < math.inf
    assert result.dtype == dtype and result.isfinite().all()


def test_a_naive_ratio_overflows():
    """p / q of the logits of the test above is infinite in float32."""
    student, teacher = (torch.tensor([row]).softmax(1) for row in OPPOSITE)
    assert (teacher / student).isinf().any()


@given(st.integers(0, 2**32), st.floats(-50, 50), ALPHA, CLIPS)
@example(0, 1.0, 0.99999, 1.0)
def test_equal_logits_have_zero_loss_for_any_alpha(seed, shift, alpha, clip):
    """Equal logits, also with a shift per image, have zero loss and gradient.

    Clipped at 1, D_alpha is the total variation of p and q over alpha (alpha - 1), which amplifies the rounding of a shift, up to 1e-5.
    """
    teacher = logits(seed)
    is_clipped, slope = clip is not None and clip <= 1.01, abs(alpha * (alpha - 1))
    bound = max(1e-4, 1e-5 / slope) if is_clipped and slope else 1e-4
    assert alpha_divergence(teacher + shift, teacher, alpha, clip).item() == pytest.approx(0, abs=bound)
    if not is_clipped:  # at 1 rounding decides which ratios are clipped
        assert gradient(lambda x: alpha_divergence(x, teacher, alpha, clip), teacher + shift).abs().max().item() < 1e-4


@pytest.mark.parametrize("distil", [KL(), Alpha(alpha=1.0, clip=5.0), Alpha(alpha=-1.0, clip=5.0)])
def test_temperature_and_weight_by_hand(distil):
    """p = (3/4, 1/4) at temperature 2, q = (1/2, 1/2), label 0, smoothing 0.2: (1 - 0.9) log 2 + 0.9 * 4 * D."""
    p = torch.tensor([[0.75, 0.25]], dtype=torch.float64)
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5) if getattr(distil, "alpha", 1) == 1 else (0.5 / 1.5 + 0.5 / 0.5 - 1) / 2
    softened = distil.model_copy(update={"temperature": 2.0, "weight": 0.9})
    result = softened(torch.zeros(1, 2, dtype=torch.float64), 2 * p.log(), torch.tensor([0]), 0.2)
    assert result.item() == pytest.approx(0.1 * math.log(2) + 0.9 * 4 * divergence, rel=1e-9)


def test_weight_mixes_labels_and_teacher():
    """Weight 0 is the smoothed cross-entropy only, weight 1 the divergence only."""
    student, teacher = pair(9)
    labels_only = KL(weight=0.0)(student, teacher, LABELS, 0.1).item()
    assert labels_only == pytest.approx(F.cross_entropy(student, LABELS, label_smoothing=0.1).item(), rel=1e-12)
    assert KL()(student, teacher, LABELS, 0.1) == KL()(student, teacher, LABELS.flip(0), 0.1) == kl_divergence(student, teacher)


@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_temperature_preserves_the_size_of_the_gradient(alpha):
    """For large T the gradient of T^2 D tends to the centred difference of the logits over classes, for any alpha."""
    student, teacher = logits(10, 0.3).double(), logits(110, 0.3).double()
    hot = Alpha(alpha=alpha, clip=None, temperature=100.0)
    difference = student - teacher
    expected = (difference - difference.mean(1, keepdim=True)) / (5 * 7)
    assert torch.allclose(gradient(lambda x: hot(x, teacher, LABELS, 0.1), student), expected, atol=0.05 * expected.abs().max().item())


@pytest.mark.parametrize("distil", [KL(), Alpha(alpha=0.5, clip=5.0), AdaptiveAlpha(alpha_min=-1.0, alpha_max=1.0, clip=5.0)])
def test_the_teacher_has_no_gradient(distil):
    """Only the student's logits receive one."""
    student, teacher = logits(11).requires_grad_(), logits(12).requires_grad_()
    distil(student, teacher, LABELS, 0.1).backward()
    assert teacher.grad is None and student.grad.abs().max() > 0


@pytest.mark.parametrize("clip", [None, 5.0])
def test_alpha_one_is_kl(clip):
    """Value and gradient of the loss `alpha` at 1 equal those of `kl`."""
    student, teacher = logits(13), logits(14)
    ours, kl_ = (lambda x, distil=distil: distil(x, teacher, LABELS, 0.1) for distil in (Alpha(alpha=1.0, clip=clip), KL()))
    assert ours(student).item() == pytest.approx(kl_(student).item(), rel=1e-6)
    assert torch.allclose(gradient(ours, student), gradient(kl_, student), atol=1e-7)


@pytest.mark.parametrize(
    "values",
    [
        {"alpha_min": 1.0, "alpha_max": 1.0, "clip": 5.0},
        {"alpha_min": 1.0, "alpha_max": -1.0, "clip": 5.0},
        {"alpha_min": -1.0, "alpha_max": math.nan, "clip": 5.0},
        {"alpha_min": -1.0, "alpha_max": 1.0, "clip": 0.5},
        {"alpha_min": -1.0, "alpha_max": 1.0, "clip": 5.0, "temperature": 0.0},
        {"alpha_min": -1.0, "alpha_max": 1.0, "clip": 5.0, "weight": 1.1},
    ],
)
def test_impossible_losses_are_an_error(values):
    """Alphas out of order or NaN, a clip below 1, temperature 0 and a weight above 1 raise."""
    with pytest.raises(ValidationError):
        AdaptiveAlpha(**values)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: label_loss(x, LABELS, 0.1),
        lambda x: kl_divergence(x, logits(5).bfloat16()),
        lambda x: Alpha(alpha=-1.0, clip=5.0, weight=0.5, temperature=2.0)(x, logits(5).bfloat16(), LABELS, 0.1),
    ],
)
def test_losses_are_computed_in_float32(loss):
    """bf16 logits, as from autocast, give float32 losses."""
    assert loss(logits(4).bfloat16()).dtype == torch.float32
