"""DINO's loss and the disentanglement loss, against independent references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lightly.loss import DINOLoss

from histogen.ssl import losses
from histogen.ssl.teacher import Centre

B, K, V = 6, 40, 5


def raw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def looped_dino(student: np.ndarray, teacher: np.ndarray, centre: np.ndarray, t_temp: float, s_temp: float) -> float:
    """The loss as the paper's Algorithm 1 words it: every pair of different views, one after the other."""
    terms = []
    for i in range(len(teacher)):
        target = softmax((teacher[i].astype(np.float64) - centre) / t_temp)
        for j in range(len(student)):
            if i != j:
                log_p = np.log(softmax(student[j].astype(np.float64) / s_temp))
                terms.append(-(target * log_p).sum(-1).mean())
    assert len(terms) == 2 * len(student) - 2
    return float(np.mean(terms))


def test_dino_loss_equals_a_looped_reference_with_18_terms() -> None:
    student, teacher, centre = raw(0, 10, B, K), raw(1, 2, B, K), raw(2, K) * 0.1
    targets = losses.teacher_probs(teacher, centre, 0.04)
    found = losses.dino_loss(student, targets, student_temp=0.1)
    expected = looped_dino(student.numpy(), teacher.numpy(), centre.numpy(), 0.04, 0.1)
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_dino_loss_centre_and_gradient_equal_lightlys_over_two_steps() -> None:
    theirs = DINOLoss(output_dim=K, warmup_teacher_temp=0.04, teacher_temp=0.04, warmup_teacher_temp_epochs=1)
    centre = Centre(K, 0.9)
    for step in range(2):
        student = raw(10 + step, V, B, K).requires_grad_()
        other = student.detach().clone().requires_grad_()
        teacher = raw(20 + step, 2, B, K)
        expected = theirs(list(teacher), list(other), epoch=1)
        found = losses.dino_loss(student, losses.teacher_probs(teacher, centre.value, 0.04), student_temp=0.1)
        centre.update(teacher)
        expected.backward()
        found.backward()
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)
        torch.testing.assert_close(student.grad, other.grad, atol=1e-7, rtol=1e-4)
        torch.testing.assert_close(centre.value, theirs.center.reshape(-1))


def algorithm_1(
    student: np.ndarray, t1: np.ndarray, t2: np.ndarray, a: np.ndarray, centre: np.ndarray, tps: float, tpt: float
) -> float:
    """Algorithm 1 of Gen-SIS: mix raw outputs, centre, sharpen, cross-entropy with the student's softmax."""
    p_s = softmax(student.astype(np.float64) / tps)
    t_ent = a[:, None] * t1.astype(np.float64) + (1 - a[:, None]) * t2.astype(np.float64)
    p_t = softmax((t_ent - centre) / tpt)
    return float((-p_t * np.log(p_s)).sum(1).mean())


def test_disentanglement_equals_algorithm_1() -> None:
    student, t1, t2, centre = raw(0, 1, B, K), raw(1, 1, B, K), raw(2, 1, B, K), raw(3, K)
    alpha = torch.linspace(0.1, 0.9, B)
    targets = losses.mixed_targets(t1, t2, alpha, centre, temperature=0.04)
    found = losses.disentanglement_loss(student, targets, student_temp=0.1).item()
    expected = algorithm_1(student[0].numpy(), t1[0].numpy(), t2[0].numpy(), alpha.numpy(), centre.numpy(), 0.1, 0.04)
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("mix_space", ["logits", "probs"])
def test_alpha_one_is_the_dino_term_and_swapping_is_symmetric(mix_space: losses.MixSpace) -> None:
    t1, t2, centre = raw(1, 2, B, K), raw(2, 2, B, K), raw(3, K)
    kwargs = {"temperature": 0.04, "mix_space": mix_space}
    one = losses.mixed_targets(t1, t2, torch.ones(B), centre, **kwargs)
    torch.testing.assert_close(one, losses.teacher_probs(t1, centre, 0.04))
    alpha = torch.rand(B, generator=torch.Generator().manual_seed(0))
    forth = losses.mixed_targets(t1, t2, alpha, centre, **kwargs)
    back = losses.mixed_targets(t2, t1, 1 - alpha, centre, **kwargs)
    torch.testing.assert_close(forth, back, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(forth.sum(-1), torch.ones(2, B))
    student = raw(5, 1, B, K)
    loss = losses.disentanglement_loss(student, one[:1], student_temp=0.1)
    pair = losses.dino_loss(torch.cat([t1[:1], student]), one[:1], student_temp=0.1)  # one teacher view, one other view
    assert loss.item() == pytest.approx(pair.item(), rel=1e-6)


def test_mixing_logits_is_the_normalised_geometric_mean() -> None:
    t1, t2, centre, alpha = raw(1, B, K), raw(2, B, K), raw(3, K), torch.full((B,), 0.3)
    found = losses.mixed_targets(t1, t2, alpha, centre, temperature=0.1)
    p1, p2 = (losses.teacher_probs(t, centre, 0.1) for t in (t1, t2))
    product = p1**0.3 * p2**0.7
    torch.testing.assert_close(found, product / product.sum(-1, keepdim=True), atol=1e-6, rtol=1e-3)
    arithmetic = losses.mixed_targets(t1, t2, alpha, centre, temperature=0.1, mix_space="probs")
    torch.testing.assert_close(arithmetic, 0.3 * p1 + 0.7 * p2)


def test_disentanglement_averages_targets_and_views_and_leaves_absent_tiles_out() -> None:
    student, targets = raw(0, 2, B, K), losses.teacher_probs(raw(1, 2, B, K), torch.zeros(K), 0.04)
    terms = [losses.cross_entropy(target, view, 0.1) for target in targets for view in student]
    found = losses.disentanglement_loss(student, targets, student_temp=0.1)
    assert found.item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-6)
    present = torch.tensor([True, False, True, True, False, False])
    part = losses.disentanglement_loss(student[:, present], targets[:, present], student_temp=0.1)
    weight = present / present.float().mean()
    whole = losses.disentanglement_loss(student, targets, student_temp=0.1, weight=weight)
    assert whole.item() == pytest.approx(part.item(), rel=1e-6)
    passes = [  # of one and of two present tiles: each counts the same in the end
        losses.disentanglement_loss(student[:, rows], targets[:, rows], student_temp=0.1, weight=weight[rows])
        for rows in (slice(0, 3), slice(3, 6))
    ]
    assert torch.stack(passes).mean().item() == pytest.approx(part.item(), rel=1e-6)
    nothing = losses.disentanglement_loss(student, targets, student_temp=0.1, weight=torch.zeros(B))
    assert nothing.item() == 0.0


def test_no_gradient_reaches_the_teacher() -> None:
    t1, t2 = raw(1, 2, B, K).requires_grad_(), raw(2, 2, B, K).requires_grad_()
    assert not losses.mixed_targets(t1, t2, torch.full((B,), 0.5), torch.zeros(K), temperature=0.04).requires_grad
    assert not losses.teacher_probs(t1, torch.zeros(K), 0.04).requires_grad


def test_uniform_output_reads_ln_k() -> None:
    targets = torch.full((2, B, 4096), 1 / 4096)
    assert losses.dino_loss(torch.zeros(4, B, 4096), targets, student_temp=0.1).item() == pytest.approx(
        8.3178, abs=1e-4
    )
    assert losses.entropy(targets).item() == pytest.approx(8.3178, abs=1e-4)
