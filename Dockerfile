# One image a role; only the worker's holds torch. Build with compose.yaml.
FROM python:3.11-slim AS base
WORKDIR /srv/llm-bench
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --create-home llm-bench
COPY pyproject.toml constraints.txt README.md ./
COPY events events
COPY app app
COPY consumers consumers
COPY embedded embedded

FROM base AS app
RUN pip install --constraint constraints.txt '.[app]'
USER llm-bench
CMD ["python", "-m", "app"]

FROM base AS projection
RUN pip install --constraint constraints.txt '.[projection]'
USER llm-bench
CMD ["python", "-m", "consumers.projection"]

# TORCH_INDEX: an extra package index, such as PyTorch's own of builds without CUDA, for a smaller image.
FROM base AS worker
ARG TORCH_INDEX=""
RUN PIP_EXTRA_INDEX_URL="$TORCH_INDEX" pip install --constraint constraints.txt '.[inference]'
RUN mkdir -p /home/llm-bench/.cache/huggingface && chown -R llm-bench /home/llm-bench/.cache
USER llm-bench
CMD ["python", "-m", "consumers.inference"]
