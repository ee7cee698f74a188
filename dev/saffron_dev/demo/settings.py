"""What the demo and the e2e tests are told through the environment, checked before anything is created."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from saffron_dev.errors import DevError

OUR_STORAGE_CLASS = "saffron-dev"
OUR_IMAGE_PREFIX = "localhost/saffron-"
OUR_TAG = "dev"


@dataclass(frozen=True)
class Settings:
    """Which cluster, and what it offers."""

    kubeconfig: Path | None
    """A cluster of someone else's, or None for our own, which the demo starts."""
    image_prefix: str
    """An image is named PREFIX + operator|quantizer|engine + : + TAG."""
    tag: str
    storage_class: str
    """A class with ReadWriteMany volumes."""
    gpu: bool
    """Whether one candidate's Jobs ask for an nvidia.com/gpu, and so compute on it."""
    transformers: bool = False
    """Whether to serve with `transformers serve` even where vLLM would do, as on a processor without AVX512."""

    def image(self, target: str) -> str:
        """Return the full name of one of our images."""
        return f"{self.image_prefix}{target}:{self.tag}"


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Read KUBECONFIG and what must come with it, and SAFFRON_ENGINE.

    Raises:
        DevError: KUBECONFIG names a cluster, and something that we can't know of it is missing or makes no sense; or
            SAFFRON_ENGINE is something else than transformers.
    """
    engine = environment.get("SAFFRON_ENGINE", "")
    if engine not in {"", "transformers"}:
        raise DevError(f"SAFFRON_ENGINE is {engine!r}; it must be transformers, or unset for what the processor runs.")
    if not environment.get("KUBECONFIG"):
        return Settings(
            kubeconfig=None,
            image_prefix=OUR_IMAGE_PREFIX,
            tag=OUR_TAG,
            storage_class=OUR_STORAGE_CLASS,
            gpu=False,  # those of our own node are only counted
            transformers=bool(engine),
        )
    kubeconfig = Path(environment["KUBECONFIG"])
    if not kubeconfig.is_file():
        raise DevError(f"KUBECONFIG names {kubeconfig}, which is not a file; unset it to use a cluster of our own.")
    needed = {
        "SAFFRON_IMAGE_PREFIX": "where the images are pushed, as in registry.example.com/saffron-",
        "SAFFRON_STORAGE_CLASS": "a storage class with ReadWriteMany volumes",
        "SAFFRON_GPU": "1 if a node offers nvidia.com/gpu, else 0",
    }
    missing = [f"{name} ({meaning})" for name, meaning in needed.items() if not environment.get(name)]
    if missing:
        raise DevError(f"KUBECONFIG names a cluster, so these must be set, too: {'; '.join(missing)}.")
    if environment["SAFFRON_GPU"] not in {"0", "1"}:
        raise DevError(f"SAFFRON_GPU is {environment['SAFFRON_GPU']!r}; it must be 0 or 1.")
    return Settings(
        kubeconfig=kubeconfig,
        image_prefix=environment["SAFFRON_IMAGE_PREFIX"],
        tag=environment.get("SAFFRON_IMAGE_TAG", OUR_TAG),
        storage_class=environment["SAFFRON_STORAGE_CLASS"],
        gpu=environment["SAFFRON_GPU"] == "1",
        transformers=bool(engine),
    )
