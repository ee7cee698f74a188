# The three images of Saffron. Each final stage is one:
#
#   operator    watches QuantizedModels; no torch
#   quantizer   what runs in Jobs: the `saffron` command
#   engine      a model server for the demo and the tests: vLLM on the CPU, and `transformers serve`
#
# All run as user 65532 on a read-only root file system with a writable /tmp. Bytecode is compiled here, since no pod
# could write it: without it each start compiles torch, transformers and vLLM anew. No compiler is in any of them.
# USER names the user to getpass, which kopf and torch ask and which raises where /etc/passwd has no such user; so any
# other user id works, too.
#
# `quantizer` and `engine` share the layer below them, which holds torch and is nearly all of their size. It is made
# from a list exported from uv.lock, so it is built again only when something in that list changes.

ARG BASE=docker.io/library/python:3.11-slim

# ---- What is needed to build, and is in no image.
FROM ${BASE} AS build
# The certificates of a proxy, where there is one: mount them at the same path during the build.
ARG SSL_CERT_FILE
RUN python3 -m venv /uv && /uv/bin/pip install --no-cache-dir ${SSL_CERT_FILE:+--cert $SSL_CERT_FILE} uv==0.13.9
ENV PATH=/uv/bin:$PATH UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never

FROM build AS requirements
WORKDIR /src
COPY pyproject.toml uv.lock ./
COPY crds/pyproject.toml crds/
COPY operator/pyproject.toml operator/
COPY quantizer/pyproject.toml quantizer/
COPY kernels/pyproject.toml kernels/
COPY dev/pyproject.toml dev/
RUN export="uv export --quiet --frozen --no-dev --no-emit-workspace --no-header --no-annotate" \
    && $export --package saffron-operator --output-file /operator.txt \
    && $export --package saffron-quantizer --output-file /quantizer.txt \
    && $export --package saffron-quantizer --group engine --output-file /engine.txt

FROM build AS wheels
ARG SSL_CERT_FILE
WORKDIR /src
COPY crds crds
COPY kernels kernels
COPY operator operator
COPY quantizer quantizer
RUN for member in crds kernels operator quantizer; do uv build --quiet --wheel --out-dir /wheels $member || exit 1; done

# ---- What all three have in common.
FROM ${BASE} AS python
ENV PATH=/opt/saffron/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never UV_COMPILE_BYTECODE=1 VIRTUAL_ENV=/opt/saffron
RUN python3 -m venv --without-pip /opt/saffron

FROM python AS operator
ARG SSL_CERT_FILE
COPY --from=requirements /operator.txt /opt/saffron/requirements.txt
RUN --mount=type=bind,from=build,source=/uv,target=/uv \
    /uv/bin/uv pip install --require-hashes --no-deps -r /opt/saffron/requirements.txt
COPY --from=wheels /wheels/saffron_api-*.whl /wheels/saffron_operator-*.whl /opt/saffron/wheels/
RUN --mount=type=bind,from=build,source=/uv,target=/uv \
    /uv/bin/uv pip install --offline --no-deps /opt/saffron/wheels/*.whl
USER 65532:65532
ENV USER=saffron
ENTRYPOINT ["saffron-operator"]

FROM python AS torch
ARG SSL_CERT_FILE
COPY --from=requirements /quantizer.txt /opt/saffron/requirements.txt
RUN --mount=type=bind,from=build,source=/uv,target=/uv \
    /uv/bin/uv pip install --require-hashes --no-deps -r /opt/saffron/requirements.txt

# What Triton would compile on a machine with a card before its first kernel, by a compiler that is in no image. Python's
# headers are Debian's own where its Python is.
FROM torch AS triton-driver
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && include=$(python -c 'import sysconfig; print(sysconfig.get_paths()["include"])') \
    && { test -e "$include/Python.h" || apt-get install --yes --no-install-recommends python3-dev; } \
    && rm -rf /var/lib/apt/lists/*
COPY --from=wheels /wheels/saffron_kernels-*.whl /wheels/
RUN --mount=type=bind,from=build,source=/uv,target=/uv \
    /uv/bin/uv pip install --offline --no-deps /wheels/*.whl \
    && python -m saffron_kernels.triton_driver /triton-driver

FROM torch AS quantizer
COPY --from=wheels /wheels/saffron_api-*.whl /wheels/saffron_kernels-*.whl /wheels/saffron_quantizer-*.whl /opt/saffron/wheels/
# Loops are compiled here, too, for the processors that a Job may meet, since each Job's pod begins with an empty /tmp.
# What is made for its processor is copied to NUMBA_CACHE_DIR; on one of another kind, loops are compiled into it.
RUN --mount=type=bind,from=build,source=/uv,target=/uv \
    /uv/bin/uv pip install --offline --no-deps /opt/saffron/wheels/*.whl \
    && python -m saffron_kernels.precompile
COPY --from=triton-driver /triton-driver /opt/saffron/triton-driver
RUN ln -s /opt/saffron/triton-driver "$(python -c 'from saffron_kernels.triton_driver import PRECOMPILED as p; print(p)')"
USER 65532:65532
# Threads that spin while they wait would take the cores from the model that is served on the same node.
ENV USER=saffron OMP_WAIT_POLICY=PASSIVE NUMBA_CACHE_DIR=/tmp/numba
# CUDA's libraries are in the layer below, the card's driver is the node's: NVIDIA's container toolkit mounts what of it
# is named here, and some clusters mount all of it there and leave it to the image to look.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility LD_LIBRARY_PATH=/usr/local/nvidia/lib64
CMD ["saffron", "--help"]

FROM torch AS engine
ARG SSL_CERT_FILE
# vLLM's CPU build links libnuma.
RUN apt-get update && apt-get install --yes --no-install-recommends libnuma1 && rm -rf /var/lib/apt/lists/*
COPY --from=requirements /engine.txt /opt/saffron/requirements.txt
RUN --mount=type=bind,from=build,source=/uv,target=/uv \
    /uv/bin/uv pip install --require-hashes --no-deps -r /opt/saffron/requirements.txt
USER 65532:65532
# vLLM compiles one function of its sampler even where it is told to compile nothing, and with no compiler here the first
# request for log-probabilities would end the server. torch runs it as it is written instead.
ENV USER=saffron TORCHDYNAMO_DISABLE=1
CMD ["python", "-m", "vllm.entrypoints.openai.api_server", "--help"]
