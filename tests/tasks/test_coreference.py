"""Coreference: targets, loss and gradients against loops, decoding of constructed outputs, metrics and bootstrap."""

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from remora.data.clusters import MentionRules, Span, written
from remora.data.coref_metrics import coref_metrics
from remora.data.dataset import Split
from remora.data.kinds import ABSENT
from remora.models.mention_ranking import NUM_OUTPUTS
from remora.results.coref_detail import coref_detail, document_tallies
from remora.results.predictions import SplitPredictions
from remora.study.weighted_metrics import weighted_metric
from remora.tasks import make_task
from remora.tasks.coreference import Coreference
from tests.models.test_mention_ranking import naive_loss, naive_mention, naive_pair, naive_parts, naive_spans

BOTH = [MentionRules(singletons=alone, max_width=2) for alone in (False, True)]
TEXTS = (("a b c d e", "f g", "h i j k"), ("l m n o p q",))
CLUSTERS = ([[(0, 1), (5, 7), (9, 10)], [(2, 4), (7, 8)], [(1, 2)], [(0, 4)]], [[(1, 2), (3, 5)]])


def split_of() -> Split:
    labels = tuple(written(document) for document in CLUSTERS)
    return Split(name="test", texts=TEXTS, labels=labels, source="test", hash="0")


def logits(seed: int = 0, scale: float = 1.0) -> Tensor:
    """(B, W, C) of both documents, absent behind the second's last word."""
    drawn = scale * torch.randn(2, 11, NUM_OUTPUTS, generator=torch.Generator().manual_seed(seed)).double()
    drawn[1, 6:] = ABSENT
    return drawn


