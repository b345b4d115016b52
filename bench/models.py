"""Where the base models lie, as the folders that transformers reads."""

from remora.models.files import resolve
from remora.models.gguf import converted_gguf

TARGETS = {"bert": ["query", "value"], "llama": ["q_proj", "v_proj"]}
"""What peft calls query and value, by model type."""


def model_folder(name: str) -> str:
    """The folder of an alias or path; a GGUF file is first dequantised to float32, as Remora does with it.

    Raises:
        ModelError: neither a folder nor a file nor the alias of an installed package.
    """
    files = resolve(name)
    return str(files.folder if files.gguf is None else converted_gguf(files.gguf, name))
