"""Questions with choices: loss and scores over each question's own choices, answers as letters."""

import numpy as np
import pytest
import torch

from remora.data.dataset import Split
from remora.data.kinds import ABSENT, FORMS
from remora.engine.examples import Examples
from remora.tasks import make_task
from remora.tasks.multiple_choice import MultipleChoice

TASK = MultipleChoice()
SCORES = np.array([[1.0, 2.0, ABSENT], [0.5, 0.5, 3.0], [-1.0, -2.0, -3.0]], np.float32)


def split_of(*labels: str) -> Split:
    texts = (("question", "one", "two", "three"),) * len(labels)
    return Split(name="test", texts=texts, labels=labels, source="test", hash="0")


def test_answers_are_letters() -> None:
    assert TASK.targets(split_of("B", "C", "A")).tolist() == [1, 2, 0]
    assert TASK.decode(SCORES) == ["B", "C", "A"]
    assert make_task("multiple-choice", label_names=()) == TASK
    assert TASK.num_outputs == 1
    assert FORMS[TASK.name] == "choices"


def test_the_loss_is_over_a_questions_own_choices() -> None:
    logits = torch.from_numpy(SCORES).double().requires_grad_()
    loss = TASK.loss(logits, torch.tensor([0, 2, 1]))
    first = -torch.log_softmax(torch.tensor([1.0, 2.0], dtype=torch.float64), 0)[0]
    assert float(loss[0].detach()) == pytest.approx(float(first))
    loss.sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, 2] == 0
    assert torch.isfinite(logits.grad).all()


def test_accuracy_and_a_diverged_trial() -> None:
    assert TASK.metrics(np.array([1, 2, 1]), SCORES) == {"accuracy": pytest.approx(2 / 3)}
    broken = np.where(np.float32(ABSENT) == SCORES, SCORES, np.nan)
    assert TASK.decode(broken) == ["A", "A", "A"]
    assert TASK.is_constant(broken)
    assert not TASK.is_constant(SCORES)


def test_the_constant_answer_is_the_most_frequent_place() -> None:
    train = np.array([3, 3, 1, 0])
    answers = TASK.constant(train, np.array([0, 1]))
    assert TASK.decode(answers) == ["D", "D"]
    assert TASK.metrics(np.array([3, 1]), answers)["accuracy"] == 0.5


def test_scores_are_put_together_by_question() -> None:
    examples = Examples(
        ids=[np.arange(1, 2 + i) for i in range(6)],
        type_ids=[np.zeros(1 + i, np.int64) for i in range(6)],
        targets=np.zeros(2, np.int64),
        joints=np.array([0, 2, 6]),
    )
    assert len(examples) == 2
    assert examples.lengths.tolist() == [3, 18]
    assert examples.tokens(1, room=10) == 58
    assert examples.sequences(np.array([1, 0])).tolist() == [2, 3, 4, 5, 0, 1]
    scores = torch.arange(6.0)[:, None]
    whole = examples.logits(scores, np.array([0, 1]))
    assert whole.tolist() == [[0, 1, np.float32(ABSENT), np.float32(ABSENT)], [2, 3, 4, 5]]
    alone = examples.subset(np.array([1]))
    assert [len(row) for row in alone.ids] == [3, 4, 5, 6]
    assert alone.joints is not None
    assert alone.joints.tolist() == [0, 4]
