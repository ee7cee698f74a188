"""transformers' model for a config.json, with parameters on torch's meta device, where they take no memory."""

from pathlib import Path

import torch

from saffron_api.failures import Failure, FailureReason, StageError
from saffron_quantizer.models.attention import ATTENTION
from saffron_quantizer.models.lean_import import lean_import

with lean_import():
    import transformers
    from accelerate import init_empty_weights
    from huggingface_hub.errors import StrictDataclassError
    from transformers import PreTrainedModel
    from transformers.initialization import no_init_weights


def without_weights(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Make the modules of a model. Their buffers are real.

    Args:
        folder: where config.json is.
        dtype: of the parameters.

    Raises:
        StageError: `MODEL_MALFORMED` if transformers can't make sense of the config.
    """
    try:
        with lean_import(), no_init_weights(), init_empty_weights(include_buffers=False):
            config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
            # torch's own attention leaves the cap of attention logits out, and says nothing.
            capped = getattr(config, "attn_logit_softcapping", None) is not None
            model: PreTrainedModel = transformers.AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation="eager" if capped else "sdpa"
            )
        if not capped:
            # Only now, so that a model that does not run with torch's own attention is refused for that.
            model.config._attn_implementation = ATTENTION  # noqa: SLF001 - what transformers looks at in every call
    except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as error:
        raise StageError(Failure(reason=FailureReason.MODEL_MALFORMED, subject="config.json")) from error
    return model.eval()
