"""How a study asks for summaries: its template filled with an instruction, and what is worth knowing of references."""

from dataclasses import replace

from remora.config.schema import GenerationConfig, PromptConfig
from remora.data.dataset import Dataset, Note
from remora.data.summaries import usual_sentences
from remora.data.summary_prompts import SummaryEncoder
from remora.engine.summarized import summary_encoder
from remora.errors import ConfigError, ModelError
from remora.models.base import Base
from remora.study.prompting import OWN, bare_prompt
from remora.tasks.rouge import rouge_f1


def study_summaries(
    config: PromptConfig, generation: GenerationConfig, dataset: Dataset, base: Base
) -> tuple[SummaryEncoder, Dataset]:
    """Put together how a study asks its language model for summaries, before anything is computed.

    Args:
        config: the settings of prompts.
        generation: for the longest summary.
        dataset: checked and split.
        base: a causal language model or an encoder-decoder, for its tokenizer and perhaps its chat template.

    Returns:
        The tokenizer of prompts and summaries, and the data with notes on both.

    Raises:
        ConfigError: a template without a field, or with one that the data lack; or summaries longer than a decoder has
            positions for.
        ModelError: the base writes no text; no chat template where one is asked for, or one that fails; or no token
            that begins or ends a summary.
        ResourceError: the package that scores summaries is not installed.
    """
    rouge_f1((), ())  # else it would be missed when the first trial is trained
    if not (base.arch.causal or base.arch.encoder_decoder):
        raise ModelError(
            f"{base.name} ({base.arch.model_type}) is neither a causal language model nor an encoder-decoder, so it"
            " writes no summaries",
            "choose one, such as smollm2 or facebook/bart-base",
        )
    num = usual_sentences(dataset.train.labels)
    length = "one sentence" if num == 1 else f"{num} sentences"
    instruction = config.instruction or f"Summarize the text in {length}."
    prompt = bare_prompt(config, instruction, dataset, base, {})
    if base.arch.encoder_decoder and generation.max_new_tokens > base.max_positions:
        raise ConfigError(
            f"generation.max_new_tokens={generation.max_new_tokens}: the decoder of {base.name} has"
            f" {base.max_positions} positions",
            f"lower it to {base.max_positions} or less",
        )
    encoder = summary_encoder(base, prompt, generation.max_new_tokens)
    if prompt.template == OWN:
        around = f"behind {prompt.parts[0]!r}" if isinstance(prompt.parts[0], str) else "as it is"
        message = f"the encoder reads each text {around}"
    else:
        shown = prompt.template if len(prompt.template) < 40 else "of the study's own"
        message = f"a language model is asked for summaries in prompts: template {shown}, instruction {instruction!r}"
    notes = [Note(kind="prompts", message=message, count=len(dataset.train))]
    for name in ("train", "validation"):
        num_cut = encoder.encode_summaries(dataset.splits[name].labels).num_cut
        if num_cut:
            message = f"{num_cut} of {len(dataset.splits[name])} summaries of {name} are longer than "
            message += (
                f"{generation.max_new_tokens} tokens (generation.max_new_tokens); of these the beginning is learnt"
            )
            notes.append(Note(kind="cut-summaries", message=message, count=num_cut))
    return encoder, replace(dataset, notes=(*dataset.notes, *notes))
