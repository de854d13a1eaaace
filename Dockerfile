# dnachunker with CUDA kernels; the container runs as a user who is not root.
#   docker build -t dnachunker:0.1.0 .
# flash-attn, mamba-ssm and causal-conv1d are compiled in the first image, which has the CUDA toolkit. The second image
# takes the installed packages and has no toolkit.
FROM nvidia/cuda:12.8.1-devel-ubuntu24.04 AS build
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv python3-dev build-essential git \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/dnachunker
ENV PATH=/opt/dnachunker/bin:$PATH PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY . .
# the CUDA extras are compiled against the installed torch, so torch comes first
RUN pip install 'setuptools>=77' wheel packaging ninja && pip install . \
    && pip install --no-build-isolation '.[cuda,s3]'

FROM nvidia/cuda:12.8.1-runtime-ubuntu24.04
# Triton needs a C compiler for the code that starts a kernel; `launch --on hosts` needs ssh
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv python3-dev gcc libc6-dev \
    openssh-client \
    && rm -rf /var/lib/apt/lists/* && useradd --create-home --uid 1001 dnachunker
COPY --from=build /opt/dnachunker /opt/dnachunker
ENV PATH=/opt/dnachunker/bin:$PATH PYTHONUNBUFFERED=1
USER 1001
WORKDIR /home/dnachunker
ENTRYPOINT []
CMD ["dnachunker", "--help"]
