"""`saffron generate`: let a model go on with prompts."""

import argparse
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

from saffron_api.failures import ExitCode
from saffron_quantizer.cli.options import add_device, add_folder, device_of, whole_number
from saffron_quantizer.cli.outcome import told_failures
from saffron_quantizer.cli.progress import duration
from saffron_quantizer.cli.streams import mention, say
from saffron_quantizer.cli.subcommand import add_command
from saffron_quantizer.data.lines import Chat, Text, Turn
from saffron_quantizer.readable import size

if TYPE_CHECKING:
    from saffron_quantizer.cli.subcommand import Commands
    from saffron_quantizer.data.tokenizer import Tokenizer
    from saffron_quantizer.generate import Completion

_ABOUT = """Load a model, or a checkpoint that `saffron quantize` wrote, and let it go on with prompts, one after the
other. Linears compute from the stored codes with Saffron's own kernels, and round their inputs as engines do. The text
is printed as it comes; how fast it came is told on stderr."""


def add_to(commands: "Commands") -> None:
    """Add the subcommand."""
    parser = add_command(
        commands,
        "generate",
        summary="let a model go on with prompts",
        about=_ABOUT,
        run=told_failures(_run),
        resumes=False,
    )
    add_folder(parser, what="the model or checkpoint")
    parser.add_argument(
        "--prompt",
        type=_whole_text,
        action="append",
        default=[],
        metavar="TEXT",
        help="a text to go on with; may be given several times (default: none, and --prompts is needed)",
    )
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help='a file with more prompts, JSONL: each line an object with "text", "prompt" or "messages"; messages are '
        "written by the model's chat template up to where the next answer begins (default: none)",
    )
    parser.add_argument(
        "--chat",
        action="store_true",
        help="take each --prompt for a user's message, and write it by the chat template (default: as it is)",
    )
    _add_sampling(parser)
    add_device(parser, otherwise="cuda where torch finds a GPU, else cpu")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one line of JSON a prompt when it is done: the text, its tokens, the gap between the two largest "
        "logits at each of them, why it ended, and seconds (default: the text as it comes)",
    )


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-new-tokens",
        type=whole_number(1, 131_072),
        default=128,
        metavar="N",
        help="tokens after which a text ends, if the model does not end it before, 1 to 131072 (default: %(default)s)",
    )
    parser.add_argument(
        "--temperature",
        type=_temperature,
        default=0.0,
        metavar="T",
        help="0 takes the most likely token each time. Above 0 each is drawn, with logits divided by T: 1 is what the "
        "model says, less is nearer to the most likely (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=whole_number(0, 2**31 - 1),
        default=0,
        metavar="N",
        help="of the draws, and the same for each prompt, 0 to 2147483647 (default: %(default)s)",
    )


def _whole_text(text: str) -> str:
    """Read a text that has all its characters: what of an argument is not in the locale's encoding is none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        told = "it is not UTF-8; where the locale is another one, set PYTHONUTF8=1 or give --prompts"
        raise argparse.ArgumentTypeError(told) from error
    return text


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0")
    return value


def _run(arguments: argparse.Namespace) -> int:
    if not arguments.prompt and arguments.prompts is None:
        arguments.refuse("one of --prompt and --prompts is needed")
    # Torch takes seconds that --help need not wait for.
    import torch  # noqa: PLC0415

    from saffron_quantizer.data.tokenizer import Tokenizer  # noqa: PLC0415
    from saffron_quantizer.generate import Sampling, complete  # noqa: PLC0415
    from saffron_quantizer.models.whole import WholeModel  # noqa: PLC0415

    device = device_of(arguments, otherwise="cuda" if torch.cuda.is_available() else "cpu")
    sampling = Sampling(arguments.max_new_tokens, arguments.temperature, arguments.seed)
    tokenizer = Tokenizer(arguments.model)
    prompts = _prompts(arguments, tokenizer)
    begun = time.monotonic()
    model = WholeModel.open(arguments.model, device)
    took = duration(time.monotonic() - begun)
    mention(f"{size(model.bytes)} of weights read in {took}; computing in {model.dtype} on {device.type}")
    for number, prompt in enumerate(prompts, start=1):
        if len(prompts) > 1:
            mention(f"prompt {number} of {len(prompts)}, {len(prompt)} tokens")
        try:
            completion = complete(model, tokenizer, prompt, sampling, _ignore if arguments.json else _print)
        except KeyboardInterrupt:
            say("", end="" if arguments.json else "\n")
            raise
        say(_json(len(prompt), completion) if arguments.json else "")
        mention(_speed(len(prompt), completion))
    return ExitCode.DONE


def _prompts(arguments: argparse.Namespace, tokenizer: "Tokenizer") -> list[tuple[int, ...]]:
    """The tokens of each prompt, those of the command line first."""
    from saffron_quantizer.data.tokenizer import NoChatTemplateError  # noqa: PLC0415 as above
    from saffron_quantizer.generate import read_prompts  # noqa: PLC0415

    given = [Chat((Turn("user", text),)) if arguments.chat else Text(text) for text in arguments.prompt]
    try:
        own = [tokenizer.encode_prompt(each) for each in given]
    except NoChatTemplateError:
        arguments.refuse("--chat: the model's tokenizer has no chat template")
    return own if arguments.prompts is None else [*own, *read_prompts(arguments.prompts, tokenizer)]


def _print(text: str) -> None:
    say(text, end="")


def _ignore(text: str) -> None:
    """Wait for the whole."""


def _json(prompt_tokens: int, completion: "Completion") -> str:
    return json.dumps(
        {
            "text": completion.text,
            "promptTokens": prompt_tokens,
            "tokens": [step.token for step in completion.steps],
            "gaps": [round(step.gap, 4) for step in completion.steps],
            "ended": "StopToken" if completion.steps[-1].stops else "MaxNewTokens",
            "promptSeconds": round(completion.prompt_seconds, 4),
            "seconds": round(completion.seconds, 4),
        },
        ensure_ascii=False,
    )


def _speed(prompt_tokens: int, completion: "Completion") -> str:
    """How fast the prompt was read, and how fast tokens came after the first."""
    told = f"{prompt_tokens} tokens of prompt in {completion.prompt_seconds:.2f} s"
    later = len(completion.steps) - 1
    return f"{told}, then {later / completion.seconds:.1f} tokens a second" if later else told
