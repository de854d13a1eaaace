# dnachunker with CUDA kernels, run by a user who is not root.
#   docker build -t dnachunker:0.1.0 .
# flash-attn, mamba-ssm and causal-conv1d are compiled here: the first stage has the CUDA toolkit, the second has not.
FROM nvidia/cuda:12.8.1-devel-ubuntu24.04 AS build
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv python3-dev build-essential git \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/dnachunker
ENV PATH=/opt/dnachunker/bin:$PATH PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY . .
# the CUDA extras build against the torch that is installed first
RUN pip install 'setuptools>=77' wheel packaging ninja && pip install . \
    && pip install --no-build-isolation '.[cuda,s3]'

FROM nvidia/cuda:12.8.1-runtime-ubuntu24.04
# Triton compiles the few lines that start a kernel with the machine's C compiler; `launch --on hosts` uses ssh
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv python3-dev gcc libc6-dev \
    openssh-client \
    && rm -rf /var/lib/apt/lists/* && useradd --create-home --uid 1001 dnachunker
COPY --from=build /opt/dnachunker /opt/dnachunker
ENV PATH=/opt/dnachunker/bin:$PATH PYTHONUNBUFFERED=1
USER 1001
WORKDIR /home/dnachunker
ENTRYPOINT []
CMD ["dnachunker", "--help"]
