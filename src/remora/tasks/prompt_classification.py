"""Prompt classification: the class whose words a causal language model finds likeliest behind the prompt."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from remora.data.kinds import TaskName
from remora.tasks.classification import Classification

if TYPE_CHECKING:
    from remora.models.head_steps import HeadKind

# B prompts, W tokens of an answer, U tokens of all answers, K classes
_NO_ROW = -1


@dataclass(frozen=True, kw_only=True)
class PromptClassification(Classification):
    """One class per prompt. A logit is the log-likelihood of a class's words, the mean over their tokens.

    Length-normalised, since longer words would lose by their length alone (Brown et al. 2020, "Language models are
    few-shot learners", arXiv:2005.14165, section 2.4). Probabilities of classes are their softmax.
    """

    name: ClassVar[TaskName] = "prompt-classification"
    head: ClassVar["HeadKind"] = "lm"

    def loss(self, logits_BC: torch.Tensor, targets_B: torch.Tensor) -> torch.Tensor:
        """Cross entropy of the right answer's tokens over the whole vocabulary (B,).

        Args:
            logits_BC: log-probabilities: (B, W, U) of all tokens at the rows of the right answer, of which the loss is
                the sum over its rows, as transformers' labels of -100 elsewhere have it; or (B, K) scores of classes,
                of which it is that of the right one.
            targets_B: (B, W) which token is right at each row, -1 where there is none; or (B,) the class.
        """
        if logits_BC.ndim == 2:
            return -logits_BC.gather(1, targets_B[:, None])[:, 0]
        read_BW = targets_B[:, : logits_BC.shape[1]]
        right_BW = logits_BC.gather(2, read_BW.clamp(min=0)[:, :, None])[:, :, 0]
        return -right_BW.where(read_BW != _NO_ROW, 0.0).sum(1)