def naive(outputs: Tensor, number: int, rules: MentionRules) -> float:
    """The loss of a document, span by span."""
    lengths = [len(sentence.split(" ")) for sentence in TEXTS[number]]
    words = [naive_parts(row) for row in outputs.tolist()]
    spans = naive_spans(lengths, rules.max_width)
    scored = {span: naive_mention(words, span) for span in spans}
    kept = sorted(sorted(spans, key=lambda span: -scored[span])[: max(1, sum(lengths) * 2 // 5)])
    cluster_of = {(start, end - 1): n for n, cluster in enumerate(CLUSTERS[number]) for start, end in cluster}
    rows = [[0.0, *(scored[q] + scored[c] + naive_pair(words, c, q) for c in kept[:n])] for n, q in enumerate(kept)]
    total = sum(naive_loss(rows, [cluster_of.get(span, -1) for span in kept]))
    if rules.singletons:
        total += sum(math.log1p(math.exp(-score if span in cluster_of else score)) for span, score in scored.items())
    return total


@pytest.mark.parametrize("rules", BOTH)
def test_loss_and_gradients_equal_loops(rules: MentionRules) -> None:
    task = Coreference(rules=rules)
    targets = torch.from_numpy(task.targets(split_of()))
    given = logits().requires_grad_()
    losses = task.loss(given, targets)
    expected = [naive(given[0].detach(), 0, rules), naive(given[1, :6].detach(), 1, rules)]
    assert losses.tolist() == pytest.approx(expected, abs=1e-9)
    (grad,) = torch.autograd.grad(losses.sum(), given)
    assert (grad[1, 6:] == 0).all()
    step = 1e-6
    for document, word, part in ((0, 0, 0), (0, 3, 1), (0, 5, 40), (1, 2, 100), (0, 9, 150), (0, 1, 200), (1, 4, 300)):
        shifted = given.detach().clone()
        shifted[document, word, part] += step
        slope = float((task.loss(shifted, targets).sum() - losses.sum()).detach()) / step
        assert float(grad[document, word, part]) == pytest.approx(slope, abs=1e-4)
    assert task.loss(given.detach().float(), targets).dtype == torch.float32
    assert task.loss(given.detach().bfloat16(), targets).dtype == torch.float32


@pytest.mark.parametrize("rules", BOTH)
def test_padding_and_a_device_that_is_not_read_change_nothing(
    rules: MentionRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Coreference(rules=rules)
    given, targets = logits(1), torch.from_numpy(task.targets(split_of()))
    plain = task.loss(given, targets)
    wide = torch.nn.functional.pad(given, (0, 0, 0, 9), value=ABSENT)
    assert task.loss(wide, targets).tolist() == pytest.approx(plain.tolist(), abs=1e-12)
    meta = given.to("meta").requires_grad_()
    lost = task.loss(meta, targets.to("meta"))
    lost.sum().backward()
    assert (lost.shape, lost.device.type) == ((2,), "meta")
    monkeypatch.setattr("remora.tasks.coreference._READABLE", "none")  # as on a device that would have to be waited for
    wide.requires_grad_()
    padded = task.loss(wide, targets)
    assert padded.tolist() == pytest.approx(plain.tolist(), abs=1e-12)
    given.requires_grad_()
    (expected,) = torch.autograd.grad(task.loss(given, targets).sum(), given)
    (grad,) = torch.autograd.grad(padded.sum(), wide)
    torch.testing.assert_close(grad[:, :11], expected, rtol=0, atol=1e-12)
    assert (grad[:, 11:] == 0).all()


@pytest.mark.parametrize("rules", BOTH)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_diverged_trial_has_no_finite_loss(rules: MentionRules, value: float) -> None:
    task = Coreference(rules=rules)
    given = logits().masked_fill(logits() != ABSENT, value)
    assert not task.loss(given, torch.from_numpy(task.targets(split_of()))).isfinite().any()


LONG = (("a b c d e f g h", "i j k l", "m n o p q r s t"),)


def said(links: list[list[tuple[int, int]]], alone: list[tuple[int, int]]) -> np.ndarray:
    """Outputs (1, 20, C) that say these clusters of mentions which share no first and no last word."""
    outputs = np.zeros((1, 20, NUM_OUTPUTS), np.float32)
    outputs[0, :, :2] = -500.0  # no word begins or ends a mention
    spans = [(span, number) for number, cluster in enumerate([*links, *([span] for span in alone)]) for span in cluster]
    for n, ((start, end), number) in enumerate(spans):
        outputs[0, start, 0] = outputs[0, end - 1, 1] = -10.0
        outputs[0, start, 2 + n] = outputs[0, end - 1, 66 + n] = 15.0  # but for these two words together
        outputs[0, start, 130 + 63], outputs[0, start, 258 + 63] = -40.0, 40.0  # linked to nothing
        if number < len(links):
            outputs[0, start, 130 + number] = outputs[0, start, 258 + number] = 60.0  # but to its like
    return outputs


@pytest.mark.parametrize("rules", BOTH)
def test_clusters_of_constructed_outputs(rules: MentionRules) -> None:
    task = Coreference(rules=rules)
    links, alone = [[(0, 1), (8, 10), (13, 14)], [(2, 4), (10, 11)]], [(15, 16)]
    (found,) = task.decode(said(links, alone), LONG)
    assert json.loads(found) == json.loads(written([*links, *([span] for span in alone if rules.singletons)]))
    wide = np.concatenate([said(links, alone), np.full((1, 3, NUM_OUTPUTS), ABSENT, np.float32)], 1)
    assert task.decode(wide, LONG) == [found]
    assert task.decode(np.full_like(wide, np.nan), LONG) == ["[]"]


def test_metrics_are_those_of_the_clusters() -> None:
    task = Coreference(rules=BOTH[1], metrics_names=("muc_f1",))
    targets = task.targets(split_of())
    assert targets.shape == (2, 4, 11)
    assert targets[1, 0].tolist() == [0] * 6 + [-1] * 5
    metrics = task.metrics(targets, logits(3, 3.0).numpy())
    assert next(iter(metrics)) == "muc_f1"
    found = [json.loads(label) for label in task.decode(logits(3, 3.0).numpy(), TEXTS)]
    pairs = [
        (key, [[tuple(span) for span in cluster] for cluster in response])
        for key, response in zip(CLUSTERS, found, strict=True)
    ]
    assert metrics == pytest.approx(coref_metrics(pairs))
    assert 0 < metrics["mention_f1"] < 1
    gold = {span for cluster in CLUSTERS[0] for span in cluster}, {span for cluster in CLUSTERS[1] for span in cluster}
    said_mentions = [{span for cluster in response for span in cluster} for _, response in pairs]
    right = sum(len(a & b) for a, b in zip(gold, said_mentions, strict=True))
    total = sum(map(len, gold)) + sum(map(len, said_mentions))
    assert metrics["mention_f1"] == pytest.approx(2 * right / total)


def test_the_constant_answer_is_no_mention() -> None:
    for rules in BOTH:
        task = make_task("coreference", label_names=(), mentions=rules)
        targets = task.targets(split_of())
        answer = task.constant(targets, targets)
        assert task.decode(answer, TEXTS) == ["[]", "[]"]
        assert set(task.metrics(targets, answer).values()) == {0.0}
        assert task.is_constant(answer)
        assert not task.is_constant(logits().numpy())


def part_of(responses: list[list[list[Span]]]) -> SplitPredictions:
    return SplitPredictions(
        targets=tuple(map(written, KEYS)), predictions=tuple(map(written, responses)), scores=np.zeros((3, 0))
    )


KEYS = [[[(0, 1), (2, 3), (4, 5)], [(6, 7)]], [[(0, 2), (3, 4)]], [[(0, 1), (1, 2)], [(3, 4), (5, 6), (7, 8)]]]


def test_the_bootstrap_sees_whole_documents() -> None:
    """A weighting of documents gives the score of a data set in which each stands as often as it says."""
    responses = [
        [[[(0, 1), (2, 3)], [(6, 7)]], [[(0, 2), (3, 4)]], [[(0, 1), (3, 4)], [(5, 6), (7, 8)]]],
        [[], [[(0, 2), (5, 6)]], [[(3, 4), (5, 6), (7, 8), (9, 10)]]],
    ]
    weights = np.array([[1, 1, 1], [0, 3, 0], [2, 0, 1], [0, 1, 2]])
    for metric in ("conll_f1", "muc_f1", "b_cubed_f1", "ceaf_e_f1", "mention_f1"):
        counts = np.stack([document_tallies(metric, part_of(each)) for each in responses])
        found = weighted_metric(metric, np.arange(3), counts, weights)
        for b, row in enumerate(weights):
            for s, said_by in enumerate(responses):
                chosen = np.repeat(np.arange(3), row)
                expected = coref_metrics((KEYS[i], said_by[i]) for i in chosen)[metric]
                assert found[b, s] == pytest.approx(expected, abs=1e-12)
    look = coref_detail("x", "best", [part_of(each) for each in responses])
    assert [row.label for row in look.classes] == ["MUC", "B\u00b3", "CEAFe", "mention"]
    assert [row.support for row in look.classes] == [6, 11, 5, 11]
    scores = [coref_metrics(zip(KEYS, each, strict=True)) for each in responses]
    assert look.classes[1].recall == pytest.approx(np.mean([score["b_cubed_recall"] for score in scores]))
    assert look.confusion == ()
